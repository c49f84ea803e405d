"""The frontier's seam: what to visit next, who is at it, what came of it.

Promises of every implementation, held by one contract test (``tests/frontier/test_contract*.py``):

* A request is remembered once, under ``(kind, url)``, as its first finder described it; putting it again changes
  nothing. What is no http(s) URL is left out, and a worker's outcomes bring pages, their parts and images only.
* `Frontier.put` and `Frontier.complete` are durable when they return. ``complete`` writes state, discovered
  requests and record in one transaction: all of it or nothing.
* A leased request comes back to the queue when its time is up, or ends as ``poison`` after too many deliveries
  without a verdict. The first verdict wins; later ones are ``duplicate`` and change nothing. What is asked anew
  (retry, refresh, a lost file) is answered by nothing that was told of it before.
* A record holds until another verdict on its request replaces it, also while a refresh has the request wait again.
  Of all records of the same bytes one is a success, at any time. What is known of a request comes with its lease, from
  the frontier's own rows.
* A host has one `Turn` at a time (``per_host`` with gap 0), and the next turn starts no earlier than a gap after
  the end, or the expiry, of the last.
* What comes back, released or lost, is served before what never was on loan, in the order of the crawl.
* Nothing of an origin is leased before its robots.txt is known, except the request for robots.txt itself.
* ``drained`` is said only when nothing is leased, nothing is ready and nothing becomes ready within the patience.
* A method that raises leaves nothing half done: memory and disk agree, and it may be called again.
* Every method may be called from any thread, takes and returns plain data, and reads the time from the
  frontier's own clock.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from crawler.model import About, FrontierStats, Grant, ImageRecord, Kind, Outcome, Renewal, Request, Verdict

#: Version of the eight methods and their data. Worker and frontier must agree on it.
PROTOCOL = 4


class Frontier(Protocol):
    """The eight methods behind which every queue stands."""

    def hello(self, worker: str, protocol: int, about: About = ...) -> dict[str, Any]:
        """Announce a worker and its box; frees what an earlier life of it held. Returns the crawl's settings.

        Raises:
            AccessError: the protocol versions differ.
        """
        ...

    def put(self, requests: Sequence[Request]) -> int:
        """Add requests durably; returns how many were new."""
        ...

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        """Up to ``limit`` requests in turns, on loan for ``seconds``; blocks up to ``wait`` seconds for work.

        With a limit of 0 it only tells how things stand.
        """
        ...

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        """Renew leases to ``seconds`` from now; tells which are lost, and which hosts are to be left alone."""
        ...

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        """Settle outcomes durably and free the hosts of ended turns; one verdict an outcome, in order."""
        ...

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """Records with their numbers, in the order of their verdicts, from the first number above ``after``."""
        ...

    def stats(self) -> FrontierStats:
        """All counts, read at one instant."""
        ...

    def close(self) -> None:
        """Write what is pending and let go of everything; the frontier can't be used afterwards."""
        ...
