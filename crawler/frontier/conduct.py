"""How a host behaves, and how long it is therefore left alone: pure functions from what was known and what came.

Times are those of the caller's clock, in seconds; ``draw`` is a number in [0, 1) from the caller's dice.
"""

from msgspec import Struct, structs

from crawler.frontier.politeness import MAX_WAIT, outage_delay, overload_delay, smooth
from crawler.model import MISSES, Outcome


class Conduct(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What is known of one host."""

    #: Smoothed seconds per answer.
    latency: float = 0.0
    #: Before this time nobody visits: the host asked for it, or it is down.
    blocked_until: float = 0.0
    #: Seconds from when that was learned; it lasts no longer, even where a clock was set meanwhile.
    wait: float = 0.0
    #: Complaints of overload in a row.
    complaints: int = 0
    #: The row that complained first, of those in a row or of the last ones; None: it was answered since.
    asker: int | None = None
    #: Whether answers to other rows came in after the last complaint, from visits of before it.
    others: bool = False
    #: Looks in a row at which it was down; above 0, it is looked at with one request at a time.
    outages: int = 0
    #: Rows that found nobody since the last answer.
    missed: tuple[int, ...] = ()


def is_own_wait(known: Conduct, outcome: Outcome, row: int, patience: float) -> bool:
    """Whether a row asks for a wait that is its own and not its host's, which RFC 6585 §4 leaves open.

    Longer than the patience, it is believed of the whole host when two rows have complained and none was answered
    between. Any wait is the row's own if it complains again after others were answered.
    """
    if outcome.host_wait is None:
        return False
    is_alone = not known.complaints or known.others or known.asker == row
    return (is_alone and outcome.host_wait > patience) or (known.asker == row and not known.complaints)


def learn(known: Conduct, outcome: Outcome, row: int, now: float, draw: float) -> Conduct:
    """What is known after one more outcome.

    What arrives while nobody visits is about the visits of before: a burst of complaints counts as one, and an answer
    from then ends nothing.
    """
    if outcome.down:
        return _missed(known, row, now) if outcome.down == "host" else known
    if known.blocked_until > now and outcome.latency > 0 and not _complains(outcome):
        others = known.others or known.asker not in (None, row)
        return structs.replace(known, latency=smooth(known.latency, outcome.latency), others=others)
    if _complains(outcome):
        level = max(1, known.complaints + (known.blocked_until <= now))
        wait = overload_delay(level, draw) if outcome.host_wait is None else min(outcome.host_wait, MAX_WAIT)
        until = max(known.blocked_until, now + wait)
        return Conduct(
            latency=known.latency,
            blocked_until=until,
            wait=until - now,
            complaints=level,
            asker=known.asker if known.complaints and not known.others else row,
        )
    if outcome.latency > 0:
        latency = smooth(known.latency, outcome.latency)
        asker = known.asker if known.asker != row else None
        return Conduct(latency=latency, blocked_until=known.blocked_until, wait=known.wait, asker=asker)
    return known


def _complains(outcome: Outcome) -> bool:
    return outcome.overloaded or outcome.host_wait is not None


def _missed(known: Conduct, row: int, now: float) -> Conduct:
    if known.blocked_until > now:
        return known
    missed = tuple(dict.fromkeys((*known.missed, row)))
    if len(missed) < MISSES and not known.outages:
        return structs.replace(known, missed=missed)
    outages = known.outages + 1
    wait = outage_delay(outages)
    return structs.replace(known, blocked_until=now + wait, wait=wait, outages=outages, missed=())


def is_news(kept: Conduct, known: Conduct) -> bool:
    """Whether what is kept on disk of a host should be replaced: all but the small changes of its speed."""
    is_other = structs.replace(kept, latency=0.0, missed=()) != structs.replace(known, latency=0.0, missed=())
    return is_other or abs(known.latency - kept.latency) > 0.25 * max(kept.latency, 1.0)
