"""A damaged database: one line with a remedy, from every command; and the checks that detect it."""

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import crawler
from crawler.app.status import look_at
from crawler.demo.server import DemoServer
from crawler.errors import DiskError
from crawler.frontier.ledger.integrity import MARK, IntegrityCheck, mark_of, open_to_read
from tests.support.calls import Call, calls
from tests.support.processes import commands, many_pictures, stats_of, wait_until


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    with DemoServer(many_pictures(tmp_path_factory.mktemp("web"), 12)) as server:
        yield server


@pytest.fixture(scope="module")
def stopped(web: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a half-finished crawl whose master was killed; tests must not change it."""
    job = tmp_path_factory.mktemp("stopped") / "job"
    crawler.run(web.url, output=job, max_images=6)
    with closing(sqlite3.connect(job / "frontier.sqlite")) as db, db:
        db.execute("UPDATE meta SET value = x'31' WHERE name = ?", (MARK,))
    return job


@pytest.fixture
def job(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "job"))


def mark(job: Path) -> bytes | None:
    with closing(open_to_read(job / "frontier.sqlite")) as db:
        return mark_of(db)


def tear_index(job: Path) -> None:
    """Damage a page of an index, which only a check of the whole file finds."""
    path = job / "frontier.sqlite"
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'seed'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size + 3)  # its number of cells
        file.write(b"\xff\xff")


# --- flipped bytes


def flip(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(dice.choice([1, 1, 4, 64])):
        data[dice.randrange(len(data))] ^= dice.randrange(1, 256)
    path.write_bytes(data)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.fire) for seed in (1, 2, 3))])
def test_flipped_bytes_cause_a_one_line_error_or_an_ordinary_end(
    stopped: Path, web: DemoServer, tmp_path: Path, seed: int, call: Call
) -> None:
    dice = random.Random(seed)  # noqa: S311  # repeatable damage
    codes: Counter[int] = Counter()
    for number in range(8):
        job = Path(shutil.copytree(stopped, tmp_path / f"job{number}"))
        flip(job / "frontier.sqlite", dice)
        for arguments in (("verify", job), ("status", job), ("run", web.url, "-o", job, "-w", 0, "-n", 12)):
            ended = call(*arguments)
            codes[ended.code] += 1
            assert "Traceback" not in ended.err and "internal error" not in ended.err, (number, arguments, ended.err)
            assert ended.code in (0, 3, 8, 9), (number, arguments, ended.err)
            if ended.code == 3:
                assert ended.err.splitlines()[-1].startswith("crawler: "), ended.err
    assert codes[9] > 0


@pytest.mark.parametrize("size", [0, 100, 4_096, 20_000])
def test_a_truncated_database_is_not_replaced_by_a_new_one(job: Path, web: DemoServer, size: int, call: Call) -> None:
    path, manifest = job / "frontier.sqlite", (job / "manifest.jsonl").read_bytes()
    path.write_bytes(path.read_bytes()[:size])
    assert call("verify", job).code == 9
    ended = call("run", web.url, "-o", job, "-w", 0)
    assert ended.code == 3 and "is damaged" in ended.err and "restore a backup" in ended.err
    assert (job / "manifest.jsonl").read_bytes() == manifest


def test_an_outdated_database_does_not_delete_rows_of_the_manifest(
    job: Path, web: DemoServer, tmp_path: Path, call: Call
) -> None:
    before = (job / "frontier.sqlite").read_bytes()
    crawler.run(web.url, output=job, max_images=12)
    (job / "frontier.sqlite").write_bytes(before)
    manifest = (job / "manifest.jsonl").read_bytes()
    assert "manifest.jsonl has more lines than the records" in call("verify", job).err
    ended = call("run", web.url, "-o", job, "-w", 0)
    assert ended.code == 3 and "has records that frontier.sqlite has lost" in ended.err
    assert (job / "manifest.jsonl").read_bytes() == manifest
    (job / "manifest.jsonl").rename(job / "old.jsonl")
    assert call("run", web.url, "-o", job, "-w", 0, "-n", 12).code == 0


# --- detection


def test_a_master_that_ends_well_leaves_no_mark(web: DemoServer, tmp_path: Path) -> None:
    crawler.run(web.url, output=tmp_path / "out")
    assert mark(tmp_path / "out") == b""
    check = IntegrityCheck(tmp_path / "out" / "frontier.sqlite")
    assert check.is_done
    check.stop()


def test_the_mark_of_a_killed_master_is_not_removed_by_reading(tmp_path: Path) -> None:
    job = tmp_path / "job"
    with commands(tmp_path) as start, DemoServer(many_pictures(tmp_path, 5)) as server:
        server.hold("/0003.png")
        master = start("master", "run", server.url, "-o", job, "-w", 0)
        wait_until(lambda: stats_of(job).success > 0, "some pictures")
        master.kill()
        look_at(job)
        assert mark(job) == b"1"
        server.release("/0003.png")
        again = start("again", "run", server.url, "-o", job, "-w", 0)
        assert again.ends() == 0, again.said
    assert mark(job) == b""


def test_after_an_unclean_stop_the_whole_database_is_checked(job: Path, call: Call, web: DemoServer) -> None:
    tear_index(job)
    ended = call("run", web.url, "-o", job, "-w", 0)
    assert ended.code == 3
    line = ended.err.splitlines()[-1]
    assert f"{job / 'frontier.sqlite'} is damaged" in line and "restore a backup, or start a new crawl" in line
    assert mark(job) == b"1"


def test_damage_after_a_clean_end_is_found_by_the_next_crawl(job: Path, call: Call, web: DemoServer) -> None:
    with closing(sqlite3.connect(job / "frontier.sqlite")) as db, db:
        db.execute("UPDATE meta SET value = x'' WHERE name = ?", (MARK,))
    tear_index(job)
    ended = call("run", web.url, "-o", job, "-w", 0, "-n", 12)
    assert ended.code == 3 and f"{job / 'frontier.sqlite'} is damaged" in ended.err.splitlines()[-1]


def test_a_late_check_result_ends_the_running_crawl(
    job: Path, web: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IntegrityCheck, "_look", lambda check: None)  # as slow as a large file on a slow disk
    monkeypatch.setattr(
        IntegrityCheck, "wait", lambda check, seconds: setattr(check, "_damage", "row 5 missing from index")
    )  # it ends only now
    with pytest.raises(DiskError, match=r"is damaged \(row 5 missing from index\)"):
        crawler.run(web.url, output=job, max_images=12)
    assert mark(job) == b"1"


def test_an_unfinished_check_is_repeated_by_the_next_master(
    job: Path, web: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as slow:
        slow.setattr(IntegrityCheck, "_look", lambda check: None)
        assert crawler.run(web.url, output=job, max_images=12).stats.success == 12
        assert mark(job) == b"1"
    crawler.run(web.url, output=job)
    assert mark(job) == b""


def test_a_check_can_be_stopped(job: Path) -> None:
    check = IntegrityCheck(job / "frontier.sqlite")
    check.stop()
    check.stop()
    check.wait(0)
    check.refuse_damage()
    assert not check._thread.is_alive()
