"""One HTTP exchange within its limits, and the classification of network errors.

A read timeout alone does not stop a server that sends a byte now and then, in the body, in the headers or in endless
``100 Continue``. So http.client reads from an `Exchange` in place of a socket file: each read checks the deadline, the
speed and the size of the headers, and another thread can abort it.
"""

import contextlib
import http.client
import io
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import requests
from urllib3 import exceptions as urllib3

from crawler.errors import RequestFailed
from crawler.net.address_guard import NoNameServer
from crawler.net.fetcher import TransferLimits

#: Most bytes of status line, headers and interim responses together.
MAX_HEADER_BYTES = 65_536
#: Most bytes on the wire, as a multiple of the body's size; the rest is the framing of chunks.
FRAMING = 2
#: A large buffer takes headers and a small image in one read.
_BUFFER = 65_536

#: Exceptions of reads from the network; `classify` handles all of them.
NETWORK_ERRORS = (OSError, ValueError, http.client.HTTPException, urllib3.HTTPError)

#: Exception classes, reason, whether a retry may help. The first row that matches a cause decides.
_CLASSIFICATION: tuple[tuple[tuple[type[BaseException], ...], str, bool], ...] = (
    ((urllib3.NameResolutionError, socket.gaierror), "dns", True),
    ((ssl.SSLCertVerificationError,), "tls", False),
    ((ssl.SSLError, urllib3.SSLError, requests.exceptions.SSLError), "tls", True),
    ((http.client.IncompleteRead, urllib3.IncompleteRead, urllib3.InvalidChunkLength), "truncated", True),
    ((requests.exceptions.ChunkedEncodingError,), "truncated", True),
    ((urllib3.DecodeError, requests.exceptions.ContentDecodingError), "corrupt", False),
    ((urllib3.NewConnectionError,), "connect", True),  # before the timeouts: urllib3 derives it from them
    ((TimeoutError, urllib3.TimeoutError, requests.Timeout), "timeout", True),
    ((http.client.InvalidURL, urllib3.LocationValueError, requests.exceptions.InvalidURL), "bad-url", False),
    ((UnicodeError,), "bad-url", False),
    ((ConnectionError,), "connect", True),
    ((http.client.HTTPException, urllib3.InvalidHeader), "connect", False),  # responses that are not HTTP
    ((OSError, urllib3.HTTPError), "connect", True),
)
_NOT_CONNECTED = (urllib3.NewConnectionError, urllib3.ConnectTimeoutError)


def classify(error: Exception) -> RequestFailed:
    """Return the failure of a request for an exception of requests, urllib3, http.client or the system."""
    if isinstance(error, RequestFailed):
        return error
    causes = list(_causes(error))
    for kinds, reason, retryable in _CLASSIFICATION:
        for cause in causes:
            if isinstance(cause, kinds):
                return RequestFailed(reason, _one_line(cause), retryable=retryable, down=_unreachable_part(causes))
    return RequestFailed("internal", _one_line(error))


def _unreachable_part(causes: Sequence[BaseException]) -> str:
    """Return the part that did not respond, as the ``down`` of `RequestFailed`."""
    is_proxy = any(isinstance(cause, urllib3.ProxyError) for cause in causes)
    if any(isinstance(cause, NoNameServer) for cause in causes):
        return "resolver"
    if not any(isinstance(cause, (*_NOT_CONNECTED, socket.gaierror)) for cause in causes):
        return ""
    return "resolver" if is_proxy else "host"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those it wraps; these libraries keep them in ``reason``, in ``args`` or as the cause."""
    seen: list[BaseException] = []
    pending: BaseException | None = error
    while pending is not None and pending not in seen:
        seen.append(pending)
        yield pending
        wrapped = (getattr(pending, "reason", None), *pending.args, pending.__cause__)
        pending = next((value for value in wrapped if isinstance(value, BaseException)), None)


def _one_line(error: BaseException) -> str:
    """Return an exception as one printable line for the log; some exceptions quote data of the server."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return "".join(char if char.isprintable() else "?" for char in text)


class Exchange(io.RawIOBase):
    """One request on the wire: a file for http.client that enforces deadline and speed, and that can be aborted.

    The caller creates it before there is a connection; `attach` sets the socket from which the response comes. The
    bytes on the wire are limited, to ``max_bytes`` of body and the framing around them: the size of the decoded body
    shows neither endless chunk extensions nor compressed data that decompress to nothing.
    """

    def __init__(
        self,
        limits: TransferLimits,
        clock: Callable[[], float],
        started: float | None = None,
        *,
        max_bytes: int = sys.maxsize,
        is_conditional: bool = False,
    ) -> None:
        super().__init__()
        self.started = clock() if started is None else started
        #: Whether the connection was kept alive; and whether it was and no byte of the response has come yet.
        self.was_kept = self.is_reusing = False
        #: Whether the request is conditional, so that a response 304 is an answer to it.
        self.is_conditional = is_conditional
        self._limits = limits
        self._clock = clock
        self._deadline = self._total_deadline = self.started + limits.total
        self._socket: socket.socket | None = None
        self._file: io.RawIOBase | None = None
        self._is_aborted = False
        self._is_complete = False
        self._headers_left: int | None = MAX_HEADER_BYTES
        self._body_left = FRAMING * max_bytes + MAX_HEADER_BYTES
        #: Seconds of waiting and bytes received in the current window for the speed.
        self._window_seconds = 0.0
        self._window_bytes = 0

    def attach(self, sock: socket.socket) -> "Exchange":
        """Read from ``sock`` from now on. The request has been sent; the headers may take ``first_byte`` seconds."""
        self._deadline = min(self._total_deadline, self._clock() + self._limits.first_byte)
        self._socket = sock
        self._file = sock.makefile("rb", buffering=0)  # counts as a user of the socket until it is closed
        return self

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a buffered reader; http.client calls this on its socket."""
        return io.BufferedReader(self, _BUFFER)

    def headers_are_in(self) -> None:
        """Switch from headers to body: the speed counts, and the deadline is that of the whole request."""
        self._headers_left = None
        self._deadline = self._total_deadline

    def end_of_body(self, file: io.BufferedReader) -> None:
        """Stop reading. If the server has sent more than it announced, shut the connection down against reuse.

        Args:
            file: the reader that `makefile` returned.
        """
        self._is_complete = True
        sock = self._socket
        # TLS within the TLS of a proxy can't report pending bytes, so assume that there are some.
        has_pending = sock.pending() if isinstance(sock, ssl.SSLSocket) else not isinstance(sock, socket.socket)
        if has_pending or file.peek(1):
            self._shutdown()

    def hurry(self, seconds: float) -> None:
        """Limit the remaining time to ``seconds`` from now."""
        self._deadline = min(self._deadline, self._clock() + seconds)

    def cut(self) -> None:
        """Abort the exchange from another thread: a waiting read soon ends with ``cancelled``."""
        self._is_aborted = True
        self._shutdown()

    def _shutdown(self) -> None:
        if self._socket is not None:
            # Not SSLSocket.shutdown: that drops TLS, and the reader would get the ciphertext.
            with contextlib.suppress(OSError):  # already closed
                socket.socket.shutdown(getattr(self._socket, "socket", self._socket), socket.SHUT_RDWR)

    def check(self) -> float:
        """Return the seconds left.

        Raises:
            RequestFailed: ``timeout``, which is not retryable after the headers, or ``cancelled``.
        """
        left = self._deadline - self._clock()
        if self._is_aborted:
            raise RequestFailed("cancelled", "the crawler aborted the transfer")
        if left <= 0:
            is_head = self._headers_left is not None
            part = "headers" if is_head else "body"
            detail = f"{part} not complete after {self._clock() - self.started:.3g} s"
            raise RequestFailed("timeout", detail, retryable=is_head)  # a slow body will be slow again
        return left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read once from the socket, within the limits.

        Raises:
            RequestFailed: a limit is exceeded, or the exchange was aborted.
            OSError: the socket failed.
        """
        assert self._socket is not None and self._file is not None  # noqa: S101  # http.client reads after attach
        if self._is_complete:
            return 0
        self._socket.settimeout(min(self.check(), self._limits.first_byte))
        if self._headers_left is not None:  # never past the limit, however the network splits the headers
            buffer = memoryview(buffer)[: max(1, self._headers_left)]
        before = self._clock()
        try:
            count = self._file.readinto(buffer)
        except OSError:
            self.check()
            raise
        if self._is_aborted:
            self.check()
        if count:
            self.is_reusing = False
        self._check_limits(count or 0, self._clock() - before)
        return count

    def _check_limits(self, count: int, seconds: float) -> None:
        """Check the size of the headers, or size and speed of the body, after a read of ``count`` bytes."""
        if self._headers_left is not None:
            if count and self._headers_left == 0:  # the previous read may have included some of the body
                raise RequestFailed("too-large", f"the headers have more than {MAX_HEADER_BYTES} bytes")
            self._headers_left -= count
            return
        self._body_left -= count
        if self._body_left < 0:
            raise RequestFailed("too-large", "the response is longer than its body and framing need")
        self._window_bytes += count
        self._window_seconds += seconds
        if self._window_seconds >= self._limits.window:
            speed = self._window_bytes / self._window_seconds
            if count and speed < self._limits.min_speed:
                raise RequestFailed("too-slow", self._limits.too_slow(speed), retryable=True)
            self._window_bytes, self._window_seconds = 0, 0.0

    def close(self) -> None:
        """Release the socket, which returns to its pool or closes."""
        if self._file is not None:
            self._file.close()
        super().close()
