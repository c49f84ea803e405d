"""Effects of outcomes on the state of a host, and a host that is down as the whole frontier sees it."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from crawler.frontier.host_health import HostHealth, is_news, is_own_wait, learn
from crawler.frontier.politeness import Policy
from crawler.model import MISSES, Outcome, RobotsRules
from tests.frontier.disk import copy_of
from tests.frontier.fakes import (
    FakeClock,
    Make,
    Open,
    done,
    image,
    images,
    lease,
    retry,
    tokens,
    turn_ids,
    urls,
)

DOWN = Outcome(status="retry", reason="connect", down="host", latency=10.0)
BUSY = Outcome(status="retry", reason="http-503", overloaded=True)
WELL = Outcome(status="done", latency=0.5)
PATIENT = Policy(robots=False, delay=0.0, per_host=4, patience=40.0)


def after(*outcomes: Outcome, now: float = 100.0, known: HostHealth | None = None) -> HostHealth:
    """Return the host state after these outcomes, each of another row."""
    conduct = known or HostHealth()
    for row, outcome in enumerate(outcomes):
        conduct = learn(conduct, outcome, row, now, draw=0.5)
    return conduct


# --- effects of outcomes


def test_a_response_sets_the_latency_and_marks_the_host_as_up() -> None:
    assert after(WELL, now=103.0, known=after(BUSY, DOWN)) == HostHealth(latency=0.5, blocked_until=103.0, wait=3.0)


def test_overload_responses_of_one_burst_count_once() -> None:
    once = after(BUSY)
    assert (once.complaints, once.blocked_until) == (1, 103.0)
    assert after(BUSY, BUSY, BUSY) == once
    assert learn(once, BUSY, 1, 103.0, 0.5).blocked_until == 103.0 + 6.0


def test_a_named_wait_is_at_most_a_day_and_never_shortens_another() -> None:
    def with_wait(seconds: float) -> Outcome:
        return Outcome(status="retry", reason="http-429", overloaded=True, host_wait=seconds)

    assert after(with_wait(7.0)).blocked_until == 107.0
    assert after(with_wait(1e9)).blocked_until == 100.0 + 86_400.0
    assert after(with_wait(50.0), with_wait(1.0)).blocked_until == 150.0


def asking(seconds: float) -> Outcome:
    return Outcome(status="retry", reason="http-429", overloaded=True, host_wait=seconds)


def test_a_wait_beyond_the_patience_applies_to_the_host_after_two_urls_asked_for_it() -> None:
    new, once = HostHealth(), learn(HostHealth(), BUSY, 1, 100.0, 0.5)
    assert is_own_wait(new, asking(61.0), 1, 60.0) and not is_own_wait(new, asking(60.0), 1, 60.0)
    assert is_own_wait(once, asking(61.0), 1, 60.0) and not is_own_wait(once, asking(61.0), 2, 60.0)
    answered = learn(once, WELL, 3, 103.0, 0.5)
    assert is_own_wait(answered, asking(61.0), 2, 60.0)
    told_late = learn(once, WELL, 3, 101.0, 0.5)
    assert is_own_wait(told_late, asking(61.0), 2, 60.0)


def test_a_repeated_wait_of_a_url_is_not_the_host_s_if_other_urls_were_answered() -> None:
    once = learn(HostHealth(), asking(30.0), 1, 100.0, 0.5)
    assert not is_own_wait(once, asking(30.0), 1, 60.0)
    assert not is_own_wait(learn(once, WELL, 2, 129.0, 0.5), asking(30.0), 1, 60.0)  # answered before, reported late
    others = learn(once, WELL, 2, 130.0, 0.5)
    assert is_own_wait(others, asking(30.0), 1, 60.0) and not is_own_wait(others, asking(30.0), 2, 60.0)
    assert not is_own_wait(learn(others, WELL, 1, 131.0, 0.5), asking(30.0), 1, 60.0)


def test_a_host_is_down_when_several_different_requests_found_it_unreachable() -> None:
    few = after(*[DOWN] * (MISSES - 1))
    assert (few.outages, few.blocked_until) == (0, 0.0)
    many = after(*[DOWN] * MISSES)
    assert (many.outages, many.blocked_until, many.latency) == (1, 130.0, 0.0)
    assert after(*[DOWN] * MISSES * 3) == many  # of the same visit


def test_one_request_that_keeps_failing_to_connect_does_not_mark_the_host_as_down() -> None:
    conduct = HostHealth()
    for _ in range(50):
        conduct = learn(conduct, DOWN, 1, 100.0, 0.5)
    assert conduct.outages == 0


def test_each_failed_probe_doubles_the_wait_up_to_an_hour() -> None:
    conduct, waits = after(*[DOWN] * MISSES), []
    for _ in range(9):
        now = conduct.blocked_until
        conduct = learn(conduct, DOWN, 1, now, 0.5)
        waits.append(conduct.blocked_until - now)
    assert waits == [60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]


@pytest.mark.parametrize("answer", [WELL, BUSY, Outcome(status="done", reason="http-500", latency=0.1)])
def test_any_response_shows_that_the_host_is_up(answer: Outcome) -> None:
    assert after(*[DOWN] * 4, answer, *[DOWN] * 4).outages == 0
    assert after(answer, now=130.0, known=after(*[DOWN] * MISSES)).outages == 0


def test_a_response_from_before_ends_neither_an_outage_nor_a_backoff() -> None:
    """Allow for the order of reports: successes are reported after a flush, overload responses at once."""
    down = after(*[DOWN] * MISSES)
    assert after(WELL, known=down) == structs.replace(down, latency=0.5)
    busy = after(BUSY)
    assert after(WELL, known=busy) == structs.replace(busy, latency=0.5)
    assert learn(after(WELL, known=busy), BUSY, 1, 103.0, 0.5).blocked_until == 103.0 + 6.0


def test_a_silent_name_server_does_not_change_the_host_state() -> None:
    silent = Outcome(status="released", down="resolver")
    assert after(*[silent] * 20) == HostHealth()


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [
        ({"latency": 1.1}, False),
        ({"latency": 2.1}, True),
        ({"missed": (1, 2)}, False),
        ({"outages": 1}, True),
        ({"complaints": 1}, True),
        ({"blocked_until": 5.0}, True),
    ],
)
def test_the_host_state_needed_after_a_restart_is_stored(change: dict[str, Any], is_kept: bool) -> None:
    assert is_news(HostHealth(latency=1.0), HostHealth(**{"latency": 1.0, **change})) == is_kept


# --- a busy host, and a busy URL


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_long_wait_of_one_url_is_only_for_that_url(
    open_file: Open, path: Path, clock: FakeClock, is_killed: bool
) -> None:
    frontier = open_file(PATIENT)
    frontier.put(images(4))
    first = lease(frontier, limit=1)
    frontier.complete("w1", retry(first, "http-429", overloaded=True, host_wait=3_600.0), turn_ids(first))
    frontier = open_file(PATIENT, copy_of(path)) if is_killed else frontier
    assert urls(lease(frontier)) == []  # the host is busy for a moment
    clock.go(3)
    second = lease(frontier, limit=1)
    frontier.complete("w1", done(second, latency=0.1), turn_ids(second))
    third = lease(frontier, limit=1)
    frontier.complete("w1", retry(third, "http-429", overloaded=True, host_wait=3_600.0), turn_ids(third))
    clock.go(3)
    fourth = lease(frontier)
    assert len({*urls(first), *urls(second), *urls(third), *urls(fourth)}) == 4
    frontier.complete("w1", done(fourth), turn_ids(fourth))
    assert lease(frontier).state == "drained"
    assert (frontier.stats().success, frontier.stats().reasons) == (2, {"rate-limited": 2})


def test_a_long_wait_that_a_second_url_asks_for_applies_to_the_host(make: Make, clock: FakeClock) -> None:
    frontier = make(PATIENT)
    frontier.put(images(4))
    for _ in range(2):
        grant = lease(frontier, limit=1)
        frontier.complete("w1", retry(grant, "http-429", overloaded=True, host_wait=3_600.0), turn_ids(grant))
        clock.go(3)
    assert lease(frontier).state == "drained" and frontier.stats().reasons == {"rate-limited": 4}


def test_a_url_that_is_always_busy_delays_its_host_once(make: Make, clock: FakeClock) -> None:
    frontier = make(PATIENT)
    frontier.put(images(3))
    for number, seconds in ((0, 30), (1, 0), (2, 0), (0, 3)):
        grant = lease(frontier, limit=1)
        assert urls(grant) == [f"http://a.example/{number}.jpg"]
        busy = retry(grant, "http-503", overloaded=True, host_wait=30.0)
        frontier.complete("w1", done(grant, latency=0.1) if number else busy, turn_ids(grant))
        clock.go(seconds)
    frontier.put([image("http://a.example/late.jpg")])
    assert urls(lease(frontier)) == ["http://a.example/late.jpg"]


# --- a host that is down


def strike(frontier: Any, number: int) -> None:
    """Fail this number of requests to connect."""
    grant = lease(frontier, limit=number)
    frontier.complete("w1", retry(grant, down="host"), turn_ids(grant))


def test_a_host_that_is_down_is_left_alone_and_no_attempt_is_charged(make: Make, clock: FakeClock) -> None:
    frontier = make(PATIENT)
    frontier.put(images(20))
    strike(frontier, 20)
    frontier.put([image("http://b.example/1.jpg")])
    assert urls(lease(frontier)) == ["http://b.example/1.jpg"]
    clock.go(29)
    assert (urls(lease(frontier)), frontier.stats().hosts_down) == ([], 1)
    clock.go(1)
    look = lease(frontier)
    assert len(urls(look)) == 1
    assert urls(lease(frontier)) == []  # one probe at a time
    frontier.complete("w1", done(look, latency=0.01), turn_ids(look))
    assert len(urls(lease(frontier))) >= 12
    assert (frontier.stats().failed, frontier.stats().hosts_down) == (0, 0)


def test_attempts_of_an_outage_are_not_counted(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1, patience=1e6))
    frontier.put(images(MISSES))
    strike(frontier, MISSES)
    for _ in range(10):
        clock.go(3_600)
        strike(frontier, 1)
    stats = frontier.stats()
    assert (stats.failed, stats.waiting) == (0, MISSES)


def test_requests_of_a_host_that_stays_down_fail_at_the_end_as_host_down(make: Make, clock: FakeClock) -> None:
    frontier = make(PATIENT)
    frontier.put(images(8))
    while (grant := lease(frontier, limit=8)).state != "drained":
        frontier.complete("w1", retry(grant, down="host"), turn_ids(grant))
        clock.go(1)
    assert frontier.stats().reasons == {"host-down": 8}


def test_an_unreachable_robots_txt_waits_with_the_other_requests(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(delay=0.0, per_host=4, patience=40.0))
    frontier.put(images(6))
    lease(frontier)
    rules = lease(frontier, "robots")
    frontier.complete(
        "w1", [Outcome(status="done", token=tokens(rules)[0], robots=RobotsRules(lifetime=60.0))], turn_ids(rules)
    )
    strike(frontier, 6)
    clock.go(61)
    lease(frontier)
    look = lease(frontier, "robots")
    assert urls(look) == ["http://a.example/robots.txt"]
    frontier.complete("w1", retry(look, down="host"), turn_ids(look))
    clock.go(60)
    again = lease(frontier)
    assert urls(again) == ["http://a.example/robots.txt"]
    frontier.complete("w1", done(again, latency=0.1), turn_ids(again))
    assert len(urls(lease(frontier))) == 6


def test_the_host_state_survives_a_restart_of_the_master(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file(PATIENT)
    frontier.put(images(20))
    strike(frontier, 20)
    frontier = open_file(PATIENT, path := copy_of(path))
    clock.go(29)
    assert urls(lease(frontier)) == []
    clock.go(1)
    strike(frontier, 20)  # still only one probe, and the second in a row
    frontier = open_file(PATIENT, copy_of(path))
    clock.go(59)
    assert urls(lease(frontier)) == []
    clock.go(1)
    assert len(urls(lease(frontier))) == 1


def test_the_latency_of_a_slow_host_survives_a_restart(open_file: Open, path: Path, clock: FakeClock) -> None:
    slow = Policy(robots=False, delay=1.0)
    frontier = open_file(slow)
    frontier.put(images(4))
    grant = lease(frontier, limit=1)
    frontier.complete("w1", done(grant, latency=4.0), turn_ids(grant))
    frontier = open_file(slow, copy_of(path))
    clock.go(10)
    assert lease(frontier).turns[0].gap == 8.0


def test_the_budget_of_a_host_holds_while_it_is_probed(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1, patience=1e6, max_host_images=6))
    frontier.put(images(20))
    grant = lease(frontier, limit=1)
    frontier.complete("w1", done(grant), turn_ids(grant))
    strike(frontier, 5)
    for _ in range(20):
        clock.go(3_600)
        look = lease(frontier, limit=1)
        told = [Outcome(status="done", token=token, reason="http-404") for token in tokens(look)]
        frontier.complete("w1", told, turn_ids(look))
    stats = frontier.stats()
    assert stats.success + stats.failed == 6


def test_a_failed_probe_leaves_the_next_one_to_another_request(make: Make, clock: FakeClock) -> None:
    """Allow for one port that refuses while another one answers."""
    frontier = make(PATIENT)
    frontier.put(images(20))
    strike(frontier, 20)
    clock.go(30)
    first = lease(frontier)
    frontier.complete("w1", retry(first, down="host"), turn_ids(first))
    clock.go(60)
    assert urls(lease(frontier)) != urls(first)


def test_the_thumbnails_of_pictures_on_a_host_that_is_down_are_fetched_at_the_end(make: Make, clock: FakeClock) -> None:
    frontier = make(PATIENT)
    full = [image(f"http://a.example/{n}.jpg", fallback=f"http://b.example/{n}.jpg") for n in range(8)]
    frontier.put(full)
    seen: list[str] = []
    while (grant := lease(frontier, limit=8)).state != "drained":
        is_down = any("//a." in url for url in urls(grant))
        frontier.complete("w1", retry(grant, down="host") if is_down else done(grant), turn_ids(grant))
        seen += [] if is_down else urls(grant)
        clock.go(1)
    assert sorted(seen) == [f"http://b.example/{n}.jpg" for n in range(8)]
    assert (frontier.stats().reasons, frontier.stats().success) == ({"host-down": 8}, 8)
