"""``leases.log``: who holds what, so that a restarted master does not hand it out at once to somebody else.

One JSON line for each turn that was leased and each that came to an end, written without a sync: it survives the death
of the process, and after a power cut, where its tail may be missing, requests are merely delivered again.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from crawler.errors import DiskError

_log = logging.getLogger(__name__)

#: Bytes after which the file is written anew with what is still open.
_COMPACT_AT = 16 * 2**20


class LeasedTurn(Struct, frozen=True, kw_only=True, tag="lease"):
    """A turn on loan: its worker, host, open rows, and for how many seconds it was last granted."""

    turn: str
    worker: str
    host: str
    rows: tuple[int, ...]
    seconds: float


class Settled(Struct, frozen=True, kw_only=True, tag="off"):
    """Rows that are no longer on loan, and turns that have ended."""

    rows: tuple[int, ...] = ()
    turns: tuple[str, ...] = ()


class Lost(Struct, frozen=True, kw_only=True, tag="lost"):
    """Rows whose delivery ended without a verdict, with the number of times so far."""

    rows: dict[int, int]


_DECODER = msgspec.json.Decoder(LeasedTurn | Settled | Lost)


class Journal:
    """The file; with None as its path, nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._size = 0

    def replay(self) -> tuple[list[LeasedTurn], dict[int, int]]:
        """The turns that were open when the file was last written to, and the losses of each row."""
        turns: dict[str, LeasedTurn] = {}
        holder: dict[int, str] = {}
        losses: dict[int, int] = {}
        for entry in self._read():
            if isinstance(entry, LeasedTurn):
                turns[entry.turn] = entry
                holder |= dict.fromkeys(entry.rows, entry.turn)
            elif isinstance(entry, Lost):
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

    def write(self, *entries: LeasedTurn | Settled | Lost) -> None:
        """Append entries."""
        if self._path is None or not entries:
            return
        data = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        try:
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            self._file.write(data)
        except OSError as error:
            raise DiskError(f"cannot write {self._path}: {error.strerror}; make room, then run it again") from error
        self._size += len(data)

    @property
    def wants_compaction(self) -> bool:
        return self._size > _COMPACT_AT

    def restart(self, turns: Iterable[LeasedTurn], losses: dict[int, int]) -> None:
        """Begin the file anew with what is open."""
        self.close()
        self._size = 0
        if self._path is None:
            return
        entries: list[LeasedTurn | Lost] = [*turns, *([Lost(rows=losses)] if losses else [])]
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
            fresh.replace(self._path)
        except OSError as error:
            raise DiskError(f"cannot write {self._path}: {error.strerror}; make room, then run it again") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> Iterable[LeasedTurn | Settled | Lost]:
        if self._path is None or not self._path.exists():
            return
        with self._path.open("rb") as lines:
            for line in lines:
                try:
                    yield _DECODER.decode(line)
                except msgspec.DecodeError:
                    _log.warning("%s: a torn line is left out", self._path)
