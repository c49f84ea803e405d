"""The gap between two visits, read from the log of the host: after kills, a restart, and suspended workers."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, Start, ended_well, fleet_for, kill_for_a_while
from tests.support.pictures import PictureHost, gaps, most_at_once
from tests.support.processes import commands, wait_until

pytestmark = pytest.mark.fire

LEASE = 4.0
#: Maximum delay between the sending of a request and its arrival at the host, caused by this machine.
JITTER = 0.04


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "crawler.toml").write_text(f"[queue]\nlease = {LEASE}\n")
    with commands(tmp_path) as starter:
        yield starter


def put_to_sleep(fleet: Fleet) -> None:
    """Suspend the holder of the turn for longer than its lease, and continue it."""
    holders: list[str] = []

    def is_held() -> bool:
        holders[:] = fleet.holders()
        return bool(holders)

    wait_until(is_held, "a turn of a worker")
    sleeper = fleet.running[holders[0]].process
    sleeper.send_signal(signal.SIGSTOP)
    time.sleep(LEASE + 0.5)  # the fault itself; there is no state to wait for
    sleeper.send_signal(signal.SIGCONT)


def is_paced(starts: Sequence[float], least: float, spare: int) -> bool:
    """Return whether no two starts are closer than ``least``, after removing up to ``spare`` of them."""
    close = next((n for n in range(1, len(starts)) if starts[n] - starts[n - 1] < least), None)
    if close is None or not spare:
        return close is None
    return any(is_paced([*starts[:n], *starts[n + 1 :]], least, spare - 1) for n in (close - 1, close))


@pytest.mark.parametrize(("machines", "threads"), [(1, 1), (4, 1), (4, 4)], ids=["one", "four", "sixteen"])
def test_a_host_sees_one_worker_at_its_gap_despite_kills_and_pauses(
    start: Start, tmp_path: Path, machines: int, threads: int
) -> None:
    number, gap = 28, 0.3
    with PictureHost(delay=0.03) as host:
        fleet = fleet_for(start, host, number, tmp_path, "--delay", gap, machines=machines, threads=threads)
        kill_for_a_while(fleet, host, number, kills=4)
        sleeps = int(os.name != "nt")
        if sleeps:
            put_to_sleep(fleet)
        assert ended_well(fleet, number), fleet.said
        visits = host.visits
    sys.stdout.write(
        f"{len(visits)} requests, closest {[round(seconds, 3) for seconds in sorted(gaps(visits))[:4]]} s\n"
    )
    assert most_at_once(visits) == 1
    assert is_paced([visit.started for visit in visits], gap - JITTER, spare=sleeps)  # one late request for each pause
