"""What disks and masters do at the worst of times: fill up, and die in mid-work."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from crawler.frontier.base import Frontier
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import FrontierStats


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
