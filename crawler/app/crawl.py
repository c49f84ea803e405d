"""`Crawl`, the master of one crawl: runs it, retries its failures, or refreshes it."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

from msgspec import structs

from crawler.app.assembly import HARVESTER, THREADS
from crawler.app.config import CrawlConfig, from_flags, read_toml, settings_for
from crawler.app.events import (
    CrawlStopping,
    Event,
    FailuresRequeued,
    NullView,
    OrderTaken,
    RefreshStarted,
    View,
    WorkerJoined,
)
from crawler.app.orders import take_order
from crawler.app.pins import refuse_missing
from crawler.app.seeds import CrawlInput, places_of_seeds
from crawler.app.session import Session
from crawler.app.summary import Summary
from crawler.engines.base import StartProcess
from crawler.errors import ConfigError, DiskError
from crawler.frontier.base import SILENCE
from crawler.frontier.offline.requeue import RequeueResult
from crawler.maintenance.near_duplicates import SearchStopped, find_near
from crawler.maintenance.stopped_crawl import StoppedCrawl
from crawler.net.cookies import Cookies
from crawler.stats import FrontierStats, WorkerStats
from crawler.store.bucket import store_at
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.full_disk_pause import DiskPause

_log = logging.getLogger(__name__)

#: Seconds between two updates of the master's files and its view.
_TICK = 0.25
#: Longest time in seconds that a finished master waits until every connected downloader has received the end.
_LINGER = 30.0
#: Seconds for which a resumed master waits for the workers of its last run, so that they learn of the end. They retry
#: at least every two seconds.
_RETURN = 5.0
#: Names of the workers inside the master.
_OWN = frozenset({HARVESTER, THREADS})

#: Changes a crawl before its frontier is opened, and returns the event for the user.
Change = Callable[[StoppedCrawl], Event]


class Crawl:
    """The master of one crawl in one directory. It runs once.

    Args:
        output: the directory of the crawl; created if it is missing, resumed if it has a crawl.
        config: all settings.
        view: shows the progress; None: nothing is shown.
        on_open: called when the directory exists and is locked by this process.
        popen: starts a downloader process.
    """

    def __init__(
        self,
        output: Path,
        config: CrawlConfig,
        *,
        view: View | None = None,
        on_open: Callable[[], None] | None = None,
        popen: StartProcess = Popen,
    ) -> None:
        self.directory, self.config = CrawlDirectory(output), config
        self._view: View = view or NullView()
        self._on_open = on_open
        self._disk = DiskPause(output, config.machine.disk_wait)
        self._interrupts = 0
        self._stopping = threading.Event()
        self._session = Session(self.directory, config, self._view, self._disk, self._stopping, popen)
        self._tried: tuple[str, ...] = ()
        self._requeued: RequeueResult | None = None
        #: Clock time until which a finished master keeps running.
        self._stays_until = 0.0
        #: Names of the workers that have joined.
        self._joined = _OWN

    @property
    def downloads_here(self) -> bool:
        """Whether this process starts the downloaders, once the crawl runs."""
        return self._session.downloads_here

    def check(self) -> None:
        """Raise `ConfigError` if a file or a package that the settings need is missing."""
        machine, pin, saved = self.config.machine, self.config.crawl.pin, self.directory.settings
        if machine.cookies:
            Cookies(Path(machine.cookies))
        if machine.store:
            store_at(machine.store)
        earlier = read_toml(saved).get("crawl", {}).get("pin") if saved.exists() else None
        if pin != earlier:  # the database has the pins of a file that the crawl has read
            refuse_missing(pin)

    def run(self, source: CrawlInput, *, downloads_here: bool = True) -> Summary:
        """Crawl to the end, or until interrupted.

        Args:
            source: seeds and lists to begin with, or to add.
            downloads_here: whether this process starts the downloaders.

        Raises:
            CrawlerError: an error ended the run early; the crawl can be resumed.
        """
        return self._run(source, downloads_here)

    def retry(self, reasons: frozenset[str] = frozenset()) -> Summary:
        """Queue requests again that failed for these reasons, and resume the crawl as it was last run.

        If no request waits after that, the run ends. Raises `CrawlerError`, as `run` does.

        Args:
            reasons: see `crawler.maintenance.retry_reasons.parse_reasons`; empty: the temporary ones.
        """

        def change(crawl: StoppedCrawl) -> Event:
            self._requeued = crawl.retry(reasons, patience=self.config.crawl.patience)
            return FailuresRequeued(self._requeued, reasons)

        self.directory.require()
        return self._run(CrawlInput(), None, change)

    def refresh(self, source: CrawlInput, *, downloads_here: bool = True) -> Summary:
        """Request all URLs of an existing crawl again, or resume a refresh. Arguments and errors are those of `run`."""
        if not self.directory.exists():
            raise ConfigError(
                f"--refresh: {self.directory} is not a crawl directory; omit --refresh, or name the directory of a"
                " crawl with -o"
            )
        return self._run(source, downloads_here, lambda crawl: RefreshStarted(crawl.refresh()))

    def _run(self, source: CrawlInput, downloads_here: bool | None, change: Change | None = None) -> Summary:
        started, requests = time.monotonic(), source.requests()
        self._tried = tuple(places_of_seeds(requests))
        self.check()
        if not self.directory.exists():
            self._refuse_new(has_input=bool(requests))
        session = self._session
        try:
            with session:
                session.lock()
                if self._on_open is not None:
                    self._on_open()
                if change is not None:
                    self._view.event(change(session.stopped_crawl()))
                is_retry = self._requeued is not None
                session.open_frontier(requests, is_retry=is_retry, is_refresh=change is not None and not is_retry)
                stats = self._work(session, downloads_here)
        except DiskError:
            if not self._interrupts or not self._disk.is_on or not session.is_open:
                raise
            # The user has stopped a crawl that waits for its disk. The next run writes the missing records.
            return self._summary(session.frontier.stats(), started)
        summary = self._summary(stats, started)
        return summary if summary.interrupted or self.config.download.near == "off" else self._compare(summary)

    def _refuse_new(self, *, has_input: bool) -> None:
        """Raise `ConfigError` if no crawl can begin here, before anything is written."""
        if not has_input:
            raise ConfigError(
                f"nothing to do: {self.directory} is not a crawl directory; give a URL, -i FILE or --images FILE"
            )
        if (self.directory.path / "store.json").exists():
            raise ConfigError(
                f"{self.directory} is the directory of a downloader, not of a crawl; choose another one with -o"
            )

    def _work(self, session: Session, downloads_here: bool | None) -> FrontierStats:
        """Work until the crawl is over, and return the last counts."""
        if self._requeued is not None and not self._requeued.is_waiting:
            session.downloads_here = session.frontier.downloaded_here
            return session.frontier.stats()
        session.open_queue(downloads_here, rewrites=self._requeued is not None and bool(self._requeued.requests))
        if session.is_resumed and not session.downloads_here:
            self._stays_until = time.monotonic() + _RETURN
        try:
            for engine in session.engines:
                engine.start()
            self._watch(session)
        finally:
            session.stop_engines()
        session.wait_for_disk(session.append_records)
        self._show(session)
        return session.frontier.stats()

    def _summary(self, stats: FrontierStats, started: float) -> Summary:
        session = self._session
        return Summary(
            stats=stats,
            output=self.directory.path,
            saved=session.saved,
            before=session.before,
            limits=self.config.crawl.limits,
            tried=self._tried,
            store=self.config.machine.store if session.downloads_here else "",
            elapsed=time.monotonic() - started,
            interrupted=self._interrupts > 0,
            unmatched=session.unmatched(),
        )

    def _compare(self, summary: Summary) -> Summary:
        """Find near-duplicates, now that all pictures are saved."""
        keeps_best = self.config.download.near == "keep-best"
        try:
            near = find_near(self.directory.path, keeps_best=keeps_best, is_stopped=lambda: self._interrupts > 0)
        except SearchStopped:
            return structs.replace(summary, interrupted=True)
        return structs.replace(summary, stats=near.corrected(summary.stats), near=near)

    def interrupt(self) -> None:
        """Stop after the downloads in progress; at the second call, stop now. Callable from a signal handler."""
        self._interrupts += 1
        self._stopping.set()
        threading.Thread(target=self._stop, args=(self._interrupts > 1,), daemon=True).start()

    def _stop(self, now: bool) -> None:
        if not now:
            self._view.event(CrawlStopping())
        if self._session.is_open:
            self._session.frontier.drain()
        for engine in self._session.engines if now else ():
            engine.stop(now=True)

    def _watch(self, session: Session) -> None:
        """Wait until the crawl is over, write records, and raise errors of the engines."""
        frontier, (harvest, downloads) = session.frontier, session.engines
        while not harvest.wait(_TICK) and self._interrupts < 2:
            downloads.wait(0)
            session.check.refuse_damage()
            if frontier.fault is not None:
                raise frontier.fault
            frontier.hold(self._disk.look())
            self._unless_disk(partial(self._obey, session))
            self._show(session)
        patience = self.config.fetch.total_timeout if self._interrupts else _LINGER
        deadline = time.monotonic() + patience
        while self._interrupts < 2 and time.monotonic() < deadline:
            self._show(session)
            if not downloads.wait(_TICK) or not frontier.wait_for(_all_know_the_end, _TICK):
                continue
            stays = self._stays_until - time.monotonic()
            if stays <= 0 or self._stopping.wait(min(stays, _TICK)):
                return

    def _obey(self, session: Session) -> None:
        """Carry out an order from the directory, if there is one."""
        order = take_order(self.directory.path)
        if order is None:
            return
        self._view.event(OrderTaken(order))
        if order.worker:
            session.frontier.drain(order.worker)
        elif order.what == "stop":
            self.interrupt()
        else:
            session.frontier.pause(order.what == "pause")

    def _show(self, session: Session) -> None:
        """Update the files and the view from the frontier; the files wait while the disk is unavailable."""
        if not self._disk.is_on:
            self._unless_disk(session.append_records)
        stats = session.frontier.stats()
        for worker in stats.workers:
            if worker.name not in self._joined:
                about = f"{worker.about.system}, Python {worker.about.python}, release {worker.about.release}"
                _log.info("action=join worker=%s (%s) clock_ahead=%.0f", worker.name, about, worker.clock_ahead)
                if not session.downloads_here:
                    self._view.event(WorkerJoined(worker))
        self._joined = _OWN.union(worker.name for worker in stats.workers)
        self._view.update(stats)

    def _unless_disk(self, act: Callable[[], None]) -> None:
        """Call ``act``; if the disk is unavailable, begin a pause instead of raising the error."""
        try:
            act()
        except DiskError as error:
            if not self._disk.begin(error):
                raise


def run(
    seeds: str | Iterable[str],
    output: str | Path = "out",
    *,
    workers: int = 0,
    refresh: bool = False,
    view: View | None = None,
    **settings: Any,
) -> Summary:
    """Crawl from a script: ``crawler.run(["https://example.org/"], output="out", depth=2)``.

    With ``refresh``, all URLs of an existing crawl are requested again. ``settings`` are named like the flags, with
    underscores. Raises `CrawlerError`.
    """
    directory = Path(output)
    config, _ = settings_for(directory, [("crawler.run()", from_flags({"workers": workers, **settings}))])
    source = CrawlInput(seeds=(seeds,) if isinstance(seeds, str) else tuple(seeds))
    crawl = Crawl(directory, config, view=view)
    return crawl.refresh(source) if refresh else crawl.run(source)


def _all_know_the_end(stats: FrontierStats) -> bool:
    """Return whether no worker still has to learn that the crawl is over."""
    return all(map(_knows_the_end, stats.workers))


def _knows_the_end(worker: WorkerStats) -> bool:
    """Return whether a worker has received the end of the crawl, or has ended without it.

    A downloader closes its connection when it has received the end. An answer that was made may not be sent yet.
    """
    if worker.leases or (worker.is_told and (worker.is_disconnected or worker.name in _OWN)):
        return not worker.leases
    return worker.silent > (_RETURN if worker.is_told or worker.is_disconnected else SILENCE)
