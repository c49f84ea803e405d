"""Requests that are fetched again: outcomes of an earlier lease do not settle them; and the counts afterwards."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from crawler.errors import DiskError
from crawler.frontier.offline.refresh import renew
from crawler.frontier.offline.requeue import requeue_failed, requeue_lost
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Grant, Outcome, RobotsRules
from tests.frontier.disk import failing, hooked
from tests.frontier.fakes import FakeClock, Open, done, image, images, lease, saved, states, tokens, turn_ids, urls


def failed(grant: Grant) -> list[Outcome]:
    return [Outcome(status="done", token=token, reason="http-404") for token in tokens(grant)]


def retry(path: Path) -> object:
    return requeue_failed(path, lambda reason: True, patience=60.0, wall=0.0, before=lambda *_: None)


def repair(path: Path) -> object:
    return requeue_lost(path, lambda store, place: True, wall=0.0, before=lambda *_: None)


ASKING: dict[str, tuple[Callable[[Grant], list[Outcome]], Callable[[Path], object]]] = {
    "retry": (failed, retry),
    "refresh": (done, renew),
    "repair": (done, repair),
}


@pytest.mark.parametrize("how", ASKING)
@pytest.mark.parametrize("is_noted", [True, False], ids=["noted", "killed-before-the-note"])
def test_an_outcome_of_an_earlier_lease_settles_nothing(open_file: Open, path: Path, how: str, is_noted: bool) -> None:
    report, ask_anew = ASKING[how]
    frontier = open_file()
    frontier.put([image()])
    grant = lease(frontier)
    journal = path.with_name("leases.log").read_bytes()
    assert states(frontier.complete("w1", report(grant), [])) == ("accepted",)  # its answer is lost
    frontier.close()
    if not is_noted:
        path.with_name("leases.log").write_bytes(journal)
    ask_anew(path)
    frontier = open_file()
    assert frontier.extend("w1", tokens(grant), 120.0).lost == tuple(tokens(grant))
    assert states(frontier.complete("w1", report(grant), turn_ids(grant))) == ("stale",)
    again = lease(frontier)
    assert urls(again) == urls(grant)
    assert states(frontier.complete("w1", done(again), turn_ids(again))) == ("accepted",)


def test_a_robots_txt_that_is_fetched_again_is_not_settled_by_a_late_outcome(open_file: Open, clock: FakeClock) -> None:
    frontier = open_file(Policy(delay=0.0, per_host=4))
    frontier.put(images(2))
    lease(frontier)  # so that the rules are wanted
    late = lease(frontier, "robots", worker="A", seconds=10.0)
    clock.go(11.0)
    for lifetime in (60.0, 3_600.0):
        (token,) = tokens(grant := lease(frontier, "robots", worker="B"))
        told = Outcome(status="done", token=tokens(late)[0], robots=RobotsRules(text="User-agent: *\nDisallow: /"))
        assert states(frontier.complete("A", [told], [])) == ("stale",)
        rules = Outcome(status="done", token=token, robots=RobotsRules(lifetime=lifetime))
        assert states(frontier.complete("B", [rules], turn_ids(grant))) == ("accepted",)
        clock.go(lifetime + 1.0)
        lease(frontier, "image", worker="B", limit=1)


def test_a_requeued_request_is_not_counted_as_a_change_of_a_refresh(open_file: Open, path: Path) -> None:
    def work(report: Callable[[Grant], list[Outcome]]) -> SqliteFrontier:
        frontier = open_file()
        grant = lease(frontier)
        frontier.complete("w1", report(grant), turn_ids(grant))
        return frontier

    open_file().put([image()])
    work(done).close()
    renew(path)
    frontier = work(failed)
    assert frontier.stats().changes == {"gone": 1}
    frontier.close()
    retry(path)
    frontier = work(done)
    now, counted = frontier.stats().changes, frontier.ledger.history.changes()
    assert {change: number for change, number in now.items() if number} == counted == {"unchanged": 1}


def test_a_store_belongs_to_the_first_worker_that_saved_in_it(open_file: Open, path: Path) -> None:
    def work(worker: str, report: Callable[[Grant], list[Outcome]]) -> SqliteFrontier:
        frontier = open_file()
        grant = lease(frontier, worker=worker)
        frontier.complete(worker, report(grant), turn_ids(grant))
        return frontier

    open_file().put([image()])
    work("first", done).close()
    renew(path)
    work("first", failed).close()
    retry(path)
    frontier = work("second", done)
    (store,) = frontier.stats().stores
    assert store.worker == "first"
    assert frontier.ledger.records.owners() == {store.id: "first"}


def test_pictures_that_were_moved_to_another_store_are_counted_there_at_once(open_file: Open) -> None:
    frontier = open_file()
    frontier.put(images(2))
    grant = lease(frontier)
    frontier.complete("w1", done(grant), turn_ids(grant))
    frontier.relocate([number for number, _ in frontier.records(0, 10)], "ab" * 8)
    assert [(store.id, store.pictures) for store in frontier.stats().stores] == [("ab" * 8, 2)]


def test_a_disk_failure_after_the_commit_leaves_no_host_busy(open_file: Open) -> None:
    frontier = open_file()
    frontier.put(images(3))
    first = lease(frontier, limit=1)
    frontier.complete("w1", done(first), turn_ids(first))
    grant = lease(frontier, limit=1)
    (held,) = grant.turns[0].leases
    same_bytes = done(first)[0].record
    assert same_bytes is not None
    copy = Outcome(status="done", token=held.token, record=saved(held.request, same_bytes.sha256), stored=True)

    def fail_from_now_on() -> None:
        stack.enter_context(failing(frontier, "SELECT", "disk I/O error"))

    with ExitStack() as stack, pytest.raises(DiskError), hooked(frontier, "COMMIT", after=fail_from_now_on):
        frontier.complete("w1", [copy], turn_ids(grant))
    assert frontier.stats().duplicate == 1
    assert all(host.open_turns == 0 for host in frontier._scheduler.hosts.by_key.values())
    assert states(frontier.complete("w1", [copy], turn_ids(grant))) == ("duplicate",)


def test_a_failed_rollback_leaves_memory_unchanged(open_file: Open) -> None:
    frontier = open_file()

    def fail() -> None:
        raise OSError("the disk is gone")

    with (
        failing(frontier, "COMMIT", "disk I/O error"),
        hooked(frontier, "ROLLBACK", after=fail),
        pytest.raises((DiskError, OSError)),
    ):
        frontier.put([image()])
    assert frontier.put([image()]) == 1
