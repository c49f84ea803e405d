"""Failures of disks and masters: full disks, failing statements, and kills in the middle of work."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from crawler.frontier.base import Frontier
from crawler.frontier.sqlite import SqliteFrontier
from crawler.stats import FrontierStats

Act = Callable[[], None]


def counts(frontier: Frontier) -> FrontierStats:
    """Return the stats without the workers, which are known in memory only."""
    return msgspec.structs.replace(frontier.stats(), workers=())


def copy_of(path: Path) -> Path:
    """Copy the files of a frontier, in the state in which a ``kill -9`` of its master would leave them now."""
    place = path.parent.with_name(path.parent.name + "-killed")
    shutil.copytree(path.parent, place)
    return place / path.name


class FailingDatabase:
    """A connection on which statements of one kind fail."""

    def __init__(self, database: sqlite3.Connection, statement: str, message: str) -> None:
        self._database, self._statement, self._message = database, statement, message

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        self._check(query)
        return self._database.execute(query, *values)

    def executemany(self, query: str, *values: Any) -> sqlite3.Cursor:
        self._check(query)
        return self._database.executemany(query, *values)

    @property
    def in_transaction(self) -> bool:
        return self._database.in_transaction

    def _check(self, query: str) -> None:
        if query.startswith(self._statement):
            raise sqlite3.OperationalError(self._message)


@contextmanager
def failing_database(
    database: Any, statement: str = "COMMIT", message: str = "database or disk is full"
) -> Iterator[None]:
    """Make SQL statements that begin with ``statement`` fail within the block."""
    connection = database.connection
    database.connection = FailingDatabase(connection, statement, message)
    try:
        yield
    finally:
        database.connection = connection


def failing(
    frontier: SqliteFrontier, statement: str = "COMMIT", message: str = "database or disk is full"
) -> AbstractContextManager[None]:
    """Do the same for the ledger of a frontier."""
    return failing_database(frontier.ledger.database, statement, message)


class HookedDatabase:
    """A connection that calls a function right before or after statements of one kind."""

    def __init__(self, database: sqlite3.Connection, statement: str, before: Act | None, after: Act | None) -> None:
        self._database, self._statement, self._before, self._after = database, statement, before, after

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        is_meant = query.startswith(self._statement)
        if is_meant and self._before is not None:
            self._before()
        cursor = self._database.execute(query, *values)
        if is_meant and self._after is not None:
            self._after()
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


@contextmanager
def hooked(
    frontier: SqliteFrontier, statement: str, *, before: Act | None = None, after: Act | None = None
) -> Iterator[None]:
    """Call ``before`` and ``after`` around SQL statements that begin with ``statement``, within the block."""
    database: Any = frontier.ledger.database
    connection = database.connection
    database.connection = HookedDatabase(connection, statement, before, after)
    try:
        yield
    finally:
        database.connection = connection


def unsynced(frontier: SqliteFrontier) -> SqliteFrontier:
    """Return the frontier, with syncing turned off; without a power cut that makes no difference."""
    frontier.ledger.database.connection.execute("PRAGMA synchronous=OFF")
    return frontier
