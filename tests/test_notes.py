"""What is noted before it is told: all of a line or nothing of it, whatever the disk takes."""

from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from crawler.errors import DiskTrouble
from crawler.model import ImageRecord, Outcome
from crawler.notes import Notes


def outcome(number: int) -> Outcome:
    return Outcome(status="done", token=str(number), record=ImageRecord(url=f"http://a.example/{number}"))


class Small(FileIO):
    """A file on a disk that takes only some of what is written, then nothing, until there is room."""

    left: int | None = None

    def write(self, data: Any, /) -> int:
        if Small.left is None:
            return super().write(data)
        taken, Small.left = bytes(data)[: Small.left], 0
        return super().write(taken)


@pytest.mark.parametrize("room", [0, 1, 10])
def test_what_does_not_fit_leaves_nothing_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr("crawler.notes.FileIO", Small)
    notes = Notes(tmp_path, "worker", 0)
    notes.add(outcome(1))
    monkeypatch.setattr(Small, "left", room)
    with pytest.raises(DiskTrouble):
        notes.add(outcome(2))
    monkeypatch.setattr(Small, "left", None)
    notes.add(outcome(3))
    notes.close()
    (left,) = Notes(tmp_path, "worker", 0).left()
    assert (left.worker, [each.token for each in left.outcomes]) == ("worker", ["1", "3"])


def test_a_name_that_could_not_be_written_is_written_with_the_next_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawler.notes.FileIO", Small)
    notes = Notes(tmp_path, "worker", 0)
    notes.add(outcome(1))
    monkeypatch.setattr(Small, "left", 0)
    with pytest.raises(DiskTrouble):
        notes.settle(1)
    monkeypatch.setattr(Small, "left", None)
    notes.add(outcome(2))
    notes.close()
    (left,) = Notes(tmp_path, "other", 0).left()
    assert (left.worker, [each.token for each in left.outcomes]) == ("worker", ["2"])
