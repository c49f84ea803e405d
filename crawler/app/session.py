"""`Session`: opens all that a master works with, in order, and closes it in the reverse order."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from threading import Event as Flag
from types import TracebackType
from typing import Self

from crawler.app.assembly import build_downloads, build_harvest
from crawler.app.config import CrawlConfig, policy
from crawler.app.events import CrawlResumed, QueueListening, SourcesAdded, View
from crawler.app.master_frontier import MasterFrontier
from crawler.app.pins import load_pins
from crawler.app.seeds import name_of_source, places_of_seeds
from crawler.app.summary import EarlierRun
from crawler.engines.base import Engine, RemoteEngine, StartProcess
from crawler.errors import CrawlerError
from crawler.frontier.ledger.integrity import IntegrityCheck, damaged
from crawler.maintenance.stopped_crawl import StoppedCrawl
from crawler.model import Request
from crawler.net.address_guard import Guard
from crawler.queue.join_file import read_join
from crawler.queue.serve import serve
from crawler.stats import SavedCounts
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.disk import write_file
from crawler.store.full_disk_pause import DiskPause
from crawler.store.local import LocalStore
from crawler.store.manifest import ManifestWriter
from crawler.version import __version__

#: Maximum seconds that the start waits for a check of the database, which then continues in the background.
_HEAD_START = 0.25
_log = logging.getLogger(__name__)

#: Records read from the frontier at a time.
_PAGE = 1_000
#: Longest time in seconds that the master waits for the threads or processes of an engine to end.
_ENGINE_SECONDS = 10.0


class Session:
    """One run of a master: its locked directory, frontier, record files, queue server and engines.

    Args:
        directory: the directory of the crawl; created if it is missing, resumed if it has a crawl.
        config: all settings.
        view: gets the events.
        disk: pauses the crawl while the disk is unavailable.
        stopping: set when the user stops the crawl.
        popen: starts a downloader process.
    """

    def __init__(
        self,
        directory: CrawlDirectory,
        config: CrawlConfig,
        view: View,
        disk: DiskPause,
        stopping: Flag,
        popen: StartProcess,
    ) -> None:
        self._directory, self._config, self._view = directory, config, view
        self._disk, self._stopping, self._popen = disk, stopping, popen
        self._guard = Guard(allow_private=config.machine.allow_private)
        self._stack = ExitStack()
        self._frontier: MasterFrontier | None = None
        self.is_resumed = False
        #: The state of a resumed crawl before this run; None for a new crawl.
        self.before: EarlierRun | None = None
        #: Whether this process starts the downloaders.
        self.downloads_here = True
        self.engines: tuple[Engine, ...] = ()
        self.unmatched: Callable[[], tuple[str, ...]] = tuple
        self._recorder: _Recorder | None = None
        self.check: IntegrityCheck

    @property
    def frontier(self) -> MasterFrontier:
        """The frontier, once `open_frontier` has been called."""
        if self._frontier is None:
            raise RuntimeError("the frontier is not open yet")
        return self._frontier

    @property
    def is_open(self) -> bool:
        """Whether the frontier has been opened."""
        return self._frontier is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    @property
    def saved(self) -> SavedCounts:
        """The number and bytes of the images that this run has saved."""
        return self._recorder.saved if self._recorder is not None else SavedCounts()

    def append_records(self) -> None:
        """Append new records to the record files and show them, if `open_queue` was called. Raises `DiskError`."""
        if self._recorder is not None:
            self._recorder.append()

    # opening ------------------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Create and lock the directory, remove unfinished files, and start the check of the database."""
        directory = self._directory
        self.is_resumed = directory.exists()
        directory.create()
        self._stack.callback(directory.own())
        if self.is_resumed and not directory.database.stat().st_size and directory.settings.exists():
            raise damaged(directory.database, "it is empty")  # a new crawl would overwrite the manifest
        LocalStore(directory.path).clear_parts()
        self.check = IntegrityCheck(directory.database)
        self._stack.callback(self.check.stop)

    def stopped_crawl(self) -> StoppedCrawl:
        """Return the locked crawl, to change it before its frontier is opened."""
        self.check.wait(_HEAD_START)
        return StoppedCrawl(self._directory)

    def open_frontier(self, requests: Sequence[Request], *, is_retry: bool, is_refresh: bool) -> None:
        """Open the frontier, and put the first requests into it.

        Args:
            requests: seeds and lists to begin with, or to add.
            is_retry: failed requests were requeued, so the crawl is not reported as finished.
            is_refresh: a refresh has started, so the crawl is reported neither as finished nor as resumed.
        """
        config, is_resumed = self._config, self.is_resumed
        settings = {**config.shared(), "release": __version__}
        frontier = MasterFrontier(self._directory.database, policy(config), settings=settings, disk=self._disk)
        self._frontier = frontier
        self._stack.callback(frontier.close)
        self.check.wait(_HEAD_START)
        if self._stopping.is_set():  # while the frontier was being opened
            frontier.drain()
        before = frontier.stats()
        if event := load_pins(frontier, config.crawl.pin):
            self._view.event(event)
        frontier.recall(self._guard)
        frontier.permit(self._guard, tuple(places_of_seeds(requests)), look_up=True)
        if is_resumed:
            self._report_added(requests)
        frontier.put(requests)
        if is_resumed:
            is_finished = not (is_retry or is_refresh) and frontier.stats().state == "drained"
            self.before = EarlierRun(is_finished=is_finished, finished_at=frontier.finished_at)
            if not is_refresh and not is_finished:
                waiting = before.waiting + before.leased + before.pages_waiting + before.pages_leased
                self._view.event(CrawlResumed(self._directory.path, before.success, before.failed, waiting))

    def _report_added(self, requests: Sequence[Request]) -> None:
        first, added = self.frontier.first, [name_of_source(request) for request in self.frontier.unknown(requests)]
        if first is not None and added:
            self._view.event(SourcesAdded(self._directory.path, name_of_source(first), tuple(added)))

    def open_queue(self, downloads_here: bool | None, *, rewrites: bool) -> None:
        """Open the record files and the queue, and build the engines.

        Args:
            downloads_here: whether this process starts the downloaders; None: as in the last run.
            rewrites: rewrite the record files, because requests were requeued.
        """
        directory, stack, frontier = self._directory, self._stack, self.frontier
        self.downloads_here = frontier.downloaded_here if downloads_here is None else downloads_here
        manifest = ManifestWriter(directory.path)
        stack.callback(manifest.close)
        if rewrites:
            manifest.rewrite(frontier.records)
        else:
            manifest.resume(frontier.records, is_ours=self.is_resumed)
        self._recorder = _Recorder(frontier, manifest, self._view)
        stack.enter_context(self._marked(manifest))
        queue = self._config.queue
        server = serve(frontier, directory, listen=queue.listen, advertise=queue.advertise)
        stack.callback(server.stop)
        _log.info("action=start output=%s queue=%s:%d", directory, *server.listener.address)
        write_file(directory.settings, [self._config.to_toml().encode()], sync=True)  # the settings work
        self._build_engines()
        if not self.downloads_here and not (self.before and self.before.is_finished):
            address, advertised = server.listener.address, read_join(directory.join).addresses[0]
            self._view.event(QueueListening(address, directory.join, advertised))

    def _build_engines(self) -> None:
        config, guard, disk, permit = self._config, self._guard, self._disk, partial(self.frontier.permit, self._guard)
        harvest, close, self.unmatched = build_harvest(self.frontier, config, guard, permit, disk)
        self._stack.callback(close)
        downloads: Engine = RemoteEngine()
        if self.downloads_here:
            downloads, close = build_downloads(self.frontier, config, guard, disk, self._directory, self._popen)
            self._stack.callback(close)
        self.engines = (harvest, downloads)

    # closing ------------------------------------------------------------------------------------------------------

    def stop_engines(self) -> None:
        """Stop all workers of this process, however the crawl ended."""
        for engine in self.engines:
            engine.stop(now=True)
        for engine in self.engines:
            with suppress(CrawlerError):  # its error was raised before, or no longer matters
                engine.wait(_ENGINE_SECONDS)

    def wait_for_disk(self, act: Callable[[], None]) -> None:
        """Call ``act``, and retry while the disk is unavailable, until the user stops the crawl."""
        self._disk.through(act, self._stopping)

    @contextmanager
    def _marked(self, manifest: ManifestWriter) -> Iterator[None]:
        """Mark the database as in use. If the mark remains, the run has not ended well: its files may be incomplete."""
        frontier = self.frontier
        frontier.mark(is_at_work=True, downloads_here=self.downloads_here)
        try:
            yield
        finally:
            self.check.stop()
        self.check.refuse_damage()
        self.wait_for_disk(self.append_records)  # the outcomes that came before the queue was closed
        if frontier.has_replaced:
            self.wait_for_disk(partial(manifest.rewrite, frontier.records))
        is_over = frontier.stats().state == "drained"
        if frontier.is_refreshing and is_over:
            self.wait_for_disk(frontier.end_refresh)
        if self.check.is_done:  # else the next run checks the database
            was_finished = self.before is not None and self.before.is_finished
            has_finished = is_over and not was_finished and not self._stopping.is_set()
            unmark = partial(frontier.mark, is_at_work=False, downloads_here=self.downloads_here)
            self.wait_for_disk(partial(unmark, has_finished=has_finished))


class _Recorder:
    """Copies new records of the frontier to the manifest and to the view, and counts what a run has saved."""

    def __init__(self, frontier: MasterFrontier, manifest: ManifestWriter, view: View) -> None:
        self._frontier, self._manifest, self._view = frontier, manifest, view
        self.saved = SavedCounts()

    def append(self) -> None:
        """Append the records that are not yet in the files. Raises `DiskError`."""
        while rows := self._frontier.records(self._manifest.last, _PAGE):
            self._manifest.append(rows)
            records = [record for _, record in rows]
            self.saved = self.saved.plus(records)
            self._view.results(records)
