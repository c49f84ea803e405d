"""Edit the records of a stopped crawl, for changes that depend on all records together.

All changes are made in one transaction, so that a kill leaves all of them or none. Until they are finished, the crawl
is marked as not cleanly ended, as its manifest is out of date.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from crawler.frontier.ledger.database import disk_errors, open_tables
from crawler.frontier.ledger.integrity import MARK, mark_of, telling_damage
from crawler.frontier.ledger.records import page_of_records
from crawler.frontier.ledger.rows import PAGE, RECORD, WAITING, encode
from crawler.frontier.ledger.schema import LEFT
from crawler.frontier.offline.requeue import BeforeChange
from crawler.model import ImageRecord

_PATHS = msgspec.json.Decoder(set[str])

_SELECT = "SELECT seq, data FROM record_data WHERE seq > ? ORDER BY seq LIMIT ?"
_BEFORE = "SELECT (SELECT COUNT(*) FROM record WHERE seq < ?), COALESCE(MAX(seq), 0) FROM record"
_SET = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
#: Remove a record that is no longer a first copy from the index; then change the columns of the record.
_FORGET = "DELETE FROM copy_index WHERE row = :seq AND key = (SELECT copy FROM record WHERE seq = :seq)"
_CHANGE = (
    "UPDATE record SET status = :status, store = :store, copy = CASE WHEN :status = 'success' THEN copy END,"
    " twin = CASE WHEN NOT :is_dropped THEN twin END WHERE seq = :seq"
)
_WAITING = f"SELECT record FROM request WHERE state = {WAITING} AND record"  # noqa: S608  # ours
_WRITE = "UPDATE record_data SET data = :data WHERE seq = :seq"


class RecordEdit:
    """Write access to the records of a stopped crawl; use `editing_records` to open it. Methods raise `DiskError`."""

    def __init__(self, database: sqlite3.Connection, where: Path) -> None:
        self._db, self._where = database, where
        self._mark = mark_of(database)
        #: Paths of files that no record names since their records took the file of another picture. Includes paths from
        #: earlier changes, until `forget_left` is called.
        left = database.execute("SELECT value FROM meta WHERE name = ?", (LEFT,)).fetchone()
        self.left = _PATHS.decode(left[0]) if left else set()

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """See `crawler.frontier.base.Frontier.records`."""
        with self._errors():
            return page_of_records(self._db, after, limit)

    def all(self, after: int = 0) -> Iterator[tuple[int, ImageRecord]]:
        """Yield number and record of each record above a number, as stored. Keep one page in memory at a time."""
        while rows := self._stored(after):
            yield from rows
            after = rows[-1][0]

    def _stored(self, after: int) -> list[tuple[int, ImageRecord]]:
        with self._errors():
            return [(seq, RECORD.decode(data)) for seq, data in self._db.execute(_SELECT, (after, PAGE))]

    def change(self, revised: Callable[[ImageRecord], ImageRecord], before: BeforeChange) -> int:
        """Replace each record by the result of ``revised``. Return the number of records that changed.

        A success may become a dropped duplicate; ``revised`` must not change any other state. If any record changes,
        ``before`` is called first, as in `crawler.frontier.offline.requeue`.
        """
        first = next((seq for seq, record in self.all() if revised(record) != record), None)
        if first is None:
            return 0
        changed = 0
        with self._errors():
            self._db.execute(_SET, (MARK, b"1"))
            before(*self._db.execute(_BEFORE, (first,)).fetchone())
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for seq, record in self.all(first - 1):
                    new = revised(record)
                    if new != record:
                        self._write(seq, new)
                        changed += 1
                    if record.status == "success" and new.is_dropped:
                        self.left.add(record.path)
                self._db.execute(_SET, (LEFT, encode(sorted(self.left))))
        return changed

    def past(self) -> Iterator[str]:
        """Yield paths of files that a record named before a refresh."""
        with self._errors():
            yield from (str(path) for (path,) in self._db.execute("SELECT path FROM past"))

    def waiting(self) -> Iterator[int]:
        """Yield the numbers of records whose requests wait again, so that a new verdict may replace each record."""
        with self._errors():
            yield from (int(seq) for (seq,) in self._db.execute(_WAITING))

    def forget_left(self) -> None:
        """Clear the list of files to delete, as they are deleted."""
        with self._errors():
            self._db.execute("DELETE FROM meta WHERE name = ?", (LEFT,))

    def end(self) -> None:
        """Restore the mark from before the change, once the change is complete, including the manifest."""
        with self._errors():
            if self._mark is not None:
                self._db.execute(_SET, (MARK, self._mark))

    def _write(self, seq: int, record: ImageRecord) -> None:
        values = {
            "seq": seq,
            "status": record.status,
            "store": record.store,
            "is_dropped": record.is_dropped,
            "data": encode(record),
        }
        if record.status != "success":
            self._db.execute(_FORGET, values)
        self._db.execute(_CHANGE, values)
        self._db.execute(_WRITE, values)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with telling_damage(self._where), disk_errors(str(self._where)):
            yield


@contextmanager
def editing_records(path: Path) -> Iterator[RecordEdit]:
    """Open the database of a stopped crawl to edit its records. Raises `DiskError`."""
    with telling_damage(path, is_opening=True), disk_errors(str(path)):
        database = open_tables(path)
    with closing(database):
        yield RecordEdit(database, path)
