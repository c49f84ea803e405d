"""The fetcher's seam: one Request in, one Response out, nothing kept in between.

A `Response` hands out its body in pieces, never more of it than was asked for, and ends every failure as
`crawler.errors.RequestFailed` with a reason of the closed set. `crawler.transport.RequestsFetcher` goes to the
network; `CannedFetcher` answers from a dictionary, for tests of handlers, ours and other people's.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from io import BytesIO
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct, structs
from urllib3 import HTTPHeaderDict

from crawler.errors import RequestFailed
from crawler.model import Outcome, Request
from crawler.referrer import header_policy
from crawler.urls import canonicalize, resolve

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Answers that another attempt may better, and those with which the host says that it is overloaded.
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504, 522, 524})
_OVERLOADED = frozenset({429, 503})
#: Bytes asked for at a time; an image of usual size comes in one or two pieces.
_PIECE = 65_536
#: No picture is as long; a server that announces more boasts.
_MOST_SPARED = 2**40
#: What is kept of ``ETag``, also of one that breaks the grammar, as servers of such tags understand them; and of dates.
_TAG, _DATE = re.compile(r"[ -~]{1,256}"), re.compile(r"[ -~]{1,64}")
_SCHEME = re.compile(r"[\s\x00-\x1f]*([a-z][a-z0-9+.-]*):", re.IGNORECASE)


class Conditions(Struct, frozen=True, kw_only=True):
    """What the caller wants and how much of it: the part of a fetch that the `Request` does not say."""

    #: The ``Accept`` header. One that begins with ``image/`` also asks for bytes that are not compressed again.
    accept: str = "*/*"
    #: Longest body in bytes, after decompression; a longer one ends as ``too-large`` or ``decompression-limit``.
    max_bytes: int = 20 * 2**20
    #: Validators of an earlier answer: if they still hold, the server is to say so (304) and send nothing.
    etag: str = ""
    last_modified: str = ""

    @property
    def is_conditional(self) -> bool:
        """Whether an answer 304 is one to what was asked."""
        return bool(self.etag or self.last_modified)


class Limits(Struct, frozen=True, kw_only=True):
    """How long one request may take, in seconds, and how slow it may be."""

    connect: float = 10.0
    #: Longest silence of the server, before the first byte and between two; all of the headers take no longer, either.
    first_byte: float = 20.0
    #: From the start of the request to the last byte of its body.
    total: float = 60.0
    #: Bytes per second that a body must bring, measured over ``window`` seconds of waiting for it.
    min_speed: int = 1024
    window: float = 10.0


class Body(Protocol):
    """Where the bytes of a `Response` come from; a fetcher of one's own brings one."""

    @property
    def received(self) -> int:
        """Bytes that came over the network so far, before decompression."""
        ...

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes as soon as some are there, none at the end; raises `RequestFailed`."""
        ...

    def close(self) -> None:
        """Give the connection back, or cut it."""
        ...


class Response:
    """An answer whose headers are in and whose body is still to come; use it in a ``with`` statement."""

    def __init__(
        self,
        url: str,
        status: int,
        *,
        headers: Mapping[str, str],
        body: Body,
        conditions: Conditions,
        started: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url  #: What was fetched.
        self.status = status
        self.headers = headers if isinstance(headers, HTTPHeaderDict) else HTTPHeaderDict(headers)
        self._body = body
        self._conditions = conditions
        self._started = started
        self._clock = clock
        self._ended: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds from the start of the request to its last byte, or to now."""
        return (self._clock() if self._ended is None else self._ended) - self._started

    @property
    def received(self) -> int:
        """Bytes of the body that came over the network so far."""
        return self._body.received

    @property
    def spared(self) -> int:
        """Bytes of the body that the server has announced and that did not come; 0 where it announced none."""
        declared = self._declared()
        return 0 if declared is None else min(max(0, declared - self.received), _MOST_SPARED)

    @property
    def location(self) -> str | None:
        """Absolute URL that a redirect leads to; None where the answer is none.

        Raises:
            RequestFailed: ``unsupported-scheme`` or ``bad-url``.
        """
        references = set(self.headers.getlist("location"))
        if self.status not in _REDIRECTS or not any(references):
            return None
        if len(references) > 1:
            raise RequestFailed("bad-url", f"redirects to {len(references)} places at once")
        reference = references.pop()
        target = resolve(self.url, _utf8(reference))
        if target is None:
            scheme = _SCHEME.match(reference)
            known = scheme is None or scheme[1].lower() in ("http", "https")
            raise RequestFailed("bad-url" if known else "unsupported-scheme", f"redirect to {reference[:200]!r}")
        return target

    @property
    def is_unchanged(self) -> bool:
        """Whether the server says that what the caller has is still the same (RFC 9110 §15.4.5)."""
        return self.status == 304 and self._conditions.is_conditional

    @property
    def validators(self) -> tuple[str, str]:
        """``ETag`` and ``Last-Modified`` as they are to be sent back; empty where there is none of use.

        A file that was changed within the second of the answer may be changed again in the same one, so that time tells
        nothing (RFC 9110 §8.8.2.2). ``*`` would fit any file.
        """
        etag, modified = self.headers.get("etag", ""), self.headers.get("last-modified", "")
        changed, sent = timestamp(modified), timestamp(self.headers.get("date", ""))
        is_settled = changed is not None and (sent is None or sent - changed >= 1)
        is_tag = _TAG.fullmatch(etag) is not None and etag != "*"
        return etag if is_tag else "", modified if is_settled and _DATE.fullmatch(modified) else ""

    def chunks(self) -> Iterator[bytes]:
        """The body, decompressed, piece by piece, once.

        Raises:
            RequestFailed: ``too-large``, ``decompression-limit``, ``timeout``, ``too-slow``, ``truncated``,
                ``connect``, ``corrupt``, ``unsupported-format`` (its coding) or ``cancelled``.
        """
        self._check_declared(self._conditions.max_bytes)
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        limit = self._conditions.max_bytes
        size = 0
        try:
            while piece := self._body.read(_PIECE):
                size += len(piece)
                if size > limit:
                    packed = self._body.received <= limit
                    raise RequestFailed("decompression-limit" if packed else "too-large", f"over {limit} bytes")
                yield piece
        finally:
            self._ended = self._clock()

    def read(self) -> bytes:
        """The whole body; raises as `chunks` does."""
        return b"".join(self.chunks())

    def read_what_comes(self) -> tuple[bytes, RequestFailed | None]:
        """The body as far as it can be had, and what ended it early; None: all of it is there.

        Raises:
            RequestFailed: as `chunks` does, where there is not a single byte; ``cancelled``.
        """
        pieces: list[bytes] = []
        try:
            pieces.extend(self._pieces())
        except RequestFailed as error:
            if not pieces or error.reason == "cancelled":
                raise
            return b"".join(pieces), error
        return b"".join(pieces), None

    def raise_for_status(self) -> None:
        """Do nothing for a 2xx answer, except for a part (206), which nobody asked for.

        Raises:
            RequestFailed: ``http-<code>``; with the host's wait where it names one (RFC 9110 §10.2.3).
        """
        if 200 <= self.status < 300 and self.status != 206:
            return
        overloaded = self.status in _OVERLOADED
        raise RequestFailed(
            f"http-{self.status}",
            retryable=self.status in _RETRYABLE,
            host_wait=retry_after(self.headers, time.time()) if overloaded else None,
            overloaded=overloaded,
            http_status=self.status,
        )

    def close(self) -> None:
        """Give the connection back if little of the body is left, else cut it."""
        self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _declared(self) -> int | None:
        """Length of the body, as the server announces it."""
        declared = self.headers.get("content-length", "")
        return int(declared) if len(declared) < 20 and declared.isdecimal() else None

    def _check_declared(self, limit: int) -> None:
        """Fail at once where the server itself says that there is more than we take."""
        declared = self._declared()
        if declared is not None and declared > limit:
            raise RequestFailed("too-large", f"{declared} bytes announced, {limit} allowed")


class Fetcher(Protocol):
    """Brings one answer to one request, and follows nothing."""

    def fetch(self, request: Request, conditions: Conditions) -> Response:
        """Ask for ``request.location`` and return when the headers are in.

        Raises:
            RequestFailed: ``dns``, ``connect``, ``tls``, ``timeout``, ``truncated`` or ``too-large`` (the headers),
                ``bad-url``, ``unsupported-scheme`` or ``cancelled``.
        """
        ...


class Canned(Struct, frozen=True):
    """An answer prepared for `CannedFetcher`."""

    status: int = 200
    headers: dict[str, str] = {}
    body: bytes = b""


class CannedFetcher:
    """Answers from a dictionary of URLs and touches no network: 404 where nothing is prepared, a `RequestFailed`
    is raised. ``fetched`` lists the URLs asked for, in order.
    """

    def __init__(self, answers: Mapping[str, Canned | RequestFailed]) -> None:
        self.fetched: list[str] = []
        self._answers = answers

    def fetch(self, request: Request, conditions: Conditions) -> Response:
        """The prepared answer to ``request.location``."""
        url = request.location
        self.fetched.append(url)
        answer = self._answers.get(url, Canned(status=404))
        if isinstance(answer, RequestFailed):
            raise answer
        body = _CannedBody(answer.body)
        return Response(
            url, answer.status, headers=answer.headers, body=body, conditions=conditions, started=time.monotonic()
        )


class _CannedBody:
    """Bytes that were there all the time."""

    def __init__(self, data: bytes) -> None:
        self._data = BytesIO(data)

    @property
    def received(self) -> int:
        return self._data.tell()

    def read(self, size: int) -> bytes:
        return self._data.read(size)

    def close(self) -> None:
        pass


def redirected(request: Request, response: Response, limit: int) -> Outcome:
    """The outcome ``moved``: the same request goes on at the target of a redirect, with one more hop.

    Raises:
        RequestFailed: ``redirect-limit`` after more than ``limit`` hops, or what `Response.location` raises.
    """
    location = response.location
    if location is None:
        raise ValueError(f"answer {response.status} is no redirect")
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
    """The conditions with the validators of an earlier answer, if it came from the very URL that is asked now.

    So what one server has said goes to no other, whatever a redirect leads to.
    """
    known = request.known
    if known is None or known.url != request.location:
        return conditions
    return structs.replace(conditions, etag=known.etag, last_modified=known.last_modified)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that ``Retry-After`` asks for (RFC 9110 §10.2.3), None where it says nothing we understand.

    A date is measured against the server's own ``Date``, so that a wrong clock there does no harm, else against
    ``now`` (seconds since the epoch).
    """
    value = headers.get("retry-after", "").strip()
    if value.isdecimal() and len(value) < 10:
        return float(value)
    until = timestamp(value)
    if until is None:
        return None
    here = timestamp(headers.get("date", ""))
    return max(0.0, until - (now if here is None else here))


def timestamp(value: str) -> float | None:
    """An HTTP-date as seconds since the epoch; None where it is none."""
    try:
        date = parsedate_to_datetime(value)
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _utf8(header: str) -> str:
    """A header's text as browsers read it: UTF-8 where it is that, though HTTP libraries decode Latin-1."""
    try:
        return header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return header
