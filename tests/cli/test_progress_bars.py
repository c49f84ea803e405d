"""Console output: numbers, lines and bars, on a terminal and elsewhere, with a clock that the test controls."""

import errno
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tqdm import tqdm

from crawler.app.summary import Summary
from crawler.cli.progress_bars import Console, DownloadLine, Speed, VerifyLine
from crawler.cli.summary_text import describe_summary
from crawler.cli.text import clock_time, describe_counts
from crawler.errors import DiskError
from crawler.model import ImageRecord
from crawler.stats import FrontierStats, StoreStats
from crawler.worker.worker import WorkerProgress


class Clock:
    """A clock that stands still until the test moves it."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A terminal that keeps all its output."""

    def isatty(self) -> bool:
        return True

    @property
    def newest(self) -> str:
        """Return the last drawing, bar by bar, without cursor movements."""
        return self.getvalue().rpartition("pages ")[2].replace("\x1b[A", "").replace("\r", "").strip()


class Broken(Terminal):
    """A stream whose other end is closed, or full."""

    number = 0

    def write(self, text: str) -> int:
        if self.number:
            raise OSError(self.number, "gone")
        return super().write(text)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "30")


RECORD = ImageRecord(url="http://a.example/1.png", status="success")
WALKING = FrontierStats(
    pages_done=3, pages_waiting=4, pages_leased=1, pages_failed=1, discovered=40, success=10, hosts=2
)
WALKED = FrontierStats(pages_done=9, discovered=40, success=10, duplicate=5, failed=5, bytes=2_000_000, hosts=1)


# speed ----------------------------------------------------------------------------------------------------------------


def test_a_rate_starts_at_the_resume_of_the_crawl(clock: Clock) -> None:
    speed = Speed(clock)
    assert speed.update(5_000) == 0
    clock.now += 2
    assert speed.update(5_010) == 5


def test_a_rate_ignores_the_distant_past(clock: Clock) -> None:
    speed = Speed(clock)
    for total in (0, 1_000, *[1_000] * 12):
        clock.now += 1
        rate = speed.update(total)
    assert rate == 0


# lines ----------------------------------------------------------------------------------------------------------------


def test_off_a_terminal_there_is_a_line_every_thirty_seconds(clock: Clock) -> None:
    err = io.StringIO()
    console = Console(out=io.StringIO(), err=err, clock=clock)
    for _ in range(4 * 61):
        clock.now += 0.25
        console.update(WALKED)
    console.close()
    assert err.getvalue() == f"{describe_counts(WALKED)}, 0.0 img/s, 0.0 MB/s\n" * 2


def test_quiet_means_no_line_and_no_bar(clock: Clock) -> None:
    for err in (io.StringIO(), Terminal()):
        console = Console(quiet=True, out=io.StringIO(), err=err, clock=clock)
        clock.now += 31
        console.update(WALKED)
        console.say("hello")
        console.close()
        assert err.getvalue() == ""


def test_the_counts_add_up() -> None:
    stats = msgspec.structs.replace(WALKING, leased=7, waiting=20, duplicate=2, failed=1)
    assert describe_counts(stats) == (
        "pages 4/9, images 13/40: 10 saved, 2 duplicate, 1 failed, 7 in progress, 20 waiting; hosts 2"
    )


@pytest.mark.parametrize(("gap", "shown"), [(0.25, "0.25"), (1.0, "1"), (1.5, "1.5"), (12.0, "12"), (300.0, "300")])
def test_the_limiting_host_is_named_with_the_option_that_lifts_the_limit(gap: float, shown: str) -> None:
    stats = msgspec.structs.replace(WALKING, limiting_host="a.example", limiting_gap=gap)
    assert describe_counts(stats).endswith(
        f"; a.example: one request every {shown} s (your own site? --delay 0 --per-host 8)"
    )


def test_hosts_that_are_down_are_counted() -> None:
    assert "; hosts 3, 2 down;" in describe_counts(FrontierStats(hosts=3, hosts_down=2)) + ";"


def test_a_host_without_a_gap_is_no_limit() -> None:
    stats = msgspec.structs.replace(WALKING, limiting_host="a.example")
    assert "a.example" not in describe_counts(stats)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "00:00"), (61, "01:01"), (3_599.6, "1:00:00"), (90_000, "25:00:00")]
)
def test_clock_time_is_formatted_by_length(seconds: float, shown: str) -> None:
    assert clock_time(seconds) == shown


# bars -----------------------------------------------------------------------------------------------------------------


def test_bars_show_numbers_without_a_total_while_pages_are_walked(clock: Clock) -> None:
    err = Terminal()
    console = Console(out=Terminal(), err=err, clock=clock)
    console.update(WALKING)
    clock.now += 10
    console.update(msgspec.structs.replace(WALKING, success=30, bytes=5_000_000))
    assert err.newest.startswith("4/9  hosts 2")
    assert "images 30/40 [00:10, 2.0 img/s, 0.5 MB/s]  ok 30  dup 0  fail 0" in err.newest
    assert "%" not in err.newest and "<" not in err.newest
    console.close()


def test_the_time_left_is_shown_once_the_total_is_known(clock: Clock) -> None:
    err = Terminal()
    console = Console(out=Terminal(), err=err, clock=clock)
    console.update(msgspec.structs.replace(WALKED, success=0))
    clock.now += 10
    console.update(WALKED)  # ten more in ten seconds, and twenty left
    assert "images  50% |" in err.newest and "20/40 [00:10<00:20, 1.0 img/s" in err.newest
    console.close()


def test_an_open_list_means_an_unknown_total(clock: Clock) -> None:
    err = Terminal()
    console = Console(out=Terminal(), err=err, clock=clock)
    console.update(msgspec.structs.replace(WALKED, lists_open=1))
    assert "%" not in err.newest
    console.close()


def test_the_cursor_ends_at_the_beginning_of_a_line(clock: Clock) -> None:
    err = Terminal()
    console = Console(out=Terminal(), err=err, clock=clock)
    console.update(WALKED)
    console.close()
    assert err.getvalue().endswith("\r")


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_a_closed_terminal_stops_no_caller(clock: Clock, number: int) -> None:
    err = Broken()
    console, line = Console(out=io.StringIO(), err=err, clock=clock), DownloadLine(err=err, clock=clock)
    console.update(WALKING)
    err.number = number
    clock.now += 10
    for _ in range(2):
        console.update(WALKED)
        line.update(WorkerProgress(saved=1))
    for view in (console, line):
        view.say("hello")
        view.close()
    elsewhere = threading.Thread(target=tqdm.write, args=("a warning",), kwargs={"file": io.StringIO()}, daemon=True)
    elsewhere.start()
    elsewhere.join(10)
    assert not elsewhere.is_alive()  # no lock is left held


# results --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "flags", "shown"),
    [
        (io.StringIO, {}, True),
        (io.StringIO, {"quiet": True}, True),
        (Terminal, {}, False),
        (Terminal, {"verbose": True}, True),
        (Terminal, {"as_json": True}, True),
    ],
)
def test_results_are_shown_on_the_chosen_stream(
    stream: Callable[[], io.StringIO], flags: dict[str, Any], shown: bool
) -> None:
    out = stream()
    Console(out=out, err=io.StringIO(), **flags).results([RECORD])
    assert ("a.example" in out.getvalue()) is shown


def test_results_are_record_lines_or_manifest_rows() -> None:
    lines, rows = io.StringIO(), io.StringIO()
    Console(out=lines, err=io.StringIO()).results([RECORD])
    Console(out=rows, err=io.StringIO(), as_json=True).results([RECORD])
    assert lines.getvalue() == "http://a.example/1.png--->success\n"
    assert msgspec.json.decode(rows.getvalue(), type=ImageRecord) == RECORD


def test_text_from_a_site_can_t_steer_the_terminal() -> None:
    out = Terminal()
    record = msgspec.structs.replace(RECORD, alt="\x1b]0;owned\x07\x9b2J\n\u202egnp.exe", title="harmlos 漢")
    Console(out=out, err=io.StringIO(), as_json=True).results([record])
    assert out.getvalue().removesuffix("\n").isprintable()
    assert msgspec.json.decode(out.getvalue(), type=ImageRecord) == record


def test_a_closed_reader_ends_only_the_results() -> None:
    out = Broken()
    out.number = errno.EPIPE
    console = Console(out=out, err=io.StringIO(), verbose=True)
    console.results([RECORD])
    out.number = 0
    console.results([RECORD])
    assert out.getvalue() == ""


def test_unwritable_results_are_a_disk_error() -> None:
    out = Broken()
    out.number = errno.ENOSPC
    with pytest.raises(DiskError, match="standard output"):
        Console(out=out, err=io.StringIO(), verbose=True).results([RECORD])


# a downloader ---------------------------------------------------------------------------------------------------------


def test_a_downloader_shows_its_numbers(clock: Clock) -> None:
    on, off = Terminal(), io.StringIO()
    lines = [DownloadLine(err=err, clock=clock) for err in (on, off)]
    for saved in (0, 62):
        for line in lines:
            line.update(WorkerProgress(saved=saved, failed=2, received=saved * 1_000_000, leases=7))
        clock.now += 31
    for line in lines:
        line.update(WorkerProgress(saved=62, failed=2, received=62_000_000, leases=7))
        line.close()
    assert "ok 62  dup 0  fail 2  " in on.getvalue() and "leases 7" in on.getvalue()
    assert off.getvalue().count("ok 62  dup 0  fail 2  ") == 2 == off.getvalue().count("\n")


def test_a_downloader_counts_down_while_its_master_is_missing(clock: Clock) -> None:
    err = Terminal()
    line = DownloadLine(err=err, clock=clock)
    line.wait(50.0, "Connection \x1b refused")
    clock.now += 2
    line.update(WorkerProgress())
    assert "no master (Connection \\u001b refused); giving up in 48 s" in err.getvalue()
    clock.now += 2
    line.update(WorkerProgress(saved=3))
    assert err.getvalue().rpartition("\r")[2].startswith("ok 3")
    line.close()


# the end --------------------------------------------------------------------------------------------------------------


def summary(interrupted: bool = False, **counts: Any) -> Summary:
    return Summary(stats=FrontierStats(**counts), output=Path("a b"), elapsed=65.0, interrupted=interrupted)


def test_the_summary_explains_the_results_and_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a b").mkdir()
    for name in ("manifest.jsonl", "results.txt"):
        Path("a b", name).touch()
    text = describe_summary(
        summary(
            success=12, duplicate=3, failed=3, bytes=1_500_000, pages_done=4, pages_failed=1, hosts=2, bad_lines=1,
            spared=4_800_000,
            reasons={"http-404": 2, "robots": 1}, page_reasons={"timeout": 1}, robots_reasons={"dns": 1},
        )
    )  # fmt: skip
    head, *rows = text.splitlines()
    assert head == "Done in 01:05: 12 images saved (1.5 MB) from 4 pages on 2 hosts"
    assert [tuple(row.strip().split("  ", 1)) for row in rows if "a b" not in row] == [
        ("duplicate", "   3"),
        ("failed", "      3: http-404 2, robots 1"),
        ("pages failed", "1: timeout 1"),
        ("robots.txt", "  1: dns 1"),
        ("bad lines", "   1"),
        ("skipped", "     4.8 MB not downloaded (filters)"),
    ]
    assert str(Path("a b", "manifest.jsonl")) in text and str(Path("a b", "results.txt")) in text


def test_the_summary_of_a_master_counts_the_pictures_of_each_machine() -> None:
    stores = tuple(StoreStats(id=f"{n}" * 16, worker=f"{name}/{n}-0", pictures=n) for n, name in enumerate("aabbc"))
    text = describe_summary(summary(success=10, stores=stores), "harvest")
    assert "files         on the downloaders (b 5, c 4, a 1)" in text
    assert describe_summary(summary(), "harvest").endswith("files         on the downloaders")


def test_one_is_singular() -> None:
    text = describe_summary(summary(success=1, pages_done=1, hosts=1))
    assert text == "Done in 01:05: 1 image saved (0.0 MB) from 1 page on 1 host"


@pytest.mark.parametrize("command", ["run", "harvest"])
def test_an_interrupted_crawl_shows_the_command_to_resume(command: str) -> None:
    text = describe_summary(summary(interrupted=True, waiting=1, pages_waiting=2), command)
    assert text.startswith("Interrupted after 01:05: 0 images")
    assert "waiting       1 image, 2 pages" in text
    assert text.splitlines()[-1] == f"Continue with:  crawler {command} -o 'a b'"


def test_a_long_check_reports_its_progress() -> None:
    clock, err = Clock(), io.StringIO()
    line = VerifyLine(err=err, clock=clock)
    line.update("requests", 1_000)
    assert err.getvalue() == ""
    clock.now += 31
    line.update("pictures", 2_000)
    line.update("pictures", 3_000)
    line.close()
    assert err.getvalue() == "2000 pictures checked\n"


def test_a_check_on_a_terminal_leaves_no_line_behind() -> None:
    terminal = Terminal()
    line = VerifyLine(err=terminal, clock=Clock())
    line.update("requests", 1_000)
    assert "1000 requests checked" in terminal.getvalue()
    line.close()
    assert terminal.getvalue().rpartition("\r")[2] == ""
