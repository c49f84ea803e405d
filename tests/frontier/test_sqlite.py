"""The frontier on a file, beyond the contract: foreign files are refused, a full disk does no harm."""

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from crawler.errors import DiskError
from crawler.frontier.base import DEPARTURE, PROTOCOL
from crawler.frontier.ledger import key_index
from crawler.frontier.ledger.ledger import Ledger
from crawler.frontier.ledger.rows import Entry
from crawler.frontier.ledger.schema import SCHEMA
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Outcome, VerdictState
from crawler.stats import FrontierStats
from tests.frontier.disk import counts, failing, failing_database
from tests.frontier.fakes import (
    OPEN,
    POISON_SOON,
    FakeClock,
    Open,
    done,
    image,
    images,
    lease,
    page,
    retry,
    saved,
    states,
    turn_ids,
    urls,
    work_off,
)
from tests.support.processes import wait_until

#: One turn at a time, no gap.
SINGLE = Policy(robots=False, delay=0.0, per_host=1)


# --- foreign files


def _make_text(path: Path) -> None:
    path.write_text("Dear diary, " * 100)


def _make_folder(path: Path) -> None:
    path.mkdir()


def _make_other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE request (id INTEGER PRIMARY KEY)")


def _make_other_release(path: Path) -> None:
    SqliteFrontier(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA user_version={SCHEMA + 1}")


@pytest.mark.parametrize("make", [_make_text, _make_folder, _make_other_database, _make_other_release])
def test_a_foreign_file_is_refused_in_one_line_and_left_alone(
    open_file: Open, path: Path, make: Callable[[Path], None]
) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(DiskError, match=r"^[^\n]*frontier\.sqlite[^\n]*$"):
        open_file()
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_broken_database_is_a_disk_error(open_file: Open, path: Path) -> None:
    frontier = open_file()
    frontier.put(images(500))
    frontier.close()
    with path.open("r+b") as file:
        file.seek(4_096 * 2)
        file.write(b"\xff" * 4_096 * 20)
    with pytest.raises(DiskError, match="malformed"):
        open_file().put(images(500, "b.example"))


# --- a full disk


@pytest.mark.parametrize("statement", ["BEGIN", "INSERT", "COMMIT"])
def test_a_failed_put_changes_nothing(open_file: Open, statement: str) -> None:
    frontier = open_file()
    frontier.put(images(3))
    before = counts(frontier)
    with failing(frontier, statement), pytest.raises(DiskError, match="no space left"):
        frontier.put(images(5, "b.example"))
    assert counts(frontier) == before
    assert frontier.put(images(5, "b.example")) == 5
    assert len(work_off(frontier)) == 8


@pytest.mark.parametrize("statement", ["BEGIN", "INSERT INTO request", "INSERT INTO record", "COMMIT"])
def test_a_failed_complete_changes_nothing(open_file: Open, statement: str) -> None:
    frontier = open_file(SINGLE)
    frontier.put(images(4))
    grant = lease(frontier, limit=2)
    before = counts(frontier)
    outcomes = [*done(grant, discovered=(image("http://b.example/"),))[:1], *retry(grant, overloaded=True)[1:]]
    with failing(frontier, statement), pytest.raises(DiskError):
        frontier.complete("w1", outcomes, turn_ids(grant))
    assert counts(frontier) == before
    assert states(frontier.complete("w1", outcomes, turn_ids(grant))) == ("accepted", "accepted")
    assert (frontier.stats().success, frontier.stats().discovered, frontier.stats().leased) == (1, 5, 0)


def test_a_really_full_disk_is_survived(open_file: Open) -> None:
    frontier = open_file()
    frontier.put([page()])
    grant = lease(frontier)
    database = frontier.ledger.database.connection
    [pages] = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count={pages}")
    outcomes = done(grant, discovered=tuple(images(2_000)))
    with pytest.raises(DiskError, match="no space left"):
        frontier.complete("w1", outcomes, turn_ids(grant))
    assert (frontier.stats().discovered, frontier.stats().pages_leased) == (0, 1)
    database.execute("PRAGMA max_page_count=1000000")
    assert states(frontier.complete("w1", outcomes, turn_ids(grant))) == ("accepted",)
    assert frontier.stats().discovered == 2_000


def test_wanted_rules_that_can_t_be_written_are_wanted_later(open_file: Open) -> None:
    frontier = open_file(Policy(delay=0.0))
    frontier.put([image()])
    lease(frontier)
    with failing(frontier), pytest.raises(DiskError):
        lease(frontier)
    assert work_off(frontier) == ["http://a.example/robots.txt"]
    assert work_off(frontier) == ["http://a.example/1.jpg"]


def test_poison_that_can_t_be_written_is_detected_again(open_file: Open, clock: FakeClock) -> None:
    frontier = open_file(POISON_SOON)
    frontier.put([image()])
    for _ in range(3):
        lease(frontier, seconds=10)
        clock.go(11)
    with failing(frontier), pytest.raises(DiskError):
        lease(frontier)
    assert frontier.stats().leased == 1
    assert lease(frontier).state == "drained"
    assert frontier.stats().reasons == {"poison": 1}


def test_parked_requests_that_can_t_be_failed_are_failed_later(open_file: Open) -> None:
    frontier = open_file()
    frontier.put(images(4))
    grant = lease(frontier, limit=2)
    frontier.complete("w1", retry(grant, overloaded=True, host_wait=7_200.0), turn_ids(grant))
    with failing(frontier), pytest.raises(DiskError):
        lease(frontier)
    assert (frontier.stats().waiting, frontier.stats().state) == (4, "wait")
    assert lease(frontier).state == "drained"
    assert frontier.stats().reasons == {"rate-limited": 4}


def test_requests_that_can_t_be_read_are_not_leased(open_file: Open) -> None:
    frontier = open_file(SINGLE)
    frontier.put(images(4) + images(2, "b.example"))
    with (
        failing(frontier, "SELECT group_concat", "disk I/O error"),
        pytest.raises(DiskError, match="disk I/O error"),
    ):
        lease(frontier)
    assert len(lease(frontier).turns) == 2
    assert frontier.stats().leased == 6


def test_a_failed_transaction_leaves_no_origin_behind(path: Path) -> None:
    ledger = Ledger(path)
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        ledger.requests.add(images(3, "b.example"))
        raise ZeroDivisionError
    with ledger.transaction():
        entries = ledger.requests.add(images(1) + images(1, "b.example"))
    assert ([entry.row for entry in entries], {group.origin for group in ledger.requests.waiting()}) == (
        [1, 2],
        {"http://a.example", "http://b.example"},
    )
    ledger.close()


# --- threads


def test_a_waiting_worker_gets_the_request_that_another_worker_lost(path: Path) -> None:
    with closing(SqliteFrontier(path, OPEN)) as frontier:
        frontier.put([image()])
        lease(frontier, worker="dead", seconds=0.2)
        begin = time.monotonic()
        assert urls(lease(frontier, wait=30)) == ["http://a.example/1.jpg"]
        assert 0.1 < time.monotonic() - begin < 10


def test_waiting_uses_no_cpu(path: Path) -> None:
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return time.monotonic()

    with closing(SqliteFrontier(path, Policy(robots=False, delay=0.3), clock=clock)) as frontier:
        frontier.put(images(2))
        grant = lease(frontier, limit=1)
        frontier.complete("w1", done(grant), turn_ids(grant))
        looks = 0
        assert urls(lease(frontier, wait=30))
        assert looks < 30


def test_a_paused_crawl_leases_nothing_and_does_not_end(open_file: Open, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put(images(9))
    held = lease(frontier, limit=1)
    frontier.pause(True)
    assert states(frontier.complete("w1", done(held), turn_ids(held))) == ("accepted",)
    grant = lease(frontier)
    assert (grant.state, grant.turns, frontier.stats().is_paused) == ("wait", (), True)
    assert grant.retry_in > 0.5  # a waiting worker may sleep
    frontier.pause(False)
    assert urls(lease(frontier))


def test_resuming_wakes_waiting_workers(path: Path) -> None:
    with closing(SqliteFrontier(path, OPEN)) as frontier, ThreadPoolExecutor(1) as pool:
        frontier.put(images(1))
        frontier.pause(True)
        answer = pool.submit(lease, frontier, wait=30)
        frontier.pause(False)
        assert urls(answer.result(timeout=5))


def test_closing_releases_waiting_workers(path: Path) -> None:
    frontier = SqliteFrontier(path, OPEN)
    frontier.put([image()])
    lease(frontier, seconds=0.0)
    with ThreadPoolExecutor(1) as pool:
        held = lease(frontier, worker="w2", seconds=600)
        answer = pool.submit(lease, frontier, worker="w3", wait=30)
        frontier.close()
        frontier.close()
        assert answer.result(timeout=5).state == "draining"
    assert urls(held)


def test_many_threads_lease_each_request_once(path: Path) -> None:
    urls_done: list[str] = []
    start = threading.Barrier(8)

    def work(name: str) -> None:
        start.wait(5)
        while (grant := lease(frontier, worker=name, limit=7, wait=5)).state != "drained":
            urls_done.extend(urls(grant))
            frontier.complete(name, done(grant), turn_ids(grant))

    with closing(SqliteFrontier(path, Policy(robots=False, delay=0.0, per_host=2))) as frontier:
        frontier.put([found for n in range(10) for found in images(30, f"{n}.example")])
        with ThreadPoolExecutor(8) as pool:
            for job in [pool.submit(work, f"w{n}") for n in range(8)]:
                job.result(timeout=60)
        assert (len(urls_done), len(set(urls_done)), frontier.stats().success) == (300, 300, 300)


# --- rows of one transaction


def test_duplicates_are_recognised_within_a_call_and_of_earlier_calls(open_file: Open) -> None:
    frontier = open_file()
    frontier.put(images(4))
    sha256s = iter(["a" * 64, "a" * 64, "b" * 64, "a" * 64])
    statuses = []
    while (grant := lease(frontier, limit=3)).turns:
        outcomes = [
            msgspec.structs.replace(outcome, record=saved(image(url), next(sha256s)))
            for outcome, url in zip(done(grant), urls(grant), strict=True)
        ]
        statuses += [verdict.status for verdict in frontier.complete("w1", outcomes, turn_ids(grant))]
    assert statuses == ["success", "duplicate", "success", "duplicate"]


def settle(ledger: Ledger, entry: Entry, sha256: str) -> None:
    record = ledger.records.write(entry.row, saved(entry.request, sha256), replaced=0)
    ledger.requests.settle(entry.row, "", record)


def test_changes_of_a_failed_transaction_are_not_written_by_the_next(path: Path) -> None:
    ledger = Ledger(path)
    with ledger.transaction():
        [entry] = ledger.requests.add([image()])
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        settle(ledger, entry, "a" * 64)
        assert ledger.records.first_copy("a" * 64) is not None
        raise ZeroDivisionError
    with ledger.transaction():
        assert ledger.records.first_copy("a" * 64) is None
    assert ledger.records.page(0, 10) == ()
    assert [group.rows for group in ledger.requests.waiting()] == [[entry.row]]
    ledger.close()


# --- keys that are written later


def test_a_request_is_known_before_and_after_its_key_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_GATHERED", 10)
    known = []
    for n in range(7):
        ledger = Ledger(path)
        with ledger.transaction():
            known += ledger.requests.add(images(4, f"{n}.example"))
        with ledger.transaction():
            assert ledger.requests.add([entry.request for entry in known]) == []
        assert [ledger.requests.find(entry.request) for entry in known] == known
        ledger.close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT COUNT(*) FROM request_index").fetchone() == (24,)


def test_a_first_copy_is_known_before_and_after_its_key_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_GATHERED", 3)
    for n in range(5):
        ledger = Ledger(path)
        with ledger.transaction():
            for entry in ledger.requests.add(images(2, f"{n}.example")):
                digest = f"{entry.row:064x}"
                assert ledger.records.first_copy(digest) is None
                settle(ledger, entry, digest)
        ledger.records.recall_copies(f"{row:064x}" for row in range(1, 2 * n + 3))
        paths = [ledger.records.first_copy(f"{row:064x}") for row in range(1, 2 * n + 3)]
        assert paths == [("51" * 8, f"images/00/{row:064x}.jpg") for row in range(1, 2 * n + 3)]
        ledger.close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT COUNT(*) FROM copy_index").fetchone() == (8,)


def test_keys_of_a_failed_transaction_are_forgotten_even_as_they_are_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_index, "_GATHERED", 5)
    ledger = Ledger(path)
    with ledger.transaction():
        first = ledger.requests.add(images(3))
    with failing_database(ledger.database), pytest.raises(DiskError), ledger.transaction():
        ledger.requests.add(images(3, "b.example"))
    with ledger.transaction():
        again = ledger.requests.add(images(3) + images(2, "b.example"))
    assert [entry.row for entry in again] == [4, 5]
    assert [ledger.requests.find(entry.request) for entry in first + again] == first + again
    ledger.close()


# --- concurrent calls


def together(frontier: SqliteFrontier, calls: list[tuple[str, list[Outcome]]]) -> list[tuple[VerdictState, ...] | str]:
    """Complete all of them while the lock is held, so that one thread settles all; return states or errors."""

    def complete(call: tuple[str, list[Outcome]]) -> tuple[VerdictState, ...] | str:
        try:
            return states(frontier.complete(call[0], call[1], ()))
        except Exception as error:  # noqa: BLE001  # returned to the test
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(len(calls)) as pool:
        with frontier._changed:
            futures = [pool.submit(complete, call) for call in calls]
            wait_until(lambda: len(frontier._commits.calls) == len(calls), "all calls have come")
        return [future.result() for future in futures]


def test_concurrent_calls_are_settled_in_one_transaction(path: Path) -> None:
    frontier = SqliteFrontier(path, OPEN)
    frontier.put(images(12))
    grants = [lease(frontier, worker=f"w{n}", limit=3) for n in range(4)]
    commits: list[str] = []
    frontier.ledger.database.connection.set_trace_callback(
        lambda query: commits.append(query) if query == "COMMIT" else None
    )
    told = [(f"w{n}", done(grant)) for n, grant in enumerate(grants)]
    assert together(frontier, [*told, told[0]]) == [("accepted",) * 3] * 4 + [("duplicate",) * 3]
    assert len(commits) == 1
    assert (frontier.stats().success, frontier.stats().leased) == (12, 0)
    frontier.close()


def test_a_full_disk_is_reported_to_all_concurrent_calls(path: Path) -> None:
    frontier = SqliteFrontier(path, OPEN)
    frontier.put(images(6))
    calls = [(f"w{n}", done(lease(frontier, worker=f"w{n}", limit=3))) for n in range(2)]
    with failing(frontier):
        answers = together(frontier, calls)
    assert all(isinstance(answer, str) and answer.startswith("DiskTrouble: no space left") for answer in answers)
    assert together(frontier, calls) == [("accepted",) * 3] * 2
    frontier.close()


def test_an_invalid_call_fails_alone(path: Path) -> None:
    frontier = SqliteFrontier(path, OPEN)
    frontier.put(images(6))
    bad, good = [(f"w{n}", done(lease(frontier, worker=f"w{n}", limit=3))) for n in range(2)]
    nonsense = [msgspec.structs.replace(bad[1][0], record=msgspec.structs.replace(saved(image()), sha256=7))]
    answers = together(frontier, [("w0", nonsense), good])
    assert isinstance(answers[0], str) and answers[1] == ("accepted",) * 3
    assert frontier.stats().success == 3
    frontier.close()


def test_leases_of_a_departed_worker_go_to_others_soon_unless_it_calls(
    open_file: Open, clock: FakeClock, path: Path
) -> None:
    frontier = open_file(Policy(robots=False, delay=1.0))
    frontier.put([image("http://a.example/1.jpg"), image("http://b.example/1.jpg")])
    held = [lease(frontier, worker=name, limit=1) for name in ("dead", "cut off")]
    for name in ("dead", "cut off", "unknown"):
        frontier.expect_loss(name)
    clock.go(DEPARTURE - 1)
    (token,) = (lent.token for turn in held[1].turns for lent in turn.leases)
    assert not frontier.extend("cut off", [token], 120.0).lost
    assert {each.name: each.is_disconnected for each in frontier.stats().workers} == {"dead": True, "cut off": False}
    clock.go(1)
    assert not lease(frontier, worker="other").turns  # a gap later
    clock.go(1)
    assert urls(lease(frontier, worker="other")) == ["http://a.example/1.jpg"]
    frontier.expect_loss("other")
    frontier.hello("other", PROTOCOL)  # its next life
    assert urls(lease(frontier, worker="third")) == []
    clock.go(1)
    assert urls(lease(frontier, worker="third")) == ["http://a.example/1.jpg"]


def test_a_condition_is_awaited_until_a_worker_departs() -> None:
    frontier = SqliteFrontier()
    frontier.hello("w1", PROTOCOL)

    def has_departed(stats: FrontierStats) -> bool:
        return stats.workers[0].is_disconnected

    assert not frontier.wait_for(has_departed, 0.0)
    departure = threading.Timer(0.05, frontier.expect_loss, ("w1",))
    departure.start()
    assert frontier.wait_for(has_departed, threading.TIMEOUT_MAX)
    departure.join()
    frontier.close()
