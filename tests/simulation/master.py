"""The simulated master: restarted many times, each time with the real frontier on the files of the previous life."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from crawler.errors import CrawlerError, DiskError, to_wire
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Grant, Kind, Outcome, Request, Verdict
from crawler.queue import protocol, wire
from crawler.queue.manager import ResultQueue, TaskQueue
from crawler.queue.protocol import RESULTS, TASKS
from tests.frontier.disk import copy_of, failing, hooked, unsynced
from tests.simulation.invariants import Invariants
from tests.simulation.loop import Loop, Process

#: Seconds since the epoch at which every simulation begins.
_EPOCH = 1.7e9

#: Takes a response; returns False if the caller has disconnected.
Answer = Callable[[bytes], bool]


class Master:
    """The process that owns the frontier.

    Args:
        folder: for its files.
        seeds: requests that it puts at each start.
    """

    def __init__(
        self, loop: Loop, folder: Path, policy: Policy, seeds: Sequence[Request], invariants: Invariants
    ) -> None:
        self.process = Process(loop, "master")
        self._loop, self._policy, self._seeds, self._invariants = loop, policy, seeds, invariants
        self._path = folder / "master" / "frontier.sqlite"
        self._path.parent.mkdir()
        self._frontier: SqliteFrontier | None = None
        self._ahead = 0.0
        #: Number of commits that the disk will refuse.
        self.refusals = 0
        #: "before" or "after": it is killed on that side of the next commit.
        self.dies: str = ""
        #: Files left by a kill in the middle of a call.
        self._left: Path | None = None
        self.on_start: list[Callable[[], None]] = []
        self.on_death: list[Callable[[], None]] = []

    @property
    def frontier(self) -> SqliteFrontier:
        if self._frontier is None:
            raise AssertionError("the master is dead")
        return self._frontier

    def wall(self) -> float:
        """Return the seconds since the epoch by this machine's wall clock."""
        return _EPOCH + self._loop.now + self._ahead

    def set_clock(self, seconds: float) -> None:
        """Let an administrator set the wall clock."""
        self._loop.note(f"the wall clock jumps by {seconds:.0f}")
        self._ahead += seconds
        self._invariants.clock_was_set = True

    # lives ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.process.start()
        clock, dice = self.process.clock, self._loop.dice.random
        self._frontier = unsynced(SqliteFrontier(self._path, self._policy, clock=clock, wall=self.wall, dice=dice))
        self._invariants.begins(self._frontier)
        self._frontier.put(self._seeds)
        self._invariants.discovers(self._seeds)
        for action in self.on_start:
            action()

    def kill(self, *, is_power_cut: bool = False) -> None:
        """End it at once, with the files in their present state; a power cut removes unsynced data."""
        self.process.end("loses power" if is_power_cut else "is killed")
        left = self._left or copy_of(self._path).parent
        self._left, self.dies = None, ""
        self.frontier.close()
        self._frontier = None
        shutil.rmtree(self._path.parent)
        left.rename(self._path.parent)
        if is_power_cut:
            self._cut(self._path.with_name("leases.log"))
            self._invariants.forgets_leases()
        for action in self.on_death:
            action()

    def close(self) -> None:
        self.process.end("closes")
        self.frontier.close()
        self._frontier = None
        for action in self.on_death:
            action()

    def _cut(self, log: Path) -> None:
        """Keep only a random beginning of the file."""
        if log.exists():
            data = log.read_bytes()
            # Tokens have a fixed length, so the position is the same in every run.
            log.write_bytes(data[: self._loop.dice.randint(0, len(data))])

    # calls ------------------------------------------------------------------------------------------------------------

    def serve(self, frame: bytes, answer: Answer) -> None:
        """Carry out a call that arrived as bytes."""
        ident, method, arguments = protocol.read_call(frame)
        if method == "lease":
            *others, wait = arguments
            self._serve_lease(tuple(others), self._loop.now + wait, answer)
            return
        frontier = self.frontier
        view: Any = {TASKS: TaskQueue, RESULTS: ResultQueue}[str(ident)](frontier)
        done = self._carry_out(method, arguments, lambda: getattr(view, method)(*arguments))
        if done is not None:
            answer(wire.encode(done))

    def _serve_lease(self, arguments: tuple[Any, ...], deadline: float, answer: Answer) -> None:
        """Wait for work in small steps, as nothing may block here."""
        worker, kinds, limit, seconds = arguments
        act = partial(self.frontier.lease, worker, kinds, limit, seconds, 0.0)
        done = self._carry_out("lease", arguments, act)
        if done is None:
            return
        grant = done[1]
        if isinstance(grant, Grant) and grant.state == "wait" and self._loop.now < deadline:
            nap = min(deadline - self._loop.now, max(0.001, grant.retry_in))
            self.process.later(nap, lambda: self._serve_lease(arguments, deadline, answer))
            return
        if not answer(wire.encode(done)) and isinstance(grant, Grant) and grant.turns:
            self._take_back(arguments[0], grant)

    def _take_back(self, worker: str, grant: Grant) -> None:
        """Release the turns, as the server does for a worker that has disconnected before they were sent."""
        tokens = [lease.token for turn in grant.turns for lease in turn.leases]
        released = tuple(Outcome(status="released", token=token) for token in tokens)
        self.complete(worker, released, tuple(turn.id for turn in grant.turns))

    def complete(self, worker: str, outcomes: tuple[Outcome, ...], ended: tuple[str, ...]) -> None:
        """Settle outcomes without a caller that waits for the verdicts."""
        arguments = (worker, outcomes, ended)
        self._carry_out("put", arguments, lambda: self.frontier.complete(*arguments))

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float) -> Grant | None:
        """Lease for a worker in this process; return None if the disk refuses, or the master dies."""
        arguments = (worker, tuple(kinds), limit, seconds)
        done = self._carry_out("lease", arguments, lambda: self.frontier.lease(*arguments, 0.0))
        return done[1] if done is not None and isinstance(done[1], Grant) else None

    def tell(self, worker: str, outcomes: tuple[Outcome, ...], ended: tuple[str, ...]) -> tuple[Verdict, ...] | None:
        """Report outcomes of a worker in this process."""
        arguments = (worker, outcomes, ended)
        done = self._carry_out("put", arguments, lambda: self.frontier.complete(*arguments))
        return done[1] if done is not None and isinstance(done[1], tuple) else None

    def _carry_out(self, method: str, arguments: Any, act: Callable[[], Any]) -> tuple[str, Any] | None:
        """Return the result, or None if the master did not survive the call."""
        frontier = self.frontier
        try:
            if self.refusals > 0 and method in ("put", "lease"):
                self.refusals -= 1
                with failing(frontier):
                    result = act()
            elif self.dies:
                with hooked(frontier, "COMMIT", **{self.dies: self._leave}):
                    result = act()
            else:
                result = act()
        except DiskError as error:
            self._invariants.after(frontier, method, arguments, None)
            return "#ERROR", to_wire(error)
        except CrawlerError as error:
            return "#ERROR", to_wire(error)
        if self._left is not None:
            self._invariants.cut_short(method, arguments)
            self.kill()
            return None
        self._invariants.after(frontier, method, arguments, result)
        return "#RETURN", result

    def _leave(self) -> None:
        if self._left is None:
            self._loop.note("master is going to be found killed at a commit")
            self._left = copy_of(self._path).parent
