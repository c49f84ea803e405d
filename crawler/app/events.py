"""Events of a crawl for the user, and the views that show them. The sentences for them are in `crawler.cli`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from crawler.app.orders import MasterOrder
from crawler.frontier.offline.refresh import RefreshResult
from crawler.frontier.offline.requeue import RequeueResult
from crawler.model import ImageRecord
from crawler.stats import FrontierStats, WorkerStats

_log = logging.getLogger(__name__)


class CrawlResumed(Struct, frozen=True):
    """A crawl continues with the counts of its earlier runs."""

    directory: Path
    #: Number of images that were saved, that failed, and of requests that wait.
    saved: int
    failed: int
    waiting: int


class SourcesAdded(Struct, frozen=True):
    """A resumed crawl has got further seeds or lists. The user may have meant another crawl."""

    directory: Path
    #: The first seed or list of the crawl, and the new ones.
    first: str
    added: tuple[str, ...]


class FailuresRequeued(Struct, frozen=True):
    """`crawler retry` has requeued failed requests; ``reasons`` are those of ``--only``."""

    result: RequeueResult
    reasons: frozenset[str]


class RefreshStarted(Struct, frozen=True):
    """A refresh has started, or continues."""

    result: RefreshResult


class PinsLoaded(Struct, frozen=True):
    """The pins of a file are in effect."""

    file: str
    #: Number of pinned URLs, and of rows that were skipped because they have no valid URL and SHA-256.
    pins: int
    skipped: int


class PinsRemoved(Struct, frozen=True):
    """Pictures are no longer compared with a manifest."""


class QueueListening(Struct, frozen=True):
    """A master waits for downloaders."""

    #: Host and port on which it listens.
    address: tuple[str, int]
    join: Path
    #: The first address in the join file, ``host:port``.
    advertised: str


class WorkerJoined(Struct, frozen=True):
    """A downloader has joined."""

    worker: WorkerStats


class OrderTaken(Struct, frozen=True):
    """The master carries out an order of the user."""

    order: MasterOrder


class CrawlStopping(Struct, frozen=True):
    """The crawl ends when the downloads in progress are finished."""


Event = (
    CrawlResumed
    | SourcesAdded
    | FailuresRequeued
    | RefreshStarted
    | PinsLoaded
    | PinsRemoved
    | QueueListening
    | WorkerJoined
    | OrderTaken
    | CrawlStopping
)


class View(Protocol):
    """Shows the progress of a crawl."""

    def update(self, stats: FrontierStats) -> None:
        """Show the current counts; called a few times a second."""
        ...

    def results(self, records: Sequence[ImageRecord]) -> None:
        """Show image URLs that have just been settled."""
        ...

    def event(self, event: Event) -> None:
        """Show an event."""
        ...


class NullView:
    """A view that shows nothing and logs the events."""

    def update(self, stats: FrontierStats) -> None:
        pass

    def results(self, records: Sequence[ImageRecord]) -> None:
        pass

    def event(self, event: Event) -> None:
        _log.info("%s", event)
