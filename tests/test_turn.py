"""The manners of one turn, with a clock that stands still and a ``may_start`` that remembers what it was asked."""

import math
from collections.abc import Callable

import pytest
from msgspec import structs

from crawler.model import Lease, Outcome, Request, Turn
from crawler.turn import work_off


def turn(*paths: str, gap: float = 0.0, rules: str = "") -> Turn:
    requests = [Request(url=f"http://a.example/{path}", kind="image") for path in paths]
    leases = tuple(Lease(request=request, token=f"t{n}") for n, request in enumerate(requests))
    return Turn(id="turn", host="a.example", gap=gap, robots={"http://a.example": rules}, leases=leases)


def done(request: Request) -> Outcome:
    return Outcome(status="done")


def never(request: Request) -> Outcome:
    raise AssertionError(f"{request.url} must not be fetched")


def told(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.token, outcome.status) for outcome in outcomes]


def test_each_lease_has_one_outcome_with_its_token() -> None:
    assert told(list(work_off(turn("1", "2"), done))) == [("t0", "done"), ("t1", "done")]


def test_each_request_waits_for_about_a_gap() -> None:
    starts: list[float] = []

    def may_start(at: float) -> bool:
        starts.append(at)
        return True

    list(work_off(turn("1", "2", "3", gap=2.0), done, may_start=may_start, clock=lambda: 100.0))
    assert starts[0] == -math.inf
    assert all(101.0 <= at <= 103.0 for at in starts[1:]) and len(starts) == 3


def test_what_the_site_asks_for_counts_from_the_end_of_the_request_before() -> None:
    starts: list[float] = []
    now = [100.0]

    def handle(request: Request) -> Outcome:
        now[0] += 10.0
        return done(request)

    asking = structs.replace(turn("1", "2", gap=2.0), least_gap=2.0)
    list(work_off(asking, handle, may_start=lambda at: not starts.append(at), clock=lambda: now[0]))  # type: ignore[func-returns-value]
    assert starts == [-math.inf, 112.0]


def test_without_anybody_to_ask_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr("crawler.turn.time.sleep", naps.append)
    list(work_off(turn("1", "2", gap=50.0), done))
    assert naps[0] == 0 and 24 < naps[1] <= 75


def test_what_robots_forbid_is_not_fetched() -> None:
    (outcome,) = work_off(turn("secret/1", rules="User-agent: *\nDisallow: /secret/"), never)
    assert (outcome.status, outcome.reason, outcome.token) == ("done", "robots", "t0")
    assert outcome.record is not None and outcome.record.reason == "robots"


def test_what_tdmrep_json_reserves_is_not_fetched() -> None:
    outcomes = work_off(turn("free/1", "art/1", rules="Tdm-reservation: 1 /art/\n"), done)
    assert [outcome.reason for outcome in outcomes] == ["", "opted-out"]


@pytest.mark.parametrize("wish", [Outcome(status="retry", overloaded=True), Outcome(status="retry", host_wait=9.0)])
def test_a_host_that_wants_rest_ends_the_turn(wish: Outcome) -> None:
    assert told(list(work_off(turn("1", "2", "3"), lambda _: wish))) == [
        ("t0", "retry"), ("t1", "released"), ("t2", "released"),
    ]  # fmt: skip


def test_what_may_not_start_is_released() -> None:
    assert told(list(work_off(turn("1", "2"), never, may_start=lambda _: False))) == [
        ("t0", "released"), ("t1", "released"),
    ]  # fmt: skip


def test_a_turn_whose_answers_take_long_leaves_the_rest_to_others() -> None:
    now = [0.0]

    def slowly(request: Request) -> Outcome:
        now[0] += 4.0
        return done(request)

    outcomes = list(work_off(turn("1", "2", "3", "4", "5"), slowly, may_start=lambda _: True, clock=lambda: now[0]))
    assert [outcome.status for outcome in outcomes] == ["done"] * 3 + ["released"] * 2


def test_the_pace_of_a_turn_does_not_count_as_time_of_its_answers() -> None:
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
        return Outcome(status="moved", successor=Request(url=request.url, kind="image", target=target, hops=1))

    return handle


def test_a_redirect_within_the_origin_is_one_more_request() -> None:
    starts: list[float] = []
    outcomes = work_off(turn("1"), moving("http://a.example/new"), may_start=lambda at: not starts.append(at))  # type: ignore[func-returns-value]
    assert told(list(outcomes)) == [("t0", "done")] and len(starts) == 2


def test_a_redirect_elsewhere_is_the_frontier_s() -> None:
    assert told(list(work_off(turn("1"), moving("http://b.example/new")))) == [("t0", "moved")]
