"""Hosts, their origins, and what waits for each: row numbers only, some forty bytes for each waiting request."""

import heapq
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from math import inf

from crawler.frontier.conduct import Conduct
from crawler.frontier.politeness import MAX_CRAWL_DELAY, Order
from crawler.model import Kind, RobotsRules

#: Of a host that nobody has visited.
_UNKNOWN = Conduct()


class RowQueue:
    """Row numbers in the order of the crawl; those that came back are served before all others, in that order too."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._rows: deque[int] = deque()
        #: What came back, and with ``priority`` everything: the smallest key is served first.
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._rows) + len(self._heap)

    def __iter__(self) -> Iterator[int]:
        return chain(self._rows, (abs(row) for _, row in self._heap))

    @property
    def head(self) -> tuple[int, int]:
        """Key of the row that is served next; between two queues of a host, the smaller one goes first."""
        if self._heap:
            return self._heap[0]
        return (0, self._rows[0]) if self._order == "fifo" else (0, -self._rows[-1])

    def push(self, row: int, priority: int, *, returned: bool = False) -> None:
        """Add a row; a returned one is served before those that never were on loan, priorities apart."""
        if self._order == "priority":
            heapq.heappush(self._heap, (-priority, row))
        elif returned:
            heapq.heappush(self._heap, (-1, row if self._order == "fifo" else -row))
        else:
            self._rows.append(row)

    def fill(self, rows: Iterable[int], priority: int) -> None:
        """Add rows in the order of discovery, among those that are there already."""
        if self._order == "priority":
            self._heap += [(-priority, row) for row in rows]
            heapq.heapify(self._heap)
        else:
            self._rows = deque(sorted(chain(self._rows, rows)))

    def pop(self) -> int:
        if self._heap:
            return abs(heapq.heappop(self._heap)[1])
        return self._rows.popleft() if self._order == "fifo" else self._rows.pop()

    def discard(self, rows: Container[int]) -> None:
        """Take those rows out, wherever they stand."""
        self._rows = deque(row for row in self._rows if row not in rows)
        self._heap = [key for key in self._heap if abs(key[1]) not in rows]
        heapq.heapify(self._heap)


@dataclass(eq=False, slots=True)
class Origin:
    """One scheme, host and port: the queues, and the robots rules that open them."""

    name: str
    host: "Host"
    queues: dict[Kind, RowQueue] = field(default_factory=dict)
    rules: RobotsRules | None = None
    #: Clock time until which the rules hold.
    rules_until: float = -inf
    #: Whether nothing is leased before the rules, or fresh ones, have come.
    is_awaited: bool = False

    def waiting(self, kind: Kind) -> int:
        queue = self.queues.get(kind)
        return len(queue) if queue else 0


@dataclass(eq=False, slots=True)
class Host:
    """Everything about one host that politeness needs; it outlives its requests."""

    key: str
    origins: list[Origin] = field(default_factory=list)
    conduct: Conduct = _UNKNOWN
    #: What the ledger has kept of its conduct.
    kept: Conduct = _UNKNOWN
    #: Clock time before which nobody visits, because of the gap.
    next_at: float = -inf
    open_turns: int = 0
    #: Rows that were taken out of the queues and are not on loan yet.
    taken: Counter[Kind] = field(default_factory=Counter)
    #: Kind of the last turn, after which the other kinds go first.
    last_kind: Kind | None = None
    #: Kind → clock time of this host's entry in the heap of that kind; an entry of another time is out of date.
    listed: dict[Kind, float] = field(default_factory=dict)

    @property
    def ready_at(self) -> float:
        return max(self.next_at, self.conduct.blocked_until)

    @property
    def has_waiting(self) -> bool:
        return any(len(queue) for origin in self.origins for queue in origin.queues.values())

    def waiting(self, kind: Kind) -> int:
        return sum(origin.waiting(kind) for origin in self.origins)

    @property
    def crawl_delay(self) -> float:
        """Seconds between two requests that the rules of any origin ask for; 0: none do."""
        delays = [o.rules.crawl_delay or 0.0 for o in self.origins if o.rules]
        return min(max(delays, default=0.0), MAX_CRAWL_DELAY)
