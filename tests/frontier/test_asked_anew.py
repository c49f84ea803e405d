"""What is asked once more is not answered by what was told of it before; and what is counted then."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from crawler.errors import DiskError
from crawler.frontier.again import put_back, put_back_lost
from crawler.frontier.politeness import Policy
from crawler.frontier.renewal import renew
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Grant, Outcome, RobotsRules
from tests.frontier.disk import failing, hooked
from tests.frontier.fakes import FakeClock, Open, done, image, images, lease, saved, states, tokens, turn_ids, urls


def failed(grant: Grant) -> list[Outcome]:
    return [Outcome(status="done", token=token, reason="http-404") for token in tokens(grant)]


def retry(path: Path) -> object:
    return put_back(path, lambda reason: True, patience=60.0, wall=0.0, before=lambda *_: None)


def repair(path: Path) -> object:
    return put_back_lost(path, lambda store, place: True, wall=0.0, before=lambda *_: None)


ASKING: dict[str, tuple[Callable[[Grant], list[Outcome]], Callable[[Path], object]]] = {
    "retry": (failed, retry),
    "refresh": (done, renew),
    "repair": (done, repair),
}


@pytest.mark.parametrize("how", ASKING)
@pytest.mark.parametrize("is_noted", [True, False], ids=["noted", "killed-before-the-note"])
def test_an_outcome_of_before_answers_nothing(open_file: Open, path: Path, how: str, is_noted: bool) -> None:
    tell, ask_anew = ASKING[how]
    frontier = open_file()
    frontier.put([image()])
    grant = lease(frontier)
    journal = path.with_name("leases.log").read_bytes()
    assert states(frontier.complete("w1", tell(grant), [])) == ("accepted",)  # its answer is lost
    frontier.close()
    if not is_noted:
        path.with_name("leases.log").write_bytes(journal)
    ask_anew(path)
    frontier = open_file()
    assert frontier.extend("w1", tokens(grant), 120.0).lost == tuple(tokens(grant))
    assert states(frontier.complete("w1", tell(grant), turn_ids(grant))) == ("stale",)
    again = lease(frontier)
    assert urls(again) == urls(grant)
    assert states(frontier.complete("w1", done(again), turn_ids(again))) == ("accepted",)


def test_a_robots_txt_that_is_asked_for_again_is_not_answered_by_who_was_too_late(
    open_file: Open, clock: FakeClock
) -> None:
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


def test_what_waits_again_is_no_change_that_a_refresh_has_found(open_file: Open, path: Path) -> None:
    def work(tell: Callable[[Grant], list[Outcome]]) -> SqliteFrontier:
        frontier = open_file()
        grant = lease(frontier)
        frontier.complete("w1", tell(grant), turn_ids(grant))
        return frontier

    open_file().put([image()])
    work(done).close()
    renew(path)
    frontier = work(failed)
    assert frontier.stats().changes == {"gone": 1}
    frontier.close()
    retry(path)
    frontier = work(done)
    now, counted = frontier.stats().changes, frontier._ledger.changes()
    assert {change: number for change, number in now.items() if number} == counted == {"unchanged": 1}


def test_a_store_is_that_of_the_first_worker_who_saved_in_it_in_every_life(open_file: Open, path: Path) -> None:
    def work(worker: str, tell: Callable[[Grant], list[Outcome]]) -> SqliteFrontier:
        frontier = open_file()
        grant = lease(frontier, worker=worker)
        frontier.complete(worker, tell(grant), turn_ids(grant))
        return frontier

    open_file().put([image()])
    work("first", done).close()
    renew(path)
    work("first", failed).close()
    retry(path)
    frontier = work("second", done)
    (store,) = frontier.stats().stores
    assert store.worker == "first"
    assert frontier._ledger.owners() == {store.id: "first"}


def test_pictures_that_were_brought_elsewhere_count_there_at_once(open_file: Open) -> None:
    frontier = open_file()
    frontier.put(images(2))
    grant = lease(frontier)
    frontier.complete("w1", done(grant), turn_ids(grant))
    frontier.relocate([number for number, _ in frontier.records(0, 10)], "ab" * 8)
    assert [(store.id, store.pictures) for store in frontier.stats().stores] == [("ab" * 8, 2)]


def test_a_disk_that_fails_after_the_commit_keeps_no_host_busy(open_file: Open) -> None:
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
    assert all(host.open_turns == 0 for host in frontier._schedule.hosts.values())
    assert states(frontier.complete("w1", [copy], turn_ids(grant))) == ("duplicate",)


def test_a_rollback_that_fails_too_leaves_memory_as_it_was(open_file: Open) -> None:
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
