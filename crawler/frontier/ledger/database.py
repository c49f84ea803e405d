"""The SQLite database of a crawl: how it is opened, its errors, and writes that are gathered for a transaction."""

import os
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from crawler.errors import DiskError, DiskTrouble
from crawler.frontier.ledger.bulk import BulkStatement, write_rows
from crawler.frontier.ledger.integrity import has_log, open_to_read
from crawler.frontier.ledger.key_index import key_of
from crawler.frontier.ledger.schema import APPLICATION, PRAGMAS, SCHEMA, TABLES

#: Disk errors that may be temporary; and read errors among them, which are permanent: written data is lost.
_PASSING = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
_UNREADABLE = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ})


class Database:
    """The connection to the database of a crawl, and the writes that its transaction has gathered.

    Raises:
        DiskError: from any method, if the disk is full, read-only or broken, or the file is not a crawl's.
    """

    def __init__(self, path: Path | None, *, is_read_only: bool = False) -> None:
        """Open the file, or create it unless ``is_read_only``; with None, keep everything in memory."""
        self._where = str(path) if path else ":memory:"
        self.connection = _read_tables(path) if path and is_read_only else open_tables(path)
        #: Rows that the current transaction writes at its end, by statement.
        self.gathered: defaultdict[str | BulkStatement, list[tuple[Any, ...]]] = defaultdict(list)
        try:
            #: Return the 64-bit key of a text, with the secret of this crawl.
            self.key = partial(key_of, secret=self.value_or_new("secret", secrets.token_bytes(32)))
        except BaseException:
            self.connection.close()
            raise

    def later(self, statement: str | BulkStatement, *values: Any) -> None:
        """Execute a statement at the end of the transaction, together with all others of its kind."""
        self.gathered[statement].append(values)

    def flush(self) -> None:
        """Write the changes that the transaction has gathered so far, so that reads see them."""
        for statement, rows in self.gathered.items():
            write_rows(self.connection, statement, rows)
        self.gathered.clear()

    def rows(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        """Return all rows that a query selects."""
        with self.errors():
            return self.connection.execute(query, values).fetchall()

    def rows_of(self, query: str, numbers: list[int]) -> list[tuple[Any, ...]]:
        """Return the rows for a list of numbers, the parameter of the query as JSON; none for an empty list."""
        return self.rows(query, msgspec.json.encode(numbers).decode()) if numbers else []

    def number(self, query: str) -> int:
        """Return the number that a query selects."""
        return int(self.rows(query)[0][0])

    def get_meta(self, name: str) -> bytes | None:
        """Return the value of a name in ``meta``, or None if there is none."""
        values = self.rows("SELECT value FROM meta WHERE name = ?", name)
        return bytes(values[0][0]) if values else None

    def set_meta(self, name: str, value: bytes) -> None:
        """Set the value of a name in ``meta``."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, value))

    def value_or_new(self, name: str, value: bytes) -> bytes:
        """Return the value of a name in ``meta``; set it if there is none."""
        stored = self.get_meta(name)
        if stored is None:
            self.set_meta(name, value)
        return stored or value

    def errors(self) -> AbstractContextManager[None]:
        """Turn errors of SQLite within the block into those of the disk."""
        return disk_errors(self._where)


def open_tables(path: Path | None) -> sqlite3.Connection:
    """Open the database of a crawl, or create it if it is missing; with None, create it in memory.

    Raises:
        DiskError: the database can't be opened, or another program or release created it. It is unchanged then.
    """
    where = str(path) if path else ":memory:"
    with disk_errors(where):
        if path is not None:
            make_private(path)  # SQLite creates -wal and -shm with the same mode
        database = sqlite3.connect(where, isolation_level=None, check_same_thread=False)
        try:
            is_new = not database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
            if not is_new:
                _refuse_others(database, where)
            for pragma in PRAGMAS:
                database.execute(f"PRAGMA {pragma}")
            if is_new:
                _create(database)
        except BaseException:
            database.close()
            raise
    return database


def make_private(path: Path) -> None:
    """Restrict a file to its owner, as it holds tokens or their secret. Create the file if it is missing."""
    with suppress(OSError):  # the caller opens the file next, and gets the same error
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            path.chmod(0o600)


def _read_tables(path: Path) -> sqlite3.Connection:
    """Open the database of a stopped crawl for reading only. Create and change no file.

    Raises:
        DiskError: the database cannot be read, or another program or release created it.
    """
    with disk_errors(str(path)):
        database = open_to_read(path, is_still=not has_log(path))
        try:
            _refuse_others(database, str(path))
        except BaseException:
            database.close()
            raise
    return database


def _create(database: sqlite3.Connection) -> None:
    """Create all tables in one transaction, so that a killed master leaves all of them or none."""
    database.execute("BEGIN IMMEDIATE")
    for statement in (f"PRAGMA application_id={APPLICATION}", f"PRAGMA user_version={SCHEMA}", *TABLES):
        database.execute(statement)
    database.execute("COMMIT")


def _refuse_others(database: sqlite3.Connection, where: str) -> None:
    if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise DiskError(f"{where} is a database of another program; choose another directory with -o")
    refuse_other_release(database, where)


def refuse_other_release(database: sqlite3.Connection, where: str) -> None:
    """Raise `DiskError` if this is the database of a crawl with tables of another release."""
    query = "SELECT * FROM pragma_application_id, pragma_user_version"
    application, schema = database.execute(query).fetchone()
    if application == APPLICATION and schema != SCHEMA:
        theirs = f"tables {schema}, this one has {SCHEMA}"
        raise DiskError(f"{where} was written by another release ({theirs}): use that release, or start a new crawl")


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turn disk errors of SQLite into `DiskError` or `DiskTrouble`, with a message that says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise
        if code & 0xFF == sqlite3.SQLITE_FULL or "full" in str(error):
            raise DiskTrouble(f"no space left for {where}; free some, then run the same command again") from error
        kind = DiskTrouble if code & 0xFF in _PASSING and code not in _UNREADABLE else DiskError
        raise kind(f"can't use {where}: {error}") from error
