"""The pace and the rules of one turn, with a clock that stands still and a ``may_start`` that records its calls."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from msgspec import structs

from crawler.model import Lease, Outcome, Request, Turn
from crawler.worker.turn import work_off


def turn(*paths: str, gap: float = 0.0, rules: str = "") -> Turn:
    requests = [Request(url=f"http://a.example/{path}", kind="image") for path in paths]
    leases = tuple(Lease(request=request, token=f"t{n}") for n, request in enumerate(requests))
    return Turn(id="turn", host="a.example", gap=gap, robots={"http://a.example": rules}, leases=leases)


def done(request: Request) -> Outcome:
    return Outcome(status="done")


def never(request: Request) -> Outcome:
    raise AssertionError(f"{request.url} must not be fetched")


def results(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.token, outcome.status) for outcome in outcomes]


def test_each_lease_has_one_outcome_with_its_token() -> None:
    assert results(list(work_off(turn("1", "2"), done))) == [("t0", "done"), ("t1", "done")]


def test_each_request_waits_for_a_gap_at_least() -> None:
    starts: list[float] = []

    def may_start(at: float) -> bool:
        starts.append(at)
        return True

    list(work_off(turn(*map(str, range(200)), gap=2.0), done, may_start=may_start, clock=lambda: 100.0))
    assert starts[0] == -math.inf and len(starts) == 200
    assert 102.0 <= min(starts[1:]) < 102.1 and 102.9 < max(starts) <= 103.0


def test_the_connect_time_shortens_no_gap() -> None:
    """Consider the arrival at the host: it sees the first request of a turn only after the connection is made."""
    now, seen = [100.0], list[float]()

    def handle(request: Request) -> Outcome:
        now[0] += 0.7 if not seen else 0.0
        seen.append(now[0])
        now[0] += 0.1
        return done(request)

    def wait(at: float) -> bool:
        now[0] = max(now[0], at)
        return True

    list(work_off(turn(*map(str, range(9)), gap=1.0), handle, may_start=wait, clock=lambda: now[0]))
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(seen))
    assert seen[-1] - seen[1] <= 7 * 1.5


def test_the_delay_of_the_site_counts_from_the_end_of_the_previous_request() -> None:
    starts: list[float] = []
    now = [100.0]

    def handle(request: Request) -> Outcome:
        now[0] += 4.0
        return done(request)

    asking = structs.replace(turn("1", "2", "3", gap=2.0), least_gap=2.0)
    list(work_off(asking, handle, may_start=lambda at: not starts.append(at), clock=lambda: now[0]))  # type: ignore[func-returns-value]
    assert starts[0] == -math.inf and 106.0 <= starts[1] <= 107.0 and starts[2] == 110.0


def test_without_may_start_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr("crawler.worker.turn.time.sleep", naps.append)
    list(work_off(turn("1", "2", gap=50.0), done))
    assert naps[0] == 0 and 49 < naps[1] <= 75


def test_a_url_forbidden_by_robots_is_not_fetched() -> None:
    (outcome,) = work_off(turn("secret/1", rules="User-agent: *\nDisallow: /secret/"), never)
    assert (outcome.status, outcome.reason, outcome.token) == ("done", "robots", "t0")
    assert outcome.record is not None and outcome.record.reason == "robots"


def test_a_url_reserved_by_tdmrep_json_is_not_fetched() -> None:
    outcomes = work_off(turn("free/1", "art/1", rules="Tdm-reservation: 1 /art/\n"), done)
    assert [outcome.reason for outcome in outcomes] == ["", "opted-out"]


@pytest.mark.parametrize("wish", [Outcome(status="retry", overloaded=True), Outcome(status="retry", host_wait=9.0)])
def test_a_busy_host_ends_the_turn(wish: Outcome) -> None:
    assert results(list(work_off(turn("1", "2", "3"), lambda _: wish))) == [
        ("t0", "retry"), ("t1", "released"), ("t2", "released"),
    ]  # fmt: skip


def test_requests_that_may_not_start_are_released() -> None:
    assert results(list(work_off(turn("1", "2"), never, may_start=lambda _: False))) == [
        ("t0", "released"), ("t1", "released"),
    ]  # fmt: skip


def test_a_turn_with_slow_responses_releases_the_rest() -> None:
    now = [0.0]

    def slowly(request: Request) -> Outcome:
        now[0] += 4.0
        return done(request)

    outcomes = list(work_off(turn("1", "2", "3", "4", "5"), slowly, may_start=lambda _: True, clock=lambda: now[0]))
    assert [outcome.status for outcome in outcomes] == ["done"] * 3 + ["released"] * 2


def test_the_pace_of_a_turn_does_not_count_as_response_time() -> None:
    now = [0.0]

    def wait(at: float) -> bool:
        now[0] = max(now[0], at)
        return True

    outcomes = list(work_off(turn("1", "2", "3", gap=20.0), done, may_start=wait, clock=lambda: now[0]))
    assert [outcome.status for outcome in outcomes] == ["done"] * 3


def moving(target: str) -> Callable[[Request], Outcome]:
    def handle(request: Request) -> Outcome:
        if request.hops:
            return done(request)
        return Outcome(status="moved", successor=structs.replace(request, target=target, hops=1))

    return handle


def test_a_redirect_within_the_origin_is_one_more_request() -> None:
    starts: list[float] = []
    outcomes = work_off(turn("1"), moving("http://a.example/new"), may_start=lambda at: not starts.append(at))  # type: ignore[func-returns-value]
    assert results(list(outcomes)) == [("t0", "done")] and len(starts) == 2


def test_a_suspect_stays_one_across_redirects_and_the_others_are_not_affected() -> None:
    seen: list[tuple[str, bool]] = []
    move = moving("http://a.example/new")

    def handle(request: Request) -> Outcome:
        seen.append((request.location, request.is_suspect))
        return move(request) if request.is_suspect else done(request)

    first, second = turn("1", "2").leases
    list(work_off(structs.replace(turn(), leases=(structs.replace(first, deliveries=2), second)), handle))
    assert seen == [("http://a.example/1", True), ("http://a.example/new", True), ("http://a.example/2", False)]


def test_a_redirect_to_another_origin_is_left_to_the_frontier() -> None:
    assert results(list(work_off(turn("1"), moving("http://b.example/new")))) == [("t0", "moved")]
