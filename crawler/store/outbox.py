"""The outbox of a worker: finished outcomes that the frontier has not acknowledged yet, on the worker's own disk.

An outcome is added as soon as its image is done, and removed once the frontier has acknowledged it. After a kill, the
next worker in the same directory reports it, so that no image is fetched twice because of a lost acknowledgement.
"""

import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import msgspec

from crawler.model import Outcome
from crawler.store.disk import disk_faults, write_file
from crawler.store.lock import try_to_own

_log = logging.getLogger(__name__)

_NAME = ".told-{}.jsonl"
#: Bytes of acknowledged outcomes that the file may contain, in addition to as many as the unacknowledged ones have.
_SLACK = 65_536
_JSON = msgspec.json.Encoder()


class OutboxContents(NamedTuple):
    """The unacknowledged outcomes of a dead worker."""

    worker: str
    outcomes: list[Outcome]
    #: Removes the file; the caller calls it once the outcomes are acknowledged.
    forget: Callable[[], None]


class Outbox:
    """The outbox of one worker; any thread may call any method. Every method raises `crawler.errors.DiskError`.

    The file grows with each outcome and each acknowledgement. It is rewritten once it is much longer than the
    unacknowledged outcomes.

    Args:
        root: the worker's directory.
        worker: the worker's name, under which its outcomes are reported.
        slot: the worker's number among those that share the directory.
    """

    def __init__(self, root: Path, worker: str, slot: int) -> None:
        self._root, self._worker, self._slot = root, worker, slot
        self._path = root / _NAME.format(slot)
        self._lock = Lock()
        self._file: FileIO | None = None
        #: Token → line, for each unacknowledged outcome; and the bytes of these lines, and of the file.
        self._pending: dict[str, bytes] = {}
        self._pending_bytes = self._size = 0
        #: Acknowledged tokens that are not yet written.
        self._acknowledged: list[str] = []

    def add(self, outcome: Outcome) -> None:
        """Add an outcome before it is reported."""
        line = _JSON.encode_lines([outcome])
        with self._lock, disk_faults(self._path):
            self._write(line)
            self._pending_bytes += len(line) - len(self._pending.get(outcome.token, b""))
            self._pending[outcome.token] = line

    def acknowledge(self, tokens: Iterable[str]) -> None:
        """Remove the outcomes with these tokens: they are acknowledged, or their leases were returned."""
        with self._lock, disk_faults(self._path):
            acknowledged = [token for token in dict.fromkeys(tokens) if token in self._pending]
            for token in acknowledged:
                self._pending_bytes -= len(self._pending.pop(token))
            self._acknowledged += acknowledged
            if self._size > _SLACK + 2 * self._pending_bytes:
                self._close()
                lines = [_JSON.encode_lines([self._worker]), *self._pending.values()]
                write_file(self._path, lines, sync=False)
                self._size = sum(map(len, lines))
                self._file, self._acknowledged = FileIO(self._path, "ab"), []
            elif self._acknowledged and self._file is not None:
                self._write(b"")

    def unacknowledged(self) -> Iterator[OutboxContents]:
        """Yield the outboxes of earlier runs of this worker, and of dead workers of this directory.

        The caller uses it before any `add`.
        """
        for path in sorted(self._root.glob(_NAME.format("*"))):
            slot = path.name.partition("-")[2].partition(".")[0]
            with ExitStack() as stack:
                if slot != str(self._slot):
                    release = try_to_own(self._root, name=f".lock-{slot}")
                    if release is None:
                        continue
                    stack.callback(release)
                with disk_faults(path):
                    entries = list(_entries(path.read_bytes()))
                worker = next((entry for entry in entries if isinstance(entry, str)), "") or self._worker
                yield OutboxContents(worker, _unacknowledged(entries), partial(path.unlink, missing_ok=True))

    def close(self) -> None:
        """Close the file; remove it if every outcome in it is acknowledged."""
        with self._lock, suppress(OSError):
            was_open = self._file is not None
            self._close()
            if was_open and not _unacknowledged(_entries(self._path.read_bytes())):
                self._path.unlink()

    def _write(self, lines: bytes) -> None:
        """Write the acknowledged tokens and then the lines, or nothing. First write the worker's name if it opens the
        file.
        """
        if self._acknowledged:
            lines = _JSON.encode_lines([self._acknowledged]) + lines
        if self._file is None:
            self._file = FileIO(self._path, "ab")
            lines = _JSON.encode_lines([self._worker]) + lines
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)
            self._close()
            raise
        self._size, self._acknowledged = end + len(lines), []

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _entries(data: bytes) -> Iterator[Outcome | list[str] | str]:
    """Yield the content of each line: an outcome, acknowledged tokens, or the name of the worker."""
    for line in data.splitlines():
        try:
            yield msgspec.json.decode(line, type=Outcome | list[str] | str)
        except (msgspec.DecodeError, UnicodeDecodeError):  # an incomplete line of a killed worker
            _log.info("action=drop-outcome")


def _unacknowledged(entries: Iterable[Outcome | list[str] | str]) -> list[Outcome]:
    """Return the outcomes that no later entry acknowledges."""
    pending: dict[str, Outcome] = {}
    for entry in entries:
        if isinstance(entry, Outcome):
            pending[entry.token] = entry
        elif isinstance(entry, list):
            for token in entry:
                pending.pop(token, None)
    return list(pending.values())
