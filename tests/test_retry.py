"""`crawler retry`: what was meant is asked for again and nothing else, by the server's own log."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import crawler
from crawler import retry
from crawler.audit import verify
from crawler.box import Download
from crawler.config import CrawlConfig
from crawler.crawl import Crawl
from crawler.demo import DemoServer
from crawler.engines.local import ThreadEngine
from crawler.frontier.again import PutBack, put_back
from crawler.lock import own
from crawler.manifest import _keep
from crawler.model import REASONS
from crawler.progress import describe_audit
from crawler.seeds import Source
from crawler.storage import LocalStore, write_file
from crawler.view import Silence
from tests.calls import Call, calls
from tests.processes import PATIENCE, commands, manifest_of, many_pictures

#: Address → how it misbehaves for as long as the first crawl lasts.
FAULTS: dict[str, dict[str, Any]] = {
    "/0000.png": {"delay": 1.0, "times": 2},  # a time-out is tried once more
    "/0001.png": {"status": 501, "times": 1},
    "/0002.png": {"status": 507, "times": 1},
    "/0003.png": {"status": 404, "times": 1},
    "/0004.png": {"status": 410, "times": 1},
}
#: Downloads in threads of the master.
THREADS = CrawlConfig.load(("test", {"box": {"workers": 0}}))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DemoServer]:
    """Eight pictures, five of which fail once."""
    with DemoServer(many_pictures(tmp_path, 8), FAULTS) as demo:
        yield demo


def asked(server: DemoServer, since: int) -> list[str]:
    return sorted(hit.path for hit in server.requests[since:])


def outcome(job: Path) -> dict[str, str]:
    """File name of each picture → its reason; fails where a URL has two rows, or the books do not agree."""
    rows = manifest_of(job)
    results = (job / "results.txt").read_text().splitlines()
    assert len({row.url for row in rows}) == len(rows) == len(results)
    found = verify(job)
    assert found.is_good and found.balance is not None and found.balance.is_finished, describe_audit(found)
    return {row.url.rpartition("/")[2]: row.reason for row in rows}


def failures(job: Path) -> dict[str, str]:
    return {name: reason for name, reason in outcome(job).items() if reason}


# --- a whole crawl


def test_what_is_meant_is_asked_for_again_and_nothing_else(server: DemoServer, tmp_path: Path, call: Call) -> None:
    job = tmp_path / "job"
    crawler.run(server.url, output=job, first_byte_timeout=0.3)
    assert failures(job) == {
        "0000.png": "timeout",
        "0001.png": "http-501",
        "0002.png": "http-507",
        "0003.png": "http-404",
        "0004.png": "http-410",
    }
    before, kept = len(server.requests), {row.url: row for row in manifest_of(job)}
    ended = call("retry", job, "--only", "timeout,http-501", "-w", 0)
    assert asked(server, before) == ["/0000.png", "/0001.png"]
    assert "Put back: 2 images (http-501 1, timeout 1)." in ended.err and ended.code == 0
    assert sorted(ended.out.splitlines()) == [f"{server.url}000{n}.png--->success" for n in (0, 1)]
    assert failures(job) == {"0002.png": "http-507", "0003.png": "http-404", "0004.png": "http-410"}
    rows = manifest_of(job)
    assert [row for row in rows if row == kept[row.url]] == rows[:-2] and [row.attempts for row in rows[-2:]] == [1, 1]
    before = len(server.requests)
    ended = call("retry", job, "-w", 0)
    assert asked(server, before) == ["/0002.png"]
    assert "Left failed: http-404 1, http-410 1; --only names" in ended.err
    before = len(server.requests)
    ended = call("retry", job)
    assert (ended.code, asked(server, before)) == (0, []) and "Nothing to put back" in ended.err
    assert call("retry", job, "--only", "http-4xx", "-w", 0).code == 0 and asked(server, before) == [
        "/0003.png",
        "/0004.png",
    ]
    assert failures(job) == {}


def test_a_page_that_failed_is_walked_when_it_can_be_had(tmp_path: Path, call: Call) -> None:
    with DemoServer(many_pictures(tmp_path, 2), {"/": {"status": 501, "times": 1}}) as server:
        assert call("run", server.url, "-w", 0).code == 8
        before = len(server.requests)
        ended = call("retry", "out", "-w", 0)
        assert ended.code == 0 and "Put back: 1 page (http-501 1)." in ended.err
        assert asked(server, before) == ["/", "/0000.png", "/0001.png"]
    assert outcome(Path("out")) == {"0000.png": "", "0001.png": ""}


def test_other_settings_hold_for_what_is_tried_again(tmp_path: Path, call: Call) -> None:
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        assert call("run", server.url, "-w", 0, "--min-size", 17).code == 8
        assert set(outcome(Path("out")).values()) == {"too-small"}
        assert "Nothing to put back" in call("retry", "out").err
        ended = call("retry", "out", "-w", 0, "--only", "too-small", "--min-size", 5)
    assert ended.code == 0 and "Settings changed since the last time: min_size = 5 (was 17)" in ended.err
    assert set(outcome(Path("out")).values()) == {""}


def test_a_picture_stays_though_its_big_one_comes_in_the_end(tmp_path: Path, call: Call) -> None:
    site = many_pictures(tmp_path, 2)
    (site / "a" / "index.html").write_text('<a href="0000.png"><img src="0001.png"></a>')
    with DemoServer(site, {"/0000.png": {"status": 501, "times": 1}}) as server:
        call("run", server.url, "-w", 0)
        assert outcome(Path("out")) == {"0000.png": "http-501", "0001.png": ""}
        before = len(server.requests)
        call("retry", "out", "-w", 0)
        assert asked(server, before) == ["/0000.png"]
    assert outcome(Path("out")) == {"0000.png": "", "0001.png": ""}


def test_what_fails_again_keeps_one_row(tmp_path: Path, call: Call) -> None:
    with DemoServer(many_pictures(tmp_path, 3), {"/0001.png": {"status": 501}}) as server:
        call("run", server.url, "-w", 0)
        for _ in range(2):
            before = len(server.requests)
            assert call("retry", "out", "-w", 0).out == f"{server.url}0001.png--->failed: http-501\n"
            assert asked(server, before) == ["/0001.png"]
            assert failures(Path("out")) == {"0001.png": "http-501"}


def test_processes_do_it_as_threads_do(server: DemoServer, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with commands(tmp_path) as start:
        (tmp_path / "crawler.toml").write_text("[fetch]\nfirst_byte_timeout = 0.3\n")
        first = start("run", "run", server.url, "-o", job, "-w", 1)
        assert first.ends() == 0, first.said
        before = len(server.requests)
        second = start("retry", "retry", job, "--only", "timeout", "--only", "http-5xx", "-w", 1)
        assert second.ends() == 0, second.said
        assert asked(server, before) == ["/0000.png", "/0001.png", "/0002.png"]
    assert failures(job) == {"0003.png": "http-404", "0004.png": "http-410"}


class Inviting(Silence):
    """Sends a downloader as soon as a master waits for one."""

    def __init__(self, join: Path, output: Path) -> None:
        self._join, self._output = join, output
        self.boxes: list[ThreadEngine] = []

    def say(self, text: str) -> None:
        if text.startswith("Waiting for the first"):
            self.boxes.append(ThreadEngine(Download(self._join, self._output, THREADS)))
            self.boxes[-1].start()


def test_a_master_without_downloaders_of_its_own_waits_for_some_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawler.crawl._RETURN", 0.0)
    job, store = tmp_path / "job", tmp_path / "A"
    view = Inviting(job / "join", store)
    with DemoServer(many_pictures(tmp_path, 3), {"/0001.png": {"status": 501, "times": 1}}) as server:
        Crawl(job, THREADS, view=view).run(Source(seeds=(server.url,)), downloads_here=False)
        before = len(server.requests)
        again = Crawl(job, THREADS, view=view)
        assert again.run(Source(), downloads_here=None, retries=frozenset()).exit_code == 0
        assert asked(server, before) == ["/0001.png"] and not again.downloads_here
    assert [box.wait(PATIENCE) for box in view.boxes] == [True, True]
    assert not (job / "images").exists()
    assert {row.reason for row in manifest_of(job)} == {""} and verify(job, [store]).whole == 3


# --- killed


class Killed(Exception):
    """The master is no more."""


def die(*_: object) -> None:
    raise Killed


def test_killed_at_any_step_it_is_clean_and_goes_on(
    server: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is copied before and after each change of what is in it, as a kill would leave it."""
    job, meant = tmp_path / "job", frozenset({"timeout", "http-5xx"})
    crawler.run(server.url, output=job, first_byte_timeout=0.3)
    copies: list[Path] = []

    def copy(step: str) -> None:
        place = tmp_path / f"{len(copies)} {step}"
        copies.append(Path(shutil.copytree(job, place, ignore=shutil.ignore_patterns(".lock*"))))

    def photographed(step: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            copy(f"before {name}")
            result = step(*arguments, **options)
            copy(f"after {name}")
            return result

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr("crawler.retry.put_back", photographed(put_back, "all is put back"))
        patch.setattr("crawler.manifest._keep", photographed(_keep, "a view is cut"))
        patch.setattr("crawler.manifest.write_file", photographed(write_file, "a view is written"))
        patch.setattr("crawler.crawl.serve", die)
        with pytest.raises(Killed):
            Crawl(job, THREADS).run(Source(), retries=meant)
    assert len(copies) == 10
    waiting = []
    for place in copies:
        found = verify(place)
        assert found.is_good and found.balance is not None, f"{place.name}: {describe_audit(found)}"
        waiting.append(found.balance.images.get("waiting", 0))
    assert waiting == [0] * 5 + [3] * 5
    before = len(server.requests)
    for place in (copies[0], copies[3], copies[5], copies[7]):
        Crawl(place, THREADS).run(Source(), retries=meant)
        assert failures(place) == {"0003.png": "http-404", "0004.png": "http-410"}
    assert asked(server, before) == sorted(["/0000.png", "/0001.png", "/0002.png"] * 4)
    Crawl(copies[6], THREADS).run(Source())
    assert failures(copies[6]) == {"0003.png": "http-404", "0004.png": "http-410"}


def test_a_manifest_whose_records_are_lost_is_not_cut(tmp_path: Path, call: Call) -> None:
    with DemoServer(many_pictures(tmp_path, 2), {"/0001.png": {"status": 501}}) as server:
        call("run", server.url, "-w", 0)
    path = Path("out/manifest.jsonl")
    path.write_bytes(path.read_bytes() * 2)
    ended = call("retry", "out")
    assert ended.code == 3 and "has records that frontier.sqlite has lost" in ended.complaint
    assert len(manifest_of(Path("out"))) == 4


# --- what is said


def test_every_reason_has_passed_one_day_or_lasts() -> None:
    closed = {reason for reason in retry.PASSING if not reason.startswith("http-")} | retry.LASTING
    assert closed == REASONS and not retry.PASSING & retry.LASTING


@pytest.mark.parametrize(
    ("texts", "reasons"),
    [
        (["timeout,http-5xx"], {"timeout", "http-5xx"}),
        ([" TimeOut , ,dns,", "http-404"], {"timeout", "dns", "http-404"}),
    ],
)
def test_reasons_are_named_with_commas_and_more_than_once(texts: list[str], reasons: set[str]) -> None:
    assert retry.named(texts) == reasons


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("timeot", "--only: 'timeot' is no reason. Did you mean 'timeout'?"),
        ("404", "--only: '404' is no reason. Did you mean 'http-404'?"),
        ("dns,5xx", "--only: '5xx' is no reason. Did you mean 'http-5xx'?"),
        ("robot", "Did you mean 'robots'"),
        ("http-099", "--only: 'http-099' is no reason. Did you mean 'http-"),
        ("", "--only names no reason"),
        (",", "--only names no reason"),
        ("\x1b[2J", "known: "),
    ],
)
def test_what_is_no_reason_is_told_with_near_ones(text: str, complaint: str, call: Call) -> None:
    ended = call("retry", "out", "--only", text)
    assert ended.code == 2 and complaint in ended.complaint and "\x1b" not in ended.err


def test_a_class_of_answers_is_a_hundred_codes() -> None:
    is_meant = retry.among(frozenset({"http-5xx", "http-404", "dns"}))
    assert [code for code in range(100, 1_000) if is_meant(f"http-{code}")] == [404, *range(500, 600)]
    assert is_meant("dns") and not is_meant("timeout") and not is_meant("")


def test_what_is_no_crawl_is_refused_and_nothing_is_made(tmp_path: Path, call: Call) -> None:
    for place in ("missing", "store"):
        ended = call("retry", place)
        assert (ended.code, ended.complaint) == (2, f"crawler: {place} is no crawl: there is no frontier.sqlite in it")
        assert not Path("missing").exists()
        LocalStore(tmp_path / "store").put("images/ab/x.jpg", b"x")


def test_a_crawl_that_is_running_is_refused(site: DemoServer, tmp_path: Path, call: Call) -> None:
    call("run", site.url, "-w", 0, "-d", 0)
    before = Path("out/frontier.sqlite").read_bytes()
    release = own(Path("out"))
    try:
        ended = call("retry", "out")
    finally:
        release()
    assert ended.code == 3 and "another crawler is at work in out" in ended.complaint
    assert Path("out/frontier.sqlite").read_bytes() == before


def test_hosts_that_want_to_be_left_alone_are_named() -> None:
    left = {f"{name}.example": (number, 99.5) for number, name in enumerate("abcde", 1)}
    lines = retry.describe(PutBack({}, {}, left, False), frozenset({"dns"}))
    assert lines == [
        "Nothing to put back: nothing that may be visited now has failed for dns.",
        *(
            f"Left failed: {number} at {name}.example, which is to be left alone for 100 s more; --patience 101 waits."
            for number, name in enumerate("abc", 1)
        ),
        "Left failed: likewise what is at 2 more hosts.",
    ]
