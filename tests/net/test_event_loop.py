"""The threads beside the event loop."""

import subprocess
import sys
import threading

from crawler.net.event_loop import Threads

PATIENCE = 20.0


def test_threads_run_calls_at_the_same_time_up_to_their_number() -> None:
    threads, barrier, met = Threads(2, "test"), threading.Barrier(2), list[int]()

    def meet() -> None:
        met.append(barrier.wait(PATIENCE))

    for _ in range(4):
        threads.submit(meet)
    threads.close(wait=True)
    assert sorted(met) == [0, 0, 1, 1]


def test_calls_that_have_not_begun_are_dropped_without_a_wait() -> None:
    threads, begun, go_on = Threads(1, "test"), threading.Event(), threading.Event()
    made: list[str] = []

    def first() -> None:
        begun.set()
        go_on.wait(PATIENCE)
        made.append("first")

    threads.submit(first)
    assert begun.wait(PATIENCE)
    threads.submit(lambda: made.append("second"))
    threads.close(wait=False)
    assert made == []
    go_on.set()
    threads.close(wait=True)
    assert made == ["first"]


def test_a_call_that_does_not_end_does_not_delay_the_end_of_the_process() -> None:
    script = (
        "import threading; from crawler.net.event_loop import Threads; begun = threading.Event()\n"
        "def call(): begun.set(); threading.Event().wait()\n"
        "Threads(1, 'test').submit(call); begun.wait()"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=PATIENCE, check=False).returncode == 0
