"""A map from 64-bit keys to row numbers on disk, whose newest part is written late and in order."""

import sqlite3
from collections.abc import Collection, Iterable

import msgspec

from crawler.frontier.bulk import Bulk, write_rows

#: Keys that gather in memory, some 140 bytes each, before they are written.
GATHERED = 2**16
#: Bytes of the marks, a bit for each key of the table: with ten million of them, three new ones of four are known to be
#: new without a look at the disk. And keys that are marked at a time, when a crawl goes on.
_MARKS, _PORTION = 2**22, 4_096


class Index:
    """Finds rows by keys that are random numbers.

    A random key written by itself dirties a page of its own, 4 KiB for 12 bytes; written in order with tens of
    thousands of others, a fraction of one. So new keys stay in memory until there are enough. Nothing is lost with the
    memory: every key stands in its own row too, where the owner reads those again that were not yet written.

    Most keys that are looked for are new, and SQLite would read a page to find that out. So each key that is written
    sets the mark that its last bits say; who has none, is not there. The marks of an earlier life come back by and by.

    Args:
        database: where the table is, and a table ``meta`` that says up to which row it is written.
        name: the table's name.
        newer: asks for the keys and rows above a number.
    """

    def __init__(self, database: sqlite3.Connection, name: str, newer: str) -> None:
        self._keys = f"SELECT key FROM {name} WHERE key >= ? ORDER BY key LIMIT {_PORTION}"  # noqa: S608  # ours
        self._find = f"SELECT key, row FROM {name} WHERE key IN (SELECT value FROM json_each(?))"  # noqa: S608
        self._write = Bulk(f"INSERT OR REPLACE INTO {name} VALUES ", "(?,?)")  # noqa: S608
        self._database, self._name = database, name
        self._newer: dict[int, int] = dict(database.execute(newer, (written(database, name),)))
        #: Keys that the transaction under way has touched, with the rows that they had before; and whether it writes.
        self._before: dict[int, int | None] = {}
        self._is_writing = False
        self._marks = bytearray(_MARKS)
        #: The first key of the table that may lack its mark; None: none does.
        self._unmarked_from: int | None = -(2**63)
        self.mark()

    def mark(self) -> None:
        """Give some more keys of an earlier life their marks."""
        if self._unmarked_from is not None:
            keys = [key for (key,) in self._database.execute(self._keys, (self._unmarked_from,))]
            self._set_marks(keys)
            self._unmarked_from = min(keys[-1] + 1, 2**63 - 1) if len(keys) == _PORTION else None

    def _set_marks(self, keys: Iterable[int]) -> None:
        marks = self._marks
        for key in keys:
            marks[key >> 3 & _MARKS - 1] |= 1 << (key & 7)

    def find(self, keys: Collection[int]) -> dict[int, int]:
        """The rows of those keys that are known."""
        newer = self._newer
        found = {key: newer[key] for key in keys if key in newer}
        wanted = [key for key in keys if key not in newer]
        if self._unmarked_from is None:
            marks = self._marks
            wanted = [key for key in wanted if marks[key >> 3 & _MARKS - 1] >> (key & 7) & 1]
        if wanted:
            found.update(self._database.execute(self._find, (msgspec.json.encode(wanted).decode(),)))
        return found

    def add(self, key: int, row: int) -> None:
        """Remember a key; of two rows with the same one, the later is found."""
        self._before.setdefault(key, self._newer.get(key))
        self._newer[key] = row

    def add_all(self, keys: Collection[int], row: int) -> None:
        """Remember different keys, of this row and those that follow it."""
        newer = self._newer
        before: dict[int, int | None] = dict.fromkeys(keys)
        before.update((key, newer[key]) for key in newer.keys() & keys)
        self._before = before | self._before
        newer.update(zip(keys, range(row, row + len(keys)), strict=True))

    def remove(self, key: int) -> None:
        """Forget a key at once, within a transaction; nothing happens where it is not known."""
        self._database.execute(f"DELETE FROM {self._name} WHERE key = ?", (key,))  # noqa: S608  # ours
        if key in self._newer:
            self._before.setdefault(key, self._newer.pop(key))

    def write(self, last: int) -> None:
        """Write what has gathered, if it is enough, at the end of a transaction; ``last`` is the last row there is."""
        if len(self._newer) >= GATHERED:
            write_rows(self._database, self._write, sorted(self._newer.items()))
            self._set_marks(self._newer)
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (self._name, str(last).encode()))
            self._is_writing = True

    def committed(self) -> None:
        """The transaction is durable."""
        if self._is_writing:
            self._newer.clear()
        self._before.clear()
        self._is_writing = False

    def rolled_back(self) -> None:
        """The transaction did not happen."""
        for key, before in self._before.items():
            if before is None:
                self._newer.pop(key, None)
            else:
                self._newer[key] = before
        self._before.clear()
        self._is_writing = False


def written(database: sqlite3.Connection, name: str) -> int:
    """The last row whose key is in an index on disk."""
    found = database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return int(found[0]) if found else 0
