"""The roof's floor plan: the one place where rooms are connected, for a master and for a downloader."""

import logging
import platform
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import structs

from crawler import __version__
from crawler.box import about_this_box, build_downloader
from crawler.cloud import FsspecStore, store_at
from crawler.config import CRAWL_FILE, CrawlConfig, settings_for
from crawler.control import take
from crawler.engines.base import Elsewhere, Engine
from crawler.engines.join import read_join
from crawler.engines.local import ProcessEngine, ThreadEngine
from crawler.engines.server import Server
from crawler.engines.wire import format_address
from crawler.errors import ConfigError, CrawlerError, DiskError
from crawler.fleet import introduce
from crawler.frontier.again import PutBack
from crawler.frontier.base import PROTOCOL, Frontier
from crawler.frontier.soundness import Check, damaged
from crawler.guard import Guard
from crawler.lock import own
from crawler.manifest import ManifestWriter
from crawler.master import MasterFrontier
from crawler.model import FrontierStats, Request, WorkerStats
from crawler.near import Stopped, find_near
from crawler.pause import DiskPause
from crawler.pins import refuse_missing, take_pins
from crawler.policy import policy
from crawler.port import serve
from crawler.retry import put_back_in, renew_in
from crawler.seeds import Source
from crawler.shelf import Shelf
from crawler.storage import LocalStore, disk_faults, write_file
from crawler.urls import is_loopback
from crawler.view import Silence, Summary, View
from crawler.walker import build_harvester

_log = logging.getLogger(__name__)

#: Seconds between two looks of the master at how things stand.
_TICK = 0.25
#: Seconds that a finished master goes on answering, so that its downloaders hear of the end.
_FAREWELL = 10.0
#: Seconds for which a master that was started again waits for those who worked for its earlier life, to tell them of
#: the end: they try again every two seconds at least.
_RETURN = 5.0
#: A worker that holds nothing asks every second; one that was not heard of for so long has left.
_SILENCE = 3.0
#: Records taken from the frontier at a time.
_PAGE = 1_000
#: Seconds for which a check of the database may hold up the start before it goes on beside the work.
_HEAD_START = 0.25
#: Names of the workers inside the master.
_HARVESTER, _THREADS = "harvester", "downloader"


class Crawl:
    """One crawl in one directory, seen from its master.

    Args:
        output: the directory; made where it is missing, gone on with where it is a crawl's.
        config: all settings.
        view: whoever looks on.
        on_open: called once the directory is there and ours.
    """

    def __init__(
        self,
        output: Path,
        config: CrawlConfig,
        *,
        view: View | None = None,
        on_open: Callable[[], None] | None = None,
    ) -> None:
        self.output = output
        self.config = config
        self._view = view or Silence()
        self._on_open = on_open or _do_nothing
        #: Whether the downloaders are ours.
        self.downloads_here = True
        self._guard = Guard(allow_private=config.box.allow_private)
        self._disk = DiskPause(output, config.box.disk_wait)
        self._interrupts = 0
        self._stopping = threading.Event()
        self._is_resumed = False
        self._put_back: PutBack | None = None
        #: Clock time before which the end is not the end.
        self._stays_until = 0.0
        self._frontier: MasterFrontier | None = None
        self._check: Check
        self._engines: list[Engine] = []
        #: Workers that have been heard of.
        self._known = {_HARVESTER, _THREADS}
        self._on_join: Callable[[WorkerStats], None] = _ignore

    @property
    def join(self) -> Path:
        """The join file."""
        return self.output / "join"

    def run(
        self,
        source: Source,
        *,
        downloads_here: bool | None = True,
        retries: frozenset[str] | None = None,
        refresh: bool = False,
    ) -> Summary:
        """Crawl to the end, or until interrupted.

        Args:
            source: what to begin with, or to add.
            downloads_here: false: downloaders join from elsewhere; None: as it was the last time.
            retries: put back first what has failed for these reasons (`crawler.retry`); where nothing waits then, that
                is all. Empty: the reasons that may have passed.
            refresh: ask again for all that a known crawl has, or go on with a refresh that has begun.

        Raises:
            CrawlerError: whatever stops a crawl early; it can be gone on with.
        """
        started = time.monotonic()
        try:
            summary = self._run(source, downloads_here, retries, started, refresh=refresh)
        except DiskError:
            if not self._interrupts or not self._disk.is_on or self._frontier is None:
                raise
            # Whoever stops a crawl that waits for its disk does not wait for it: the next one finds what is missing.
            return self._summary(self._frontier.stats(), started)
        return summary if summary.interrupted or self.config.download.near == "off" else self._compare(summary)

    def _run(
        self,
        source: Source,
        downloads_here: bool | None,
        retries: frozenset[str] | None,
        started: float,
        *,
        refresh: bool,
    ) -> Summary:
        requests = source.requests()
        with ExitStack() as stack:
            frontier = self._open(stack, requests, retries, refresh=refresh)
            self.downloads_here = frontier.downloaded_here if downloads_here is None else downloads_here
            if self._put_back is not None and not self._put_back.is_waiting:
                return self._summary(frontier.stats(), started)
            manifest = ManifestWriter(self.output)
            stack.callback(manifest.close)
            if self._put_back is not None and self._put_back.requests:
                manifest.rewrite(frontier.records)
            else:
                manifest.resume(frontier.records, is_ours=self._is_resumed)
            stack.enter_context(self._life(frontier, manifest))
            server = serve(frontier, self.output, self.config.queue)
            stack.callback(server.stop)
            write_file(self.output / CRAWL_FILE, [self.config.to_toml().encode()], sync=True)  # they proved to work
            self._engines = [self._harvest(frontier, stack), self._downloads(frontier, stack)]
            if self._is_resumed and not self.downloads_here:
                self._stays_until = time.monotonic() + _RETURN
            self._greet(server)
            try:
                for engine in self._engines:
                    engine.start()
                self._watch(frontier, manifest)
            finally:
                self._end()
            self._pump_all(frontier, manifest)
            stats = frontier.stats()
        return self._summary(stats, started)

    def _summary(self, stats: FrontierStats, started: float) -> Summary:
        elapsed, interrupted = time.monotonic() - started, self._interrupts > 0
        store = self.config.box.store if self.downloads_here else ""
        return Summary(stats=stats, output=self.output, store=store, elapsed=elapsed, interrupted=interrupted)

    def _compare(self, summary: Summary) -> Summary:
        """Find what looks nearly the same, now that there is all of it."""
        keeps_best = self.config.download.near == "keep-best"
        try:
            found = find_near(self.output, keeps_best=keeps_best, is_stopped=lambda: self._interrupts > 0)
        except Stopped:
            return structs.replace(summary, interrupted=True)
        return structs.replace(summary, stats=found.corrected(summary.stats), near=found)

    def interrupt(self) -> None:
        """Once: finish what is under way and stop. Twice: stop now. Callable from a signal handler."""
        self._interrupts += 1
        self._stopping.set()
        threading.Thread(target=self._stop, args=(self._interrupts > 1,), daemon=True).start()

    def _stop(self, now: bool) -> None:
        if not now:
            self._view.say("draining: finishing what is under way (Ctrl-C again aborts)")
        if self._frontier is not None:
            self._frontier.drain()
        for engine in self._engines if now else ():
            engine.stop(now=True)

    # opening ------------------------------------------------------------------------------------------------------

    def _open(
        self, stack: ExitStack, requests: Sequence[Request], retries: frozenset[str] | None, *, refresh: bool
    ) -> MasterFrontier:
        """Own the directory, open its frontier, and put what the crawl begins with."""
        path = self.output / "frontier.sqlite"
        known = path.exists()
        if not known:
            self._refuse_to_begin(requests, retries, refresh=refresh)
        with disk_faults(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
        stack.callback(own(self.output))
        self._on_open()
        self._refuse_emptied(path)
        LocalStore(self.output).clear_parts()
        self._check = Check(path)
        stack.callback(self._check.stop)
        if retries is not None:
            self._check.wait(_HEAD_START)
            patience = self.config.crawl.patience
            self._put_back = put_back_in(self.output, retries, patience=patience, say=self._view.say)
        if refresh:
            self._check.wait(_HEAD_START)
            renew_in(self.output, say=self._view.say)
        settings = {**self.config.shared(), "release": __version__}
        frontier = MasterFrontier(path, policy(self.config), settings=settings, disk=self._disk)
        stack.callback(frontier.close)
        self._frontier = frontier
        self._check.wait(_HEAD_START)
        if self._interrupts:  # while it was being opened
            frontier.drain()
        before = frontier.stats()
        if said := take_pins(frontier, self.config.crawl.pin):
            self._view.say(said)
        frontier.recall(self._guard)
        frontier.permit(self._guard, [request.location for request in requests if request.is_seed], look_up=True)
        frontier.put(requests)
        self._is_resumed = known
        if known and not refresh:
            images, pages = before.waiting + before.leased, before.pages_waiting + before.pages_leased
            counts = f"{before.success} saved, {before.failed} failed, {images + pages} waiting"
            self._view.say(f"Resuming {str(self.output)!r}: {counts}.")
        return frontier

    def _refuse_to_begin(self, requests: Sequence[Request], retries: frozenset[str] | None, *, refresh: bool) -> None:
        """Raise `ConfigError` where no crawl can begin, before there is anything of it."""
        if retries is not None:
            raise ConfigError(f"{self.output} is no crawl: there is no frontier.sqlite in it")
        if refresh:
            raise ConfigError(
                f"--refresh: {self.output} is no crawl yet: leave it out the first time, or name one with -o"
            )
        if not requests:
            raise ConfigError(f"nothing to do: {self.output} is no crawl yet; name a URL, -i FILE or --images FILE")
        if (self.output / "store.json").exists():
            raise ConfigError(f"{self.output} holds the pictures of a downloader, and no crawl; choose another -o")
        refuse_missing(self.config.crawl.pin)

    def _refuse_emptied(self, path: Path) -> None:
        """A crawl whose file has lost its content would begin anew, and its manifest with it."""
        if path.exists() and not path.stat().st_size and (self.output / CRAWL_FILE).exists():
            raise damaged(path, "it is empty")

    @contextmanager
    def _life(self, frontier: MasterFrontier, manifest: ManifestWriter) -> Iterator[None]:
        """Whoever finds the mark that is set in here knows that it has not ended well: not with all in its files."""
        frontier.mark(is_at_work=True, downloads_here=self.downloads_here)
        try:
            yield
        finally:
            self._check.stop()
        self._check.refuse_damage()
        self._pump_all(frontier, manifest)  # what came before the queue was closed
        if frontier.has_replaced:
            self._disk.through(partial(manifest.rewrite, frontier.records), self._stopping)
        if frontier.is_refreshing and frontier.stats().state == "drained":
            self._disk.through(frontier.end_refresh, self._stopping)
        if self._check.is_done:  # else the next one has to look
            unmark = partial(frontier.mark, is_at_work=False, downloads_here=self.downloads_here)
            self._disk.through(unmark, self._stopping)

    def _harvest(self, frontier: MasterFrontier, stack: ExitStack) -> Engine:
        """The worker that walks pages and reads lists, in this process."""
        permit = partial(frontier.permit, self._guard)
        worker, fetcher = build_harvester(_HARVESTER, frontier, self.config, self._guard, permit, self._disk)
        stack.callback(fetcher.close)
        frontier.hello(_HARVESTER, PROTOCOL, about_this_box())
        return ThreadEngine(worker)

    def _downloads(self, frontier: Frontier, stack: ExitStack) -> Engine:
        """Where this crawl's downloaders live."""
        workers, box = self.config.box.processes, self.config.box
        if not self.downloads_here:
            return Elsewhere()
        if workers:
            own = {"CRAWLER_PROXY": box.proxy, "CRAWLER_COOKIES": box.cookies}
            options = ["-t", str(box.threads), "--disk-wait", str(box.disk_wait)]
            options += ["--allow-private"] if box.allow_private else []
            options += ["--store", box.store] if box.store else []
            return ProcessEngine(self.join, self.output, count=workers, options=options, environment=own)
        frontier.hello(_THREADS, PROTOCOL, about_this_box())
        store = store_at(box.store or self.output, self.config.download.durability)
        if isinstance(store, FsspecStore):
            store.claim(read_join(self.join).mark)
        shelf = Shelf(store)
        worker, close = build_downloader(_THREADS, frontier, self.config, shelf, self._guard, self._disk)
        stack.callback(close)
        return ThreadEngine(worker)

    def _end(self) -> None:
        """No worker of ours outlives the crawl, however it ended."""
        for engine in self._engines:
            engine.stop(now=True)
        for engine in self._engines:
            with suppress(CrawlerError):  # what it died of is known by now, or no longer matters
                engine.wait(_FAREWELL)

    def _greet(self, server: Server) -> None:
        _log.info("action=start output=%s queue=%s", self.output, format_address(server.listener.address))
        if not self.downloads_here:
            self._on_join = lambda worker: self._view.say(introduce(worker))
            self._view.say(f"Queue on {format_address(server.listener.address)}. Start downloaders with:")
            self._view.say(f"    crawler download {shlex.quote(str(self.join))} -o pictures")
            if not is_loopback(server.listener.address[0]):
                self._view.say("On another box, with a copy of that file, which is the one credential:")
                host = self.config.queue.advertise or platform.node()
                self._view.say(f"    scp {host}:{shlex.quote(str(self.join.resolve()))} join")
                self._view.say("    crawler download join -o pictures")
            self._view.say("Waiting for the first downloader.")

    # watching -----------------------------------------------------------------------------------------------------

    def _watch(self, frontier: MasterFrontier, manifest: ManifestWriter) -> None:
        """Look on until all is over, pass on records, and pass on errors of the engines."""
        harvest, downloads = self._engines
        while not harvest.wait(_TICK) and self._interrupts < 2:
            downloads.wait(0)
            self._check.refuse_damage()
            if frontier.fault is not None:
                raise frontier.fault
            frontier.hold(self._disk.look())
            self._unless_disk(partial(self._obey, frontier))
            self._pump(frontier, manifest)
        patience = self.config.fetch.total_timeout if self._interrupts else _FAREWELL
        deadline = time.monotonic() + patience
        while self._interrupts < 2 and time.monotonic() < deadline:
            self._pump(frontier, manifest)
            is_over = downloads.wait(_TICK) and self._is_farewell_said(frontier)
            if is_over and (self._interrupts or time.monotonic() >= self._stays_until):
                return

    def _obey(self, frontier: MasterFrontier) -> None:
        """Do what an order says that was left in the directory."""
        order = take(self.output)
        if order is None:
            return
        if order.worker:
            self._view.say(f"{order.worker} is to finish what it holds, and to leave.")
            frontier.drain(order.worker)
            return
        self._view.say({"stop": "Told to stop.", "pause": "Paused.", "resume": "Going on."}[order.what])
        if order.what == "stop":
            self.interrupt()
        else:
            frontier.pause(order.what == "pause")

    @staticmethod
    def _is_farewell_said(frontier: Frontier) -> bool:
        """Whether every worker that is alive has been told of the end, and holds nothing."""
        workers = frontier.stats().workers
        return all(worker.is_told or (worker.silent > _SILENCE and not worker.leases) for worker in workers)

    def _pump(self, frontier: Frontier, manifest: ManifestWriter) -> None:
        """Bring files and view up to the frontier's records; the files wait while the disk refuses."""
        if not self._disk.is_on:
            self._unless_disk(partial(self._append, frontier, manifest))
        stats = frontier.stats()
        for worker in stats.workers:
            if worker.name not in self._known:
                _log.info("action=join worker=%s", introduce(worker))
                self._on_join(worker)
        self._known = {_HARVESTER, _THREADS, *(worker.name for worker in stats.workers)}
        self._view.update(stats)

    def _unless_disk(self, act: Callable[[], None]) -> None:
        """Do what may be done a little later, when the disk takes it again."""
        try:
            act()
        except DiskError as error:
            if not self._disk.begin(error):
                raise

    def _pump_all(self, frontier: Frontier, manifest: ManifestWriter) -> None:
        """The same, for the last time: it waits for the disk."""
        self._disk.through(partial(self._append, frontier, manifest), self._stopping)
        self._pump(frontier, manifest)

    def _append(self, frontier: Frontier, manifest: ManifestWriter) -> None:
        while rows := frontier.records(manifest.last, _PAGE):
            manifest.append(rows)
            self._view.results([record for _, record in rows])


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

    With ``refresh`` all that is known of a crawl is asked for again. ``settings`` are named like the flags, with
    underscores. Raises `CrawlerError`.
    """
    place = Path(output)
    config, _ = settings_for(place, {"workers": workers, **settings})
    source = Source(seeds=(seeds,) if isinstance(seeds, str) else tuple(seeds))
    return Crawl(place, config, view=view).run(source, refresh=refresh)


def _do_nothing() -> None:
    pass


def _ignore(worker: WorkerStats) -> None:
    pass
