"""Decoders in processes of their own: one that crashes, hangs or eats memory costs one picture, not a worker.

A few processes serve all threads of a worker. Each is started when it is first needed, kept for many pictures, killed
when it takes too long, and replaced when it has died. It holds a pipe from us as its standard input and ends when that
closes, so none outlives us, however we end.
"""

import errno
import logging
import os
import queue
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from crawler.download.child import ANSWER, JOB, READY, Verdict
from crawler.download.structure import Outline
from crawler.download.verify import ImageInfo, image_info, prove
from crawler.errors import InvalidImage, NoHandles
from crawler.model import REASONS

_log = logging.getLogger(__name__)

#: Processes; more than that at a time would only take each other's processor and memory.
_PROCESSES = 2
#: Seconds that a picture may take; on an idle machine the largest takes one.
_SECONDS = 15.0
#: Seconds in which one must have started.
_START_SECONDS = 30.0
#: Longest answer in bytes: a verdict has a line.
_MAX_ANSWER = 4_096
#: What a picture looks like, if that can be said (`crawler.download.phash`).
_PHASH = re.compile(r"(?:[0-9a-f]{128})?")
#: Without the current directory, but with the package that runs here, wherever that was found.
_COMMAND = (sys.executable, "-P", "-m", "crawler.download.child")
_PACKAGES = str(Path(__file__).parents[2])


class _Died(Exception):
    """The process ended, or answered what no verdict is."""

    def __init__(self, *, is_late: bool = False) -> None:
        super().__init__(is_late)
        self.is_late = is_late


class Decoders:
    """A few processes that decode; any thread may call it.

    Args:
        processes: how many at most.
        seconds: time that each picture may take.
        command: what starts one.
    """

    def __init__(
        self, processes: int = _PROCESSES, *, seconds: float = _SECONDS, command: Sequence[str] = _COMMAND
    ) -> None:
        self._seconds, self._command = seconds, command
        #: Whether one was ever ready; where not even the first one gets there, no picture is to blame.
        self._has_started = False
        self._can_start = True
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._free: queue.LifoQueue[int] = queue.LifoQueue()  # who was at work last is warm
        for slot in reversed(range(processes)):
            self._free.put(slot)
        self._finalizer = weakref.finalize(self, _end_all, self._running)

    @property
    def pids(self) -> list[int]:
        """Process ids of those that are alive."""
        return [process.pid for process in list(self._running.values()) if process.poll() is None]

    def prove(self, found: Outline, max_pixels: int, *, with_phash: bool = False) -> ImageInfo:
        """What `crawler.download.verify.prove` says, from another process.

        Raises:
            InvalidImage: as `prove` does; ``corrupt`` where its decoder crashes, ``decompression-limit`` where that
                takes too long.
            NoHandles: there are too few to start one.
        """
        slot = self._free.get()
        try:
            if self._can_start:
                return self._ask(slot, found, max_pixels, with_phash)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise NoHandles("too many open files: raise `ulimit -n` or use fewer threads with -t") from error
            self._can_start = self._has_started
            _log.warning("decoding in this process, as none can be started for it: %s", error)
        finally:
            self._free.put(slot)
        return prove(found, max_pixels, with_phash=with_phash)

    def close(self) -> None:
        """End them; the next picture starts new ones."""
        _end_all(self._running)

    def _ask(self, slot: int, found: Outline, max_pixels: int, with_phash: bool) -> ImageInfo:
        """Twice where it dies: somebody else may have killed it."""
        for _ in range(2):
            process = self._running.get(slot)
            if process is None or process.poll() is not None:
                process = self._start(slot)
            try:
                with _deadline(process, self._seconds):
                    verdict = _converse(process, found, max_pixels, with_phash)
                return _read(verdict, found, with_phash)
            except _Died as error:
                self._bury(slot)
                if error.is_late:
                    raise InvalidImage("decompression-limit", f"{found.format}: over {self._seconds:g} s") from error
        raise InvalidImage("corrupt", f"{found.format}: its decoder crashed")

    def _start(self, slot: int) -> "subprocess.Popen[bytes]":
        """A new process, once it is ready; raises OSError where it does not get that far."""
        self._bury(slot)
        process = self._running[slot] = subprocess.Popen(  # noqa: S603  # our own command
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_PACKAGES, os.environ.get("PYTHONPATH")]))},
        )
        try:
            with _deadline(process, _START_SECONDS):
                if process.stdout is None or process.stdout.read(len(READY)) != READY:
                    raise _Died
        except _Died as error:
            self._bury(slot)
            raise OSError(f"{self._command[0]} ends at once") from error
        self._has_started = True
        return process

    def _bury(self, slot: int) -> None:
        process = self._running.pop(slot, None)
        if process is not None:
            _end(process)


@contextmanager
def _deadline(process: "subprocess.Popen[bytes]", seconds: float) -> Iterator[None]:
    """Kill the process when the time is up; whatever its pipes raise is then, or otherwise, `_Died`."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, ValueError, _Died) as error:  # ValueError: a pipe that somebody closed
        raise _Died(is_late=late.is_set()) from error
    finally:
        timer.cancel()


def _converse(process: "subprocess.Popen[bytes]", found: Outline, max_pixels: int, with_phash: bool) -> Verdict:
    if process.stdin is None or process.stdout is None:
        raise _Died
    kept = min(found.kept, 2**63)
    numbers = max_pixels, found.frames, found.pixels, kept, len(found.picture)
    head = JOB.pack(found.format.encode(), *numbers, with_phash)
    process.stdin.write(head)
    process.stdin.write(found.picture)
    process.stdin.flush()
    head = process.stdout.read(ANSWER.size)
    length = ANSWER.unpack(head)[0] if len(head) == ANSWER.size else _MAX_ANSWER + 1
    if length > _MAX_ANSWER:
        raise _Died
    try:
        return msgspec.msgpack.decode(process.stdout.read(length), type=Verdict)
    except msgspec.MsgspecError as error:
        raise _Died from error


def _read(verdict: Verdict, found: Outline, with_phash: bool) -> ImageInfo:
    """What a verdict says. A decoder that was broken into may lie in it, but only about size, looks and reason."""
    if verdict.reason:
        raise InvalidImage(verdict.reason if verdict.reason in REASONS else "corrupt", verdict.detail[:300])
    if min(verdict.width, verdict.height, verdict.frames) < 1 or not _PHASH.fullmatch(verdict.phash):
        raise _Died
    phash = verdict.phash if with_phash else ""
    return image_info(found.format, verdict.width, verdict.height, verdict.frames, phash)


def _end_all(running: "dict[int, subprocess.Popen[bytes]]") -> None:
    while running:
        _end(running.popitem()[1])


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    with suppress(OSError), process:  # which closes the pipes and waits
        pass
