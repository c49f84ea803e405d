"""Near-duplicates in a crawl: they are marked, or reduced to one file, and the crawl stays consistent."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import crawler
from crawler.app.status import look_at
from crawler.app.summary import Summary
from crawler.cli.maintenance_text import describe_audit
from crawler.cli.summary_text import describe_summary
from crawler.demo.server import DemoServer
from crawler.frontier.offline.edit_records import RecordEdit
from crawler.maintenance import near_duplicates
from crawler.maintenance.gather import gather
from crawler.maintenance.near_duplicates import SearchStopped, find_near
from crawler.maintenance.stopped_crawl import StoppedCrawl
from crawler.maintenance.verify import verify
from crawler.model import ImageRecord
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.local import LocalStore
from crawler.store.manifest import ManifestWriter
from tests.download.scenes import cropped, file_of, resized, scene
from tests.support.calls import Call, calls
from tests.support.processes import commands, manifest_of, stats_of, wait_until
from tests.system.test_stores import crawl_with

#: Path → bytes; of the first three the large one is the best, of the next two the one with more bytes.
PICTURES = {
    "small.jpg": file_of(resized(scene(0)), "JPEG", quality=85),
    "large.png": file_of(scene(0)),
    "cut.jpg": file_of(cropped(scene(0)), "JPEG", quality=85),
    "rough.jpg": file_of(scene(1), "JPEG", quality=40),
    "fine.jpg": file_of(scene(1), "JPEG", quality=90),
    "alone.png": file_of(scene(2)),
    "small-again.jpg": file_of(resized(scene(0)), "JPEG", quality=85),
}
BEST = {"small.jpg": "large.png", "cut.jpg": "large.png", "rough.jpg": "fine.jpg", "small-again.jpg": "large.png"}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


def site_of(folder: Path, pictures: dict[str, bytes], later: Collection[str] = ()) -> Path:
    """Build a site of one page with these pictures; those in ``later`` are on another page without links to it."""
    place = folder / "site" / "a"
    place.mkdir(parents=True)
    for name, data in pictures.items():
        (place / name).write_bytes(data)
    (place / "index.html").write_text("".join(f'<img src="{name}">' for name in pictures if name not in later))
    (place / "later.html").write_text("".join(f'<img src="{name}">' for name in later))
    return folder / "site"


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished crawl of all pictures; tests must not change it."""
    place = tmp_path_factory.mktemp("marked")
    with DemoServer(site_of(place, PICTURES)) as demo:
        crawler.run(demo.url, output=place / "job", near="mark")
    return place / "job"


@pytest.fixture
def job(marked: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished crawl for one test."""
    return Path(shutil.copytree(marked, tmp_path / "job"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DemoServer]:
    with DemoServer(site_of(tmp_path, PICTURES)) as demo:
        yield demo


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def rows_of(job: Path) -> dict[str, ImageRecord]:
    """Return file name → row; fail if the records are inconsistent."""
    found = verify(job)
    assert found.is_good and found.balance is not None and found.balance.is_finished, describe_audit(found)
    rows = manifest_of(job)
    assert found.balance.images.get("success", 0) == found.whole == sum(row.status == "success" for row in rows)
    return {name_of(row.url): row for row in rows}


def near_of(job: Path) -> dict[str, str]:
    return {name: name_of(row.near) for name, row in rows_of(job).items() if row.near}


def files_of(job: Path) -> int:
    return sum(path.is_file() for path in (job / "images").rglob("*"))


def told(summary: Summary) -> str:
    (line,) = [line for line in describe_summary(summary).splitlines() if line.startswith("  near ")]
    return " ".join(line.split())


# --- marking


def test_near_duplicates_name_the_best_of_them(server: DemoServer, tmp_path: Path) -> None:
    job = tmp_path / "job"
    summary = crawler.run(server.url, output=job, near="mark")
    assert near_of(job) == BEST
    rows = rows_of(job)
    assert all(len(row.phash) == 128 for row in rows.values()) and files_of(job) == 6
    assert sorted(rows[name].status for name in ("small.jpg", "small-again.jpg")) == ["duplicate", "success"]
    assert told(summary) == "near 3 near-duplicates in 2 groups"


def test_on_the_bundled_web_only_the_two_sizes_of_an_icon_are_near(site: DemoServer, tmp_path: Path) -> None:
    crawler.run(site.url, output=tmp_path / "job", near="mark")
    assert near_of(tmp_path / "job") == {"icon-32.png": "icon-180.png"}


def test_without_the_option_nothing_is_marked(server: DemoServer, tmp_path: Path) -> None:
    summary = crawler.run(server.url, output=tmp_path / "job")
    assert {(row.phash, row.near) for row in rows_of(tmp_path / "job").values()} == {("", "")}
    assert summary.near is None and "near" not in describe_summary(summary)


def test_each_run_ends_with_a_complete_search(tmp_path: Path) -> None:
    job = tmp_path / "job"
    with DemoServer(site_of(tmp_path, PICTURES, ("large.png", "rough.jpg"))) as server:
        crawler.run(server.url, output=job, near="mark")
        assert near_of(job) == {"small.jpg": "cut.jpg", "small-again.jpg": "cut.jpg"}
        crawler.run(server.url + "later.html", output=job)
        assert near_of(job) == BEST
        before = {path: path.stat().st_mtime_ns for path in (job / "manifest.jsonl", job / "results.txt")}
        crawler.run((), output=job)
        assert near_of(job) == BEST
        assert before == {path: path.stat().st_mtime_ns for path in before}


# --- keeping the best


def test_only_the_best_file_is_kept(server: DemoServer, tmp_path: Path) -> None:
    job = tmp_path / "job"
    summary = crawler.run(server.url, output=job, near="keep-best")
    rows = rows_of(job)
    assert near_of(job) == BEST and files_of(job) == 3
    for name, best in BEST.items():
        assert (rows[name].status, rows[name].path) == ("duplicate", rows[best].path)
        assert rows[name].bytes == len(PICTURES[name]) and rows[name].sha256 not in rows[best].path
    assert (summary.stats.success, summary.stats.duplicate) == (3, 4)
    assert summary.stats.bytes == sum(row.bytes for row in rows.values() if row.status == "success")
    assert told(summary).startswith("near 3 near-duplicates in 2 groups; 3 files removed (")
    stats, _ = look_at(job)
    assert (stats.success, stats.duplicate, stats.bytes) == (3, 4, summary.stats.bytes)
    again = crawler.run((), output=job)
    assert near_of(job) == BEST and told(again) == "near 3 near-duplicates in 2 groups"


def test_a_better_picture_may_come_later_and_a_removed_one_again(tmp_path: Path) -> None:
    job = tmp_path / "job"
    pictures = PICTURES | {"small-once-more.jpg": PICTURES["small.jpg"]}
    with DemoServer(site_of(tmp_path, pictures, ("large.png", "small-once-more.jpg"))) as server:
        crawler.run(server.url, output=job, near="keep-best")
        assert near_of(job)["small.jpg"] == "cut.jpg" and files_of(job) == 3
        crawler.run(server.url + "later.html", output=job)
    assert near_of(job) == BEST | {"small-once-more.jpg": "large.png"} and files_of(job) == 3
    paths = {row.path for row in rows_of(job).values()}
    assert len(paths) == 3


def test_retry_and_gather_work_with_removed_files(tmp_path: Path, call: Call) -> None:
    with DemoServer(site_of(tmp_path, PICTURES), {"/fine.jpg": {"status": 501, "times": 1}}) as server:
        assert call("run", server.url, "-w", 0, "--near", "keep-best").code == 0
        assert "rough.jpg" not in near_of(Path("out"))
        ended = call("retry", "out", "-w", 0)
        assert ended.code == 0 and "3 near-duplicates in 2 groups; 1 file removed" in ended.err
    assert near_of(Path("out")) == BEST
    assert call("gather", "out", "out").code == 0
    assert near_of(Path("out")) == BEST and files_of(Path("out")) == 3


def test_a_file_is_kept_if_the_best_one_is_not_here_and_intact(tmp_path: Path) -> None:
    job, stores = tmp_path / "job", [tmp_path / "A", tmp_path / "B"]
    with commands(tmp_path) as start, DemoServer(site_of(tmp_path, PICTURES)) as server:
        crawl_with(start, server, job, stores[:1], "--near", "keep-best")
        said = (tmp_path / "master.err").read_text()
    assert "3 near-duplicates in 2 groups; 3 kept: the file or the best copy is in another store" in said
    assert files_of(stores[0]) == 6
    assert near_of_elsewhere(job, stores[0]) == BEST
    gather(job, [stores[0]])
    rows = {name_of(row.url): row for row in manifest_of(job)}
    best = job / rows["fine.jpg"].path
    best.write_bytes(b"rotten")
    found = find_near(job, keeps_best=True, is_stopped=lambda: False)
    assert (found.pictures, found.dropped, found.elsewhere) == (3, 2, 1)
    assert (job / rows["rough.jpg"].path).exists() and not (job / rows["small.jpg"].path).exists()


def near_of_elsewhere(job: Path, store: Path) -> dict[str, str]:
    found = verify(job, [store])
    assert found.is_good, describe_audit(found)
    return {name_of(row.url): name_of(row.near) for row in manifest_of(job) if row.near}


# --- refresh


def texts_of(server: DemoServer, since: int) -> dict[str, int]:
    """Return path of a picture → status, for the requests from index ``since`` on."""
    return {hit.path.strip("/"): hit.status for hit in server.requests[since:] if hit.path.endswith(("jpg", "png"))}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param("mark", "", marks=pytest.mark.fire),
        pytest.param("mark", "{file}", marks=pytest.mark.fire),
        pytest.param("keep-best", "", marks=pytest.mark.fire),
        ("keep-best", "{file}"),
    ],
)
def test_a_refresh_of_an_unchanged_site_transfers_and_loses_nothing(
    server: DemoServer, tmp_path: Path, kind: str, name: str
) -> None:
    job = tmp_path / "job"
    crawler.run(server.url, output=job, near=kind, name=name)
    before, files = rows_of(job), files_of(job)
    for _ in "again":
        since = len(server.requests)
        summary = crawler.run((), output=job, refresh=True)
        assert texts_of(server, since) == dict.fromkeys(PICTURES, 304)
        assert summary.stats.changes == {"unchanged": len(PICTURES)}
        assert near_of(job) == BEST and files_of(job) == files
        stats, _ = look_at(job)
        whole = (summary.stats.success, summary.stats.duplicate, summary.stats.bytes)
        assert (stats.success, stats.duplicate, stats.bytes) == whole
    for file, row in rows_of(job).items():
        was = before[file]
        assert (row.phash, row.sha256, row.format, row.etag) == (was.phash, was.sha256, was.format, was.etag)
        assert kind == "mark" or (row.path, row.status, row.store) == (was.path, was.status, was.store)


@pytest.mark.fire
def test_a_refresh_with_downloader_processes_gives_the_same(server: DemoServer, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with commands(tmp_path) as start:
        run = start("first", "run", server.url, "-o", job, "-w", 2, "--near", "keep-best")
        assert run.ends() == 0 and near_of(job) == BEST
        since = len(server.requests)
        assert start("again", "run", "-o", job, "-w", 2, "--refresh").ends() == 0
    assert texts_of(server, since) == dict.fromkeys(PICTURES, 304)
    assert near_of(job) == BEST and files_of(job) == 3


def test_if_another_picture_becomes_the_best_the_old_file_stays_for_rows_without_one(
    tmp_path: Path, call: Call
) -> None:
    site = site_of(tmp_path, PICTURES)
    job = Path("out")
    with DemoServer(site) as server:
        assert call("run", server.url, "-w", 0, "--near", "keep-best").code == 0
        best = rows_of(job)["large.png"].path
        (site / "a" / "large.png").write_bytes(file_of(scene(5)))
        since = len(server.requests)
        assert call("run", "-w", 0, "--refresh").code == 0
        rows = {name_of(row.url): row for row in manifest_of(job)}
        leaning = ("small.jpg", "cut.jpg", "small-again.jpg")
        assert {rows[name].path for name in leaning} == {best} and rows["large.png"].path != best
        found = verify(job)
        assert found.is_good and (found.whole, found.past) == (4, 0), describe_audit(found)
        assert texts_of(server, since) == dict.fromkeys(PICTURES, 304) | {"large.png": 200}
        (job / best).unlink()
        assert verify(job).missing == 1
        assert "3 image URLs of 1 picture queued again" in call("verify", job, "--repair").err
        assert call("retry", "out", "-w", 0).code == 0
    assert near_of(job) == {"small.jpg": "cut.jpg", "small-again.jpg": "cut.jpg", "rough.jpg": "fine.jpg"}
    assert files_of(job) == 4


def test_a_removed_picture_that_changes_or_disappears_is_treated_like_any_other(tmp_path: Path, call: Call) -> None:
    site, job = site_of(tmp_path, PICTURES), Path("out")
    with DemoServer(site) as server:
        assert call("run", server.url, "-w", 0, "--near", "keep-best").code == 0
        server.stop()
        (site / "a" / "small.jpg").unlink()
        (site / "a" / "cut.jpg").write_bytes(file_of(scene(5), "JPEG"))
        server.start()
        assert call("run", "-w", 0, "--refresh").code == 0
        rows = rows_of(job)
        assert (rows["small.jpg"].change, rows["small.jpg"].path, rows["small.jpg"].near) == ("gone", "", "")
        assert (rows["cut.jpg"].change, rows["cut.jpg"].status) == ("changed", "success")
        assert near_of(job) == {"rough.jpg": "fine.jpg", "small-again.jpg": "large.png"} and files_of(job) == 4
        server.stop()
        (site / "a" / "small.jpg").write_bytes(PICTURES["small.jpg"])
        server.start()
        assert call("run", "-w", 0, "--refresh").code == 0
        assert near_of(job) == {name: BEST[name] for name in BEST if name != "cut.jpg"} and files_of(job) == 4


def test_the_file_of_a_picture_that_is_gone_is_not_removed_with_another_one_of_the_same_bytes(
    tmp_path: Path, call: Call
) -> None:
    site, job = site_of(tmp_path, PICTURES), Path("out")
    with DemoServer(site) as server:
        assert call("run", server.url, "-w", 0, "--near", "mark").code == 0
        path = rows_of(job)["small.jpg"].path
        server.stop()
        (site / "a" / "small.jpg").unlink()
        server.start()
        assert call("run", "-w", 0, "--refresh", "--near", "keep-best").code == 0
    rows = {name_of(row.url): row for row in manifest_of(job)}
    assert (rows["small.jpg"].change, rows["small-again.jpg"].status) == ("gone", "success")
    assert rows["small.jpg"].path == rows["small-again.jpg"].path == path and (job / path).exists()
    assert verify(job).is_good and rows["cut.jpg"].path == rows["large.png"].path


def test_a_picture_that_waits_in_a_refresh_keeps_its_file(tmp_path: Path) -> None:
    job = tmp_path / "job"
    with DemoServer(site_of(tmp_path, PICTURES)) as server:
        crawler.run(server.url, output=job, near="mark")
    StoppedCrawl(CrawlDirectory(job)).refresh()
    found = find_near(job, keeps_best=True, is_stopped=lambda: False)
    assert (found.pictures, found.dropped) == (3, 0) and files_of(job) == 6
    assert verify(job).is_good


@pytest.mark.fire
@pytest.mark.parametrize("held", ["/large.png", "/small.jpg", "/cut.jpg"])
def test_a_refresh_killed_at_any_step_is_consistent_and_continues(tmp_path: Path, held: str) -> None:
    job = tmp_path / "job"
    site = site_of(tmp_path, PICTURES)
    with DemoServer(site) as server, commands(tmp_path) as start:
        assert start("first", "run", server.url, "-o", job, "-w", 0, "--near", "keep-best").ends() == 0
        (site / "a" / "large.png").write_bytes(file_of(scene(5)))
        server.hold(held)
        master = start("killed", "run", "-o", job, "-w", 0, "--refresh")
        wait_until(lambda: sum(stats_of(job).changes.values()) == len(PICTURES) - 1, "all requests but one")
        master.kill()
        server.release(held)
        found = verify(job)
        assert found.is_good and found.balance and not found.balance.is_finished, describe_audit(found)
        assert find_near(job, keeps_best=True, is_stopped=lambda: False).elsewhere == 0
        assert verify(job).is_good
        assert start("end", "run", "-o", job, "-w", 0).ends() == 0
    rows = {name_of(row.url): row for row in manifest_of(job)}
    found = verify(job)
    assert found.is_good and found.balance and found.balance.is_finished, describe_audit(found)
    assert rows["large.png"].change == "changed" and (job / rows["cut.jpg"].path).exists()


def test_a_pin_applies_to_the_picture_itself_and_not_to_the_best(tmp_path: Path, call: Call) -> None:
    site, job = site_of(tmp_path, PICTURES), Path("out")
    with DemoServer(site) as server:
        assert call("run", server.url, "-w", 0, "--near", "keep-best").code == 0
        rows = rows_of(job)
        pin = {"url": rows["cut.jpg"].url, "sha256": rows["large.png"].sha256}
        Path("pins").write_text(json.dumps(pin))
        since = len(server.requests)
        call("run", "-w", 0, "--refresh", "--pin", "pins")
        assert texts_of(server, since)["cut.jpg"] == 200
    row = rows_of(job)["cut.jpg"]
    assert (row.reason, row.sha256 in row.path, (job / row.path).exists()) == ("pin-mismatch", True, True)
    assert near_of(job) == {name: BEST[name] for name in BEST if name != "cut.jpg"}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("UPDATE record SET twin = 7 WHERE seq = ?", "the columns of a record differ from its data"),
        (
            "UPDATE record_data SET data = CAST(replace(CAST(data AS TEXT), 'images/', 'images/x/') AS BLOB)"
            " WHERE seq = ?",
            "a near-duplicate has the path of a file that no other record names",
        ),
        (
            "UPDATE record_data SET data = CAST(replace(CAST(data AS TEXT), 'images/', '../') AS BLOB) WHERE seq = ?",
            "a record has an invalid path or SHA-256",
        ),
    ],
)
def test_verify_checks_rows_that_refer_to_another_picture(job: Path, change: str, rule: str) -> None:
    find_near(job, keeps_best=True, is_stopped=lambda: False)
    (number,) = [n for n, row in enumerate(manifest_of(job), 1) if row.url.endswith("/cut.jpg")]
    with closing(sqlite3.connect(job / "frontier.sqlite")) as db, db:
        db.execute(change, (number,))
    assert rule in [fault.rule for fault in verify(job).faults]


# --- kills


class Killed(Exception):
    """The simulated kill of the master."""


@pytest.mark.fire
@pytest.mark.parametrize("step", ["cut", "rewrite", "_remove_files", "remove", "end"])
def test_after_a_kill_at_any_step_the_crawl_is_consistent_and_the_next_run_completes_it(
    marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    owners = {"cut": ManifestWriter, "rewrite": ManifestWriter, "remove": LocalStore}
    for moment in ("before", "after"):
        job = Path(shutil.copytree(marked, tmp_path / moment))
        with monkeypatch.context() as patch:
            if step in owners:
                patch.setattr(owners[step], step, dying(getattr(owners[step], step), moment))
            elif step == "end":
                patch.setattr(RecordEdit, "end", dying(RecordEdit.end, moment))
            else:
                patch.setattr(near_duplicates, step, dying(getattr(near_duplicates, step), moment))
            with pytest.raises(Killed):
                find_near(job, keeps_best=True, is_stopped=lambda: False)
        found = verify(job)
        assert found.is_good, f"{moment}: {describe_audit(found)}"
        crawler.run((), output=job, near="keep-best")
        assert near_of(job) == BEST and files_of(job) == 3


def dying(step: Callable[..., Any], moment: str) -> Callable[..., Any]:
    def wrapper(*arguments: Any) -> None:
        if moment == "after":
            step(*arguments)
        raise Killed

    return wrapper


def test_stopping_the_search_changes_nothing(job: Path) -> None:
    before = (job / "manifest.jsonl").read_bytes()
    with pytest.raises(SearchStopped):
        find_near(job, keeps_best=True, is_stopped=lambda: True)
    assert (job / "manifest.jsonl").read_bytes() == before and files_of(job) == 6
    CrawlDirectory(job).own()()


def test_a_path_that_no_downloader_writes_removes_nothing(job: Path) -> None:
    with closing(sqlite3.connect(job / "frontier.sqlite")) as db, db:
        db.execute(
            'UPDATE record_data SET data = CAST(replace(CAST(data AS TEXT), \'"path":"images/\', \'"path":"../x/\')'
            " AS BLOB)"
        )
    found = find_near(job, keeps_best=True, is_stopped=lambda: False)
    assert (found.pictures, found.dropped) == (3, 0) and files_of(job) == 6


def test_any_claim_of_a_worker_about_a_picture_is_tolerated(job: Path) -> None:
    with closing(sqlite3.connect(job / "frontier.sqlite")) as db, db:
        change = "UPDATE record_data SET data = CAST(replace(CAST(data AS TEXT), ?, ?) AS BLOB)"
        db.execute(change, ('"width":320,"height":240', f'"width":{2**53},"height":{2**53}'))
        db.execute(change, ('"format":"jpeg"', '"format":""'))
    for _ in "again":
        assert find_near(job, keeps_best=True, is_stopped=lambda: False).pictures == 3
        assert files_of(job) == 3
