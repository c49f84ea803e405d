"""The head of a response and the framing of its body, read as browsers do.

http.client drops all headers after the first invalid line, and accepts lengths that are not valid. This module skips
only the invalid line (RFC 9112 §5), and decides strictly where a body ends (RFC 9112 §6.3): a server that sends more
than it announced could forge the next response on the same connection.
"""

import http.client
import re
import socket
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from crawler.errors import RequestFailed
from crawler.net.exchange import MAX_HEADER_BYTES, Exchange

#: Most header lines of one response.
MAX_LINES = 100

_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
#: A line break inside a folded header.
_FOLD = re.compile(r"\r?\n[ \t]+")
#: Characters that a value must not have, and their replacement (RFC 9110 §5.5).
_REPLACEMENTS = str.maketrans("\r\0", "  ")
#: Fields with a single value; identical copies are dropped.
_SINGLE = frozenset({"content-length", "date", "etag", "last-modified", "location", "retry-after"})
#: The transfer codings of IANA's registry except ``identity``. Browsers ignore other words, such as ``binary``.
_CODINGS = frozenset({"chunked", "compress", "deflate", "gzip", "x-compress", "x-gzip"})
#: Fields that announce a body.
FRAMING_FIELDS = frozenset({"content-length", "transfer-encoding"})
#: Python converts at most 4,300 digits to an int.
_LENGTH = re.compile(r"[0-9]{1,4000}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?\r?\n")


class ResponseHead(http.client.HTTPResponse):
    """A response of http.client that is read through an exchange."""

    def __init__(self, exchange: Exchange, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        self._exchange = exchange
        super().__init__(exchange.attach(sock), *args, **kwargs)  # type: ignore[arg-type]  # only makefile is called

    def begin(self) -> None:
        """Read status and headers, and skip interim responses (``103 Early Hints``).

        Raises:
            RequestFailed: ``too-large``, ``truncated``, ``connect`` (two lengths) or a failure of the `Exchange`.
            http.client.HTTPException: the response is not HTTP.
        """
        status = 100
        while 100 <= status < 200:
            version, status, reason = self._read_status()  # type: ignore[attr-defined]  # of http.client
            if not version.startswith(("HTTP/1.", "HTTP/0.9")):
                raise http.client.UnknownProtocol(version)
            head = self._read_head()
        self.version = 10 if version in ("HTTP/1.0", "HTTP/0.9") else 11
        self.code = self.status = status
        self.reason = reason.strip()
        self.headers = self.msg = fields(head)
        self._frame()
        self._exchange.headers_are_in()

    def _read_head(self) -> bytes:
        lines: list[bytes] = []
        while (line := self.fp.readline(MAX_HEADER_BYTES)) not in (b"\r\n", b"\n"):
            if not line:
                raise RequestFailed("truncated", "the connection ended within the headers", retryable=True)
            if len(lines) == MAX_LINES:
                raise RequestFailed("too-large", f"the headers have more than {MAX_LINES} lines")
            lines.append(line)
        return b"".join(lines)

    def _frame(self) -> None:
        """Decide where the body ends, and whether another response can follow."""
        codings = transfer_codings(", ".join(self.headers.get_all("transfer-encoding", [])))
        has_length = "content-length" in self.headers
        has_framing = has_length or "transfer-encoding" in self.headers
        self.chunked, self.chunk_left = "chunked" in codings, None
        self.length = None if codings else content_length(self.headers.get_all("content-length", []))
        del self.headers["content-length"]  # other code would parse its original text differently
        if self.length is not None:
            self.headers["content-length"] = str(self.length)
        closes: bool = self._check_close()  # type: ignore[attr-defined]  # of http.client
        if self.status in (204, 304):
            self.chunked, self.length = False, 0
            # If a body comes nevertheless, it must not become the start of the next response. The answer to a
            # conditional request may state the length of what it confirms (RFC 9110 §8.6).
            is_confirmation = self.status == 304 and self._exchange.is_conditional
            closes = closes or (has_framing and not is_confirmation)
        # With two lengths (chunks and Content-Length), the start of the next response is uncertain.
        self.will_close = closes or (has_length if self.chunked else self.length is None)

    def _get_chunk_left(self) -> int | None:
        """Return the bytes left of this chunk, else the size of the next one; None after the last chunk.

        It replaces http.client's method, which is less strict.
        """
        if self.chunk_left:
            return self.chunk_left
        if self.chunk_left == 0 and self.fp.readline(2) not in (b"\r\n", b"\n"):
            raise http.client.IncompleteRead(b"")
        size = _CHUNK_SIZE.fullmatch(self.fp.readline(MAX_HEADER_BYTES))
        if size is None:
            raise http.client.IncompleteRead(b"")
        self.chunk_left = int(size[1], 16) or None
        if self.chunk_left is None:
            self._read_and_discard_trailer()  # type: ignore[attr-defined]  # of http.client
            self._close_conn()
        return self.chunk_left

    def _close_conn(self) -> None:
        self._exchange.end_of_body(self.fp)
        super()._close_conn()  # type: ignore[misc]  # of http.client


def fields(head: bytes) -> http.client.HTTPMessage:
    """Return the fields of header lines as http.client keeps them."""
    headers = http.client.HTTPMessage()
    for name, value in field_pairs(head):
        headers[name] = value
    return headers


def field_pairs(head: bytes) -> list[tuple[str, str]]:
    """Return names and values of header lines. Invalid lines are skipped; folded lines are joined (RFC 9112 §5.2)."""
    text = head.decode("latin-1")
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    pairs: list[tuple[str, str]] = []
    single: set[tuple[str, str]] = set()
    for line in text.split("\n"):
        kind, pair = _field(line)
        if kind in _SINGLE:
            if (kind, pair[1]) in single:
                continue
            single.add((kind, pair[1]))
        if kind:
            pairs.append(pair)
    return pairs


@lru_cache(2_048)  # most lines of a server are the same in every response
def _field(line: str) -> tuple[str, tuple[str, str]]:
    """Return the name of a header line in lower case, and name and value. All are "" if the line is not valid."""
    name, colon, value = line.partition(":")
    name = name.rstrip(" \t")
    if not colon or not _NAME.fullmatch(name):
        return "", ("", "")
    return name.lower(), (name, value.translate(_REPLACEMENTS).strip(" \t"))


def transfer_codings(value: str) -> list[str]:
    """Return the known codings in a ``Transfer-Encoding`` value, in lower case."""
    if not value:
        return []
    words = (word.partition(";")[0].strip(" \t").lower() for word in value.split(","))
    return [word for word in words if word in _CODINGS]


def content_length(values: Iterable[str]) -> int | None:
    """Return the length in values of ``Content-Length`` (RFC 9110 §8.6), or None if there is none that is valid.

    Raises:
        RequestFailed: ``connect`` if there are two different lengths.
    """
    lengths = {word.strip(" \t") for line in values for word in line.split(",")}
    lengths.discard("")
    if len(lengths) > 1:
        raise RequestFailed("connect", f"the response states different lengths: {', '.join(sorted(lengths))[:100]}")
    return next((int(length) for length in lengths if _LENGTH.fullmatch(length)), None)
