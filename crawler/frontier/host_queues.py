"""Hosts, their origins, and the queues of their waiting requests: row numbers only, eight bytes per request."""

import heapq
from array import array
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from math import inf
from typing import NamedTuple

from crawler.frontier.host_health import HostHealth
from crawler.frontier.politeness import MAX_CRAWL_DELAY, Order
from crawler.model import Kind, RobotsRules

#: Name of the origin of requests that need no host (lists).
LOCAL = ""
#: Least number of popped rows at the front of a queue before the queue is copied without them.
_FEW_ROWS = 64
#: Health of a host that was never visited.
_UNKNOWN = HostHealth()


class RowQueue:
    """Queue of row numbers in the order of the crawl; returned rows are served before all others, in that order too."""

    __slots__ = ("_first", "_heap", "_order", "_rows")

    def __init__(self, order: Order) -> None:
        self._order = order
        #: The rows from index ``_first`` on; those before it are popped. Eight bytes per row, and few when empty.
        self._rows = array("q")
        self._first = 0
        #: Returned rows, and with ``priority`` all rows: the smallest key is served first.
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._rows) - self._first + len(self._heap)

    def __iter__(self) -> Iterator[int]:
        return chain(islice(self._rows, self._first, None), (abs(row) for _, row in self._heap))

    @property
    def head(self) -> tuple[int, int]:
        """Key of the row that is served next; of a host's queues, the one with the smallest key is served first."""
        if self._heap:
            return self._heap[0]
        return (0, self._rows[self._first]) if self._order == "fifo" else (0, -self._rows[-1])

    def push(self, row: int, priority: int, *, returned: bool = False) -> None:
        """Add a row; a returned one is served before rows that were never leased, unless the order is ``priority``."""
        if self._order == "priority":
            heapq.heappush(self._heap, (-priority, row))
        elif returned:
            heapq.heappush(self._heap, (-1, row if self._order == "fifo" else -row))
        else:
            self._rows.append(row)

    def fill(self, rows: Iterable[int], priority: int) -> None:
        """Add rows and sort all rows by discovery."""
        if self._order == "priority":
            self._heap += [(-priority, row) for row in rows]
            heapq.heapify(self._heap)
        else:
            self._replace(sorted(chain(islice(self._rows, self._first, None), rows)))

    def pop(self) -> int:
        """Remove and return the row that is served next."""
        if self._heap:
            return abs(heapq.heappop(self._heap)[1])
        if self._order != "fifo":
            return self._rows.pop()
        row = self._rows[self._first]
        self._first += 1
        if self._first >= max(_FEW_ROWS, len(self._rows) // 2) or self._first == len(self._rows):
            self._replace(self._rows[self._first :])
        return row

    def discard(self, rows: Container[int]) -> None:
        """Remove these rows, at any position."""
        self._replace(row for row in islice(self._rows, self._first, None) if row not in rows)
        self._heap = [key for key in self._heap if abs(key[1]) not in rows]
        heapq.heapify(self._heap)

    def _replace(self, rows: Iterable[int]) -> None:
        self._rows, self._first = array("q", rows), 0


@dataclass(eq=False, slots=True)
class Origin:
    """One scheme, host and port, with its queues and its robots rules."""

    name: str
    host: "Host"
    queues: dict[Kind, RowQueue] = field(default_factory=dict)
    #: The robots rules without their text, which may be long: the ledger has it.
    rules: RobotsRules | None = None
    #: Whether the rules have a text.
    has_text: bool = False
    #: Clock time until which the rules are valid.
    rules_until: float = -inf
    #: Whether the robots rules are requested, for the first time or anew; until they arrive, nothing else is leased.
    is_awaited: bool = False

    def queue(self, kind: Kind, order: Order) -> RowQueue:
        """Return the queue of a kind; create it in this order if it is new."""
        queue = self.queues.get(kind)
        if queue is None:
            queue = self.queues[kind] = RowQueue(order)
        return queue

    def waiting(self, kind: Kind) -> int:
        """Return the number of waiting rows of a kind."""
        queue = self.queues.get(kind)
        return len(queue) if queue else 0


@dataclass(eq=False, slots=True)
class Host:
    """Everything about one host that politeness needs; it is kept after its last request."""

    key: str
    origins: list[Origin] = field(default_factory=list)
    health: HostHealth = _UNKNOWN
    #: The health that the ledger has stored.
    saved_health: HostHealth = _UNKNOWN
    #: Clock time before which the host is not visited, because of the gap.
    next_at: float = -inf
    open_turns: int = 0
    #: Rows that were taken out of the queues and are not leased yet.
    taken: Counter[Kind] = field(default_factory=Counter)
    #: Kind of the last turn, after which the other kinds go first.
    last_kind: Kind | None = None
    #: Kind → clock time of this host's entry in the heap of that kind; an entry of another time is out of date.
    listed: dict[Kind, float] = field(default_factory=dict)

    @property
    def ready_at(self) -> float:
        """Clock time from which the host may be visited."""
        return max(self.next_at, self.health.blocked_until)

    @property
    def has_waiting(self) -> bool:
        """Whether any of its queues has a row."""
        return any(len(queue) for origin in self.origins for queue in origin.queues.values())

    def waiting(self, kind: Kind) -> int:
        """Return the number of waiting rows of a kind."""
        return sum(origin.waiting(kind) for origin in self.origins)

    @property
    def is_down(self) -> bool:
        """Whether the host was down at the last check."""
        return self.health.outages > 0

    @property
    def crawl_delay(self) -> float:
        """Seconds between two requests: the longest that its origins' rules ask for, or 0 if none do."""
        delays = [origin.rules.crawl_delay or 0.0 for origin in self.origins if origin.rules]
        return min(max(delays, default=0.0), MAX_CRAWL_DELAY)


class _HostCounts(NamedTuple):
    """Numbers of hosts, without the nameless one (`LOCAL`)."""

    known: int
    waiting: int
    down: int
    #: The host with waiting rows, if there is exactly one.
    alone: Host | None


class Hosts:
    """All hosts and origins, the hosts with waiting rows, and those among them that are down.

    They are counted at each change, never by iterating. The caller must call `update` after every change of a host's
    queues or health.
    """

    def __init__(self) -> None:
        self.by_key: dict[str, Host] = {}
        self._origins: dict[str, Origin] = {}
        #: Hosts with waiting rows, including the nameless one (`LOCAL`), in the order in which they got them.
        self.waiting: dict[Host, None] = {}
        self._down: set[Host] = set()

    def host(self, key: str) -> Host:
        """Return the host of that key; create it if it is new."""
        host = self.by_key.get(key)
        if host is None:
            host = self.by_key[key] = Host(key)
        return host

    def origin(self, name: str) -> Origin:
        """Return the origin of that name; create it if it is new."""
        origin = self._origins.get(name)
        if origin is None:
            host = self.host(name.partition("://")[2])  # the name has the form that `urls.origin` returns
            origin = self._origins[name] = Origin(name, host)
            host.origins.append(origin)
        return origin

    def update(self, host: Host) -> None:
        """Update the counts from the host's present state."""
        if host.has_waiting:
            self.waiting[host] = None
        else:
            self.waiting.pop(host, None)
        if host.is_down and host in self.waiting:
            self._down.add(host)
        else:
            self._down.discard(host)

    def counts(self) -> _HostCounts:
        """Return the present numbers of hosts."""
        known, waiting, down = len(self.by_key), len(self.waiting), len(self._down)
        if local := self.by_key.get(LOCAL):
            known -= 1
            waiting -= local in self.waiting
            down -= local in self._down
        alone = next((host for host in self.waiting if host is not local), None) if waiting == 1 else None
        return _HostCounts(known, waiting, down, alone)
