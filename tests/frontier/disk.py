"""What disks and masters do at the worst of times: fill up, and die in mid-work."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from crawler.frontier.base import Frontier
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import FrontierStats

Act = Callable[[], None]


def counts(frontier: Frontier) -> FrontierStats:
    """The stats without what is known in memory only, the workers."""
    return msgspec.structs.replace(frontier.stats(), workers=())


def copy_of(path: Path) -> Path:
    """The files of a frontier as a ``kill -9`` of its master would leave them now, in a place of their own."""
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
def failing_ledger(ledger: Any, statement: str = "COMMIT", message: str = "database or disk is full") -> Iterator[None]:
    """Within the block, SQL statements that begin so fail."""
    database = ledger._db
    ledger._db = FailingDatabase(database, statement, message)
    try:
        yield
    finally:
        ledger._db = database


def failing(
    frontier: SqliteFrontier, statement: str = "COMMIT", message: str = "database or disk is full"
) -> AbstractContextManager[None]:
    """The same for the ledger of a frontier."""
    return failing_ledger(frontier._ledger, statement, message)


class HookedDatabase:
    """A connection that calls somebody right before or after statements of one kind."""

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
    """Within the block, ``before`` and ``after`` are called around SQL statements that begin so."""
    ledger: Any = frontier._ledger
    database = ledger._db
    ledger._db = HookedDatabase(database, statement, before, after)
    try:
        yield
    finally:
        ledger._db = database


def unsynced(frontier: SqliteFrontier) -> SqliteFrontier:
    """The frontier, which from now on does not wait for its disk; as far as no power is cut, that changes nothing."""
    ledger: Any = frontier._ledger
    ledger._db.execute("PRAGMA synchronous=OFF")
    return frontier
