"""`StoppedCrawl`: a crawl on which no master works, and the changes that commands make to it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from crawler.frontier.ledger.integrity import telling_damage
from crawler.frontier.offline.edit_records import RecordEdit, editing_records
from crawler.frontier.offline.refresh import RefreshResult, renew
from crawler.frontier.offline.requeue import RequeueResult, requeue_failed, requeue_lost
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.maintenance.retry_reasons import TEMPORARY, reason_filter
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.manifest import ManifestWriter


class StoppedCrawl:
    """The database and the manifest of a crawl whose directory this process has locked.

    Database and manifest agree even after a kill: the manifest is cut to the unchanged records before a record is
    changed or deleted, and rewritten afterwards. Each method raises `DiskError` if a file can't be read or written, or
    if the database is damaged.
    """

    def __init__(self, directory: CrawlDirectory) -> None:
        self.directory = directory
        self.manifest = ManifestWriter(directory.path)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn errors that invalid values of the database cause into `DiskError`."""
        with telling_damage(self.directory.database, is_opening=True):
            yield

    def retry(self, reasons: frozenset[str], *, patience: float) -> RequeueResult:
        """Requeue the requests that failed for these reasons; without reasons, for temporary ones.

        The caller rewrites the manifest afterwards. ``patience``: see `requeue_failed`, in seconds.
        """
        is_meant, before = reason_filter(reasons or TEMPORARY), self.manifest.cut
        with self.reading():
            path = self.directory.database
            return requeue_failed(path, is_meant, patience=patience, wall=time.time(), before=before)

    def requeue_lost(self, is_lost: Callable[[str, str], bool]) -> int:
        """Requeue the images whose record names a lost file, given by store and path. Return their number.

        The caller rewrites the manifest afterwards.
        """
        with self.reading():
            return requeue_lost(self.directory.database, is_lost, wall=time.time(), before=self.manifest.cut)

    def refresh(self) -> RefreshResult:
        """Start a refresh, or continue one that has not finished."""
        with self.reading():
            return renew(self.directory.database)

    @contextmanager
    def records(self) -> Iterator[RecordEdit]:
        """Open the records to edit them."""
        with self.reading(), editing_records(self.directory.database) as edit:
            yield edit

    @contextmanager
    def frontier(self) -> Iterator[SqliteFrontier]:
        """Open the frontier, without settings, to read records and to move files to other stores."""
        with self.reading():
            frontier = SqliteFrontier(self.directory.database, Policy())
        try:
            with telling_damage(self.directory.database):
                yield frontier
        finally:
            frontier.close()

    def close(self) -> None:
        """Close the manifest."""
        self.manifest.close()


@contextmanager
def stopped_crawl(path: Path, advice: str = "") -> Iterator[StoppedCrawl]:
    """Lock the directory of a stopped crawl.

    Raises:
        ConfigError: the directory has no crawl; the message ends with ``advice``.
        DiskError: another process is at work in it.
    """
    directory = CrawlDirectory(path)
    directory.require(advice)
    release = directory.own()
    try:
        crawl = StoppedCrawl(directory)
        try:
            yield crawl
        finally:
            crawl.close()
    finally:
        release()
