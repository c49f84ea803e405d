"""The contract of every implementation for hosts: rules, pace, order, and the end of a crawl."""

import pytest
from msgspec import structs

from crawler.frontier.politeness import Policy
from crawler.model import Grant, Kind, Outcome, Request, RobotsRules
from tests.frontier.fakes import (
    FakeClock,
    Make,
    done,
    image,
    images,
    learn,
    lease,
    page,
    retry,
    saved,
    states,
    tokens,
    turn_ids,
    urls,
    work_off,
)

A = "http://a.example"


def test_robots_txt_is_leased_before_anything_else_of_an_origin(make: Make) -> None:
    frontier = make(Policy(delay=0.0))
    frontier.put([image(), page()])
    assert work_off(frontier) == []  # finds that the rules are unknown
    assert work_off(frontier, "image", "page") == []
    assert work_off(frontier) == ["http://a.example/robots.txt"]
    assert set(work_off(frontier) + work_off(frontier)) == {"http://a.example/", "http://a.example/1.jpg"}


def test_rules_are_sent_with_the_turn_and_expire(make: Make, clock: FakeClock) -> None:
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


def test_requests_of_an_origin_without_reachable_rules_fail_at_the_end(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(delay=0.0))
    frontier.put([image()])
    lease(frontier)
    for _ in range(4):
        grant = lease(frontier, "robots")
        frontier.complete("w1", [Outcome(status="retry", token=tokens(grant)[0], reason="connect")], turn_ids(grant))
        clock.go(20)
    assert lease(frontier).state == "drained"
    assert frontier.stats().reasons == {"robots-unreachable": 1}


@pytest.mark.parametrize(("asked", "wanted"), [(7.0, 7.0), (1e6, 300.0)])
def test_crawl_delay_is_kept_within_limits(make: Make, clock: FakeClock, asked: float, wanted: float) -> None:
    frontier = make(Policy(delay=0.0))
    frontier.put(images(2))
    learn(frontier, RobotsRules(crawl_delay=asked))
    assert not urls(lease(frontier))
    clock.go(wanted)
    [turn] = lease(frontier).turns
    assert (turn.gap, turn.least_gap) == (wanted, wanted)


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


def test_a_host_without_a_gap_has_at_most_the_allowed_number_of_turns(make: Make) -> None:
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


def test_retry_after_blocks_the_host_for_every_worker(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put(images(8))
    grant = lease(frontier, limit=1)
    busy = Outcome(status="retry", token=tokens(grant)[0], reason="http-503", overloaded=True, host_wait=30.0)
    frontier.complete("w1", [busy], turn_ids(grant))
    clock.go(29)
    assert lease(frontier, worker="w2").state == "wait"
    clock.go(1)
    assert lease(frontier, worker="w2").state == "work"


def test_a_renewal_returns_the_hosts_to_leave_alone(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put(images(8) + images(4, "b.example"))
    mine, other = lease(frontier, worker="w1", limit=2), lease(frontier, worker="w2", limit=2)
    elsewhere = lease(frontier, worker="w3", limit=100)
    busy = Outcome(status="retry", token=tokens(mine)[0], reason="http-429", overloaded=True, host_wait=9.0)
    frontier.complete("w1", [busy], ())
    clock.go(2)
    assert frontier.extend("w2", tokens(other), 60).quiet == {"a.example": 7.0}
    at_b = [lease.token for turn in elsewhere.turns if turn.host == "b.example" for lease in turn.leases]
    assert at_b and frontier.extend("w3", at_b, 60).quiet == {}
    clock.go(7)
    assert frontier.extend("w2", tokens(other), 60).quiet == {}


def test_requests_parked_beyond_the_patience_fail_at_the_end(make: Make) -> None:
    frontier = make()
    frontier.put(images(3))
    grant = lease(frontier, limit=2)
    frontier.complete("w1", retry(grant, "http-429", overloaded=True, host_wait=3600.0), turn_ids(grant))
    assert frontier.stats().state == "wait"
    assert lease(frontier).state == "drained"
    stats = frontier.stats()
    assert (stats.reasons, stats.state, stats.hosts_waiting) == ({"rate-limited": 3}, "drained", 0)


def test_the_crawl_is_not_drained_while_a_request_is_leased(make: Make) -> None:
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


def test_the_page_budget_does_not_limit_images(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=4, max_pages=1))
    frontier.put([page(), page("http://a.example/2"), image()])
    assert len(work_off(frontier)) == 2
    assert lease(frontier).state == "drained"


def test_stats_name_the_workers_and_the_limiting_host(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(robots=False, delay=3.0))
    frontier.put(images(9))
    lease(frontier)
    clock.go(5)
    stats = frontier.stats()
    assert [(w.name, w.leases, w.silent) for w in stats.workers] == [("w1", 3, 5.0)]
    assert (stats.limiting_host, stats.limiting_gap) == ("a.example", 3.0)


def test_unreachable_rules_of_one_origin_do_not_block_another_origin_of_the_host(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(delay=0.0, per_host=1))
    frontier.put([image("https://a.example/1"), image("http://a.example/1")])
    lease(frontier, "image")
    for _ in range(2):
        grant = lease(frontier, "robots")
        rules = RobotsRules(reachable=urls(grant)[0].startswith("http:"), lifetime=3600)
        frontier.complete("w1", [Outcome(status="done", token=tokens(grant)[0], robots=rules)], turn_ids(grant))
    assert work_off(frontier) == ["http://a.example/1"]
    assert work_off(frontier) == []
    frontier.put([image("http://a.example/2")])
    assert work_off(frontier) == ["http://a.example/2"]


def test_the_order_holds_across_all_origins_of_a_host(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1))
    found = [f"http{'s' * (n % 2)}://a.example/{n}" for n in range(6)]
    frontier.put([image(url) for url in found])
    assert work_off(frontier) == found


def test_lifo_leases_the_latest_request_first(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1, order="lifo"))
    frontier.put(images(3))
    grant = lease(frontier, limit=1)
    frontier.complete("w1", [Outcome(status="released", token=tokens(grant)[0])], turn_ids(grant))
    assert [url[-5] for url in work_off(frontier)] == list("210")


def test_a_redirect_into_a_new_origin_waits_for_its_rules(make: Make) -> None:
    frontier = make(Policy(delay=0.0))
    frontier.put([image()])
    learn(frontier)
    grant = lease(frontier)
    successor = image(target="http://b.example/1.jpg", hops=1)
    frontier.complete("w1", [Outcome(status="moved", token=tokens(grant)[0], successor=successor)], turn_ids(grant))
    assert (work_off(frontier, "image"), work_off(frontier)) == ([], ["http://b.example/robots.txt"])
    assert work_off(frontier) == ["http://a.example/1.jpg"]
    assert lease(frontier).state == "drained"


def test_rules_that_expire_while_their_host_is_busy_are_fetched_again(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(delay=1.0))
    frontier.put(images(3))
    learn(frontier, RobotsRules(lifetime=100))
    clock.go(1)
    grant = lease(frontier, limit=1)
    clock.go(110)
    frontier.complete("w1", done(grant), turn_ids(grant))
    clock.go(2)
    assert (work_off(frontier), work_off(frontier)) == ([], ["http://a.example/robots.txt"])
    clock.go(2)
    assert len(work_off(frontier)) == 2


def test_a_robots_txt_that_is_reachable_again_is_no_failure(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(delay=0.0, patience=100.0))
    frontier.put([image()])
    lease(frontier)
    grant = lease(frontier)
    failed = Outcome(status="done", token=tokens(grant)[0], reason="dns", robots=RobotsRules(lifetime=60))
    frontier.complete("w1", [failed], turn_ids(grant))
    assert frontier.stats().robots_reasons == {"dns": 1}
    clock.go(61)
    learn(frontier)
    assert frontier.stats().robots_reasons == {}


def test_a_slow_host_serves_more_than_its_rules(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(delay=1.0))
    frontier.put(images(3))
    rules, visited = RobotsRules(crawl_delay=300.0, lifetime=0.0), list[str]()
    for _ in range(12):
        grant = lease(frontier)
        outcomes = [structs.replace(outcome, robots=rules if outcome.robots else None) for outcome in done(grant)]
        frontier.complete("w1", outcomes, turn_ids(grant))
        visited += urls(grant)
        clock.go(400.0)
    assert {"http://a.example/0.jpg", "http://a.example/1.jpg", "http://a.example/2.jpg"} <= set(visited)


@pytest.mark.parametrize("lifetime", [0.0, 1e15])
def test_any_lifetime_of_rules_is_brought_within_limits(make: Make, clock: FakeClock, lifetime: float) -> None:
    frontier = make(Policy(delay=0.0))
    frontier.put(images(2))
    learn(frontier, RobotsRules(lifetime=lifetime))
    assert len(work_off(frontier, limit=1)) == 1
    clock.go(86_401)
    lease(frontier)
    assert work_off(frontier) == ["http://a.example/robots.txt"]


def test_late_rules_are_stale_and_robots_txt_is_leased_once(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(delay=0.0, per_host=4))
    frontier.put([image()])
    lease(frontier, "image")
    late = lease(frontier, "robots", seconds=10)
    clock.go(11)
    lease(frontier, "image")
    rules = Outcome(status="done", token=tokens(late)[0], robots=RobotsRules(lifetime=60))
    assert states(frontier.complete("w1", [rules], ())) == ("stale",)
    assert [urls(lease(frontier, "robots", worker=worker)) for worker in ("w2", "w3")] == [[f"{A}/robots.txt"], []]


def test_images_and_pages_of_one_host_alternate(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(robots=False, delay=1.0))
    frontier.put(
        [request for n in range(40) for request in (image(f"http://a.example/{n}"), page(f"http://a.example/p{n}"))]
    )
    kinds = []
    for _ in range(40):
        askers: list[tuple[Kind, str]] = [("image", "w1"), ("image", "w2"), ("page", "w3")]
        for kind, worker in askers:
            if work_off(frontier, kind, worker=worker):
                kinds.append(kind)
        clock.go(0.5)
    assert kinds[:6] == ["image", "page"] * 3


def test_a_burst_of_overload_responses_counts_once(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put(images(8))
    grant = lease(frontier, limit=4)
    for outcome in retry(grant, "http-503", overloaded=True):
        frontier.complete("w1", [outcome], ())
    frontier.complete("w1", [], turn_ids(grant))
    clock.go(2.9)
    assert not urls(lease(frontier))
    clock.go(0.1)
    grant = lease(frontier, limit=1)
    frontier.complete("w1", retry(grant, "http-503", overloaded=True), turn_ids(grant))
    clock.go(5.9)
    assert not urls(lease(frontier))
    clock.go(0.1)
    assert urls(lease(frontier))


def test_a_robots_txt_that_moved_to_a_parked_host_does_not_delay_the_end(make: Make) -> None:
    frontier = make(Policy(delay=0.0))
    frontier.put(images(2, "b.example"))
    learn(frontier)
    grant = lease(frontier)
    frontier.complete("w1", retry(grant, "http-429", overloaded=True, host_wait=7200.0), turn_ids(grant))
    frontier.put([image("http://a.example/1")])
    lease(frontier)
    grant = lease(frontier, "robots")
    successor = Request(url=urls(grant)[0], kind="robots", target="http://b.example/robots.txt", hops=1)
    frontier.complete("w1", [Outcome(status="moved", token=tokens(grant)[0], successor=successor)], turn_ids(grant))
    assert lease(frontier).state == "drained"
    assert frontier.stats().reasons == {"rate-limited": 2, "robots-unreachable": 1}


def test_requests_parked_within_the_patience_are_waited_for(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    frontier.complete("w1", retry(grant, retry_in=60.0), turn_ids(grant))
    assert lease(frontier).state == "wait"
    clock.go(60)
    assert urls(lease(frontier))


def test_a_retry_beyond_the_patience_fails_with_its_own_reason(make: Make) -> None:
    frontier = make()
    frontier.put([image(), page()])
    grants: list[tuple[Kind, str]] = [("image", "connect"), ("page", "")]
    for kind, reason in grants:
        grant = lease(frontier, kind)
        frontier.complete("w1", retry(grant, reason, retry_in=61.0), turn_ids(grant))
    assert lease(frontier).state == "drained"
    assert (frontier.stats().reasons, frontier.stats().page_reasons) == ({"connect": 1}, {"internal": 1})


def test_duplicates_do_not_use_up_the_image_budget(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1, max_images=2))
    frontier.put(images(5))
    for sha256 in ("aa" * 32, "aa" * 32, "bb" * 32):
        grant = lease(frontier, limit=1)
        outcome = Outcome(status="done", token=tokens(grant)[0], record=saved(_first(grant), sha256))
        frontier.complete("w1", [outcome], turn_ids(grant))
    assert lease(frontier).state == "drained"
    assert (frontier.stats().success, frontier.stats().duplicate, frontier.stats().waiting) == (2, 1, 2)


def test_a_spent_image_budget_ends_the_reading_of_lists(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, max_images=1))
    frontier.put([image(), Request(url="file:///endless.txt", kind="list")])
    assert work_off(frontier, "image")
    assert lease(frontier).state == "drained"


def test_a_slow_host_is_visited_more_slowly(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(robots=False, delay=1.0))
    frontier.put(images(9))
    grant = lease(frontier, limit=1)
    frontier.complete("w1", done(grant, latency=4.0), turn_ids(grant))
    clock.go(7.9)
    assert not urls(lease(frontier))
    clock.go(0.1)
    assert lease(frontier).turns[0].gap == 8.0


def _first(grant: Grant) -> Request:
    return grant.turns[0].leases[0].request
