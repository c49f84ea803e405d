"""The rules of politeness, as functions of numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.frontier.politeness import (
    _MAX_ADAPTIVE_GAP,
    COURTESY,
    MAX_CRAWL_DELAY,
    MAX_RULES_LIFETIME,
    MIN_RULES_LIFETIME,
    Policy,
    attempts_allowed,
    gap,
    overload_delay,
    retry_delay,
    rules_lifetime,
    smooth,
    turn_size,
    turns,
)
from crawler.model import TURN_SECONDS, Kind

seconds = st.floats(0, 1e9)
draws = st.floats(0, 1, exclude_max=True)
counts = st.integers(1, 10_000)
hosts = st.sampled_from(["a.example", "a.example:8080", "localhost:8000", "127.0.0.1", "[::1]:80", ""])


# --- gap


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("a.example", 1.0),
        ("a.example:8080", 1.0),
        ("192.0.2.1", 1.0),
        ("10.0.0.1", 1.0),
        ("localhost.example", 1.0),
        ("localhost", 0.0),
        ("localhost:8000", 0.0),
        ("site.localhost:8000", 0.0),
        ("127.0.0.2", 0.0),
        ("[::1]:8000", 0.0),
    ],
)
def test_the_default_gap_is_a_second_and_zero_on_loopback(host: str, wanted: float) -> None:
    assert gap(Policy(), host) == wanted


def test_the_user_s_delay_applies_to_every_host() -> None:
    assert {gap(Policy(delay=2.5), host) for host in ("a.example", "localhost")} == {2.5}


@pytest.mark.parametrize(
    ("crawl_delay", "wanted"), [(0.0, 1.0), (0.5, 1.0), (7.0, 7.0), (1e6, MAX_CRAWL_DELAY), (-5.0, 1.0)]
)
def test_a_crawl_delay_can_only_increase_the_gap(crawl_delay: float, wanted: float) -> None:
    assert gap(Policy(), "a.example", crawl_delay=crawl_delay) == wanted


def test_a_crawl_delay_applies_even_if_the_user_wants_no_gap() -> None:
    assert gap(Policy(delay=0.0), "a.example", crawl_delay=3.0) == 3.0
    assert gap(Policy(), "localhost", crawl_delay=3.0) == 3.0


@pytest.mark.parametrize(("latency", "wanted"), [(0.0, 1.0), (0.5, 1.0), (0.6, 1.2), (4.0, 8.0), (500.0, 60.0)])
def test_a_slow_host_is_visited_at_half_its_pace(latency: float, wanted: float) -> None:
    assert gap(Policy(), "a.example", latency=latency) == wanted


def test_without_a_gap_latency_adds_none() -> None:
    assert gap(Policy(delay=0.0), "a.example", latency=30.0) == 0.0


def test_a_delay_above_the_adaptive_bound_is_kept() -> None:
    assert gap(Policy(delay=90.0), "a.example", latency=500.0) == 90.0


@given(hosts, st.none() | seconds, seconds, seconds)
def test_the_gap_is_never_below_the_requested_one(
    host: str, delay: float | None, crawl_delay: float, latency: float
) -> None:
    found = gap(Policy(delay=delay), host, crawl_delay=crawl_delay, latency=latency)
    assert found >= (delay or 0.0)
    assert found >= min(crawl_delay, MAX_CRAWL_DELAY)
    assert found <= max(delay or 0.0, MAX_CRAWL_DELAY, _MAX_ADAPTIVE_GAP)


@given(seconds, seconds)
def test_a_slower_host_never_gets_a_smaller_gap(one: float, other: float) -> None:
    faster, slower = sorted((one, other))
    assert gap(Policy(), "a.example", latency=faster) <= gap(Policy(), "a.example", latency=slower)


# --- turns and their size


@pytest.mark.parametrize("per_host", [None, 1, 8])
def test_with_a_gap_a_host_has_one_turn(per_host: int | None) -> None:
    assert turns(Policy(per_host=per_host), "a.example", 0.1) == 1
    assert turns(Policy(per_host=per_host), "localhost", 0.1) == 1


@pytest.mark.parametrize(
    ("per_host", "host", "wanted"),
    [
        (None, "a.example", 1),
        (None, "localhost:8000", 16),
        (4, "a.example", 4),
        (4, "localhost:8000", 4),
        (0, "a.example", 1),
    ],
)
def test_a_host_without_a_gap_has_at_most_the_allowed_number_of_turns(
    per_host: int | None, host: str, wanted: int
) -> None:
    assert turns(Policy(per_host=per_host), host, 0.0) == wanted


@pytest.mark.parametrize(
    ("gap", "latency", "wanted"),
    [
        (1.0, 0.0, 10),
        (2.0, 0.0, 5),
        (3.0, 0.0, 3),
        (1.0, 4.0, 2),
        (10.0, 0.0, 1),
        (300.0, 0.0, 1),
        (0.0, 0.5, 20),
        (0.0, 0.0, 100),
    ],
)
def test_a_turn_has_requests_for_ten_seconds(gap: float, latency: float, wanted: int) -> None:
    assert turn_size(1_000, asked=100, gap=gap, latency=latency, free_turns=1) == wanted


@pytest.mark.parametrize(
    ("waiting", "latency", "wanted"),
    [(1_000, 0.1, 100), (1_000, 2.0, 5), (40, 0.1, 5), (8, 0.1, 2), (8, 0.0, 8), (3, 0.1, 2), (1, 0.1, 1)],
    ids=["ten seconds", "slow", "half a share", "a moment", "no latency", "less than a moment", "the last one"],
)
def test_turns_of_a_host_with_several_become_short_towards_the_end(waiting: int, latency: float, wanted: int) -> None:
    assert turn_size(waiting, asked=100, gap=0.0, latency=latency, free_turns=1, most_turns=4) == wanted


def test_a_turn_is_at_most_as_large_as_requested() -> None:
    assert turn_size(1_000, asked=3, gap=0.0, latency=0.0, free_turns=1) == 3


@pytest.mark.parametrize(("waiting", "wanted"), [(100, 25), (10, 3), (4, 1), (1, 1)])
def test_the_last_requests_are_shared_among_all_turns(waiting: int, wanted: int) -> None:
    assert turn_size(waiting, asked=100, gap=0.0, latency=0.0, free_turns=4) == wanted


@given(counts, counts, seconds, seconds, st.integers(1, 64), st.integers(0, 64))
def test_a_turn_has_at_least_one_request(
    waiting: int, asked: int, gap: float, latency: float, free_turns: int, others: int
) -> None:
    turns = {"free_turns": free_turns, "most_turns": free_turns + others}
    size = turn_size(waiting, asked=asked, gap=gap, latency=latency, **turns)
    assert 1 <= size <= min(waiting, asked)
    assert size == 1 or size * max(gap, latency) <= TURN_SECONDS


# --- attempts and waits


@pytest.mark.parametrize(
    ("kind", "reason", "wanted"),
    [
        ("image", "connect", 5),
        ("page", "http-503", 5),
        ("page", "", 5),
        ("image", "timeout", 2),
        ("image", "too-slow", 2),
        ("robots", "http-500", 4),
        ("robots", "timeout", 2),
    ],
)
def test_timeouts_and_regularly_repeated_requests_have_fewer_attempts(kind: Kind, reason: str, wanted: int) -> None:
    assert attempts_allowed(Policy(), kind, reason) == wanted


def test_no_reason_allows_more_attempts_than_the_policy() -> None:
    assert {attempts_allowed(Policy(max_attempts=1), "image", reason) for reason in ("connect", "timeout")} == {1}


def test_a_retry_waits_twice_as_long_each_time() -> None:
    assert [retry_delay(attempts, 0.5) for attempts in (1, 2, 3, 4, 20)] == [0.25, 0.5, 1.0, 2.0, 150.0]


def test_a_retry_s_wait_has_full_jitter() -> None:
    assert [retry_delay(3, draw) for draw in (0.0, 0.25, 1.0)] == [0.0, 0.5, 2.0]


def test_an_overloaded_host_is_left_alone_twice_as_long_each_time() -> None:
    assert [overload_delay(level, 0.0) for level in (0, 1, 2, 3, 20)] == [2.0, 2.0, 4.0, 8.0, 300.0]
    assert overload_delay(1, 0.5) == 3.0


@given(st.integers(0, 10**9), draws)
def test_a_backoff_never_exceeds_its_limit_or_overflows_a_float(number: int, draw: float) -> None:
    assert 0.0 <= retry_delay(number, draw) <= 300.0
    assert 2.0 <= overload_delay(number, draw) <= 600.0


# --- latency and lifetimes


def test_the_first_response_sets_the_latency_and_later_ones_move_it() -> None:
    assert smooth(0.0, 2.0) == 2.0
    assert smooth(2.0, 7.0) == pytest.approx(3.0)
    assert smooth(2.0, 0.0) == pytest.approx(1.6)


@given(st.lists(seconds, min_size=1))
def test_latency_stays_between_the_measured_values_and_within_limits(answers: list[float]) -> None:
    latency = 0.0
    for answer in answers:
        latency = smooth(latency, answer)
    assert 0.0 <= latency <= min(max(answers), _MAX_ADAPTIVE_GAP) * 1.000001


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (100.0, 100.0),
        (3_600.0, 3_600.0),
        (0.0, MIN_RULES_LIFETIME),
        (-1e9, MIN_RULES_LIFETIME),
        (1e18, MAX_RULES_LIFETIME),
        (float("inf"), MAX_RULES_LIFETIME),
    ],
)
def test_the_lifetime_of_rules_has_a_minimum_and_a_maximum(asked: float, wanted: float) -> None:
    assert rules_lifetime(asked) == wanted


def test_rules_are_valid_for_several_visits_of_the_slowest_host() -> None:
    assert rules_lifetime(0.0, MAX_CRAWL_DELAY) > 5 * MAX_CRAWL_DELAY


def test_the_courtesy_pause_is_shorter_than_the_gap() -> None:
    assert 0.0 < COURTESY < 0.5
