"""Changing records after the fact, in the file of a crawl that nobody works at: what all of them together have told.

Done in one transaction, so that a kill leaves all of it or nothing; meanwhile the crawl counts as one that has not
ended well, as its manifest is behind.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from crawler.frontier.again import BeforeChange
from crawler.frontier.ledger import WAITING
from crawler.frontier.soundness import MARK, mark_of, telling_damage
from crawler.frontier.tables import LEFT, disk_errors, open_tables
from crawler.model import ImageRecord

_PAGE = 1_000

_RECORD = msgspec.json.Decoder(ImageRecord)
_PATHS = msgspec.json.Decoder(set[str])
_encode = msgspec.json.Encoder().encode

_SELECT = "SELECT seq, data FROM record_data WHERE seq > ? ORDER BY seq LIMIT ?"
_BEFORE = "SELECT COUNT(*) FROM record WHERE seq < ?"
_LAST = "SELECT COALESCE(MAX(seq), 0) FROM record"
_SET = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
#: Bytes that are no first copy any more are found no more; then the record's own columns.
_FORGET = "DELETE FROM copy_index WHERE row = :seq AND key = (SELECT copy FROM record WHERE seq = :seq)"
_CHANGE = (
    "UPDATE record SET status = :status, store = :store, copy = CASE WHEN :status = 'success' THEN copy END,"
    " twin = CASE WHEN NOT :is_dropped THEN twin END WHERE seq = :seq"
)
_WAITING = f"SELECT record FROM request WHERE state = {WAITING} AND record"  # noqa: S608  # ours
_WRITE = "UPDATE record_data SET data = :data WHERE seq = :seq"


class Revision:
    """The records of a crawl; `revising` opens it. Every method raises `DiskError`."""

    def __init__(self, database: sqlite3.Connection, where: Path) -> None:
        self._db, self._where = database, where
        self._mark = mark_of(database)
        #: Paths of files that are nobody's any more, as their records are left with another picture's; also of earlier
        #: times, until `forget_left`.
        self.left = self._read_left()

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """See `crawler.frontier.base.Frontier.records`."""
        with self._faults():
            return tuple((seq, _RECORD.decode(data)) for seq, data in self._db.execute(_SELECT, (after, limit)))

    def all(self, after: int = 0) -> Iterator[tuple[int, ImageRecord]]:
        """Every record above a number, with its own; a page of them in memory at a time."""
        while rows := self.records(after, _PAGE):
            yield from rows
            after = rows[-1][0]

    def change(self, revised: Callable[[ImageRecord], ImageRecord], before: BeforeChange) -> int:
        """Put what ``revised`` makes of each record in its place; returns how many are others now.

        A success may become one that is dropped; no other state changes. ``before`` is called as `put_back` does, if
        anything is to be changed at all.
        """
        first = next((seq for seq, record in self.all() if revised(record) != record), None)
        if first is None:
            return 0
        changed = 0
        with self._faults():
            self._db.execute(_SET, (MARK, b"1"))
            before(self._number(_BEFORE, first), self._number(_LAST))
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for seq, record in self.all(first - 1):
                    new = revised(record)
                    if new != record:
                        self._write(seq, new)
                        changed += 1
                    if record.status == "success" and new.is_dropped:
                        self.left.add(record.path)
                self._db.execute(_SET, (LEFT, _encode(sorted(self.left))))
        return changed

    def past(self) -> Iterator[str]:
        """Paths of files that a record has named before a refresh."""
        with self._faults():
            yield from (str(path) for (path,) in self._db.execute("SELECT path FROM past"))

    def waiting(self) -> Iterator[int]:
        """Numbers of the records of requests that wait again: a verdict to come may replace each of them."""
        with self._faults():
            yield from (int(seq) for (seq,) in self._db.execute(_WAITING))

    def forget_left(self) -> None:
        """The files that were left are gone."""
        with self._faults():
            self._db.execute("DELETE FROM meta WHERE name = ?", (LEFT,))

    def end(self) -> None:
        """All that follows from the change is done, the manifest included: the crawl has ended as it had before."""
        with self._faults():
            if self._mark is not None:
                self._db.execute(_SET, (MARK, self._mark))

    def _write(self, seq: int, record: ImageRecord) -> None:
        values = {
            "seq": seq,
            "status": record.status,
            "store": record.store,
            "is_dropped": record.is_dropped,
            "data": _encode(record),
        }
        if record.status != "success":
            self._db.execute(_FORGET, values)
        self._db.execute(_CHANGE, values)
        self._db.execute(_WRITE, values)

    def _read_left(self) -> set[str]:
        found = self._db.execute("SELECT value FROM meta WHERE name = ?", (LEFT,)).fetchone()
        return _PATHS.decode(found[0]) if found else set()

    def _number(self, query: str, *values: int) -> int:
        return int(self._db.execute(query, values).fetchone()[0])

    @contextmanager
    def _faults(self) -> Iterator[None]:
        with telling_damage(self._where), disk_errors(str(self._where)):
            yield


@contextmanager
def revising(path: Path) -> Iterator[Revision]:
    """The file of a crawl that nobody works at, to be revised. Raises `DiskError`."""
    with telling_damage(path, is_opening=True), disk_errors(str(path)):
        database = open_tables(path)
    with closing(database):
        yield Revision(database, path)
