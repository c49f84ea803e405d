"""Several rows in one statement: each row is written once, whatever their number."""

import sqlite3

import pytest

from crawler.frontier.ledger.bulk import BulkStatement, write_rows

ADD = BulkStatement("INSERT INTO t VALUES ", "(?,?)")
CHANGE = BulkStatement("UPDATE t SET b = new.column1 FROM (VALUES ", "(?,?)", ") AS new WHERE t.a = new.column2")


@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 63, 64, 100, 255, 256, 341, 1_000])
def test_every_row_is_written_once(number: int) -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
    write_rows(database, ADD, [(n, f"old {n}") for n in range(number)])
    assert database.execute("SELECT a, b FROM t ORDER BY a").fetchall() == [(n, f"old {n}") for n in range(number)]
    write_rows(database, CHANGE, [(f"new {n}", n) for n in range(0, number, 2)])
    expected = [(n, f"{'old' if n % 2 else 'new'} {n}") for n in range(number)]
    assert database.execute("SELECT a, b FROM t ORDER BY a").fetchall() == expected


def test_a_statement_without_values_takes_its_rows_one_by_one() -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
    write_rows(database, "INSERT INTO t VALUES (?,?)", [(1, "x"), (2, "y")])
    assert database.execute("SELECT COUNT(*) FROM t").fetchone() == (2,)
