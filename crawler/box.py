"""A downloader box: what works for a master, on its machine or on another."""

import logging
import platform
import re
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from msgspec import to_builtins

from crawler import __version__
from crawler.config import CrawlConfig
from crawler.download.downloader import Downloader
from crawler.engines.client import RemoteFrontier
from crawler.engines.join import read_join
from crawler.errors import DiskError
from crawler.fetcher import Limits
from crawler.frontier.base import PROTOCOL, Frontier
from crawler.harvest.filters import build_filters
from crawler.harvest.finds import Rules
from crawler.harvest.harvester import Harvester
from crawler.harvest.lists import ListReader
from crawler.lock import try_to_own
from crawler.model import About, GrantState, Kind
from crawler.robots import RobotsHandler
from crawler.shelf import Shelf, shelf_for
from crawler.storage import LocalStore, disk_faults
from crawler.transport import RequestsFetcher
from crawler.worker import Handler, Worker, WorkerProgress, WorkerSettings

_log = logging.getLogger(__name__)

#: Threads that walk pages; hosts set the pace, and parsing is the interpreter's work.
_HARVEST_THREADS = 8
#: Downloaders that may share a directory.
MAX_SLOTS = 64
#: Seconds for which a downloader of a master that was killed may still finish what it has under way.
_ORPHAN_SECONDS = 30.0


class Download:
    """A downloader box: works for the master that a join file names until the crawl is over.

    Args:
        join: the join file.
        output: directory in which pictures are saved.
        config: this box's settings; all others come from the master.
        connect: ``host:port`` to use instead of the join file's addresses.
        slot: number of this process among those that share the directory; None: the first that is free.
        on_wait: told about every pause: seconds left, reason.
    """

    def __init__(
        self,
        join: Path,
        output: Path,
        config: CrawlConfig,
        *,
        connect: str | None = None,
        slot: int | None = None,
        on_wait: Callable[[float, str], None] | None = None,
    ) -> None:
        self._output, self._config, self._slot = output, config, slot
        self.name = "download"
        #: How it ended; None while it works.
        self.state: GrantState | None = None
        self._stop = threading.Event()
        self._worker: Worker | None = None
        known = read_join(join)
        known = known.at(connect) if connect else known
        self._frontier = RemoteFrontier(known, wait=config.box.wait, on_wait=on_wait, stop=self._stop)

    def run(self) -> GrantState:
        """Returns ``drained`` when the crawl is over, ``draining`` when the master or we were told to stop.

        Raises:
            CrawlerError: the disk, the master, or the key.
        """
        store = LocalStore(self._output)
        with disk_faults(self._output):
            self._output.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.callback(self._frontier.close)
            slot, release = self._take_slot()
            stack.callback(release)
            name = worker_name(store, slot)
            settings = self._frontier.hello(name, PROTOCOL, about_this_box())
            release = settings.pop("release", __version__)
            if release != __version__:
                _log.warning(
                    "the master is of release %s, this downloader of %s; both understand", release, __version__
                )
            own = {"box": to_builtins(self._config.box)}
            config = CrawlConfig.load(("the master's settings", settings), ("this box", own))
            shelf = self._take_shelf(config, name, slot)
            self._worker, fetcher = build_downloader(name, self._frontier, config, shelf)
            stack.callback(fetcher.close)
            self.state = "draining" if self._stop.is_set() else self._worker.run()
            return self.state

    def _take_shelf(self, config: CrawlConfig, name: str, slot: int) -> Shelf:
        """The place for pictures; what an earlier life could not tell any more is told now."""
        shelf = shelf_for(LocalStore(self._output, durability=config.download.durability), name, slot)
        if outcomes := shelf.unsettled():
            shelf.keep(outcomes)
            shelf.settle(outcomes, self._frontier.complete(name, outcomes, ()))
        return shelf

    def _take_slot(self) -> tuple[int, Callable[[], None]]:
        """A number, and thereby a worker's name, that no other living process of this directory has.

        A worker that joins frees what its name held before: with a living one's name, its work would be done twice.
        """
        slots = range(MAX_SLOTS) if self._slot is None else [self._slot]
        patience = 0.0 if self._slot is None else _ORPHAN_SECONDS
        for slot in slots:
            release = try_to_own(self._output, name=f".lock-{slot}", patience=patience)
            if release is not None:
                return slot, release
        raise DiskError(f"other downloaders are at work in {self._output}; choose another directory with -o")

    def stop(self) -> None:
        """Finish what is under way, give the rest back."""
        self._stop.set()
        if self._worker is not None:
            self._worker.stop()

    def abort(self) -> None:
        """Stop, and cut what is under way."""
        self._stop.set()
        if self._worker is not None:
            self._worker.abort()

    @property
    def progress(self) -> WorkerProgress:
        return self._worker.progress if self._worker is not None else WorkerProgress()


def worker_settings(config: CrawlConfig, *, threads: int) -> WorkerSettings:
    """A worker's part of the settings."""
    return WorkerSettings(threads=threads, lease=config.queue.lease, request=config.fetch.total_timeout)


def build_fetcher(config: CrawlConfig) -> RequestsFetcher:
    """A fetcher that keeps the time-outs of the settings; no request outlives half a lease."""
    fetch = config.fetch
    limits = Limits(
        connect=fetch.connect_timeout,
        first_byte=fetch.first_byte_timeout,
        total=min(fetch.total_timeout, config.queue.lease / 2),
    )
    return RequestsFetcher(limits, config.politeness.agent, contact=config.politeness.contact)


def build_harvester(name: str, frontier: Frontier, config: CrawlConfig) -> tuple[Worker, RequestsFetcher]:
    """A worker that walks pages and reads lists, and the fetcher that its owner closes."""
    harvest, agent = config.harvest, config.politeness.agent
    fetcher = build_fetcher(config)
    pages, images = build_filters(harvest.include, harvest.exclude)
    rules = Rules(
        scope=harvest.scope, max_depth=harvest.depth, candidates=harvest.candidates, pages=pages, images=images
    )
    harvester = Harvester(
        fetcher,
        rules,
        max_page_bytes=harvest.max_page_bytes,
        parser=harvest.parser,
        lazy=harvest.lazy,
        agent=agent,
    )
    robots = RobotsHandler(fetcher, agent, tdm=config.politeness.tdmrep)
    handlers: dict[Kind, Handler] = {"page": harvester, "robots": robots, "list": ListReader()}
    settings = worker_settings(config, threads=_HARVEST_THREADS)
    return Worker(name, frontier, handlers, settings, abort=fetcher.abort), fetcher


def build_downloader(
    name: str, frontier: Frontier, config: CrawlConfig, shelf: Shelf
) -> tuple[Worker, RequestsFetcher]:
    """A worker that puts pictures on ``shelf``, and the fetcher that its owner closes."""
    download = config.download
    fetcher = build_fetcher(config)
    downloader = Downloader(
        fetcher,
        shelf.store,
        types=frozenset(download.types) or None,
        max_bytes=download.max_bytes,
        min_size=download.min_size,
        agent=config.politeness.agent,
    )
    robots = RobotsHandler(fetcher, config.politeness.agent, tdm=config.politeness.tdmrep)
    handlers: dict[Kind, Handler] = {"image": downloader, "robots": robots}
    settings = worker_settings(config, threads=config.box.threads)
    return Worker(name, frontier, handlers, settings, keeper=shelf, abort=fetcher.abort), fetcher


def about_this_box() -> About:
    """What a downloader says of its box when it joins."""
    system = " ".join(part for part in (platform.system(), platform.release().partition("-")[0]) if part)
    python = platform.python_version()
    words = (re.sub(r"[^ -~]", "?", text)[:64] for text in (__version__, system, python))
    release, system, python = words
    return About(release=release, system=system, python=python, wall=time.time())


def worker_name(store: LocalStore, slot: int) -> str:
    """Name of the worker that saves into a store: the same in its next life."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", platform.node())[:64] or "box"
    return f"{host}/{store.id[:8]}-{slot}"
