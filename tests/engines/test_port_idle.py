"""A thousand connections that say nothing to a master with few descriptors: its rest, and the workers it has."""

import socket
import sys
import threading
from pathlib import Path

import pytest

from tests.engines.crowd import crowd
from tests.engines.master import OFTEN, Master, at_work, master

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="bounds a process's descriptors with `resource`")

CROWD, DESCRIPTORS = 1_000, 256
#: Those who have the key are let in slowly once there are too many, so there are fewer of them.
IDLERS = 140
#: Seconds for which is measured.
LONG = 5.0
#: Seconds in which a worker must be served: hundredths of one on an idle machine, 3 were seen on a very busy one.
SOON = 10.0
#: Part of a core that the master may take.
MOST = 0.05


def load(one: Master) -> float:
    before = one.vitals()
    threading.Event().wait(LONG)  # what is measured is a length of time
    return one.vitals().load(before)


def elsewhere() -> str:
    """Another loopback address than the usual one, where the system has it."""
    try:
        with socket.create_server(("127.0.0.2", 0)):
            return "127.0.0.2"
    except OSError:
        pytest.skip("this system has one loopback address only")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_thousand_strangers_who_come_again_and_again_cost_little_and_keep_nobody_out(
    tmp_path: Path, tls: bool
) -> None:
    calls: list[float] = []
    arrivals: list[float] = []
    with master(tmp_path, files=DESCRIPTORS, tls=tls) as one, at_work(one.join, calls):
        crowded = crowd(one.path, CROWD, has_key=False, comes_again=True, source=elsewhere())
        with crowded as strangers, at_work(one.join, arrivals, anew=True):
            made = strangers.count()[1]
            assert load(one) < MOST
            assert strangers.count()[1] > made + 100  # they did come again
            assert one.vitals().files < DESCRIPTORS / 2 + 20
        assert one.vitals().faults == []
    assert len(calls) > LONG / OFTEN / 2 and max(calls) < SOON
    assert arrivals and max(arrivals) < SOON


def test_a_thousand_strangers_who_stay_cost_nothing(tmp_path: Path) -> None:
    calls: list[float] = []
    with (
        master(tmp_path, files=DESCRIPTORS) as one,
        at_work(one.join, calls),
        crowd(one.path, CROWD, has_key=False, comes_again=False) as strangers,
    ):
        assert load(one) < MOST
        assert one.vitals().files < DESCRIPTORS / 2 + 20
        assert strangers.count()[1] == CROWD
    assert len(calls) > LONG / OFTEN / 2 and max(calls) < SOON


@pytest.mark.parametrize("comes_again", [False, True])
def test_idle_workers_beyond_measure_make_room_for_those_at_work(tmp_path: Path, comes_again: bool) -> None:
    calls: list[float] = []
    with master(tmp_path, files=DESCRIPTORS) as one, at_work(one.join, calls):
        with crowd(one.path, IDLERS, has_key=True, comes_again=comes_again) as idlers:
            assert load(one) < MOST
            assert comes_again or idlers.count()[0] < DESCRIPTORS / 2  # the others had to go
            assert one.vitals().files < DESCRIPTORS / 2 + 20
        assert one.vitals().faults == []
    assert len(calls) > LONG / OFTEN / 2 and max(calls) < SOON
