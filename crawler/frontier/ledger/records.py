"""The table of records, with the first copy of each content and the stores."""

import sqlite3
from collections.abc import Collection, Iterable, Sequence

import msgspec

from crawler.frontier.ledger.bulk import BulkStatement
from crawler.frontier.ledger.database import Database
from crawler.frontier.ledger.key_index import KeyIndex
from crawler.frontier.ledger.listed_rows import read_records, with_rows
from crawler.frontier.ledger.rows import RECORD, blob, encode
from crawler.model import ImageRecord


class RecordTable:
    """All records of a crawl. Methods that write must be called within `Ledger.transaction`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        #: Number of the last record.
        self.last = database.number("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'record'")
        self.index = KeyIndex(
            database.connection, "copy_index", "SELECT copy, seq FROM record WHERE seq > ? AND copy NOTNULL"
        )
        #: First copies that the current transaction has looked up: SHA-256 → store and path, or None if there is none.
        self._copies: dict[str, tuple[str, str] | None] = {}
        #: Keys of these first copies: SHA-256 → key.
        self._keys: dict[str, int] = {}

    def begin(self) -> None:
        """Forget the copies that an earlier transaction has looked up."""
        self._copies, self._keys = {}, {}

    def recall_copies(self, sha256s: Iterable[str]) -> None:
        """Look up the first copies of these bytes in one query, before `first_copy` is called for each."""
        wanted = set(sha256s)
        self._copies |= dict.fromkeys(wanted)
        self._copies |= self.first_copies(wanted)

    def first_copy(self, sha256: str) -> tuple[str, str] | None:
        """Return store and path of the first copy of these bytes, or None if there is none yet."""
        if sha256 not in self._copies:
            self.recall_copies([sha256])
        return self._copies[sha256]

    def first_copies(self, sha256s: Collection[str]) -> dict[str, tuple[str, str]]:
        """Return store and path of the first copy of each of these bytes that has one."""
        keys = {sha256: self._db.key(sha256) for sha256 in sha256s}
        self._keys |= keys
        numbers = self.index.find(keys.values())
        firsts = [RECORD.decode(data) for _, data in self._db.rows_of(_SELECT_RECORDS, list(numbers.values()))]
        return {first.sha256: (first.store, first.path) for first in firsts}

    def write(self, request: int, record: ImageRecord, *, replaced: int) -> int:
        """Write the manifest row of a request; delete the replaced one (0: none). Return the number of the new one."""
        row = self.last = self.last + 1
        values = row, request, record.status, record.bytes, record.store, record.change
        if record.status == "failed" or record.is_dropped:
            self._db.gathered[_WRITE_OTHER].append(values)
        else:
            key = self._keys.get(record.sha256) or self._db.key(record.sha256)
            is_first = record.status == "success"
            self._db.gathered[_WRITE_FIRST if is_first else _WRITE_TWIN].append((*values, key))
            if is_first:
                self.index.add(key, row)
                self._copies[record.sha256] = record.store, record.path
        self._db.gathered[_WRITE_RECORD_DATA].append((row, blob(record)))
        if replaced:
            self._db.later("DELETE FROM record WHERE seq = ?", replaced)
            self._db.later("DELETE FROM record_data WHERE seq = ?", replaced)
        return row

    def of(self, requests: Collection[int]) -> dict[int, ImageRecord]:
        """Return the manifest rows of these requests, by request, for those that have one."""
        return {row: RECORD.decode(data) for row, _, data in self.numbered_of(list(requests))}

    def numbered_of(self, requests: list[int]) -> list[tuple[int, int, bytes]]:
        """Return the manifest rows of these requests: request, number of the record, and its JSON."""
        return self._db.rows_of(_SELECT_OF, requests)

    def forget_first(self, sha256: str) -> None:
        """Remove the first copy of these bytes from the index, as its record is about to be replaced."""
        self.index.remove(self._db.key(sha256))
        self._copies[sha256] = None

    def page(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """See `crawler.frontier.base.Frontier.records`."""
        with self._db.errors():
            return page_of_records(self._db.connection, after, limit)

    def relocate(self, numbers: Sequence[int], store: str) -> None:
        """Change the store of these records, as their pictures are now in another store."""
        for number, data in self._db.rows_of(_SELECT_RECORDS, list(numbers)):
            moved = msgspec.structs.replace(RECORD.decode(data), store=store)
            self._db.later("UPDATE record SET store = ? WHERE seq = ?", store, number)
            self._db.later("UPDATE record_data SET data = ? WHERE seq = ?", encode(moved), number)

    def add_store(self, store: str, worker: str) -> None:
        """Add a store, with the worker that was the first to save in it."""
        self._db.connection.execute("INSERT OR IGNORE INTO store VALUES (?,?)", (store, worker))

    def owners(self) -> dict[str, str]:
        """Return the stores, each with the worker that was the first to save in it."""
        return dict(self._db.rows("SELECT id, worker FROM store"))


def page_of_records(database: sqlite3.Connection, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
    """See `crawler.frontier.base.Frontier.records`."""
    rows = read_records(database, after, limit)
    return tuple((row.seq, with_rows(RECORD.decode(row.data), row.rows)) for row in rows)


_SELECT_RECORDS = "SELECT seq, data FROM record_data WHERE seq IN (SELECT value FROM json_each(?))"
_SELECT_OF = (
    "SELECT id, seq, data FROM request JOIN record_data ON seq = record WHERE id IN (SELECT value FROM json_each(?))"
)
# One statement each for a first copy, a later copy, and a record without a file: binding None is slow in sqlite3.
_WRITE_OTHER = BulkStatement("INSERT INTO record (seq, request, status, bytes, store, change) VALUES ", "(?,?,?,?,?,?)")
_WRITE_FIRST = BulkStatement(
    "INSERT INTO record (seq, request, status, bytes, store, change, copy) VALUES ", "(?,?,?,?,?,?,?)"
)
_WRITE_TWIN = BulkStatement(
    "INSERT INTO record (seq, request, status, bytes, store, change, twin) VALUES ", "(?,?,?,?,?,?,?)"
)
_WRITE_RECORD_DATA = BulkStatement("INSERT INTO record_data VALUES ", "(?,?)")
