"""How much more may be handed out: of each kind over the whole crawl, and of each kind for one host."""

from collections import Counter

from crawler.frontier.hosts import Host
from crawler.frontier.leases import Leases
from crawler.frontier.ledger import DONE, FAILED, Ledger
from crawler.frontier.politeness import Policy
from crawler.frontier.tally import Tally
from crawler.model import Kind
from crawler.urls import host_key

#: A budget that never runs out.
_UNBOUNDED = 2**31


class Budget:
    """What the policy allows, less what was settled and what is on loan.

    What a budget stops stays waiting: the same crawl goes on with a greater one. It may be exceeded by pictures of a
    worker that was taken for lost meanwhile: what is saved counts.
    """

    def __init__(self, policy: Policy, ledger: Ledger, tally: Tally, leases: Leases) -> None:
        self._policy, self._tally, self._leases = policy, tally, leases
        #: Kind → what one host may have of it.
        bounds: dict[Kind, int | None] = {"page": policy.max_host_pages, "image": policy.max_host_images}
        self._most = {kind: most for kind, most in bounds.items() if most is not None}
        #: (host, kind) → settled requests.
        self._settled: Counter[tuple[str, Kind]] = Counter()
        for name, kind, number in ledger.settled_by_origin() if self._most else ():
            self._settled[host_key(name), kind] += number

    def room(self, kind: Kind) -> int:
        """Requests of a kind that may still be handed out; at most 0: none."""
        images, pages = self._policy.max_images, self._policy.max_pages
        room = _UNBOUNDED
        if images is not None:
            left = images - self._tally.saved()
            room = left - self._leases.leased("image") if kind == "image" or left <= 0 else room
        if pages is not None and kind == "page":
            visited = self._tally.states["page", DONE] + self._tally.states["page", FAILED]
            room = min(room, pages - visited - self._leases.leased("page"))
        return room

    def host_room(self, host: Host, kind: Kind) -> int:
        """The same for one host."""
        most = self._most.get(kind)
        if most is None:
            return _UNBOUNDED
        return most - self._settled[host.key, kind] - self._leases.leased_at(host, kind) - host.taken[kind]

    @property
    def is_by_host(self) -> bool:
        """Whether hosts have budgets of their own: then `settle` is to be called."""
        return bool(self._most)

    def settle(self, host: Host, kind: Kind) -> None:
        """A request of the host has its final state."""
        self._settled[host.key, kind] += 1
