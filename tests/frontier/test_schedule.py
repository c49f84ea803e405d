"""Queues, heaps and times, without ledger and leases: `Schedule` takes the time as an argument."""

from collections.abc import Callable
from itertools import count
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.frontier.conduct import Conduct
from crawler.frontier.hosts import RowQueue
from crawler.frontier.politeness import COURTESY, Order, Policy
from crawler.frontier.schedule import LOCAL, Schedule, Share
from crawler.model import Kind, RobotsRules

ALL: tuple[Kind, ...] = ("robots", "list", "page", "image")
FREE = Policy(robots=False, delay=0.0, per_host=2)
PACED = Policy(robots=False, delay=1.0)
RULED = Policy(delay=0.0, per_host=1)


def fill(schedule: Schedule, rows: range, name: str = "http://a.example", kind: Kind = "image") -> None:
    for row in rows:
        schedule.add(schedule.origin(name), kind, row)


def rows(shares: list[Share]) -> list[int]:
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
def test_what_comes_back_goes_to_its_old_place(order: Order, taken: int, returned: list[int]) -> None:
    queue = RowQueue(order)
    for row in range(1, 11):
        queue.push(row, row % 3)
    first = [queue.pop() for _ in range(taken)]
    for index in (index for index in returned if index < taken):
        queue.push(first[index], first[index] % 3, returned=True)
    assert [queue.pop() for _ in range(taken)] == first


@given(st.sampled_from(["fifo", "lifo", "priority"]), st.sets(st.integers(1, 20)), st.sets(st.integers(1, 20)))
def test_discarded_rows_are_gone_and_no_others(order: Order, first: set[int], gone: set[int]) -> None:
    queue = RowQueue(order)
    for row in sorted(first):
        queue.push(row, row % 3, returned=row % 2 == 0)
    queue.discard(gone)
    assert set(queue) == first - gone and len(queue) == len(first - gone)
    assert {queue.pop() for _ in range(len(queue))} == first - gone


# --- turns


def test_a_host_that_was_released_comes_again_a_gap_later() -> None:
    schedule = Schedule(PACED)
    fill(schedule, range(1, 30))
    [share] = schedule.take("image", 100, now=0.0)
    assert schedule.take("image", 100, now=50.0) == []
    schedule.release(share.host, now=50.0)
    assert schedule.take("image", 100, now=50.9) == []
    assert rows(schedule.take("image", 100, now=51.0)) == list(range(11, 21))


def test_a_cancelled_turn_costs_no_gap() -> None:
    schedule = Schedule(PACED)
    fill(schedule, range(1, 30))
    [share] = schedule.take("image", 10, now=0.0)
    schedule.cancel(share.host)
    assert rows(schedule.take("image", 10, now=0.0)) == list(range(11, 21))


def test_an_undone_turn_leaves_everything_as_it_was() -> None:
    schedule = Schedule(PACED)
    fill(schedule, range(1, 4))
    fill(schedule, range(4, 7), "https://a.example")
    [share] = schedule.take("image", 5, now=0.0)
    schedule.undo(share)
    assert rows(schedule.take("image", 10, now=0.0)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_turn_of_an_earlier_life_occupies_its_host(is_listed: bool) -> None:
    schedule = Schedule(PACED)
    host = schedule.host("a.example")
    if is_listed:
        fill(schedule, range(1, 3))
    schedule.reserve(host)
    if not is_listed:
        fill(schedule, range(1, 3))
    assert schedule.take("image", 1, now=0.0) == []
    schedule.release(host, now=0.0)
    assert rows(schedule.take("image", 1, now=1.0)) == [1]


def test_hosts_take_turns() -> None:
    schedule = Schedule(FREE)
    for name in "abc":
        fill(schedule, range(ord(name) * 10, ord(name) * 10 + 9), f"http://{name}.example")
    seen = []
    for now in range(6):
        [share] = schedule.take("image", 1, now=float(now))
        seen.append(share.host.key[0])
        schedule.release(share.host, now=float(now))
    assert seen == list("abcabc")


def test_a_host_s_one_turn_is_for_one_kind() -> None:
    schedule = Schedule(PACED)
    fill(schedule, range(1, 3), kind="page")
    fill(schedule, range(3, 5), kind="image")
    assert schedule.take("page", 1, now=0.0)
    assert schedule.take("image", 1, now=50.0) == []


def test_a_kind_that_comes_up_while_its_host_is_busy_is_not_forgotten() -> None:
    schedule = Schedule(PACED)
    fill(schedule, range(1, 2), kind="page")
    [share] = schedule.take("page", 1, now=0.0)
    fill(schedule, range(2, 3), kind="image")
    assert schedule.take("image", 1, now=9.0) == []
    schedule.release(share.host, now=9.0)
    assert rows(schedule.take("image", 1, now=10.0)) == [2]


def test_a_crawl_delay_leaves_one_of_several_turns() -> None:
    schedule = Schedule(FREE)
    fill(schedule, range(1, 30))
    first, second = schedule.take("image", 4, now=0.0) + schedule.take("image", 4, now=0.0)
    schedule.set_rules(schedule.origin("http://a.example"), RobotsRules(crawl_delay=5.0), until=1e9)
    schedule.release(first.host, now=1.0)
    assert schedule.take("image", 4, now=100.0) == []
    schedule.release(second.host, now=100.0)
    assert len(schedule.take("image", 2, now=105.0)) == 1
    assert schedule.take("image", 2, now=105.0) == []


def test_robots_and_lists_come_one_at_a_time() -> None:
    schedule = Schedule(FREE)
    fill(schedule, range(1, 4), LOCAL, "list")
    fill(schedule, range(4, 7), kind="robots")
    assert [len(share.rows) for share in schedule.take("list", 9, 0.0) + schedule.take("robots", 9, 0.0)] == [1] * 4


def test_lists_know_no_gap() -> None:
    schedule = Schedule(PACED)
    fill(schedule, range(1, 3), LOCAL, "list")
    [share] = schedule.take("list", 9, 0.0)
    schedule.release(share.host, 0.0)
    assert rows(schedule.take("list", 9, 0.0)) == [2]


def test_after_a_turn_the_other_kinds_go_first_by_a_moment() -> None:
    schedule = Schedule(PACED)
    fill(schedule, range(1, 30))
    fill(schedule, range(30, 60), kind="page")
    [share] = schedule.take("image", 9, now=0.0)
    schedule.release(share.host, now=0.0)
    assert schedule.take("image", 9, now=1.0) == []
    assert schedule.next_ready(["image"], 1.0) == 1.0 + COURTESY
    assert schedule.take("page", 9, now=1.0)


def test_where_nobody_takes_the_pages_images_go_on() -> None:
    schedule = Schedule(PACED)
    fill(schedule, range(1, 30))
    fill(schedule, range(30, 60), kind="page")
    [share] = schedule.take("image", 9, now=0.0)
    schedule.release(share.host, now=0.0)
    assert schedule.take("image", 9, now=1.0 + COURTESY)


# --- waits and rules


def test_a_deferred_row_waits_for_its_time() -> None:
    schedule = Schedule(FREE)
    schedule.defer(schedule.origin("http://a.example"), "image", 1, 0, until=5.0)
    assert (schedule.next_ready(ALL, 0.0), schedule.take("image", 1, now=4.9)) == (5.0, [])
    assert rows(schedule.take("image", 1, now=5.0)) == [1]


def test_a_busy_host_is_left_alone_even_if_it_is_listed_already() -> None:
    schedule = Schedule(FREE)
    fill(schedule, range(1, 3))
    schedule.host("a.example").conduct = Conduct(blocked_until=30.0)
    assert (schedule.take("image", 1, now=29.0), schedule.next_ready(ALL, 29.0)) == ([], 30.0)
    assert schedule.take("image", 1, now=30.0)


def test_rules_are_wanted_once_and_open_what_waits() -> None:
    schedule = Schedule(RULED)
    fill(schedule, range(1, 3))
    fill(schedule, range(3, 4), kind="page")
    assert schedule.take("image", 1, 0.0) + schedule.take("page", 1, 0.0) == []
    assert {origin.name for origin in schedule.unruled} == {"http://a.example"}
    schedule.unruled.clear()
    fill(schedule, range(4, 6))
    assert schedule.take("image", 1, 1.0) == [] and not schedule.unruled
    schedule.set_rules(schedule.origin("http://a.example"), RobotsRules(), until=100.0)
    assert rows(schedule.take("image", 9, 1.0)) == [1, 2, 4, 5]


def test_shut_rules_are_looked_at_again_when_they_expire() -> None:
    schedule = Schedule(RULED)
    fill(schedule, range(1, 3))
    schedule.take("image", 1, 0.0)
    schedule.set_rules(schedule.origin("http://a.example"), RobotsRules(reachable=False), until=100.0)
    schedule.unruled.clear()
    assert schedule.take("image", 1, 99.0) == []
    assert (schedule.soonest(ALL, 99.0), schedule.next_ready(ALL, 99.0)) == (100.0, 100.0)
    assert schedule.take("image", 1, 100.0) == []
    assert schedule.unruled


def test_finds_of_a_shut_origin_do_not_pile_up_in_the_heap() -> None:
    schedule = Schedule(RULED)
    schedule.set_rules(schedule.origin("http://a.example"), RobotsRules(reachable=False), until=1e9)
    for row in range(1, 1_000):
        fill(schedule, range(row, row + 1))
        schedule.take("image", 1, float(row))
    assert len(schedule._heaps["image"]) < 5


# --- what is ahead


def test_nothing_waiting_is_never() -> None:
    schedule = Schedule(FREE)
    assert schedule.soonest(ALL, 0.0) == schedule.next_ready(ALL, 0.0) == inf


def test_a_gap_is_no_delay_of_the_end() -> None:
    schedule = Schedule(PACED)
    fill(schedule, range(1, 3))
    [share] = schedule.take("image", 1, 0.0)
    schedule.release(share.host, 0.0)
    assert (schedule.soonest(ALL, 0.0), schedule.next_ready(ALL, 0.0)) == (0.0, 1.0)


def test_only_kinds_that_are_asked_for_are_ahead() -> None:
    schedule = Schedule(FREE)
    fill(schedule, range(1, 2), kind="page")
    schedule.defer(schedule.origin("http://a.example"), "page", 2, 0, until=5.0)
    assert schedule.soonest(["image"], 0.0) == inf


def test_what_is_parked_has_its_reason_and_can_be_dropped() -> None:
    schedule = Schedule(RULED)
    for name in ("http://busy.example", "http://shut.example", "http://open.example"):
        is_shut = "shut" in name
        schedule.set_rules(schedule.origin(name), RobotsRules(reachable=not is_shut), until=1e6)
    fill(schedule, range(1, 3), "http://busy.example")
    fill(schedule, range(3, 5), "http://shut.example")
    fill(schedule, range(5, 7), "http://open.example")
    schedule.host("busy.example").conduct = Conduct(blocked_until=1e6)
    schedule.defer(schedule.origin("http://open.example"), "image", 7, 0, until=1e6)
    parked = schedule.parked(ALL, until=60.0)
    assert parked == {1: "rate-limited", 2: "rate-limited", 3: "robots-unreachable", 4: "robots-unreachable", 7: ""}
    schedule.drop(parked)
    assert schedule.parked(ALL, until=60.0) == {}
    assert rows(schedule.take("image", 9, 1.0)) == [5, 6]


# --- whatever happens


class Walk:
    """A schedule, and what has been done with it."""

    def __init__(self, policy: Policy) -> None:
        self.schedule = Schedule(policy)
        self.now = 0.0
        self.rows = count(1)
        self.taken: list[int] = []
        self.open: list[Share] = []
        self.origins = [self.schedule.origin(f"http{'s' * (n % 2)}://{n // 2}.example") for n in range(6)]

    def add(self, choice: int) -> None:
        self.schedule.add(self.origins[choice], ("image", "page")[choice % 2], next(self.rows), choice)

    def defer(self, choice: int) -> None:
        self.schedule.defer(self.origins[choice], "image", next(self.rows), 0, self.now + choice)

    def take(self, choice: int) -> None:
        for share in self.schedule.take(("image", "page")[choice % 2], 3, self.now):
            assert share.host.ready_at <= self.now
            self.open.append(share)
            self.taken.extend(share.rows)

    def release(self, choice: int) -> None:
        if self.open:
            self.schedule.release(self.open.pop(choice % len(self.open)).host, self.now)

    def overload(self, choice: int) -> None:
        self.origins[choice].host.conduct = Conduct(blocked_until=self.now + choice)

    def rule(self, choice: int) -> None:
        self.schedule.set_rules(self.origins[choice], RobotsRules(reachable=choice % 3 > 0), self.now + choice)

    def finish(self) -> None:
        """Take and release whatever is ready, until nothing is ahead any more."""
        while self.open or self.schedule.soonest(ALL, self.now) < inf:
            while self.open:
                self.release(0)
            for origin in list(self.schedule.unruled):
                self.schedule.set_rules(origin, RobotsRules(), inf)
            self.now = self.schedule.next_ready(ALL, self.now)
            self.take(0)
            self.take(1)


_STEPS = st.sampled_from([Walk.add, Walk.defer, Walk.take, Walk.release, Walk.overload, Walk.rule])


@given(
    st.lists(st.tuples(_STEPS, st.integers(0, 5)), max_size=60),
    st.sampled_from([FREE, PACED, RULED, Policy(per_host=3)]),
)
def test_every_row_is_taken_once_whatever_happens_to_its_host(
    steps: list[tuple[Callable[[Walk, int], None], int]], policy: Policy
) -> None:
    walk = Walk(policy)
    for step, choice in steps:
        step(walk, choice)
        walk.now += 0.4
    walk.finish()
    assert sorted(walk.taken) == list(range(1, next(walk.rows)))
