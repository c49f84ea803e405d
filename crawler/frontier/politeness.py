"""The rules of politeness as pure functions: gaps, parallel turns, backoff.

Nothing here uses a clock or a queue. Seconds are floats; ``draw`` is a random number in [0, 1) from the caller.
"""

from typing import Literal

from msgspec import Struct

from crawler.model import TURN_SECONDS, Kind
from crawler.urls import is_loopback

#: Order within one host's queue.
Order = Literal["fifo", "lifo", "priority"]

#: Longest Crawl-delay that is obeyed, and longest adaptive gap, seconds.
MAX_CRAWL_DELAY = 300.0
_MAX_ADAPTIVE_GAP = 60.0
#: Least gap of a slow host, in multiples of the seconds that its response takes.
_LATENCY_FACTOR = 2.0
#: Longest wait after a Retry-After, or before one retry, seconds.
MAX_WAIT = 86_400.0
#: Bounds of the time for which robots.txt is cached, seconds (RFC 9309 §2.4: a day at most).
MIN_RULES_LIFETIME, MAX_RULES_LIFETIME = 60.0, 86_400.0
#: Least number of gaps of a host for which its rules are cached, so that a slow host gets more than robots requests.
_VISITS_PER_RULES = 10
#: Part of its gap by which a host's next turn of the same kind is delayed in favour of turns of another kind.
COURTESY = 0.25
#: Longest backoff, seconds; first and longest pause of a host that is down, seconds.
_MAX_BACKOFF = 300.0
_FIRST_OUTAGE, _MAX_OUTAGE = 30.0, 3_600.0

#: Reasons that are retried only once: each attempt may cost a whole timeout.
_SLOW_REASONS = frozenset({"timeout", "too-slow"})
_SLOW_ATTEMPTS = 2
#: Attempts at a robots.txt in a row; while it is unreachable, it is requested again every hour anyway.
_ROBOTS_ATTEMPTS = 4


#: Least seconds of a turn whose host may have several at a time, if enough waits.
_SHORT_TURN_SECONDS = 0.25


class Policy(Struct, frozen=True, kw_only=True):
    """The user's settings for the pace and the limits of a crawl; None means the default for that host."""

    #: Least seconds between the starts of two requests to a host; None: 1.0, on loopback 0.
    delay: float | None = None
    #: Parallel turns of one host, if the gap is 0; None: 1, on loopback 16.
    per_host: int | None = None
    #: Whether robots.txt is requested and obeyed.
    robots: bool = True
    #: Whether the sitemaps of the seeds' sites are read.
    sitemaps: bool = False
    order: Order = "fifo"
    #: Seconds that the end of the crawl waits for parked requests.
    patience: float = 60.0
    #: Saved images and visited pages after which no more are leased; None: no limit.
    max_images: int | None = None
    max_pages: int | None = None
    #: Settled requests of one host after which no more of it are leased; None: no limit.
    max_host_pages: int | None = None
    max_host_images: int | None = None
    #: Network attempts for one request.
    max_attempts: int = 5
    #: Losses in a row after which a request fails. A loss is no proof, so the limit is high: a worker may be killed
    #: from outside, and a worker detects a picture that crashes the decoder at its second delivery.
    max_losses: int = 100


def gap(policy: Policy, host: str, *, crawl_delay: float = 0.0, latency: float = 0.0) -> float:
    """Return the least seconds between the starts of two requests to ``host``; responses take ``latency`` seconds."""
    delay = policy.delay
    if delay is None:
        delay = 0.0 if is_loopback(host) else 1.0
    if delay > 0:
        delay = max(delay, min(_LATENCY_FACTOR * latency, _MAX_ADAPTIVE_GAP))
    return max(delay, min(crawl_delay, MAX_CRAWL_DELAY))


def turns(policy: Policy, host: str, gap: float) -> int:
    """Return how many turns ``host`` may have at a time: one, unless the gap is 0."""
    if gap > 0:
        return 1
    if policy.per_host is not None:
        return max(1, policy.per_host)
    return 16 if is_loopback(host) else 1


def turn_size(waiting: int, *, asked: int, gap: float, latency: float, free_turns: int, most_turns: int = 1) -> int:
    """Return the size of the next turn of a host: requests for ten seconds, or the free turns' equal shares if less.

    If the host may have several turns at a time (``most_turns``), a turn is half of an equal share of what waits, and
    at least a quarter of a second: turns become short towards the end, so that all workers end together.
    """
    pace = max(gap, latency)
    timely = int(min(asked, TURN_SECONDS / pace)) if pace > 0 else asked
    if most_turns > 1:
        shortest = int(min(asked, _SHORT_TURN_SECONDS / pace)) if pace > 0 else asked
        timely = min(timely, max(shortest, waiting // (2 * most_turns)))
    share = -(-waiting // max(1, free_turns))
    return max(1, min(asked, timely, share))


def attempts_allowed(policy: Policy, kind: Kind, reason: str) -> int:
    """Return how many network attempts a request may have if the last one failed for ``reason``."""
    if reason in _SLOW_REASONS:
        return min(_SLOW_ATTEMPTS, policy.max_attempts)
    return min(_ROBOTS_ATTEMPTS, policy.max_attempts) if kind == "robots" else policy.max_attempts


def retry_delay(attempts: int, draw: float) -> float:
    """Return the seconds before a retry after ``attempts`` failures: up to 0.5, 1, 2, 4, …, with full jitter."""
    return draw * min(_MAX_BACKOFF, _power_of_two(attempts - 2))


def overload_delay(level: int, draw: float) -> float:
    """Return the pause in seconds after the ``level``-th overload response in a row: 1 to 2 times 2, 4, 8, …"""
    return (1.0 + draw) * min(_MAX_BACKOFF, _power_of_two(max(1, level)))


def outage_delay(level: int) -> float:
    """Return the pause in seconds after a host was down for the ``level``-th time: 30, 60, 120, … an hour."""
    return min(_MAX_OUTAGE, _FIRST_OUTAGE * _power_of_two(level - 1))


def smooth(latency: float, seconds: float) -> float:
    """Return the smoothed latency after a response of ``seconds``, capped at the longest adaptive gap."""
    seconds = min(seconds, _MAX_ADAPTIVE_GAP)
    return seconds if latency == 0 else 0.8 * latency + 0.2 * seconds


def rules_lifetime(seconds: float, gap: float = 0.0) -> float:
    """Return the seconds for which a robots.txt with a lifetime of ``seconds`` is cached, on a host with this gap."""
    return min(max(seconds, MIN_RULES_LIFETIME, _VISITS_PER_RULES * gap), MAX_RULES_LIFETIME)


def _power_of_two(exponent: int) -> float:
    return float(2.0 ** min(exponent, 30))
