"""`--pin`: pictures that differ from those of an earlier crawl are quarantined, here and in a downloader's store."""

import gzip
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import crawler
from crawler.app.config import CrawlConfig
from crawler.app.crawl import Crawl
from crawler.app.downloader_node import DownloaderNode
from crawler.app.events import Event, NullView, QueueListening
from crawler.app.seeds import CrawlInput
from crawler.cli.maintenance_text import describe_audit
from crawler.demo.server import DemoServer
from crawler.engines.local import ThreadEngine
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.maintenance.verify import verify
from crawler.model import Outcome, Verdict
from crawler.store.local import LocalStore
from crawler.store.manifest import read_manifest
from crawler.store.result_store import ResultStore
from tests.frontier.fakes import OPEN, FakeClock, Open, image, lease, saved, tokens
from tests.support.calls import Call, calls
from tests.support.processes import PATIENCE, commands, many_pictures
from tests.system.test_refresh import changes, picture, proven, rows

THREADS = CrawlConfig.load(("test", {"machine": {"workers": 0}}))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def open_file(tmp_path: Path, clock: FakeClock) -> Iterator[Open]:
    with ExitStack() as stack:

        def build(policy: Policy = OPEN) -> SqliteFrontier:
            frontier = SqliteFrontier(tmp_path / "frontier.sqlite", policy, clock=clock, wall=clock)
            stack.callback(frontier.close)
            return frontier

        yield build


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DemoServer]:
    """Serve six pictures; ``pins.jsonl`` has pins of the first five, two of which have changed since."""
    site = many_pictures(tmp_path, 6)
    with DemoServer(site) as demo:
        crawler.run(demo.url, output=tmp_path / "earlier")
        rows = (tmp_path / "earlier" / "manifest.jsonl").read_bytes().splitlines(keepends=True)
        pins = b"".join(row for row in rows if b"/0005.png" not in row)
        (tmp_path / "pins.jsonl").write_bytes(pins)
        for n in (1, 2, 5):
            picture(site / "a" / f"000{n}.png", 200 + n)
        yield demo


def reasons(job: Path) -> dict[str, str]:
    return {name: row.reason for name, row in rows(job).items() if row.reason}


def quarantine(store: Path) -> list[str]:
    return sorted(path.relative_to(store).as_posix() for path in store.glob("quarantine/*/*"))


def test_bytes_that_differ_are_quarantined_and_a_resumed_crawl_keeps_pinning(
    server: DemoServer, tmp_path: Path, call: Call
) -> None:
    job = tmp_path / "out"
    ended = call("run", server.url, "-w", 0, "-n", 1, "-t", 1, "--pin", "pins.jsonl")
    assert f"Pinned: 5 pictures from {tmp_path / 'pins.jsonl'}." in ended.err
    ended = call("run", "-w", 0, "-n", 100)
    assert ended.code == 0 and "Pinned" not in ended.err
    assert reasons(job) == {"0001.png": "pin-mismatch", "0002.png": "pin-mismatch"}
    failed = [rows(job)[name] for name in ("0001.png", "0002.png")]
    assert quarantine(job) == sorted(row.path for row in failed)
    for row in failed:
        assert row.path == f"quarantine/{row.sha256[:2]}/{row.sha256}.png" and row.bytes > 0
        assert not (job / row.path.replace("quarantine", "images")).exists()
    found = proven(job)
    assert (found.whole, found.past, found.balance and found.balance.is_finished) == (4, 0, True)


def test_a_remote_downloader_quarantines_in_its_own_store(server: DemoServer, tmp_path: Path) -> None:
    job, store = tmp_path / "job", tmp_path / "A"
    config = CrawlConfig.load(("test", {"crawl": {"pin": str(tmp_path / "pins.jsonl")}}))
    machines: list[ThreadEngine] = []

    class Inviting(NullView):
        def event(self, event: Event) -> None:
            if isinstance(event, QueueListening):
                machines.append(ThreadEngine(DownloaderNode(job / "join", store, THREADS)))
                machines[0].start()

    Crawl(job, config, view=Inviting()).run(CrawlInput(seeds=(server.url,)), downloads_here=False)
    assert machines[0].wait(PATIENCE)
    assert "pin" not in config.shared()["crawl"]
    own = {row.url: row for row in read_manifest(store / "manifest.jsonl")}
    for row in rows(job).values():
        assert (own[row.url].status, own[row.url].reason, own[row.url].path) == (row.status, row.reason, row.path)
    assert len(quarantine(store)) == 2 and not (job / "images").exists()
    found = verify(job, [store])
    assert found.is_good and found.whole == 4, describe_audit(found)


@pytest.mark.fire
def test_processes_apply_pins_as_threads_do(server: DemoServer, tmp_path: Path) -> None:
    with commands(tmp_path) as start:
        assert start("run", "run", server.url, "-o", "out", "-w", 2, "--pin", "pins.jsonl").ends() == 0
    assert reasons(tmp_path / "out") == {"0001.png": "pin-mismatch", "0002.png": "pin-mismatch"}
    assert len(quarantine(tmp_path / "out")) == 2 and proven(tmp_path / "out").whole == 4


def test_a_refresh_uses_the_pins_and_keeps_saved_files(server: DemoServer, tmp_path: Path, call: Call) -> None:
    job = tmp_path / "out"
    call("run", server.url, "-w", 0)
    before = rows(job)
    ended = call("run", "-w", 0, "--refresh", "--pin", "pins.jsonl")
    assert ended.code == 0 and "Settings changed since the last run: pin = " in ended.err
    assert reasons(job) == {"0001.png": "pin-mismatch", "0002.png": "pin-mismatch"}
    assert changes(job)["unchanged"] == ["0000.png", "0003.png", "0004.png", "0005.png"]
    found = proven(job)
    assert (found.whole, found.past) == (4, 2)
    assert (job / before["0001.png"].path).exists() and len(quarantine(job)) == 2
    ended = call("run", "-w", 0, "--refresh", "--pin", "")
    assert ended.code == 0 and "Pins removed: pictures are no longer compared" in ended.err and reasons(job) == {}
    assert changes(job)["new"] == ["0001.png", "0002.png"]
    assert rows(job)["0001.png"].path == before["0001.png"].path and proven(job).whole == 6


def test_a_file_that_another_url_refers_to_is_kept(tmp_path: Path, call: Call) -> None:
    site = many_pictures(tmp_path, 2)
    (site / "a" / "0001.png").write_bytes((site / "a" / "0000.png").read_bytes())
    with DemoServer(site) as server:
        pin = {"url": f"{server.url}0001.png", "sha256": "AB" * 32}
        Path("pins.csv").write_text(f"url,sha256\n{pin['url']},{pin['sha256']}\n")
        assert call("run", server.url, "-w", 0, "--pin", "pins.csv").code == 0
    job = tmp_path / "out"
    assert reasons(job) == {"0001.png": "pin-mismatch"} and len(quarantine(job)) == 1
    assert (job / rows(job)["0000.png"].path).exists() and proven(job).whole == 1


# --- the list


def test_a_changed_list_is_read_again_and_a_missing_one_stays_in_force(
    server: DemoServer, tmp_path: Path, call: Call
) -> None:
    pins = Path("pins.jsonl").read_bytes()
    Path("pins.jsonl.gz").write_bytes(gzip.compress(pins + b'{"url": "http://x.example/", "sha256": "short"}\n'))
    ended = call("run", server.url, "-w", 0, "--pin", "pins.jsonl.gz")
    assert "Pinned: 5 pictures" in ended.err and "skipped 1 without a valid url and sha256" in ended.err
    assert len(reasons(Path("out"))) == 2
    Path("pins.jsonl.gz").write_bytes(gzip.compress(b"".join(pins.splitlines(keepends=True)[:1])))
    ended = call("run", "-w", 0)
    assert "Pinned: 1 picture from" in ended.err
    Path("pins.jsonl.gz").unlink()
    ended = call("run", "-w", 0)
    assert ended.code == 0 and "pictures are compared with the pins of an earlier run" in ended.err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "--pin: no such file: "),
        (b"", "has no row with a url and a sha256"),
        (b'{"url": "http://a.example/"}\n', "has no row with a url and a sha256"),
        (b"\x1f\x8bno gzip", "--pin: can't read "),
    ],
)
def test_an_invalid_list_is_refused(content: bytes | None, complaint: str, tmp_path: Path, call: Call) -> None:
    if content is not None:
        Path("pins.jsonl").write_bytes(content)
    ended = call("run", "http://127.0.0.1:1/", "-q", "--pin", "pins.jsonl")
    assert ended.code == 2 and complaint in ended.err.splitlines()[-1] and "Traceback" not in ended.err


# --- in the frontier and in the result store


def test_an_existing_file_that_was_quarantined_is_fetched_again(open_file: Open, clock: FakeClock) -> None:
    """Check two workers of a directory that get the same bytes, one for a URL with a pin, the other for one without."""
    frontier = open_file(OPEN)
    with frontier.ledger.transaction():
        frontier.ledger.history.load_pins([("http://a.example/pinned.jpg", "00" * 32)], b"state")
    frontier.put([image("http://a.example/pinned.jpg"), image("http://a.example/free.jpg")])
    grant = lease(frontier)
    requests = [held.request for turn in grant.turns for held in turn.leases]
    pinned, free = (
        Outcome(status="done", token=token, record=saved(request, "77" * 32), stored=n == 0)
        for n, (token, request) in enumerate(zip(tokens(grant), requests, strict=True))
    )
    (verdict,) = frontier.complete("w1", [pinned], [])
    assert (verdict.status, verdict.reason, verdict.is_spare) == ("failed", "pin-mismatch", True)
    frontier.complete("w1", [free], [turn.id for turn in grant.turns])
    assert frontier.stats().waiting == 1
    clock.go(60)
    again = Outcome(status="done", token=tokens(lease(frontier))[0], record=free.record, stored=True)
    assert [verdict.status for verdict in frontier.complete("w1", [again], [])] == ["success"]


@pytest.mark.parametrize("is_spare", [True, False])
def test_the_result_store_quarantines_once_and_leaves_files_that_other_rows_name(
    tmp_path: Path, is_spare: bool
) -> None:
    store = LocalStore(tmp_path)
    record = saved(image(), "77" * 32)
    store.put(record.path, b"bytes")
    outcome = Outcome(status="done", record=record, stored=True)
    verdict = Verdict(status="failed", reason="pin-mismatch", is_spare=is_spare)
    for _ in range(2):
        ResultStore(store).settle([outcome], [verdict])
        assert (tmp_path / f"quarantine/77/{'77' * 32}.jpg").read_bytes() == b"bytes"
        assert store.exists(record.path) != is_spare


def test_a_million_pins_are_stored_in_a_table(tmp_path: Path, open_file: Open) -> None:
    """Check it with a few thousand; only the pin that is looked up is in memory."""
    frontier, number = open_file(), 5_000
    with frontier.ledger.transaction():
        pins = ((f"http://a.example/{n}.jpg", f"{n:064x}") for n in range(number))
        assert frontier.ledger.history.load_pins(pins, b"state") == number
    assert all(frontier.ledger.history.permits(f"http://a.example/{n}.jpg", f"{n:064x}") for n in range(0, number, 99))
    assert not frontier.ledger.history.permits("http://a.example/5.jpg", f"{6:064x}")
    assert frontier.ledger.history.permits("http://b.example/5.jpg", f"{6:064x}")
    frontier.close()
    assert not open_file().ledger.history.permits("http://a.example/5.jpg", f"{6:064x}")
