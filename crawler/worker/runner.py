"""Interface of runners, which carry out the turns of a worker, and the runner with threads.

The other runner is `crawler.worker.loop_runner.LoopRunner`.
"""

import queue
import threading
from collections.abc import Callable
from typing import Protocol

from crawler.model import Outcome, Request
from crawler.worker.held_turns import HeldTurn, HeldTurns
from crawler.worker.turn import work_off


class Desk(Protocol):
    """The worker as its runner sees it. Any thread may call any method."""

    name: str

    @property
    def turns(self) -> HeldTurns:
        """The turns of the worker."""
        ...

    @property
    def capacity(self) -> int:
        """Requests that may be in progress at a time."""
        ...

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds."""
        ...

    def thread(self, name: str, task: Callable[[], None]) -> threading.Thread:
        """Return a thread for a task, whose first error stops the worker."""
        ...

    def may_start(self, held: HeldTurn, at: float) -> bool | None:
        """Return whether a request may start now; None: ask again a little later."""
        ...

    def attempt(self, request: Request) -> Outcome:
        """Return the outcome of a request from its handler; this may take long."""
        ...

    def guarded(self, request: Request, act: Callable[[], Outcome]) -> Outcome:
        """Return the outcome of ``act``, or the outcome for its exception."""
        ...

    def take(self, held: HeldTurn, outcome: Outcome) -> bool:
        """Take the outcome of a lease; return whether the turn continues."""
        ...

    def end(self, held: HeldTurn) -> None:
        """Take the end of a turn."""
        ...


class Runner(Protocol):
    """Interface of an object that carries out turns, and which the worker creates at the start of its run."""

    def start(self, held: HeldTurn) -> None:
        """Carry out a turn; return at once."""
        ...

    def close(self) -> None:
        """Return when all turns have ended; no further one is started."""
        ...


class ThreadRunner:
    """A runner with one thread for each request that may be in progress; each carries out one turn at a time."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._todo: queue.SimpleQueue[HeldTurn | None] = queue.SimpleQueue()
        self._threads = [desk.thread(str(number), self._work) for number in range(desk.capacity)]
        for thread in self._threads:
            thread.start()

    def start(self, held: HeldTurn) -> None:
        self._todo.put(held)

    def close(self) -> None:
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (held := self._todo.get()) is not None:
            try:
                self._carry_out(held)
            finally:
                self._desk.end(held)

    def _carry_out(self, held: HeldTurn) -> None:
        desk = self._desk

        def may_start(at: float) -> bool:
            while (answer := desk.may_start(held, at)) is None:
                desk.turns.wait(at)
            return answer

        for outcome in work_off(held.turn, desk.attempt, may_start=may_start, clock=desk.clock):
            if not desk.take(held, outcome):
                return
