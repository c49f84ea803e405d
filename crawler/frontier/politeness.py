"""The rules of politeness as pure functions: how slowly, how many at once, how long to stay away.

Nothing here knows a clock or a queue. Seconds are floats; ``draw`` is a number in [0, 1) from the caller's dice.
"""

from typing import Literal

from msgspec import Struct

from crawler.model import TURN_SECONDS, Kind
from crawler.urls import is_loopback

#: Order within one host's queue.
Order = Literal["fifo", "lifo", "priority"]

#: Longest Crawl-delay and longest adaptive gap that are kept, seconds.
MAX_CRAWL_DELAY = 300.0
MAX_ADAPTIVE_GAP = 60.0
#: A slow host is asked at most every so many times the seconds it needs for an answer.
LATENCY_FACTOR = 2.0
#: Longest that a host's Retry-After, or one retry, keeps us away, seconds.
MAX_WAIT = 86_400.0
#: Bounds of the time for which robots.txt is believed, seconds (RFC 9309 §2.4: a day at most).
MIN_RULES_LIFETIME, MAX_RULES_LIFETIME = 60.0, 86_400.0
#: Visits of a host for which its rules hold at least, so that a slow one is asked for more than its rules.
_VISITS_PER_RULES = 10
#: Part of its gap for which a host's next turn of the same kind lets turns of another kind go first.
COURTESY = 0.25
#: Longest back-off, seconds; first and longest time for which a host that is down is left alone.
_MAX_BACKOFF = 300.0
_FIRST_OUTAGE, _MAX_OUTAGE = 30.0, 3_600.0

#: Reasons that are tried once more only: each attempt may cost a whole time-out.
_SLOW_REASONS = frozenset({"timeout", "too-slow"})
_SLOW_ATTEMPTS = 2
#: Attempts at a robots.txt in a row; while it can't be had it is asked for again every hour anyway.
_ROBOTS_ATTEMPTS = 4


class Policy(Struct, frozen=True, kw_only=True):
    """What the user decided about the pace and the bounds of a crawl; None means the default for that host."""

    #: Seconds between the starts of two requests to a host; None: 1.0, on loopback 0.
    delay: float | None = None
    #: Turns at a time for one host, where the gap is 0; None: 1, on loopback 16.
    per_host: int | None = None
    #: Whether robots.txt is asked for and obeyed.
    robots: bool = True
    #: Whether the sitemaps of the seeds' sites are read.
    sitemaps: bool = False
    order: Order = "fifo"
    #: Seconds that the end of the crawl waits for what is parked.
    patience: float = 60.0
    #: Saved images and visited pages after which no more are handed out; None: no bound.
    max_images: int | None = None
    max_pages: int | None = None
    #: Settled requests of one host after which no more of it are handed out; None: no bound.
    max_host_pages: int | None = None
    max_host_images: int | None = None
    #: Network attempts for one request, and deliveries that may end without a verdict.
    max_attempts: int = 5
    max_losses: int = 3


def gap(policy: Policy, host: str, *, crawl_delay: float = 0.0, latency: float = 0.0) -> float:
    """Seconds between the starts of two requests to ``host``, whose answers take ``latency`` seconds."""
    wanted = policy.delay
    if wanted is None:
        wanted = 0.0 if is_loopback(host) else 1.0
    if wanted > 0:
        wanted = max(wanted, min(LATENCY_FACTOR * latency, MAX_ADAPTIVE_GAP))
    return max(wanted, min(crawl_delay, MAX_CRAWL_DELAY))


def turns(policy: Policy, host: str, gap: float) -> int:
    """Turns that ``host`` may have at a time: one, unless it wants no gap at all."""
    if gap > 0:
        return 1
    if policy.per_host is not None:
        return max(1, policy.per_host)
    return 16 if is_loopback(host) else 1


def turn_size(waiting: int, *, asked: int, gap: float, latency: float, free_turns: int) -> int:
    """Requests in the next turn of a host with ``waiting`` ones: ten seconds' worth, and a fair share at the end."""
    pace = max(gap, latency)
    worth = int(min(asked, TURN_SECONDS / pace)) if pace > 0 else asked
    share = -(-waiting // max(1, free_turns))
    return max(1, min(asked, worth, share))


def attempts_allowed(policy: Policy, kind: Kind, reason: str) -> int:
    """Network attempts that a request may have when the last one failed for ``reason``."""
    if reason in _SLOW_REASONS:
        return min(_SLOW_ATTEMPTS, policy.max_attempts)
    return min(_ROBOTS_ATTEMPTS, policy.max_attempts) if kind == "robots" else policy.max_attempts


def retry_delay(attempts: int, draw: float) -> float:
    """Seconds until a request is tried again after ``attempts`` failures: up to 0.5, 1, 2, 4, …, with full jitter."""
    return draw * min(_MAX_BACKOFF, _power_of_two(attempts - 2))


def overload_delay(level: int, draw: float) -> float:
    """Seconds that an overloaded host is left alone at its ``level``-th complaint in a row: 1 to 2 times 2, 4, 8, …"""
    return (1.0 + draw) * min(_MAX_BACKOFF, _power_of_two(max(1, level)))


def outage_delay(level: int) -> float:
    """Seconds that a host is left alone after it was found down for the ``level``-th time: 30, 60, 120, … an hour."""
    return min(_MAX_OUTAGE, _FIRST_OUTAGE * _power_of_two(level - 1))


def smooth(latency: float, seconds: float) -> float:
    """Seconds per answer, after one more that took ``seconds``, of which no more count than can change the gap."""
    seconds = min(seconds, MAX_ADAPTIVE_GAP)
    return seconds if latency == 0 else 0.8 * latency + 0.2 * seconds


def rules_lifetime(seconds: float, gap: float = 0.0) -> float:
    """Seconds for which robots.txt is believed that asks to be believed for ``seconds``, on a host of that gap."""
    return min(max(seconds, MIN_RULES_LIFETIME, _VISITS_PER_RULES * gap), MAX_RULES_LIFETIME)


def _power_of_two(exponent: int) -> float:
    return float(2.0 ** min(exponent, 30))
