"""Sets of files that may not fit into memory, each in a temporary file of SQLite."""

import os
import sqlite3
from collections.abc import Iterator

from crawler.model import ImageRecord

#: Number of rows that are read at a time.
_PAGE = 1_000


def temporary_database(*statements: str) -> sqlite3.Connection:
    """Return a database that no other connection can read, with these tables. Nothing is ever committed."""
    database = sqlite3.connect("", isolation_level=None)
    for statement in (*statements, "BEGIN"):
        database.execute(statement)
    return database


class FileSet:
    """A set of keys of files: hashes or paths."""

    def __init__(self) -> None:
        self._db = temporary_database("CREATE TABLE file (key BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, key: str) -> bool:
        """Add a key. Return whether it is new."""
        return self._db.execute("INSERT OR IGNORE INTO file VALUES (?)", (os.fsencode(key),)).rowcount == 1

    def __contains__(self, key: str) -> bool:
        rows = self._db.execute("SELECT 1 FROM file WHERE key = ?", (os.fsencode(key),))  # a path may not be UTF-8
        return rows.fetchone() is not None

    def close(self) -> None:
        self._db.close()


class DroppedPictures:
    """The files that stand for dropped near-duplicates, each with one worker."""

    def __init__(self) -> None:
        self._db = temporary_database(
            "CREATE TABLE picture (path TEXT, store TEXT, worker TEXT, PRIMARY KEY (path, store))"
        )

    def add(self, record: ImageRecord) -> None:
        row = record.path, record.store, record.worker
        self._db.execute("INSERT OR IGNORE INTO picture VALUES (?,?,?)", row)

    def __iter__(self) -> Iterator[ImageRecord]:
        for path, store, worker in self._db.execute("SELECT path, store, worker FROM picture"):
            yield ImageRecord(url="", path=path, store=store, worker=worker)

    def close(self) -> None:
        self._db.close()


class LostPictures:
    """The pictures whose files are missing or damaged."""

    def __init__(self) -> None:
        self._db = temporary_database(
            "CREATE TABLE lost (store TEXT, path TEXT, sha256 TEXT, PRIMARY KEY (store, path))"
        )

    def add(self, store: str, path: str, sha256: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO lost VALUES (?,?,?)", (store, path, sha256))

    def all(self) -> Iterator[tuple[str, str, str]]:
        """Yield path, SHA-256 and store of each lost picture. The caller may call `forget` meanwhile."""
        after = 0
        query = "SELECT rowid, path, sha256, store FROM lost WHERE rowid > ? ORDER BY rowid LIMIT ?"
        while rows := self._db.execute(query, (after, _PAGE)).fetchall():
            after = rows[-1][0]
            yield from ((path, sha256, store) for _, path, sha256, store in rows)

    def has(self, store: str, path: str) -> bool:
        row = self._db.execute("SELECT 1 FROM lost WHERE store = ? AND path = ?", (store, path)).fetchone()
        return row is not None

    def forget(self, store: str, path: str) -> None:
        self._db.execute("DELETE FROM lost WHERE store = ? AND path = ?", (store, path))

    def close(self) -> None:
        self._db.close()
