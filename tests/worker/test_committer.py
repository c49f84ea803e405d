"""Reports of outcomes and of ended turns: when they go, and what a failed flush gives back."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from crawler.errors import DiskError
from crawler.model import ImageRecord, Lease, Outcome, Request, Turn, Verdict
from crawler.store.full_disk_pause import DiskPause
from crawler.store.result_store import ResultStore
from crawler.worker.committer import Committer
from crawler.worker.held_turns import HeldTurn, HeldTurns
from crawler.worker.patient_calls import PatientFrontier, PatientStore
from crawler.worker.turn_maintenance import maintain_turns

PATIENCE = 20.0


class Reports:
    """The part of a frontier that takes reports."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.taken: list[tuple[list[str], list[str]]] = []

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended: Sequence[str]) -> tuple[Verdict, ...]:
        with self.changed:
            self.taken.append(([f"{outcome.token} {outcome.status}" for outcome in outcomes], list(ended)))
            self.changed.notify_all()
        return tuple(Verdict(state="accepted") for _ in outcomes)

    def wait_for(self, count: int) -> list[tuple[list[str], list[str]]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.taken) >= count, PATIENCE), self.taken
        return self.taken


class Shelf(ResultStore):
    """A result store whose flush fails on demand."""

    def __init__(self, error: DiskError | None = None) -> None:
        self._error = error

    def note(self, outcome: Outcome) -> None:
        pass

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        if self._error is not None:
            raise self._error

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], *, worker: str = "") -> None:
        pass


@contextmanager
def committing(reports: Reports, turns: HeldTurns, store: ResultStore | None = None) -> Iterator[None]:
    """Run a committer until the end of the block."""
    over, stop = threading.Event(), threading.Event()
    committer = Committer(
        PatientFrontier("w", reports, over),  # type: ignore[arg-type]  # only `complete` is called
        PatientStore(store, DiskPause()),
        turns,
        lambda error, token: Outcome(status="released", token=token),
    )
    thread = threading.Thread(target=committer.run, args=(over, stop))
    thread.start()
    try:
        yield
    finally:
        over.set()
        turns.wake()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def held(turns: HeldTurns, *, gap: float) -> HeldTurn:
    lease = Lease(request=Request(url="http://a.example/1", kind="image"), token="1")
    return turns.add(Turn(id="t", host="a.example", gap=gap, leases=(lease,)), turns.clock())


def saved(token: str, path: str = "") -> Outcome:
    return Outcome(status="done", token=token, record=ImageRecord(url="http://a.example/1", path=path))


def test_a_failed_flush_gives_back_only_outcomes_with_files() -> None:
    reports, turns = Reports(), HeldTurns(60.0, 1.0, time.monotonic)
    for outcome in (saved("1", "images/1.png"), saved("2"), Outcome(status="done", token="3")):
        turns.events.put(outcome)
    with committing(reports, turns, Shelf(DiskError("full"))):
        reports.wait_for(1)
    assert reports.taken == [(["1 released", "2 done", "3 done"], [])]


def test_reports_wait_for_others_unless_one_is_urgent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.worker.committer._INTERVAL", threading.TIMEOUT_MAX)
    reports, turns = Reports(), HeldTurns(60.0, 1.0, time.monotonic)
    with committing(reports, turns):
        turns.events.put(saved("1"))
        reports.wait_for(1)  # nothing was reported before it
        turns.events.put(saved("2"))
        turns.events.put(saved("3"))
        assert len(reports.taken) == 1
        turns.urgent.set()
        assert reports.wait_for(2)[1] == (["2 done", "3 done"], [])


def test_the_end_of_a_turn_with_a_gap_is_urgent_and_follows_its_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.worker.committer._INTERVAL", threading.TIMEOUT_MAX)
    reports, turns = Reports(), HeldTurns(60.0, 1.0, time.monotonic)
    with committing(reports, turns):
        turns.events.put(saved("0"))
        reports.wait_for(1)
        turn, other = held(turns, gap=1.0), held(turns, gap=1.0)
        turns.events.put(saved("1"))
        turns.end(turn)
        assert reports.wait_for(2)[1] == (["1 done"], ["t"])
        turns.end(other)


def test_the_end_of_a_turn_without_a_gap_is_left_to_another_thread() -> None:
    reports, turns = Reports(), HeldTurns(60.0, 1.0, time.monotonic)
    with committing(reports, turns):
        turns.end(held(turns, gap=0.0))
        over = held(turns, gap=0.0)
        over.is_over = True
        turns.events.put(saved("1"))
        turns.end(over)  # its host may need a pause
        reports.wait_for(1)
    assert [ended for _, ended in reports.taken] == [["t"]]
    assert turns.take_freed() == ["t"]


def test_no_ended_turn_is_forgotten_at_the_end() -> None:
    reports, turns, over = Reports(), HeldTurns(60.0, 1.0, time.monotonic), threading.Event()
    turns.end(held(turns, gap=0.0))
    over.set()
    frontier = PatientFrontier("w", reports, over)  # type: ignore[arg-type]  # only `complete` is called
    maintain_turns(frontier, turns, 1.0, over, lambda: None)
    assert reports.taken == [([], ["t"])]
