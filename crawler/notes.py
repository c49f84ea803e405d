"""What a worker has finished and the frontier has not answered yet, noted on the worker's own disk.

A note is written the moment a picture is done, and forgotten once the frontier has decided about it. Whoever starts in
the same directory after a kill finds it and tells it, so that nothing is fetched twice for want of an answer.
"""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import msgspec

from crawler.lock import try_to_own
from crawler.model import Outcome
from crawler.storage import disk_faults

_log = logging.getLogger(__name__)

_NAME = ".told-{}.jsonl"
_JSON = msgspec.json.Encoder()


class Left(NamedTuple):
    """What a dead worker has left untold."""

    worker: str
    outcomes: list[Outcome]
    #: To be called once it is told.
    forget: Callable[[], None]


class Notes:
    """The notes of one worker; any thread may add to them. Every method raises `crawler.errors.DiskError`.

    Args:
        root: the worker's directory.
        worker: its name, under which the notes are to be told.
        slot: its number among those that share the directory.
    """

    def __init__(self, root: Path, worker: str, slot: int) -> None:
        self._root, self._worker, self._slot = root, worker, slot
        self._path = root / _NAME.format(slot)
        self._lock = Lock()
        self._file: FileIO | None = None
        self._open = 0

    def add(self, outcome: Outcome) -> None:
        """Note an outcome before it is told."""
        with self._lock, disk_faults(self._path):
            lines: list[object] = [outcome]
            if self._file is None:
                self._file = FileIO(self._path, "ab")
                lines.insert(0, self._worker)
            self._write(_JSON.encode_lines(lines))
            self._open += 1

    def settle(self, number: int) -> None:
        """So many of them are answered; with the last one all are forgotten."""
        with self._lock, disk_faults(self._path):
            self._open -= number
            if self._open <= 0 and self._file is not None:
                self._file.truncate(0)
                self._write(_JSON.encode_lines([self._worker]))

    def left(self) -> Iterator[Left]:
        """The notes of this worker's earlier lives, and of others in this directory that are dead; before any `add`."""
        for path in sorted(self._root.glob(_NAME.format("*"))):
            slot = path.name.partition("-")[2].partition(".")[0]
            release = _nothing if slot == str(self._slot) else try_to_own(self._root, name=f".lock-{slot}")
            if release is None:
                continue
            try:
                with disk_faults(path):
                    first, *lines = path.read_bytes().splitlines() or [b'""']
                yield Left(
                    _worker(first) or self._worker, list(_outcomes(lines)), partial(path.unlink, missing_ok=True)
                )
            finally:
                release()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._close()

    def _write(self, lines: bytes) -> None:
        """All of the lines, or none of them; whoever writes after that begins with the worker's name again."""
        assert self._file is not None  # noqa: S101  # it was opened
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)
            self._close()
            raise

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _worker(line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _outcomes(lines: list[bytes]) -> Iterator[Outcome]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Outcome)
        except (msgspec.DecodeError, UnicodeDecodeError):  # torn, when it was killed
            _log.info("action=drop-note")


def _nothing() -> None:
    pass
