"""One HTTP exchange that keeps its limits, and what its errors mean.

A read time-out alone stops no server that sends a byte now and then, be it in the body, in the headers or in
endless ``100 Continue``. So the file that http.client reads from is ours: each of its reads checks the deadline,
the speed and the size of the headers, and can be cut from another thread.
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
from crawler.fetcher import Limits
from crawler.guard import NoNameServer

#: Bytes that status line, headers and interim answers may take together.
MAX_HEADER_BYTES = 65_536
#: Times the size of a body that its chunks may take on the wire.
_FRAMING = 2
#: A large buffer takes headers and a small image in one read.
_BUFFER = 65_536

#: What reading from the network may raise; all of it is understood by `classify`.
NETWORK_ERRORS = (OSError, ValueError, http.client.HTTPException, urllib3.HTTPError)

#: Kinds of errors, reason, whether another attempt may help; the first line that fits a cause decides.
_VERDICTS: tuple[tuple[tuple[type[BaseException], ...], str, bool], ...] = (
    ((urllib3.NameResolutionError, socket.gaierror), "dns", True),
    ((ssl.SSLCertVerificationError,), "tls", False),
    ((ssl.SSLError, urllib3.SSLError, requests.exceptions.SSLError), "tls", True),
    ((http.client.IncompleteRead, urllib3.IncompleteRead, urllib3.InvalidChunkLength), "truncated", True),
    ((requests.exceptions.ChunkedEncodingError,), "truncated", True),
    ((urllib3.DecodeError, requests.exceptions.ContentDecodingError), "corrupt", False),
    ((urllib3.NewConnectionError,), "connect", True),  # which urllib3 derives from its time-outs
    ((TimeoutError, urllib3.TimeoutError, requests.Timeout), "timeout", True),
    ((http.client.InvalidURL, urllib3.LocationValueError, requests.exceptions.InvalidURL), "bad-url", False),
    ((UnicodeError,), "bad-url", False),
    ((ConnectionError,), "connect", True),
    ((http.client.HTTPException, urllib3.InvalidHeader), "connect", False),  # answers that are no HTTP
    ((OSError, urllib3.HTTPError), "connect", True),
)
_NOT_CONNECTED = (urllib3.NewConnectionError, urllib3.ConnectTimeoutError)


def classify(error: Exception) -> RequestFailed:
    """What an error of requests, urllib3, http.client or the system means for the request that met it."""
    if isinstance(error, RequestFailed):
        return error
    causes = list(_causes(error))
    for kinds, reason, retryable in _VERDICTS:
        for cause in causes:
            if isinstance(cause, kinds):
                return RequestFailed(reason, _one_line(cause), retryable=retryable, down=_down(causes))
    return RequestFailed("internal", _one_line(error))


def _down(causes: Sequence[BaseException]) -> str:
    """Who did not answer at all, as `RequestFailed` tells it."""
    is_proxy = any(isinstance(cause, urllib3.ProxyError) for cause in causes)
    for cause in causes:
        if isinstance(cause, NoNameServer):
            return "resolver"
    if not any(isinstance(cause, (*_NOT_CONNECTED, socket.gaierror)) for cause in causes):
        return ""
    return "resolver" if is_proxy else "host"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it wraps, which these libraries keep in ``reason``, in ``args`` or as its cause."""
    seen: list[BaseException] = []
    pending: BaseException | None = error
    while pending is not None and pending not in seen:
        seen.append(pending)
        yield pending
        wrapped = (getattr(pending, "reason", None), *pending.args, pending.__cause__)
        pending = next((each for each in wrapped if isinstance(each, BaseException)), None)


def _one_line(error: BaseException) -> str:
    """Fit for a log: some of these errors quote what the server sent."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return "".join(char if char.isprintable() else "?" for char in text)


class Exchange(io.RawIOBase):
    """One request on the wire: its deadline, its speed, and the means to cut it.

    It is made before the connection is there; `attach` gives it the socket that the answer comes from. What is on the
    wire is bounded by ``max_bytes`` of body and the framing around them: who reads sees neither endless chunk
    extensions nor compressed data that unpack to nothing.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float],
        started: float | None = None,
        *,
        max_bytes: int = sys.maxsize,
    ) -> None:
        super().__init__()
        self.started = clock() if started is None else started
        #: Whether it goes over a connection that was kept alive; and whether it does so and nothing has come yet.
        self.was_kept = self.is_reusing = False
        self._limits = limits
        self._clock = clock
        self._deadline = self._end = self.started + limits.total
        self._socket: socket.socket | None = None
        self._file: io.RawIOBase | None = None
        self._is_cut = False
        self._is_over = False
        self._headers_left: int | None = MAX_HEADER_BYTES
        self._body_left = _FRAMING * max_bytes + MAX_HEADER_BYTES
        self._waited = 0.0
        self._came = 0

    def attach(self, sock: socket.socket) -> "Exchange":
        """Read from ``sock`` from now on: the request has been sent, and the headers may take ``first_byte``."""
        self._deadline = min(self._end, self._clock() + self._limits.first_byte)
        self._socket = sock
        self._file = sock.makefile("rb", buffering=0)  # counts as a user of the socket until it is closed
        return self

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client calls on its socket."""
        return io.BufferedReader(self, _BUFFER)

    def headers_are_in(self) -> None:
        """From here on the bytes count for the speed, and have all the time, no longer that of the headers."""
        self._headers_left = None
        self._deadline = self._end

    def end_of_body(self, file: io.BufferedReader) -> None:
        """Read nothing more; if the server has said more than it announced, nobody is to read that either.

        Args:
            file: what `makefile` has made.
        """
        self._is_over = True
        sock = self._socket
        # What TLS within the TLS of a proxy has left, nobody can tell.
        rest = sock.pending() if isinstance(sock, ssl.SSLSocket) else not isinstance(sock, socket.socket)
        if rest or file.peek(1):
            self._shut()

    def hurry(self, seconds: float) -> None:
        """Allow no more than ``seconds`` from now."""
        self._deadline = min(self._deadline, self._clock() + seconds)

    def cut(self) -> None:
        """End it from another thread: a read that is waiting ends soon, with ``cancelled``."""
        self._is_cut = True
        self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            # Not SSLSocket's own shutdown: that forgets TLS, and the reader would get the ciphertext.
            with contextlib.suppress(OSError):  # it was closed already, which is what we want
                socket.socket.shutdown(getattr(self._socket, "socket", self._socket), socket.SHUT_RDWR)

    def check(self) -> float:
        """Seconds left.

        Raises:
            RequestFailed: ``timeout``, for good once a body is coming, or ``cancelled``.
        """
        left = self._deadline - self._clock()
        if self._is_cut:
            raise RequestFailed("cancelled", "cut while it was under way")
        if left <= 0:
            is_head = self._headers_left is not None
            text = f"{'headers not' if is_head else 'not'} complete after {self._clock() - self.started:.3g} s"
            raise RequestFailed("timeout", text, retryable=is_head)  # a body as slow as that will be so again
        return left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        """One read from the socket, within the limits; raises `RequestFailed` or what sockets raise."""
        assert self._socket is not None and self._file is not None  # noqa: S101  # http.client reads after attach
        if self._is_over:
            return 0
        self._socket.settimeout(min(self.check(), self._limits.first_byte))
        if self._headers_left is not None:  # never past the cap, however the network has cut them into pieces
            buffer = memoryview(buffer)[: max(1, self._headers_left)]
        before = self._clock()
        try:
            count = self._file.readinto(buffer)
        except OSError:
            self.check()
            raise
        if self._is_cut:
            self.check()
        if count:
            self.is_reusing = False
        self._weigh(count or 0, self._clock() - before)
        return count

    def _weigh(self, count: int, waited: float) -> None:
        """Hold the size of the headers, the size and the speed of the body."""
        if self._headers_left is not None:
            if count and self._headers_left == 0:  # the read before may have brought some of the body as well
                raise RequestFailed("too-large", f"headers of more than {MAX_HEADER_BYTES} bytes")
            self._headers_left -= count
            return
        self._body_left -= count
        if self._body_left < 0:
            raise RequestFailed("too-large", "more on the wire than any framing takes")
        self._came += count
        self._waited += waited
        if self._waited >= self._limits.window:
            speed = self._came / self._waited
            if count and speed < self._limits.min_speed:
                raise RequestFailed("too-slow", f"{speed:.0f} bytes a second", retryable=True)
            self._came, self._waited = 0, 0.0

    def close(self) -> None:
        """Let go of the socket, which goes back to its pool or closes."""
        if self._file is not None:
            self._file.close()
        super().close()
