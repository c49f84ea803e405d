"""Queues, heaps and times, without ledger and leases: `HostScheduler` takes the time as an argument."""

from collections.abc import Callable
from itertools import count
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.frontier.host_health import HostHealth
from crawler.frontier.host_queues import LOCAL, RowQueue
from crawler.frontier.host_scheduler import HostScheduler, TurnShare
from crawler.frontier.politeness import COURTESY, Order, Policy
from crawler.model import Kind, RobotsRules
from crawler.urls import host_key
from crawler.urls import origin as origin_of

ALL: tuple[Kind, ...] = ("robots", "list", "page", "image")
FREE = Policy(robots=False, delay=0.0, per_host=2)
PACED = Policy(robots=False, delay=1.0)
RULED = Policy(delay=0.0, per_host=1)


def fill(scheduler: HostScheduler, rows: range, name: str = "http://a.example", kind: Kind = "image") -> None:
    for row in rows:
        scheduler.add(scheduler.hosts.origin(name), kind, (row,))


def rows(shares: list[TurnShare]) -> list[int]:
    return [row for share in shares for row in share.rows]


# --- queues of rows


@pytest.mark.parametrize(
    ("order", "wanted"), [("fifo", [1, 2, 3, 4]), ("lifo", [4, 3, 2, 1]), ("priority", [3, 1, 4, 2])]
)
def test_rows_come_in_the_order_of_the_crawl(order: Order, wanted: list[int]) -> None:
    queue = RowQueue(order)
    for row, priority in ((1, 5), (2, 0), (3, 9), (4, 5)):
        queue.push(row, priority)
    assert [queue.pop() for _ in range(len(queue))] == wanted


@given(st.sampled_from(["fifo", "lifo", "priority"]), st.integers(1, 9), st.permutations(range(10)))
def test_returned_rows_go_to_their_old_position(order: Order, taken: int, returned: list[int]) -> None:
    queue = RowQueue(order)
    for row in range(1, 11):
        queue.push(row, row % 3)
    first = [queue.pop() for _ in range(taken)]
    for index in (index for index in returned if index < taken):
        queue.push(first[index], first[index] % 3, returned=True)
    assert [queue.pop() for _ in range(taken)] == first


@given(st.sampled_from(["fifo", "lifo", "priority"]), st.sets(st.integers(1, 20)), st.sets(st.integers(1, 20)))
def test_only_discarded_rows_are_removed(order: Order, first: set[int], gone: set[int]) -> None:
    queue = RowQueue(order)
    for row in sorted(first):
        queue.push(row, row % 3, returned=row % 2 == 0)
    queue.discard(gone)
    assert set(queue) == first - gone and len(queue) == len(first - gone)
    assert {queue.pop() for _ in range(len(queue))} == first - gone


# --- turns


def test_a_released_host_is_ready_again_after_a_gap() -> None:
    scheduler = HostScheduler(PACED)
    fill(scheduler, range(1, 30))
    [share] = scheduler.start_turns("image", 100, now=0.0)
    assert scheduler.start_turns("image", 100, now=50.0) == []
    scheduler.release(share.host, now=50.0)
    assert scheduler.start_turns("image", 100, now=50.9) == []
    assert rows(scheduler.start_turns("image", 100, now=51.0)) == list(range(11, 21))


def test_a_cancelled_turn_costs_no_gap() -> None:
    scheduler = HostScheduler(PACED)
    fill(scheduler, range(1, 30))
    [share] = scheduler.start_turns("image", 10, now=0.0)
    scheduler.cancel(share.host)
    assert rows(scheduler.start_turns("image", 10, now=0.0)) == list(range(11, 21))


def test_an_undone_turn_leaves_everything_as_it_was() -> None:
    scheduler = HostScheduler(PACED)
    fill(scheduler, range(1, 4))
    fill(scheduler, range(4, 7), "https://a.example")
    [share] = scheduler.start_turns("image", 5, now=0.0)
    scheduler.undo(share)
    assert rows(scheduler.start_turns("image", 10, now=0.0)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_turn_of_an_earlier_run_occupies_its_host(is_listed: bool) -> None:
    scheduler = HostScheduler(PACED)
    host = scheduler.hosts.host("a.example")
    if is_listed:
        fill(scheduler, range(1, 3))
    host.open_turns += 1
    if not is_listed:
        fill(scheduler, range(1, 3))
    assert scheduler.start_turns("image", 1, now=0.0) == []
    scheduler.release(host, now=0.0)
    assert rows(scheduler.start_turns("image", 1, now=1.0)) == [1]


def test_hosts_alternate() -> None:
    scheduler = HostScheduler(FREE)
    for name in "abc":
        fill(scheduler, range(ord(name) * 10, ord(name) * 10 + 9), f"http://{name}.example")
    seen = []
    for now in range(6):
        [share] = scheduler.start_turns("image", 1, now=float(now))
        seen.append(share.host.key[0])
        scheduler.release(share.host, now=float(now))
    assert seen == list("abcabc")


def test_the_only_turn_of_a_host_is_for_one_kind() -> None:
    scheduler = HostScheduler(PACED)
    fill(scheduler, range(1, 3), kind="page")
    fill(scheduler, range(3, 5), kind="image")
    assert scheduler.start_turns("page", 1, now=0.0)
    assert scheduler.start_turns("image", 1, now=50.0) == []


def test_a_kind_that_arrives_while_its_host_is_busy_is_not_forgotten() -> None:
    scheduler = HostScheduler(PACED)
    fill(scheduler, range(1, 2), kind="page")
    [share] = scheduler.start_turns("page", 1, now=0.0)
    fill(scheduler, range(2, 3), kind="image")
    assert scheduler.start_turns("image", 1, now=9.0) == []
    scheduler.release(share.host, now=9.0)
    assert rows(scheduler.start_turns("image", 1, now=10.0)) == [2]


def test_a_crawl_delay_reduces_several_turns_to_one() -> None:
    scheduler = HostScheduler(FREE)
    fill(scheduler, range(1, 30))
    first, second = scheduler.start_turns("image", 4, now=0.0) + scheduler.start_turns("image", 4, now=0.0)
    scheduler.set_rules(scheduler.hosts.origin("http://a.example"), RobotsRules(crawl_delay=5.0), until=1e9)
    scheduler.release(first.host, now=1.0)
    assert scheduler.start_turns("image", 4, now=100.0) == []
    scheduler.release(second.host, now=100.0)
    assert len(scheduler.start_turns("image", 2, now=105.0)) == 1
    assert scheduler.start_turns("image", 2, now=105.0) == []


def test_robots_and_lists_are_taken_one_at_a_time() -> None:
    scheduler = HostScheduler(FREE)
    fill(scheduler, range(1, 4), LOCAL, "list")
    fill(scheduler, range(4, 7), kind="robots")
    assert [
        len(share.rows) for share in scheduler.start_turns("list", 9, 0.0) + scheduler.start_turns("robots", 9, 0.0)
    ] == [1] * 4


def test_lists_have_no_gap() -> None:
    scheduler = HostScheduler(PACED)
    fill(scheduler, range(1, 3), LOCAL, "list")
    [share] = scheduler.start_turns("list", 9, 0.0)
    scheduler.release(share.host, 0.0)
    assert rows(scheduler.start_turns("list", 9, 0.0)) == [2]


def test_after_a_turn_the_other_kinds_have_a_short_precedence() -> None:
    scheduler = HostScheduler(PACED)
    fill(scheduler, range(1, 30))
    fill(scheduler, range(30, 60), kind="page")
    [share] = scheduler.start_turns("image", 9, now=0.0)
    scheduler.release(share.host, now=0.0)
    assert scheduler.start_turns("image", 9, now=1.0) == []
    assert scheduler.next_ready(["image"], 1.0) == 1.0 + COURTESY
    assert scheduler.start_turns("page", 9, now=1.0)


def test_images_continue_if_no_worker_takes_the_pages() -> None:
    scheduler = HostScheduler(PACED)
    fill(scheduler, range(1, 30))
    fill(scheduler, range(30, 60), kind="page")
    [share] = scheduler.start_turns("image", 9, now=0.0)
    scheduler.release(share.host, now=0.0)
    assert scheduler.start_turns("image", 9, now=1.0 + COURTESY)


# --- waits and rules


def test_a_deferred_row_waits_for_its_time() -> None:
    scheduler = HostScheduler(FREE)
    scheduler.defer(scheduler.hosts.origin("http://a.example"), "image", 1, 0, until=5.0)
    assert (scheduler.next_ready(ALL, 0.0), scheduler.start_turns("image", 1, now=4.9)) == (5.0, [])
    assert rows(scheduler.start_turns("image", 1, now=5.0)) == [1]


def test_a_busy_host_is_left_alone_even_if_it_is_already_in_a_heap() -> None:
    scheduler = HostScheduler(FREE)
    fill(scheduler, range(1, 3))
    scheduler.set_health(scheduler.hosts.host("a.example"), HostHealth(blocked_until=30.0))
    assert (scheduler.start_turns("image", 1, now=29.0), scheduler.next_ready(ALL, 29.0)) == ([], 30.0)
    assert scheduler.start_turns("image", 1, now=30.0)


def test_rules_are_wanted_once_and_release_the_waiting_rows() -> None:
    scheduler = HostScheduler(RULED)
    fill(scheduler, range(1, 3))
    fill(scheduler, range(3, 4), kind="page")
    assert scheduler.start_turns("image", 1, 0.0) + scheduler.start_turns("page", 1, 0.0) == []
    assert {origin.name for origin in scheduler.unruled} == {"http://a.example"}
    scheduler.unruled.clear()
    fill(scheduler, range(4, 6))
    assert scheduler.start_turns("image", 1, 1.0) == [] and not scheduler.unruled
    scheduler.set_rules(scheduler.hosts.origin("http://a.example"), RobotsRules(), until=100.0)
    assert rows(scheduler.start_turns("image", 9, 1.0)) == [1, 2, 4, 5]


def test_unreachable_rules_are_checked_again_when_they_expire() -> None:
    scheduler = HostScheduler(RULED)
    fill(scheduler, range(1, 3))
    scheduler.start_turns("image", 1, 0.0)
    scheduler.set_rules(scheduler.hosts.origin("http://a.example"), RobotsRules(reachable=False), until=100.0)
    scheduler.unruled.clear()
    assert scheduler.start_turns("image", 1, 99.0) == []
    assert (scheduler.soonest(ALL, 99.0), scheduler.next_ready(ALL, 99.0)) == (100.0, 100.0)
    assert scheduler.start_turns("image", 1, 100.0) == []
    assert scheduler.unruled


def test_rows_of_an_unreachable_origin_do_not_pile_up_in_the_heap() -> None:
    scheduler = HostScheduler(RULED)
    scheduler.set_rules(scheduler.hosts.origin("http://a.example"), RobotsRules(reachable=False), until=1e9)
    for row in range(1, 1_000):
        fill(scheduler, range(row, row + 1))
        scheduler.start_turns("image", 1, float(row))
    assert len(scheduler._heaps["image"]) < 5


# --- the time of the next row


def test_an_empty_schedule_has_no_next_time() -> None:
    scheduler = HostScheduler(FREE)
    assert scheduler.soonest(ALL, 0.0) == scheduler.next_ready(ALL, 0.0) == inf


def test_a_gap_does_not_delay_the_end() -> None:
    scheduler = HostScheduler(PACED)
    fill(scheduler, range(1, 3))
    [share] = scheduler.start_turns("image", 1, 0.0)
    scheduler.release(share.host, 0.0)
    assert (scheduler.soonest(ALL, 0.0), scheduler.next_ready(ALL, 0.0)) == (0.0, 1.0)


def test_only_the_requested_kinds_count() -> None:
    scheduler = HostScheduler(FREE)
    fill(scheduler, range(1, 2), kind="page")
    scheduler.defer(scheduler.hosts.origin("http://a.example"), "page", 2, 0, until=5.0)
    assert scheduler.soonest(["image"], 0.0) == inf


def test_parked_requests_have_a_reason_and_can_be_dropped() -> None:
    scheduler = HostScheduler(RULED)
    for name in ("http://busy.example", "http://shut.example", "http://open.example"):
        is_shut = "shut" in name
        scheduler.set_rules(scheduler.hosts.origin(name), RobotsRules(reachable=not is_shut), until=1e6)
    fill(scheduler, range(1, 3), "http://busy.example")
    fill(scheduler, range(3, 5), "http://shut.example")
    fill(scheduler, range(5, 7), "http://open.example")
    scheduler.set_health(scheduler.hosts.host("busy.example"), HostHealth(blocked_until=1e6))
    scheduler.defer(scheduler.hosts.origin("http://open.example"), "image", 7, 0, until=1e6)
    parked = scheduler.parked(ALL, until=60.0)
    assert parked == {1: "rate-limited", 2: "rate-limited", 3: "robots-unreachable", 4: "robots-unreachable", 7: ""}
    scheduler.drop(parked)
    assert scheduler.parked(ALL, until=60.0) == {}
    assert rows(scheduler.start_turns("image", 9, 1.0)) == [5, 6]


# --- properties


class Walk:
    """A scheduler with the record of the operations on it."""

    def __init__(self, policy: Policy) -> None:
        self.scheduler = HostScheduler(policy)
        self.now = 0.0
        self.rows = count(1)
        self.taken: list[int] = []
        self.open: list[TurnShare] = []
        self.origins = [self.scheduler.hosts.origin(f"http{'s' * (n % 2)}://{n // 2}.example") for n in range(6)]

    def add(self, choice: int) -> None:
        self.scheduler.add(self.origins[choice], ("image", "page")[choice % 2], (next(self.rows),), choice)

    def defer(self, choice: int) -> None:
        self.scheduler.defer(self.origins[choice], "image", next(self.rows), 0, self.now + choice)

    def take(self, choice: int) -> None:
        for share in self.scheduler.start_turns(("image", "page")[choice % 2], 3, self.now):
            assert share.host.ready_at <= self.now
            self.open.append(share)
            self.taken.extend(share.rows)

    def release(self, choice: int) -> None:
        if self.open:
            self.scheduler.release(self.open.pop(choice % len(self.open)).host, self.now)

    def undo(self, choice: int) -> None:
        if self.open:
            share = self.open.pop(choice % len(self.open))
            self.scheduler.undo(share)
            self.taken = [row for row in self.taken if row not in share.rows]

    def overload(self, choice: int) -> None:
        conduct = HostHealth(blocked_until=self.now + choice, outages=choice % 2)
        self.scheduler.set_health(self.origins[choice].host, conduct)

    def recover(self, choice: int) -> None:
        self.scheduler.set_health(self.origins[choice].host, HostHealth())

    def drop(self, choice: int) -> None:
        parked = self.scheduler.parked(ALL, self.now + choice)
        self.scheduler.drop(parked)
        self.taken += parked

    def check_counts(self) -> None:
        """Compare the running counts of hosts with a walk over all hosts."""
        waiting = [host for host in self.scheduler.hosts.by_key.values() if host.has_waiting]
        census = self.scheduler.hosts.counts()
        assert set(self.scheduler.hosts.waiting) == set(waiting)
        assert (census.known, census.waiting) == (len(self.scheduler.hosts.by_key), len(waiting))
        assert census.down == sum(host.health.outages > 0 for host in waiting)
        assert census.alone is (waiting[0] if len(waiting) == 1 else None)

    def rule(self, choice: int) -> None:
        self.scheduler.set_rules(self.origins[choice], RobotsRules(reachable=choice % 3 > 0), self.now + choice)

    def finish(self) -> None:
        """Take and release all ready rows, until no row is left."""
        while self.open or self.scheduler.soonest(ALL, self.now) < inf:
            while self.open:
                self.release(0)
            for origin in list(self.scheduler.unruled):
                self.scheduler.set_rules(origin, RobotsRules(), inf)
            self.now = self.scheduler.next_ready(ALL, self.now)
            self.take(0)
            self.take(1)


_STEPS = st.sampled_from(
    [Walk.add, Walk.defer, Walk.take, Walk.release, Walk.undo, Walk.overload, Walk.recover, Walk.drop, Walk.rule]
)


@given(
    st.lists(st.tuples(_STEPS, st.integers(0, 5)), max_size=60),
    st.sampled_from([FREE, PACED, RULED, Policy(per_host=3)]),
)
def test_every_row_is_taken_once_after_any_events_at_its_host(
    steps: list[tuple[Callable[[Walk, int], None], int]], policy: Policy
) -> None:
    walk = Walk(policy)
    for step, choice in steps:
        step(walk, choice)
        walk.check_counts()
        walk.now += 0.4
    walk.finish()
    walk.check_counts()
    assert sorted(walk.taken) == list(range(1, next(walk.rows)))


@pytest.mark.parametrize(
    "url",
    ["http://A.example/x", "https://a.example:443/", "https://a.example:80/", "http://[::1]:8080/", "http://127.1/"],
)
def test_the_host_of_an_origin_is_that_of_its_urls(url: str) -> None:
    assert HostScheduler(FREE).hosts.origin(origin_of(url)).host.key == host_key(url)
