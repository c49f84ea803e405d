"""The first and the last line of a command: the results of a run, the totals, and the next steps."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from crawler.demo.server import DemoServer
from tests.support.calls import Call, calls
from tests.support.processes import many_pictures


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


# this run, and in total -----------------------------------------------------------------------------------------------


def test_a_finished_crawl_says_that_nothing_was_to_do_and_names_refresh(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        first = call("run", server.url, "-w", 0)
        asked = len(server.requests)
        again = call("run", server.url, "-w", 0, "-q")
        third = call("run", "-w", 0)
        assert len(server.requests) == asked
    assert first.err.splitlines()[0].startswith("Done in ") and ": 3 images saved (" in first.err
    for ended in (again, third):
        head, *rest = ended.err.splitlines()
        assert ended.code == 0 and head.startswith("Nothing to do: this crawl finished on 20")
        assert ": 3 images saved (" in head
        assert "To look for new, changed or removed images:  crawler run -o out --refresh" in rest
    assert first.err.count("Nothing to do") == 0 and "Resuming" not in third.err
    assert again.err.splitlines()[0] == third.err.splitlines()[0]  # reading the status does not change when it finished


def test_a_crawl_that_stopped_at_its_limit_says_so(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 5)) as server:
        call("run", server.url, "-w", 0, "-n", 2)
        again = call("run", "-w", 0)
    assert "Nothing to do: this crawl finished on " in again.err
    assert "3 images not requested because of the limits (max_images = 2)" in again.err
    assert "--refresh" not in again.err


def test_a_crawl_that_stopped_at_its_limit_of_pages_says_so(call: Call, tmp_path: Path) -> None:
    site = many_pictures(tmp_path, 2)
    for name in ("b", "c"):
        (site / "a" / f"{name}.html").write_text("a page")
    with (site / "a" / "index.html").open("a") as page:
        page.write('<a href="b.html">b</a> <a href="c.html">c</a>')
    with DemoServer(site) as server:
        call("run", server.url, "-w", 0, "--max-pages", 1)
        again = call("run", "-w", 0)
    assert "2 pages not requested because of the limits (max_pages = 1)" in again.err
    assert "--refresh" not in again.err


def test_a_resumed_crawl_distinguishes_this_run_from_the_total(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 5)) as server:
        call("run", server.url, "-w", 0, "-n", 2)
        ended = call("run", "-w", 0, "-n", 5)
    head = next(line for line in ended.err.splitlines() if line.startswith("Done in "))
    assert ": 3 images saved in this run (" in head and "; in total 5 images (" in head


def test_a_retry_distinguishes_this_run_from_the_total(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 3), {"/0001.png": {"status": 501, "times": 1}}) as server:
        call("run", server.url, "-w", 0)
        ended = call("retry", "out", "-w", 0)
        nothing = call("retry", "out", "-w", 0)
    assert ": 1 image saved in this run (" in ended.err and "; in total 3 images (" in ended.err
    assert ": 0 images saved in this run (" in nothing.err and "; in total 3 images (" in nothing.err


def test_a_refresh_distinguishes_this_run_from_the_total(call: Call, tmp_path: Path) -> None:
    site = many_pictures(tmp_path, 3)
    with DemoServer(site) as server:
        call("run", server.url, "-w", 0)
        Image.new("RGB", (16, 16), (200, 200, 9)).save(site / "a" / "0001.png")
        ended = call("run", "-w", 0, "--refresh")
    assert "2 unchanged, 1 changed" in ended.err
    assert ": 1 image saved in this run (" in ended.err and "; in total 3 images (" in ended.err


# names of files -------------------------------------------------------------------------------------------------------


def test_a_summary_names_only_files_that_exist(call: Call, tmp_path: Path) -> None:
    site = many_pictures(tmp_path, 1)
    (site / "a" / "bare.html").write_text("<p>nothing to see")
    with DemoServer(site) as server:
        bare = call("run", f"{server.url}bare.html", "-w", 0)
        good = call("run", server.url, "-w", 0, "-o", "good")
    for name in ("manifest", "results"):
        assert f"  {name} " not in bare.err and f"  {name} " in good.err
    assert (bare.code, good.code) == (8, 0) and not Path("out/manifest.jsonl").exists()


def test_additions_to_a_crawl_are_reported_before_any_request(call: Call, tmp_path: Path) -> None:
    site = many_pictures(tmp_path, 2)
    (site / "b").mkdir()
    (site / "b" / "index.html").write_text("nothing")
    with DemoServer(site) as server:
        Path("more.txt").write_text(f"{server.a}/0001.png\n")
        first = call("run", server.url, "-w", 0)
        same = call("run", server.url, "-w", 0)
        second = call("run", f"{server.b}/", "--images", "more.txt", "-w", 0)
    assert "Adding" not in first.err + same.err
    crawl = f"the crawl of {server.url} in out"
    adding = f"Adding {server.b}/ and more.txt to {crawl}. To crawl them separately, use another -o."
    assert adding in second.err.splitlines()
    assert second.err.index("Adding") < second.err.index("Resuming")


def test_a_finished_crawl_leaves_no_outbox(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        assert call("run", server.url, "-w", 1).code == 0
    left = {path.name for path in Path("out").iterdir()}
    assert not [name for name in left if name.startswith(".told-")] and "leases.log" not in left
    assert {".lock", "join"} <= left


# verify ---------------------------------------------------------------------------------------------------------------


def test_verify_accepts_a_metadata_file_beside_the_pictures(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 2)) as server:
        call("run", server.url, "-w", 0)
    Path("out/images/metadata.jsonl").write_text('{"file_name": "x"}\n')
    ended = call("verify", "out")
    assert (
        ended.code == 0
        and "2 files intact, 0 missing, 0 damaged, 0 foreign, 0 in other stores, 1 other file\n" in ended.err
    )


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_verify_lists_files_with_undecodable_names(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 2)) as server:
        call("run", server.url, "-w", 0)
    for name in (b"notes \xff.txt", b"stray \xff.jpg"):
        Path(os.fsdecode(b"out/images/" + name)).touch()
    for flags in ([], ["--repair"]):
        ended = call("verify", "out", "--json", *flags)
        assert ended.code == 9 and "1 foreign, 0 in other stores, 1 other file\n" in ended.err
        found = [msgspec.json.decode(line) for line in ended.out.splitlines()]
        assert sorted(row["where"] for row in found) == [r"out/images/notes \udcff.txt", r"out/images/stray \udcff.jpg"]


def test_verify_names_every_damaged_file_as_json(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 30)) as server:
        call("run", server.url, "-w", 0)
    files = sorted(path for path in Path("out/images").rglob("*.png"))
    for path in files[:25]:
        path.write_bytes(b"rotten")
    Path("out/results.txt").write_text("")
    plain, listed = call("verify", "out"), call("verify", "out", "--json")
    assert "  and 5 more: --json lists them all" in plain.err and plain.code == listed.code == 9
    assert plain.out == "" and plain.err == listed.err
    found = [msgspec.json.decode(line) for line in listed.out.splitlines()]
    assert {row["where"] for row in found if row["finding"] == "damaged"} == set(map(str, files[:25]))
    others = [row["finding"] for row in found if row["finding"] != "damaged"]
    assert others == ["results.txt ends before the records do"]
