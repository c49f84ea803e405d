"""The benchmark with other programs: its site, its measurements, its tables, and the commands of its programs."""

import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from crawler.harvest.html.extract import extract
from tests.benchmarks.peers import __main__ as peers
from tests.benchmarks.peers import report, site
from tests.benchmarks.peers.measure import measure, verified
from tests.benchmarks.peers.nginx import first_request
from tests.benchmarks.peers.programs import PROGRAMS, Program, Task, install
from tests.benchmarks.peers.report import Run
from tests.benchmarks.peers.workloads import WORKLOADS
from tests.support.processes import wait_until

POSIX = pytest.mark.skipif(os.name != "posix", reason="only POSIX counts the CPU of ended child processes")
BASE = "http://127.0.0.1:8000"


def run(**changes: object) -> Run:
    plain = Run(
        workload="small",
        program="curl",
        version="8.0",
        round=0,
        number=100,
        verified=100,
        seconds=2.0,
        seconds_of_requests=1.0,
        cpu=0.5,
        memory=10.0,
        requests=100,
        code=0,
    )
    return structs.replace(plain, **changes)


def task(folder: Path, **changes: object) -> Task:
    urls = folder / "urls.txt"
    urls.write_text(f"{BASE}/small/00000.jpg\n")
    plain = Task(
        crawl=False,
        in_flight=None,
        number=1,
        urls=urls,
        plain_urls=urls,
        start=f"{BASE}/gallery/",
        server=BASE,
        output=folder / "output",
        cores=2,
    )
    return structs.replace(plain, **changes)


# --- the site


def test_the_same_seed_makes_the_same_pictures_and_all_of_them_differ() -> None:
    first, again, other = (list(site.make_pictures(60, 3_000, seed)) for seed in (1, 1, 2))
    assert first == again
    assert len({*first, *other}) == 120
    assert 2_400 < sum(map(len, first)) / 60 < 3_600


def test_the_gallery_has_276_pages_and_names_each_picture_once(tmp_path: Path) -> None:
    album = site.Album([f"/small/{number:05}.jpg" for number in range(5_000)], frozenset())
    site.write_gallery(tmp_path, "gallery", album, BASE)
    texts = [path.read_text() for path in (tmp_path / "gallery").iterdir()]
    assert len(texts) == 276
    assert {path: sum(text.count(path) for text in texts) for path in album.paths[:40]} == dict.fromkeys(
        album.paths[:40], 1
    )


def test_the_other_gallery_names_the_pictures_of_a_page_in_as_many_ways_and_all_are_found(tmp_path: Path) -> None:
    album = site.Album([f"/small/{number:05}.jpg" for number in range(site.PICTURES_PER_PAGE)], frozenset())
    (page,) = site.write_gallery(tmp_path, "named", album, BASE)
    assert len({*site.HEAD_WAYS, *site.BODY_WAYS}) == site.PICTURES_PER_PAGE
    found = extract((tmp_path / page[1:]).read_bytes(), BASE + page)
    assert {image.url for image in found.images} >= {BASE + path for path in album.paths}


# --- measurements


def test_the_first_request_is_the_one_that_arrived_first() -> None:
    log = ["100.500 0.100 200 15 /b.jpg\n", "100.600 0.300 200 15 /a.jpg\n"]
    number, first = first_request(iter(log))
    assert number == 2 and first == pytest.approx(100.3)
    assert first_request(iter([])) == (0, 0.0)


@POSIX
def test_the_cpu_of_grandchildren_counts(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    usage = measure([sys.executable, "-c", parent], tmp_path, dict(os.environ), 60.0)
    assert usage.code == 0 and usage.cpu >= 0.4
    if sys.platform == "linux":
        assert usage.memory is not None and usage.memory > 1.0


@POSIX
def test_a_command_that_takes_too_long_is_stopped_with_its_children(tmp_path: Path) -> None:
    child = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    usage = measure([sys.executable, "-c", parent], tmp_path, dict(os.environ), 6.0)
    assert usage.code is None and usage.seconds < 50
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}/cwd").exists(), "the end of the child")


def test_only_files_with_exactly_the_right_bytes_are_verified(tmp_path: Path) -> None:
    album = site.write_album(tmp_path / "site", "small", 3, 2_000)
    first, second, third = ((tmp_path / "site" / path[1:]).read_bytes() for path in album.paths)
    folder = tmp_path / "output" / "deep"
    folder.mkdir(parents=True)
    (folder / "1").write_bytes(first)
    (folder / "copy").write_bytes(first)
    (folder / "cut").write_bytes(second[:-1])
    (folder / "3").write_bytes(third)
    assert verified(tmp_path / "output", album.digests) == 2


# --- tables


def test_a_row_has_the_medians_and_the_worst_number_of_files() -> None:
    runs = [run(seconds=2.0), run(seconds=4.0, round=1, memory=None), run(seconds=1.0, round=2, verified=50)]
    (row,) = report.medians(runs)
    assert (row.rounds, row.verified, row.seconds, row.rate) == (3, 50, 2.0, 50.0)
    assert (row.rate_of_requests, row.cpu, row.memory) == (100.0, 5.0, 10.0)


def test_the_tables_say_what_failed_and_what_was_not_done() -> None:
    runs = [
        run(),
        run(workload="gallery", program="wget", verified=70),
        run(workload="gallery", verified=0, code=None, message="stopped after 9 s | or so"),
        run(workload="twenty", number=20, verified=20),
    ]
    rows = report.medians(runs)
    assert report.overview(rows).splitlines() == [
        "|  | 5,000 × 15 KB | gallery | 20 pictures |",
        "| --- | --- | --- | --- |",
        "| curl | 50 (5.0) | failed | 2.00 s |",
        "| wget | – | 35 (7.1; 70 saved) | – |",
    ]
    (line,) = [line for line in report.details(rows).splitlines() if "stopped" in line]
    assert line == r"| gallery | curl | 0 | 0 | 0.00 | 10 | 0 of 100 | 2.00 | stopped after 9 s \| or so |"


def test_the_longest_bar_of_the_plot_is_that_of_the_fastest() -> None:
    rows = report.medians([run(), run(program="wget", seconds=4.0), run(program="aria2", verified=0)])
    picture = ET.fromstring(report.plot(rows))  # noqa: S314  # our own text
    bars = [float(bar.attrib["width"]) for bar in picture.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert bars[0] == 2 * bars[1] and len(bars) == 2


def test_a_report_is_made_from_the_lines_of_the_runs(tmp_path: Path) -> None:
    about = {"processor": "P", "cores": 2, "load": 0.0, "system": "S", "python": "3", "nginx": "1", "date": "D"}
    lines = [{**about, "scale": 0.1}, run()]
    (tmp_path / "runs.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    assert "| curl | 50 (5.0) |" in peers.write_report(tmp_path)
    assert "10 % of the pictures" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")


# --- programs


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_each_program_lists_or_crawls_with_the_requests_in_flight_that_are_asked(
    program: Program, tmp_path: Path
) -> None:
    listed, crawled = program.command(task(tmp_path), "x"), program.command(task(tmp_path, crawl=True), "x")
    assert listed or crawled
    assert all(str(tmp_path) in " ".join(command) for command in (listed, crawled) if command)
    command = program.command(task(tmp_path, in_flight=256), "x") or []
    assert not command or "256" in command or "--thread_count=128" in command


def test_a_program_that_is_missing_has_a_reason(tmp_path: Path) -> None:
    missing = Program("missing", lambda task, path: [path], executable="no-such-program")
    assert install(missing, tmp_path) == "no-such-program is not installed"


def test_a_share_of_the_pictures_keeps_small_jobs_whole() -> None:
    numbers = {each.name: peers.scaled(each, 0.01) for each in WORKLOADS}
    assert (numbers["small"], numbers["large"], numbers["twenty"]) == (50, 10, 20)
