"""Integrity of the ledger's file: a mark while a master works, and a check at every start.

SQLite survives a killed process and a power cut. It does not survive a disk that loses acknowledged writes, or a copy
made during a write. A master sets the mark before it begins and clears it when it ends cleanly. After an unclean end,
the mark stays until a check has finished. Bits may rot after a clean end as well, so the check runs then, too. For a
million requests, ``PRAGMA quick_check`` takes a second if the file is in the system's cache, and ten seconds if not:
more than a restart may take. So the check has a head start, and then runs beside the crawl, on a connection that only
reads. That is safe: transactions committed meanwhile stay committed, and if SQLite itself meets a broken page, the
crawl ends at once.

The check finds broken pages and rows that are missing in an index. It cannot find a changed letter within a row.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from crawler.errors import DiskError

#: Name of the mark in the ledger's table ``meta``.
MARK = "at-work"

_CACHE = "cache_size=-32768"  # KiB; with SQLite's default of 2 MB the check takes several times as long
_PATIENCE = 5.0  # seconds to wait while another process recovers the write-ahead log
#: The last code means that a statement does not fit the tables. Our statements fit the tables that we created.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
#: Errors of `sqlite3` about a file; the second, if the message quotes bytes of the file that are not UTF-8.
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
#: Errors from rows that differ from those written: on decoding them, and on rebuilding the state at the start.
_FAULTY_ROWS = (*UNREADABLE, msgspec.MsgspecError)
_FAULTY_START = (*_FAULTY_ROWS, ValueError, LookupError, TypeError, ArithmeticError)


class IntegrityCheck:
    """A check of the ledger's file that runs in a separate thread.

    Args:
        path: the ledger's file, which may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._damage: str | None = None
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        #: Whether no check is needed any longer: the last master ended cleanly, or this check has finished.
        self.is_done = True
        with suppress(*UNREADABLE):  # the master opens the file next, and reports the error
            if path.exists():
                self._db = open_to_read(path)
                self.is_done = not mark_of(self._db)
        self._thread = threading.Thread(target=self._look, name="check", daemon=True)
        if self._db is not None:
            self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait up to this time for the check to end.

        Raises:
            DiskError: the file is damaged.
        """
        if self._thread.ident is not None:
            self._thread.join(seconds)
        self.refuse_damage()

    def refuse_damage(self) -> None:
        """Raise `DiskError` if the check has found damage so far."""
        if self._damage is not None:
            raise damaged(self._path, self._damage)

    def stop(self) -> None:
        """Stop the check and close its connection."""
        with self._lock:
            if self._db is not None and self._thread.is_alive():
                self._db.interrupt()
        if self._thread.ident is not None:
            self._thread.join()
        if self._db is not None:
            self._db.close()
            self._db = None

    def _look(self) -> None:
        assert self._db is not None  # noqa: S101  # `stop` closes it only after this thread has ended
        try:
            ((first, *_),) = self._db.execute("PRAGMA quick_check(1)").fetchall()
        except UNREADABLE as error:
            if is_damage(error):
                self._damage = str(error)
            return  # interrupted, or a disk error, which the crawl itself will meet
        self._damage = None if first == "ok" else first
        self.is_done = True


def open_to_read(path: Path, *, is_still: bool = False) -> sqlite3.Connection:
    """Open a read-only connection. A master may be writing to the file meanwhile.

    Args:
        path: the file.
        is_still: no process writes to the file, and its write-ahead log is empty; SQLite creates no file beside it.
    """
    immutable = "&immutable=1" if is_still else ""
    uri = f"{path.resolve().as_uri()}?mode=ro{immutable}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_PATIENCE)
    try:
        db.execute(f"PRAGMA {_CACHE}")
    except BaseException:
        db.close()
        raise
    return db


def has_log(path: Path) -> bool:
    """Return whether SQLite's write-ahead log exists and is not empty."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


def mark_of(db: sqlite3.Connection) -> bytes | None:
    """Return the mark: empty if the last master ended cleanly, or None if no master has set it yet."""
    mark = db.execute("SELECT value FROM meta WHERE name = ?", (MARK,)).fetchone()
    return bytes(mark[0]) if mark and isinstance(mark[0], bytes) else None


@contextmanager
def telling_damage(path: Path, *, is_opening: bool = False) -> Iterator[None]:
    """Turn errors from reading a damaged file into a `DiskError` that says what to do.

    With ``is_opening``, also turn errors such as `ValueError`: while the file is opened, only its content causes them.
    """
    caught = _FAULTY_START if is_opening else _FAULTY_ROWS
    try:
        yield
    except DiskError as error:
        if is_damage(error.__cause__):
            raise damaged(path, str(error.__cause__)) from error
        raise
    except sqlite3.ProgrammingError:  # the connection was closed meanwhile
        raise
    except caught as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def need_readable(path: Path) -> None:
    """Raise `DiskError` if this user may not read a crawl's database: it holds secrets, so only its owner may."""
    if not os.access(path, os.R_OK):
        raise DiskError(f"no permission to read {path}: run the command as the owner of that file")


def damaged(path: Path, detail: str) -> DiskError:
    """Return the error for a damaged file."""
    advice = "restore a backup, or start a new crawl with another -o; pictures and manifest stay as they are"
    return DiskError(f"{path} is damaged ({' '.join(detail.split())[:200]}): {advice}")


def is_damage(error: BaseException | None) -> bool:
    """Return whether an error of `sqlite3` means a damaged file, rather than a failing disk or a locked file."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, UnicodeDecodeError) or (isinstance(code, int) and code & 0xFF in _DAMAGE)
