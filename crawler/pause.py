"""When a disk refuses for a while: nothing more is begun, one line says so, and it goes on by itself.

Full, over quota, read-only, failing, out of handles: none of it is a request's fault, and most of it passes once
somebody has freed some space. So what was under way goes back uncharged, and a small real write finds out every few
seconds whether the disk takes something again.
"""

import errno
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from crawler.entries import PICTURES, need_pictures
from crawler.errors import DiskError, DiskTrouble, NoHandles
from crawler.frontier.base import Frontier
from crawler.model import Grant, Kind, Outcome, Renewal, Verdict
from crawler.storage import probe

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Seconds between two looks at first; doubled up to the most while one look after the other promises too much.
_LOOK_EVERY, _LOOK_AT_LEAST = 2.0, 30.0
#: A full disk has to have so many bytes free before we go on, or that part of it where it is small: else it is full
#: again with the next picture.
_LOW_WATER, _LOW_PART = 64 * 2**20, 20
#: Seconds between two attempts to tell a master whose own disk is in trouble, or to hear whether ours is well.
_RETRY = 1.0
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
    """The trouble of one directory's disk, for all that works with it; any method may be called from any thread.

    Args:
        place: the directory.
        patience: seconds for which trouble may last without any success; 0: none is waited for.
        clock: monotonic seconds.
    """

    def __init__(
        self, place: Path = Path(), patience: float = 0.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._place, self._patience, self._clock = place, patience, clock
        self._lock = threading.Lock()
        self._error: DiskError | None = None
        self._trouble = ""
        #: Clock times at which this pause began, and of the next look.
        self._began = self._next_look = 0.0
        #: Seconds of the pauses before it since something has worked, and whether there were any.
        self._waited = 0.0
        self._is_again = False
        self._every = _LOOK_EVERY
        self._is_suspect = False

    @property
    def is_on(self) -> bool:
        """Whether nothing is to be begun."""
        return bool(self._trouble)

    @property
    def trouble(self) -> str:
        """What is wrong, in two or three words; empty: nothing."""
        return self._trouble

    def begin(self, error: DiskError) -> bool:
        """The disk has refused; returns whether that may be waited for."""
        if not isinstance(error, DiskTrouble) or not self._patience:
            return False
        with self._lock:
            if not self._trouble:
                self._begin(error)
        return True

    def suspect(self) -> None:
        """Somebody else has trouble with what may be the same disk: look at once."""
        self._is_suspect = True

    def worked(self) -> None:
        """Something was kept: whatever comes now is new trouble."""
        self._waited = 0.0

    def look(self) -> bool:
        """Whether it is on; tries the disk if it is time to.

        Raises:
            DiskError: it has lasted for too long.
        """
        with self._lock:
            if self._is_suspect and not self._trouble and self._patience:
                self._is_suspect = False
                refusal = self._refusal(is_full=True)
                if refusal is not None:
                    self._begin(refusal)
            if self._trouble and self._clock() >= self._next_look:
                self._try()
            return self.is_on

    def through(self, act: Callable[[], Result], stop: threading.Event) -> Result:
        """Do something, however long the disk refuses.

        Raises:
            DiskError: it is not to be waited for, has lasted for too long, or ``stop`` is set.
        """
        while True:
            try:
                return act()
            except DiskError as error:
                if not self.begin(error):
                    raise
                while self.look():
                    if stop.wait(_RETRY):
                        raise

    def _begin(self, error: DiskError) -> None:
        self._began = now = self._clock()
        self._is_again = self._waited > 0
        # Handles are there as soon as fewer things are done; space, only when somebody has made some.
        is_slower = self._is_again and not isinstance(error, NoHandles)
        self._every = min(2 * self._every, _LOOK_AT_LEAST) if is_slower else _LOOK_EVERY
        self._error, self._trouble = error, _words(error)
        self._next_look = now + min(self._every, self._left(now))
        if not self._is_again:
            _log.warning(
                "paused: %s (%s%s); %s, or ends after %.0f s",
                *(self._trouble, *self._tightest(), _advice(error, self._trouble), self._patience),
            )

    def _try(self) -> None:
        assert self._error is not None  # noqa: S101  # it is on
        now = self._clock()
        left = self._left(now)
        refusal = self._refusal(is_full=self._trouble == _FULL)
        # Where it has promised so before and nothing could be kept since, it is not believed for ever.
        if refusal is None and (left > 0 or not self._is_again):
            if not self._is_again:
                _log.warning("going on: %s can be written again%s", *self._tightest())
            self._waited += now - self._began
            self._error, self._trouble = None, ""
        elif left <= 0:
            raise self._error
        else:
            self._next_look = now + min(self._every, left)

    def _left(self, now: float) -> float:
        """Seconds of patience that are left."""
        return max(0.0, self._patience - self._waited - (now - self._began))

    def _refusal(self, *, is_full: bool) -> DiskError | None:
        """Why nothing can be kept now; None: something can."""
        try:
            for place in _disks(self._place):
                probe(place)
                usage = shutil.disk_usage(place)
                if is_full and usage.free < min(_LOW_WATER, usage.total // _LOW_PART):
                    return _full(place)
        except DiskError as error:
            return error
        except OSError as error:
            return DiskTrouble(f"can't use {self._place}: {error.strerror}")
        return None

    def _tightest(self) -> tuple[Path, str]:
        """The directory; where space is the trouble, that of its disks which has the least, and how much."""
        if self._trouble not in _SPACE:
            return self._place, ""
        try:
            free, place = min((shutil.disk_usage(place).free, place) for place in _disks(self._place))
        except (OSError, DiskTrouble):
            return self._place, ""
        return place, f", {free / _MB:.1f} MB free"


class Patient:
    """A frontier whose own disk may be in trouble: what it refuses to take then is told again until it does.

    Args:
        frontier: the frontier.
        over: when set, nobody waits any more.
    """

    def __init__(self, frontier: Frontier, over: threading.Event) -> None:
        self._frontier, self._over = frontier, over

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        """Nothing, while it has trouble."""
        try:
            return self._frontier.lease(worker, kinds, limit, seconds, wait)
        except DiskTrouble:
            self._over.wait(_RETRY)
            return Grant(retry_in=_RETRY)

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        return self._insist(lambda: self._frontier.extend(worker, tokens, seconds))

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        return self._insist(lambda: self._frontier.complete(worker, outcomes, ended_turns))

    def _insist(self, call: Callable[[], Result]) -> Result:
        while True:
            try:
                return call()
            except DiskTrouble:
                if self._over.wait(_RETRY):
                    raise


def _disks(place: Path) -> list[Path]:
    """What there is of a directory, and its pictures where they are on another disk. Raises OSError, `DiskTrouble`."""
    need_pictures(place)
    found = next((one for one in (place, *place.parents) if one.exists()), place)
    pictures = place / PICTURES
    if pictures.is_dir() and _device(pictures) != _device(found):
        return [found, pictures]
    return [found]


def _device(place: Path) -> int:
    return place.stat().st_dev


def _full(place: Path) -> DiskTrouble:
    error = DiskTrouble(f"can't use {place}: the disk is full: free some space, then start the same command again")
    error.__cause__ = OSError(errno.ENOSPC, "")
    return error


def _advice(error: DiskError, trouble: str) -> str:
    if isinstance(error, NoHandles):
        return "goes on by itself, with fewer things at a time"
    return f"goes on by itself once {'some space is free' if trouble in _SPACE else 'it can be written'}"


def _words(error: DiskError) -> str:
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        return _FULL if "full" in str(cause) else _FAILING
    if isinstance(error, NoHandles):
        return _WORDS[errno.EMFILE]
    return _WORDS.get(getattr(cause, "errno", None) or 0, _FAILING)
