"""The manners of one turn: its requests one after the other, as its host and the rules of its origins want them.

`Worker` works its turns off with it, and so does a worker of one's own::

    outcomes = list(work_off(turn, downloader.handle))
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from crawler import robots
from crawler.model import MISSES, TURN_SECONDS, Outcome, Request, Turn, failure
from crawler.urls import origin

#: Seconds after which no call for work is still under way.
_LONG_AGO = 60.0


@dataclass(eq=False, slots=True)
class Held:
    """A turn in a worker's hands."""

    turn: Turn
    #: Clock time until which the leases are ours, as far as we know.
    until: float
    #: Tokens that have no verdict yet.
    open: set[str] = field(default_factory=set)
    #: Nothing more is begun: the leases are lost, or the host wants to be left alone.
    is_over: bool = False
    #: Clock time at which its first request was begun, and outcomes since.
    since: float = math.inf
    settled: int = 0
    #: Requests in a row for which no connection could be made.
    misses: int = 0
    #: Whether all but the request under way went back, for others to begin.
    is_shared_out: bool = False

    def begin(self, now: float) -> bool:
        """A request is to be begun; whether it may be."""
        self.since = min(self.since, now)
        return not self.is_over

    def settle(self, outcome: Outcome) -> bool:
        """One more outcome is there; whether the others are still this thread's."""
        self.misses = self.misses + 1 if outcome.down else 0
        self.is_over |= outcome.down in ("resolver", "disk") or self.misses >= MISSES
        self.settled += 1
        return not self.is_shared_out

    def share_out(self, now: float) -> list[Outcome]:
        """Release what waits behind a slow request, where others may visit the host meanwhile."""
        rest = self.turn.leases[self.settled + 1 :]
        if self.turn.gap or self.is_over or now - self.since <= TURN_SECONDS or not rest:
            return []
        self.is_over = self.is_shared_out = True
        return [Outcome(status="released", token=lease.token) for lease in rest]


class Shunned:
    """Hosts that asked this worker to stay away. Once the frontier knows of it, the turns that it lends are meant."""

    def __init__(self) -> None:
        #: Host → clock time; turns of it that were asked for before then are over.
        self._until: dict[str, float] = {}
        #: Token of what was not told yet → its host.
        self._untold: dict[str, str] = {}

    def add(self, host: str, until: float, token: str = "") -> None:
        """Until it is told that the request of ``token`` was asked to wait, if it is; without one it is known."""
        self._until[host] = max(until, self._until.get(host, until))
        if token:
            self._untold[token] = host

    def told(self, outcomes: Sequence[Outcome], now: float) -> None:
        """The frontier knows of these."""
        for outcome in outcomes:
            host = self._untold.pop(outcome.token, "")
            if host and wants_rest(outcome):
                self._until = {name: until for name, until in self._until.items() if until > now - _LONG_AGO}
                self._until[host] = now

    def has_ended(self, turn: Turn, asked_at: float) -> bool:
        """Whether a turn that was asked for at that time is one from before."""
        return self._until.get(turn.host, -math.inf) > asked_at


@dataclass(frozen=True, slots=True)
class Ended:
    """A turn whose last byte is in."""

    turn: str


def work_off(
    turn: Turn,
    handle: Callable[[Request], Outcome],
    *,
    may_start: Callable[[float], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """One outcome for each lease of the turn, with the lease's token; what must not be begun is ``released``.

    Each request starts a gap after the start of the one before, and what the site itself asks for after its end: so it
    holds as the site sees it, however long a request is on its way. A redirect within the origin is one more of them,
    what robots.txt forbids is not fetched. A host that asks to be left alone ends the turn, and so does one whose
    answers have taken `TURN_SECONDS`: what is left is for whoever is free.

    Args:
        handle: turns a request into its outcome, such as `Downloader.handle`; what it raises is raised.
        may_start: waits until a time of the clock; False: begin no more. Default: sleeps, and allows everything.
        clock: monotonic seconds.
    """
    next_start, spent = -math.inf, 0.0
    leases = iter(turn.leases)
    for lease in leases:
        request: Request | None = lease.request
        while request is not None:
            if not (may_start or _sleep_until)(next_start):
                yield Outcome(status="released", token=lease.token)
                break
            pace = turn.gap * random.uniform(0.5, 1.5)  # noqa: S311  # pace, not secrets
            began = clock()
            outcome = _attempt(turn, request, handle)
            ended = clock()
            spent += ended - began
            next_start = max(began + pace, ended + turn.least_gap)
            request = _next_in_turn(request, outcome)
            if request is None:
                yield structs.replace(outcome, token=lease.token)
                if wants_rest(outcome) or spent > TURN_SECONDS:
                    yield from (Outcome(status="released", token=rest.token) for rest in leases)


def wants_rest(outcome: Outcome) -> bool:
    """Whether a host asks to be left alone."""
    return outcome.overloaded or outcome.host_wait is not None


def _attempt(turn: Turn, request: Request, handle: Callable[[Request], Outcome]) -> Outcome:
    rules = turn.robots.get(origin(request.location), "") if request.kind in ("page", "image", "part") else ""
    error = robots.refusal(rules, request.location) if rules else None
    if error is not None:
        return failure(request, error)
    outcome = handle(request)
    return Outcome(status="released") if outcome.reason == "cancelled" else outcome  # cut by us, not by the host


def _next_in_turn(request: Request, outcome: Outcome) -> Request | None:
    """The request that a redirect within the origin goes on with, in the same turn; None: the frontier decides."""
    successor = outcome.successor
    if outcome.status != "moved" or successor is None or request.kind == "list":
        return None
    return successor if origin(successor.location) == origin(request.location) else None


def _sleep_until(start: float) -> bool:
    time.sleep(max(0.0, start - time.monotonic()))
    return True
