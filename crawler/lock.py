"""Who works at a crawl's directory: one master at a time, found out by a lock that dies with its owner."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from crawler.errors import ConfigError, DiskError, DiskTrouble

#: Seconds for which somebody may have the directory who only looks at it.
_LOOK_SECONDS = 2.0


def own(directory: Path) -> Callable[[], None]:
    """Own a crawl's directory for as long as this process lives, or until the returned function is called.

    Raises:
        DiskError: somebody else owns it, or it can't be written.
    """
    release = try_to_own(directory, patience=_LOOK_SECONDS)
    if release is None:
        raise DiskError(f"another crawler is at work in {directory}; see: crawler status {directory}")
    return release


def try_to_own(directory: Path, *, name: str = ".lock", patience: float = 0.0) -> Callable[[], None] | None:
    """What lets go of the directory again; None where somebody else owns it, and still does after ``patience`` seconds.

    SQLite's lock on a database is a lock that every system knows and that dies with its owner. The file stays: it can't
    be removed without a moment in which two own two files of that name. It is not empty, since SQLite would keep a
    journal beside an empty one.
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
        cause = error.sqlite_errorcode & 0xFF  # without what extended codes add
        if cause == sqlite3.SQLITE_BUSY:
            return None
        if cause == sqlite3.SQLITE_FULL:
            advice = "the disk is full: free some space, then start the same command again"
            raise DiskTrouble(f"can't use {directory}: {advice}") from error
        raise DiskError(f"can't write to {directory}: {error}; choose another directory with -o") from error
    return lock.close


def is_running(directory: Path) -> bool:
    """Whether a master is at work in a directory.

    Raises:
        ConfigError: there is no crawl in it.
    """
    if not (directory / "frontier.sqlite").exists():
        raise ConfigError(f"{directory} is no crawl: there is no frontier.sqlite in it")
    release = try_to_own(directory)
    if release is not None:
        release()
    return release is None
