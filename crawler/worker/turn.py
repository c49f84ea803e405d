"""Politeness within one turn: requests run one after the other, as the host and the rules of its origins require.

`Worker` processes its turns with `work_off`, and so can a worker that a user writes::

    outcomes = list(work_off(turn, downloader.handle))
"""

import contextlib
import math
import random
import time
from collections.abc import Callable, Generator, Iterator

from msgspec import structs

from crawler.handler import failure
from crawler.model import TURN_SECONDS, Lease, Outcome, Request, Turn
from crawler.robots import robots_txt
from crawler.urls import origin

#: What `turn_steps` asks of its driver.
Step = float | Request | Outcome
#: Generator of the steps of a turn. The driver sends the answer to each step.
Steps = Generator[Step, bool | Outcome | None, None]


def turn_steps(turn: Turn, clock: Callable[[], float] = time.monotonic) -> Steps:
    """Yield the steps of a turn, which a driver carries out, with threads or in an event loop.

    * a clock time: the driver waits until then, and sends whether the next request may start;
    * a `Request`: the driver handles it, and sends its `Outcome`;
    * an `Outcome`, one for each lease, with its token. Requests that must not start are ``released``.

    A request starts between one and one and a half gaps after the start of the previous request, and not before its
    end. The gap after the first request counts from its end, because the host sees it only once it has connected. A gap
    that the site itself asks for always counts from the end. A redirect within the origin is one more request. URLs
    that robots.txt forbids are not fetched. The turn ends when the host asks for a pause, or when its responses have
    taken `TURN_SECONDS`: the remaining requests are left to workers that are free.
    """
    next_start, spent = -math.inf, 0.0
    leases = iter(turn.leases)
    for lease in leases:
        request: Request | None = _with_warning(lease)
        while request is not None:
            if not (yield next_start):
                yield Outcome(status="released", token=lease.token)
                break
            pace = turn.gap * random.uniform(1.0, 1.5)  # noqa: S311  # pace, not secrets
            began = clock()
            outcome = _refusal(turn, request) or (yield request)
            assert isinstance(outcome, Outcome)  # noqa: S101  # the contract of the driver
            if outcome.reason == "cancelled":  # the worker cut it
                outcome = Outcome(status="released")
            ended = clock()
            spent += ended - began
            gap_from = began if next_start > -math.inf else ended
            next_start = max(gap_from + pace, ended + turn.least_gap)
            request = _next_in_turn(request, outcome)
            if request is None:
                yield structs.replace(outcome, token=lease.token)
                if wants_rest(outcome) or spent > TURN_SECONDS:
                    for remaining in leases:
                        yield Outcome(status="released", token=remaining.token)


def work_off(
    turn: Turn,
    handle: Callable[[Request], Outcome],
    *,
    may_start: Callable[[float], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Carry out the steps of a turn in this thread; yield one outcome for each lease.

    Args:
        handle: converts a request into its outcome, such as `Downloader.handle`. Its exceptions propagate.
        may_start: waits until a clock time; returns False if no further request may start. Default: sleeps and
            returns True.
        clock: monotonic seconds.
    """
    steps = turn_steps(turn, clock)
    answer: bool | Outcome | None = None
    with contextlib.suppress(StopIteration):
        while True:
            step = steps.send(answer)
            answer = None
            if isinstance(step, Outcome):
                yield step
            elif isinstance(step, Request):
                answer = handle(step)
            else:
                answer = (may_start or _sleep_until)(step)


def wants_rest(outcome: Outcome) -> bool:
    """Return whether the host asks for a pause."""
    return outcome.overloaded or outcome.host_wait is not None


def _with_warning(lease: Lease) -> Request:
    """Return the request of a lease, marked as suspect if an earlier delivery was lost."""
    return lease.request if lease.deliveries == 1 else structs.replace(lease.request, is_suspect=True)


def _refusal(turn: Turn, request: Request) -> Outcome | None:
    """Return the outcome of a request that robots.txt forbids, or None if it may be fetched."""
    rules = turn.robots.get(origin(request.location), "") if request.kind in ("page", "image", "part") else ""
    error = robots_txt.refusal(rules, request.location) if rules else None
    return failure(request, error) if error is not None else None


def _next_in_turn(request: Request, outcome: Outcome) -> Request | None:
    """Return the request that follows a redirect within the origin, or None if the frontier decides."""
    successor = outcome.successor
    if outcome.status != "moved" or successor is None or request.kind == "list":
        return None
    return successor if origin(successor.location) == origin(request.location) else None


def _sleep_until(start: float) -> bool:
    time.sleep(max(0.0, start - time.monotonic()))
    return True
