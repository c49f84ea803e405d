"""The files of a frontier: their permissions, and that a transaction is on the disk before it is acknowledged."""

import os
import stat
from contextlib import closing
from pathlib import Path

import pytest

from crawler.frontier.ledger.database import open_tables
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from tests.frontier.fakes import images, lease


@pytest.mark.skipif(os.name != "posix", reason="file modes exist on POSIX only")
@pytest.mark.parametrize("is_old", [False, True], ids=["new", "of an earlier release"])
def test_only_the_owner_can_read_the_secret_of_the_tokens(tmp_path: Path, is_old: bool) -> None:
    path = tmp_path / "frontier.sqlite"
    before = os.umask(0o022)
    try:
        if is_old:
            for name in ("frontier.sqlite", "leases.log"):
                (tmp_path / name).touch(0o644)
        with closing(SqliteFrontier(path, Policy(robots=False, delay=0.0))) as frontier:
            frontier.put(images(1))
            lease(frontier)
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert {"frontier.sqlite", "frontier.sqlite-wal", "leases.log"} <= modes.keys()
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.skipif(os.name != "posix", reason="file modes exist on POSIX only")
def test_a_new_database_is_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []
    plain = os.open

    def spy(path: str, flags: int, mode: int = 0o777) -> int:
        made.append((str(path), mode))
        return plain(path, flags, mode)

    monkeypatch.setattr(os, "open", spy)
    open_tables(tmp_path / "frontier.sqlite").close()
    assert made == [(str(tmp_path / "frontier.sqlite"), 0o600)]


def test_a_transaction_is_on_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    """Check the connection setting: SQLite syncs the log at each commit only with synchronous=FULL."""
    with closing(open_tables(tmp_path / "frontier.sqlite")) as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
