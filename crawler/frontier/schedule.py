"""Whose turn is it: heaps of the times at which hosts may be visited again.

Kept in memory, rebuilt from the ledger at start. The time is an argument everywhere. Not thread-safe: the frontier that
owns it holds the lock.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import get_args

from crawler.frontier import politeness
from crawler.frontier.hosts import Host, Origin, RowQueue
from crawler.frontier.politeness import Policy
from crawler.model import Kind, RobotsRules
from crawler.urls import host_key

#: Name of the origin of requests that no host is asked for (lists).
LOCAL = ""
#: Kinds that are leased one at a time and need no robots rules.
_RULELESS: tuple[Kind, ...] = ("robots", "list")


@dataclass(frozen=True, slots=True)
class Share:
    """What `Schedule.take` hands out: a turn's host, kind and gap, and its rows with the origins they stood in."""

    host: Host
    kind: Kind
    gap: float
    rows: dict[int, Origin]


class Schedule:
    """Hosts under heaps of next-allowed times."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        #: How many more requests of a kind a host may have.
        self.room: Callable[[Host, Kind], int] = _boundless
        self.hosts: dict[str, Host] = {}
        self.origins: dict[str, Origin] = {}
        self._heaps: dict[Kind, list[tuple[float, int, Host]]] = {kind: [] for kind in get_args(Kind)}
        self._pushes = 0
        self._deferred: list[tuple[float, int, Origin, Kind, int]] = []
        #: Origins for which somebody has yet to put a request for robots.txt, in the order of their wish.
        self.unruled: dict[Origin, None] = {}

    # what comes in ------------------------------------------------------------------------------------------------

    def host(self, key: str) -> Host:
        """The host of that key, made on first sight."""
        host = self.hosts.get(key)
        if host is None:
            host = self.hosts[key] = Host(key)
        return host

    def origin(self, name: str) -> Origin:
        """The origin of that name, made on first sight."""
        origin = self.origins.get(name)
        if origin is None:
            host = self.host(host_key(name) if name else LOCAL)
            origin = self.origins[name] = Origin(name, host)
            host.origins.append(origin)
        return origin

    def add(self, origin: Origin, kind: Kind, row: int, priority: int = 0, *, returned: bool = False) -> None:
        """Queue a row that may be leased as soon as its host may be visited."""
        self._queue(origin, kind).push(row, priority, returned=returned)
        self._list(origin.host, kind)

    def fill(self, origin: Origin, kind: Kind, rows: Iterable[int], priority: int = 0) -> None:
        """Queue rows in the order of discovery, as `add` does each."""
        self._queue(origin, kind).fill(rows, priority)
        self._list(origin.host, kind)

    def _queue(self, origin: Origin, kind: Kind) -> RowQueue:
        queue = origin.queues.get(kind)
        if queue is None:
            queue = origin.queues[kind] = RowQueue(self._policy.order)
        return queue

    def defer(self, origin: Origin, kind: Kind, row: int, priority: int, until: float) -> None:
        """Queue a row at clock time ``until``, or when something is taken after it."""
        heapq.heappush(self._deferred, (until, row, origin, kind, priority))

    def set_rules(self, origin: Origin, rules: RobotsRules, until: float) -> None:
        """Take in the robots rules of an origin, valid until clock time ``until``."""
        origin.rules, origin.rules_until, origin.is_awaited = rules, until, False
        self.unruled.pop(origin, None)
        self._list_all(origin.host)

    # what goes out ------------------------------------------------------------------------------------------------

    def take(self, kind: Kind, limit: int, now: float) -> list[Share]:
        """Open turns with up to ``limit`` rows of a kind; the caller ends each with `release`, `cancel` or `undo`."""
        self._wake(now)
        shares: list[Share] = []
        heap = self._heaps[kind]
        while limit > 0 and heap and heap[0][0] <= now:
            share = self._open_turn(kind, limit, now)
            if share is not None:
                shares.append(share)
                limit -= len(share.rows)
        return shares

    def _open_turn(self, kind: Kind, limit: int, now: float) -> Share | None:
        """The turn of the host on top of the kind's heap; None where it turns out to be not ready after all."""
        at, _, host = heapq.heappop(self._heaps[kind])
        if host.listed.get(kind) != at:
            return None  # listed for another time since
        del host.listed[kind]
        gap = self.gap(host)
        free_turns = self._turns(host, gap) - host.open_turns
        if free_turns <= 0:
            return None  # listed again when a turn ends
        origins = [o for o in host.origins if o.waiting(kind) and self._is_open(o, kind, now)]
        if not origins or self._visit_at(host, kind) > now:
            self._list(host, kind)
            return None
        waiting = sum(o.waiting(kind) for o in origins)
        asked = 1 if kind in _RULELESS else min(limit, self.room(host, kind))
        asked = min(asked, 1) if host.conduct.outages else asked
        if asked <= 0:
            return None  # listed again when a turn ends, or something comes back
        size = politeness.turn_size(waiting, asked=asked, gap=gap, latency=host.conduct.latency, free_turns=free_turns)
        rows = dict(_pop_first(origins, kind) for _ in range(size))
        host.open_turns += 1
        host.taken[kind] += len(rows)
        host.last_kind = kind
        self._list(host, kind)
        return Share(host, kind, gap, rows)

    def _is_open(self, origin: Origin, kind: Kind, now: float) -> bool:
        """Whether the rules of ``origin`` are known and let us in; where they are not known, they are wanted."""
        if kind in _RULELESS or not self._policy.robots:
            return True
        if origin.rules_until <= now and not origin.is_awaited:
            origin.is_awaited = True
            self.unruled[origin] = None
        return not origin.is_awaited and bool(origin.rules and origin.rules.reachable)

    def rules(self, share: Share) -> dict[str, str]:
        """Origin → robots text, for the origins of a share that have one."""
        if not self._policy.robots or share.kind in _RULELESS:
            return {}
        places = dict.fromkeys(share.rows.values())
        return {place.name: place.rules.text for place in places if place.rules and place.rules.text}

    def release(self, host: Host, now: float) -> None:
        """A turn has ended or expired: the host is free again a gap from now."""
        self.rest(host, now)
        self.cancel(host)

    def cancel(self, host: Host) -> None:
        """A turn that `take` opened is not used after all."""
        host.open_turns = max(0, host.open_turns - 1)
        self._list_all(host)

    def lend(self, share: Share) -> None:
        """What `take` has taken is on loan from now on, or settled, or back in its queue."""
        share.host.taken[share.kind] -= len(share.rows)

    def undo(self, share: Share) -> None:
        """Put everything back that `take` has taken."""
        self.lend(share)
        for row, origin in share.rows.items():
            self.add(origin, share.kind, row, returned=True)
        self.cancel(share.host)

    def rest(self, host: Host, now: float) -> None:
        """Leave a host alone for a gap from now, as it was perhaps visited the moment before."""
        host.next_at = max(host.next_at, now + self.gap(host))

    def reserve(self, host: Host) -> None:
        """Open a turn that was on loan before a restart."""
        host.open_turns += 1

    def gap(self, host: Host) -> float:
        """Seconds between the starts of two requests to ``host``, as things stand."""
        if host.key == LOCAL:
            return 0.0
        return politeness.gap(self._policy, host.key, crawl_delay=host.crawl_delay, latency=host.conduct.latency)

    def _turns(self, host: Host, gap: float) -> int:
        """Turns that a host may have at a time; one that was down is looked at before it is visited."""
        return 1 if host.conduct.outages else politeness.turns(self._policy, host.key, gap)

    # what is ahead ------------------------------------------------------------------------------------------------

    def soonest(self, kinds: Collection[Kind], now: float) -> float:
        """Clock time at which something of ``kinds`` may be leased, as far as is known; infinity: never, or parked.

        Time spent behind a gap counts as no time: a host at its pace is ready, only not yet.
        """
        self._wake(now)
        if self.unruled:
            return now
        best = min((entry[0] for entry in self._deferred if entry[3] in kinds), default=inf)
        for host in self.hosts.values():
            if best <= now:
                break
            best = min(best, self._host_soonest(host, kinds, now))
        return best

    def _host_soonest(self, host: Host, kinds: Collection[Kind], now: float) -> float:
        times = [
            max(host.conduct.blocked_until, now, self._opens_at(origin, kind))
            for origin in host.origins
            for kind in kinds
            if origin.waiting(kind) and self.room(host, kind) > 0
        ]
        return min(times, default=inf)

    def _opens_at(self, origin: Origin, kind: Kind) -> float:
        """Clock time from which the rules of an origin let us in; infinity: when those come that are awaited."""
        if kind in _RULELESS or not self._policy.robots:
            return -inf
        if origin.is_awaited:
            return inf
        return origin.rules_until if origin.rules and not origin.rules.reachable else -inf

    def next_ready(self, kinds: Collection[Kind], now: float) -> float:
        """Clock time of the next thing that may change what `take` gives, for whoever sleeps until then."""
        if self.unruled:
            return now
        times = [heap[0][0] for kind in kinds if (heap := self._heaps[kind])]
        if self._deferred:
            times.append(self._deferred[0][0])
        return max(min(times, default=inf), now)

    def parked(self, kinds: Collection[Kind], until: float) -> dict[int, str]:
        """All rows that can't be leased before clock time ``until``, each with its reason ("": its last one)."""
        rows = {entry[1]: "" for entry in self._deferred if entry[0] > until and entry[3] in kinds}
        for origin in self.origins.values():
            for kind in kinds:
                is_busy, is_shut = origin.host.conduct.blocked_until > until, self._opens_at(origin, kind) > until
                if origin.waiting(kind) and (is_busy or is_shut) and self.room(origin.host, kind) > 0:
                    busy = "host-down" if origin.host.conduct.outages else "rate-limited"
                    rows |= dict.fromkeys(origin.queues[kind], busy if is_busy else "robots-unreachable")
        return rows

    def drop(self, rows: Collection[int]) -> None:
        """Forget rows that `parked` has named."""
        self._deferred = [entry for entry in self._deferred if entry[1] not in rows]
        heapq.heapify(self._deferred)
        for origin in self.origins.values():
            for queue in origin.queues.values():
                queue.discard(rows)

    # inside -------------------------------------------------------------------------------------------------------

    def _wake(self, now: float) -> None:
        while self._deferred and self._deferred[0][0] <= now:
            _, row, origin, kind, priority = heapq.heappop(self._deferred)
            self.add(origin, kind, row, priority)

    def _visit_at(self, host: Host, kind: Kind) -> float:
        """Clock time of the next visit for a kind: after a turn of its own it lets the others go first, by a moment."""
        yields = host.last_kind == kind and any(kind != other and host.waiting(other) for other in self._heaps)
        return host.ready_at + (politeness.COURTESY * self.gap(host) if yields else 0.0)

    def _list_all(self, host: Host) -> None:
        for kind in self._heaps:
            self._list(host, kind)

    def _list(self, host: Host, kind: Kind) -> None:
        """See to it that the kind's heap has an entry, at the right time, for a host that may be visited for it."""
        if host.listed.get(kind, inf) <= host.ready_at:
            return
        opens_at = min((self._opens_at(o, kind) for o in host.origins if o.waiting(kind)), default=inf)
        at = max(opens_at, self._visit_at(host, kind))
        if at >= host.listed.get(kind, inf):
            return
        if host.open_turns >= self._turns(host, self.gap(host)):
            return
        host.listed[kind] = at
        self._pushes += 1
        heapq.heappush(self._heaps[kind], (at, self._pushes, host))


def _boundless(host: Host, kind: Kind) -> int:
    return 2**31


def _pop_first(origins: Sequence[Origin], kind: Kind) -> tuple[int, Origin]:
    """Take the row that is first among those of all origins of a host, with its origin."""
    origin = origins[0]
    if len(origins) > 1:
        origin = min((o for o in origins if o.waiting(kind)), key=lambda o: o.queues[kind].head)
    return origin.queues[kind].pop(), origin
