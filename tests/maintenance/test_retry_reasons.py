"""`crawler retry`: exactly the selected requests are sent again, according to the server's log."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import crawler
from crawler.app.config import CrawlConfig
from crawler.app.crawl import Crawl
from crawler.app.downloader_node import DownloaderNode
from crawler.app.events import Event, FailuresRequeued, NullView, QueueListening
from crawler.app.seeds import CrawlInput
from crawler.cli.event_text import describe_event
from crawler.cli.maintenance_text import describe_audit
from crawler.demo.server import DemoServer
from crawler.engines.local import ThreadEngine
from crawler.frontier.offline.requeue import RequeueResult, requeue_failed
from crawler.maintenance import retry_reasons
from crawler.maintenance.verify import verify
from crawler.model import LASTING_REASONS, REASONS
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.disk import write_file
from crawler.store.local import LocalStore
from crawler.store.manifest import _keep
from tests.support.calls import Call, calls
from tests.support.processes import PATIENCE, commands, manifest_of, many_pictures

#: Path → its fault during the first crawl.
FAULTS: dict[str, dict[str, Any]] = {
    "/0000.png": {"truncate": 0.5, "times": 5},  # the number of attempts, each of which is one request
    "/0001.png": {"status": 501, "times": 1},
    "/0002.png": {"status": 507, "times": 1},
    "/0003.png": {"status": 404, "times": 1},
    "/0004.png": {"status": 410, "times": 1},
}
#: Downloads in threads of the master.
THREADS = CrawlConfig.load(("test", {"machine": {"workers": 0}}))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DemoServer]:
    """Serve eight pictures, five of which fail once."""
    with DemoServer(many_pictures(tmp_path, 8), FAULTS) as demo:
        yield demo


def asked(server: DemoServer, since: int) -> list[str]:
    return sorted(hit.path for hit in server.requests[since:])


def outcome(job: Path) -> dict[str, str]:
    """Return file name of each picture → its reason; fail if a URL has two rows, or the records are inconsistent."""
    rows = manifest_of(job)
    results = (job / "results.txt").read_text().splitlines()
    assert len({row.url for row in rows}) == len(rows) == len(results)
    found = verify(job)
    assert found.is_good and found.balance is not None and found.balance.is_finished, describe_audit(found)
    return {row.url.rpartition("/")[2]: row.reason for row in rows}


def failures(job: Path) -> dict[str, str]:
    return {name: reason for name, reason in outcome(job).items() if reason}


# --- whole crawls


def test_only_the_selected_requests_are_sent_again(server: DemoServer, tmp_path: Path, call: Call) -> None:
    job = tmp_path / "job"
    crawler.run(server.url, output=job)
    assert failures(job) == {
        "0000.png": "truncated",
        "0001.png": "http-501",
        "0002.png": "http-507",
        "0003.png": "http-404",
        "0004.png": "http-410",
    }
    before, kept = len(server.requests), {row.url: row for row in manifest_of(job)}
    ended = call("retry", job, "--only", "truncated,http-501", "-w", 0)
    assert asked(server, before) == ["/0000.png", "/0001.png"]
    assert "Queued again: 2 images (http-501 1, truncated 1)." in ended.err and ended.code == 0
    assert sorted(ended.out.splitlines()) == [f"{server.url}000{n}.png--->success" for n in (0, 1)]
    assert failures(job) == {"0002.png": "http-507", "0003.png": "http-404", "0004.png": "http-410"}
    rows = manifest_of(job)
    assert [row for row in rows if row == kept[row.url]] == rows[:-2] and [row.attempts for row in rows[-2:]] == [1, 1]
    before = len(server.requests)
    ended = call("retry", job, "-w", 0)
    assert asked(server, before) == ["/0002.png"]
    assert "Not retried: http-404 1, http-410 1; to retry them, name their reasons with --only" in ended.err
    before = len(server.requests)
    ended = call("retry", job)
    assert (ended.code, asked(server, before)) == (0, []) and "Nothing to retry" in ended.err
    assert call("retry", job, "--only", "http-4xx", "-w", 0).code == 0 and asked(server, before) == [
        "/0003.png",
        "/0004.png",
    ]
    assert failures(job) == {}


def test_a_failed_page_is_walked_once_it_is_available(tmp_path: Path, call: Call) -> None:
    with DemoServer(many_pictures(tmp_path, 2), {"/": {"status": 501, "times": 1}}) as server:
        assert call("run", server.url, "-w", 0).code == 8
        before = len(server.requests)
        ended = call("retry", "out", "-w", 0)
        assert ended.code == 0 and "Queued again: 1 page (http-501 1)." in ended.err
        assert asked(server, before) == ["/", "/0000.png", "/0001.png"]
    assert outcome(Path("out")) == {"0000.png": "", "0001.png": ""}


def test_new_settings_apply_to_retried_requests(tmp_path: Path, call: Call) -> None:
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        assert call("run", server.url, "-w", 0, "--min-size", 17).code == 8
        assert set(outcome(Path("out")).values()) == {"too-small"}
        assert "Nothing to retry" in call("retry", "out").err
        ended = call("retry", "out", "-w", 0, "--only", "too-small", "--min-size", 5)
    assert ended.code == 0 and "Settings changed since the last run: min_size = 5 (was 17)" in ended.err
    assert set(outcome(Path("out")).values()) == {""}


def test_a_thumbnail_stays_when_its_large_picture_is_fetched_later(tmp_path: Path, call: Call) -> None:
    site = many_pictures(tmp_path, 2)
    (site / "a" / "index.html").write_text('<a href="0000.png"><img src="0001.png"></a>')
    with DemoServer(site, {"/0000.png": {"status": 501, "times": 1}}) as server:
        call("run", server.url, "-w", 0)
        assert outcome(Path("out")) == {"0000.png": "http-501", "0001.png": ""}
        before = len(server.requests)
        call("retry", "out", "-w", 0)
        assert asked(server, before) == ["/0000.png"]
    assert outcome(Path("out")) == {"0000.png": "", "0001.png": ""}


def test_a_request_that_fails_again_keeps_one_row(tmp_path: Path, call: Call) -> None:
    with DemoServer(many_pictures(tmp_path, 3), {"/0001.png": {"status": 501}}) as server:
        call("run", server.url, "-w", 0)
        for _ in range(2):
            before = len(server.requests)
            assert call("retry", "out", "-w", 0).out == f"{server.url}0001.png--->failed: http-501\n"
            assert asked(server, before) == ["/0001.png"]
            assert failures(Path("out")) == {"0001.png": "http-501"}


@pytest.mark.fire
def test_processes_retry_as_threads_do(server: DemoServer, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with commands(tmp_path) as start:
        first = start("run", "run", server.url, "-o", job, "-w", 1)
        assert first.ends() == 0, first.said
        before = len(server.requests)
        second = start("retry", "retry", job, "--only", "truncated", "--only", "http-5xx", "-w", 1)
        assert second.ends() == 0, second.said
        assert asked(server, before) == ["/0000.png", "/0001.png", "/0002.png"]
    assert failures(job) == {"0003.png": "http-404", "0004.png": "http-410"}


class Inviting(NullView):
    """A view that starts a downloader as soon as the master waits for one."""

    def __init__(self, join: Path, output: Path) -> None:
        self._join, self._output = join, output
        self.machines: list[ThreadEngine] = []

    def event(self, event: Event) -> None:
        if isinstance(event, QueueListening):
            self.machines.append(ThreadEngine(DownloaderNode(self._join, self._output, THREADS)))
            self.machines[-1].start()


def test_a_master_without_own_downloaders_waits_for_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.app.crawl._RETURN", 0.0)
    job, store = tmp_path / "job", tmp_path / "A"
    view = Inviting(job / "join", store)
    with DemoServer(many_pictures(tmp_path, 3), {"/0001.png": {"status": 501, "times": 1}}) as server:
        Crawl(job, THREADS, view=view).run(CrawlInput(seeds=(server.url,)), downloads_here=False)
        before = len(server.requests)
        again = Crawl(job, THREADS, view=view)
        assert again.retry().exit_code == 0
        assert asked(server, before) == ["/0001.png"] and not again.downloads_here
    assert [machine.wait(PATIENCE) for machine in view.machines] == [True, True]
    assert not (job / "images").exists()
    assert {row.reason for row in manifest_of(job)} == {""} and verify(job, [store]).whole == 3


# --- kills


class Killed(Exception):
    """The simulated kill of the master."""


def die(*_: object, **__: object) -> None:
    raise Killed


def test_after_a_kill_at_any_step_the_crawl_is_consistent_and_continues(
    server: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copy the directory before and after each change of its content, as a kill would leave it."""
    job, meant = tmp_path / "job", frozenset({"truncated", "http-5xx"})
    crawler.run(server.url, output=job)
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
        patch.setattr(
            "crawler.maintenance.stopped_crawl.requeue_failed", photographed(requeue_failed, "all is put back")
        )
        patch.setattr("crawler.store.manifest._keep", photographed(_keep, "a view is cut"))
        patch.setattr("crawler.store.manifest.write_file", photographed(write_file, "a view is written"))
        patch.setattr("crawler.app.session.serve", die)
        with pytest.raises(Killed):
            Crawl(job, THREADS).retry(meant)
    assert len(copies) == 10
    waiting = []
    for place in copies:
        found = verify(place)
        assert found.is_good and found.balance is not None, f"{place.name}: {describe_audit(found)}"
        waiting.append(found.balance.images.get("waiting", 0))
    assert waiting == [0] * 5 + [3] * 5
    before = len(server.requests)
    for place in (copies[0], copies[3], copies[5], copies[7]):
        Crawl(place, THREADS).retry(meant)
        assert failures(place) == {"0003.png": "http-404", "0004.png": "http-410"}
    assert asked(server, before) == sorted(["/0000.png", "/0001.png", "/0002.png"] * 4)
    Crawl(copies[6], THREADS).run(CrawlInput())
    assert failures(copies[6]) == {"0003.png": "http-404", "0004.png": "http-410"}


def test_a_manifest_with_rows_missing_in_the_database_is_not_cut(tmp_path: Path, call: Call) -> None:
    with DemoServer(many_pictures(tmp_path, 2), {"/0001.png": {"status": 501}}) as server:
        call("run", server.url, "-w", 0)
    path = Path("out/manifest.jsonl")
    path.write_bytes(path.read_bytes() * 2)
    ended = call("retry", "out")
    assert ended.code == 3 and "has records that frontier.sqlite has lost" in ended.complaint
    assert len(manifest_of(Path("out"))) == 4


# --- arguments and messages


def test_every_reason_is_either_temporary_or_permanent() -> None:
    temporary = {reason for reason in retry_reasons.TEMPORARY if not reason.startswith("http-")}
    assert temporary | LASTING_REASONS.keys() == REASONS.keys() and not retry_reasons.TEMPORARY & LASTING_REASONS.keys()


@pytest.mark.parametrize(
    ("texts", "reasons"),
    [
        (["timeout,http-5xx"], {"timeout", "http-5xx"}),
        ([" TimeOut , ,dns,", "http-404"], {"timeout", "dns", "http-404"}),
    ],
)
def test_reasons_are_given_with_commas_and_repeated_options(texts: list[str], reasons: set[str]) -> None:
    assert retry_reasons.parse_reasons(texts) == reasons


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("timeot", "--only: unknown reason 'timeot'. Did you mean 'timeout'?"),
        ("404", "--only: unknown reason '404'. Did you mean 'http-404'?"),
        ("dns,5xx", "--only: unknown reason '5xx'. Did you mean 'http-5xx'?"),
        ("robot", "Did you mean 'robots'"),
        ("http-099", "--only: unknown reason 'http-099'. Did you mean 'http-"),
        ("", "--only needs the reasons"),
        (",", "--only needs the reasons"),
        ("\x1b[2J", "known: "),
    ],
)
def test_an_unknown_reason_is_refused_with_similar_ones(text: str, complaint: str, call: Call) -> None:
    ended = call("retry", "out", "--only", text)
    assert ended.code == 2 and complaint in ended.complaint and "\x1b" not in ended.err


def test_a_class_of_status_codes_covers_a_hundred_codes() -> None:
    is_meant = retry_reasons.reason_filter(frozenset({"http-5xx", "http-404", "dns"}))
    assert [code for code in range(100, 1_000) if is_meant(f"http-{code}")] == [404, *range(500, 600)]
    assert is_meant("dns") and not is_meant("timeout") and not is_meant("")


def test_another_directory_is_refused_and_not_created(tmp_path: Path, call: Call) -> None:
    for place in ("missing", "store"):
        ended = call("retry", place)
        assert (ended.code, ended.complaint) == (
            2,
            f"crawler: {place} is not a crawl directory: it has no frontier.sqlite",
        )
        assert not Path("missing").exists()
        LocalStore(tmp_path / "store").put("images/ab/x.jpg", b"x")


def test_a_running_crawl_is_refused(site: DemoServer, tmp_path: Path, call: Call) -> None:
    call("run", site.url, "-w", 0, "-d", 0)
    before = Path("out/frontier.sqlite").read_bytes()
    release = CrawlDirectory(Path("out")).own()
    try:
        ended = call("retry", "out")
    finally:
        release()
    assert ended.code == 3 and "another crawl is running in out" in ended.complaint
    assert Path("out/frontier.sqlite").read_bytes() == before


def test_hosts_that_asked_for_a_pause_are_named() -> None:
    left = {f"{name}.example": (number, 99.5) for number, name in enumerate("abcde", 1)}
    lines = describe_event(FailuresRequeued(RequeueResult({}, {}, left, False), frozenset({"dns"})))
    assert lines == [
        "Nothing to retry: no request that may be repeated now has failed for dns.",
        *(
            f"Not retried: {number} at {name}.example, which asked for a pause of 100 more seconds;"
            " --patience 101 waits for it."
            for number, name in enumerate("abc", 1)
        ),
        "Not retried either: requests at 2 more such hosts.",
    ]
