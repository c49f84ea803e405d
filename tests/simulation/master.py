"""The simulated master: life after life, each with the real frontier on the files that the last one has left."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from crawler.engines import calls, wire
from crawler.engines.calls import RESULTS, TASKS
from crawler.engines.manager import ResultQueue, TaskQueue
from crawler.errors import CrawlerError, DiskError, to_wire
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Grant, Kind, Outcome, Request, Verdict
from tests.frontier.disk import copy_of, failing, hooked, unsynced
from tests.simulation.judge import Judge
from tests.simulation.loop import Loop, Process

#: Seconds since the epoch at which every simulation begins.
_EPOCH = 1.7e9

#: Takes an answer; False where whoever asked has left.
Answer = Callable[[bytes], bool]


class Master:
    """Whoever owns the frontier.

    Args:
        folder: where its files are.
        seeds: what it puts at each start.
    """

    def __init__(self, loop: Loop, folder: Path, policy: Policy, seeds: Sequence[Request], judge: Judge) -> None:
        self.process = Process(loop, "master")
        self._loop, self._policy, self._seeds, self._judge = loop, policy, seeds, judge
        self._path = folder / "master" / "frontier.sqlite"
        self._path.parent.mkdir()
        self._frontier: SqliteFrontier | None = None
        self._ahead = 0.0
        #: Commits that the disk is going to refuse.
        self.refusals = 0
        #: "before" or "after": it is killed at that side of the next commit.
        self.dies: str = ""
        #: Files that a kill in the midst of a call leaves.
        self._left: Path | None = None
        self.on_start: list[Callable[[], None]] = []
        self.on_death: list[Callable[[], None]] = []

    @property
    def frontier(self) -> SqliteFrontier:
        if self._frontier is None:
            raise AssertionError("the master is dead")
        return self._frontier

    def wall(self) -> float:
        """Seconds since the epoch, as this box has it."""
        return _EPOCH + self._loop.now + self._ahead

    def set_clock(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._loop.note(f"the wall clock jumps by {seconds:.0f}")
        self._ahead += seconds
        self._judge.clock_was_set = True

    # lives --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.process.start()
        clock, dice = self.process.clock, self._loop.dice.random
        self._frontier = unsynced(SqliteFrontier(self._path, self._policy, clock=clock, wall=self.wall, dice=dice))
        self._judge.begins(self._frontier)
        self._frontier.put(self._seeds)
        self._judge.discovers(self._seeds)
        for action in self.on_start:
            action()

    def kill(self, *, is_power_cut: bool = False) -> None:
        """At once, with the files as they are now; a power cut takes what was not synced."""
        self.process.end("loses power" if is_power_cut else "is killed")
        left = self._left or copy_of(self._path).parent
        self._left, self.dies = None, ""
        self.frontier.close()
        self._frontier = None
        shutil.rmtree(self._path.parent)
        left.rename(self._path.parent)
        if is_power_cut:
            self._cut(self._path.with_name("leases.log"))
            self._judge.forgets_leases()
        for action in self.on_death:
            action()

    def close(self) -> None:
        self.process.end("closes")
        self.frontier.close()
        self._frontier = None
        for action in self.on_death:
            action()

    def _cut(self, log: Path) -> None:
        """Only a beginning of the file has come to the disk."""
        if log.exists():
            data = log.read_bytes()
            # Tokens make no line longer or shorter, so the place is the same in every run.
            log.write_bytes(data[: self._loop.dice.randint(0, len(data))])

    # calls --------------------------------------------------------------------------------------------------------

    def serve(self, frame: bytes, answer: Answer) -> None:
        """Carry out a call that came as bytes."""
        ident, method, arguments = calls.read_call(frame)
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
        """As the server does for a worker that has left before its turns could be sent."""
        tokens = [lease.token for turn in grant.turns for lease in turn.leases]
        released = tuple(Outcome(status="released", token=token) for token in tokens)
        self.complete(worker, released, tuple(turn.id for turn in grant.turns))

    def complete(self, worker: str, outcomes: tuple[Outcome, ...], ended: tuple[str, ...]) -> None:
        """Settle something; nobody waits for the answer."""
        arguments = (worker, outcomes, ended)
        self._carry_out("put", arguments, lambda: self.frontier.complete(*arguments))

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float) -> Grant | None:
        """A lease of a worker within this process; None where the disk refuses, or all is over for this life."""
        arguments = (worker, tuple(kinds), limit, seconds)
        done = self._carry_out("lease", arguments, lambda: self.frontier.lease(*arguments, 0.0))
        return done[1] if done is not None and isinstance(done[1], Grant) else None

    def tell(self, worker: str, outcomes: tuple[Outcome, ...], ended: tuple[str, ...]) -> tuple[Verdict, ...] | None:
        """Outcomes of a worker within this process."""
        arguments = (worker, outcomes, ended)
        done = self._carry_out("put", arguments, lambda: self.frontier.complete(*arguments))
        return done[1] if done is not None and isinstance(done[1], tuple) else None

    def _carry_out(self, method: str, arguments: Any, act: Callable[[], Any]) -> tuple[str, Any] | None:
        """The answer; None where the master did not outlive it."""
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
            self._judge.after(frontier, method, arguments, None)
            return "#ERROR", to_wire(error)
        except CrawlerError as error:
            return "#ERROR", to_wire(error)
        if self._left is not None:
            self._judge.cut_short(method, arguments)
            self.kill()
            return None
        self._judge.after(frontier, method, arguments, result)
        return "#RETURN", result

    def _leave(self) -> None:
        if self._left is None:
            self._loop.note("master is going to be found killed at a commit")
            self._left = copy_of(self._path).parent
