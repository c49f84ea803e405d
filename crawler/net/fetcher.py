"""Interface of fetchers: one Request in, one Response out, without state in between.

A `Response` yields its body in pieces, up to the requested limit. Every failure is a `crawler.errors.RequestFailed`
with a reason from a closed set. `crawler.net.requests_fetcher.RequestsFetcher` uses the network; `CannedFetcher`
responds from a dictionary, for tests of handlers in this project and in others.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from io import BytesIO
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct

from crawler.errors import RequestFailed
from crawler.model import Outcome, Request
from crawler.net.headers import Headers
from crawler.urls import resolve

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Status codes for which a retry may help, and those by which a host reports that it is overloaded.
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504, 522, 524})
_OVERLOADED = frozenset({429, 503})
#: Bytes per read; an image of usual size takes one or two reads.
_PIECE = 65_536
#: Most bytes that count as spared; no picture is as long, so a larger announcement is false.
_MOST_SPARED = 2**40
#: ``ETag`` and date values that are stored. A tag may break the grammar, as its own server understands it.
_TAG, _DATE = re.compile(r"[ -~]{1,256}"), re.compile(r"[ -~]{1,64}")
_SCHEME = re.compile(r"[\s\x00-\x1f]*([a-z][a-z0-9+.-]*):", re.IGNORECASE)


class Conditions(Struct, frozen=True, kw_only=True):
    """Parameters of a fetch that the `Request` does not have: accepted types, size limit, validators."""

    #: The ``Accept`` header. If it begins with ``image/``, the fetcher also requests an uncompressed body.
    accept: str = "*/*"
    #: Longest body in bytes, after decompression; a longer one fails with ``too-large`` or ``decompression-limit``.
    max_bytes: int = 20 * 2**20
    #: Validators of an earlier response: if they still hold, the server responds with 304 and no body.
    etag: str = ""
    last_modified: str = ""

    @property
    def is_conditional(self) -> bool:
        """Whether the request has validators, so that a response 304 is valid."""
        return bool(self.etag or self.last_modified)


class TransferLimits(Struct, frozen=True, kw_only=True):
    """Timeouts of one request, in seconds, and its minimum speed."""

    connect: float = 10.0
    #: Longest silence of the server, before the first byte and between two bytes; also the limit for all headers.
    first_byte: float = 20.0
    #: From the start of the request to the last byte of its body.
    total: float = 60.0
    #: Minimum speed of a body in bytes per second, measured over ``window`` seconds of waiting for it.
    min_speed: int = 1024
    window: float = 10.0

    def too_slow(self, speed: float) -> str:
        """Return what is wrong with a body that arrives at ``speed`` bytes per second."""
        return f"the body arrives at {speed:.0f} bytes per second; the minimum is {self.min_speed}"


class _Body(Protocol):
    """Interface of the source of a `Response`'s bytes; every fetcher implements it."""

    @property
    def received(self) -> int:
        """Bytes received over the network so far, before decompression."""
        ...

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes as soon as some are available, or b"" at the end; raises `RequestFailed`."""
        ...

    def close(self) -> None:
        """Return the connection to its pool, or close it."""
        ...


class Response:
    """A response with its headers and an unread body; use it in a ``with`` statement."""

    def __init__(
        self,
        url: str,
        status: int,
        *,
        headers: Mapping[str, str],
        body: _Body,
        conditions: Conditions,
        started: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url  #: The fetched URL.
        self.status = status
        self.headers = headers if isinstance(headers, Headers) else Headers(headers.items())
        self._body = body
        self._conditions = conditions
        self._started = started
        self._clock = clock
        self._ended: float | None = None
        #: The last value of `received`, once the body serves another response.
        self._received: int | None = None
        #: Bytes of the decompressed body so far.
        self._size = 0

    @property
    def elapsed(self) -> float:
        """Seconds from the start of the request to its last byte, or to now."""
        return (self._clock() if self._ended is None else self._ended) - self._started

    @property
    def received(self) -> int:
        """Bytes of the body received over the network so far."""
        return self._body.received if self._received is None else self._received

    @property
    def spared(self) -> int:
        """Bytes of the body that the server announced but that were not received; 0 if it announced no length."""
        declared = self._declared()
        return 0 if declared is None else min(max(0, declared - self.received), _MOST_SPARED)

    @property
    def location(self) -> str | None:
        """Absolute URL of a redirect's target, or None if the response is not a redirect.

        Raises:
            RequestFailed: ``unsupported-scheme`` or ``bad-url``.
        """
        references = set(self.headers.getlist("location"))
        if self.status not in _REDIRECTS or not any(references):
            return None
        if len(references) > 1:
            raise RequestFailed("bad-url", f"redirect to {len(references)} different URLs")
        reference = references.pop()
        target = resolve(self.url, _utf8(reference))
        if target is None:
            scheme = _SCHEME.match(reference)
            is_http = scheme is None or scheme[1].lower() in ("http", "https")
            raise RequestFailed("bad-url" if is_http else "unsupported-scheme", f"redirect to {reference[:200]!r}")
        return target

    @property
    def is_unchanged(self) -> bool:
        """Whether the server reports that the caller's copy is current (RFC 9110 §15.4.5)."""
        return self.status == 304 and self._conditions.is_conditional

    @property
    def validators(self) -> tuple[str, str]:
        """``ETag`` and ``Last-Modified`` for a later conditional request; each is empty if it is not usable.

        A file that changed within one second of the response may change again in the same second, so its time is not
        usable (RFC 9110 §8.8.2.2). A tag ``*`` would match any file.
        """
        etag, modified = self.headers.get("etag", ""), self.headers.get("last-modified", "")
        changed, sent = timestamp(modified), timestamp(self.headers.get("date", ""))
        is_settled = changed is not None and (sent is None or sent - changed >= 1)
        is_tag = _TAG.fullmatch(etag) is not None and etag != "*"
        return etag if is_tag else "", modified if is_settled and _DATE.fullmatch(modified) else ""

    def chunks(self) -> Iterator[bytes]:
        """Return an iterator over the decompressed body; call this once.

        Raises:
            RequestFailed: ``too-large``, ``decompression-limit``, ``timeout``, ``too-slow``, ``truncated``,
                ``connect``, ``corrupt``, ``unsupported-format`` (the coding) or ``cancelled``.
        """
        self.check_length()
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        try:
            while piece := self._body.read(_PIECE):
                self.count(piece)
                yield piece
        finally:
            self.end()

    def check_length(self) -> None:
        """Raise ``too-large`` if the announced body is too long. `chunks` does this; so do fetchers without it."""
        declared, limit = self._declared(), self._conditions.max_bytes
        if declared is not None and declared > limit:
            raise RequestFailed("too-large", f"the response has {declared} bytes; the limit is {limit} bytes")

    def count(self, piece: bytes) -> None:
        """Count a piece of the decompressed body; raise ``too-large`` or ``decompression-limit`` if it is too long."""
        self._size += len(piece)
        limit = self._conditions.max_bytes
        if self._size > limit:
            is_compressed = self._body.received <= limit
            raise RequestFailed("decompression-limit" if is_compressed else "too-large", f"over {limit} bytes")

    def end(self) -> None:
        """Record that the body has ended now."""
        self._ended = self._clock()

    def leave_body(self) -> None:
        """Keep the number of bytes, because the object that counts them serves another response from now on."""
        self._received = self._body.received

    def read(self) -> bytes:
        """Return the whole body; raises as `chunks` does."""
        return b"".join(self.chunks())

    def read_what_comes(self) -> tuple[bytes, RequestFailed | None]:
        """Return the body as far as it is readable, and the failure that ended it early, or None if it is complete.

        Raises:
            RequestFailed: as `chunks` does, if not a single byte was read; ``cancelled``.
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
        """Raise unless the status is 2xx; 206 is an error, too, as the caller did not request a part.

        Raises:
            RequestFailed: ``http-<code>``, with the wait that an overloaded host demands (RFC 9110 §10.2.3).
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
        """Return the connection to its pool if little of the body is left, else close it."""
        self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _declared(self) -> int | None:
        """Return the length of the body that the server announces, or None if it announces none."""
        declared = self.headers.get("content-length", "")
        return int(declared) if len(declared) < 20 and declared.isdecimal() else None


class Fetcher(Protocol):
    """Interface of an object that returns one response to one request and follows no redirects."""

    def fetch(self, request: Request, conditions: Conditions) -> Response:
        """Request ``request.location`` and return the response when its headers are complete.

        Raises:
            RequestFailed: ``dns``, ``connect``, ``tls``, ``timeout``, ``truncated`` or ``too-large`` (the headers),
                ``bad-url``, ``unsupported-scheme`` or ``cancelled``.
        """
        ...


class Receiver(Protocol):
    """Interface of an object that takes one response as it arrives; the response ends with one outcome.

    `crawler.net.curl_fetcher.CurlFetcher` calls it from its event loop. Only `finish` may take long.
    """

    #: Parameters of the fetch.
    conditions: Conditions

    def begin(self, response: Response) -> bool:
        """Take the headers; return whether the body is needed. Raise `RequestFailed` to refuse the response."""
        ...

    def feed(self, piece: bytes) -> None:
        """Take a piece of the decompressed body. Raise `RequestFailed` to refuse the rest."""
        ...

    def finish(self) -> Outcome:
        """Return the outcome of the complete response. Raises `crawler.errors.DiskError`."""
        ...

    def fail(self, error: RequestFailed) -> Outcome:
        """Return the outcome of a fetch that failed, or that this object refused."""
        ...


class Canned(Struct, frozen=True):
    """A prepared response for `CannedFetcher`."""

    status: int = 200
    headers: dict[str, str] = {}
    body: bytes = b""


class CannedFetcher:
    """A fetcher that responds from a dictionary of URLs, without a network.

    It raises a prepared `RequestFailed`, and responds with 404 if there is no entry. ``fetched`` lists the requested
    URLs, in order.
    """

    def __init__(self, responses: Mapping[str, Canned | RequestFailed]) -> None:
        self.fetched: list[str] = []
        self._responses = responses

    def fetch(self, request: Request, conditions: Conditions) -> Response:
        """Return the prepared response to ``request.location``."""
        url = request.location
        self.fetched.append(url)
        response = self._responses.get(url, Canned(status=404))
        if isinstance(response, RequestFailed):
            raise response
        body = _CannedBody(response.body)
        return Response(
            url, response.status, headers=response.headers, body=body, conditions=conditions, started=time.monotonic()
        )


class _CannedBody:
    """A body from memory."""

    def __init__(self, data: bytes) -> None:
        self._data = BytesIO(data)

    @property
    def received(self) -> int:
        return self._data.tell()

    def read(self, size: int) -> bytes:
        return self._data.read(size)

    def close(self) -> None:
        pass


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that ``Retry-After`` demands (RFC 9110 §10.2.3), or None if it is missing or not valid.

    A date is compared with the server's own ``Date``, so that a wrong clock of the server does no harm; without that
    header, with ``now`` (seconds since the epoch).
    """
    value = headers.get("retry-after", "").strip()
    if value.isdecimal() and len(value) < 10:
        return float(value)
    until = timestamp(value)
    if until is None:
        return None
    sent = timestamp(headers.get("date", ""))
    return max(0.0, until - (now if sent is None else sent))


@lru_cache(256)
def timestamp(value: str) -> float | None:
    """Return an HTTP-date as seconds since the epoch, or None if it is not valid."""
    try:
        date = parsedate_to_datetime(value)
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _utf8(header: str) -> str:
    """Return a header value as browsers decode it: as UTF-8 if that is valid. HTTP libraries decode it as Latin-1."""
    try:
        return header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return header
