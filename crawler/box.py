"""A downloader box: what works for a master, on its machine or on another."""

import logging
import platform
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs, to_builtins

from crawler import __version__
from crawler.cloud import Store, store_at
from crawler.config import CrawlConfig
from crawler.cookies import Cookies
from crawler.download.downloader import Downloader
from crawler.download.naming import Naming
from crawler.engines.client import RemoteFrontier
from crawler.engines.join import read_join
from crawler.errors import ConfigError, DiskError, MessageError
from crawler.fetcher import Limits
from crawler.frontier.base import PROTOCOL, Frontier
from crawler.guard import Guard, told
from crawler.lock import try_to_own
from crawler.model import About, GrantState, Kind
from crawler.pause import DiskPause
from crawler.robots import RobotsHandler
from crawler.shelf import Shelf, claim, shelf_for
from crawler.storage import LocalStore, disk_faults
from crawler.transport import RequestsFetcher
from crawler.worker import Handler, Worker, WorkerProgress, WorkerSettings

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

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
        self._disk = DiskPause(output, config.box.disk_wait)
        self._worker: Worker | None = None
        known = read_join(join)
        known = known.at(connect) if connect else known
        self._join = known
        self._guard = Guard(allow_private=config.box.allow_private)
        self._settings: dict[str, Any] = {}
        #: Whether the master may visit hosts that we may not: then what their robots.txt says is not ours to find out.
        self._is_outside = False
        #: What the workers of before have done, those that went by older settings.
        self._done = WorkerProgress()
        self._frontier = RemoteFrontier(
            known, wait=config.box.wait, on_wait=on_wait, on_settings=self._renew, stop=self._stop
        )

    def run(self) -> GrantState:
        """Returns ``drained`` when the crawl is over, ``draining`` when the master or we were told to stop.

        Raises:
            CrawlerError: the disk, the master, or the key.
        """
        self._refuse_others()
        store = LocalStore(self._output)
        with disk_faults(self._output):
            self._output.mkdir(parents=True, exist_ok=True)
        if self._slot is None:  # else our master has done so
            store.clear_parts()
        with ExitStack() as stack:
            stack.callback(self._frontier.close)
            self._patiently(lambda: claim(self._output, self._join.mark))
            slot, release = self._patiently(self._take_slot)
            stack.callback(release)
            # The directory's also where others save into the same bucket.
            name = self._patiently(lambda: worker_name(store, slot))
            about = about_this_box()
            # What earlier lives have finished is told before what they held is given to others.
            self._settings = self._frontier.hello(name, PROTOCOL, structs.replace(about, stays=True, life=""))
            warn_of_release(self._settings.pop("release", ""))
            self._take_exemptions(self._settings)
            self._tell_what_is_left(name, slot)
            self._frontier.hello(name, PROTOCOL, about)
            while True:
                terms = self._settings, self._is_outside
                self.state = self._work(name, slot, self._settings)
                if terms == (self._settings, self._is_outside) or self._stop.is_set():
                    return self.state

    def _work(self, name: str, slot: int, settings: dict[str, Any]) -> GrantState:
        """Work by these settings, until the end or until there are others."""
        own = {"box": to_builtins(self._config.box)}
        config = CrawlConfig.load(("the master's settings", settings), ("this box", own))
        shelf = self._patiently(lambda: self._take_shelf(config, name, slot))
        worker, close = build_downloader(
            name, self._frontier, config, shelf, self._guard, self._disk, asks_robots=not self._is_outside
        )
        self._worker = worker
        try:
            return "draining" if self._stop.is_set() else worker.run()
        finally:
            close()
            shelf.close()
            self._worker, self._done = None, add_up(self._done, worker.progress)

    def _renew(self, settings: dict[str, Any]) -> None:
        """The master was started again: where it has other settings, the worker gives way to one that goes by them."""
        settings.pop("release", "")
        was_outside = self._is_outside
        self._take_exemptions(settings)
        if settings != self._settings:
            _log.warning("the master has other settings now; going on with them")
        if (settings, self._is_outside) != (self._settings, was_outside):
            self._settings = settings
            if self._worker is not None:
                self._worker.stop()

    def _take_exemptions(self, settings: dict[str, Any]) -> None:
        """The private hosts that the crawl's seeds name are permitted where the master is on this very machine."""
        found = told(settings)
        settings.pop("exempt", None)
        if self._frontier.is_local:
            self._guard.exempt(found)
        else:
            self._is_outside = bool(found) and not self._config.box.allow_private

    def _refuse_others(self) -> None:
        """Refuse the directory of another crawl: its master would not know these pictures."""
        if (self._output / "frontier.sqlite").exists():
            theirs = self._output / "join"
            if not theirs.exists() or read_join(theirs).key != self._join.key:
                raise ConfigError(f"{self._output} is another crawl's directory; choose another one with -o")

    def _take_shelf(self, config: CrawlConfig, name: str, slot: int) -> Shelf:
        """The place for pictures."""
        return shelf_for(self._store(config), name, slot, self._join.mark, self._output)

    def _store(self, config: CrawlConfig) -> Store:
        return store_at(self._config.box.store or self._output, config.download.durability)

    def _tell_what_is_left(self, name: str, slot: int) -> None:
        """Tell what dead workers of this directory had finished and could not tell any more."""
        shelf = shelf_for(self._store(self._config), name, slot, self._join.mark, self._output)
        for worker, outcomes, forget in shelf.left():
            _log.info("action=tell worker=%s outcomes=%d", worker, len(outcomes))
            try:
                shelf.settle(outcomes, self._frontier.complete(worker, outcomes, ()), worker=worker)
            except MessageError as error:  # of another release, or damaged: it must not keep this life from working
                _log.warning("what %s had noted can't be told: %s", worker, error)
            forget()
        shelf.close()

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

    def _patiently(self, act: Callable[[], Result]) -> Result:
        """Do something as soon as the disk takes it."""
        return self._disk.through(act, self._stop)

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
        worker = self._worker
        return add_up(self._done, worker.progress) if worker is not None else self._done


def worker_settings(config: CrawlConfig, *, threads: int) -> WorkerSettings:
    """A worker's part of the settings."""
    return WorkerSettings(
        threads=threads,
        lease=config.queue.lease,
        request=config.fetch.total_timeout,
        patience=config.crawl.patience,
    )


def build_fetcher(config: CrawlConfig, guard: Guard) -> RequestsFetcher:
    """A fetcher that keeps the time-outs of the settings; no request outlives half a lease. Raises `ConfigError`."""
    fetch = config.fetch
    limits = Limits(
        connect=fetch.connect_timeout,
        first_byte=fetch.first_byte_timeout,
        total=min(fetch.total_timeout, config.queue.lease / 2),
        min_speed=fetch.min_speed,
        window=fetch.speed_window,
    )
    return RequestsFetcher(
        limits,
        config.politeness.agent,
        contact=config.politeness.contact,
        guard=guard,
        proxy=config.box.proxy,
        cookies=Cookies(Path(config.box.cookies) if config.box.cookies else None),
    )


def build_downloader(
    name: str,
    frontier: Frontier,
    config: CrawlConfig,
    shelf: Shelf,
    guard: Guard,
    disk: DiskPause | None = None,
    *,
    asks_robots: bool = True,
) -> tuple[Worker, Callable[[], None]]:
    """A worker that puts pictures on ``shelf``, and what its owner calls when done; ``disk`` waits for its disk."""
    download = config.download
    fetcher = build_fetcher(config, guard)
    downloader = Downloader(
        fetcher,
        shelf.store,
        naming=Naming(download.name),
        types=frozenset(download.types) or None,
        max_bytes=download.max_bytes,
        min_size=download.min_size,
        max_aspect=download.max_aspect,
        animated=download.animated,
        verify=download.verify,
        with_phash=download.near != "off",
        agent=config.politeness.agent,
    )
    handlers: dict[Kind, Handler] = {"image": downloader}
    if asks_robots:
        handlers["robots"] = RobotsHandler(fetcher, config.politeness.agent, tdm=config.politeness.tdmrep)
    settings = worker_settings(config, threads=config.box.threads)

    def close() -> None:
        fetcher.close()
        downloader.close()

    worker = Worker(
        *(name, frontier, handlers, settings),
        keeper=shelf,
        disk=disk,
        abort=fetcher.abort,
        relieve=fetcher.relieve,
    )
    return worker, close


def add_up(one: WorkerProgress, other: WorkerProgress) -> WorkerProgress:
    """What two workers have done together; the second one is at work."""
    return WorkerProgress(
        saved=one.saved + other.saved,
        duplicates=one.duplicates + other.duplicates,
        failed=one.failed + other.failed,
        unchanged=one.unchanged + other.unchanged,
        received=one.received + other.received,
        leases=other.leases,
        trouble=other.trouble,
    )


def warn_of_release(release: object) -> None:
    """Say so where the master is of another release than this box."""
    if isinstance(release, str) and release not in ("", __version__):
        _log.warning("the master is of release %.64s, this downloader of %s; both understand", release, __version__)


def about_this_box() -> About:
    """What a downloader says of its box when it joins."""
    system = " ".join(part for part in (platform.system(), platform.release().partition("-")[0]) if part)
    python = platform.python_version()
    words = (re.sub(r"[^ -~]", "?", text)[:64] for text in (__version__, system, python))
    release, system, python = words
    return About(release=release, system=system, python=python, wall=time.time(), life=secrets.token_hex(8))


def worker_name(store: LocalStore, slot: int) -> str:
    """Name of the worker that saves into a store: the same in its next life."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", platform.node())[:64] or "box"
    return f"{host}/{store.id[:8]}-{slot}"
