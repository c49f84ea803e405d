"""A map from 64-bit keys to row numbers on disk, whose newest part is written late and in order."""

import sqlite3
from collections.abc import Collection, Iterable

import msgspec

#: Keys that gather in memory, some 140 bytes each, before they are written.
GATHERED = 2**16


class Index:
    """Finds rows by keys that are random numbers.

    A random key written by itself dirties a page of its own, 4 KiB for 12 bytes; written in order with tens of
    thousands of others, a fraction of one. So new keys stay in memory until there are enough. Nothing is lost with the
    memory: every key stands in its own row too, where the owner reads those again that were not yet written.

    Args:
        database: where the table is.
        name: the table's name.
        newer: the keys and rows that were not written when the table was last in use.
    """

    def __init__(self, database: sqlite3.Connection, name: str, newer: Iterable[tuple[int, int]]) -> None:
        self._find = f"SELECT key, row FROM {name} WHERE key IN (SELECT value FROM json_each(?))"  # noqa: S608  # ours
        self._write = f"INSERT OR REPLACE INTO {name} VALUES (?,?)"  # noqa: S608
        self._database = database
        self._newer = dict(newer)
        #: Keys of the transaction under way, and whether it writes.
        self._fresh: list[int] = []
        self._is_writing = False

    def find(self, keys: Collection[int]) -> dict[int, int]:
        """The rows of those keys that are known."""
        newer = self._newer
        found = {key: newer[key] for key in keys if key in newer}
        wanted = [key for key in keys if key not in newer]
        if wanted:
            found.update(self._database.execute(self._find, (msgspec.json.encode(wanted).decode(),)))
        return found

    def add(self, key: int, row: int) -> None:
        """Remember a key; of two rows with the same one, the later is found."""
        self._newer[key] = row
        self._fresh.append(key)

    def write(self) -> bool:
        """Write what has gathered, if it is enough, within a transaction; whether it was."""
        if len(self._newer) >= GATHERED:
            self._database.executemany(self._write, sorted(self._newer.items()))
            self._is_writing = True
        return self._is_writing

    def committed(self) -> None:
        """The transaction is durable."""
        if self._is_writing:
            self._newer.clear()
        self._fresh.clear()
        self._is_writing = False

    def rolled_back(self) -> None:
        """The transaction did not happen."""
        for key in self._fresh:
            self._newer.pop(key, None)
        self._fresh.clear()
        self._is_writing = False
