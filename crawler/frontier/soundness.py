"""Whether the ledger's file can be trusted: a mark while a master works, and a check for whoever finds that mark.

SQLite survives a killed process and a power cut, but not a disk that lies, or a copy made while somebody wrote. A
master sets the mark before it begins and takes it away when it has ended well, so the next one knows. For a million
requests ``PRAGMA quick_check`` takes a second where the system has the file in memory, and ten where it has not: more
than a restart may take. So it has a head start, and goes on beside the work, on a connection that only reads. That is
safe: what is committed meanwhile stays so, and a page that SQLite itself finds broken ends the crawl at once.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from crawler.errors import DiskError

#: Name of the mark among the ledger's ``meta``.
MARK = "at-work"

_CACHE = "cache_size=-32768"  # KiB; with SQLite's own 2 MB the check takes several times as long
_PATIENCE = 5.0  # seconds for which somebody may be at recovering the write-ahead log
#: The last one is SQL that does not fit the tables, and ours fits those that we have made.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
#: What SQLite's module raises about a file; the second, where the message cites what is in it and is no text.
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
#: What rows that are not what was written lead to: in themselves, and in what is built of them at the start.
_FAULTY_ROWS = (*UNREADABLE, msgspec.MsgspecError)
_NONSENSE = (*_FAULTY_ROWS, ValueError, LookupError, TypeError, ArithmeticError)


class Check:
    """Looks at a file in a thread of its own, if the last master that worked on it has not ended well.

    Args:
        path: the ledger's file; there may be none yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: str | None = None
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        #: Whether nothing is left to be looked at.
        self.is_done = True
        with suppress(*UNREADABLE):  # whoever opens the file to work with it says why it can't be
            if path.exists():
                self._db = open_to_read(path)
                self.is_done = not mark_of(self._db)
        self._thread = threading.Thread(target=self._look, name="check", daemon=True)
        if self.is_done:
            self.stop()
        else:
            self._thread.start()

    def wait(self, seconds: float) -> None:
        """Give it so long; returns early when it is done.

        Raises:
            DiskError: the file is damaged.
        """
        if self._thread.ident is not None:
            self._thread.join(seconds)
        self.refuse_damage()

    def refuse_damage(self) -> None:
        """Raises `DiskError` where damage was found so far."""
        if self._found is not None:
            raise damaged(self._path, self._found)

    def stop(self) -> None:
        """Look no further."""
        with self._lock:
            if self._db is not None and self._thread.is_alive():
                self._db.interrupt()
        if self._thread.ident is not None:
            self._thread.join()
        if self._db is not None:
            self._db.close()
            self._db = None

    def _look(self) -> None:
        assert self._db is not None  # noqa: S101  # it is closed only once this thread is over
        try:
            ((first, *_),) = self._db.execute("PRAGMA quick_check(1)").fetchall()
        except UNREADABLE as error:
            if is_damage(error):
                self._found = str(error)
            return  # interrupted, or the disk is busy failing, which the work itself will meet
        self._found = None if first == "ok" else first
        self.is_done = True


def open_to_read(path: Path, *, is_still: bool = False) -> sqlite3.Connection:
    """A connection that can't write, also for the file of a master that is at work.

    Args:
        path: the file.
        is_still: nobody writes to it, and its write-ahead log is empty: then no file is made beside it either.
    """
    still = "&immutable=1" if is_still else ""
    place = f"{path.resolve().as_uri()}?mode=ro{still}"
    db = sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False, timeout=_PATIENCE)
    try:
        db.execute(f"PRAGMA {_CACHE}")
    except BaseException:
        db.close()
        raise
    return db


def mark_of(db: sqlite3.Connection) -> bytes | None:
    """The mark: empty, the last master has ended well; None, there was none that far."""
    found = db.execute("SELECT value FROM meta WHERE name = ?", (MARK,)).fetchone()
    return bytes(found[0]) if found and isinstance(found[0], bytes) else None


@contextmanager
def telling_damage(path: Path, *, is_opening: bool = False) -> Iterator[None]:
    """Turn what reading a damaged file leads to into a `DiskError` that says what to do.

    While it ``is_opening``, nothing but the file can be to blame, for whatever error there is.
    """
    caught = _NONSENSE if is_opening else _FAULTY_ROWS
    try:
        yield
    except DiskError as error:
        if is_damage(error.__cause__):
            raise damaged(path, str(error.__cause__)) from error
        raise
    except sqlite3.ProgrammingError:  # it was closed meanwhile
        raise
    except caught as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def damaged(path: Path, detail: str) -> DiskError:
    """The error about a file that can't be trusted."""
    advice = "put back a copy of it, or begin anew with another -o; pictures and manifest stay as they are"
    return DiskError(f"{path} is damaged ({' '.join(detail.split())[:200]}): {advice}")


def is_damage(error: BaseException | None) -> bool:
    """Whether an error of SQLite's is about what is in the file, not about the disk, or about somebody else at work."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, UnicodeDecodeError) or (isinstance(code, int) and code & 0xFF in _DAMAGE)
