"""Keys on disk, in memory and not yet written: known keys are found, unknown ones cost no disk access."""

import sqlite3
from pathlib import Path

import pytest

from crawler.frontier.ledger import key_index
from crawler.frontier.ledger.key_index import KeyIndex

KEYS = [-(2**63), -5, -1, 0, 3, 2**62, 2**63 - 1]


def opened(path: Path) -> tuple[sqlite3.Connection, KeyIndex]:
    database = sqlite3.connect(path, isolation_level=None)
    for table in ("meta (name TEXT PRIMARY KEY, value BLOB)", "keys (key INTEGER PRIMARY KEY, row INTEGER)"):
        database.execute(f"CREATE TABLE IF NOT EXISTS {table}")
    return database, KeyIndex(database, "keys", "SELECT 0, 0 WHERE ? < 0")


def write(one: KeyIndex, keys: list[int], row: int = 1) -> None:
    one.add_all(keys, row)
    one.write(row + len(keys) - 1)
    one.committed()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(key_index, "_GATHERED", 1)
    monkeypatch.setattr(key_index, "_PORTION", 2)
    return tmp_path / "index.sqlite"


def test_keys_written_in_an_earlier_run_are_found_before_and_after_marking(path: Path) -> None:
    database, one = opened(path)
    write(one, KEYS)
    database.close()
    database, one = opened(path)
    for _ in range(len(KEYS)):  # each call marks two keys more
        assert one.find([*KEYS, 7]) == dict(zip(KEYS, range(1, 8), strict=True))
        one.mark()
    asked: list[str] = []
    database.set_trace_callback(asked.append)
    assert one.find([4, 7]) == {} and asked == []
    assert one.find([3]) == {3: 5} and len(asked) == 1
    database.close()


def test_a_failed_transaction_leaves_the_index_unchanged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_GATHERED", 100)
    database, one = opened(path)
    write(one, [1, 2], row=1)
    one.add(1, 10)
    one.add_all([2, 3], 11)
    one.add(3, 13)
    one.remove(2)
    one.add(2, 14)
    one.remove(3)
    assert one.find([1, 2, 3]) == {1: 10, 2: 14}
    one.rolled_back()
    assert one.find([1, 2, 3]) == {1: 1, 2: 2}
    database.close()
