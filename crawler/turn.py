"""The manners of one turn: its requests one after the other, as its host and the rules of its origins want them.

`Worker` works its turns off with it, and so does a worker of one's own::

    outcomes = list(work_off(turn, downloader.handle))
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from msgspec import structs

from crawler import robots
from crawler.model import Outcome, Request, Turn, failure
from crawler.urls import origin


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
    what robots.txt forbids is not fetched, and a host that asks to be left alone ends the turn.

    Args:
        handle: turns a request into its outcome, such as `Downloader.handle`; what it raises is raised.
        may_start: waits until a time of the clock; False: begin no more. Default: sleeps, and allows everything.
        clock: monotonic seconds.
    """
    next_start = -math.inf
    leases = iter(turn.leases)
    for lease in leases:
        request: Request | None = lease.request
        while request is not None:
            if not (may_start or _sleep_until)(next_start):
                yield Outcome(status="released", token=lease.token)
                break
            pace = turn.gap * random.uniform(0.5, 1.5)  # noqa: S311  # pace, not secrets
            next_start = clock() + pace
            outcome = _attempt(turn, request, handle)
            next_start = max(next_start, clock() + turn.least_gap)
            request = _next_in_turn(request, outcome)
            if request is None:
                yield structs.replace(outcome, token=lease.token)
                if outcome.overloaded or outcome.host_wait is not None:
                    yield from (Outcome(status="released", token=rest.token) for rest in leases)


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
