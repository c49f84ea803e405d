"""What outlives the master, however it ended: closed in peace or killed in mid-work."""

from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from crawler.frontier import journal
from crawler.frontier.base import PROTOCOL
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Outcome, RobotsRules
from tests.frontier.disk import copy_of, counts
from tests.frontier.fakes import (
    FakeClock,
    Open,
    done,
    image,
    images,
    learn,
    lease,
    page,
    retry,
    states,
    tokens,
    turn_ids,
    urls,
    work_off,
)

#: A gap of a second.
PACED = Policy(robots=False, delay=1.0)


def busy_crawl(frontier: SqliteFrontier) -> None:
    """Something in every state: settled, doubled, failed, to be retried, on loan, waiting; pages likewise."""
    frontier.put([*images(12), *images(3, "b.example"), page(), page("http://a.example/2", depth=1)])
    grant = lease(frontier, "image", limit=4)
    good = done(grant)
    frontier.complete("w1", [good[0], *retry(grant)[1:2], *good[3:]], ())
    frontier.complete(
        "w1", [Outcome(status="done", token=tokens(grant)[2], reason="http-404", spared=11)], turn_ids(grant)
    )
    grant = lease(frontier, "page", limit=1)
    frontier.complete("w1", done(grant, rejected=7, discovered=(image("http://c.example/"),)), turn_ids(grant))
    lease(frontier, "image", worker="w2", limit=2)


# --- after a close, after a kill


def test_a_closed_file_is_opened_as_it_was(open_file: Open) -> None:
    frontier = open_file()
    busy_crawl(frontier)
    before, records = counts(frontier), frontier.records(0, 100)
    frontier.close()
    again = open_file()
    assert (counts(again), again.records(0, 100)) == (before, records)


def test_a_killed_master_loses_nothing(open_file: Open, path: Path) -> None:
    frontier = open_file()
    busy_crawl(frontier)
    again = open_file(at=copy_of(path))
    assert (counts(again), again.records(0, 100)) == (counts(frontier), frontier.records(0, 100))


def test_a_killed_master_s_crawl_is_worked_off_to_the_end(open_file: Open, path: Path, clock: FakeClock) -> None:
    busy_crawl(open_file())
    again = open_file(at=copy_of(path))
    again.hello("w2", PROTOCOL)
    found = []
    while (grant := lease(again)).state != "drained":
        again.complete("w1", done(grant), turn_ids(grant))
        found += urls(grant)
        clock.go(1)
    stats = again.stats()
    assert len(found) == len(set(found))
    assert (stats.success, stats.failed, stats.discovered, stats.pages_done) == (15, 1, 16, 2)


def test_losses_under_a_living_master_are_counted_across_kills(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier, delivered = open_file(), []
    frontier.put([image()])
    for _ in range(3):
        delivered.append(lease(frontier, seconds=10).turns[0].leases[0].deliveries)
        clock.go(11)
        assert lease(frontier, "page").state in ("wait", "drained")  # the loss is noticed
        path = copy_of(path)
        frontier = open_file(at=path)
    assert (lease(frontier).state, delivered, frontier.stats().reasons) == ("drained", [1, 2, 3], {"poison": 1})


def test_the_death_of_the_master_is_charged_to_nobody(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put([image()])
    for _ in range(5):
        assert lease(frontier, seconds=10).turns[0].leases[0].deliveries == 1
        path = copy_of(path)
        frontier = open_file(at=path)
        clock.go(11)
    assert urls(lease(frontier)) == ["http://a.example/1.jpg"]


def test_a_dead_worker_s_lease_comes_back_after_one_lease_time_and_a_gap(
    open_file: Open, path: Path, clock: FakeClock
) -> None:
    frontier = open_file(PACED)
    frontier.put(images(20))
    held = lease(frontier, seconds=30)
    again = open_file(PACED, copy_of(path))
    clock.go(29)
    assert (urls(lease(again, worker="w2")), again.stats().leased) == ([], 10)
    clock.go(1)
    assert (urls(lease(again, worker="w2")), again.stats().leased) == ([], 0)
    clock.go(1)
    assert urls(lease(again, worker="w2")) == urls(held)


def test_a_worker_s_next_life_frees_its_host_at_once_but_for_the_gap(
    open_file: Open, path: Path, clock: FakeClock
) -> None:
    frontier = open_file(PACED)
    frontier.put(images(20))
    lease(frontier, limit=1)
    again = open_file(PACED, copy_of(path))
    again.hello("w1", PROTOCOL)
    assert not urls(lease(again))
    clock.go(1)
    assert urls(lease(again))[0] == "http://a.example/0.jpg"


def test_a_worker_that_lived_on_settles_and_frees_its_turn(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file(PACED)
    frontier.put(images(20))
    grant = lease(frontier)
    again = open_file(PACED, copy_of(path))
    assert again.extend("w1", tokens(grant), 300).lost == ()
    assert set(states(again.complete("w1", done(grant), turn_ids(grant)))) == {"accepted"}
    clock.go(1)
    assert (again.stats().success, len(urls(lease(again, worker="w2")))) == (10, 10)


def test_a_late_verdict_counts_after_a_kill_too(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put([image()])
    late = lease(frontier, seconds=10)
    clock.go(11)
    lease(frontier, worker="w2", seconds=10)
    again = open_file(at=copy_of(path))
    assert states(again.complete("w1", done(late), turn_ids(late))) == ("accepted",)
    assert lease(again).state == "drained"


def test_of_a_turn_that_had_ended_only_the_verdicts_are_waited_for(
    open_file: Open, path: Path, clock: FakeClock
) -> None:
    frontier = open_file(PACED)
    frontier.put(images(20))
    grant = lease(frontier)
    frontier.complete("w1", [], turn_ids(grant))
    again = open_file(PACED, copy_of(path))
    clock.go(1)
    assert urls(lease(again, worker="w2")) == [f"http://a.example/{n}.jpg" for n in range(10, 20)]
    assert set(states(again.complete("w1", done(grant), ()))) == {"accepted"}


def test_every_host_rests_for_a_gap_after_a_restart(open_file: Open, clock: FakeClock) -> None:
    frontier = open_file(PACED)
    frontier.put(images(20))
    work_off(frontier)
    frontier.close()
    again = open_file(PACED)
    assert not urls(lease(again))
    clock.go(1)
    assert urls(lease(again))


def test_a_host_with_nothing_waiting_rests_too(open_file: Open, clock: FakeClock) -> None:
    frontier = open_file(PACED)
    frontier.put(images(1))
    work_off(frontier)
    frontier.close()
    again = open_file(PACED)
    assert again.stats().hosts == 1
    again.put(images(2))
    assert not urls(lease(again))
    clock.go(1)
    assert urls(lease(again))


def test_a_host_s_wish_to_be_left_alone_outlives_the_master(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put(images(8))
    grant = lease(frontier, limit=2)
    asked = zip(tokens(grant), (50.0, 1.0), strict=True)
    waits = [Outcome(status="released", token=token, host_wait=wait) for token, wait in asked]
    frontier.complete("w1", waits, turn_ids(grant))
    again = open_file(at=copy_of(path))
    clock.go(49)
    assert not urls(lease(again))
    clock.go(1)
    assert urls(lease(again))


def test_rules_outlive_the_master(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file(Policy(delay=0.0))
    frontier.put([image()])
    learn(frontier, RobotsRules(text="User-agent: *\nDisallow: /x", crawl_delay=3.0, lifetime=100))
    again = open_file(Policy(delay=0.0), copy_of(path))
    clock.go(3)
    [turn] = lease(again).turns
    assert (turn.gap, turn.robots) == (3.0, {"http://a.example": "User-agent: *\nDisallow: /x"})


@pytest.mark.parametrize("reachable", [True, False])
def test_rules_that_expired_meanwhile_are_asked_for_again(open_file: Open, clock: FakeClock, reachable: bool) -> None:
    policy = Policy(delay=0.0, patience=200.0)
    frontier = open_file(policy)
    frontier.put([image()])
    learn(frontier, RobotsRules(reachable=reachable, lifetime=100))
    frontier.close()
    clock.go(101)
    again = open_file(policy)
    assert (work_off(again), work_off(again)) == ([], ["http://a.example/robots.txt"])


@pytest.mark.parametrize("years", [-1, 1])
def test_a_wall_clock_that_is_set_stops_nothing(open_file: Open, clock: FakeClock, years: int) -> None:
    frontier = open_file(Policy(delay=0.0))
    frontier.put(images(2))
    learn(frontier)
    grant = lease(frontier, limit=1)
    frontier.complete("w1", retry(grant, host_wait=5.0), turn_ids(grant))
    frontier.close()
    again = open_file(Policy(delay=0.0, patience=2 * 86_400.0), wall=lambda: clock() + years * 3.2e7)
    clock.go(86_401)
    learn(again)
    assert len(work_off(again)) == 2


@pytest.mark.parametrize("years", [-1, 1])
def test_a_host_that_asked_for_nothing_is_not_shut_by_a_clock(open_file: Open, clock: FakeClock, years: int) -> None:
    frontier = open_file()
    frontier.put(images(2))
    grant = lease(frontier, limit=1)
    frontier.complete("w1", done(grant, latency=0.5), turn_ids(grant))
    frontier.close()
    again = open_file(wall=lambda: clock() + years * 3.2e7)
    assert len(work_off(again)) == 1


def test_a_retry_s_wait_goes_on(open_file: Open, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put([image()])
    grant = lease(frontier)
    frontier.complete("w1", retry(grant, retry_in=40.0), turn_ids(grant))
    frontier.close()
    again = open_file()
    clock.go(39)
    assert lease(again).state == "wait"
    clock.go(1)
    assert urls(lease(again))


# --- leases.log


@pytest.mark.parametrize("tail", [b'{"type":"lease","turn":"x","wor', b"\x00" * 4_096, b"\xff\xfe\n[]\n{}\n"])
def test_a_torn_tail_costs_no_more_than_itself(
    open_file: Open, path: Path, caplog: pytest.LogCaptureFixture, tail: bytes
) -> None:
    caplog.set_level("INFO")
    frontier = open_file()
    frontier.put(images(3))
    lease(frontier, limit=1)
    killed = copy_of(path)
    with killed.with_name("leases.log").open("ab") as log:
        log.write(tail)
    assert open_file(at=killed).stats().leased == 1
    assert "torn line" in caplog.text


def test_without_the_log_leases_are_delivered_again(open_file: Open, path: Path) -> None:
    frontier = open_file()
    frontier.put([image()])
    grant = lease(frontier)
    killed = copy_of(path)
    killed.with_name("leases.log").unlink()
    again = open_file(at=killed)
    assert urls(lease(again, worker="w2")) == urls(grant)
    assert states(again.complete("w1", done(grant), ())) == ("accepted",)


def test_the_log_does_not_grow_for_ever(open_file: Open, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_COMPACT_AT", 2_000)
    frontier = open_file()
    frontier.put(images(100))
    held = lease(frontier, worker="w2", limit=1)
    while work_off(frontier, limit=1):
        assert path.with_name("leases.log").stat().st_size < 3_000
    again = open_file(at=copy_of(path))
    assert again.stats().leased == 1 and again.extend("w2", tokens(held), 10).lost == ()


def test_a_log_that_can_t_be_written_stops_nothing(
    open_file: Open, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path.with_name("leases.log").mkdir()
    frontier = open_file()
    frontier.put(images(3))
    while work_off(frontier, limit=1):
        pass
    assert frontier.stats().success == 3
    assert "cannot write" in caplog.text and len(caplog.records) < 5


def test_a_crawl_that_is_over_leaves_no_log(open_file: Open, path: Path) -> None:
    frontier = open_file()
    frontier.put(images(3))
    grant = lease(frontier)
    assert path.with_name("leases.log").stat().st_size > 0
    frontier.complete("w1", done(grant), [turn.id for turn in grant.turns])
    frontier.close()
    assert not path.with_name("leases.log").exists()


class _FullDisk(FileIO):
    """A file of which only the beginning of each write arrives."""

    def write(self, data: Any) -> int:
        return super().write(data[: len(data) // 2])


def test_a_log_line_that_was_cut_short_is_mended(open_file: Open, path: Path) -> None:
    frontier = open_file()
    frontier.put(images(4))
    lease(frontier, worker="w2", limit=1)
    frontier._leases._journal.close()
    frontier._leases._journal._file = _FullDisk(path.with_name("leases.log"), "a")
    lease(frontier, worker="w3", limit=1)
    work_off(frontier, limit=1)
    assert open_file(at=copy_of(path)).stats().leased == 2


def test_a_log_that_failed_for_a_while_is_written_anew(open_file: Open, path: Path) -> None:
    log = path.with_name("leases.log")
    log.mkdir()
    frontier = open_file()
    frontier.put(images(3))
    lease(frontier, worker="w2", limit=1)
    log.rmdir()
    work_off(frontier, limit=1)
    assert open_file(at=copy_of(path)).stats().leased == 1
