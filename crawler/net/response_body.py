"""The body of a response from the network: decompressed within limits, and resumed if it breaks off.

If a large file breaks off in the middle, the rest is requested at once and within the same timeout (RFC 9110 §14). The
file must have a strong validator, enough of it must have come to be worth a request, and the server must send exactly
the requested part. Otherwise the request fails with ``truncated``.
"""

import logging
import re
from collections.abc import Callable, Mapping

from msgspec import Struct
from urllib3 import HTTPResponse

from crawler.errors import RequestFailed
from crawler.net.exchange import NETWORK_ERRORS, Exchange, classify
from crawler.net.fetcher import timestamp
from crawler.net.response_head import transfer_codings

logger = logging.getLogger(__name__)

#: Most bytes and seconds for reading the rest of an unwanted body, in order to reuse its connection.
DRAINABLE = 65_536
DRAIN_SECONDS = 1.0
#: Bytes that a request must have brought before its body is resumed, and the maximum of resumptions.
WORTH_RESUMING = 256 * 1024
MAX_RESUMPTIONS = 3

#: Content codings that are decoded, and the others of IANA's registry, which the crawler does not accept. Browsers
#: ignore other words, such as ``none`` or ``utf-8``, and so does this module.
_SUPPORTED = frozenset({"gzip", "x-gzip", "deflate"})
_UNSUPPORTED = frozenset({"aes128gcm", "br", "compress", "dcb", "dcz", "exi", "pack200-gzip", "x-compress", "zstd"})
_STRONG_TAG = re.compile(r'"[^"\x00-\x20\x7f]*"')
#: A ``Last-Modified`` is as good as a strong tag if it is at least so many seconds old (RFC 9110 §8.8.2.2).
_SETTLED = 60.0

#: Function that sends the same request with additional headers.
Send = Callable[[dict[str, str]], tuple[HTTPResponse, Exchange]]


class ResumableFile(Struct, frozen=True):
    """A file that can be requested in parts: its length, and the header that identifies its version."""

    length: int
    field: str
    value: str

    def range_from(self, start: int) -> dict[str, str]:
        """Return the headers that request the rest from ``start`` on, of the same version (RFC 9110 §14.2, §13.1.5)."""
        return {"Range": f"bytes={start}-", "If-Range": self.value}

    def is_rest(self, start: int, status: int, headers: Mapping[str, str], length: int | None) -> bool:
        """Check whether a response is the rest of the file from ``start`` on, of the same version."""
        return (
            status == 206
            and headers.get("content-range", "").lower() == f"bytes {start}-{self.length - 1}/{self.length}"
            and length == self.length - start
            and headers.get(self.field) == self.value
            and not content_codings(headers)
        )


class NetworkBody:
    """A body that is read through urllib3, which decodes chunks and compression.

    Args:
        raw: the response.
        exchange: the exchange through which it is read.
        send: function that requests the rest.
        on_close: function that is called with each finished exchange.
    """

    def __init__(self, raw: HTTPResponse, exchange: Exchange, send: Send, on_close: Callable[[Exchange], None]) -> None:
        self._raw, self._exchange = raw, exchange
        self._send, self._on_close = send, on_close
        self._codings = content_codings(raw.headers)
        if len(self._codings) == 1:
            raw.headers["Content-Encoding"] = self._codings[0]  # urllib3 takes unknown words in a list for deflate
        self._objection = unreadable(raw.headers)
        self._file = resumable_file(raw.status, raw.headers, raw.length_remaining)
        self._received_before = 0
        self._resumptions_left = MAX_RESUMPTIONS

    @property
    def received(self) -> int:
        return self._received_before + self._raw.tell()

    def read(self, size: int) -> bytes:
        if self._objection:
            raise RequestFailed("unsupported-format", self._objection)
        while True:
            try:
                return self._read_once(size)
            except RequestFailed as error:
                if error.reason != "truncated" or not self._resume():
                    raise

    def close(self) -> None:
        try:
            self._drain()
        except RequestFailed as error:
            logger.debug("connection not kept: %s", error)
        finally:
            self._release()

    def _read_once(self, size: int) -> bytes:
        try:
            return self._raw.read1(size, decode_content=_SUPPORTED.issuperset(self._codings[:1]))
        except NETWORK_ERRORS as error:
            failure = classify(error)
            if failure.reason == "connect":  # the headers were complete, so the body broke off
                failure = RequestFailed("truncated", failure.detail, retryable=True)
            raise failure from error

    def _resume(self) -> bool:
        """Request the rest of a body that broke off. Return False if that is not possible."""
        file, start = self._file, self.received
        if file is None or not self._resumptions_left or self._raw.tell() < WORTH_RESUMING:
            return False
        self._exchange.check()
        self._release()
        self._resumptions_left -= 1
        try:
            raw, exchange = self._send(file.range_from(start))
        except RequestFailed as error:
            logger.debug("not resumed: %s", error)
            return False
        self._raw, self._exchange, self._received_before = raw, exchange, start
        if file.is_rest(start, raw.status, raw.headers, raw.length_remaining):
            return True
        logger.debug("not resumed: the server did not send the rest of the file (status %d)", raw.status)
        return False

    def _release(self) -> None:
        self._raw.close()
        self._raw.release_conn()
        self._on_close(self._exchange)

    def _drain(self) -> None:
        """Read a short rest of the body, so that the connection can be reused."""
        connection = self._raw.connection
        if connection is None or connection.sock is None:  # already in the pool, or closed
            return
        if (self._raw.length_remaining or 0) > DRAINABLE:
            return
        self._exchange.hurry(DRAIN_SECONDS)
        rest = DRAINABLE
        while rest > 0 and (piece := self._read_once(rest)):
            rest -= len(piece)


def content_codings(headers: Mapping[str, str]) -> list[str]:
    """Return the known codings in ``Content-Encoding``, in lower case."""
    value = headers.get("content-encoding", "")
    if not value:
        return []
    words = (word.strip().lower() for word in value.split(","))
    return [word for word in words if word in _SUPPORTED or word in _UNSUPPORTED]


def unreadable(headers: Mapping[str, str]) -> str:
    """Return the coding of a body that can't be decoded, or "" if the body can be read."""
    transfer = {*transfer_codings(headers.get("transfer-encoding", ""))} - {"chunked"}
    content = content_codings(headers)
    if transfer:
        return f"transfer coding {', '.join(sorted(transfer))}"
    if len(content) > 1 or not _SUPPORTED.issuperset(content):
        return f"content coding {', '.join(content)[:100]}"
    return ""


def resumable_file(status: int, headers: Mapping[str, str], length: int | None) -> ResumableFile | None:
    """Return the file of a response with a body of ``length`` bytes, or None if parts of it can't be requested."""
    units = headers.get("accept-ranges", "").lower()
    if status != 200 or not length or "bytes" not in units or content_codings(headers):
        return None
    if "bytes" not in {unit.strip() for unit in units.split(",")}:
        return None
    tag, modified = headers.get("etag", ""), headers.get("last-modified", "")
    if _STRONG_TAG.fullmatch(tag):
        return ResumableFile(length, "etag", tag)
    changed, sent = timestamp(modified), timestamp(headers.get("date", ""))
    is_settled = changed is not None and sent is not None and sent - changed >= _SETTLED
    return ResumableFile(length, "last-modified", modified) if is_settled else None
