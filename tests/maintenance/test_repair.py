"""`crawler verify --repair`: deleted, truncated or damaged files are fetched again."""

import importlib.util
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import crawler
import crawler.maintenance.repair
from crawler.app.config import CrawlConfig
from crawler.app.crawl import Crawl
from crawler.app.seeds import CrawlInput
from crawler.cli.maintenance_text import describe_audit
from crawler.demo.server import DemoServer
from crawler.errors import DiskError, DiskTrouble
from crawler.maintenance.repair import repair
from crawler.maintenance.stopped_crawl import StoppedCrawl
from crawler.maintenance.verify import verify
from crawler.model import ImageRecord
from crawler.store.bucket import store_at
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.local import LocalStore
from crawler.store.manifest import ManifestWriter
from tests.download.scenes import file_of, resized, scene
from tests.store.test_local import ODD_THINGS
from tests.support.calls import Call, calls
from tests.support.processes import commands, manifest_of, many_pictures
from tests.system.test_stores import crawl_with

NUMBER = 8
THREADS = CrawlConfig.load(("test", {"machine": {"workers": 0}}))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DemoServer]:
    """Serve eight pictures, and a ninth URL that shows the first one."""
    site = many_pictures(tmp_path, NUMBER)
    shutil.copy(site / "a" / "0000.png", site / "a" / "twin.png")
    page = site / "a" / "index.html"
    page.write_text(page.read_text() + '<img src="twin.png">')
    with DemoServer(site) as demo:
        yield demo


@pytest.fixture
def job(server: DemoServer, tmp_path: Path) -> Path:
    crawler.run(server.url, output=tmp_path / "out")
    return tmp_path / "out"


def rows_of(job: Path) -> dict[str, ImageRecord]:
    """Return file name → row; fail if a URL has two."""
    rows = manifest_of(job)
    assert len(rows) == len((job / "results.txt").read_text().splitlines())
    return {row.url.rpartition("/")[2]: row for row in rows}


def file_at(job: Path, name: str) -> Path:
    return job / rows_of(job)[name].path


def assert_whole(job: Path) -> None:
    found = verify(job)
    assert found.is_good and found.balance is not None and found.balance.is_finished, describe_audit(found)
    assert (found.whole, found.balance.images) == (NUMBER, {"success": NUMBER, "duplicate": 1})
    assert len(rows_of(job)) == NUMBER + 1


def spoil(path: Path) -> None:
    """Flip one bit of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_only_missing_truncated_or_damaged_files_are_fetched_again(server: DemoServer, job: Path, call: Call) -> None:
    kept = {name: row for name, row in rows_of(job).items() if name not in ("0000.png", "twin.png")}
    file_at(job, "0000.png").unlink()
    cut, spoilt = file_at(job, "0001.png"), file_at(job, "0002.png")
    cut.write_bytes(cut.read_bytes()[:-20])
    spoil(spoilt)
    assert call("verify", job).code == 9
    ended = call("verify", job, "--repair")
    assert ended.code == 0 and "1 missing, 2 damaged, 0 foreign" in ended.err
    assert "Repaired: 4 image URLs of 3 pictures queued again; 2 damaged files moved to damaged/.\n" in ended.err
    assert f"Fetch them with:  crawler retry {job}\n" in ended.err
    assert sorted(path.name for path in (job / "damaged").iterdir()) == sorted([cut.name, spoilt.name])
    found = verify(job)
    assert found.is_good and found.balance is not None, describe_audit(found)
    assert found.balance.images == {"success": NUMBER - 3, "waiting": 4}
    before = len(server.requests)
    assert call("retry", job, "-w", 0).code == 0
    asked = sorted(hit.path for hit in server.requests[before:])
    assert asked == ["/0000.png", "/0001.png", "/0002.png", "/twin.png"]
    assert_whole(job)
    after = rows_of(job)
    assert all(after[name] == row for name, row in kept.items() if name not in ("0001.png", "0002.png"))


@pytest.mark.parametrize("add", ODD_THINGS.values(), ids=list(ODD_THINGS))
def test_an_entry_that_is_not_a_regular_file_is_reported_moved_away_and_fetched_again(
    job: Path, add: Callable[[Path], None]
) -> None:
    odd = file_at(job, "0000.png")
    odd.rename(job.parent / "elsewhere")
    file_at(job, "0001.png").unlink()
    add(odd)
    found = verify(job)
    assert (found.whole, found.missing, found.damaged, found.spare) == (NUMBER - 2, 1, 1, 0)
    assert found.foreign == 0 and not found.faults, describe_audit(found)
    done = repair(job)
    assert (done.lost, done.put_back, done.moved, done.is_good) == (2, 3, 1, True)
    (aside,) = (job / "damaged").iterdir()
    assert aside.is_symlink() or not aside.is_file()
    Crawl(job, THREADS).run(CrawlInput())
    assert_whole(job)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_pictures_on_a_disk_that_is_not_mounted_are_not_lost(job: Path) -> None:
    (job / "images").rename(job.parent / "big")
    (job / "images").symlink_to(job.parent / "big")
    assert verify(job).is_good
    (job.parent / "big").rename(job.parent / "away")
    for look in (verify, repair):
        with pytest.raises(DiskError, match="mount that disk"):
            look(job)
    with pytest.raises(DiskTrouble, match="mount that disk"):
        LocalStore(job).put(f"images/ab/{'ab' * 32}.png", b"new")
    (job.parent / "away").rename(job.parent / "big")
    assert_whole(job)


@pytest.mark.parametrize("add", ODD_THINGS.values(), ids=list(ODD_THINGS))
def test_an_entry_that_is_not_a_regular_file_does_not_end_a_refresh(
    server: DemoServer, tmp_path: Path, call: Call, add: Callable[[Path], None]
) -> None:
    job = tmp_path / "out"
    assert call("run", server.url, "-w", 0).code == 0
    odd = file_at(job, "0000.png")
    odd.rename(tmp_path / "elsewhere")
    add(odd)
    ended = call("run", "-w", 0, "--refresh")
    assert ended.code == 0 and f"{odd.name} was not a regular file and was moved to" in ended.err
    assert_whole(job)


def test_an_ordinary_run_completes_a_repair(server: DemoServer, job: Path, call: Call) -> None:
    shutil.rmtree(job / "images")
    assert repair(job).put_back == NUMBER + 1
    assert call("run", "-o", job, "-w", 0).code == 0
    assert_whole(job)


def test_a_picture_that_is_no_longer_available_fails_like_any_other(tmp_path: Path, call: Call) -> None:
    site = many_pictures(tmp_path, 2)
    with DemoServer(site) as server:
        call("run", server.url, "-w", 0)
        file_at(Path("out"), "0001.png").unlink()
        (site / "a" / "0001.png").write_text("<html>no picture any more")
        assert call("verify", "out", "--repair").code == 0
        call("retry", "out", "-w", 0)
    assert {name: row.reason for name, row in rows_of(Path("out")).items()} == {
        "0000.png": "",
        "0001.png": "not-an-image",
    }
    assert verify(Path("out")).is_good


def test_an_intact_crawl_is_not_changed(job: Path, call: Call) -> None:
    before = {path: path.read_bytes() for path in job.rglob("*") if path.is_file() and path.name != ".lock"}
    ended = call("verify", job, "--repair")
    assert ended.code == 0 and ended.err.endswith("Repaired: manifest and results match the records.\n")
    assert before == {path: path.read_bytes() for path in before}


def test_unknown_files_are_reported_and_stay(job: Path, call: Call) -> None:
    stranger = job / "images" / "stranger.jpg"
    stranger.write_bytes(b"who?")
    ended = call("verify", job, "--repair")
    assert ended.code == 9 and f"foreign: {stranger}" in ended.err and stranger.exists()


@pytest.mark.parametrize("name", ["manifest.jsonl", "results.txt"])
@pytest.mark.parametrize("harm", ["torn", "short", "gone", "changed"])
def test_the_views_are_repaired(job: Path, call: Call, name: str, harm: str) -> None:
    view = job / name
    whole = view.read_bytes()
    lines = whole.splitlines(keepends=True)
    broken = {
        "torn": whole[:-9],
        "short": b"".join(lines[:-2]),
        "gone": None,
        "changed": whole.replace(b"0001.png", b"0009.png", 1),
    }[harm]
    view.unlink() if broken is None else view.write_bytes(broken)
    assert call("verify", job).code == 9
    assert call("verify", job, "--repair").code == 0
    assert view.read_bytes() == whole
    assert_whole(job)


def test_a_torn_line_of_a_killed_crawl_is_repaired(job: Path) -> None:
    with closing(sqlite3.connect(job / "frontier.sqlite")) as db, db:
        db.execute("UPDATE meta SET value = x'31' WHERE name = 'at-work'")
    whole = (job / "manifest.jsonl").read_bytes()
    (job / "manifest.jsonl").write_bytes(whole[:-9])
    assert repair(job).is_good and (job / "manifest.jsonl").read_bytes() == whole


def test_rows_missing_in_the_database_are_not_deleted(job: Path, call: Call) -> None:
    manifest = job / "manifest.jsonl"
    file_at(job, "0001.png").unlink()
    manifest.write_bytes(manifest.read_bytes() * 2)
    before = manifest.read_bytes()
    ended = call("verify", job, "--repair")
    assert ended.code == 3 and "has records that frontier.sqlite has lost" in ended.complaint
    assert manifest.read_bytes() == before


def test_a_near_duplicate_is_lost_with_its_best(tmp_path: Path, call: Call) -> None:
    site = many_pictures(tmp_path, 0)
    (site / "a" / "large.png").write_bytes(file_of(scene(0)))
    (site / "a" / "small.png").write_bytes(file_of(resized(scene(0))))
    (site / "a" / "index.html").write_text('<img src="small.png"><img src="large.png">')
    with DemoServer(site) as server:
        assert call("run", server.url, "-w", 0, "--near", "keep-best").code == 0
        assert rows_of(Path("out"))["small.png"].status == "duplicate"
        file_at(Path("out"), "large.png").unlink()
        assert "2 image URLs of 1 picture queued again" in call("verify", "out", "--repair").err
        assert call("retry", "out", "-w", 0).code == 0
    rows = rows_of(Path("out"))
    assert rows["small.png"].near == rows["large.png"].url and verify(Path("out")).is_good


# --- other stores


def test_a_file_in_another_given_store_is_copied_and_files_elsewhere_stay(server: DemoServer, tmp_path: Path) -> None:
    job, stores = tmp_path / "job", [tmp_path / "A", tmp_path / "B"]
    with commands(tmp_path) as start:
        crawl_with(start, server, job, stores[:1])
    rows = rows_of(job)
    names = [f"{n:04}.png" for n in range(3)]
    (tmp_path / "B").mkdir()
    assert LocalStore(stores[1]).id
    for name in names[:2]:
        LocalStore(stores[1]).put(rows[name].path, (stores[0] / rows[name].path).read_bytes())
    for name in names:
        (stores[0] / rows[name].path).unlink()
    assert repair(job).put_back == 0 and verify(job).is_good
    done = repair(job, stores)
    assert (done.healed, done.lost, done.put_back) == (2, 1, 1)
    found = verify(job, stores)
    assert (found.whole, found.missing, found.damaged) == (NUMBER - 1, 0, 0)


@pytest.mark.skipif(importlib.util.find_spec("fsspec") is None, reason="needs the extra cloud")
def test_a_picture_missing_in_a_bucket_is_fetched_into_it_again(server: DemoServer, tmp_path: Path) -> None:
    place, job = f"memory://repair-{time.monotonic_ns()}", tmp_path / "job"
    options: dict[str, Any] = {"workers": 0, "store": place, "name": "{file}"}
    crawler.run(server.url, output=job, **options)
    store, rows = store_at(place), rows_of(job)
    store.remove(rows["0000.png"].path)
    store.put(rows["0001.png"].path, b"rotten")
    assert repair(job).put_back == 0
    done = repair(job, [place])
    assert (done.lost, done.put_back, done.moved, done.is_good) == (2, 3, 1, True)
    assert store.exists(f"damaged/{Path(rows['0001.png'].path).name}") and not store.exists(rows["0001.png"].path)
    before = len(server.requests)
    crawler.run((), output=job, **options)
    assert sorted(hit.path for hit in server.requests[before:]) == ["/0000.png", "/0001.png", "/twin.png"]
    found = verify(job, [place])
    assert found.is_good and (found.whole, found.missing) == (NUMBER, 0), describe_audit(found)


# --- refresh


def changed(server: DemoServer, change: Callable[[], object]) -> None:
    """Apply the change to the site between two starts of the server, which reads its files at the start."""
    server.stop()
    change()
    server.start()


def test_a_picture_removed_from_its_site_is_abandoned_with_its_file(
    server: DemoServer, tmp_path: Path, call: Call
) -> None:
    job, site = tmp_path / "out", tmp_path / "site" / "a"
    assert call("run", server.url, "-w", 0).code == 0
    changed(server, (site / "0003.png").unlink)
    assert call("run", "-w", 0, "--refresh").code == 0
    assert rows_of(job)["0003.png"].change == "gone" and verify(job).whole == NUMBER
    file_at(job, "0003.png").unlink()
    assert repair(job).put_back == 1 and verify(job).is_good
    assert call("run", "-w", 0).code == 0
    row = rows_of(job)["0003.png"]
    assert (row.reason, row.path) == ("http-404", "")
    found = verify(job)
    assert found.is_good and (found.whole, repair(job).put_back) == (NUMBER - 1, 0)


def test_a_file_lost_during_a_refresh_is_fetched_even_if_unchanged(
    server: DemoServer, tmp_path: Path, call: Call
) -> None:
    job = tmp_path / "out"
    assert call("run", server.url, "-w", 0).code == 0
    spoil(file_at(job, "0000.png"))
    file_at(job, "0004.png").unlink()
    StoppedCrawl(CrawlDirectory(job)).refresh()
    done = repair(job)
    assert (done.lost, done.put_back, done.moved) == (2, 3, 1) and verify(job).is_good
    before = len(server.requests)
    assert call("run", "-w", 0, "--refresh").code == 0
    again = [hit.path for hit in server.requests[before:] if hit.status == 200]
    assert sorted(again) == ["/0000.png", "/0004.png", "/twin.png"]
    assert_whole(job)


def test_a_file_from_before_a_refresh_is_accepted_while_it_is_intact(
    server: DemoServer, tmp_path: Path, call: Call
) -> None:
    job, site = tmp_path / "out", tmp_path / "site" / "a"
    assert call("run", server.url, "-w", 0).code == 0
    old = file_at(job, "0005.png")
    Image.new("RGB", (16, 16), (222, 7, 7)).save(site / "0005.png")
    assert call("run", "-w", 0, "--refresh").code == 0
    assert verify(job).past == 1 and repair(job).is_good and old.exists()
    spoil(old)
    assert verify(job).damaged == 1
    done = repair(job)
    assert (done.put_back, done.moved, done.is_good) == (0, 1, True)
    assert verify(job).is_good and (job / "damaged" / old.name).exists()
    assert_whole(job)


def test_files_in_quarantine_are_not_touched(server: DemoServer, tmp_path: Path, call: Call) -> None:
    job = tmp_path / "out"
    assert call("run", server.url, "-w", 0).code == 0
    rows = rows_of(job)
    Path("pins").write_text(json.dumps({"url": rows["0006.png"].url, "sha256": "a" * 64}))
    call("run", "-w", 0, "--refresh", "--pin", "pins")
    row = rows_of(job)["0006.png"]
    assert row.reason == "pin-mismatch" and row.path.startswith("quarantine/")
    file_at(job, "0001.png").unlink()
    assert repair(job).put_back == 1
    assert rows_of(job)["0006.png"] == row and (job / row.path).exists() and verify(job).is_good


# --- refusals and kills


def test_other_directories_and_running_crawls_are_refused(job: Path, tmp_path: Path, call: Call) -> None:
    ended = call("verify", tmp_path, "--repair")
    assert ended.code == 2 and "is not a crawl directory" in ended.complaint
    file_at(job, "0001.png").unlink()
    release = CrawlDirectory(job).own()
    try:
        ended = call("verify", job, "--repair")
    finally:
        release()
    assert ended.code == 3 and "another crawl is running" in ended.complaint
    assert len(rows_of(job)) == NUMBER + 1


def test_a_damaged_database_is_refused(job: Path, call: Call) -> None:
    path = job / "frontier.sqlite"
    data = bytearray(path.read_bytes())
    data[4096 : len(data)] = bytes(len(data) - 4096)
    path.write_bytes(data)
    spoil(file_at(job, "0001.png"))
    ended = call("verify", job, "--repair")
    assert ended.code == 3 and "is damaged" in ended.complaint and not (job / "damaged").exists()


class Killed(Exception):
    """The simulated kill of the command."""


#: Step → its function: one of `crawler.maintenance.repair`, or a method of a class.
STEPS: dict[str, tuple[Any, str]] = {
    "a file is moved": ("_move_away", ""),
    "a view is cut": (ManifestWriter, "cut"),
    "all is put back": (StoppedCrawl, "requeue_lost"),
    "the views are written": (ManifestWriter, "rewrite"),
}


@pytest.mark.fire
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_after_a_kill_at_any_step_the_same_command_completes_the_repair(
    server: DemoServer, job: Path, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    file_at(job, "0000.png").unlink()
    spoil(file_at(job, "0001.png"))
    owner, name = STEPS[step]
    with monkeypatch.context() as patch:
        if isinstance(owner, str):
            patch.setattr(crawler.maintenance.repair, owner, dying(getattr(crawler.maintenance.repair, owner), moment))
        else:
            patch.setattr(owner, name, dying(getattr(owner, name), moment))
        with pytest.raises(Killed):
            repair(job)
    found = verify(job)
    assert not found.faults, describe_audit(found)
    assert repair(job).is_good and verify(job).is_good
    Crawl(job, THREADS).run(CrawlInput())
    assert_whole(job)


def dying(step: Callable[..., Any], moment: str) -> Callable[..., Any]:
    def wrapper(*arguments: Any, **options: Any) -> None:
        if moment == "after":
            step(*arguments, **options)
        raise Killed

    return wrapper
