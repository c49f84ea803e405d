"""Health of a host and the time for which it is not visited: pure functions of its last state and one outcome.

Times are seconds of the caller's clock; ``draw`` is a random number in [0, 1) from the caller.
"""

import msgspec
from msgspec import Struct, structs

from crawler.frontier.politeness import MAX_WAIT, outage_delay, overload_delay, smooth
from crawler.model import MISSES, Outcome


class HostHealth(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Measured state of one host."""

    #: Smoothed seconds per response.
    latency: float = 0.0
    #: The host is not visited before this time: it asked for a pause, or it is down.
    blocked_until: float = 0.0
    #: Length of that pause in seconds; the pause never lasts longer, even if the clock was set meanwhile.
    wait: float = 0.0
    #: Overload responses in a row.
    complaints: int = 0
    #: The row of the first overload response, of the present or the last series; None after a normal response to it.
    asker: int | None = None
    #: Whether other rows, requested before the last overload response, got normal responses after it.
    others: bool = False
    #: Checks in a row at which the host was down; above 0, it gets one request at a time.
    outages: int = 0
    #: Rows for which no connection could be made since the last response.
    missed: tuple[int, ...] = ()


HEALTH = msgspec.json.Decoder(HostHealth)


def is_own_wait(known: HostHealth, outcome: Outcome, row: int, patience: float) -> bool:
    """Return whether a wait that the server asks for concerns only this row, not the host (RFC 6585 §4 allows both).

    A wait longer than the patience concerns the host only if two rows got overload responses without a normal one
    between them. Any wait concerns the row alone if it gets another overload response after normal ones to other rows.
    """
    if outcome.host_wait is None:
        return False
    is_alone = not known.complaints or known.others or known.asker == row
    return (is_alone and outcome.host_wait > patience) or (known.asker == row and not known.complaints)


def learn(known: HostHealth, outcome: Outcome, row: int, now: float, draw: float) -> HostHealth:
    """Return the health after one more outcome.

    Responses that arrive during a pause belong to requests from before it: a burst of overload responses counts as
    one, and a normal response does not end the pause.
    """
    if outcome.down:
        return _count_miss(known, row, now) if outcome.down == "host" else known
    if known.blocked_until > now and outcome.latency > 0 and not _is_overload(outcome):
        others = known.others or known.asker not in (None, row)
        return structs.replace(known, latency=smooth(known.latency, outcome.latency), others=others)
    if _is_overload(outcome):
        level = max(1, known.complaints + (known.blocked_until <= now))
        wait = overload_delay(level, draw) if outcome.host_wait is None else min(outcome.host_wait, MAX_WAIT)
        until = max(known.blocked_until, now + wait)
        return HostHealth(
            latency=known.latency,
            blocked_until=until,
            wait=until - now,
            complaints=level,
            asker=known.asker if known.complaints and not known.others else row,
        )
    if outcome.latency > 0:
        latency = smooth(known.latency, outcome.latency)
        asker = known.asker if known.asker != row else None
        return HostHealth(latency=latency, blocked_until=known.blocked_until, wait=known.wait, asker=asker)
    return known


def _is_overload(outcome: Outcome) -> bool:
    return outcome.overloaded or outcome.host_wait is not None


def _count_miss(known: HostHealth, row: int, now: float) -> HostHealth:
    if known.blocked_until > now:
        return known
    missed = tuple(dict.fromkeys((*known.missed, row)))
    if len(missed) < MISSES and not known.outages:
        return structs.replace(known, missed=missed)
    outages = known.outages + 1
    wait = outage_delay(outages)
    return structs.replace(known, blocked_until=now + wait, wait=wait, outages=outages, missed=())


def is_news(saved: HostHealth, known: HostHealth) -> bool:
    """Return whether the health on disk should be replaced: not for small changes of the latency alone."""
    is_changed = structs.replace(saved, latency=0.0, missed=()) != structs.replace(known, latency=0.0, missed=())
    return is_changed or abs(known.latency - saved.latency) > 0.25 * max(saved.latency, 1.0)
