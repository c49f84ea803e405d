"""The promises of `crawler.frontier.base`, held by every implementation."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from crawler.errors import AccessError
from crawler.frontier.base import PROTOCOL, Frontier
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Outcome, Request, RobotsRules
from tests.frontier.fakes import FakeClock, done, image, images, lease, page, saved, tokens, turn_ids, urls, work_off

#: Makes a frontier of a policy; ``settings`` go to `hello`.
Make = Callable[..., Frontier]

OPEN = Policy(robots=False, delay=0.0, per_host=4, patience=60.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["file", "memory", "manager"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Make]:
    with ExitStack() as stack:

        def build(policy: Policy = OPEN, **settings: Any) -> Frontier:
            path = None if request.param == "memory" else tmp_path / "frontier.sqlite"
            frontier = SqliteFrontier(path, policy, settings=settings, clock=clock, wall=clock, dice=lambda: 0.5)
            stack.callback(frontier.close)
            return _through_the_manager(frontier, stack) if request.param == "manager" else frontier

        yield build


class ManagedFrontier:
    """What a worker sees through the manager, with the master's own `put`."""

    def __init__(self, local: Frontier, remote: Frontier) -> None:
        self.put = local.put
        self.hello, self.lease, self.extend = remote.hello, remote.lease, remote.extend
        self.complete, self.records, self.stats = remote.complete, remote.records, remote.stats
        self.close = remote.close


def _through_the_manager(frontier: Frontier, stack: ExitStack) -> Frontier:
    from tests.engines.served import served

    return ManagedFrontier(frontier, stack.enter_context(served(frontier)))


def test_a_request_is_remembered_once(make: Make) -> None:
    frontier = make()
    assert frontier.put([image(), image(), page()]) == 2
    assert frontier.put([image()]) == 0
    assert frontier.stats().discovered == 1


def test_one_url_may_be_a_page_and_an_image(make: Make) -> None:
    assert make().put([image("http://a.example/x"), page("http://a.example/x")]) == 2


def test_hello_tells_the_settings(make: Make) -> None:
    assert make(user_agent="x").hello("w1", PROTOCOL) == {"user_agent": "x"}


@pytest.mark.parametrize(("protocol", "side"), [(PROTOCOL + 1, "master"), (PROTOCOL - 1, "worker")])
def test_hello_says_which_side_to_upgrade(make: Make, protocol: int, side: str) -> None:
    with pytest.raises(AccessError, match=f"upgrade the {side}"):
        make().hello("w1", protocol)


def test_fifo_is_the_order_of_discovery(make: Make) -> None:
    frontier = make()
    frontier.put(images(5))
    assert work_off(frontier, limit=3) == [f"http://a.example/{n}.jpg" for n in range(3)]


def test_lifo_and_priority(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1, order="priority"))
    frontier.put([image(f"http://a.example/{n}", priority=n % 3) for n in range(6)])
    assert [url[-1] for url in work_off(frontier)] == ["2", "5", "1", "4", "0", "3"]


def test_only_the_kinds_asked_for_are_leased(make: Make) -> None:
    frontier = make()
    frontier.put([page(), image()])
    assert urls(lease(frontier, "image")) == ["http://a.example/1.jpg"]


def test_never_more_than_was_asked_for(make: Make) -> None:
    frontier = make()
    frontier.put(images(30) + images(30, "b.example"))
    assert len(urls(lease(frontier, limit=7))) == 7


def test_a_leased_request_is_not_leased_again(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    assert urls(lease(frontier)) and not urls(lease(frontier, worker="w2"))


def test_completing_moves_the_counts(make: Make) -> None:
    frontier = make()
    frontier.put(images(2))
    grant = lease(frontier, limit=1)
    assert (frontier.stats().waiting, frontier.stats().leased) == (1, 1)
    assert frontier.complete("w1", done(grant), turn_ids(grant)) == ("accepted",)
    stats = frontier.stats()
    assert (stats.waiting, stats.leased, stats.success, stats.bytes) == (1, 0, 1, 10)


def test_the_first_verdict_wins(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    good = done(grant)
    bad = [Outcome(status="done", token=good[0].token, reason="http-404")]
    assert frontier.complete("w1", good + bad, ()) == ("accepted", "duplicate")
    assert frontier.complete("w1", bad, ()) == ("duplicate",)
    assert [record.status for _, record in frontier.records(0, 10)] == ["success"]


@pytest.mark.parametrize("token", ["", "1", "1.x.y", "9.9.9", "1.é.ü", "²..", "-1.a.b"])
def test_a_forged_token_is_stale(make: Make, token: str) -> None:
    frontier = make()
    frontier.put([image()])
    lease(frontier)
    assert frontier.complete("w1", [Outcome(status="done", token=token, reason="dns")], ()) == ("stale",)
    assert frontier.stats().leased == 1


def test_nobody_completes_what_another_worker_was_given(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    assert frontier.complete("w2", done(grant), turn_ids(grant)) == ("stale",)


def test_the_same_bytes_are_success_once_and_duplicate_afterwards(make: Make) -> None:
    frontier = make()
    frontier.put(images(3))
    for _ in range(3):
        grant = lease(frontier, limit=1)
        [leased] = grant.turns[0].leases
        outcome = Outcome(status="done", token=leased.token, record=saved(leased.request, "ab" * 32))
        frontier.complete("w1", [outcome], turn_ids(grant))
    records = [record for _, record in frontier.records(0, 10)]
    assert [record.status for record in records] == ["success", "duplicate", "duplicate"]
    assert {record.path for record in records} == {records[0].path}
    assert (frontier.stats().success, frontier.stats().duplicate) == (1, 2)


def test_discovered_requests_come_with_their_page(make: Make) -> None:
    frontier = make()
    frontier.put([page()])
    grant = lease(frontier, "page")
    [outcome] = done(grant, discovered=(image(alt="a cat"), page("http://a.example/2", depth=1)))
    frontier.complete("w1", [outcome], turn_ids(grant))
    stats = frontier.stats()
    assert (stats.discovered, stats.pages_waiting, stats.pages_done, stats.seeds) == (1, 1, 1, 1)
    [found] = lease(frontier, "image").turns[0].leases
    assert found.request.alt == "a cat"


def test_a_failure_is_a_record_with_its_reason(make: Make) -> None:
    frontier = make()
    frontier.put([image(referrer="http://a.example/")])
    grant = lease(frontier)
    frontier.complete("w1", [Outcome(status="done", token=tokens(grant)[0], reason="http-404")], turn_ids(grant))
    [(_, record)] = frontier.records(0, 10)
    assert (record.status, record.reason, record.page_url) == ("failed", "http-404", "http://a.example/")
    assert frontier.stats().reasons == {"http-404": 1}


def test_a_success_without_a_file_is_none(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    frontier.complete("w1", [Outcome(status="done", token=tokens(grant)[0])], turn_ids(grant))
    assert frontier.stats().reasons == {"internal": 1}


def test_an_expired_lease_comes_back_and_is_charged(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    lease(frontier, seconds=10)
    clock.go(11)
    [again] = lease(frontier, worker="w2").turns[0].leases
    assert again.deliveries == 2


def test_a_renewed_lease_does_not_expire(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier, seconds=10)
    for _ in range(3):
        clock.go(9)
        assert frontier.extend("w1", tokens(grant), 10) == ()
    assert not urls(lease(frontier, worker="w2"))


def test_extend_names_what_is_lost(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier, seconds=10)
    clock.go(11)
    assert frontier.extend("w1", [*tokens(grant), "forged"], 10) == (*tokens(grant), "forged")


def test_a_late_success_counts(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    late = lease(frontier, seconds=10)
    clock.go(11)
    grant = lease(frontier, worker="w2")
    assert frontier.complete("w1", done(late), turn_ids(late)) == ("accepted",)
    assert frontier.complete("w2", done(grant), turn_ids(grant)) == ("duplicate",)
    assert frontier.stats().success == 1 and lease(frontier).state == "drained"


def test_three_lonely_deliveries_without_a_verdict_are_poison(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    for _ in range(3):
        assert urls(lease(frontier, seconds=10))
        clock.go(11)
    assert lease(frontier).state == "drained"
    assert frontier.stats().reasons == {"poison": 1}


def test_what_was_lost_in_company_comes_back_alone(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1))
    frontier.put(images(3))
    assert len(urls(lease(frontier, seconds=10))) == 3
    clock.go(11)
    assert [work_off(frontier) for _ in range(3)] == [[f"http://a.example/{n}.jpg"] for n in range(3)]


def test_hello_frees_what_an_earlier_life_held(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    lease(frontier)
    frontier.hello("w1", PROTOCOL)
    assert urls(lease(frontier, worker="w2"))


def test_released_requests_come_back_first_and_uncharged(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1))
    frontier.put(images(3))
    grant = lease(frontier, limit=1)
    frontier.complete("w1", [Outcome(status="released", token=tokens(grant)[0])], turn_ids(grant))
    [again] = lease(frontier, limit=1).turns[0].leases
    assert (again.request.url, again.deliveries) == ("http://a.example/0.jpg", 1)


def test_a_retry_waits_and_ends_after_five_attempts(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    for attempt in range(5):
        grant = lease(frontier)
        assert urls(grant), attempt
        frontier.complete("w1", [Outcome(status="retry", token=tokens(grant)[0], reason="connect")], turn_ids(grant))
        assert not urls(lease(frontier))
        clock.go(20)
    [(_, record)] = frontier.records(0, 10)
    assert (record.reason, record.attempts) == ("connect", 5)


def test_a_time_out_is_tried_once_more_only(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    for _ in range(2):
        grant = lease(frontier)
        frontier.complete("w1", [Outcome(status="retry", token=tokens(grant)[0], reason="timeout")], turn_ids(grant))
        clock.go(20)
    assert frontier.stats().reasons == {"timeout": 1}


def test_a_moved_request_goes_on_at_the_other_host(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    [leased] = grant.turns[0].leases
    successor = Request(url="http://evil.example/", kind="image", target="http://b.example/1.jpg", hops=1)
    frontier.complete("w1", [Outcome(status="moved", token=leased.token, successor=successor)], turn_ids(grant))
    grant = lease(frontier)
    [leased] = grant.turns[0].leases
    assert grant.turns[0].host == "b.example"
    assert (leased.request.url, leased.request.location) == ("http://a.example/1.jpg", "http://b.example/1.jpg")


def test_a_list_goes_on_at_its_offset_and_keeps_the_crawl_open(make: Make) -> None:
    frontier = make()
    frontier.put([Request(url="file:///list.txt", kind="list", entries="image")])
    grant = lease(frontier, "list")
    [leased] = grant.turns[0].leases
    further = Request(url="file:///list.txt", kind="list", offset=100)
    outcome = Outcome(status="moved", token=leased.token, successor=further, discovered=tuple(images(2)), rejected=3)
    frontier.complete("w1", [outcome], turn_ids(grant))
    assert len(work_off(frontier, "image")) + len(work_off(frontier, "image")) == 2
    assert lease(frontier, "image").state == "wait"
    [leased] = lease(frontier, "list").turns[0].leases
    assert (leased.request.offset, leased.request.entries, frontier.stats().bad_lines) == (100, "image", 3)


def test_robots_come_before_anything_else_of_an_origin(make: Make) -> None:
    frontier = make(Policy(delay=0.0))
    frontier.put([image(), page()])
    assert work_off(frontier) == []  # finds that the rules are unknown
    assert work_off(frontier, "image", "page") == []
    assert work_off(frontier) == ["http://a.example/robots.txt"]
    assert set(work_off(frontier) + work_off(frontier)) == {"http://a.example/", "http://a.example/1.jpg"}


def test_rules_travel_with_the_turn_and_expire(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(delay=0.0))
    frontier.put(images(2))
    lease(frontier)
    grant = lease(frontier, "robots")
    rules = RobotsRules(text="User-agent: *\nDisallow: /x", lifetime=100)
    frontier.complete("w1", [Outcome(status="done", token=tokens(grant)[0], robots=rules)], turn_ids(grant))
    grant = lease(frontier, limit=1)
    assert grant.turns[0].robots == {"http://a.example": "User-agent: *\nDisallow: /x"}
    frontier.complete("w1", done(grant), turn_ids(grant))
    clock.go(101)
    assert urls(lease(frontier)) == [] and urls(lease(frontier)) == ["http://a.example/robots.txt"]


def test_an_origin_without_reachable_rules_is_given_up_at_the_end(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(delay=0.0))
    frontier.put([image()])
    lease(frontier)
    for _ in range(5):
        grant = lease(frontier, "robots")
        frontier.complete("w1", [Outcome(status="retry", token=tokens(grant)[0], reason="connect")], turn_ids(grant))
        clock.go(20)
    assert lease(frontier).state == "drained"
    assert frontier.stats().reasons == {"robots-unreachable": 1}


def test_crawl_delay_is_kept(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(delay=0.0))
    frontier.put(images(2))
    lease(frontier)
    grant = lease(frontier)
    rules = RobotsRules(crawl_delay=7.0)
    frontier.complete("w1", [Outcome(status="done", token=tokens(grant)[0], robots=rules)], turn_ids(grant))
    clock.go(7)
    assert lease(frontier).turns[0].gap == 7.0


def test_a_host_rests_for_a_gap_after_a_turn(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(robots=False, delay=2.0))
    frontier.put(images(20))
    assert len(work_off(frontier)) == 5  # ten seconds' worth
    assert work_off(frontier) == []
    clock.go(1.9)
    assert work_off(frontier) == []
    clock.go(0.1)
    assert len(work_off(frontier)) == 5


def test_a_host_with_a_gap_has_one_turn_at_a_time(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=1.0))
    frontier.put(images(20))
    lease(frontier)
    assert lease(frontier, worker="w2").state == "wait"


def test_a_host_without_a_gap_has_so_many_turns_as_allowed(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=2))
    frontier.put(images(20))
    assert len(lease(frontier, limit=100).turns) == 2
    assert lease(frontier, worker="w2").state == "wait"


def test_an_expired_turn_frees_its_host_a_gap_after_expiry(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(robots=False, delay=1.0))
    frontier.put(images(20))
    lease(frontier, seconds=10)
    clock.go(10)
    assert lease(frontier, worker="w2").state == "wait"
    clock.go(1)
    assert lease(frontier, worker="w2").state == "work"


def test_retry_after_keeps_every_worker_away(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put(images(8))
    grant = lease(frontier, limit=1)
    busy = Outcome(status="retry", token=tokens(grant)[0], reason="http-503", overloaded=True, host_wait=30.0)
    frontier.complete("w1", [busy], turn_ids(grant))
    clock.go(29)
    assert lease(frontier, worker="w2").state == "wait"
    clock.go(1)
    assert lease(frontier, worker="w2").state == "work"


def test_what_is_parked_beyond_the_patience_fails_at_the_end(make: Make) -> None:
    frontier = make()
    frontier.put(images(3))
    grant = lease(frontier, limit=1)
    busy = Outcome(status="retry", token=tokens(grant)[0], reason="http-429", overloaded=True, host_wait=3600.0)
    frontier.complete("w1", [busy], turn_ids(grant))
    assert frontier.stats().state == "wait"
    assert lease(frontier).state == "drained"
    assert frontier.stats().reasons == {"rate-limited": 3}


def test_drained_is_not_said_while_anything_is_leased(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    assert lease(frontier, worker="w2").state == "wait"
    frontier.complete("w1", done(grant), turn_ids(grant))
    assert lease(frontier, worker="w2").state == "drained"


def test_the_image_budget_counts_saved_pictures(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1, max_images=2))
    frontier.put([*images(5), page()])
    assert len(work_off(frontier, "image")) == 2
    assert lease(frontier).state == "drained"
    assert frontier.stats().waiting == 3


def test_the_page_budget_leaves_images_alone(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=4, max_pages=1))
    frontier.put([page(), page("http://a.example/2"), image()])
    assert len(work_off(frontier)) == 2
    assert lease(frontier).state == "drained"


def test_records_are_paged_in_order(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1))
    frontier.put(images(5))
    work_off(frontier)
    first = frontier.records(0, 2)
    rest = frontier.records(first[-1][0], 10)
    assert [record.url[-5] for _, record in first + rest] == list("01234")
    assert [number for number, _ in first + rest] == [1, 2, 3, 4, 5]


def test_the_states_of_images_add_up(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put(images(9))
    grant = lease(frontier, limit=2)
    frontier.complete("w1", done(grant)[:1], ())
    stats = frontier.stats()
    assert stats.waiting + stats.leased + stats.success + stats.duplicate + stats.failed == stats.discovered == 9


def test_stats_name_the_workers_and_the_host_that_limits(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(robots=False, delay=3.0))
    frontier.put(images(9))
    lease(frontier)
    clock.go(5)
    stats = frontier.stats()
    assert [(w.name, w.leases, w.silent) for w in stats.workers] == [("w1", 3, 5.0)]
    assert (stats.limiting_host, stats.limiting_gap) == ("a.example", 3.0)
