"""State that survives the master, whether it was closed properly or killed in the middle of work."""

from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from crawler.frontier.base import PROTOCOL
from crawler.frontier.ledger import lease_log
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Outcome, RobotsRules, WorkerInfo
from tests.frontier.disk import copy_of, counts
from tests.frontier.fakes import (
    OPEN,
    POISON_SOON,
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
    """Build a crawl with requests in every state: settled, duplicate, failed, to be retried, leased, waiting."""
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


def test_a_closed_file_reopens_in_the_same_state(open_file: Open) -> None:
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


def test_the_crawl_of_a_killed_master_can_be_finished(open_file: Open, path: Path, clock: FakeClock) -> None:
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


def test_losses_under_a_running_master_are_counted_across_kills(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier, delivered = open_file(POISON_SOON), []
    frontier.put([image()])
    for _ in range(3):
        delivered.append(lease(frontier, seconds=10).turns[0].leases[0].deliveries)
        clock.go(11)
        assert lease(frontier, "page").state in ("wait", "drained")  # the loss is noticed
        path = copy_of(path)
        frontier = open_file(POISON_SOON, path)
    assert (lease(frontier).state, delivered, frontier.stats().reasons) == ("drained", [1, 2, 3], {"poison": 1})


def test_a_released_suspect_is_still_a_suspect_after_a_restart(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put([image()])
    lease(frontier, seconds=10)
    clock.go(11)
    grant = lease(frontier)
    frontier.complete("w1", [Outcome(status="released", token=tokens(grant)[0])], turn_ids(grant))
    again = open_file(OPEN, copy_of(path))
    assert [held.deliveries for turn in lease(again).turns for held in turn.leases] == [2]


def test_a_request_that_no_master_survives_ends_as_poison(open_file: Open, path: Path, clock: FakeClock) -> None:
    """Consider a worker in the master's process, which dies with it, and a worker on a machine that loses power."""
    frontier, delivered = open_file(POISON_SOON), []
    frontier.put([image()])
    for _ in range(3):
        delivered.append(lease(frontier, seconds=10).turns[0].leases[0].deliveries)
        path = copy_of(path)
        frontier = open_file(POISON_SOON, path)
        clock.go(11)
    assert (lease(frontier).state, delivered, frontier.stats().reasons) == ("drained", [1, 2, 3], {"poison": 1})


def test_a_kill_of_the_master_alone_is_not_counted_as_a_loss(open_file: Open, path: Path) -> None:
    frontier = open_file(POISON_SOON)
    frontier.put([image()])
    held = lease(frontier)
    for _ in range(5):
        path = copy_of(path)
        frontier = open_file(POISON_SOON, path)
        frontier.hello("w1", PROTOCOL, WorkerInfo(life="1", wall=1.0, stays=True))
        assert frontier.extend("w1", tokens(held), 120.0).lost == ()
    assert states(frontier.complete("w1", done(held), turn_ids(held))) == ("accepted",)
    assert (frontier.stats().success, frontier.stats().reasons) == (1, {})


def test_a_dead_worker_s_requests_are_leased_again_after_one_lease_time_and_a_gap(
    open_file: Open, path: Path, clock: FakeClock
) -> None:
    frontier = open_file(PACED)
    frontier.put(images(10))
    held = lease(frontier, seconds=30)
    again = open_file(PACED, copy_of(path))
    clock.go(29)
    assert (urls(lease(again, worker="w2")), again.stats().leased) == ([], 10)
    clock.go(1)
    assert (urls(lease(again, worker="w2")), again.stats().leased) == ([], 0)
    clock.go(1)
    assert urls(lease(again, worker="w2")) == urls(held)[:1]  # lost requests come back one by one


def test_a_worker_s_next_life_frees_its_host_after_the_gap(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file(PACED)
    frontier.put(images(20))
    lease(frontier, limit=1)
    again = open_file(PACED, copy_of(path))
    again.hello("w1", PROTOCOL)
    assert not urls(lease(again))
    clock.go(1)
    assert urls(lease(again))


def test_a_worker_that_survived_the_master_settles_and_frees_its_turn(
    open_file: Open, path: Path, clock: FakeClock
) -> None:
    frontier = open_file(PACED)
    frontier.put(images(20))
    grant = lease(frontier)
    again = open_file(PACED, copy_of(path))
    assert again.extend("w1", tokens(grant), 300).lost == ()
    assert set(states(again.complete("w1", done(grant), turn_ids(grant)))) == {"accepted"}
    clock.go(1)
    assert (again.stats().success, len(urls(lease(again, worker="w2")))) == (10, 10)


def test_a_late_verdict_counts_after_a_kill(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file()
    frontier.put([image()])
    late = lease(frontier, seconds=10)
    clock.go(11)
    lease(frontier, worker="w2", seconds=10)
    again = open_file(at=copy_of(path))
    assert states(again.complete("w1", done(late), turn_ids(late))) == ("accepted",)
    assert lease(again).state == "drained"


def test_a_turn_that_had_ended_does_not_block_its_host_after_a_restart(
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


def test_the_wait_that_a_host_asked_for_survives_the_master(open_file: Open, path: Path, clock: FakeClock) -> None:
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


def test_rules_survive_the_master(open_file: Open, path: Path, clock: FakeClock) -> None:
    frontier = open_file(Policy(delay=0.0))
    frontier.put([image()])
    learn(frontier, RobotsRules(text="User-agent: *\nDisallow: /x", crawl_delay=3.0, lifetime=100))
    again = open_file(Policy(delay=0.0), copy_of(path))
    clock.go(3)
    [turn] = lease(again).turns
    assert (turn.gap, turn.robots) == (3.0, {"http://a.example": "User-agent: *\nDisallow: /x"})


@pytest.mark.parametrize("reachable", [True, False])
def test_rules_that_expired_during_the_stop_are_fetched_again(
    open_file: Open, clock: FakeClock, reachable: bool
) -> None:
    policy = Policy(delay=0.0, patience=200.0)
    frontier = open_file(policy)
    frontier.put([image()])
    learn(frontier, RobotsRules(reachable=reachable, lifetime=100))
    frontier.close()
    clock.go(101)
    again = open_file(policy)
    assert (work_off(again), work_off(again)) == ([], ["http://a.example/robots.txt"])


@pytest.mark.parametrize("years", [-1, 1])
def test_setting_the_wall_clock_stops_nothing(open_file: Open, clock: FakeClock, years: int) -> None:
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
def test_a_wrong_clock_does_not_block_a_host_that_asked_for_no_wait(
    open_file: Open, clock: FakeClock, years: int
) -> None:
    frontier = open_file()
    frontier.put(images(2))
    grant = lease(frontier, limit=1)
    frontier.complete("w1", done(grant, latency=0.5), turn_ids(grant))
    frontier.close()
    again = open_file(wall=lambda: clock() + years * 3.2e7)
    assert len(work_off(again)) == 1


def test_the_wait_of_a_retry_continues_after_a_restart(open_file: Open, clock: FakeClock) -> None:
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
def test_a_torn_tail_loses_only_the_last_line(
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


def test_without_the_log_requests_are_leased_again(open_file: Open, path: Path) -> None:
    frontier = open_file()
    frontier.put([image()])
    grant = lease(frontier)
    killed = copy_of(path)
    killed.with_name("leases.log").unlink()
    again = open_file(at=killed)
    assert urls(lease(again, worker="w2")) == urls(grant)
    assert states(again.complete("w1", done(grant), ())) == ("accepted",)


def test_the_log_does_not_grow_without_limit(open_file: Open, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_log, "_COMPACT_AT", 2_000)
    frontier = open_file()
    frontier.put(images(100))
    held = lease(frontier, worker="w2", limit=1)
    while work_off(frontier, limit=1):
        assert path.with_name("leases.log").stat().st_size < 3_000
    again = open_file(at=copy_of(path))
    assert again.stats().leased == 1 and again.extend("w2", tokens(held), 10).lost == ()


def test_an_unwritable_log_stops_nothing(open_file: Open, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path.with_name("leases.log").mkdir()
    frontier = open_file()
    frontier.put(images(3))
    while work_off(frontier, limit=1):
        pass
    assert frontier.stats().success == 3
    assert "cannot write" in caplog.text and len(caplog.records) < 5


def test_a_finished_crawl_leaves_no_log(open_file: Open, path: Path) -> None:
    frontier = open_file()
    frontier.put(images(3))
    grant = lease(frontier)
    assert path.with_name("leases.log").stat().st_size > 0
    frontier.complete("w1", done(grant), [turn.id for turn in grant.turns])
    frontier.close()
    assert not path.with_name("leases.log").exists()


class _FullDisk(FileIO):
    """A file that stores only the beginning of each write."""

    def write(self, data: Any) -> int:
        return super().write(data[: len(data) // 2])


def test_a_truncated_log_line_is_repaired(open_file: Open, path: Path) -> None:
    frontier = open_file()
    frontier.put(images(4))
    lease(frontier, worker="w2", limit=1)
    frontier._leases._lease_log.close()
    frontier._leases._lease_log._file = _FullDisk(path.with_name("leases.log"), "a")
    lease(frontier, worker="w3", limit=1)
    work_off(frontier, limit=1)
    assert open_file(at=copy_of(path)).stats().leased == 2


def test_a_log_that_failed_for_a_while_is_rewritten(open_file: Open, path: Path) -> None:
    log = path.with_name("leases.log")
    log.mkdir()
    frontier = open_file()
    frontier.put(images(3))
    lease(frontier, worker="w2", limit=1)
    log.rmdir()
    work_off(frontier, limit=1)
    assert open_file(at=copy_of(path)).stats().leased == 1
