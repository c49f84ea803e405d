"""A downloader: a process that works for a master, on the same machine or on another."""

import logging
import platform
import re
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs, to_builtins

from crawler.app.build_downloader import about_this_machine, build_downloader
from crawler.app.config import CrawlConfig
from crawler.errors import ConfigError, DiskError, MessageError
from crawler.frontier.base import PROTOCOL
from crawler.model import GrantState
from crawler.net.address_guard import Guard, exemptions_in
from crawler.queue.client import RemoteFrontier
from crawler.queue.join_file import JoinFile, read_join
from crawler.store.bucket import Store, store_at
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.full_disk_pause import DiskPause
from crawler.store.local import LocalStore
from crawler.store.lock import try_to_own
from crawler.store.result_store import ResultStore, claim, result_store_for
from crawler.version import __version__
from crawler.worker.worker import Worker, WorkerProgress

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Maximum number of downloaders that share a directory.
_MAX_SLOTS = 64
#: Seconds for which a downloader of a killed master may still finish its downloads.
_ORPHAN_SECONDS = 30.0


class DownloaderNode:
    """A downloader that works for the master in a join file until the crawl is over.

    Args:
        join: path or content of the join file.
        output: directory in which pictures are saved.
        config: the settings of this machine; all others come from the master.
        connect: ``host:port`` or ``host`` to use instead of the join file's addresses.
        slot: number of this process among those that share the directory; None: the first free number.
        on_wait: called during a wait for the master, with the seconds left and the reason.
    """

    def __init__(
        self,
        join: Path | JoinFile,
        output: Path,
        config: CrawlConfig,
        *,
        connect: str | None = None,
        slot: int | None = None,
        on_wait: Callable[[float, str], None] | None = None,
    ) -> None:
        self._output, self._config, self._slot = output, config, slot
        self.name = "download"
        #: The last state from the master; None while it works.
        self.state: GrantState | None = None
        self._stop = threading.Event()
        self._disk = DiskPause(output, config.machine.disk_wait)
        self._worker: Worker | None = None
        content = read_join(join) if isinstance(join, Path) else join
        self._join = content.at(connect) if connect else content
        self._guard = Guard(allow_private=config.machine.allow_private)
        self._settings: dict[str, Any] = {}
        #: Whether the master may visit private hosts that this machine may not; then the master requests robots.txt.
        self._is_outside = False
        #: Sum of the progress of earlier workers, which used older settings.
        self._done = WorkerProgress()
        self._frontier = RemoteFrontier(
            self._join, wait=config.machine.wait, on_wait=on_wait, on_settings=self._update_settings, stop=self._stop
        )

    def run(self) -> GrantState:
        """Work until the end; return ``drained`` if the crawl is over, ``draining`` if the master or the user stops it.

        Raises:
            CrawlerError: an error of the disk, the master or the key.
        """
        self._refuse_other_crawl()
        store = LocalStore(self._output)
        CrawlDirectory(self._output).create()  # a disk that can't be used ends the command here, without a wait
        if self._slot is None:  # else the master on this machine has done so
            store.clear_parts()
        with ExitStack() as stack:
            stack.callback(self._frontier.close)
            self._wait_for_disk(lambda: claim(self._output, self._join.mark))
            slot, release = self._wait_for_disk(self._take_slot)
            stack.callback(release)
            # The name comes from the directory, also if other machines save into the same bucket.
            name = self._wait_for_disk(lambda: _worker_name(store, slot))
            about = about_this_machine()
            # Report the finished work of earlier runs before the frontier gives their leases to others.
            self._settings = self._frontier.hello(name, PROTOCOL, structs.replace(about, stays=True, life=""))
            _warn_of_release(self._settings.pop("release", ""))
            self._take_exemptions(self._settings)
            self._report_leftovers(name, slot)
            self._frontier.hello(name, PROTOCOL, about)
            while True:
                terms = self._settings, self._is_outside
                self.state = self._work(name, slot, self._settings)
                if terms == (self._settings, self._is_outside) or self._stop.is_set():
                    return self.state

    def _work(self, name: str, slot: int, settings: dict[str, Any]) -> GrantState:
        """Work with these settings, until the end or until the master sends other ones."""
        own = {"machine": to_builtins(self._config.machine)}
        config = CrawlConfig.load(("the master's settings", settings), ("this machine", own))
        results = self._wait_for_disk(lambda: self._open_results(config, name, slot))
        worker, close = build_downloader(
            name,
            self._frontier,
            config,
            results,
            self._guard,
            self._disk,
            asks_robots=not self._is_outside,
            in_loop=True,
        )
        self._worker = worker
        try:
            return "draining" if self._stop.is_set() else worker.run()
        finally:
            close()
            results.close()
            self._worker, self._done = None, _add_up(self._done, worker.progress)

    def _update_settings(self, settings: dict[str, Any]) -> None:
        """Take the settings of a restarted master; if they differ, a new worker replaces the current one."""
        settings.pop("release", "")
        was_outside = self._is_outside
        self._take_exemptions(settings)
        if settings != self._settings:
            _log.warning("the master's settings have changed; this downloader uses the new ones from now on")
        if (settings, self._is_outside) != (self._settings, was_outside):
            self._settings = settings
            if self._worker is not None:
                self._worker.stop()

    def _take_exemptions(self, settings: dict[str, Any]) -> None:
        """Permit the private hosts of the crawl's seeds, if the master is on this machine."""
        exempt = exemptions_in(settings)
        settings.pop("exempt", None)
        if self._frontier.is_local:
            self._guard.exempt(exempt)
        else:
            self._is_outside = bool(exempt) and not self._config.machine.allow_private

    def _refuse_other_crawl(self) -> None:
        """Raise `ConfigError` for the directory of another crawl, whose master would not know these pictures."""
        # A process with a given slot was started by the crawl's own master.
        crawl = CrawlDirectory(self._output)
        if self._slot is not None or not crawl.exists():
            return
        if not crawl.join.exists() or read_join(crawl.join).key != self._join.key:
            raise ConfigError(f"{self._output} is the directory of another crawl; choose another one with -o")

    def _open_results(self, config: CrawlConfig, name: str, slot: int) -> ResultStore:
        return result_store_for(self._store(config), name, slot, self._join.mark, self._output)

    def _store(self, config: CrawlConfig) -> Store:
        return store_at(self._config.machine.store or self._output, config.download.durability)

    def _report_leftovers(self, name: str, slot: int) -> None:
        """Report the outcomes that dead workers of this directory had finished but not reported."""
        results = result_store_for(self._store(self._config), name, slot, self._join.mark, self._output)
        for worker, outcomes, forget in results.unacknowledged():
            _log.info("action=report worker=%s outcomes=%d", worker, len(outcomes))
            try:
                results.settle(outcomes, self._frontier.complete(worker, outcomes, ()), worker=worker)
            except MessageError as error:  # of another release, or damaged: this run must work all the same
                _log.warning("can't report the results that the earlier downloader %s had finished: %s", worker, error)
            forget()
        results.close()

    def _take_slot(self) -> tuple[int, Callable[[], None]]:
        """Return a number, part of the worker's name, that no other running process has, and its release function.

        The frontier takes the leases of a name from it when it joins. With a shared name, work would be done twice.
        """
        slots = range(_MAX_SLOTS) if self._slot is None else [self._slot]
        patience = 0.0 if self._slot is None else _ORPHAN_SECONDS
        for slot in slots:
            release = try_to_own(self._output, name=f".lock-{slot}", patience=patience)
            if release is not None:
                return slot, release
        raise DiskError(f"other downloaders are running in {self._output}; choose another directory with -o")

    def _wait_for_disk(self, act: Callable[[], Result]) -> Result:
        """Call ``act``, and retry while the disk is unavailable."""
        return self._disk.through(act, self._stop)

    def stop(self) -> None:
        """Finish the downloads in progress and give the other leases back."""
        self._stop.set()
        if self._worker is not None:
            self._worker.stop()

    def abort(self) -> None:
        """Stop, and abort the downloads in progress."""
        self._stop.set()
        if self._worker is not None:
            self._worker.abort()

    @property
    def progress(self) -> WorkerProgress:
        worker = self._worker
        return _add_up(self._done, worker.progress) if worker is not None else self._done


def _add_up(one: WorkerProgress, other: WorkerProgress) -> WorkerProgress:
    """Return the sum of the progress of two workers, of which the second one is running."""
    return WorkerProgress(
        saved=one.saved + other.saved,
        duplicates=one.duplicates + other.duplicates,
        failed=one.failed + other.failed,
        unchanged=one.unchanged + other.unchanged,
        received=one.received + other.received,
        leases=other.leases,
        trouble=other.trouble,
    )


def _warn_of_release(release: object) -> None:
    """Log a warning if the master runs another release."""
    if isinstance(release, str) and release not in ("", __version__):
        _log.warning(
            "the master runs release %.64s, this downloader %s; they work together, no action is needed",
            release,
            __version__,
        )


def _worker_name(store: LocalStore, slot: int) -> str:
    """Return the name of the worker that saves into a store; it stays the same after a restart."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", platform.node())[:64] or "machine"
    return f"{host}/{store.id[:8]}-{slot}"
