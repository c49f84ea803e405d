"""Retry-After: the whole fleet leaves a host alone for as long as it asked for, and not longer."""

import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from threading import Lock

import pytest

from tests.support.fleet import Fleet, Start
from tests.support.pictures import Answer, PictureHost
from tests.support.processes import commands, manifest_of

pytestmark = pytest.mark.fire

#: Tolerance of a wait, seconds.
EXACT = 1.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


class Window:
    """Answers ``before`` requests with pictures, then for ``busy`` seconds with the time until they are over."""

    def __init__(self, before: int, busy: float, *, as_date: bool) -> None:
        self._left, self._busy, self._as_date = before, busy, as_date
        self._lock = Lock()
        #: `time.monotonic` and seconds since the epoch; 0.0 before the first refusal.
        self.began = self.ends = self._ends_at = 0.0

    def answer(self, path: str) -> Answer | None:
        if path == "/robots.txt":
            return Answer(404, {})
        with self._lock:
            if self._left:
                self._left -= 1
                return None
            if not self.began:
                self.began, self._ends_at = time.monotonic(), time.time() + self._busy
                # A date has whole seconds only, so the end is rounded to one.
                self._ends_at = float(round(self._ends_at)) if self._as_date else self._ends_at
                self.ends = self.began + self._ends_at - time.time()
        rest = self.ends - time.monotonic()
        if rest <= 0:
            return None
        if self._as_date:
            return Answer(503, {"Retry-After": formatdate(self._ends_at, usegmt=True)})
        return Answer(429, {"Retry-After": str(max(1, round(rest)))})


@pytest.mark.parametrize(
    ("as_date", "is_killed", "gap"),
    [(False, False, 0.0), (True, True, 0.0), (False, True, 0.1), (True, False, 0.1)],
    ids=["seconds", "a date, and the master is killed", "seconds, a gap, and the master is killed", "a date, a gap"],
)
def test_all_workers_keep_to_retry_after(
    start: Start, tmp_path: Path, as_date: bool, is_killed: bool, gap: float
) -> None:
    number, before = 40, 16
    # Long enough for a master to start, and for the machines to find it: they try again every two seconds at least.
    window = Window(before, 7.0 if is_killed else 4.0, as_date=as_date)
    with PictureHost(delay=0.02, answer=window.answer) as host:
        master = ("--images", host.list_of(number, tmp_path), "--delay", gap)
        fleet = Fleet(start, tmp_path, master, {f"machine{n}": ("-t", 2) for n in range(3)})
        fleet.begin_all()
        assert host.wait_for(lambda asked: len(asked) >= before), fleet.said
        if is_killed:
            time.sleep(EXACT)  # by now all workers have been informed; there is no state to wait for
            fleet.kill("master")
        codes = fleet.ends()
        visits = [visit for visit in host.visits if visit.path != "/robots.txt"]
    assert set(codes.values()) == {0}, fleet.said
    assert [row.status for row in manifest_of(fleet.job)] == ["success"] * number
    inside = [visit.started - window.began for visit in visits if visit.status in (429, 503)]
    late = min(visit.started for visit in visits if visit.started >= window.ends) - window.ends
    sys.stdout.write(f"{len(inside)} came within the first {max(inside):.2f} s; the next {late:.2f} s after the end\n")
    assert max(inside) <= EXACT
    assert late <= EXACT
