"""The outbox: each line is written completely or not at all, for any failure of the disk."""

import os
from collections.abc import Collection
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from crawler.errors import DiskTrouble
from crawler.model import ImageRecord, Outcome, Verdict
from crawler.store.local import LocalStore
from crawler.store.outbox import Outbox
from crawler.store.result_store import ResultStore


def outcome(number: int) -> Outcome:
    return Outcome(status="done", token=str(number), record=ImageRecord(url=f"http://a.example/{number}"))


class Small(FileIO):
    """A file on a disk that accepts only some of the data, then nothing, until there is space."""

    left: int | None = None

    def write(self, data: Any, /) -> int:
        if Small.left is None:
            return super().write(data)
        taken, Small.left = bytes(data)[: Small.left], 0
        return super().write(taken)


@pytest.mark.parametrize("room", [0, 1, 10])
def test_a_line_that_does_not_fit_leaves_the_file_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr("crawler.store.outbox.FileIO", Small)
    notes = Outbox(tmp_path, "worker", 0)
    notes.add(outcome(1))
    monkeypatch.setattr(Small, "left", room)
    with pytest.raises(DiskTrouble):
        notes.add(outcome(2))
    monkeypatch.setattr(Small, "left", None)
    notes.add(outcome(3))
    notes.close()
    (left,) = Outbox(tmp_path, "worker", 0).unacknowledged()
    assert (left.worker, [each.token for each in left.outcomes]) == ("worker", ["1", "3"])


def test_a_name_that_could_not_be_written_is_written_with_the_next_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawler.store.outbox.FileIO", Small)
    notes = Outbox(tmp_path, "worker", 0)
    notes.add(outcome(1))
    monkeypatch.setattr(Small, "left", 0)
    with pytest.raises(DiskTrouble):
        notes.acknowledge(["1"])
    monkeypatch.setattr(Small, "left", None)
    notes.add(outcome(2))
    notes.close()
    (left,) = Outbox(tmp_path, "other", 0).unacknowledged()
    assert (left.worker, [each.token for each in left.outcomes]) == ("worker", ["2"])


def test_the_length_of_the_file_follows_the_unacknowledged_outcomes(tmp_path: Path) -> None:
    notes, path = Outbox(tmp_path, "worker", 0), tmp_path / ".told-0.jsonl"
    longest = 0
    for number in range(5_000):  # some are open at every instant
        notes.add(outcome(number))
        if number >= 10:
            notes.acknowledge([str(number - 10)])
        longest = max(longest, path.stat().st_size)
    notes.close()
    assert longest < 80_000, "64 KiB, and twice ten outcomes"
    (left,) = Outbox(tmp_path, "worker", 0).unacknowledged()
    assert [each.token for each in left.outcomes] == [str(number) for number in range(4_990, 5_000)]


def test_outcomes_of_released_requests_are_removed_from_the_file(tmp_path: Path) -> None:
    """Consider a failed flush: the worker then releases requests and settles outcomes that have no record."""

    class Refusing(LocalStore):
        def flush(self, keys: Collection[str] = ()) -> None:
            raise DiskTrouble("refused")

    shelf = ResultStore(Refusing(tmp_path), Outbox(tmp_path, "worker", 0))
    for number in range(2_000):
        noted = outcome(number)
        shelf.note(noted)
        shelf.settle([Outcome(status="released", token=noted.token)], [Verdict()])
    assert (tmp_path / ".told-0.jsonl").stat().st_size < 80_000
    assert [left.outcomes for left in Outbox(tmp_path, "worker", 0).unacknowledged()] == [[]]
    shelf.close()
    assert not (tmp_path / ".told-0.jsonl").exists()


def test_a_kill_while_the_file_is_rewritten_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, replace = Outbox(tmp_path, "worker", 0), os.replace
    monkeypatch.setattr("crawler.store.outbox._SLACK", 0)
    notes.add(outcome(1))
    notes.add(outcome(2))

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        for number in range(3, 50):
            notes.add(outcome(number))
            notes.acknowledge([str(number)])
    monkeypatch.setattr(os, "replace", replace)
    (left,) = Outbox(tmp_path, "worker", 0).unacknowledged()
    assert {"1", "2"} <= {each.token for each in left.outcomes}
    notes.acknowledge(["1"])
    notes.add(outcome(50))
    notes.close()
    (left,) = Outbox(tmp_path, "worker", 0).unacknowledged()
    assert [each.token for each in left.outcomes] == ["2", "50"]
