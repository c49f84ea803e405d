"""Many rows to one statement of SQLite.

Python's `sqlite3` lets other threads run at each row it writes or reads, and takes the interpreter back after it. Where
several of them want it, each of those handovers costs more than the row does: with four workers at the queue, a URL
took a quarter less of the master's CPU once rows were written 64 at a time.
"""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

#: Rows of one statement, the most first: few different ones, so that SQLite compiles each of them once.
_SIZES = (256, 64, 16, 4, 1)


class Bulk(NamedTuple):
    """A statement that takes any number of rows: what stands before them, one of them, and what stands behind."""

    before: str
    row: str
    after: str = ""


def write_rows(database: sqlite3.Connection, statement: str | Bulk, rows: Sequence[tuple[Any, ...]]) -> None:
    """Execute a statement for all of these rows."""
    if isinstance(statement, str):
        database.executemany(statement, rows)
        return
    start = 0
    for size in _SIZES:
        for _ in range((len(rows) - start) // size):
            database.execute(_text(statement, size), tuple(chain.from_iterable(rows[start : start + size])))
            start += size


@lru_cache(maxsize=128)
def _text(statement: Bulk, size: int) -> str:
    return statement.before + ",".join([statement.row] * size) + statement.after
