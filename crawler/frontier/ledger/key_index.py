"""An on-disk map from 64-bit keys to row numbers. New keys stay in memory and are written later, in key order."""

import sqlite3
from collections.abc import Collection, Iterable
from hashlib import blake2b

import msgspec

from crawler.frontier.ledger.bulk import BulkStatement, write_rows

#: Number of keys, some 140 bytes each, that gather in memory before they are written.
_GATHERED = 2**16
#: Bytes of the bitmap, in which each key of the table sets one bit. With ten million keys in the table, three new keys
#: of four are recognised as new without reading the disk.
#: Then the number of keys that are entered in the bitmap at a time when a crawl is resumed.
_MARKS, _PORTION = 2**22, 4_096


class KeyIndex:
    """An index of rows by keys that are random numbers.

    A random key that is written alone dirties a whole page: 4 KiB for 12 bytes. Written in order with tens of thousands
    of others, it dirties a fraction of a page. So new keys stay in memory until there are enough of them. A crash loses
    no key: each key is also a column of its own row, and the index reads those that were not yet written from there.

    Most lookups are for new keys, and SQLite would read a page to find out that a key is new. So each key that is
    written sets a bit of a bitmap, chosen by the key's last bits. A key without its bit is not in the table. After a
    restart, the bits of the stored keys are set again a portion at a time.

    Args:
        database: the database with the table, and with a table ``meta`` that holds the last row that is in the index.
        name: the name of the table.
        newer: a query for the keys and rows above a row number.
    """

    def __init__(self, database: sqlite3.Connection, name: str, newer: str) -> None:
        self._keys = f"SELECT key FROM {name} WHERE key >= ? ORDER BY key LIMIT {_PORTION}"  # noqa: S608  # ours
        self._find = f"SELECT key, row FROM {name} WHERE key IN (SELECT value FROM json_each(?))"  # noqa: S608
        self._write = BulkStatement(f"INSERT OR REPLACE INTO {name} VALUES ", "(?,?)")  # noqa: S608
        self._database, self._name = database, name
        self._newer: dict[int, int] = dict(database.execute(newer, (written(database, name),)))
        #: Keys that the current transaction has changed, with their previous rows; and whether it writes the index.
        self._before: dict[int, int | None] = {}
        self._is_writing = False
        self._marks = bytearray(_MARKS)
        #: The first key of the table that may lack its bit; None if all bits are set.
        self._unmarked_from: int | None = -(2**63)
        self.mark()

    def mark(self) -> None:
        """Set the bits of one more portion of the keys that were stored before this process began."""
        if self._unmarked_from is not None:
            keys = [key for (key,) in self._database.execute(self._keys, (self._unmarked_from,))]
            self._set_marks(keys)
            self._unmarked_from = min(keys[-1] + 1, 2**63 - 1) if len(keys) == _PORTION else None

    def _set_marks(self, keys: Iterable[int]) -> None:
        marks = self._marks
        for key in keys:
            marks[key >> 3 & _MARKS - 1] |= 1 << (key & 7)

    def find(self, keys: Collection[int]) -> dict[int, int]:
        """Return the rows of those keys that are in the index."""
        newer = self._newer
        rows = {key: newer[key] for key in keys if key in newer}
        wanted = [key for key in keys if key not in newer]
        if self._unmarked_from is None:
            marks = self._marks
            wanted = [key for key in wanted if marks[key >> 3 & _MARKS - 1] >> (key & 7) & 1]
        if wanted:
            rows.update(self._database.execute(self._find, (msgspec.json.encode(wanted).decode(),)))
        return rows

    def add(self, key: int, row: int) -> None:
        """Add a key. If it already has a row, the new row replaces it."""
        self._before.setdefault(key, self._newer.get(key))
        self._newer[key] = row

    def add_all(self, keys: Collection[int], row: int) -> None:
        """Add distinct keys: the first with this row, the others with the rows that follow."""
        newer = self._newer
        before: dict[int, int | None] = dict.fromkeys(keys)
        before.update((key, newer[key]) for key in newer.keys() & keys)
        self._before = before | self._before
        newer.update(zip(keys, range(row, row + len(keys)), strict=True))

    def remove(self, key: int) -> None:
        """Delete a key at once, within a transaction. Do nothing if the key is not in the index."""
        self._database.execute(f"DELETE FROM {self._name} WHERE key = ?", (key,))  # noqa: S608  # ours
        if key in self._newer:
            self._before.setdefault(key, self._newer.pop(key))

    def write(self, last: int) -> None:
        """Write the gathered keys, if there are enough, at the end of a transaction; ``last`` is the last row."""
        if len(self._newer) >= _GATHERED:
            write_rows(self._database, self._write, sorted(self._newer.items()))
            self._set_marks(self._newer)
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (self._name, str(last).encode()))
            self._is_writing = True

    def committed(self) -> None:
        """Forget the previous rows of changed keys, as the transaction is durable."""
        if self._is_writing:
            self._newer.clear()
        self._before.clear()
        self._is_writing = False

    def rolled_back(self) -> None:
        """Restore the keys in memory, as the transaction was rolled back."""
        for key, before in self._before.items():
            if before is None:
                self._newer.pop(key, None)
            else:
                self._newer[key] = before
        self._before.clear()
        self._is_writing = False


def written(database: sqlite3.Connection, name: str) -> int:
    """Return the last row whose key is in the index on disk."""
    last = database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return int(last[0]) if last else 0


def key_of(text: str, secret: bytes) -> int:
    """Return the 64-bit key of a text. Without the secret, an attacker cannot choose texts with equal keys.

    The secret is a prefix of the hashed data. BLAKE2 resists length extension, so a prefix is as safe as BLAKE2's own
    key parameter, and faster.
    """
    return int.from_bytes(blake2b(secret + text.encode(), digest_size=8).digest(), "big", signed=True)
