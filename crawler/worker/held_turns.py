"""The turns that a worker holds: until when their leases last, and whether their requests may still start."""

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from crawler.frontier.base import SILENCE
from crawler.model import MISSES, TURN_SECONDS, Outcome, Renewal, Turn
from crawler.worker.turn import wants_rest

#: Seconds after which no lease call is still in progress.
_LONG_AGO = 60.0
#: Seconds after which a waiting thread checks its condition again.
NAP = 0.25


@dataclass(eq=False, slots=True)
class HeldTurn:
    """A turn that a worker holds."""

    turn: Turn
    #: Clock time at which the leases end, as far as the worker knows.
    until: float
    #: Tokens without a verdict.
    open: set[str] = field(default_factory=set)
    #: Whether no further request may start: the leases are lost, or the host asked for a pause.
    is_over: bool = False
    #: Clock time at which its first request started, and number of outcomes since then.
    since: float = math.inf
    settled: int = 0
    #: Consecutive requests for which no connection could be made.
    misses: int = 0
    #: Whether all requests except the current one were given back, so that other workers can start them.
    is_shared_out: bool = False

    def begin(self, now: float) -> bool:
        """Record the start of a request; return whether it may start."""
        self.since = min(self.since, now)
        return not self.is_over

    def settle(self, outcome: Outcome) -> bool:
        """Record one more outcome; return whether the remaining requests still belong to this thread."""
        self.misses = self.misses + 1 if outcome.down else 0
        self.is_over |= outcome.down in ("resolver", "disk") or self.misses >= MISSES
        self.settled += 1
        return not self.is_shared_out

    @property
    def changes_pace(self) -> bool:
        """Whether the frontier may learn from its outcomes that the host needs a pause, or a gap (``Crawl-delay``)."""
        return self.is_over or self.misses > 0 or self.turn.leases[0].request.kind == "robots"

    def share_out(self, now: float) -> list[Outcome]:
        """Return released outcomes for the requests behind a slow one, if other workers may visit the host."""
        remaining = self.turn.leases[self.settled + 1 :]
        if self.turn.gap or self.is_over or now - self.since <= TURN_SECONDS or not remaining:
            return []
        self.is_over = self.is_shared_out = True
        return [Outcome(status="released", token=lease.token) for lease in remaining]


class AvoidedHosts:
    """Hosts that asked this worker for a pause. Turns leased before the frontier knew of the pause are over."""

    def __init__(self) -> None:
        #: Host → clock time; its turns that were requested before that time are over.
        self._until: dict[str, float] = {}
        #: Token of an unreported outcome → its host.
        self._unreported: dict[str, str] = {}

    def add(self, host: str, until: float, token: str = "") -> None:
        """Treat turns of ``host`` that were requested before ``until`` as over.

        Once the outcome of ``token`` is reported as a request for a pause, the time of the report replaces ``until``.
        Without a token the frontier already knows of the pause.
        """
        self._until[host] = max(until, self._until.get(host, until))
        if token:
            self._unreported[token] = host

    def reported(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Record that these outcomes were reported to the frontier at clock time ``now``."""
        for outcome in outcomes:
            host = self._unreported.pop(outcome.token, "")
            if host and wants_rest(outcome):
                self._until = {name: until for name, until in self._until.items() if until > now - _LONG_AGO}
                self._until[host] = now

    def has_ended(self, turn: Turn, asked_at: float) -> bool:
        """Return whether a turn requested at clock time ``asked_at`` is over."""
        return self._until.get(turn.host, -math.inf) > asked_at


@dataclass(frozen=True, slots=True)
class EndedTurn:
    """Event that ends a turn: its last response is complete."""

    turn: str


class HeldTurns:
    """The turns of one worker, which its threads share. `changed` is the lock and announces every change.

    Args:
        lease: seconds of a lease.
        margin: seconds of a lease that must be left to start a request.
        clock: monotonic seconds.
    """

    def __init__(self, lease: float, margin: float, clock: Callable[[], float]) -> None:
        self.changed = threading.Condition()
        #: Outcomes to report, and ends of turns; None only wakes the thread that collects them.
        self.events: queue.SimpleQueue[Outcome | EndedTurn | None] = queue.SimpleQueue()
        #: Set when an event must be reported at once: others wait for it, or no further one is to come.
        self.urgent = threading.Event()
        #: Ended turns that may be reported before their last outcomes; None only wakes the thread that reports them.
        self._freed: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        #: Number of turns that the runner carries out.
        self.busy = 0
        self.lease, self.clock, self._margin = lease, clock, margin
        self._turns: dict[str, HeldTurn] = {}
        self._avoided = AvoidedHosts()
        #: Clock time at which the last answered call began.
        self._answered = clock()

    @property
    def open(self) -> dict[str, HeldTurn]:
        """The tokens without a verdict, each with its turn."""
        with self.changed:
            return {token: held for held in self._turns.values() for token in held.open}

    @property
    def open_count(self) -> int:
        """Number of tokens without a verdict."""
        with self.changed:
            return sum(len(held.open) for held in self._turns.values())

    @property
    def are_shared(self) -> bool:
        """Whether other workers may visit one of the hosts at the same time."""
        with self.changed:
            return any(not held.turn.gap and held.open and not held.is_over for held in self._turns.values())

    def add(self, turn: Turn, asked_at: float) -> HeldTurn:
        """Add a turn that was requested at clock time ``asked_at``."""
        held = HeldTurn(turn, asked_at + self.lease, {lease.token for lease in turn.leases})
        with self.changed:
            held.is_over = self._avoided.has_ended(turn, asked_at)
            self._turns[turn.id] = held
            self.busy += 1
        return held

    def end(self, held: HeldTurn) -> None:
        """Record that the last response of a turn is complete."""
        with self.changed:
            self.busy -= 1
            if held.turn.gap or held.changes_pace:
                self.events.put(EndedTurn(held.turn.id))  # the outcomes come first
            else:
                self._freed.put(held.turn.id)
            if held.turn.gap or not self.busy:
                self.urgent.set()  # the host's next turn starts a gap after this end; or the worker is idle
            self.changed.notify_all()

    def take_freed(self, seconds: float = 0.0) -> list[str]:
        """Return the ended turns that may be reported before their last outcomes; wait up to ``seconds`` for one."""
        freed: list[str] = []
        with suppress(queue.Empty):
            turn = self._freed.get(timeout=seconds) if seconds > 0 else self._freed.get_nowait()
            while turn is not None:
                freed.append(turn)
                turn = self._freed.get_nowait()
        return freed

    def wake(self) -> None:
        """Wake the threads that collect events and ended turns; no further ones are to come."""
        self.urgent.set()
        self.events.put(None)
        self._freed.put(None)

    def note_answer(self, asked_at: float) -> None:
        """Record that the frontier answered a call that began at clock time ``asked_at``."""
        with self.changed:
            self._answered = max(self._answered, asked_at)

    def begin(self, held: HeldTurn, at: float) -> bool | None:
        """Return whether a request of a turn may start now; None if that is not yet certain.

        It starts at clock time ``at`` or later, if enough of the lease is left and the frontier has answered recently.
        """
        with self.changed:
            now = self.clock()
            is_connected = now - self._answered <= SILENCE  # otherwise other workers may have its hosts by now
            if now >= at and is_connected and held.until - now > self._margin:
                return held.begin(now)
            return False if now >= held.until else None

    def wait(self, at: float) -> None:
        """Wait for a change, at most until clock time ``at``, and at most `NAP`."""
        with self.changed:
            self.changed.wait(self.nap(at))

    def nap(self, at: float) -> float:
        """Return the seconds after which a turn whose next request starts at clock time ``at`` is looked at again."""
        return min(NAP, max(0.0, at - self.clock()) or NAP)

    def avoid(self, host: str, seconds: float, token: str = "") -> None:
        """End the turns of a host that asked for a pause, and those leased before the frontier knows of it."""
        with self.changed:
            self._avoided.add(host, self.clock() + seconds, token)
            for held in self._turns.values():
                held.is_over |= held.turn.host == host

    def share_out(self) -> None:
        """Give back the requests behind a slow one that other workers may start."""
        with self.changed:  # the outcomes are queued before the turn's thread, and then perhaps the worker, ends
            for held in self._turns.values():
                for outcome in held.share_out(self.clock()):
                    self.events.put(outcome)
                    self.urgent.set()

    def close(self, outcomes: Sequence[Outcome]) -> None:
        """Close the leases of outcomes that are about to be reported, so that no renewal takes them for lost."""
        tokens = {outcome.token for outcome in outcomes}
        with self.changed:
            for held in self._turns.values():
                held.open -= tokens

    def reported(self, outcomes: Sequence[Outcome]) -> None:
        """Record that the frontier knows of these outcomes, and drop the turns without open leases."""
        with self.changed:
            self._avoided.reported(outcomes, self.clock())
            self._turns = {turn_id: held for turn_id, held in self._turns.items() if held.open}
            self.changed.notify_all()

    def renew(self, tokens: Mapping[str, HeldTurn], renewal: Renewal, asked_at: float) -> bool:
        """Extend the leases of ``tokens``, except lost ones, whose turns end. Return whether a lease was lost."""
        lost = set(renewal.lost)
        for host in renewal.quiet:
            self.avoid(host, 0.0)  # the frontier knows of the pause: later turns are valid
        with self.changed:
            lost_turns = [held for token, held in tokens.items() if token in lost and token in held.open]
            for held in tokens.values():
                held.until = asked_at + self.lease
            for held in lost_turns:
                held.is_over = True
            self.changed.notify_all()
        return bool(lost_turns)
