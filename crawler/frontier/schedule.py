"""Whose turn is it: queues per origin below hosts, and heaps of the times at which hosts may be visited again.

Kept in memory, rebuilt from the ledger at start: row numbers only, eight bytes and a bit for each waiting request.
The time is an argument everywhere. Not thread-safe: the frontier that owns it holds the lock.
"""

import heapq
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from math import inf

from crawler.frontier import politeness
from crawler.frontier.politeness import Order, Policy
from crawler.model import Kind, RobotsRules
from crawler.urls import host_key

#: Name of the origin of requests that no host is asked for (lists).
LOCAL = ""
#: Kinds that are leased one at a time and need no robots rules.
_RULELESS: tuple[Kind, ...] = ("robots", "list")


class RowQueue:
    """Row numbers in the order of the crawl."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._rows: deque[int] = deque()
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._rows) or len(self._heap)

    def push(self, row: int, priority: int, *, returned: bool = False) -> None:
        """Add a row; a returned one goes to the end that is served next."""
        if self._order == "priority":
            heapq.heappush(self._heap, (-priority, row))
        elif returned and self._order == "fifo":
            self._rows.appendleft(row)
        else:
            self._rows.append(row)

    def pop(self) -> int:
        if self._order == "priority":
            return heapq.heappop(self._heap)[1]
        return self._rows.popleft() if self._order == "fifo" else self._rows.pop()


@dataclass(eq=False, slots=True)
class Origin:
    """One scheme, host and port: the queues, and the robots rules that open them."""

    name: str
    host: "Host"
    queues: dict[Kind, RowQueue] = field(default_factory=dict)
    rules: RobotsRules | None = None
    #: Clock time until which the rules hold.
    rules_until: float = -inf

    def waiting(self, kind: Kind) -> int:
        queue = self.queues.get(kind)
        return len(queue) if queue else 0


@dataclass(eq=False, slots=True)
class Host:
    """Everything about one host that politeness needs; it outlives its requests."""

    key: str
    origins: list[Origin] = field(default_factory=list)
    #: Clock times before which nobody visits: the gap's, and the one that the host asked for.
    next_at: float = -inf
    blocked_until: float = -inf
    #: Why it is blocked: the reason that its requests end with if the crawl can't wait for it.
    blocked_by: str = ""
    open_turns: int = 0
    #: Smoothed seconds per answer, and complaints of overload in a row.
    latency: float = 0.0
    overloads: int = 0
    #: Kinds for which a heap holds an entry of this host.
    listed: set[Kind] = field(default_factory=set)

    @property
    def ready_at(self) -> float:
        return max(self.next_at, self.blocked_until)

    @property
    def has_waiting(self) -> bool:
        return any(len(queue) for origin in self.origins for queue in origin.queues.values())

    @property
    def crawl_delay(self) -> float | None:
        delays = [o.rules.crawl_delay for o in self.origins if o.rules and o.rules.crawl_delay]
        return max(delays, default=None)


@dataclass(frozen=True, slots=True)
class Share:
    """What `Schedule.take` hands out: a turn's host, gap and rows."""

    host: Host
    kind: Kind
    gap: float
    rows: list[int]


class Schedule:
    """Hosts under heaps of next-allowed times."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.hosts: dict[str, Host] = {}
        self.origins: dict[str, Origin] = {}
        self._heaps: dict[Kind, list[tuple[float, int, Host]]] = {}
        self._pushes = 0
        self._deferred: list[tuple[float, int, Origin, Kind, int]] = []
        #: Origins whose next request must be the one for robots.txt.
        self.unruled: set[Origin] = set()

    # what comes in ------------------------------------------------------------------------------------------------

    def origin(self, name: str) -> Origin:
        """The origin of that name, made on first sight."""
        origin = self.origins.get(name)
        if origin is None:
            key = host_key(name) if name else LOCAL
            host = self.hosts.setdefault(key, Host(key))
            origin = self.origins[name] = Origin(name, host)
            host.origins.append(origin)
        return origin

    def add(self, origin: Origin, kind: Kind, row: int, priority: int = 0, *, returned: bool = False) -> None:
        """Queue a row that may be leased as soon as its host may be visited."""
        queue = origin.queues.get(kind)
        if queue is None:
            queue = origin.queues[kind] = RowQueue(self._policy.order)
        queue.push(row, priority, returned=returned)
        self._list(origin.host, kind)

    def defer(self, origin: Origin, kind: Kind, row: int, priority: int, until: float) -> None:
        """Queue a row at clock time ``until``."""
        heapq.heappush(self._deferred, (until, row, origin, kind, priority))

    def restore(self, origin: Origin, kind: Kind, row: int, priority: int, at: float, now: float) -> None:
        """Queue a row of an earlier life; its host was perhaps visited the moment before, so it rests for a gap."""
        if origin.host.next_at < now:
            origin.host.next_at = now + self.gap(origin.host)
        if at > now:
            self.defer(origin, kind, row, priority, at)
        else:
            self.add(origin, kind, row, priority)

    def set_rules(self, origin: Origin, rules: RobotsRules, until: float) -> None:
        """Take in the robots rules of an origin, valid until clock time ``until``."""
        origin.rules, origin.rules_until = rules, until
        self.unruled.discard(origin)
        for kind in origin.queues:
            self._list(origin.host, kind)

    # what goes out ------------------------------------------------------------------------------------------------

    def take(self, kind: Kind, limit: int, now: float) -> list[Share]:
        """Open turns with up to ``limit`` rows of a kind; the caller ends each with `release`."""
        self._wake(now)
        shares: list[Share] = []
        heap = self._heaps.get(kind, [])
        while limit > 0 and heap and heap[0][0] <= now:
            share = self._open_turn(kind, limit, now)
            if share is not None:
                shares.append(share)
                limit -= len(share.rows)
        return shares

    def _open_turn(self, kind: Kind, limit: int, now: float) -> Share | None:
        """The turn of the host on top of the kind's heap; None where it turns out to be not ready after all."""
        host = heapq.heappop(self._heaps[kind])[2]
        host.listed.discard(kind)
        gap = self.gap(host)
        free_turns = politeness.turns(self._policy, host.key, gap) - host.open_turns
        if free_turns <= 0:
            return None  # listed again when a turn ends
        if host.ready_at > now:
            self._list(host, kind)
            return None
        origins = [o for o in host.origins if o.waiting(kind) and self._is_open(o, kind, now)]
        waiting = sum(o.waiting(kind) for o in origins)
        if not waiting:
            self._list_unreachable(host, kind, now)
            return None
        asked = 1 if kind in _RULELESS else limit
        size = politeness.turn_size(waiting, asked=asked, gap=gap, latency=host.latency, free_turns=free_turns)
        queues = [origin.queues[kind] for origin in origins]
        rows = [next(queue for queue in queues if queue).pop() for _ in range(size)]
        host.open_turns += 1
        self._list(host, kind)
        return Share(host, kind, gap, rows)

    def _is_open(self, origin: Origin, kind: Kind, now: float) -> bool:
        """Whether the rules of ``origin`` are known and let us in; where they are not known, they are wanted."""
        if kind in _RULELESS or not self._policy.robots:
            return True
        if origin.rules_until <= now:
            self.unruled.add(origin)
            return False
        return bool(origin.rules and origin.rules.reachable)

    def _list_unreachable(self, host: Host, kind: Kind, now: float) -> None:
        """Look at a host again when its unreachable rules expire; without rules, `set_rules` lists it again."""
        times = [o.rules_until for o in host.origins if o.waiting(kind) and o.rules_until > now]
        if times:
            self._push(host, kind, min(times))

    def release(self, host: Host, now: float) -> None:
        """A turn has ended or expired: the host is free again a gap from now."""
        host.open_turns = max(0, host.open_turns - 1)
        host.next_at = max(host.next_at, now + self.gap(host))
        self._list_all(host)

    def cancel(self, host: Host) -> None:
        """A turn that `take` opened is not used after all."""
        host.open_turns = max(0, host.open_turns - 1)
        self._list_all(host)

    def reserve(self, key: str) -> Host:
        """Open a turn that was on loan before a restart."""
        host = self.hosts.setdefault(key, Host(key))
        host.open_turns += 1
        return host

    def gap(self, host: Host) -> float:
        """Seconds between the starts of two requests to ``host``, as things stand."""
        if host.key == LOCAL:
            return 0.0
        return politeness.gap(self._policy, host.key, crawl_delay=host.crawl_delay, latency=host.latency)

    # what is learned ----------------------------------------------------------------------------------------------

    def learn_latency(self, host: Host, seconds: float) -> None:
        """An answer took so long; also the sign that the host is no longer overloaded."""
        host.latency = seconds if host.latency == 0 else 0.8 * host.latency + 0.2 * seconds
        host.overloads = 0

    def learn_overload(self, host: Host, now: float, wait: float | None, draw: float) -> None:
        """The host said that it is too busy, and perhaps for how many seconds: nobody visits it for so long."""
        host.overloads += 1
        seconds = politeness.overload_delay(host.overloads, draw) if wait is None else wait
        host.blocked_until = max(host.blocked_until, now + min(seconds, politeness.MAX_HOST_WAIT))
        host.blocked_by = "rate-limited"

    # what is ahead ------------------------------------------------------------------------------------------------

    def soonest(self, kinds: Collection[Kind], now: float) -> float:
        """Clock time at which something of ``kinds`` may be leased, as far as is known; infinity: never, or parked.

        Time spent behind a gap counts as no time: a host at its pace is ready, only not yet.
        """
        self._wake(now)
        best = min((entry[0] for entry in self._deferred if entry[3] in kinds), default=inf)
        for host in self.hosts.values():
            if best <= now:
                break
            best = min(best, self._host_soonest(host, kinds, now))
        return best

    def _host_soonest(self, host: Host, kinds: Collection[Kind], now: float) -> float:
        times = [
            max(host.blocked_until, now, self._shut_until(origin, kind))
            for origin in host.origins
            for kind in kinds
            if origin.waiting(kind)
        ]
        return min(times, default=inf)

    def _shut_until(self, origin: Origin, kind: Kind) -> float:
        """Clock time until which unreachable rules keep us out."""
        ruled = self._policy.robots and kind not in _RULELESS
        return origin.rules_until if ruled and origin.rules and not origin.rules.reachable else -inf

    def next_ready(self, kinds: Collection[Kind], now: float) -> float:
        """Clock time of the next thing that may change what `take` gives, for whoever sleeps until then."""
        times = [heap[0][0] for kind in kinds if (heap := self._heaps.get(kind))]
        if self._deferred:
            times.append(self._deferred[0][0])
        return max(min(times, default=inf), now)

    def parked(self, kinds: Collection[Kind], until: float) -> Iterator[tuple[int, str]]:
        """Take out all rows that can't be leased before clock time ``until``, each with its reason ("": its last)."""
        late = [entry for entry in self._deferred if entry[0] > until and entry[3] in kinds]
        self._deferred = [entry for entry in self._deferred if entry not in late]
        heapq.heapify(self._deferred)
        yield from ((entry[1], "") for entry in late)
        for host in self.hosts.values():
            for origin in host.origins:
                for kind in kinds:
                    shut = self._shut_until(origin, kind) > until
                    reason = host.blocked_by if host.blocked_until > until else "robots-unreachable" if shut else ""
                    while reason and origin.waiting(kind):
                        yield origin.queues[kind].pop(), reason

    # inside -------------------------------------------------------------------------------------------------------

    def _wake(self, now: float) -> None:
        while self._deferred and self._deferred[0][0] <= now:
            _, row, origin, kind, priority = heapq.heappop(self._deferred)
            self.add(origin, kind, row, priority)

    def _list_all(self, host: Host) -> None:
        for origin in host.origins:
            for kind in origin.queues:
                self._list(host, kind)

    def _list(self, host: Host, kind: Kind) -> None:
        """See to it that the kind's heap has one entry for a host with something waiting."""
        if kind in host.listed or not any(origin.waiting(kind) for origin in host.origins):
            return
        if host.open_turns >= politeness.turns(self._policy, host.key, self.gap(host)):
            return
        self._push(host, kind, host.ready_at)

    def _push(self, host: Host, kind: Kind, at: float) -> None:
        host.listed.add(kind)
        self._pushes += 1
        heapq.heappush(self._heaps.setdefault(kind, []), (at, self._pushes, host))
