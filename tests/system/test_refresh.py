"""`--refresh`: a second crawl transfers almost nothing, reports changes, and survives kills like a first one."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import crawler
from crawler.app.config import CrawlConfig
from crawler.app.crawl import Crawl
from crawler.app.seeds import CrawlInput
from crawler.app.status import look_at
from crawler.app.summary import Summary
from crawler.cli.maintenance_text import describe_audit
from crawler.demo.server import DemoServer
from crawler.maintenance.verify import VerifyReport, verify
from crawler.model import ImageRecord
from crawler.store.manifest import read_manifest
from tests.support.calls import Call, calls
from tests.support.processes import commands, manifest_of, many_pictures, stats_of, wait_until

THREADS = CrawlConfig.load(("test", {"machine": {"workers": 0}}))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


def refresh(job: Path) -> Summary:
    return Crawl(job, THREADS).refresh(CrawlInput())


def picture(path: Path, colour: int) -> None:
    Image.new("RGB", (16, 16), (colour, 7, 7)).save(path)


def rows(job: Path) -> dict[str, ImageRecord]:
    """Return file name → row; fail if a URL has two."""
    found = manifest_of(job)
    assert len({row.url for row in found}) == len(found) == len((job / "results.txt").read_text().splitlines())
    return {row.url.rpartition("/")[2]: row for row in found}


def changes(job: Path) -> dict[str, list[str]]:
    """Return change → names of the pictures."""
    found: dict[str, list[str]] = {}
    for name, row in sorted(rows(job).items()):
        found.setdefault(row.change, []).append(name)
    return found


def proven(job: Path) -> VerifyReport:
    found = verify(job)
    assert found.is_good and found.balance is not None, describe_audit(found)
    return found


def test_an_unchanged_web_is_not_transferred_again(site: DemoServer, tmp_path: Path) -> None:
    job = tmp_path / "job"
    crawler.run(site.url, output=job)
    before, first = len(site.requests), sum(hit.sent for hit in site.requests)
    kept = {row.url: row for row in manifest_of(job)}
    summary = refresh(job)
    again = site.requests[before:]
    assert sum(hit.sent for hit in again) <= first * 0.05
    assert len([hit for hit in again if hit.status == 304]) > 190
    assert not [hit for hit in again if hit.path == "/robots.txt"]  # its rules are valid for a day
    assert summary.exit_code == 0 and summary.stats.changes == {"unchanged": 135}
    moving = ("change", "fetched_at", "elapsed", "worker", "http_status", "attempts")
    for row in manifest_of(job):
        was = kept.pop(row.url)
        fields = set(ImageRecord.__struct_fields__) - {*moving, *(["status"] if row.status != "failed" else [])}
        assert {name: getattr(row, name) for name in fields} == {name: getattr(was, name) for name in fields}
        assert row.change == ("unchanged" if was.status != "failed" else "")
    assert not kept
    found = proven(job)
    assert (found.whole, found.past, found.spare) == (132, 0, 0)


def test_changed_removed_and_added_pictures_are_reported_exactly(tmp_path: Path, call: Call) -> None:
    site, job = many_pictures(tmp_path, 12), tmp_path / "out"
    place = site / "a"
    with DemoServer(site) as server:
        assert call("run", server.url, "-w", 0).code == 0
        before = rows(job)
        server.stop()
        for n in (2, 3, 4):
            picture(place / f"{n:04}.png", 200 + n)
        for n in (5, 6):
            (place / f"{n:04}.png").unlink()
        (place / "more.html").write_text('<img src="more.png">')
        picture(place / "more.png", 250)
        with (place / "index.html").open("a") as index:
            index.write('<a href="more.html">more</a>')
        server.start()
        ended = call("run", "-w", 0, "--refresh", "-v")
    assert ended.code == 0, ended.err
    assert "Refresh 1: 1 page, 12 images queued again." in ended.err
    assert "  refresh       7 unchanged, 3 changed, 2 gone, 1 new" in ended.err
    named = ["0002.png", "0003.png", "0004.png"], ["0005.png", "0006.png"]
    assert changes(job) == {
        "changed": named[0],
        "gone": named[1],
        "new": ["more.png"],
        "unchanged": [f"{n:04}.png" for n in (0, 1, 7, 8, 9, 10, 11)],
    }
    log = (job / "crawl.log").read_text()
    for text in (ended.err, log):
        for name, change in [*((name, "changed") for name in named[0]), *((name, "gone") for name in named[1])]:
            (line,) = [line for line in text.splitlines() if f"{change}: {server.url}{name} " in line]
            assert before[name].path in line
    after = rows(job)
    for name in named[1]:
        assert (after[name].status, after[name].reason) == ("failed", "http-404")
        assert (after[name].sha256, after[name].path) == (before[name].sha256, before[name].path)
        assert (job / after[name].path).exists()
    for name in named[0]:
        assert after[name].sha256 != before[name].sha256 and (job / before[name].path).exists()
    found = proven(job)
    assert (found.whole, found.past, found.balance and found.balance.is_finished) == (13, 3, True)
    assert "3 from before a refresh" in describe_audit(found)
    status = json.loads(call("status", "out", "--json").out)
    assert (status["refreshes"], status["changes"]) == (1, {"unchanged": 7, "changed": 3, "gone": 2, "new": 1})
    assert "refresh: 7 unchanged, 3 changed, 2 gone, 1 new" in call("status", "out").out


def test_a_picture_that_returns_is_compared_with_the_last_saved_one(tmp_path: Path) -> None:
    site, job = many_pictures(tmp_path, 3), tmp_path / "out"
    first, second = (site / "a" / f"000{n}.png" for n in (0, 1))
    data = first.read_bytes()
    with DemoServer(site) as server:
        crawler.run(server.url, output=job)
        server.stop()
        first.unlink()
        second.unlink()
        server.start()
        assert refresh(job).stats.changes == {"unchanged": 1, "gone": 2}
        assert refresh(job).stats.changes == {"unchanged": 1}  # they were gone before
        server.stop()
        first.write_bytes(data)
        picture(second, 222)
        server.start()
        summary = refresh(job)
    assert summary.stats.changes == {"unchanged": 2, "changed": 1} and summary.stats.refreshes == 3
    assert proven(job).past == 1


def test_a_first_copy_that_changes_is_replaced_by_a_later_one(tmp_path: Path) -> None:
    site, job = many_pictures(tmp_path, 4), tmp_path / "out"
    place = site / "a"
    for n in (1, 2):
        (place / f"000{n}.png").write_bytes((place / "0000.png").read_bytes())
    with DemoServer(site) as server:
        crawler.run(server.url, output=job)
        (first,) = [name for name, row in rows(job).items() if row.status == "success" and name != "0003.png"]
        path = rows(job)[first].path
        picture(place / first, 222)
        summary = refresh(job)
    assert (summary.stats.success, summary.stats.duplicate, summary.stats.failed) == (3, 1, 0)
    after = rows(job)
    assert after.pop(first).change == "changed" and after.pop("0003.png").status == "success"
    assert sorted(row.status for row in after.values()) == ["duplicate", "success"]
    assert {row.path for row in after.values()} == {path}
    found = proven(job)
    assert (found.whole, found.past) == (3, 0)
    assert summary.stats.bytes == sum(row.bytes for row in rows(job).values() if row.status == "success")
    assert look_at(job)[0].bytes == summary.stats.bytes


@pytest.mark.parametrize("name", ["", "{host}/{file}"])  # even if a new file would have another name today
def test_a_file_that_is_missing_here_is_fetched_again(tmp_path: Path, name: str) -> None:
    job = tmp_path / "out"
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        crawler.run(server.url, output=job)
        (job / rows(job)["0001.png"].path).unlink()
        before = len(server.requests)
        assert crawler.run((), output=job, refresh=True, name=name).stats.changes == {"unchanged": 3}
        again = [hit.path for hit in server.requests[before:] if hit.status == 200 and hit.path != "/"]
        assert again == ["/0001.png"]
    assert proven(job).whole == 3


def test_pages_are_fetched_again_if_other_settings_may_find_more(tmp_path: Path, call: Call) -> None:
    with DemoServer(many_pictures(tmp_path, 2)) as server:
        call("run", server.url, "-w", 0)
        before = len(server.requests)
        call("run", "-w", 0, "--refresh", "--depth", 3)
        assert {hit.path for hit in server.requests[before:] if hit.status == 200} == {"/"}
        before = len(server.requests)
        call("run", "-w", 0, "--refresh")
        assert {hit.status for hit in server.requests[before:]} == {304}


def test_a_failure_in_a_refresh_is_retried_and_its_file_is_kept(tmp_path: Path, call: Call) -> None:
    site, job = many_pictures(tmp_path, 3), tmp_path / "out"
    with DemoServer(site) as server:
        call("run", server.url, "-w", 0)
        path = rows(job)["0001.png"].path
        server.stop()
        (site / "a" / "0001.png").rename(site / "kept.png")
        server.start()
        call("run", "-w", 0, "--refresh")
        server.stop()
        (site / "kept.png").rename(site / "a" / "0001.png")
        server.start()
        before = len(server.requests)
        ended = call("retry", "out", "--only", "http-404", "-w", 0)
        assert ended.code == 0 and "Queued again: 1 image (http-404 1)" in ended.err
        assert [(hit.path, hit.status) for hit in server.requests[before:]] == [("/0001.png", 304)]
    assert rows(job)["0001.png"].path == path and rows(job)["0001.png"].change == "unchanged"
    assert proven(job).whole == 3


# --- kills


def is_between(job: Path, low: int, high: int) -> bool:
    return low < stats_of(job).changes.get("unchanged", 0) < high


@pytest.mark.fire
def test_a_killed_refresh_continues_and_requests_nothing_twice(tmp_path: Path) -> None:
    number, job = 40, tmp_path / "job"
    with DemoServer(many_pictures(tmp_path, number)) as server, commands(tmp_path) as start:
        assert start("first", "run", server.url, "-o", job, "-w", 0).ends() == 0
        for kill in range(2):
            before = stats_of(job).changes.get("unchanged", 0)
            held = f"/{20 + 10 * kill:04}.png"
            server.hold(held)
            master = start(f"kill{kill}", "run", "-o", job, "-w", 0, "-t", 2, "--per-host", 2, "--refresh")
            wait_until(partial(is_between, job, before, number), "half of the requests")
            master.kill()
            server.release(held)
            found = proven(job)
            assert found.balance is not None and found.balance.images["waiting"] > 0
            assert found.whole == number
        said = (tmp_path / "kill1.err").read_text()
        assert "Refresh 1 continues" in said
        since = len(server.requests)
        settled = sum(stats_of(job).changes.values())
        assert start("end", "run", "-o", job, "-w", 0).ends() == 0
        asked = Counter(hit.path for hit in server.requests[since:])
        pictures = [path for path in asked if path.endswith(".png")]  # the page may have been in progress at a kill
        assert set(asked.values()) == {1} and len(pictures) == number - settled
    assert changes(job) == {"unchanged": [f"{n:04}.png" for n in range(number)]}
    assert proven(job).balance == verify(job).balance


def test_a_manifest_forged_during_a_refresh_is_detected(tmp_path: Path) -> None:
    job = tmp_path / "job"
    with DemoServer(many_pictures(tmp_path, 6)) as server:
        crawler.run(server.url, output=job)
        refresh(job)
    lines = (job / "results.txt").read_bytes().splitlines(keepends=True)
    (job / "results.txt").write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    assert [fault.rule for fault in verify(job).faults] == ["results.txt differs from the records"]


# --- mistakes, and the state afterwards


def test_only_an_existing_crawl_can_be_refreshed(tmp_path: Path, call: Call) -> None:
    ended = call("run", "http://127.0.0.1:1/", "--refresh")
    assert ended.code == 2 and ended.complaint.startswith("crawler: --refresh: out is not a crawl directory")
    assert not Path("out").exists()
    assert "omit --refresh" in call("run", "http://127.0.0.1:1/", "--dry-run", "--refresh").complaint


def test_a_first_crawl_reports_no_change(tmp_path: Path, call: Call) -> None:
    with DemoServer(many_pictures(tmp_path, 2)) as server:
        assert "refresh" not in call("run", server.url, "-w", 0).err
    assert {row.change for row in read_manifest(Path("out/manifest.jsonl"))} == {""}
    assert all(row.etag.startswith('"') and row.last_modified.endswith("GMT") for row in manifest_of(Path("out")))
    assert "refresh = " not in Path("out/crawl.toml").read_text() and Path("out/images").is_dir()
