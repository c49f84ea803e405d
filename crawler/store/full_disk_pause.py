"""A pause of the crawl while its disk is unavailable: one log line, no new work, and automatic resumption.

The disk may be full, over quota, read-only or failing, or the process may be out of file descriptors. No request
causes this, and most of it ends when the user frees some space. So unfinished requests are returned without counting
an attempt, and a small real write checks every few seconds whether the disk accepts data again.
"""

import errno
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from crawler.errors import DiskError, DiskTrouble, NoHandles
from crawler.store.disk import disk_faults, probe
from crawler.store.files import PICTURES, need_pictures

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: First and longest interval between two probes in seconds; it doubles while writes fail after successful probes.
_PROBE_SECONDS, _MAX_PROBE_SECONDS = 2.0, 30.0
#: Bytes that a full disk must have free before work resumes, or on a small disk this fraction (1/20) of its size:
#: with less, the next image would fill it again.
_MIN_FREE, _MIN_FREE_DIVISOR = 64 * 2**20, 20
#: Seconds between two reports to a master whose disk is unavailable, and between two checks of our own disk.
RETRY_SECONDS = 1.0
_MB = 1_000_000

_WORDS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EROFS: "disk read-only",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
}
_FAILING = "disk reports errors"
_FULL = _WORDS[errno.ENOSPC]
_SPACE = (_FULL, _WORDS[errno.EDQUOT])


class DiskPause:
    """The state of one directory's disk, used by all code that writes there; any thread may call any method.

    Args:
        directory: the directory.
        patience: seconds for which the disk may be unavailable without any success; 0: no waiting.
        clock: returns monotonic seconds.
    """

    def __init__(
        self, directory: Path = Path(), patience: float = 0.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory, self._patience, self._clock = directory, patience, clock
        self._lock = threading.Lock()
        self._error: DiskError | None = None
        #: Clock times of the start of this pause, or of the last successful write in it, and of the next probe.
        self._began = self._next_probe = 0.0
        #: Seconds of the earlier pauses since the last successful write, and whether there were any.
        self._waited = 0.0
        self._is_repeated = False
        self._interval = _PROBE_SECONDS
        self._is_suspect = False

    @property
    def is_on(self) -> bool:
        """Whether the crawl is paused, so that no new work may start."""
        return self._error is not None

    @property
    def trouble(self) -> str:
        """The problem in two or three words; empty if there is none."""
        error = self._error  # another thread may end the pause meanwhile
        return "" if error is None else _describe(error)

    def begin(self, error: DiskError) -> bool:
        """Start a pause after a disk error. Return False if waiting is pointless or not allowed."""
        if not isinstance(error, DiskTrouble) or not self._patience:
            return False
        with self._lock:
            if self._error is None:
                self._begin(error)
        return True

    def suspect(self) -> None:
        """Probe the disk at the next `look`: another process reports an error of what may be the same disk."""
        self._is_suspect = True

    def worked(self) -> None:
        """Record a successful write: it restarts the patience, and a later problem counts as a new one."""
        with self._lock:
            self._waited = 0.0
            self._began = self._clock()

    def look(self) -> bool:
        """Return whether the crawl is paused; probe the disk if a probe is due.

        Raises:
            DiskError: the pause has lasted longer than the patience.
        """
        with self._lock:
            if self._is_suspect and self._error is None and self._patience:
                self._is_suspect = False
                error = self._probe(is_full=True)
                if error is not None:
                    self._begin(error)
            if self._error is not None and self._clock() >= self._next_probe:
                self._try_to_resume()
            return self.is_on

    def through(self, act: Callable[[], Result], stop: threading.Event) -> Result:
        """Call ``act`` until the disk allows it, and return its result.

        Raises:
            DiskError: waiting is pointless or not allowed, it took longer than the patience, or ``stop`` is set.
        """
        while True:
            try:
                return act()
            except DiskError as error:
                if not self.begin(error):
                    raise
                while self.look():
                    if stop.wait(RETRY_SECONDS):
                        raise

    def _begin(self, error: DiskError) -> None:
        self._began = now = self._clock()
        self._is_repeated = self._waited > 0
        # Descriptors are free as soon as less work runs; space, only when the user has freed some.
        is_slower = self._is_repeated and not isinstance(error, NoHandles)
        self._interval = min(2 * self._interval, _MAX_PROBE_SECONDS) if is_slower else _PROBE_SECONDS
        self._error = error
        self._next_probe = now + min(self._interval, self._remaining(now))
        if not self._is_repeated:
            _log.warning(
                "paused: %s (%s%s); %s, or ends after %.0f s",
                *(self.trouble, *self._fullest_disk(), _advice(error, self.trouble), self._patience),
            )

    def _try_to_resume(self) -> None:
        assert self._error is not None  # noqa: S101  # a pause has an error
        now = self._clock()
        remaining = self._remaining(now)
        error = self._probe(is_full=self.trouble == _FULL)
        # A probe that succeeds is trusted only within the patience if writes have failed after an earlier one.
        if error is None and (remaining > 0 or not self._is_repeated):
            if not self._is_repeated:
                _log.warning("resumed: %s accepts data again%s", *self._fullest_disk())
            self._waited += now - self._began
            self._error = None
        elif remaining <= 0:
            raise self._error
        else:
            self._next_probe = now + min(self._interval, remaining)

    def _remaining(self, now: float) -> float:
        """Return the remaining seconds of patience."""
        return max(0.0, self._patience - self._waited - (now - self._began))

    def _probe(self, *, is_full: bool) -> DiskError | None:
        """Write to each disk of the directory; return the error, or None if all accept data."""
        try:
            with disk_faults(self._directory):
                for folder in _disks(self._directory):
                    probe(folder)
                    usage = shutil.disk_usage(folder)
                    if is_full and usage.free < min(_MIN_FREE, usage.total // _MIN_FREE_DIVISOR):
                        with disk_faults(folder):
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except DiskError as error:
            return error
        return None

    def _fullest_disk(self) -> tuple[Path, str]:
        """Return the directory; if space is the problem, the folder on its disk with the least space, and how much."""
        if self.trouble not in _SPACE:
            return self._directory, ""
        try:
            free, folder = min((shutil.disk_usage(folder).free, folder) for folder in _disks(self._directory))
        except (OSError, DiskTrouble):
            return self._directory, ""
        return folder, f", {free / _MB:.1f} MB free"


def _disks(directory: Path) -> list[Path]:
    """Return one folder on each disk of a directory. Raise OSError or `DiskTrouble`.

    The first is the directory or its closest existing parent; the second, its images, if they are on another disk.
    """
    need_pictures(directory)
    existing = next((folder for folder in (directory, *directory.parents) if folder.exists()), directory)
    pictures = directory / PICTURES
    if pictures.is_dir() and _device(pictures) != _device(existing):
        return [existing, pictures]
    return [existing]


def _device(folder: Path) -> int:
    return folder.stat().st_dev


def _advice(error: DiskError, trouble: str) -> str:
    if isinstance(error, NoHandles):
        return "resumes by itself, with less parallel work"
    return f"resumes by itself once {'some space is free' if trouble in _SPACE else 'the disk accepts data again'}"


def _describe(error: DiskError) -> str:
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        return _FULL if "full" in str(cause) else _FAILING
    if isinstance(error, NoHandles):
        return _WORDS[errno.EMFILE]
    return _WORDS.get(getattr(cause, "errno", None) or 0, _FAILING)
