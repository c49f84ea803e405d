"""Schedule of visits: heaps of the times at which hosts may be visited again.

It is kept in memory and rebuilt from the ledger at start. The time is an argument everywhere. Not thread-safe: the
frontier holds its lock.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import get_args

from msgspec import structs

from crawler.frontier import politeness
from crawler.frontier.host_health import HostHealth
from crawler.frontier.host_queues import LOCAL, Host, Hosts, Origin
from crawler.frontier.politeness import Policy
from crawler.model import Kind, RobotsRules

#: Most origins that wait for a robots.txt request: one transaction puts all these requests, within some 20 ms.
_UNRULED = 256
#: Kinds that are leased one at a time and need no robots rules.
_RULELESS: tuple[Kind, ...] = ("robots", "list")


@dataclass(frozen=True, slots=True)
class TurnShare:
    """Result of `HostScheduler.start_turns`: a turn's host, kind and gap, and its rows, each with its origin."""

    host: Host
    kind: Kind
    gap: float
    rows: dict[int, Origin]

    def lend(self) -> None:
        """Stop counting the rows as taken: they are leased, settled, or back in their queues."""
        self.host.taken[self.kind] -= len(self.rows)


class HostScheduler:
    """Hosts with their queues, in one heap per kind ordered by the next allowed time."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        #: Returns how many more requests of a kind may be leased for a host.
        self.room: Callable[[Host, Kind], int] = _unlimited
        self.hosts = Hosts()
        self._heaps: dict[Kind, list[tuple[float, int, Host]]] = {kind: [] for kind in get_args(Kind)}
        self._pushes = 0
        self._deferred: list[tuple[float, int, Origin, Kind, int]] = []
        #: Origins that need a robots.txt request, which the caller has yet to put, in the order in which they need it.
        self.unruled: dict[Origin, None] = {}

    # adding -------------------------------------------------------------------------------------------------------

    def add(
        self, origin: Origin, kind: Kind, rows: Iterable[int], priority: int = 0, *, returned: bool = False
    ) -> None:
        """Queue rows that may be leased as soon as their host may be visited."""
        queue = origin.queue(kind, self._policy.order)
        for row in rows:
            queue.push(row, priority, returned=returned)
        if origin.host not in self.hosts.waiting:
            self.hosts.update(origin.host)
        self._list(origin.host, kind)

    def fill(self, origin: Origin, kind: Kind, rows: Iterable[int], priority: int = 0) -> None:
        """Queue rows in the order of discovery, each as in `add`."""
        origin.queue(kind, self._policy.order).fill(rows, priority)
        self.hosts.update(origin.host)
        self._list(origin.host, kind)

    def defer(self, origin: Origin, kind: Kind, row: int, priority: int, until: float) -> None:
        """Queue a row at the first call of `start_turns` or `soonest` after clock time ``until``."""
        heapq.heappush(self._deferred, (until, row, origin, kind, priority))

    def set_health(self, host: Host, health: HostHealth) -> None:
        """Set the health of a host."""
        host.health = health
        if host in self.hosts.waiting:
            self.hosts.update(host)

    def set_rules(self, origin: Origin, rules: RobotsRules, until: float) -> None:
        """Set the robots rules of an origin, valid until clock time ``until``."""
        origin.rules, origin.has_text = structs.replace(rules, text="", sitemaps=()), bool(rules.text)
        origin.rules_until, origin.is_awaited = until, False
        self.unruled.pop(origin, None)
        self._list(origin.host)

    # turns --------------------------------------------------------------------------------------------------------

    def start_turns(self, kind: Kind, limit: int, now: float) -> list[TurnShare]:
        """Open turns with up to ``limit`` rows of a kind; the caller ends each with `release`, `cancel` or `undo`.

        Stop once `_UNRULED` origins need a robots.txt request: the next call continues with the hosts behind them.
        """
        self._queue_deferred(now)
        shares: list[TurnShare] = []
        heap = self._heaps[kind]
        most = inf if kind in _RULELESS else _UNRULED
        while limit > 0 and heap and heap[0][0] <= now and len(self.unruled) < most:
            share = self._open_turn(kind, limit, now)
            if share is not None:
                shares.append(share)
                limit -= len(share.rows)
        return shares

    def _open_turn(self, kind: Kind, limit: int, now: float) -> TurnShare | None:
        """Open a turn of the host on top of the kind's heap; return None if the host is not ready after all."""
        at, _, host = heapq.heappop(self._heaps[kind])
        if host.listed.get(kind) != at:
            return None  # the heap has a newer entry of this host
        del host.listed[kind]
        gap = self.gap(host)
        most_turns = self._turns(host, gap)
        free_turns = most_turns - host.open_turns
        if free_turns <= 0:
            return None  # listed again when a turn ends
        origins = [origin for origin in host.origins if origin.waiting(kind) and self._is_open(origin, kind, now)]
        if not origins or self._visit_at(host, kind) > now:
            self._list(host, kind)
            return None
        waiting = sum(origin.waiting(kind) for origin in origins)
        asked = 1 if kind in _RULELESS else min(limit, self.room(host, kind))
        asked = min(asked, 1) if host.health.outages else asked
        if asked <= 0:
            return None  # listed again when a turn ends or a row is queued
        size = politeness.turn_size(
            waiting,
            asked=asked,
            gap=gap,
            latency=host.health.latency,
            free_turns=free_turns,
            most_turns=most_turns,
        )
        rows = dict(_pop_first(origins, kind) for _ in range(size))
        self.hosts.update(host)
        host.open_turns += 1
        host.taken[kind] += len(rows)
        host.last_kind = kind
        self._list(host, kind)
        return TurnShare(host, kind, gap, rows)

    def _is_open(self, origin: Origin, kind: Kind, now: float) -> bool:
        """Return whether the rules of ``origin`` are known and allow a visit; if they are unknown, ask for them."""
        if kind in _RULELESS or not self._policy.robots:
            return True
        if origin.rules_until <= now and not origin.is_awaited:
            origin.is_awaited = True
            self.unruled[origin] = None
        return not origin.is_awaited and bool(origin.rules and origin.rules.reachable)

    def ruled(self, share: TurnShare) -> list[str]:
        """Return the names of the origins of a share whose robots rules have a text."""
        if not self._policy.robots or share.kind in _RULELESS:
            return []
        return [origin.name for origin in dict.fromkeys(share.rows.values()) if origin.has_text]

    def release(self, host: Host, now: float) -> None:
        """Free the host of a turn that has ended or expired, from a gap from now."""
        self.rest(host, now)
        self.cancel(host)

    def cancel(self, host: Host) -> None:
        """Close an unused turn that `start_turns` opened."""
        host.open_turns = max(0, host.open_turns - 1)
        self._list(host)

    def undo(self, share: TurnShare) -> None:
        """Put all rows of a share back into their queues and close its turn."""
        share.lend()
        for row, origin in share.rows.items():
            self.add(origin, share.kind, (row,), returned=True)
        self.cancel(share.host)

    def rest(self, host: Host, now: float) -> None:
        """Block a host for a gap from now, as it may have been visited just before."""
        host.next_at = max(host.next_at, now + self.gap(host))

    def gap(self, host: Host) -> float:
        """Return the present seconds between the starts of two requests to ``host``."""
        if host.key == LOCAL:
            return 0.0
        return politeness.gap(self._policy, host.key, crawl_delay=host.crawl_delay, latency=host.health.latency)

    def _turns(self, host: Host, gap: float) -> int:
        """Return how many turns a host may have at a time: one if it was down, until it responds again."""
        return 1 if host.health.outages else politeness.turns(self._policy, host.key, gap)

    # looking ahead ------------------------------------------------------------------------------------------------

    def soonest(self, kinds: Collection[Kind], now: float) -> float:
        """Return the clock time at which a request of ``kinds`` can be leased; infinity if no such time is known.

        Gaps are ignored: a host that only waits for its gap counts as ready.
        """
        self._queue_deferred(now)
        if self.unruled:
            return now
        soonest = min((entry[0] for entry in self._deferred if entry[3] in kinds), default=inf)
        for host in self.hosts.waiting:
            if soonest <= now:
                break
            times = [
                max(host.health.blocked_until, now, self._opens_at(origin, kind))
                for origin in host.origins
                for kind in kinds
                if origin.waiting(kind) and self.room(host, kind) > 0
            ]
            soonest = min([soonest, *times])
        return soonest

    def _opens_at(self, origin: Origin, kind: Kind) -> float:
        """Return the clock time from which the rules of an origin allow a visit; infinity while they are awaited."""
        if kind in _RULELESS or not self._policy.robots:
            return -inf
        if origin.is_awaited:
            return inf
        return origin.rules_until if origin.rules and not origin.rules.reachable else -inf

    def next_ready(self, kinds: Collection[Kind], now: float) -> float:
        """Return the clock time until which a caller may sleep: `start_turns` can't return more rows before it."""
        if self.unruled:
            return now
        times = [heap[0][0] for kind in kinds if (heap := self._heaps[kind])]
        if self._deferred:
            times.append(self._deferred[0][0])
        return max(min(times, default=inf), now)

    def ready(self, kinds: Collection[Kind], now: float, most: int) -> int:
        """Return how many hosts may be visited at ``now``, each once per kind; stop counting at ``most``.

        Origins that need a robots.txt request count, too: that request is ready.
        """
        number = len(self.unruled)
        for heap in (self._heaps[kind] for kind in kinds):
            indexes = [0]
            while indexes and number < most:
                index = indexes.pop()
                if index < len(heap) and heap[index][0] <= now:
                    number += 1
                    indexes += (2 * index + 1, 2 * index + 2)
        return number

    def parked(self, kinds: Collection[Kind], until: float) -> dict[int, str]:
        """Return all rows that can't be leased before clock time ``until``, each with its reason.

        An empty reason stands for that of the row's last attempt.
        """
        rows = {entry[1]: "" for entry in self._deferred if entry[0] > until and entry[3] in kinds}
        for origin in (origin for host in self.hosts.waiting for origin in host.origins):
            for kind in kinds:
                is_blocked, is_shut = origin.host.health.blocked_until > until, self._opens_at(origin, kind) > until
                if origin.waiting(kind) and (is_blocked or is_shut) and self.room(origin.host, kind) > 0:
                    blocked = "host-down" if origin.host.health.outages else "rate-limited"
                    rows |= dict.fromkeys(origin.queues[kind], blocked if is_blocked else "robots-unreachable")
        return rows

    def drop(self, rows: Collection[int]) -> None:
        """Remove rows that `parked` has returned."""
        self._deferred = [entry for entry in self._deferred if entry[1] not in rows]
        heapq.heapify(self._deferred)
        for host in list(self.hosts.waiting):
            for queue in (queue for origin in host.origins for queue in origin.queues.values()):
                queue.discard(rows)
            self.hosts.update(host)

    # internals ----------------------------------------------------------------------------------------------------

    def _queue_deferred(self, now: float) -> None:
        """Queue the deferred rows whose time has come."""
        while self._deferred and self._deferred[0][0] <= now:
            _, row, origin, kind, priority = heapq.heappop(self._deferred)
            self.add(origin, kind, (row,), priority)

    def _visit_at(self, host: Host, kind: Kind) -> float:
        """Return the clock time of the next visit for a kind; after a turn of that kind, other kinds go first."""
        yields = host.last_kind == kind and any(kind != other and host.waiting(other) for other in self._heaps)
        return host.ready_at + (politeness.COURTESY * self.gap(host) if yields else 0.0)

    def _list(self, host: Host, *kinds: Kind) -> None:
        """Add a host to the heaps of these kinds (none: all), unless it is there earlier or all its turns are open."""
        if host not in self.hosts.waiting:
            return
        for kind in kinds or self._heaps:
            listed = host.listed.get(kind, inf)
            if listed <= host.ready_at:
                continue
            opens = (self._opens_at(origin, kind) for origin in host.origins if origin.waiting(kind))
            at = max(min(opens, default=inf), self._visit_at(host, kind))
            if at < listed and host.open_turns < self._turns(host, self.gap(host)):
                host.listed[kind] = at
                self._pushes += 1
                heapq.heappush(self._heaps[kind], (at, self._pushes, host))


def _unlimited(host: Host, kind: Kind) -> int:
    return 2**31


def _pop_first(origins: Sequence[Origin], kind: Kind) -> tuple[int, Origin]:
    """Remove the row that is served next among all origins of a host; return it with its origin."""
    origin = origins[0]
    if len(origins) > 1:
        origin = min((other for other in origins if other.waiting(kind)), key=lambda other: other.queues[kind].head)
    return origin.queues[kind].pop(), origin
