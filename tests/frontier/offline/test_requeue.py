"""Failed requests that are requeued: selection, initial state, and the treatment of their hosts."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from crawler.errors import DiskError
from crawler.frontier.base import PROTOCOL
from crawler.frontier.ledger.fsck import LedgerCheck
from crawler.frontier.ledger.integrity import MARK
from crawler.frontier.offline.requeue import RequeueResult, requeue_failed
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import MISSES, Outcome, Request, RobotsRules
from tests.frontier.disk import counts
from tests.frontier.fakes import (
    OPEN,
    POISON_SOON,
    FakeClock,
    Open,
    done,
    image,
    images,
    learn,
    lease,
    page,
    retry,
    tokens,
    turn_ids,
    urls,
    work_off,
)

#: One turn per host, and an end that waits a minute.
POLITE = Policy(delay=0.0, per_host=1, patience=60.0)


def again(path: Path, clock: FakeClock, *reasons: str, patience: float = 60.0) -> RequeueResult:
    return requeue_failed(
        path, lambda reason: reason in reasons, patience=patience, wall=clock.now, before=lambda *_: None
    )


def fail(frontier: SqliteFrontier, reasons: dict[str, str]) -> list[str]:
    """Settle all waiting requests, those in ``reasons`` (URL → reason) as failures; return all of them."""
    found = []
    while (grant := lease(frontier)).turns:
        outcomes = [
            Outcome(status="done", token=good.token, reason=reasons[url]) if url in reasons else good
            for url, good in zip(urls(grant), done(grant), strict=True)
        ]
        frontier.complete("w1", outcomes, turn_ids(grant))
        found += urls(grant)
    return found


def faults(path: Path) -> list[str]:
    """Return the consistency faults of the file."""
    found: list[str] = []
    with LedgerCheck(path, is_still=True) as books:
        books.prove(lambda rule, example: found.append(f"{rule}: {example}"), lambda number: None)
    return found


def ask(frontier: SqliteFrontier) -> list[str]:
    """Return the URLs that can be leased now, robots.txt first."""
    return urls(lease(frontier)) or urls(lease(frontier))


# --- selection


def test_requests_with_the_given_reasons_are_requeued_and_the_rest_is_unchanged(
    open_file: Open, path: Path, clock: FakeClock
) -> None:
    frontier = open_file()
    frontier.put([page(), page("http://a.example/p2"), *images(5)])
    reasons = {"http://a.example/p2": "timeout", "http://a.example/0.jpg": "timeout"}
    fail(frontier, reasons | {"http://a.example/1.jpg": "http-404", "http://a.example/2.jpg": "dns"})
    before = dict(frontier.records(0, 100))
    frontier.close()
    found = again(path, clock, "timeout", "dns")
    assert found.requests == {("page", "timeout"): 1, ("image", "timeout"): 1, ("image", "dns"): 1}
    assert (found.others, found.left, found.is_waiting) == ({"http-404": 1}, {}, True)
    assert faults(path) == []
    frontier = open_file()
    stats = frontier.stats()
    assert (stats.waiting, stats.success, stats.failed, stats.discovered) == (2, 2, 1, 5)
    assert (stats.pages_waiting, stats.pages_done, stats.seeds) == (1, 1, 2)
    after = dict(frontier.records(0, 100))
    assert after.items() <= before.items() and len(after) == 3
    grant = lease(frontier)
    assert sorted(urls(grant)) == sorted([*reasons, "http://a.example/2.jpg"])
    frontier.complete("w1", done(grant), turn_ids(grant))
    assert frontier.stats().failed == 1 and min(frontier.records(0, 100)[-2:])[0] > max(before)
    frontier.close()
    assert faults(path) == []


def test_attempts_and_losses_are_reset(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file(POISON_SOON)
    frontier.put(images(1))
    for _ in range(POISON_SOON.max_losses):
        lease(frontier, seconds=1.0)
        clock.go(2)
    assert lease(frontier).state == "drained" and frontier.stats().reasons == {"poison": 1}
    for reason, attempts in (("poison", OPEN.max_attempts), ("connect", 1)):
        frontier.close()
        assert again(path, clock, reason).is_waiting
        frontier = open_file()
        for _ in range(attempts):
            grant = lease(frontier)
            assert [held.deliveries for turn in grant.turns for held in turn.leases] == [1]
            frontier.complete("w1", retry(grant), turn_ids(grant))
            clock.go(60)
    assert frontier.stats().waiting == 1


def test_the_loss_of_a_request_that_ended_as_parked_is_reset(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put(images(3))
    lease(frontier, limit=1, seconds=1.0)
    other = lease(frontier, limit=2)
    clock.go(2)
    frontier.complete("w1", retry(other, overloaded=True, host_wait=100.0), turn_ids(other))
    assert lease(frontier).state == "drained" and frontier.stats().reasons == {"rate-limited": 3}
    frontier.close()
    clock.go(100)
    again(path, clock, "rate-limited")
    found = [held.deliveries for turn in lease(open_file()).turns for held in turn.leases]
    assert found == [1, 1, 1]


def test_a_redirect_is_forgotten(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put([image(alt='"target":')])
    grant = lease(frontier)
    there = Request(url="http://a.example/1.jpg", kind="image", target="http://b.example/x", hops=3)
    frontier.complete("w1", [Outcome(status="moved", token=tokens(grant)[0], successor=there)], turn_ids(grant))
    (turn,) = lease(frontier).turns
    assert turn.host == "b.example"
    frontier.complete("w1", [Outcome(status="done", token=turn.leases[0].token, reason="dns")], [turn.id])
    frontier.close()
    again(path, clock, "dns")
    assert faults(path) == []
    (turn,) = lease(open_file()).turns
    assert (turn.host, turn.leases[0].request) == ("a.example", image(alt='"target":'))


def test_without_a_match_nothing_changes(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put(images(2))
    fail(frontier, {"http://a.example/1.jpg": "dns"})
    before = counts(frontier)
    frontier.close()
    found = requeue_failed(
        path, lambda reason: False, patience=60.0, wall=clock.now, before=lambda *_: pytest.fail("asked")
    )
    assert (found.requests, found.others, found.is_waiting) == ({}, {"dns": 1}, False)
    assert counts(open_file()) == before


def test_a_reader_during_the_change_sees_an_unfinished_crawl(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put(images(4))
    fail(frontier, {"http://a.example/1.jpg": "dns"})
    frontier.ledger.database.set_meta(MARK, b"")
    frontier.close()
    seen: list[tuple[object, ...]] = []

    def look(kept: int, last: int) -> None:
        with LedgerCheck(path, is_still=False) as books:
            seen.append((kept, last, books.has_ended_well, len(list(books.records()))))

    requeue_failed(path, lambda reason: True, patience=60.0, wall=clock.now, before=look)
    assert seen == [(1, 4, False, 4)]


def test_an_error_during_the_change_rolls_everything_back(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put(images(2))
    fail(frontier, {"http://a.example/1.jpg": "dns"})
    before = counts(frontier)
    frontier.close()

    def refuse(*_: int) -> None:
        raise DiskError("no space left")

    with pytest.raises(DiskError, match="no space"):
        requeue_failed(path, lambda reason: True, patience=60.0, wall=clock.now, before=refuse)
    assert counts(open_file()) == before


# --- hosts and robots.txt


def test_a_host_that_was_down_is_probed_at_once_with_one_request(open_file: Open, path: Path, clock: FakeClock) -> None:
    patient = Policy(robots=False, delay=0.0, per_host=4, patience=40.0)
    frontier = open_file(patient)
    frontier.put(images(8))
    while (grant := lease(frontier, limit=8)).state != "drained":
        frontier.complete("w1", retry(grant, down="host"), turn_ids(grant))
        clock.go(1)
    assert frontier.stats().reasons == {"host-down": 8}
    frontier.close()
    assert again(path, clock, "host-down", patience=40.0).left == {}
    frontier = open_file(patient)
    look = lease(frontier)
    assert len(urls(look)) == 1
    frontier.complete("w1", done(look, latency=0.1), turn_ids(look))
    fail(frontier, {})
    assert frontier.stats().success == 8


def test_a_host_that_is_still_down_is_left_alone_for_longer_each_time(
    open_file: Open, path: Path, clock: FakeClock
) -> None:
    frontier = open_file(OPEN)
    frontier.put(images(MISSES))
    grant = lease(frontier)
    frontier.complete("w1", retry(grant, down="host"), turn_ids(grant))
    for wait in (30, 60):
        clock.go(wait)
        grant = lease(frontier)
        frontier.complete("w1", retry(grant, down="host"), turn_ids(grant))
    assert lease(frontier).state == "drained"
    frontier.close()
    again(path, clock, "host-down")
    frontier = open_file()
    asked = 0
    while (grant := lease(frontier)).state != "drained":
        asked += len(urls(grant))
        frontier.complete("w1", retry(grant, down="host"), turn_ids(grant))
        clock.go(1)
    assert asked == 2 and frontier.stats().reasons == {"host-down": MISSES}


def test_the_wait_that_a_host_asked_for_is_kept(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file(POLITE)
    frontier.put([*images(3), *images(2, "b.example")])
    learn(frontier)
    grant = lease(frontier, limit=2)
    frontier.complete("w1", retry(grant, "http-429", overloaded=True, host_wait=3_600.0), turn_ids(grant))
    fail(frontier, {f"http://b.example/{n}.jpg": "dns" for n in range(2)})
    assert lease(frontier).state == "drained" and frontier.stats().reasons == {"rate-limited": 3, "dns": 2}
    frontier.close()
    clock.go(600)
    found = again(path, clock, "rate-limited", "dns")
    assert (found.requests, found.left) == ({("image", "dns"): 2}, {"a.example": (3, 3_000.0)})
    assert again(path, clock, "rate-limited", patience=3_000.0).requests == {("image", "rate-limited"): 3}
    frontier = open_file(structs.replace(POLITE, patience=3_000.0))
    fail(frontier, {})
    assert frontier.stats().waiting == 3
    clock.go(3_000)
    fail(frontier, {})
    assert frontier.stats().success == 5


def lose_rules(frontier: SqliteFrontier, clock: FakeClock) -> None:
    """Fail the robots.txt of all waiting requests, and with it the requests."""
    lease(frontier)
    while frontier.stats().robots_reasons != {"http-503": 1}:
        grant = lease(frontier, "robots")
        unreachable = RobotsRules(reachable=False, lifetime=3_600.0)
        frontier.complete("w1", retry(grant, "http-503", robots=unreachable), turn_ids(grant))
        clock.go(10)
    assert lease(frontier).state == "drained" and frontier.stats().reasons == {"robots-unreachable": 2}


@pytest.mark.parametrize("reason", ["robots-unreachable", "http-503"])
def test_a_robots_txt_is_requeued_with_the_requests_that_waited_for_it(
    open_file: Open, path: Path, clock: FakeClock, reason: str
) -> None:
    frontier = open_file(POLITE)
    frontier.put(images(2))
    lose_rules(frontier, clock)
    frontier.close()
    assert again(path, clock, reason).requests == {("image", "robots-unreachable"): 2}
    frontier = open_file(POLITE)
    assert ask(frontier) == ["http://a.example/robots.txt"]
    frontier.hello("w1", PROTOCOL)
    learn(frontier)
    assert work_off(frontier) == [request.url for request in images(2)]
    assert (frontier.stats().failed, frontier.stats().robots_reasons) == (0, {})


def test_the_robots_txt_of_other_requests_is_not_requeued(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file(POLITE)
    frontier.put(images(2))
    lose_rules(frontier, clock)
    frontier.put([image("http://b.example/1.jpg")])
    learn(frontier)
    fail(frontier, {"http://b.example/1.jpg": "dns"})
    frontier.put(images(3))  # one more, which waits until the hour is over
    frontier.close()
    assert again(path, clock, "dns").requests == {("image", "dns"): 1}
    frontier = open_file(POLITE)
    assert urls(lease(frontier)) == ["http://b.example/1.jpg"]
    assert urls(lease(frontier)) == []


@pytest.mark.parametrize(("reason", "first"), [("robots", "robots.txt"), ("http-403", "0.jpg")])
def test_a_robots_txt_that_has_refused_is_requeued(
    open_file: Open, path: Path, clock: FakeClock, reason: str, first: str
) -> None:
    frontier = open_file(POLITE)
    frontier.put(images(1))
    learn(frontier)
    fail(frontier, {"http://a.example/0.jpg": reason})
    frontier.close()
    again(path, clock, reason)
    assert ask(open_file(POLITE)) == [f"http://a.example/{first}"]


# --- properties

REASONS = ("timeout", "http-404", "dns", "")
#: Their results at the next attempt.
LATER = {"timeout": "", "http-404": "http-404", "dns": "timeout"}


@given(
    ends=st.lists(st.tuples(st.sampled_from(["image", "page"]), st.sampled_from(REASONS)), max_size=12),
    rounds=st.lists(st.sets(st.sampled_from(REASONS[:-1])), min_size=1, max_size=3),
)
def test_requeued_requests_that_fail_again_are_neither_lost_nor_duplicated(
    tmp_path_factory: pytest.TempPathFactory, ends: list[tuple[str, str]], rounds: list[Collection[str]]
) -> None:
    path, clock = tmp_path_factory.mktemp("crawl") / "frontier.sqlite", FakeClock()

    def opened() -> SqliteFrontier:
        return SqliteFrontier(path, OPEN, clock=clock, wall=clock, dice=lambda: 0.5)

    requests = [
        Request(url=f"http://{'ab'[n % 2]}.example/{n}", kind="image" if kind == "image" else "page")
        for n, (kind, _) in enumerate(ends)
    ]
    known = {request.url: reason for request, (_, reason) in zip(requests, ends, strict=True) if reason}
    frontier = opened()
    frontier.put(requests)
    fail(frontier, known)
    for meant in rounds:
        frontier.close()
        found = again(path, clock, *meant)
        assert faults(path) == []
        expected = Counter(
            (request.kind, known[request.url]) for request in requests if known.get(request.url) in meant
        )
        assert found.requests == expected
        frontier = opened()
        stats = frontier.stats()
        assert stats.waiting + stats.pages_waiting == expected.total()
        asked = {url for url, reason in known.items() if reason in meant}
        once_more = {url: LATER[known.pop(url)] for url in asked}
        known |= {url: reason for url, reason in once_more.items() if reason}
        assert sorted(fail(frontier, known)) == sorted(asked)
        stats = frontier.stats()
        assert Counter(stats.reasons) + Counter(stats.page_reasons) == Counter(known.values())
    records = [record for _, record in frontier.records(0, 100)]
    frontier.close()
    assert sorted(record.url for record in records) == sorted(r.url for r in requests if r.kind == "image")
    assert faults(path) == []
