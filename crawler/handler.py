"""Interface of handlers, which turn one request into its outcome, and functions that several handlers use."""

from typing import Protocol

from msgspec import structs

from crawler.errors import RequestFailed
from crawler.model import Outcome, Request, describe
from crawler.net.fetcher import Conditions, Response
from crawler.net.referrer import header_policy
from crawler.urls import canonicalize


class Handler(Protocol):
    """Interface that turns one request into its outcome: harvester, downloader, robots and list handlers."""

    def handle(self, request: Request) -> Outcome:
        """Return the outcome of ``request``. Network errors become outcomes.

        Raises:
            crawler.errors.DiskError: the local disk refuses.
        """
        ...


def failure(request: Request, error: RequestFailed, elapsed: float = 0.0) -> Outcome:
    """Return the outcome of a request that failed with ``error`` after ``elapsed`` seconds."""
    record = None
    if request.kind == "image":
        record = describe(request, reason=error.reason, http_status=error.http_status, elapsed=elapsed)
    return Outcome(
        status="retry" if error.retryable else "done",
        reason=error.reason,
        record=record,
        host_wait=error.host_wait,
        overloaded=error.overloaded,
        down=error.down,  # type: ignore[arg-type]  # one of the literal's values
        latency=elapsed,
    )


def redirected(request: Request, response: Response, limit: int) -> Outcome:
    """Return the outcome ``moved``: the same request continues at the target of a redirect, with one more hop.

    Raises:
        RequestFailed: ``redirect-limit`` after more than ``limit`` hops, or a reason of `Response.location`.
    """
    location = response.location
    if location is None:
        raise ValueError(f"response {response.status} is not a redirect")
    if request.hops >= limit:
        raise RequestFailed("redirect-limit", f"more than {limit} redirects", http_status=response.status)
    try:
        target = canonicalize(location)
    except ValueError as error:
        raise RequestFailed("bad-url", f"redirect to {location[:200]!r}") from error
    policy = header_policy(response.headers.get("referrer-policy", "")) or request.referrer_policy
    return Outcome(
        status="moved",
        successor=structs.replace(request, target=target, hops=request.hops + 1, referrer_policy=policy),
        latency=response.elapsed,
        received=response.received,
    )


def revalidating(conditions: Conditions, request: Request) -> Conditions:
    """Return the conditions with the validators of an earlier response, if that came from the URL requested now.

    The URLs must be equal, so that a redirect never sends the validators of one server to another.
    """
    prior = request.prior
    if prior is None or prior.url != request.location:
        return conditions
    return structs.replace(conditions, etag=prior.etag, last_modified=prior.last_modified)
