"""A clock that stands still until the test moves it, and shorthands for frontier tests."""

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import structs

from crawler.frontier.base import Frontier
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Grant, ImageRecord, Kind, Outcome, Request, RobotsRules, Verdict, VerdictState, describe

#: Makes a frontier of a policy; ``settings`` go to `hello`.
Make = Callable[..., Frontier]

#: Opens a file as a frontier, with a policy.
Open = Callable[..., SqliteFrontier]

#: No gap, and four turns at a time.
OPEN = Policy(robots=False, delay=0.0, per_host=4, patience=60.0)
#: The same, but three losses in a row end a request as poison.
POISON_SOON = structs.replace(OPEN, max_losses=3)


class FakeClock:
    """Monotonic seconds that only `go` moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += seconds


def states(verdicts: Sequence[Verdict]) -> tuple[VerdictState, ...]:
    """Return the frontier's verdict on each outcome."""
    return tuple(verdict.state for verdict in verdicts)


def page(url: str = "http://a.example/", **fields: Any) -> Request:
    return Request(url=url, kind="page", **fields)


def image(url: str = "http://a.example/1.jpg", **fields: Any) -> Request:
    return Request(url=url, kind="image", **fields)


def images(number: int, host: str = "a.example") -> list[Request]:
    return [image(f"http://{host}/{n}.jpg") for n in range(number)]


def lease(
    frontier: Frontier, *kinds: Kind, worker: str = "w1", limit: int = 100, seconds: float = 120.0, wait: float = 0.0
) -> Grant:
    return frontier.lease(worker, kinds or ("robots", "list", "page", "image"), limit, seconds, wait)


def urls(grant: Grant) -> list[str]:
    return [lease.request.url for turn in grant.turns for lease in turn.leases]


def tokens(grant: Grant) -> list[str]:
    return [lease.token for turn in grant.turns for lease in turn.leases]


def saved(request: Request, sha256: str = "") -> ImageRecord:
    digest = sha256 or f"{abs(hash(request.url)):016x}" * 4
    path = f"images/{digest[:2]}/{digest}.jpg"
    return describe(request, status="success", store="51" * 8, path=path, sha256=digest, bytes=10, http_status=200)


def done(grant: Grant, **fields: Any) -> list[Outcome]:
    """Return a good outcome for every lease of a grant."""
    return [
        Outcome(
            status="done",
            token=lease.token,
            record=saved(lease.request) if lease.request.kind == "image" else None,
            robots=RobotsRules() if lease.request.kind == "robots" else None,
            **fields,
        )
        for turn in grant.turns
        for lease in turn.leases
    ]


def turn_ids(grant: Grant) -> Sequence[str]:
    return [turn.id for turn in grant.turns]


def work_off(frontier: Frontier, *kinds: Kind, worker: str = "w1", limit: int = 100) -> list[str]:
    """Lease once, settle all leases well and end the turns; return the URLs."""
    grant = lease(frontier, *kinds, worker=worker, limit=limit)
    frontier.complete(worker, done(grant), turn_ids(grant))
    return urls(grant)


def retry(grant: Grant, reason: str = "connect", **fields: Any) -> list[Outcome]:
    """Return a failed attempt for every lease of a grant."""
    return [Outcome(status="retry", token=token, reason=reason, **fields) for token in tokens(grant)]


def learn(frontier: Frontier, rules: RobotsRules | None = None) -> None:
    """Complete every wanted robots.txt, with these rules for each."""
    lease(frontier, "page", "image", limit=1_000)
    while (grant := lease(frontier, "robots")).turns:
        outcomes = [Outcome(status="done", token=token, robots=rules or RobotsRules()) for token in tokens(grant)]
        frontier.complete("w1", outcomes, turn_ids(grant))
