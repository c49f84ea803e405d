"""The body of an answer as it comes from the network: unpacked within limits, gone on with where it breaks off.

A large file that breaks off in the middle is asked for once more from there on, at once and within the same time-out
(RFC 9110 §14): only what the server vouches for with a strong validator, only where enough of it has come to be worth
a request, and only if the part that comes is exactly the one asked for. Anything else is the ``truncated`` that it was.
"""

import logging
import re
from collections.abc import Callable

from msgspec import Struct
from urllib3 import HTTPHeaderDict, HTTPResponse

from crawler.answer import transfer_codings
from crawler.errors import RequestFailed
from crawler.exchange import NETWORK_ERRORS, Exchange, classify
from crawler.fetcher import timestamp

logger = logging.getLogger(__name__)

#: What is read, at most and for how long, of a body nobody wants, to keep its connection.
_DRAINABLE = 65_536
_DRAIN_SECONDS = 1.0
#: Bytes that each request must have brought to make another one worth it, and how many more there may be.
WORTH_RESUMING = 256 * 1024
_RESUMPTIONS = 3

#: Content codings that are undone; the others of IANA's registry, which nobody asked for. What is in neither, such as
#: ``none`` or ``utf-8``, is no coding for browsers, and none for us.
_KNOWN = frozenset({"gzip", "x-gzip", "deflate"})
_UNASKED = frozenset({"aes128gcm", "br", "compress", "dcb", "dcz", "exi", "pack200-gzip", "x-compress", "zstd"})
_STRONG_TAG = re.compile(r'"[^"\x00-\x20\x7f]*"')
#: A ``Last-Modified`` is as good as a strong tag when it lies so many seconds back (RFC 9110 §8.8.2.2).
_SETTLED = 60.0

#: Sends the same request with further headers.
Again = Callable[[dict[str, str]], tuple[HTTPResponse, Exchange]]


class _Whole(Struct, frozen=True):
    """The file of which a part may be asked for: its bytes, and the header that tells it from other versions."""

    length: int
    field: str
    value: str


class NetworkBody:
    """A body read through urllib3, which knows chunks and compression.

    Args:
        raw: the answer.
        exchange: what it is read through.
        again: asks for the rest.
        closed: told of each exchange that is over.
    """

    def __init__(self, raw: HTTPResponse, exchange: Exchange, again: Again, closed: Callable[[Exchange], None]) -> None:
        self._raw, self._exchange = raw, exchange
        self._again, self._closed = again, closed
        self._codings = _codings(raw.headers)
        if len(self._codings) == 1:
            raw.headers["Content-Encoding"] = self._codings[0]  # urllib3 takes unknown words in a list for deflate
        self._packing = set(transfer_codings(raw.headers.get("transfer-encoding", ""))) - {"chunked"}
        self._whole = _whole(raw) if not self._codings else None
        self._before = 0
        self._resumptions = _RESUMPTIONS

    @property
    def received(self) -> int:
        return self._before + self._raw.tell()

    def read(self, size: int) -> bytes:
        if self._packing:
            raise RequestFailed("unsupported-format", f"transfer coding {', '.join(sorted(self._packing))}")
        if len(self._codings) > 1 or not _KNOWN.issuperset(self._codings):
            raise RequestFailed("unsupported-format", f"content coding {', '.join(self._codings)[:100]}")
        while True:
            try:
                return self._piece(size)
            except RequestFailed as error:
                if error.reason != "truncated" or not self._resume():
                    raise

    def close(self) -> None:
        try:
            self._drain()
        except RequestFailed as error:
            logger.debug("connection not kept: %s", error)
        finally:
            self._let_go()

    def _piece(self, size: int) -> bytes:
        try:
            return self._raw.read1(size, decode_content=_KNOWN.issuperset(self._codings[:1]))
        except NETWORK_ERRORS as error:
            failure = classify(error)
            if failure.reason == "connect":  # the headers had come, so what broke off is the body
                failure = RequestFailed("truncated", failure.detail, retryable=True)
            raise failure from error

    def _resume(self) -> bool:
        """Go on with the rest of a body that broke off; False where that can't be had."""
        whole, start = self._whole, self.received
        if whole is None or not self._resumptions or self._raw.tell() < WORTH_RESUMING:
            return False
        self._exchange.check()
        self._let_go()
        self._resumptions -= 1
        try:
            raw, exchange = self._again({"Range": f"bytes={start}-", "If-Range": whole.value})
        except RequestFailed as error:
            logger.debug("not resumed: %s", error)
            return False
        self._raw, self._exchange, self._before = raw, exchange, start
        if _is_rest(raw, whole, start):
            return True
        logger.debug("not resumed: answer %d is not the part asked for", raw.status)
        return False

    def _let_go(self) -> None:
        self._raw.close()
        self._raw.release_conn()
        self._closed(self._exchange)

    def _drain(self) -> None:
        """Read the little that is left, so that the connection can be used again."""
        connection = self._raw.connection
        if connection is None or connection.sock is None:  # it went back with the last byte, or will not be used again
            return
        if (self._raw.length_remaining or 0) > _DRAINABLE:  # too much in any case: what is left is not waited for
            return
        self._exchange.hurry(_DRAIN_SECONDS)
        rest = _DRAINABLE
        while rest > 0 and (piece := self._piece(rest)):
            rest -= len(piece)


def _codings(headers: HTTPHeaderDict) -> list[str]:
    words = (word.strip().lower() for word in headers.get("content-encoding", "").split(","))
    return [word for word in words if word in _KNOWN or word in _UNASKED]


def _whole(raw: HTTPResponse) -> _Whole | None:
    """The file behind an answer, if parts of it can be asked for."""
    length, headers = raw.length_remaining, raw.headers
    units = {unit.strip().lower() for unit in headers.get("accept-ranges", "").split(",")}
    if raw.status != 200 or not length or "bytes" not in units:
        return None
    tag, modified = headers.get("etag", ""), headers.get("last-modified", "")
    if _STRONG_TAG.fullmatch(tag):
        return _Whole(length, "etag", tag)
    changed, sent = timestamp(modified), timestamp(headers.get("date", ""))
    is_settled = changed is not None and sent is not None and sent - changed >= _SETTLED
    return _Whole(length, "last-modified", modified) if is_settled else None


def _is_rest(raw: HTTPResponse, whole: _Whole, start: int) -> bool:
    """Whether an answer is the whole file from ``start`` on, of the same version."""
    wanted = f"bytes {start}-{whole.length - 1}/{whole.length}"
    headers = raw.headers
    return (
        raw.status == 206
        and headers.get("content-range", "").lower() == wanted
        and raw.length_remaining == whole.length - start
        and headers.get(whole.field) == whole.value
        and not _codings(headers)
    )
