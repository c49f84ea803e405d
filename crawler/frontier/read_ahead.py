"""Read-ahead of URL lists: memory grows with the waiting requests, so their number is bounded."""

from collections.abc import Collection
from math import inf

from crawler.frontier.budget import Budget
from crawler.frontier.counters import Counters
from crawler.frontier.host_scheduler import HostScheduler
from crawler.frontier.leases import Leases
from crawler.frontier.ledger.rows import WAITING
from crawler.model import Kind

#: Kinds that bring URLs by the thousand: an input list of the user, and a sitemap or feed of a site.
SOURCES: tuple[Kind, ...] = ("list", "part")
#: Kinds that must be ready in sufficient number before sources are held back.
_WORK: tuple[Kind, ...] = ("robots", "page", "image")

#: Waiting requests below which sources are always read: some seconds of work for the largest fleet.
_ENOUGH_ROWS = 20_000
#: Hosts ready at this instant below which sources are still read. Each host is visited at its own pace, so the number
#: of ready hosts limits the speed of a crawl. With this many, no worker waits for a source. A list that is sorted by
#: host is read until this many of its hosts are known.
_ENOUGH_HOSTS = 1_000
#: Waiting requests above which one host that is ready within the patience is enough: a list may name only a few hosts.
_MOST_ROWS = 1_000_000
#: Seconds for which a source is held back before the ready work is counted again, which costs as much as a small lease.
_INTERVAL = 0.1


class ReadAhead:
    """Decision whether more of the sources is read.

    Sources are held back only while other work can be leased, now or when a turn ends. Every turn ends or expires, so
    a source is never held back for ever.
    """

    def __init__(
        self, scheduler: HostScheduler, counters: Counters, budget: Budget, leases: Leases, patience: float
    ) -> None:
        self._scheduler, self._counters, self._budget, self._leases = scheduler, counters, budget, leases
        self._patience = patience
        #: Clock time until which sources are held back without a new count.
        self._held_until = -inf

    def holds(self, kind: Kind, now: float) -> bool:
        """Return whether a request of this kind must wait because there is enough other work."""
        if kind not in SOURCES or self._waiting() < _ENOUGH_ROWS:
            return False
        if now >= self._held_until and self._is_enough(now):
            self._held_until = now + _INTERVAL
        return now < self._held_until

    def _waiting(self) -> int:
        return sum(self._counters.states[kind, WAITING] for kind in _WORK)

    def _is_enough(self, now: float) -> bool:
        kinds = [kind for kind in _WORK if self._budget.room(kind) > 0]
        if self._scheduler.ready(kinds, now, _ENOUGH_HOSTS) >= _ENOUGH_HOSTS:
            return True
        if self._waiting() < _MOST_ROWS:
            return False
        soon = now + self._patience
        return self._scheduler.next_ready(kinds, now) <= soon or self._has_busy_host(kinds, soon)

    def _has_busy_host(self, kinds: Collection[Kind], soon: float) -> bool:
        """Return whether a host with an open turn has more work: hosts with all their turns open are in no heap."""
        return any(
            turn.host.health.blocked_until <= soon and any(turn.host.waiting(kind) for kind in kinds)
            for turn in self._leases.turns.values()
            if not turn.is_ended
        )
