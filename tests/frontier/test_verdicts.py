"""Verdicts returned to workers: the status, the place of the first copy, and whether the worker's own copy is spare."""

from collections.abc import Iterator

import pytest
from msgspec import structs

from crawler.frontier.base import PROTOCOL
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.frontier.workers import _MAX_WORKERS
from crawler.model import Outcome, Verdict, WorkerInfo
from tests.frontier.fakes import FakeClock, done, image, images, lease, saved, tokens, turn_ids, urls, work_off

BYTES = "ab" * 32
HERE, THERE = "a" * 16, "b" * 16


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def frontier(clock: FakeClock) -> Iterator[SqliteFrontier]:
    made = SqliteFrontier(None, Policy(robots=False, delay=0.0), clock=clock)
    made.put(images(4))
    yield made
    made.close()


def bring(
    frontier: SqliteFrontier, worker: str, store: str, *, reason: str = "", name: str = ""
) -> tuple[Verdict, Outcome]:
    """Lease one picture for a worker, always with the same bytes, and report it."""
    grant = lease(frontier, worker=worker, limit=1)
    (held,) = grant.turns[0].leases
    record = None if reason else structs.replace(saved(held.request, BYTES), store=store)
    if record is not None and name:
        record = structs.replace(record, path=f"images/{name}.{BYTES[:32]}.jpg")
    outcome = Outcome(status="done", token=held.token, reason=reason, record=record, stored=True)
    (verdict,) = frontier.complete(worker, [outcome], turn_ids(grant))
    return verdict, outcome


def test_the_verdict_of_a_success_is_short(frontier: SqliteFrontier) -> None:
    verdict, _ = bring(frontier, "w1", HERE)
    assert verdict == Verdict(state="accepted", status="success", attempts=1)


def test_the_verdict_of_a_failure_has_its_reason(frontier: SqliteFrontier) -> None:
    verdict, _ = bring(frontier, "w1", HERE, reason="http-404")
    assert (verdict.status, verdict.reason, verdict.is_spare) == ("failed", "http-404", False)


def test_a_duplicate_is_spare_while_the_store_of_the_first_copy_is_connected(
    frontier: SqliteFrontier, clock: FakeClock
) -> None:
    bring(frontier, "w1", HERE)
    near, outcome = bring(frontier, "w2", THERE)
    assert outcome.record and (near.status, near.store, near.path) == ("duplicate", HERE, outcome.record.path)
    assert near.is_spare
    clock.go(61)  # the machine of the first copy has not called since
    far, _ = bring(frontier, "w2", THERE)
    assert (far.status, far.store, far.is_spare) == ("duplicate", HERE, False)


def test_a_duplicate_in_the_same_store_is_not_spare(frontier: SqliteFrontier) -> None:
    bring(frontier, "w1", HERE)
    verdict, _ = bring(frontier, "w2", HERE)
    assert (verdict.status, verdict.is_spare) == ("duplicate", False)


def test_the_same_bytes_under_two_names_in_one_store_are_spare(frontier: SqliteFrontier, clock: FakeClock) -> None:
    bring(frontier, "w1", HERE, name="dog")
    clock.go(61)  # the worker does not matter: the store is the same
    verdict, outcome = bring(frontier, "w2", HERE, name="cat")
    assert verdict == Verdict(
        status="duplicate", store=HERE, path=f"images/dog.{BYTES[:32]}.jpg", attempts=1, is_spare=True
    )
    (again,) = frontier.complete("w2", [outcome], ())
    assert again == structs.replace(verdict, state="duplicate")


def test_an_outcome_reported_twice_gets_the_same_verdict(frontier: SqliteFrontier) -> None:
    first, outcome = bring(frontier, "w1", HERE)
    (again,) = frontier.complete("w1", [outcome], ())
    assert again == structs.replace(first, state="duplicate")


@pytest.mark.parametrize("store", [HERE, THERE])
def test_a_late_worker_learns_only_that_its_copy_is_spare(
    frontier: SqliteFrontier, clock: FakeClock, store: str
) -> None:
    late = lease(frontier, worker="slow", limit=1)
    clock.go(121)
    while urls(other := lease(frontier, worker="fast", limit=1)) != urls(late):  # lost requests come last
        frontier.complete("fast", done(other), turn_ids(other))
    first = structs.replace(done(other)[0], record=structs.replace(saved(other.turns[0].leases[0].request), store=HERE))
    frontier.complete("fast", [first], turn_ids(other))
    assert first.record
    path = f"images/late.{first.record.sha256}.jpg"
    own = structs.replace(done(late)[0], record=structs.replace(first.record, store=store, path=path))
    told = Verdict(state="duplicate", is_spare=True)
    if store == HERE:
        told = structs.replace(told, store=HERE, path=first.record.path)
    assert frontier.complete("slow", [own], turn_ids(late)) == (told,)


def test_a_hello_received_twice_frees_nothing(frontier: SqliteFrontier) -> None:
    frontier.put([image()])
    frontier.hello("w1", PROTOCOL, WorkerInfo(life="a"))
    held = tokens(lease(frontier))
    frontier.hello("w1", PROTOCOL, WorkerInfo(life="a"))
    assert frontier.extend("w1", held, 120.0).lost == ()
    frontier.hello("w1", PROTOCOL, WorkerInfo(life="b"))
    assert frontier.extend("w1", held, 120.0).lost == tuple(held)


def test_a_late_hello_of_an_earlier_life_frees_nothing(frontier: SqliteFrontier) -> None:
    frontier.hello("w1", PROTOCOL, WorkerInfo(life="b", wall=20.0))
    held = tokens(lease(frontier))
    frontier.hello("w1", PROTOCOL, WorkerInfo(life="a", wall=10.0))
    assert frontier.extend("w1", held, 120.0).lost == ()
    frontier.hello("w1", PROTOCOL, WorkerInfo(life="b", wall=20.0))
    assert frontier.extend("w1", held, 120.0).lost == ()


def test_a_worker_whose_clock_was_set_back_is_greeted_once(frontier: SqliteFrontier) -> None:
    frontier.hello("w1", PROTOCOL, WorkerInfo(life="a", wall=20.0))
    frontier.announce({"news": 1})
    assert lease(frontier).is_stranger
    assert frontier.hello("w1", PROTOCOL, WorkerInfo(life="b", wall=10.0))["news"] == 1
    assert not lease(frontier).is_stranger


def test_two_machines_with_the_same_name_cause_a_warning(
    frontier: SqliteFrontier, caplog: pytest.LogCaptureFixture
) -> None:
    frontier.hello("machine/1", PROTOCOL)
    held = tokens(lease(frontier, worker="machine/1", limit=1))
    frontier.extend("machine/1", held, 120.0)
    assert not caplog.messages
    frontier.hello("machine/1", PROTOCOL, WorkerInfo(stays=True))
    frontier.hello("machine/1", PROTOCOL)  # its copy on another machine
    frontier.extend("machine/1", held, 120.0)
    assert [message for message in caplog.messages if "directories have the same store.json" in message]


def test_an_expired_lease_is_no_sign_of_a_second_machine(
    frontier: SqliteFrontier, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    frontier.hello("machine/1", PROTOCOL)
    held = tokens(lease(frontier, worker="machine/1", limit=1))
    clock.go(121)
    frontier.extend("machine/1", held, 120.0)
    assert not [message for message in caplog.messages if "store.json" in message]


def test_one_worker_is_stopped_until_it_says_hello_again(frontier: SqliteFrontier) -> None:
    frontier.put(images(1, "b.example"))
    held = lease(frontier, worker="w1", limit=1)
    frontier.drain("w1")
    assert (lease(frontier, worker="w1").state, lease(frontier, worker="w2", limit=1).state) == ("draining", "work")
    frontier.complete("w1", done(held), turn_ids(held))
    assert frontier.stats().success == 1
    frontier.hello("w1", PROTOCOL)
    assert lease(frontier, worker="w1").state == "work"


def test_the_number_of_remembered_names_is_limited(frontier: SqliteFrontier, clock: FakeClock) -> None:
    for n in range(_MAX_WORKERS + 50):
        clock.go(0.1)
        frontier.hello(f"w{n}", PROTOCOL)
    assert len(frontier.stats().workers) == _MAX_WORKERS
    clock.go(4_000)
    frontier.hello("new", PROTOCOL)
    assert [worker.name for worker in frontier.stats().workers] == ["new"]


def test_the_rate_is_measured_over_the_last_seconds(frontier: SqliteFrontier, clock: FakeClock) -> None:
    frontier.put(images(40, "b.example"))
    for _ in range(4):
        bring(frontier, "w1", HERE)
        clock.go(1)
    (worker,) = frontier.stats().workers
    assert (worker.settled, worker.rate) == (4, 1.0)
    clock.go(60)
    assert frontier.stats().workers[0].rate == 0.0


def test_a_late_worker_is_known_before_its_leases_are_lost(frontier: SqliteFrontier, clock: FakeClock) -> None:
    lease(frontier, worker="w1", seconds=100.0)
    clock.go(39)
    assert frontier.stats().workers[0].loses_in is None
    clock.go(21)
    assert frontier.stats().workers[0].loses_in == 40.0


def test_a_failed_picture_is_replaced_by_its_thumbnail() -> None:
    frontier = SqliteFrontier(None, Policy(robots=False, delay=0.0))
    frontier.put([image("http://a.example/big.jpg", fallback="http://a.example/small.jpg", alt="A")])
    grant = lease(frontier)
    failed = Outcome(status="done", token=tokens(grant)[0], reason="http-404")
    frontier.complete("w1", [failed], turn_ids(grant))
    (small,) = lease(frontier).turns[0].leases
    assert (small.request.url, small.request.alt, small.request.fallback) == ("http://a.example/small.jpg", "A", "")
    assert (frontier.stats().failed, frontier.stats().leased) == (1, 1)
    frontier.close()


def test_a_saved_picture_does_not_request_its_thumbnail() -> None:
    frontier = SqliteFrontier(None, Policy(robots=False, delay=0.0))
    frontier.put([image("http://a.example/big.jpg", fallback="http://a.example/small.jpg")])
    assert work_off(frontier) == ["http://a.example/big.jpg"] and lease(frontier).state == "drained"
    frontier.close()
