"""A thousand idle connections to a master with few descriptors: its load, and service for its workers."""

import socket
import sys
import threading
from pathlib import Path

import pytest

from crawler.queue import wire
from crawler.queue.server import _AT_ONCE, _PAUSE
from tests.queue.crowd import crowd
from tests.queue.master import Master, at_work, master
from tests.support.processes import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits descriptors with the module resource")

CROWD, DESCRIPTORS = 1_000, 256
#: Connections with the key are accepted slowly once there are too many, so there are fewer of them.
IDLERS = 140
#: Seconds of a measurement.
LONG = 3.0
#: Seconds in which a worker must be served: hundredths of one on an idle machine, 3 were seen on a very busy one.
SOON = 30.0
#: Allowed cost, in units of a worker's call measured before: of a connection without the key, of one with it, and of
#: the idle master. A tenth of it is what was seen.
A_STRANGER, A_WORKER, A_REST = 1, 25, 800
#: Connections that are opened again during a measurement.
AGAIN = 300


class Bill:
    """The work of a master, in units of the processor time of one call, independent of the machine's load."""

    def __init__(self, one: Master, calls: list[float]) -> None:
        self._one, self._calls = one, calls
        self._begin()
        threading.Event().wait(LONG)  # the quantity measured is a period of time
        wait_until(lambda: len(calls) > self._number + 5, "some calls")
        vitals = one.vitals()
        self._call = (vitals.cpu - self._before.cpu) / (len(calls) - self._number)
        self._begin()

    def _begin(self) -> None:
        self._before, self._number = self._one.vitals(), len(self._calls)

    def begin(self) -> None:
        """Count from now on."""
        self._begin()

    def check(self, connections: int = 0, each: int = 0) -> None:
        """Fail if more was used than the worker's calls and this number of connections may cost."""
        spent, calls = self._one.vitals().cpu - self._before.cpu, len(self._calls) - self._number
        most = 3 * calls + each * connections + A_REST
        print(f"{spent / self._call:.0f} of {most}: {calls} calls, {connections} connections")  # noqa: T201
        assert spent / self._call < most


def elsewhere() -> str:
    """Return another loopback address than the usual one, if the system has it."""
    try:
        with socket.create_server(("127.0.0.2", 0)):
            return "127.0.0.2"
    except OSError:
        pytest.skip("this system has one loopback address only")


@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=pytest.mark.fire)], ids=["plain", "tls"])
def test_a_thousand_reconnecting_unauthenticated_connections_cost_little_and_block_no_worker(
    tmp_path: Path, tls: bool
) -> None:
    calls: list[float] = []
    arrivals: list[float] = []
    with master(tmp_path, files=DESCRIPTORS, tls=tls) as one, at_work(one.join, calls):
        bill = Bill(one, calls)
        crowded = crowd(one.path, CROWD, has_key=False, comes_again=True, source=elsewhere())
        with crowded as strangers, at_work(one.join, arrivals, anew=True):
            made, began = strangers.count()[1], one.vitals().at
            bill.begin()
            wait_until(lambda: strangers.count()[1] > made + AGAIN, "they come again")
            wait_until(lambda: bool(arrivals), "a worker that reconnects")
            again, seconds = strangers.count()[1] - made, one.vitals().at - began
            # The server accepts a fixed number at a time; as many wait in the system before that.
            assert again <= (seconds / _PAUSE + 2) * (_AT_ONCE + 1) + wire.BACKLOG
            bill.check(again + A_WORKER * len(arrivals), A_STRANGER)
            assert one.vitals().files < DESCRIPTORS / 2 + 20
        assert one.vitals().faults == []
    assert max(calls) < SOON and max(arrivals) < SOON


def test_a_thousand_idle_unauthenticated_connections_cost_nothing(tmp_path: Path) -> None:
    calls: list[float] = []
    with master(tmp_path, files=DESCRIPTORS) as one, at_work(one.join, calls):
        bill = Bill(one, calls)
        with crowd(one.path, CROWD, has_key=False, comes_again=False) as strangers:
            bill.begin()
            threading.Event().wait(LONG)  # the quantity measured is a period of time
            bill.check()
            assert one.vitals().files < DESCRIPTORS / 2 + 20
            assert strangers.count()[1] == CROWD
    assert max(calls) < SOON


@pytest.mark.parametrize("comes_again", [False, pytest.param(True, marks=pytest.mark.fire)])
def test_surplus_idle_workers_are_closed_in_favour_of_working_ones(tmp_path: Path, comes_again: bool) -> None:
    calls: list[float] = []
    with master(tmp_path, files=DESCRIPTORS) as one, at_work(one.join, calls):
        bill = Bill(one, calls)
        with crowd(one.path, IDLERS, has_key=True, comes_again=comes_again) as idlers:
            made = idlers.count()[1]
            bill.begin()
            threading.Event().wait(LONG)  # the quantity measured is a period of time
            bill.check(idlers.count()[1] - made, A_WORKER)
            assert comes_again or idlers.count()[0] < DESCRIPTORS / 2  # the others were closed
            assert one.vitals().files < DESCRIPTORS / 2 + 20
        assert one.vitals().faults == []
    assert max(calls) < SOON
