"""What outcomes teach about a host; and a host that is down, as the whole frontier sees it."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from crawler.frontier.conduct import Conduct, is_news, is_own_wait, learn
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


def after(*outcomes: Outcome, now: float = 100.0, known: Conduct | None = None) -> Conduct:
    """What is known after these, each of another row."""
    conduct = known or Conduct()
    for row, outcome in enumerate(outcomes):
        conduct = learn(conduct, outcome, row, now, draw=0.5)
    return conduct


# --- what is learned


def test_an_answer_tells_how_fast_the_host_is_and_that_it_is_well() -> None:
    assert after(WELL, now=103.0, known=after(BUSY, DOWN)) == Conduct(latency=0.5, blocked_until=103.0, wait=3.0)


def test_complaints_of_one_burst_are_one() -> None:
    once = after(BUSY)
    assert (once.complaints, once.blocked_until) == (1, 103.0)
    assert after(BUSY, BUSY, BUSY) == once
    assert learn(once, BUSY, 1, 103.0, 0.5).blocked_until == 103.0 + 6.0


def test_a_named_wait_is_kept_within_a_day_and_never_shortens_another() -> None:
    def told(seconds: float) -> Outcome:
        return Outcome(status="retry", reason="http-429", overloaded=True, host_wait=seconds)

    assert after(told(7.0)).blocked_until == 107.0
    assert after(told(1e9)).blocked_until == 100.0 + 86_400.0
    assert after(told(50.0), told(1.0)).blocked_until == 150.0


def asking(seconds: float) -> Outcome:
    return Outcome(status="retry", reason="http-429", overloaded=True, host_wait=seconds)


def test_a_wait_beyond_the_patience_is_believed_of_the_host_when_two_have_complained() -> None:
    new, once = Conduct(), learn(Conduct(), BUSY, 1, 100.0, 0.5)
    assert is_own_wait(new, asking(61.0), 1, 60.0) and not is_own_wait(new, asking(60.0), 1, 60.0)
    assert is_own_wait(once, asking(61.0), 1, 60.0) and not is_own_wait(once, asking(61.0), 2, 60.0)
    answered = learn(once, WELL, 3, 103.0, 0.5)
    assert is_own_wait(answered, asking(61.0), 2, 60.0)
    told_late = learn(once, WELL, 3, 101.0, 0.5)
    assert is_own_wait(told_late, asking(61.0), 2, 60.0)


def test_a_wait_that_is_asked_for_again_after_others_were_answered_is_no_host_s() -> None:
    once = learn(Conduct(), asking(30.0), 1, 100.0, 0.5)
    assert not is_own_wait(once, asking(30.0), 1, 60.0)
    assert not is_own_wait(learn(once, WELL, 2, 129.0, 0.5), asking(30.0), 1, 60.0)  # answered before, told late
    others = learn(once, WELL, 2, 130.0, 0.5)
    assert is_own_wait(others, asking(30.0), 1, 60.0) and not is_own_wait(others, asking(30.0), 2, 60.0)
    assert not is_own_wait(learn(others, WELL, 1, 131.0, 0.5), asking(30.0), 1, 60.0)


def test_a_host_is_down_when_many_different_requests_found_nobody() -> None:
    few = after(*[DOWN] * (MISSES - 1))
    assert (few.outages, few.blocked_until) == (0, 0.0)
    many = after(*[DOWN] * MISSES)
    assert (many.outages, many.blocked_until, many.latency) == (1, 130.0, 0.0)
    assert after(*[DOWN] * MISSES * 3) == many  # of the same visit


def test_one_request_that_finds_nobody_again_and_again_says_nothing_about_the_host() -> None:
    conduct = Conduct()
    for _ in range(50):
        conduct = learn(conduct, DOWN, 1, 100.0, 0.5)
    assert conduct.outages == 0


def test_each_look_in_vain_doubles_the_wait_up_to_an_hour() -> None:
    conduct, waits = after(*[DOWN] * MISSES), []
    for _ in range(9):
        now = conduct.blocked_until
        conduct = learn(conduct, DOWN, 1, now, 0.5)
        waits.append(conduct.blocked_until - now)
    assert waits == [60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]


@pytest.mark.parametrize("answer", [WELL, BUSY, Outcome(status="done", reason="http-500", latency=0.1)])
def test_whatever_the_host_answers_it_is_not_down(answer: Outcome) -> None:
    assert after(*[DOWN] * 4, answer, *[DOWN] * 4).outages == 0
    assert after(answer, now=130.0, known=after(*[DOWN] * MISSES)).outages == 0


def test_an_answer_of_before_ends_neither_an_outage_nor_a_back_off() -> None:
    """Successes are told a moment after they came, complaints at once."""
    down = after(*[DOWN] * MISSES)
    assert after(WELL, known=down) == structs.replace(down, latency=0.5)
    busy = after(BUSY)
    assert after(WELL, known=busy) == structs.replace(busy, latency=0.5)
    assert learn(after(WELL, known=busy), BUSY, 1, 103.0, 0.5).blocked_until == 103.0 + 6.0


def test_a_silent_name_server_says_nothing_about_a_host() -> None:
    silent = Outcome(status="released", down="resolver")
    assert after(*[silent] * 20) == Conduct()


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
def test_what_matters_after_a_restart_is_kept(change: dict[str, Any], is_kept: bool) -> None:
    assert is_news(Conduct(latency=1.0), Conduct(**{"latency": 1.0, **change})) == is_kept


# --- a host that is busy, and a URL that is


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_long_wait_of_one_url_is_its_own(open_file: Open, path: Path, clock: FakeClock, is_killed: bool) -> None:
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


def test_a_long_wait_that_a_second_url_asks_for_is_the_host_s(make: Make, clock: FakeClock) -> None:
    frontier = make(PATIENT)
    frontier.put(images(4))
    for _ in range(2):
        grant = lease(frontier, limit=1)
        frontier.complete("w1", retry(grant, "http-429", overloaded=True, host_wait=3_600.0), turn_ids(grant))
        clock.go(3)
    assert lease(frontier).state == "drained" and frontier.stats().reasons == {"rate-limited": 4}


def test_a_url_that_is_busy_for_ever_holds_up_its_host_once(make: Make, clock: FakeClock) -> None:
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
    """So many requests find nobody."""
    grant = lease(frontier, limit=number)
    frontier.complete("w1", retry(grant, down="host"), turn_ids(grant))


def test_a_host_that_is_down_is_left_alone_and_nobody_is_charged(make: Make, clock: FakeClock) -> None:
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
    assert urls(lease(frontier)) == []  # one look at a time
    frontier.complete("w1", done(look, latency=0.1), turn_ids(look))
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


def test_at_the_end_what_waits_for_a_host_that_is_down_fails_as_such(make: Make, clock: FakeClock) -> None:
    frontier = make(PATIENT)
    frontier.put(images(8))
    while (grant := lease(frontier, limit=8)).state != "drained":
        frontier.complete("w1", retry(grant, down="host"), turn_ids(grant))
        clock.go(1)
    assert frontier.stats().reasons == {"host-down": 8}


def test_robots_txt_that_finds_nobody_waits_with_the_others(make: Make, clock: FakeClock) -> None:
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


def test_what_is_known_of_a_host_outlives_its_master(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file(PATIENT)
    frontier.put(images(20))
    strike(frontier, 20)
    frontier = open_file(PATIENT, path := copy_of(path))
    clock.go(29)
    assert urls(lease(frontier)) == []
    clock.go(1)
    strike(frontier, 20)  # still one look only, and the second in a row
    frontier = open_file(PATIENT, copy_of(path))
    clock.go(59)
    assert urls(lease(frontier)) == []
    clock.go(1)
    assert len(urls(lease(frontier))) == 1


def test_a_slow_host_is_known_to_be_slow_after_a_restart(open_file: Open, path: Path, clock: FakeClock) -> None:
    slow = Policy(robots=False, delay=1.0)
    frontier = open_file(slow)
    frontier.put(images(4))
    grant = lease(frontier, limit=1)
    frontier.complete("w1", done(grant, latency=4.0), turn_ids(grant))
    frontier = open_file(slow, copy_of(path))
    clock.go(10)
    assert lease(frontier).turns[0].gap == 8.0


def test_a_budget_of_a_host_holds_while_it_is_looked_at(make: Make, clock: FakeClock) -> None:
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


def test_a_look_in_vain_leaves_the_next_one_to_another_request(make: Make, clock: FakeClock) -> None:
    """The one may be refused at a port at which the other would not be."""
    frontier = make(PATIENT)
    frontier.put(images(20))
    strike(frontier, 20)
    clock.go(30)
    first = lease(frontier)
    frontier.complete("w1", retry(first, down="host"), turn_ids(first))
    clock.go(60)
    assert urls(lease(frontier)) != urls(first)


def test_the_thumbnails_of_pictures_on_a_host_that_is_down_are_asked_for_at_the_end(
    make: Make, clock: FakeClock
) -> None:
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
