"""The commands as users run them: output streams, options, and the status of a crawl."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from PIL import Image

import crawler.app.session
from crawler.app.config import CrawlConfig
from crawler.demo.server import DemoServer
from crawler.errors import CrawlerError
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import ImageRecord
from crawler.stats import FrontierStats
from crawler.store.manifest import record_line
from tests.support.calls import Call, calls
from tests.support.processes import PATIENCE, Command, commands, manifest_of, many_pictures, stats_of, wait_until

Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


# output streams -------------------------------------------------------------------------------------------------------


def test_standard_output_has_only_the_results(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        ended = call("run", server.url, f"{server.url}gone.html", "-w", 0)
    rows = manifest_of(Path("out"))
    assert ended.out.splitlines() == [record_line(row) for row in rows] and len(rows) == 3
    assert "3 images saved" in ended.err and "1 of 2 seeds failed" in ended.err
    assert "\x1b" not in ended.err and "\r" not in ended.err


def test_json_rows_are_the_manifest(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        ended = call("run", server.url, "-w", 0, "--json")
    rows = [msgspec.json.decode(line, type=ImageRecord) for line in ended.out.splitlines()]
    assert rows == manifest_of(Path("out")) and len(rows) == 3


def test_quiet_keeps_results_errors_and_the_summary(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        call("run", server.url, "-w", 0)
        ended = call("run", server.url, f"{server.url}gone.html", "-w", 0, "-q")
    head, *_, last = ended.err.splitlines()
    assert head.startswith("Done in ") and last.startswith("crawler: 1 of 2 seeds failed")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.fire)])
@pytest.mark.parametrize("stream", ["stdout", "both"])
def test_a_reader_that_closes_the_pipe_does_not_stop_the_crawl(tmp_path: Path, workers: int, stream: str) -> None:
    with DemoServer(many_pictures(tmp_path, 40)) as server:
        command = [sys.executable, "-m", "crawler", "run", server.url, "-o", "out", "-w", str(workers)]
        stderr = subprocess.STDOUT if stream == "both" else subprocess.PIPE
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr) as process:
            assert process.stdout is not None
            assert b"--->success" in process.stdout.readline()
            process.stdout.close()
            said = process.stderr.read() if process.stderr else b""
            assert process.wait(PATIENCE) == 0
    assert b"Traceback" not in said and b"Broken" not in said
    assert len(manifest_of(tmp_path / "out")) == 40


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such descriptors")
def test_closed_standard_streams_do_not_stop_the_crawl(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        command = f'exec "{sys.executable}" -m crawler run {server.url} -w 0 <&- >&- 2>&-'
        assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False, timeout=PATIENCE).returncode == 0
    assert len(manifest_of(tmp_path / "out")) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_terminal_gets_bars_and_no_results(tmp_path: Path) -> None:
    import pty
    import termios

    with DemoServer(many_pictures(tmp_path, 5), {f"/{n:04}.png": {"delay": 0.3} for n in range(5)}) as server:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (30, 110))
        command = [sys.executable, "-m", "crawler", "run", server.url, "-w", "0", "-t", "2", "-o", "out"]
        with subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            shown = b"".join(iter(lambda: _read(ours), b"")).decode()
            assert process.wait(PATIENCE) == 0
        os.close(ours)
    assert "pages  1/1" in shown and "/5 [00:0" in shown and "img/s" in shown and "%" in shown
    assert "--->success" not in shown
    assert "\rDone in " in shown.replace("\r\r", "\r")  # the start of a line, after the bars
    assert "\x1b" not in (tmp_path / "out" / "crawl.log").read_text()


def _read(terminal: int) -> bytes:
    """Return the output that has arrived; nothing at the end, which Linux reports by an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


def test_hostile_addresses_can_t_steer_the_terminal(call: Call, tmp_path: Path) -> None:
    site = many_pictures(tmp_path, 1)
    names = ["&#27;[2J.png", "a&#10;--->success.png", "\u202egnp.exe", "\x9b31m.png", "0000.png"]
    text = "<meta charset=utf-8>" + "".join(f'<img src="{name}" alt="{name}">' for name in names)
    (site / "a" / "index.html").write_text(text, encoding="utf-8")
    with DemoServer(site) as server:
        lines = call("run", server.url, "-w", 0, "-v")
        rows = call("run", server.url, "-w", 0, "-o", "rows", "--json", "--debug")
    assert (lines.code, rows.code) == (0, 0)
    assert len(lines.out.splitlines()) == len(rows.out.splitlines()) == len(names)
    for text in (
        lines.out,
        lines.err,
        rows.out,
        rows.err,
        *(path.read_text() for path in tmp_path.glob("*/crawl.log")),
    ):
        assert all(line.isprintable() for line in text.split("\n"))


def test_the_key_is_only_in_the_join_file(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        ended = call("run", server.url, "-w", 0, "--debug")
    key = msgspec.json.decode(Path("out/join").read_bytes())["key"]
    others = [path.read_bytes() for path in Path("out").rglob("*") if path.is_file() and path.name != "join"]
    assert key not in ended.out + ended.err and not any(key.encode() in data for data in others)


# options --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Serve three pages in a row, in two folders; pictures of two formats and sizes; and a folder with a robots.txt
    rule.
    """
    place = tmp_path_factory.mktemp("web") / "site"
    pages = {
        "index.html": '<a href="in/">in</a><a href="out.html">out</a><img src="top.png">',
        "in/index.html": '<a href="deep.html">deep</a><img src="in.png">',
        "in/deep.html": '<a href="/out.html">out</a><img src="deep.jpg"><img src="/closed/one.png">',
        "out.html": '<img src="out.jpg">',
        "robots.txt": "User-agent: *\nDisallow: /closed/\n",
    }
    sizes = {"top.png": 20, "in/in.png": 40, "in/deep.jpg": 300, "closed/one.png": 30, "out.jpg": 60}
    for folder in ("in", "closed"):
        (place / "a" / folder).mkdir(parents=True)
    for name, text in pages.items():
        (place / "a" / name).write_text(text)
    for number, (name, size) in enumerate(sizes.items()):
        Image.effect_mandelbrot((size, size), (-2, -1, 1, 1), 20 + number).save(place / "a" / name)
    return place


@pytest.mark.parametrize(
    ("seed", "options", "saved"),
    [
        ("", [], "top in deep out"),
        ("", ["-d", 0], "top"),
        ("", ["-d", 1], "top in out"),
        ("in/", ["--scope", "page"], "in"),
        ("in/", ["--scope", "path"], "in deep"),
        ("", ["--max-pages", 1], "top"),
        ("", ["--types", "png"], "top in"),
        ("", ["--types", "jpg"], "deep out"),
        ("", ["--min-size", 50], "deep out"),
        ("", ["--max-bytes", "1K"], "top in"),
        ("", ["--no-robots"], "top in deep out one"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_each_option_has_its_effect(call: Call, site: Path, seed: str, options: list[object], saved: str) -> None:
    with DemoServer(site) as server:
        ended = call("run", server.url + seed, "-w", 0, *options)
        asked = {hit.path for hit in server.requests}
    names = {Path(row.url).stem for row in manifest_of(Path("out")) if row.status == "success"}
    assert ended.code == 0 and names == set(saved.split())
    assert ("/closed/one.png" in asked) == ("/robots.txt" not in asked) == ("--no-robots" in options)


def test_the_picture_limit_is_kept(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 30)) as server:
        assert call("run", server.url, "-w", 0, "-n", 7).code == 0
        assert [row.status for row in manifest_of(Path("out"))] == ["success"] * 7
        more = call("run", server.url, "-w", 0, "-n", 9)
    assert "max_images = 9 (was 7)" in more.err and len(manifest_of(Path("out"))) == 9


@pytest.mark.parametrize(("order", "step"), [("fifo", 1), ("lifo", -1)])
def test_the_order_option_applies_within_a_host(call: Call, tmp_path: Path, order: str, step: int) -> None:
    with DemoServer(many_pictures(tmp_path, 6)) as server:
        call("run", server.url, "-w", 0, "--per-host", 1, "--order", order)
        asked = [hit.path for hit in server.requests if hit.path.endswith(".png")]
    assert asked == [f"/{n:04}.png" for n in range(6)][::step]


def test_a_different_delay_on_resume_is_reported_and_used(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 4)) as server:
        call("run", server.url, "-w", 0, "-n", 1, "--delay", 0.01)
        before = len(server.requests)
        ended = call("run", server.url, "-w", 0, "-n", 4, "--delay", 0.4)
        hits = server.requests[before:]
    assert "Settings changed since the last run: max_images = 4 (was 1), delay = 0.4 (was 0.01)\n" in ended.err
    starts = [hit.started for hit in hits]
    assert len(hits) == 3 and all(later - earlier >= 0.2 for earlier, later in pairwise(starts))


def test_an_option_can_be_set_in_the_environment_or_in_a_file(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("crawler.toml").write_text("[machine]\nworkers = 0\n[crawl]\nmax_images = 3\n[download]\nmin_size = 99\n")
    monkeypatch.setenv("CRAWLER_MIN_SIZE", "1")
    with DemoServer(many_pictures(tmp_path, 5)) as server:
        assert call("run", server.url).code == 0
    assert len(manifest_of(Path("out"))) == 3


@pytest.mark.parametrize(("value", "asked"), [("1", False), ("0", True)])
def test_a_flag_in_the_environment_has_the_meaning_of_its_name(
    call: Call, site: Path, monkeypatch: pytest.MonkeyPatch, value: str, asked: bool
) -> None:
    monkeypatch.setenv("CRAWLER_NO_ROBOTS", value)
    with DemoServer(site) as server:
        call("run", server.url, "-w", 0, "-d", 0)
        assert ("/robots.txt" in {hit.path for hit in server.requests}) is asked


# status of a crawl ----------------------------------------------------------------------------------------------------


def test_status_describes_a_running_a_stopped_and_a_finished_crawl(start: Start, call: Call, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        server.hold("/0002.png")
        crawl = start("run", "run", server.url, "-o", job, "-w", 0)
        wait_until(lambda: stats_of(job).success == 2, "two pictures")
        running = call("status", job)
        as_json = call("status", job, "--json")
        crawl.kill()
        stopped = call("status", job)
        server.release("/0002.png")
        call("run", "-o", job, "-w", 0)
        finished = call("status", job)
    assert running.out.startswith(f"{job}: running; pages 1/1, images 2/3: 2 saved") and "harvester" in running.out
    stats = msgspec.json.decode(as_json.out, type=FrontierStats)
    assert (stats.success, stats.leased, stats.pages_done) == (2, 1, 1) and as_json.out.count("\n") == 1
    assert stopped.out.startswith(f"{job}: stopped; ") and stopped.out.count("\n") == 1
    assert finished.out.startswith(f"{job}: finished; pages 1/1, images 3/3: 3 saved")
    assert {ended.code for ended in (running, as_json, stopped, finished)} == {0}
    assert not running.err + as_json.err + finished.err


def test_every_command_has_a_help_page(call: Call) -> None:
    for command in ("run", "harvest", "download", "status", "demo"):
        ended = call(command, "--help")
        assert ended.code == 0 and f"Usage: crawler {command} " in ended.out and not ended.err


# internal errors ------------------------------------------------------------------------------------------------------


def fail(*_: object, **__: object) -> None:
    raise ZeroDivisionError("by \x1b[31m zero")


def test_an_internal_error_is_one_line_with_the_traceback_in_the_log(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawler.app.session, "serve", fail)
    ended = call("run", "http://127.0.0.1:1/")
    assert ended.code == 1
    assert ended.complaint.startswith("crawler: internal error: ZeroDivisionError: by \\u001b[31m zero (")
    assert "crawl.log" in ended.complaint
    log = Path("out/crawl.log").read_text()
    assert "Traceback" in log and "in fail" in log and "\x1b" not in log


def test_an_internal_error_before_the_log_exists_is_one_line_too(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrawlConfig, "load", fail)
    ended = call("run", "http://127.0.0.1:1/")
    assert ended.code == 1 and "internal error" in ended.complaint


def test_debug_shows_the_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawler.app.session, "serve", fail)
    ended = call("run", "http://127.0.0.1:1/", "--debug")
    assert ended.code == 1
    assert "Traceback" in ended.err and "in fail" in ended.err


def test_debug_shows_the_origin_of_a_known_error(call: Call) -> None:
    plain, debug = (call("run", "http://", *flags) for flags in ([], ["--debug"]))
    assert "Traceback" not in plain.err and "Traceback" in debug.err
    assert (plain.code, debug.code) == (2, 2)
    assert plain.err in debug.err


def test_an_exception_in_a_thread_ends_the_command(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteFrontier, "complete", fail)
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        ended = call("run", server.url, "-w", 0)
    assert ended.code == CrawlerError.code
    assert "Traceback" not in ended.err and "ZeroDivisionError" in ended.err.splitlines()[-1]
    assert "in fail" in Path("out/crawl.log").read_text()
