"""A disk that is unavailable for a while: the length of the pause, its messages, and the work that continues."""

import errno
import logging
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from crawler.app.master_frontier import MasterFrontier
from crawler.errors import DiskError, DiskTrouble, NoHandles
from crawler.frontier.base import PROTOCOL
from crawler.frontier.ledger.database import disk_errors
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Outcome, Verdict
from crawler.store.disk import disk_faults
from crawler.store.full_disk_pause import DiskPause
from crawler.store.result_store import ResultStore
from crawler.worker.patient_calls import PatientFrontier, PatientStore
from tests.frontier.fakes import images

PATIENCE = 60.0


class Disk:
    """A disk in ``place`` that fails on demand, and a clock."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.number = 0
        self.pause = DiskPause(place, PATIENCE, clock=lambda: self.now)
        monkeypatch.setattr("crawler.store.full_disk_pause.probe", self._probe)

    def refuse(self, number: int = errno.ENOSPC) -> None:
        self.number = number

    def mend(self) -> None:
        self.number = 0

    def _probe(self, directory: Path) -> None:
        if self.number:
            raise trouble(self.number)


def trouble(number: int) -> DiskError:
    """Return the error that the disk's failure is translated to."""
    with pytest.raises(DiskError) as caught, disk_faults(Path("here")):
        raise OSError(number, "refused")
    return caught.value


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk full"),
        (errno.EDQUOT, "disk quota used up"),
        (errno.EROFS, "disk read-only"),
        (errno.EIO, "disk reports errors"),
        (errno.EMFILE, "too many open files"),
        (errno.ENFILE, "too many open files"),
    ],
)
def test_a_temporary_failure_starts_a_pause_with_one_message(
    disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int, words: str
) -> None:
    disk.refuse(number)
    assert disk.pause.begin(trouble(number)) and disk.pause.begin(trouble(number))
    assert (disk.pause.is_on, disk.pause.trouble) == (True, words)
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith(f"paused: {words} ({tmp_path}") and f"ends after {PATIENCE:.0f} s" in said
    assert ("MB free" in said) == (number in (errno.ENOSPC, errno.EDQUOT))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTDIR, errno.EEXIST])
def test_a_permanent_failure_starts_no_pause(disk: Disk, number: int) -> None:
    assert not disk.pause.begin(trouble(number)) and not disk.pause.is_on


def test_without_patience_there_is_no_pause(tmp_path: Path) -> None:
    pause = DiskPause(tmp_path)
    pause.suspect()
    assert not pause.begin(trouble(errno.ENOSPC)) and not pause.look()


def test_the_pause_ends_once_the_disk_is_writable(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    disk.refuse(errno.EIO)
    disk.pause.begin(trouble(errno.EIO))
    disk.now = 30.0
    assert disk.pause.look()
    disk.mend()
    assert disk.pause.look()  # no second probe at once
    disk.now = 40.0
    assert not disk.pause.look() and disk.pause.trouble == ""
    assert "resumed" in caplog.messages[-1]


def test_a_full_disk_needs_a_minimum_of_free_space(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = [100 * 2**30, 0, 63 * 2**20]
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), dict(zip(_USAGE, usage, strict=True))))
    disk.pause.begin(trouble(errno.ENOSPC))
    disk.now = 5.0
    assert disk.pause.look()
    usage[2] = 65 * 2**20
    disk.now = 10.0
    assert not disk.pause.look()


_USAGE = ("total", "used", "free")


def test_pictures_on_a_disk_of_their_own_are_probed_there(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = tmp_path / "images"
    pictures.mkdir()
    free = {tmp_path: 68 * 2**30, pictures: 3_000_000}
    monkeypatch.setattr("crawler.store.full_disk_pause._device", lambda place: place == pictures)
    monkeypatch.setattr(
        "shutil.disk_usage", lambda place: type("Usage", (), {"total": 100 * 2**30, "free": free[place]})
    )
    disk.pause.begin(trouble(errno.ENOSPC))
    assert f"disk full ({pictures}, 3.0 MB free)" in caplog.messages[-1]
    disk.now = 5.0
    assert disk.pause.look()
    free[pictures] *= 100
    disk.now = 10.0
    assert not disk.pause.look() and caplog.messages[-1].startswith(f"resumed: {pictures} ")


def test_a_lasting_failure_ends_with_the_first_error(disk: Disk) -> None:
    disk.refuse()
    first = trouble(errno.ENOSPC)
    disk.pause.begin(first)
    disk.now = PATIENCE - 0.1
    assert disk.pause.look()
    disk.now = PATIENCE
    with pytest.raises(DiskTrouble) as caught:
        disk.pause.look()
    assert caught.value is first and caught.value.code == 3


def test_a_disk_that_accepts_only_the_probe_ends_the_patience(disk: Disk) -> None:
    ups = 0
    with pytest.raises(DiskTrouble):
        while ups < 100:
            disk.pause.begin(trouble(errno.EDQUOT))
            disk.now += 2.0
            ups += not disk.pause.look()
    assert 1 < ups < 30


def test_successful_writes_renew_the_patience(disk: Disk) -> None:
    for _ in range(100):
        disk.pause.begin(trouble(errno.EDQUOT))
        disk.now += 2.0
        assert not disk.pause.look()
        disk.pause.worked()


def test_a_successful_write_during_a_pause_counts_after_the_pause(disk: Disk) -> None:
    disk.refuse()
    disk.pause.begin(trouble(errno.ENOSPC))
    disk.now = PATIENCE - 10.0
    disk.pause.worked()  # a flush that was in progress
    disk.now = PATIENCE - 5.0
    disk.mend()
    assert not disk.pause.look()
    disk.refuse()
    disk.pause.begin(trouble(errno.ENOSPC))
    disk.now += PATIENCE - 6.0
    assert disk.pause.look(), "the last success was five seconds of failures earlier"
    disk.now += 2.0
    with pytest.raises(DiskTrouble):
        disk.pause.look()


def test_a_suspected_failure_is_probed_at_once(disk: Disk) -> None:
    disk.pause.suspect()
    assert not disk.pause.look()
    disk.refuse(errno.EROFS)
    assert not disk.pause.look()
    disk.pause.suspect()
    assert disk.pause.look() and disk.pause.trouble == "disk read-only"


def test_through_waits_and_repeats_the_call(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def act() -> str:
        tries.append(disk.now)
        if len(tries) < 3:
            raise trouble(errno.ENOSPC)
        return "done"

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            disk.now += timeout or 0.0
            return self.is_set()

    assert disk.pause.through(act, Stop()) == "done"
    assert len(tries) == 3 and tries[-1] < PATIENCE
    stopped = Stop()
    stopped.set()
    tries.clear()
    with pytest.raises(DiskTrouble):
        disk.pause.through(act, stopped)


def test_the_errors_of_the_database_are_distinguished() -> None:
    def met(code: int) -> DiskError:
        error = sqlite3.OperationalError("trouble")
        error.sqlite_errorcode = code
        with pytest.raises(DiskError) as caught, disk_errors("it"):
            raise error
        return caught.value

    assert type(met(sqlite3.SQLITE_FULL)) is DiskTrouble
    assert type(met(sqlite3.SQLITE_IOERR_WRITE)) is DiskTrouble
    assert type(met(sqlite3.SQLITE_READONLY)) is DiskTrouble
    assert type(met(sqlite3.SQLITE_IOERR_SHORT_READ)) is DiskError
    assert type(met(sqlite3.SQLITE_CORRUPT)) is DiskError
    assert type(trouble(errno.EMFILE)) is NoHandles


class Refusing(SqliteFrontier):
    """A frontier whose disk fails a number of calls."""

    left = 2

    def _maybe(self) -> None:
        self.left -= 1
        if self.left >= 0:
            raise trouble(errno.ENOSPC)

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        self._maybe()
        return super().complete(worker, outcomes, ended_turns)


def test_an_outcome_refused_by_a_frontier_with_a_full_disk_is_reported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.store.full_disk_pause.RETRY_SECONDS", 0.01)
    frontier = Refusing(None, Policy(robots=False, delay=0.0))
    over = threading.Event()
    frontier.put(images(1))
    frontier.hello("w", PROTOCOL)
    (turn,) = frontier.lease("w", ("image",), 1, 60.0, 0.0).turns
    outcome = Outcome(status="done", reason="http-404", token=turn.leases[0].token)
    (verdict,) = PatientFrontier("w", frontier, over).complete([outcome], [turn.id])
    assert verdict.state == "accepted" and frontier.left < 0
    over.set()
    frontier.left = 5
    with pytest.raises(DiskTrouble):
        PatientFrontier("w", frontier, over).complete([outcome], [])
    frontier.close()


def test_a_master_s_frontier_leases_nothing_during_the_pause(disk: Disk, tmp_path: Path) -> None:
    rules = Policy(robots=False, delay=0.0)
    frontier = MasterFrontier(tmp_path / "frontier.sqlite", rules, settings={}, disk=disk.pause)
    frontier.put(images(1))
    disk.pause.begin(trouble(errno.ENOSPC))
    frontier.hold(True)
    grant = frontier.lease("w", ("image",), 1, 60.0, 0.0)
    assert (grant.state, grant.turns) == ("wait", ())
    assert (frontier.stats().is_paused, frontier.stats().trouble) == (True, "disk full")
    frontier.pause(True)
    frontier.hold(False)
    assert not frontier.lease("w", ("image",), 1, 60.0, 0.0).turns  # paused by the user
    frontier.pause(False)
    assert frontier.lease("w", ("image",), 1, 60.0, 0.0).turns
    frontier.close()


class Shelf(ResultStore):
    """A result store that fails on demand."""

    def __init__(self) -> None:
        self.error: DiskError | None = None
        self.settled: list[Sequence[Outcome]] = []

    def note(self, outcome: Outcome) -> None: ...
    def keep(self, outcomes: Sequence[Outcome]) -> None: ...

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], *, worker: str = "") -> None:
        if self.error is not None:
            raise self.error
        self.settled.append(outcomes)


def test_verdicts_received_during_the_pause_are_settled_afterwards_in_order(disk: Disk) -> None:
    shelf, batches = Shelf(), [[Outcome(status="done")], [Outcome(status="retry")]]
    keeping = PatientStore(shelf, disk.pause)
    shelf.error = trouble(errno.ENOSPC)
    for batch in batches:
        keeping.settle(batch, [])
    assert disk.pause.is_on and shelf.settled == []
    stop = threading.Event()
    stop.set()
    with pytest.raises(DiskTrouble):
        keeping.finish(stop)
    shelf.error = None
    disk.now = 10.0
    assert not disk.pause.look()
    keeping.go_on()
    assert shelf.settled == batches
    keeping.finish(stop)
    assert shelf.settled == batches


def test_without_patience_the_first_failure_to_settle_ends_the_worker(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.error = trouble(errno.ENOSPC)
    with pytest.raises(DiskTrouble):
        PatientStore(shelf, DiskPause(tmp_path)).settle([], [])
