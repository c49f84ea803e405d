"""Budgets: how many more requests of a kind may be leased, for the whole crawl and for one host."""

from collections import Counter
from collections.abc import Iterable

from crawler.frontier.counters import Counters
from crawler.frontier.host_queues import Host
from crawler.frontier.ledger.rows import DONE, FAILED
from crawler.frontier.politeness import Policy
from crawler.model import Kind
from crawler.urls import host_key

#: A budget that never runs out.
_UNBOUNDED = 2**31


class Budget:
    """The limits of the policy, less the settled and the leased requests.

    Requests beyond a budget keep waiting: the same crawl continues with a larger one. The budget may be exceeded by
    pictures of a worker whose leases have expired meanwhile: every saved picture counts.

    Args:
        leased: leased requests by kind, and by (host key, kind); the caller changes both.
        settled: origins with numbers of their settled requests of a kind; read only if hosts have budgets.
    """

    def __init__(
        self,
        policy: Policy,
        counters: Counters,
        leased: tuple[Counter[Kind], Counter[tuple[str, Kind]]],
        settled: Iterable[tuple[str, Kind, int]],
    ) -> None:
        self._policy, self._counters = policy, counters
        self._leased, self._leased_at = leased
        #: Kind → most requests of one host.
        bounds: dict[Kind, int | None] = {"page": policy.max_host_pages, "image": policy.max_host_images}
        self._host_limits = {kind: limit for kind, limit in bounds.items() if limit is not None}
        #: (host, kind) → settled requests.
        self._settled: Counter[tuple[str, Kind]] = Counter()
        self.settle(settled)

    def room(self, kind: Kind) -> int:
        """Return how many requests of a kind may still be leased; 0 or less means none."""
        images, pages = self._policy.max_images, self._policy.max_pages
        left = _UNBOUNDED
        if images is not None:
            unsaved = images - self._counters.saved()
            left = unsaved - self._leased["image"] if kind == "image" or unsaved <= 0 else left
        if pages is not None and kind == "page":
            visited = self._counters.states["page", DONE] + self._counters.states["page", FAILED]
            left = min(left, pages - visited - self._leased["page"])
        return left

    def host_room(self, host: Host, kind: Kind) -> int:
        """Return how many requests of a kind may still be leased for one host."""
        limit = self._host_limits.get(kind)
        if limit is None:
            return _UNBOUNDED
        return limit - self._settled[host.key, kind] - self._leased_at[host.key, kind] - host.taken[kind]

    def settle(self, settled: Iterable[tuple[str, Kind, int]]) -> None:
        """Count requests that have reached their final state: origin, kind and number."""
        for name, kind, number in settled if self._host_limits else ():
            self._settled[host_key(name), kind] += number
