"""Image decoders in separate processes, so that a decoder that crashes, hangs or uses too much memory costs one image.

A few processes serve all threads of a worker. Each is started when it is first needed, kept for many images, killed
when it takes too long, and replaced when it has died. Its standard input is a pipe from the worker, and it ends when
that closes, so no decoder process outlives the worker.
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

from crawler.download.decoder_child import ANSWER, JOB, READY, DecoderResult
from crawler.download.formats.base import Outline
from crawler.download.verify import ImageInfo, prove
from crawler.errors import TOO_MANY_FILES, InvalidImage, NoHandles
from crawler.model import REASONS

_log = logging.getLogger(__name__)

#: Number of processes; more would only compete for processor and memory.
_PROCESSES = 2
#: Seconds that an image may take; on an idle machine the largest takes one.
_SECONDS = 15.0
#: Seconds that a process may take to start.
_START_SECONDS = 30.0
#: Longest answer in bytes; a result needs one line.
_MAX_ANSWER = 4_096
#: A perceptual hash (`crawler.download.phash_compute`), or nothing.
_PHASH = re.compile(r"(?:[0-9a-f]{128})?")
#: ``-P`` keeps the current directory out of the import path; `_PACKAGES` adds the package that runs here.
_COMMAND = (sys.executable, "-P", "-m", "crawler.download.decoder_child")
_PACKAGES = str(Path(__file__).parents[2])


class _Died(Exception):
    """The error for a decoder process that ended, or whose answer is invalid."""

    def __init__(self, *, is_late: bool = False) -> None:
        super().__init__(is_late)
        self.is_late = is_late


class DecoderPool:
    """A pool of decoder processes; any thread may call any method.

    Args:
        processes: largest number of processes.
        seconds: time that each image may take.
        command: the command that starts a process.
    """

    def __init__(
        self, processes: int = _PROCESSES, *, seconds: float = _SECONDS, command: Sequence[str] = _COMMAND
    ) -> None:
        self._seconds, self._command = seconds, command
        #: Whether a process was ever ready; if not even the first one starts, no image is the cause.
        self._has_started = False
        self._can_start = True
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._free: queue.LifoQueue[int] = queue.LifoQueue()  # the process used last has warm caches
        for slot in reversed(range(processes)):
            self._free.put(slot)
        self._finalizer = weakref.finalize(self, _end_all, self._running)

    @property
    def pids(self) -> list[int]:
        """The ids of the live processes."""
        return [process.pid for process in list(self._running.values()) if process.poll() is None]

    def prove(
        self, outline: Outline, max_pixels: int, *, with_phash: bool = False, of_crash: str = "corrupt"
    ) -> ImageInfo:
        """Return the result of `crawler.download.verify.prove`, which runs in a decoder process.

        Raises:
            InvalidImage: as `prove` does; ``of_crash`` if the decoder crashes, ``decompression-limit`` if it takes too
                long.
            NoHandles: there are too few file descriptors to start a process.
        """
        slot = self._free.get()
        try:
            if self._can_start:
                return self._ask(slot, outline, max_pixels, with_phash, of_crash)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise NoHandles(TOO_MANY_FILES) from error
            self._can_start = self._has_started
            _log.warning(
                "can't start a decoder process, so the downloader decodes pictures in its own process: %s", error
            )
        finally:
            self._free.put(slot)
        return prove(outline, max_pixels, with_phash=with_phash)

    def close(self) -> None:
        """End all processes; the next image starts new ones."""
        _end_all(self._running)

    def _ask(self, slot: int, outline: Outline, max_pixels: int, with_phash: bool, of_crash: str) -> ImageInfo:
        """Have a process decode the image. Try twice if it dies: the cause may be a kill from outside."""
        for _ in range(2):
            process = self._running.get(slot)
            if process is None or process.poll() is not None:
                process = self._start(slot)
            try:
                with _deadline(process, self._seconds):
                    result = _exchange(process, outline, max_pixels, with_phash)
                return _to_info(result, outline, with_phash)
            except _Died as error:
                self._discard(slot)
                if error.is_late:
                    raise InvalidImage("decompression-limit", f"{outline.format}: over {self._seconds:g} s") from error
        raise InvalidImage(of_crash, f"{outline.format}: the decoder crashed")

    def _start(self, slot: int) -> "subprocess.Popen[bytes]":
        """Start a process and return it when it is ready. Raise OSError if it ends before."""
        self._discard(slot)
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
            self._discard(slot)
            raise OSError(f"{self._command[0]} ended before it was ready") from error
        self._has_started = True
        return process

    def _discard(self, slot: int) -> None:
        process = self._running.pop(slot, None)
        if process is not None:
            _end(process)


@contextmanager
def _deadline(process: "subprocess.Popen[bytes]", seconds: float) -> Iterator[None]:
    """Kill the process when the time is up. Turn any error of its pipes into `_Died`."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, ValueError, _Died) as error:  # ValueError: another thread closed the pipe
        raise _Died(is_late=late.is_set()) from error
    finally:
        timer.cancel()


def _exchange(process: "subprocess.Popen[bytes]", outline: Outline, max_pixels: int, with_phash: bool) -> DecoderResult:
    if process.stdin is None or process.stdout is None:
        raise _Died
    kept = min(outline.kept, 2**63)
    numbers = max_pixels, outline.frames, outline.pixels, kept, len(outline.picture)
    head = JOB.pack(outline.format.encode(), *numbers, with_phash)
    process.stdin.write(head)
    process.stdin.write(outline.picture)
    process.stdin.flush()
    head = process.stdout.read(ANSWER.size)
    length = ANSWER.unpack(head)[0] if len(head) == ANSWER.size else _MAX_ANSWER + 1
    if length > _MAX_ANSWER:
        raise _Died
    try:
        return msgspec.msgpack.decode(process.stdout.read(length), type=DecoderResult)
    except msgspec.MsgspecError as error:
        raise _Died from error


def _to_info(result: DecoderResult, outline: Outline, with_phash: bool) -> ImageInfo:
    """Validate a result and return its content. A compromised decoder can fake only size, frames, hash and reason."""
    if result.reason:
        raise InvalidImage(result.reason if result.reason in REASONS else "corrupt", result.detail[:300])
    if min(result.width, result.height, result.frames) < 1 or not _PHASH.fullmatch(result.phash):
        raise _Died
    phash = result.phash if with_phash else ""
    return ImageInfo(outline.format, result.width, result.height, result.frames, phash)


def _end_all(running: "dict[int, subprocess.Popen[bytes]]") -> None:
    while running:
        _end(running.popitem()[1])


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    with suppress(OSError), process:  # closes the pipes and waits
        pass
