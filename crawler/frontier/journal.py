"""``leases.log``: who holds what, so that a restarted master does not hand it out at once to somebody else.

One JSON line for each turn that was leased and each that came to an end, written without a sync: it survives the death
of the process, and after a power cut, where its tail may be missing, requests are merely delivered again. For the same
reason nothing here raises: what can't be written or read is a warning, and the disk's trouble is the ledger's to tell.
"""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

_log = logging.getLogger(__name__)

#: Bytes after which the file is written anew with what is still open.
_COMPACT_AT = 16 * 2**20


class LeasedTurn(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="lease"):
    """A turn on loan, as it stands now: its worker, host, open rows, and for how many seconds it was last granted."""

    turn: str
    worker: str
    host: str
    rows: tuple[int, ...]
    seconds: float
    #: Whether its host is free again, and only verdicts are still to come.
    is_ended: bool = False
    #: Names the key of its tokens; with another one, what was lent before is on loan no longer.
    era: str


class Settled(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="off"):
    """Rows that are no longer on loan, and turns that are over."""

    rows: tuple[int, ...] = ()
    turns: tuple[str, ...] = ()


class Lost(Struct, frozen=True, kw_only=True, tag="lost"):
    """Rows whose delivery ended without a verdict, with the number of times so far."""

    rows: dict[int, int]
    era: str


Note = LeasedTurn | Settled | Lost
_DECODER = msgspec.json.Decoder(Note)


class Journal:
    """The file; with None as its path, nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._size = 0
        #: Whether something is missing in the file, or its last line is torn.
        self._is_broken = False

    def replay(self, era: str | None = None) -> tuple[list[LeasedTurn], dict[int, int]]:
        """The turns of an era (None: any) that were open at the last line of the file, and the losses of each row."""
        turns: dict[str, LeasedTurn] = {}
        holder: dict[int, str] = {}
        losses: dict[int, int] = {}
        for note in self._read():
            if not isinstance(note, Settled) and era not in (None, note.era):
                continue
            if isinstance(note, LeasedTurn):
                turns[note.turn] = note
                holder |= dict.fromkeys(note.rows, note.turn)
            elif isinstance(note, Lost):
                losses |= note.rows
            else:
                for row in note.rows:
                    holder.pop(row, None)
                    losses.pop(row, None)
                for name in note.turns:
                    turns.pop(name, None)
        open_turns = [
            msgspec.structs.replace(turn, rows=tuple(row for row in turn.rows if holder.get(row) == turn.turn))
            for turn in turns.values()
        ]
        return open_turns, losses

    def write(self, *notes: Note) -> None:
        """Append notes."""
        if self._path is None:
            return
        data = _lines(notes)
        try:
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            self._is_broken |= self._file.write(data) != len(data)
        except OSError as error:
            self._warn(error)
        self._size += len(data)

    @property
    def wants_restart(self) -> bool:
        """Whether the file is too long, or no longer true."""
        return self._is_broken or self._size > _COMPACT_AT

    def restart(self, notes: Collection[Note]) -> None:
        """Begin the file anew with what is open; without any there is none."""
        self.close()
        if self._path is None:
            return
        lines = _lines(notes)
        fresh = self._path.with_suffix(".new")
        try:
            if lines:
                fresh.write_bytes(lines)
                fresh.replace(self._path)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            self._warn(error)
        else:
            self._size, self._is_broken = 0, False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _warn(self, error: OSError) -> None:
        if not self._is_broken:
            _log.info("cannot write %s: %s", self._path, error.strerror)
        self._is_broken = True

    def _read(self) -> Iterable[Note]:
        if self._path is None or not self._path.exists():
            return
        try:
            with self._path.open("rb") as lines:
                for line in lines:
                    try:
                        yield _DECODER.decode(line)
                    except (msgspec.DecodeError, UnicodeDecodeError):
                        _log.info("%s: a torn line is left out", self._path)
        except OSError as error:
            _log.info("cannot read %s: %s", self._path, error.strerror)


def _lines(notes: Iterable[Note]) -> bytes:
    return b"".join(msgspec.json.encode(note) + b"\n" for note in notes)
