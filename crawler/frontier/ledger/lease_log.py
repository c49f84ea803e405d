"""``leases.log``: the open leases, so that a restarted master does not lease the same requests to other workers.

It has one JSON line for each turn that was leased or ended, written without a sync: it survives the death of the
process. After a power cut its tail may be missing, and requests are merely delivered again. For the same reason nothing
here raises: a failed read or write is only logged, and the ledger reports the disk error.
"""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from crawler.frontier.ledger.database import make_private

_log = logging.getLogger(__name__)

#: Bytes after which the file is rewritten with only the open leases.
_COMPACT_AT = 16 * 2**20


class LeasedTurn(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="lease"):
    """Present state of a leased turn: its worker, host, open rows, and the seconds of its last grant."""

    turn: str
    worker: str
    host: str
    rows: tuple[int, ...]
    seconds: float
    #: Whether its host is free again, and only verdicts are missing.
    is_ended: bool = False
    #: Fingerprint of the key of its tokens; with another key, the lease is void.
    era: str


class SettledEntry(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="off"):
    """Rows that are no longer leased, and turns that are over."""

    rows: tuple[int, ...] = ()
    turns: tuple[str, ...] = ()


class LostEntry(Struct, frozen=True, kw_only=True, tag="lost"):
    """Rows whose delivery ended without a verdict, each with its number of losses so far."""

    rows: dict[int, int]
    era: str


_LogEntry = LeasedTurn | SettledEntry | LostEntry
_DECODER = msgspec.json.Decoder(_LogEntry)


class LeaseLog:
    """The log file; if its path is None, nothing is written."""

    def __init__(self, path: Path | None, *, is_read_only: bool = False) -> None:
        self._path = path
        self._is_read_only = is_read_only
        self._file: IO[bytes] | None = None
        self._size = 0
        #: Whether the file lacks a line, or its last line is torn.
        self._is_broken = False

    def replay(self, era: str | None = None) -> tuple[list[LeasedTurn], dict[int, int]]:
        """Return the turns of an era (None: any) that are open at the end of the file, and the losses of each row."""
        turns: dict[str, LeasedTurn] = {}
        holder: dict[int, str] = {}
        losses: dict[int, int] = {}
        for entry in self._read():
            if not isinstance(entry, SettledEntry) and era not in (None, entry.era):
                continue
            if isinstance(entry, LeasedTurn):
                turns[entry.turn] = entry
                holder |= dict.fromkeys(entry.rows, entry.turn)
            elif isinstance(entry, LostEntry):
                losses |= entry.rows
            else:
                for row in entry.rows:
                    holder.pop(row, None)
                    losses.pop(row, None)
                for name in entry.turns:
                    turns.pop(name, None)
        open_turns = [
            msgspec.structs.replace(turn, rows=tuple(row for row in turn.rows if holder.get(row) == turn.turn))
            for turn in turns.values()
        ]
        return open_turns, losses

    def write(self, *entries: _LogEntry) -> None:
        """Append entries to the file."""
        if self._path is None or self._is_read_only:
            return
        data = _lines(entries)
        try:
            if self._file is None:
                make_private(self._path)
                self._file = self._path.open("ab", buffering=0)
            self._is_broken |= self._file.write(data) != len(data)
        except OSError as error:
            self._warn(error)
        self._size += len(data)

    @property
    def wants_restart(self) -> bool:
        """Whether the file is too long or incomplete, so that the caller should call `restart`."""
        return self._is_broken or self._size > _COMPACT_AT

    def restart(self, entries: Collection[_LogEntry]) -> None:
        """Replace the file by one with only these entries, or delete it if there are none."""
        self.close()
        if self._path is None or self._is_read_only:
            return
        lines = _lines(entries)
        fresh = self._path.with_suffix(".new")
        try:
            if lines:
                make_private(fresh)
                fresh.write_bytes(lines)
                fresh.replace(self._path)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            self._warn(error)
        else:
            self._size, self._is_broken = 0, False

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _warn(self, error: OSError) -> None:
        if not self._is_broken:
            _log.info("cannot write %s: %s", self._path, error.strerror)
        self._is_broken = True

    def _read(self) -> Iterable[_LogEntry]:
        if self._path is None or not self._path.exists():
            return
        try:
            with self._path.open("rb") as lines:
                for line in lines:
                    try:
                        yield _DECODER.decode(line)
                    except (msgspec.DecodeError, UnicodeDecodeError):
                        _log.info("ignored a torn line in %s", self._path)
        except OSError as error:
            _log.info("cannot read %s: %s", self._path, error.strerror)


def _lines(entries: Iterable[_LogEntry]) -> bytes:
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
