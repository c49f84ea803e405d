"""The head of an answer and the framing of its body, as browsers read them.

http.client gives up on all headers after the first line that is none, and takes much for a length that is none. Here
one bad line costs no more than itself (RFC 9112 §5), and where a body ends is in no doubt (RFC 9112 §6.3): where the
server has said more than it announced, the next answer on the same connection might be its invention.
"""

import http.client
import re
import socket
from typing import Any

from crawler.errors import RequestFailed
from crawler.exchange import MAX_HEADER_BYTES, Exchange

#: Lines that the headers of one answer may have.
_MAX_LINES = 100

_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
#: The end of a line that goes on in the next one.
_FOLD = re.compile(rb"\r?\n[ \t]+")
#: What no value may hold, and what then stands in its place (RFC 9110 §5.5).
_BLANKS = str.maketrans("\r\0", "  ")
#: Fields with a single value, of which a copy says nothing new.
_SINGLE = frozenset({"content-length", "date", "etag", "last-modified", "location", "retry-after"})
#: The transfer codings of IANA's registry but for ``identity``; for browsers other words, such as ``binary``, are none.
_CODINGS = frozenset({"chunked", "compress", "deflate", "gzip", "x-compress", "x-gzip"})
#: Python reads no more than 4,300 digits.
_LENGTH = re.compile(r"[0-9]{1,4000}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?\r?\n")


class Answer(http.client.HTTPResponse):
    """http.client's answer, read through an exchange."""

    def __init__(self, exchange: Exchange, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        self._exchange = exchange
        super().__init__(exchange.attach(sock), *args, **kwargs)  # type: ignore[arg-type]  # only makefile is called

    def begin(self) -> None:
        """Read status and headers, past interim answers (``103 Early Hints``).

        Raises:
            RequestFailed: ``too-large``, ``truncated``, ``connect`` (two lengths) or what an `Exchange` raises.
            http.client.HTTPException: it is no HTTP.
        """
        status = 100
        while 100 <= status < 200:
            version, status, reason = self._read_status()  # type: ignore[attr-defined]  # http.client's own
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
                raise RequestFailed("truncated", "the headers break off", retryable=True)
            if len(lines) == _MAX_LINES:
                raise RequestFailed("too-large", f"headers of more than {_MAX_LINES} lines")
            lines.append(line)
        return b"".join(lines)

    def _frame(self) -> None:
        """Decide where the body ends, and whether another answer can follow."""
        codings = transfer_codings(", ".join(self.headers.get_all("transfer-encoding", [])))
        has_length = "content-length" in self.headers
        self.chunked, self.chunk_left = "chunked" in codings, None
        self.length = None if codings else content_length(self.headers)
        del self.headers["content-length"]  # others read it, and would read it in their own way
        if self.length is not None:
            self.headers["content-length"] = str(self.length)
        if self.status in (204, 304):
            self.chunked, self.length = False, 0
        closes: bool = self._check_close()  # type: ignore[attr-defined]  # http.client's own
        # Two lengths: who knows where the next answer begins.
        self.will_close = closes or (has_length if self.chunked else self.length is None)

    def _get_chunk_left(self) -> int | None:
        """What is left of this chunk, else the size of the next one; None after the last. http.client's, but strict."""
        if self.chunk_left:
            return self.chunk_left
        if self.chunk_left == 0 and self.fp.readline(2) not in (b"\r\n", b"\n"):
            raise http.client.IncompleteRead(b"")
        size = _CHUNK_SIZE.fullmatch(self.fp.readline(MAX_HEADER_BYTES))
        if size is None:
            raise http.client.IncompleteRead(b"")
        self.chunk_left = int(size[1], 16) or None
        if self.chunk_left is None:
            self._read_and_discard_trailer()  # type: ignore[attr-defined]  # http.client's own
            self._close_conn()
        return self.chunk_left

    def _close_conn(self) -> None:
        self._exchange.end_of_body(self.fp)
        super()._close_conn()  # type: ignore[misc]  # http.client's own


def fields(head: bytes) -> http.client.HTTPMessage:
    """Header lines to fields. What is none is passed over; folded lines are joined (RFC 9112 §5.2)."""
    found = http.client.HTTPMessage()
    for line in _FOLD.sub(b" ", head).decode("latin-1").split("\n"):
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        if not colon or not _NAME.fullmatch(name):
            continue
        value = value.translate(_BLANKS).strip(" \t")
        if name.lower() not in _SINGLE or value not in found.get_all(name, []):
            found[name] = value
    return found


def transfer_codings(value: str) -> list[str]:
    """The codings that ``Transfer-Encoding`` names, in lower case."""
    words = (word.partition(";")[0].strip(" \t").lower() for word in value.split(","))
    return [word for word in words if word in _CODINGS]


def content_length(headers: http.client.HTTPMessage) -> int | None:
    """Bytes of the body as ``Content-Length`` has them (RFC 9110 §8.6); None where it says nothing of use.

    Raises:
        RequestFailed: ``connect``; there are two that differ.
    """
    lengths = {word.strip(" \t") for line in headers.get_all("content-length", []) for word in line.split(",")}
    lengths.discard("")
    if len(lengths) > 1:
        raise RequestFailed("connect", f"two lengths: {', '.join(sorted(lengths))[:100]}")
    return next((int(length) for length in lengths if _LENGTH.fullmatch(length)), None)
