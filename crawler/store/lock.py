"""A lock on a directory, which ends with the process that holds it."""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from crawler.errors import DiskError
from crawler.store.disk import disk_faults


def try_to_own(directory: Path, *, name: str = ".lock", patience: float = 0.0) -> Callable[[], None] | None:
    """Return the function that releases the lock, or None if another process holds it for ``patience`` seconds.

    SQLite's lock on a database works on every system and ends with its owner. The file is never removed, because two
    processes could then each own a file of that name. It is not empty, because SQLite would keep a journal beside an
    empty file.
    """
    lock: sqlite3.Connection | None = None
    try:
        lock = sqlite3.connect(directory / name, isolation_level=None, check_same_thread=False, timeout=patience)
        lock.execute("BEGIN EXCLUSIVE")
        if not lock.execute("PRAGMA user_version").fetchone()[0]:
            lock.execute("PRAGMA user_version = 1")
            lock.execute("COMMIT")
            lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if lock is not None:
            lock.close()
        cause = error.sqlite_errorcode & 0xFF  # the primary code, without the extension
        if cause == sqlite3.SQLITE_BUSY:
            return None
        if cause == sqlite3.SQLITE_FULL:
            with disk_faults(directory):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise DiskError(f"can't write to {directory}: {error}; choose another directory with -o") from error
    return lock.close
