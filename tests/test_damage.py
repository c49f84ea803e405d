"""A database that the disk has not kept: one line that says what to do, from every command; and who looks for it."""

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import crawler
from crawler.demo import DemoServer
from crawler.errors import DiskError
from crawler.frontier.soundness import MARK, Check, mark_of, open_to_read
from crawler.status import look_at
from tests.calls import Call, calls
from tests.processes import commands, many_pictures, stats_of, wait_until


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
    """A crawl of which half is done, whose master was killed; it is not to be changed."""
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
    """What only a check of the whole file finds: a page of an index is not what it was."""
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


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_end_in_a_line_or_in_nothing_worse_than_a_crawl(
    stopped: Path, web: DemoServer, tmp_path: Path, seed: int, call: Call
) -> None:
    dice = random.Random(seed)  # noqa: S311  # damage that can be repeated
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
def test_a_database_that_lost_its_end_is_not_begun_anew(job: Path, web: DemoServer, size: int, call: Call) -> None:
    path, manifest = job / "frontier.sqlite", (job / "manifest.jsonl").read_bytes()
    path.write_bytes(path.read_bytes()[:size])
    assert call("verify", job).code == 9
    ended = call("run", web.url, "-o", job, "-w", 0)
    assert ended.code == 3 and "is damaged" in ended.err and "put back a copy" in ended.err
    assert (job / "manifest.jsonl").read_bytes() == manifest


def test_a_database_that_lost_what_it_had_told_does_not_cost_the_manifest_its_rows(
    job: Path, web: DemoServer, tmp_path: Path, call: Call
) -> None:
    before = (job / "frontier.sqlite").read_bytes()
    crawler.run(web.url, output=job, max_images=12)
    (job / "frontier.sqlite").write_bytes(before)
    manifest = (job / "manifest.jsonl").read_bytes()
    assert "manifest.jsonl goes on where the records end" in call("verify", job).err
    ended = call("run", web.url, "-o", job, "-w", 0)
    assert ended.code == 3 and "has records that frontier.sqlite has lost" in ended.err
    assert (job / "manifest.jsonl").read_bytes() == manifest
    (job / "manifest.jsonl").rename(job / "old.jsonl")
    assert call("run", web.url, "-o", job, "-w", 0, "-n", 12).code == 0


# --- who looks


def test_a_master_that_ends_well_leaves_no_mark(web: DemoServer, tmp_path: Path) -> None:
    crawler.run(web.url, output=tmp_path / "out")
    assert mark(tmp_path / "out") == b""
    assert Check(tmp_path / "out" / "frontier.sqlite").is_done


def test_a_killed_master_leaves_its_mark_which_looking_on_does_not_remove(tmp_path: Path) -> None:
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


def test_after_an_unclean_stop_what_nobody_would_have_read_is_looked_at(job: Path, call: Call, web: DemoServer) -> None:
    tear_index(job)
    ended = call("run", web.url, "-o", job, "-w", 0)
    assert ended.code == 3
    line = ended.err.splitlines()[-1]
    assert f"{job / 'frontier.sqlite'} is damaged" in line and "put back a copy of it, or begin anew" in line
    assert mark(job) == b"1"


def test_a_check_that_is_late_ends_a_crawl_that_is_under_way(
    job: Path, web: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Check, "_look", lambda check: None)  # as slow as a large file on a slow disk
    monkeypatch.setattr(
        Check, "wait", lambda check, seconds: setattr(check, "_found", "row 5 missing from index")
    )  # it ends only now
    with pytest.raises(DiskError, match=r"is damaged \(row 5 missing from index\)"):
        crawler.run(web.url, output=job, max_images=12)
    assert mark(job) == b"1"


def test_a_check_that_could_not_end_is_left_to_the_next_master(
    job: Path, web: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as slow:
        slow.setattr(Check, "_look", lambda check: None)
        assert crawler.run(web.url, output=job, max_images=12).stats.success == 12
        assert mark(job) == b"1"
    crawler.run(web.url, output=job)
    assert mark(job) == b""


def test_a_check_stops_when_it_is_told_to(job: Path) -> None:
    check = Check(job / "frontier.sqlite")
    check.stop()
    check.stop()
    check.wait(0)
    check.refuse_damage()
    assert not check._thread.is_alive()
