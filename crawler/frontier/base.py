"""Interface of the frontier: the queue of requests, their leases, and the outcomes that workers report.

Every implementation keeps these promises, checked by one contract test (``tests/frontier/test_contract*.py``):

* A request is stored once, under ``(kind, url)``, as it was first described. Putting it again changes nothing, but
  the further list rows of an image are kept (`ImageRecord.other_rows`). URLs other than http(s) are ignored. A
  worker's outcomes may add only pages, their parts and images.
* `Frontier.put` and `Frontier.complete` are durable when they return. ``complete`` writes state, discovered
  requests and record in one transaction: all of it or nothing.
* A leased request returns to the queue when its lease expires, or ends as ``poison`` after too many deliveries
  without a verdict. The first verdict wins; later ones are ``duplicate`` and change nothing. After a request is
  queued again (retry, refresh, a lost file), no outcome of an earlier lease settles it.
* A record is valid until another verdict on its request replaces it, also while a refresh has the request wait again.
  Of all records of the same bytes exactly one is a success, at any time. A lease carries the results of the previous
  fetch, from the frontier's own rows.
* A host has one `Turn` at a time (``per_host`` with gap 0), and the next turn starts no earlier than a gap after
  the end, or the expiry, of the last.
* Released requests are served before requests that were never leased, in the order of the crawl; lost ones after them.
* Nothing of an origin is leased before its robots.txt is known, except the request for robots.txt itself.
* The state is ``drained`` only when nothing is leased, nothing is ready and nothing becomes ready within the patience.
* A method that raises changes nothing: memory and disk agree, and the caller may repeat the call.
* Every method may be called from any thread, takes and returns plain data, and reads the time from the
  frontier's own clock.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from crawler.model import Grant, ImageRecord, Kind, Outcome, Renewal, Request, Verdict, WorkerInfo
from crawler.stats import FrontierStats

#: Version of the eight methods and their data. Worker and frontier must agree on it.
PROTOCOL = 6
#: Seconds without an answer from the frontier after which a worker starts no request: its connection may be closed.
SILENCE = 10.0
#: Seconds from the end of a worker's last connection after which its leases expire, unless the worker calls before.
DEPARTURE = 2 * SILENCE


class Frontier(Protocol):
    """The eight methods that every frontier implements."""

    def hello(self, worker: str, protocol: int, about: WorkerInfo = ...) -> dict[str, Any]:
        """Register a worker and its machine, free the leases of its previous process, and return the crawl's settings.

        Raises:
            AccessError: the protocol versions differ.
        """
        ...

    def put(self, requests: Sequence[Request]) -> int:
        """Add requests durably and return how many were new."""
        ...

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        """Lease up to ``limit`` requests, in turns, for ``seconds``; block up to ``wait`` seconds for work.

        With a limit of 0, only report the state.
        """
        ...

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        """Renew leases to ``seconds`` from now; return the lost ones, and the hosts that must not be visited."""
        ...

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        """Settle outcomes durably, free the hosts of ended turns, and return one verdict per outcome, in order."""
        ...

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """Return records with their numbers, in the order of their verdicts, from the first number above ``after``."""
        ...

    def stats(self) -> FrontierStats:
        """Return all counts, read at one instant."""
        ...

    def close(self) -> None:
        """Write pending data and release all resources; the frontier can't be used afterwards."""
        ...
