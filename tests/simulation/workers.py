"""A worker without threads: the behaviour of `Worker` and `DownloaderNode` as reactions to events.

Its turns are run by the real `work_off` and its outbox is the real one. Leasing, committing and renewing follow the
real worker's methods of the same names.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from msgspec import structs

from crawler.errors import RequestFailed
from crawler.frontier.base import PROTOCOL
from crawler.handler import failure
from crawler.model import Grant, Kind, Outcome, Renewal, Request, Verdict, WorkerInfo, describe
from crawler.queue.protocol import RESULTS, TASKS
from crawler.store.outbox import OutboxContents
from crawler.store.result_store import ResultStore
from crawler.worker import held_turns, turn
from crawler.worker.worker import WorkerSettings
from tests.simulation.line import Line
from tests.simulation.loop import Loop, Process
from tests.simulation.master import Master
from tests.simulation.politeness import HostLogs, Visit
from tests.simulation.steps import Start, Steps
from tests.simulation.web import Reply, Web

#: As in `crawler.worker`: seconds of a lease call, files and seconds of a flush, the wait for a busy host that
#: names none, the renewal interval on shared hosts, and a nap.
_POLL, _FLUSH_FILES, _FLUSH_SECONDS, _SHUN_SECONDS, _LISTEN, _NAP = 1.0, 100, 2.0, 1.0, 0.5, 0.25

Then = Callable[[Any], None]


class Way(Protocol):
    """The connection from a worker to its master; every call is answered in the end, unless the worker dies before."""

    def hello(self, worker: str, about: WorkerInfo, then: Then) -> None: ...

    def lease(self, worker: str, kinds: tuple[Kind, ...], limit: int, seconds: float, then: Then) -> None: ...

    def extend(self, worker: str, tokens: tuple[str, ...], seconds: float, then: Then) -> None: ...

    def complete(self, worker: str, outcomes: tuple[Outcome, ...], ended: tuple[str, ...], then: Then) -> None: ...


class Remote:
    """The connection over the network."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def hello(self, worker: str, about: WorkerInfo, then: Then) -> None:
        self._line.call(TASKS, "hello", worker, PROTOCOL, about, then=then)

    def lease(self, worker: str, kinds: tuple[Kind, ...], limit: int, seconds: float, then: Then) -> None:
        self._line.call(TASKS, "lease", worker, kinds, limit, seconds, _POLL, then=then, seconds=_POLL)

    def extend(self, worker: str, tokens: tuple[str, ...], seconds: float, then: Then) -> None:
        self._line.call(TASKS, "extend", worker, tokens, seconds, then=then)

    def complete(self, worker: str, outcomes: tuple[Outcome, ...], ended: tuple[str, ...], then: Then) -> None:
        self._line.call(RESULTS, "put", worker, outcomes, ended, then=then)


class Local:
    """Direct calls within the master's process, for the worker that walks pages; it dies with the master."""

    def __init__(self, master: Master) -> None:
        self._master, self._process = master, master.process

    def hello(self, worker: str, about: WorkerInfo, then: Then) -> None:
        self._process.later(0.0, lambda: then(self._master.frontier.hello(worker, PROTOCOL, about)))

    def lease(self, worker: str, kinds: tuple[Kind, ...], limit: int, seconds: float, then: Then) -> None:
        def ask() -> None:
            grant = self._master.lease(worker, kinds, limit, seconds)
            if grant is None:  # refused by the disk; a dead process waits in vain
                self._process.later(1.0, ask)
            else:
                nap = max(0.001, min(_POLL, grant.retry_in)) if grant.state == "wait" else 0.0
                self._process.later(nap, lambda: then(grant))

        self._process.later(0.0, ask)

    def extend(self, worker: str, tokens: tuple[str, ...], seconds: float, then: Then) -> None:
        self._process.later(0.0, lambda: then(self._master.frontier.extend(worker, tokens, seconds)))

    def complete(self, worker: str, outcomes: tuple[Outcome, ...], ended: tuple[str, ...], then: Then) -> None:
        def tell() -> None:
            verdicts = self._master.tell(worker, outcomes, ended)
            self._process.later(1.0, tell) if verdicts is None else then(verdicts)

        self._process.later(0.0, tell)


@dataclass(eq=False, kw_only=True)
class Held(held_turns.HeldTurn):
    """A turn that the worker holds."""

    steps: Steps
    #: The current request.
    visit: Visit | None = None


@dataclass(frozen=True)
class Ended:
    turn: str


class Life:
    """One life of a worker, from its first hello on.

    Args:
        process: in which it lives.
        shelf: its result store; None for a worker that walks pages.
        on_end: called when the worker learns of the end.
        on_crash: called when a picture crashes it.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        way: Way,
        kinds: tuple[Kind, ...],
        settings: WorkerSettings,
        *,
        loop: Loop,
        web: Web,
        host_logs: HostLogs,
        shelf: ResultStore | None,
        wall: Callable[[], float],
        on_end: Callable[[], None],
        on_crash: Callable[[], None],
    ) -> None:
        self.name, self.process, self._way, self._kinds, self._settings = name, process, way, kinds, settings
        self._loop, self._web, self._host_logs, self._shelf = loop, web, host_logs, shelf
        self._wall, self._on_end, self._on_crash = wall, on_end, on_crash
        self._about = WorkerInfo(life=f"{name} {process.life}", wall=1.0 + process.life)
        self._held: dict[str, Held] = {}
        self._avoided = held_turns.AvoidedHosts()
        self._busy = 0
        self._finished: list[Outcome | Ended] = []
        self._waiting: list[Outcome] = []
        self._since = 0.0
        self._is_asking = self._is_telling = self._is_stopping = False

    # joining ----------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        if self._shelf is None:
            self._way.hello(self.name, self._about, then=self._work)
        else:
            self._way.hello(self.name, WorkerInfo(stays=True), then=lambda _: self._tell_left_outcomes())

    def _tell_left_outcomes(self) -> None:
        shelf = self._shelf
        assert shelf is not None
        found = shelf.unacknowledged()

        def tell_next() -> None:
            left = next(found, None)
            if left is None:
                self._way.hello(self.name, self._about, then=self._work)
                return
            outcomes = tuple(left.outcomes)
            self._loop.note(f"{self.name} tells what is left: {len(outcomes)}")
            self._way.complete(left.worker, outcomes, (), then=lambda verdicts: settle(left, outcomes, verdicts))

        def settle(left: OutboxContents, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> None:
            shelf.settle(outcomes, verdicts, worker=left.worker)
            left.forget()
            tell_next()

        tell_next()

    def _work(self, _: object) -> None:
        self.process.later(self._settings.renewal, self._keep)
        self._ask()

    # leasing ----------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        if self._is_asking or self._is_stopping or self._busy >= self._settings.threads:
            return
        self._is_asking = True
        asked_at = self.process.clock()
        settings = self._settings
        self._way.lease(
            self.name, self._kinds, settings.batch, settings.lease, then=lambda grant: self._take(grant, asked_at)
        )

    def _take(self, grant: Grant, asked_at: float) -> None:
        if grant.is_stranger:
            about = structs.replace(self._about, stays=True)
            self._way.hello(self.name, about, then=lambda _: self._begin(grant, asked_at))
        else:
            self._begin(grant, asked_at)

    def _begin(self, grant: Grant, asked_at: float) -> None:
        self._is_asking = False
        if grant.state in ("drained", "draining"):
            self._is_stopping = True
            self._loop.note(f"{self.name} is told: {grant.state}")
            self._commit()
            return
        for lent in grant.turns:
            steps = Steps(lent, self._loop.dice.getrandbits(32), self.process.clock)
            tokens = {lease.token for lease in lent.leases}
            held = Held(lent, asked_at + self._settings.lease, tokens, steps=steps)
            held.is_over = self._avoided.has_ended(lent, asked_at)
            self._held[lent.id] = held
            self._busy += 1
            self.process.later(0.0, lambda held=held: self._go_on(held))  # type: ignore[misc]
        self._ask()

    # working on turns -------------------------------------------------------------------------------------------------

    def _go_on(self, held: Held) -> None:
        while True:
            question = held.steps.next()
            if isinstance(question, Outcome):
                self._finish(held, question)
                if not held.settle(question):
                    self._end(held)
                    return
            elif isinstance(question, Start):
                answer = self._may_start(held, question.at)
                if isinstance(answer, float):
                    self.process.later(answer, lambda: self._go_on(held))
                    return
                held.steps.answer(answer)
            elif isinstance(question, Request):
                self._send(held, question)
                return
            else:
                self._end(held)
                return

    def _end(self, held: Held) -> None:
        self._busy -= 1
        if held.turn.gap or held.changes_pace:
            self._finished.append(Ended(held.turn.id))
            self._commit()
            self._ask()
        else:  # a host without a gap is free before the last outcomes are durable
            self._way.complete(self.name, (), (held.turn.id,), then=lambda _: self._ask())
            self._commit()

    def _may_start(self, held: Held, at: float) -> bool | float:
        """Return yes, no, or the seconds until the next time to ask."""
        now = self.process.clock()
        if self._is_stopping or held.is_over:
            return False
        if now >= at and held.until - now > self._settings.margin:
            return held.begin(now)
        if now >= held.until:
            return False
        return max(0.0, at - now) or _NAP

    def _send(self, held: Held, request: Request) -> None:
        """Send the request; the worker may be stopped before it has left."""
        stops = self.process.stops
        life = self.process.life
        seconds = self._loop.dice.uniform(0.0, 0.01)

        def leave() -> None:
            is_late = self.process.stops > stops
            visit = Visit(self.name, life, held.turn, request, is_late, self._loop.now)
            held.visit = visit
            self._loop.note(f"{self.name} visits {request.location}{' late' if is_late else ''}")
            if is_late:
                self._host_logs.late(visit, self.process.stops)
            self._host_logs.begin(visit)
            reply = self._web.ask(request, self._loop.now)
            self._loop.later(reply.seconds, lambda: self._host_logs.end(visit))
            self.process.later(reply.seconds, lambda: self._receive(held, visit, reply))

        self.process.later(seconds, leave)

    def _receive(self, held: Held, visit: Visit, reply: Reply) -> None:
        if held.visit is not visit:
            return  # cut in the meantime
        held.visit = None
        if reply.content and visit.request.location in self._web.crashing and not visit.request.is_suspect:
            self._on_crash()
            return
        outcome = reply.outcome or self._decode(visit.request, reply)
        self._host_logs.hears(self.name, visit.life, visit.request, outcome)
        held.steps.answer(outcome)
        self._go_on(held)

    def _decode(self, request: Request, reply: Reply) -> Outcome:
        """Return the outcome of a picture; a suspect is decoded in another process."""
        if request.location in self._web.crashing:
            return failure(request, RequestFailed("poison"), reply.seconds)
        return self._save(request, reply)

    def _save(self, request: Request, reply: Reply) -> Outcome:
        assert self._shelf is not None
        digest = sha256(reply.content).hexdigest()
        path = f"images/{digest[:2]}/{digest}.jpg"
        is_new = self._shelf.store.put(path, reply.content)
        record = describe(
            request,
            status="success",
            store=self._shelf.store.id,
            path=path,
            sha256=digest,
            bytes=len(reply.content),
            http_status=200,
        )
        return Outcome(status="done", record=record, latency=reply.seconds, stored=is_new)

    def _finish(self, held: Held, outcome: Outcome) -> None:
        if turn.wants_rest(outcome):
            seconds = min(outcome.host_wait or _SHUN_SECONDS, self._settings.patience + _SHUN_SECONDS)
            self._shun(held.turn.host, seconds, outcome.token)
        if outcome.record is not None:
            outcome = structs.replace(outcome, record=structs.replace(outcome.record, fetched_at=self._wall()))
        if self._shelf is not None:
            self._shelf.note(outcome)
        self._finished.append(outcome)
        self.process.later(0.0, self._commit)

    def _shun(self, host: str, seconds: float, token: str = "") -> None:
        self._avoided.add(host, self.process.clock() + seconds, token)
        for held in self._held.values():
            held.is_over |= held.turn.host == host

    # committing -------------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Report outcomes without a file at once, and the others after a common flush."""
        if self._is_telling:
            return
        fresh, self._finished = self._finished[:_FLUSH_FILES], self._finished[_FLUSH_FILES:]
        ended = [event.turn for event in fresh if isinstance(event, Ended)]
        outcomes = [event for event in fresh if isinstance(event, Outcome)]
        files = [outcome for outcome in outcomes if _has_file(outcome)]
        if files and not self._waiting:
            self._since = self.process.clock()
        self._waiting += files
        rest = [outcome for outcome in outcomes if not _has_file(outcome)]
        if rest or ended:
            self._tell(rest, ended)
            return
        late = len(self._waiting) >= _FLUSH_FILES or self.process.clock() - self._since >= _FLUSH_SECONDS
        is_idle = self._busy == 0 and not self._finished
        if self._waiting and (late or is_idle):
            waiting, self._waiting = self._waiting, []
            self._tell(waiting, [])
        elif self._waiting:
            self.process.later(_FLUSH_SECONDS, self._commit)
        elif self._is_stopping and is_idle:
            self._on_end()

    def _tell(self, outcomes: list[Outcome], ended: list[str]) -> None:
        self._is_telling = True
        if self._shelf is not None:
            self._shelf.keep(outcomes)
        told = {outcome.token for outcome in outcomes}
        for held in self._held.values():
            held.open -= told
        self._way.complete(
            self.name, tuple(outcomes), tuple(ended), then=lambda verdicts: self._settle(outcomes, verdicts)
        )

    def _settle(self, outcomes: list[Outcome], verdicts: Sequence[Verdict]) -> None:
        self._is_telling = False
        self._avoided.reported(outcomes, self.process.clock())
        if self._shelf is not None:
            self._shelf.settle(outcomes, verdicts)
        for name in [name for name, held in self._held.items() if not held.open]:
            del self._held[name]
        self._commit()

    # renewing leases --------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        for held in list(self._held.values()):
            for outcome in held.share_out(self.process.clock()):
                self._finish(held, outcome)
        tokens = {token: held for held in self._held.values() for token in sorted(held.open)}
        if not tokens:
            self.process.later(self._renewal(), self._keep)
            return
        asked_at = self.process.clock()
        self._way.extend(
            self.name, tuple(tokens), self._settings.lease, then=lambda renewal: self._kept(tokens, asked_at, renewal)
        )

    def _kept(self, tokens: dict[str, Held], asked_at: float, renewal: Renewal) -> None:
        lost = set(renewal.lost)
        for host in renewal.quiet:
            self._shun(host, 0.0)
        gone = [held for token, held in tokens.items() if token in lost and token in held.open]
        for held in tokens.values():
            held.until = asked_at + self._settings.lease
        for held in gone:
            held.is_over = True
        if gone:
            self.cut()
        self.process.later(self._renewal(), self._keep)

    def _renewal(self) -> float:
        """Return the seconds until the next renewal: few if other workers visit the same hosts."""
        is_shared = any(not held.turn.gap and held.open and not held.is_over for held in self._held.values())
        return min(_LISTEN, self._settings.renewal) if is_shared else self._settings.renewal

    def cut(self) -> None:
        """Cut all current requests."""
        for held in self.under_way():
            held.steps.answer(Outcome(status="retry", reason="cancelled"))
            self.process.later(0.0, lambda held=held: self._go_on(held))  # type: ignore[misc]

    def under_way(self) -> Iterator[Held]:
        """Yield the turns with a current request, and end these requests at their hosts."""
        for held in list(self._held.values()):
            if held.visit is not None:
                self._host_logs.end(held.visit)
                held.visit = None
                yield held

    def die(self) -> None:
        """Close its connections, as for any dead process."""
        for _ in self.under_way():
            pass
        if self._shelf is not None:
            self._shelf.close()


def _has_file(outcome: Outcome) -> bool:
    return outcome.record is not None and bool(outcome.record.path)
