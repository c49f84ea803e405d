"""The file that a crawl is kept in: its tables, and whose it is.

What is read and changed all the time stands in narrow rows, a hundred to a page, and what only travels (URLs, words,
manifest rows) in tables of its own: a change dirties few pages, and a start reads past a million requests in a second.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crawler.errors import DiskError, DiskTrouble

#: Version of the tables.
SCHEMA = 3
#: Name under which paths are noted whose files are to go: a record has named each until a moment ago.
LEFT = "left"
#: Marks a file as ours ("imgc"), so that nobody's other database is taken for a crawl.
_APPLICATION = 0x696D6763

#: Errors of the disk that may pass, and those among them that do not: what was written there is gone.
_PASSING = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
_UNREADABLE = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ})

_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "busy_timeout=5000",
    "cache_size=-32768",  # KiB
    "wal_autocheckpoint=8000",  # pages, 32 MB: what is written again and again goes into the file once
    "journal_size_limit=67108864",
)
_TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE origin (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rules BLOB,"
    " rules_until REAL NOT NULL DEFAULT 0)",
    "CREATE TABLE host (name TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
    # hash: of kind and URL; record: number of its manifest row, 0 where it has none
    "CREATE TABLE request (id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, kind INTEGER NOT NULL,"
    " origin INTEGER NOT NULL, priority INTEGER NOT NULL, seed INTEGER NOT NULL, state INTEGER NOT NULL,"
    " attempts INTEGER NOT NULL, not_before REAL NOT NULL, reason TEXT NOT NULL, record INTEGER NOT NULL)",
    "CREATE TABLE request_data (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE request_index (key INTEGER PRIMARY KEY, row INTEGER NOT NULL)",
    "CREATE INDEX seed ON request (origin) WHERE seed",
    # copy: hash of the SHA-256 where this is the first copy of its bytes; twin: the same where it is a later one,
    # unless that has no file of its own and leans on another picture's
    "CREATE TABLE record (seq INTEGER PRIMARY KEY AUTOINCREMENT, request INTEGER NOT NULL, status TEXT NOT NULL,"
    " bytes INTEGER NOT NULL, store TEXT NOT NULL, copy INTEGER, twin INTEGER, change TEXT NOT NULL)",
    "CREATE INDEX twin ON record (twin) WHERE twin NOTNULL",
    "CREATE TABLE record_data (seq INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE copy_index (key INTEGER PRIMARY KEY, row INTEGER NOT NULL)",
    # visit: how to ask whether a page is still the same; past: files that a record has named before a refresh
    "CREATE TABLE visit (request INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE past (path TEXT NOT NULL, store TEXT NOT NULL, PRIMARY KEY (path, store)) WITHOUT ROWID",
    # pin: hash of a URL, and the SHA-256 that its picture must have
    "CREATE TABLE pin (url INTEGER PRIMARY KEY, sha256 BLOB NOT NULL)",
    "CREATE TABLE store (id TEXT PRIMARY KEY, worker TEXT NOT NULL) WITHOUT ROWID",
)


def open_tables(path: Path | None) -> sqlite3.Connection:
    """The database of a crawl, made where it is missing; None: in memory.

    Raises:
        DiskError: it can't be had, or is somebody else's; nothing was written to it then.
    """
    where = str(path) if path else ":memory:"
    with disk_errors(where):
        database = sqlite3.connect(where, isolation_level=None, check_same_thread=False)
        try:
            is_new = not database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
            if not is_new:
                _refuse_others(database, where)
            for pragma in _PRAGMAS:
                database.execute(f"PRAGMA {pragma}")
            if is_new:
                _make(database)
        except BaseException:
            database.close()
            raise
    return database


def _make(database: sqlite3.Connection) -> None:
    """All tables or none: a master may be killed here too."""
    database.execute("BEGIN IMMEDIATE")
    for statement in (f"PRAGMA application_id={_APPLICATION}", f"PRAGMA user_version={SCHEMA}", *_TABLES):
        database.execute(statement)
    database.execute("COMMIT")


def _refuse_others(database: sqlite3.Connection, where: str) -> None:
    if not _is_ours(database):
        raise DiskError(f"{where} is a database of another program; choose another directory with -o")
    refuse_other_release(database, where)


def _is_ours(database: sqlite3.Connection) -> bool:
    return bool(database.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION)


def refuse_other_release(database: sqlite3.Connection, where: str) -> None:
    """Raise `DiskError` where it is a crawl's, of tables that this release does not know."""
    if not _is_ours(database):
        return
    schema = database.execute("PRAGMA user_version").fetchone()[0]
    if schema != SCHEMA:
        theirs = f"tables {schema}, this one has {SCHEMA}"
        raise DiskError(f"{where} was written by another release ({theirs}): go on with that one, or begin anew")


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turn SQLite's errors of the disk into ours, with a line that says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise
        if code & 0xFF == sqlite3.SQLITE_FULL or "full" in str(error):
            raise DiskTrouble(f"no space left for {where}; free some, then run the same command again") from error
        kind = DiskTrouble if code & 0xFF in _PASSING and code not in _UNREADABLE else DiskError
        raise kind(f"cannot use {where}: {error}") from error
