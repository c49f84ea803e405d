"""One request of `CurlFetcher`: a handle of libcurl, with the limits that libcurl does not have."""

import errno
import logging
import re
import socket
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from typing import Any, Protocol

import pycurl
from urllib3 import HTTPResponse

from crawler.errors import TOO_MANY_FILES, CrawlerError, NoHandles, RequestFailed, UnreadableHead
from crawler.model import Request
from crawler.net.exchange import FRAMING, MAX_HEADER_BYTES, NETWORK_ERRORS, classify
from crawler.net.fetcher import Receiver, Response, TransferLimits
from crawler.net.headers import Headers
from crawler.net.request_headers import RequestHeaders, validators
from crawler.net.response_body import (
    DRAIN_SECONDS,
    DRAINABLE,
    MAX_RESUMPTIONS,
    WORTH_RESUMING,
    ResumableFile,
    content_codings,
    resumable_file,
    unreadable,
)
from crawler.net.response_head import FRAMING_FIELDS, MAX_LINES, content_length, field_pairs, transfer_codings
from crawler.urls import host_and_port

_log = logging.getLogger(__name__)

#: Bytes per read of a body that is decompressed.
_PIECE = 65_536
#: Return value of libcurl's callbacks that ends a transfer.
_REFUSE = 0

#: Status codes of responses without a body, also if they announce its length.
_BODILESS = frozenset({204, 304})
#: A usual status line (RFC 9112 §4). Others are left to requests, which reads some of them.
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}[ \r\n]")
#: A header that frames the body, with a blank before its colon: browsers read it, and libcurl does not.
_SPACED_FRAMING = re.compile(rb"^(?:content-length|transfer-encoding)[ \t]+:", re.IGNORECASE | re.MULTILINE)

#: Error codes of libcurl → reason, whether a retry may help.
_FAILURES: dict[int, tuple[str, bool]] = {
    pycurl.E_COULDNT_RESOLVE_PROXY: ("dns", True),
    pycurl.E_COULDNT_RESOLVE_HOST: ("dns", True),
    pycurl.E_OPERATION_TIMEDOUT: ("timeout", True),
    pycurl.E_PARTIAL_FILE: ("truncated", True),
    pycurl.E_SSL_CONNECT_ERROR: ("tls", True),
    pycurl.E_PEER_FAILED_VERIFICATION: ("tls", False),
    pycurl.E_SSL_CERTPROBLEM: ("tls", False),
    pycurl.E_SSL_CIPHER: ("tls", False),
    pycurl.E_SSL_ISSUER_ERROR: ("tls", False),
    pycurl.E_URL_MALFORMAT: ("bad-url", False),
}
#: More header lines than libcurl takes, those of trailers included. pycurl has no name for it.
_E_TOO_LARGE = 100
#: Error codes of a head that libcurl does not read.
_UNREAD = frozenset({pycurl.E_UNSUPPORTED_PROTOCOL, pycurl.E_FTP_WEIRD_SERVER_REPLY, pycurl.E_BAD_CONTENT_ENCODING})
#: Error codes of a connection that could not be made.
_UNCONNECTED = frozenset(
    {
        pycurl.E_COULDNT_RESOLVE_PROXY,
        pycurl.E_COULDNT_RESOLVE_HOST,
        pycurl.E_COULDNT_CONNECT,
        pycurl.E_OPERATION_TIMEDOUT,
    }
)

#: Called at the end of a transfer with None, or with what ended it.
Done = Callable[[CrawlerError | None], None]


class Driver(Protocol):
    """Interface of a transfer's fetcher."""

    limits: TransferLimits
    headers: RequestHeaders
    #: Bytes of bodies that have come for the transfers in progress.
    held_bytes: int

    def perform(self, transfer: "Transfer") -> None:
        """Let libcurl carry out the request that was set in the transfer's handle."""
        ...

    def finish(self, transfer: "Transfer", error: CrawlerError | None) -> None:
        """Report the end of a transfer, whose handle is free for the next request."""
        ...

    def objection(self, host: str, port: int, address: str) -> str:
        """Return why a connection is not permitted, or ""."""
        ...

    def in_background(self, act: Callable[[], None], then: Callable[[CrawlerError | None], None]) -> None:
        """Call ``act`` in another thread, then ``then`` in the loop with the error that it raised."""
        ...


class Waits:
    """The waits of a request, for a connection, the head and the next bytes, and the speed of its body.

    Args:
        limits: the longest waits.
        now: clock time of the start.
    """

    def __init__(self, limits: TransferLimits, now: float) -> None:
        self._limits = limits
        self.is_connected = False
        self._since = self._window_since = now
        #: Bytes up to the last check, trailers included, and bytes of the body at the start of the window.
        self._seen = self._window_seen = 0

    def connected(self, now: float) -> None:
        """Wait for the head from now on."""
        self.is_connected, self._since = True, now

    def head_came(self, now: float) -> None:
        """Wait for the body from now on."""
        self._since = self._window_since = now

    def failure(self, now: float, received: int, head_bytes: int, *, has_head: bool) -> RequestFailed | None:
        """Return the failure of a request that waits too long, after so many bytes of body and of head."""
        limits, seen = self._limits, self._seen
        self._seen = received + head_bytes
        if not self.is_connected:
            if now - self._since >= limits.connect:
                return RequestFailed("timeout", f"no connection within {limits.connect:.3g} s", retryable=True)
        elif has_head and self._seen != seen:
            self._since = now
        elif now - self._since >= limits.first_byte:
            what = "no data of the body for" if has_head else "headers not complete after"
            return RequestFailed("timeout", f"{what} {limits.first_byte:.3g} s", retryable=True)
        return self._too_slow(now, received) if has_head else None

    def _too_slow(self, now: float, received: int) -> RequestFailed | None:
        seconds = now - self._window_since
        if seconds < self._limits.window:
            return None
        count = received - self._window_seen
        self._window_since, self._window_seen = now, received
        if count and count / seconds < self._limits.min_speed:
            return RequestFailed("too-slow", self._limits.too_slow(count / seconds), retryable=True)
        return None


class HeadReader:
    """The head of one response, line by line. Attributes are set once `take` has returned True."""

    status: int
    headers: Headers
    #: Announced bytes of the body; None: unknown.
    length: int | None

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self.is_complete = False
        #: Bytes so far, those of trailers behind the body included.
        self.received = 0

    @property
    def has_begun(self) -> bool:
        """Whether a part of the head has come."""
        return bool(self._lines)

    def take(self, line: bytes) -> bool:
        """Take a line; return whether it ends the head. Raise `RequestFailed`, or `UnreadableHead`."""
        self.received += len(line)
        if self.received > MAX_HEADER_BYTES:
            raise RequestFailed("too-large", f"the headers have more than {MAX_HEADER_BYTES} bytes")
        if self.is_complete:
            return False
        if not self._lines and not _STATUS_LINE.match(line):
            raise UnreadableHead("connect", "no usual status line")
        if line not in (b"\r\n", b"\n"):
            self._lines.append(line)
            if len(self._lines) > MAX_LINES + 1:
                raise RequestFailed("too-large", f"the headers have more than {MAX_LINES} lines")
            return False
        lines, self._lines = self._lines, []
        self.status = int(lines[0][9:12])
        if self.status < 200:  # the final response follows
            return False
        self.is_complete = True
        self.headers, self.length = _read_head(b"".join(lines[1:]))
        if self.status in _BODILESS:
            self.length = None
        return True

    def forbids_reuse(self, *, is_conditional: bool) -> bool:
        """Whether a response announces a body that it must not have, which could become the start of the next response.

        The answer to a conditional request may state the length of what it confirms (RFC 9110 §8.6).
        """
        is_confirmation = self.status == 304 and is_conditional
        return self.status in _BODILESS and not is_confirmation and not FRAMING_FIELDS.isdisjoint(self.headers)


class Transfer:
    """A handle of libcurl, which serves one request after the other. The loop's thread calls every method.

    Args:
        driver: the fetcher.
        options: options of libcurl that are the same for every request.
        has_proxy: whether connections go to a proxy.
        clock: monotonic seconds.
    """

    def __init__(
        self, driver: Driver, options: Mapping[int, Any], *, has_proxy: bool, clock: Callable[[], float]
    ) -> None:
        self._driver, self._clock = driver, clock
        #: The part that is down if there is no connection.
        self._far_end = "resolver" if has_proxy else "host"
        self.easy = easy = pycurl.Curl()
        for option, value in options.items():
            easy.setopt(option, value)
        easy.setopt(pycurl.HEADERFUNCTION, self._on_line)
        easy.setopt(pycurl.WRITEFUNCTION, self._on_data)
        easy.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        easy.setopt(pycurl.PREREQFUNCTION, self._on_connected)
        #: The waits of the request in progress. `Driver.perform` starts them.
        self.waits = Waits(driver.limits, 0.0)
        self._socket: socket.socket | None = None
        #: The error that ended the request, or decided its outcome before the end.
        self.error: CrawlerError | None = None

    def open(self, request: Request, receiver: Receiver, done: Done, started: float) -> None:
        """Take the next request."""
        self._request, self._receiver, self._done = request, receiver, done
        self._url = request.location
        self._started = started
        self._deadline = started + self._driver.limits.total
        self._response: Response | None = None
        self._file: ResumableFile | None = None
        self._resumptions_left = MAX_RESUMPTIONS
        self._is_compressed = False
        self._compressed: list[bytes] = []
        self._received = self._received_before = 0
        self._body_left = FRAMING * receiver.conditions.max_bytes + MAX_HEADER_BYTES
        #: Whether the outcome is decided, and whether the rest of the body is read nevertheless.
        self._is_decided = self._is_draining = False
        self.error = None

    def prepare(self) -> None:
        """Set the request in libcurl's handle. Raise `RequestFailed` if its URL can't be requested."""
        if not self._url.startswith(("http://", "https://")):
            raise RequestFailed("unsupported-scheme", f"not an http(s) URL: {self._url[:200]!r}")
        try:
            self._host, self._port = host_and_port(self._url)
            self.easy.setopt(pycurl.URL, self._url)
            conditions = self._receiver.conditions
            self._headers = self._driver.headers.of(self._request, conditions)
            self._send(validators(conditions))
        except (pycurl.error, ValueError) as error:  # also a cookie of the user that no header can have
            raise RequestFailed("bad-url", str(error)) from error

    def _send(self, further: Mapping[str, str]) -> None:
        """Set the headers of the next request, and reset what concerns one response."""
        headers = {**self._headers, **further}
        # Latin-1, as responses are read: a tag that the server has sent goes back with the same bytes.
        self.easy.setopt(pycurl.HTTPHEADER, [f"{name}: {value}".encode("latin-1") for name, value in headers.items()])
        self._head = HeadReader()
        self._received = 0
        self._tries_left = 2

    @property
    def received(self) -> int:
        """Bytes of the body received over the network so far: with `read` and `close`, this is a `Response`'s body."""
        return self._received_before + self._received

    def read(self, size: int) -> bytes:
        raise RequestFailed("internal", "the body goes to the receiver")

    def close(self) -> None:
        """Close the socket that was given to libcurl, which works with a duplicate of it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def release(self) -> Done:
        """Forget the request; return the function that reports its end."""
        done = self._done
        self._driver.held_bytes -= self.received
        if self._response is not None:
            self._response.leave_body()
        self.close()
        del self._request, self._receiver, self._done
        self._response, self._compressed = None, []
        return done

    # callbacks of libcurl: an exception would be printed, so each ends in `error` -----------------------------------

    def _on_line(self, line: bytes) -> int | None:
        try:
            is_wanted = not self._head.take(line) or self._begin(self._head)
        except Exception as error:  # noqa: BLE001  # one bad response must not affect the others
            is_wanted = self._take_error(error)
        return None if is_wanted else _REFUSE

    def _on_data(self, data: bytes) -> int | None:
        try:
            is_wanted = self._take_data(data)
        except Exception as error:  # noqa: BLE001  # one bad response must not affect the others
            is_wanted = self._take_error(error)
        return None if is_wanted else _REFUSE

    def _take_error(self, error: Exception) -> bool:
        """Set `error`, which decides the outcome; return whether libcurl is to continue."""
        if not isinstance(error, RequestFailed):
            _log.info("action=fetch url=%s", self._url, exc_info=error)
            error = RequestFailed("internal", type(error).__name__)
        self.error = error
        return self._drains()

    def _on_connected(self, *addresses: object) -> int:
        """Permit the request, once more if the server closes a kept connection without an answer (RFC 9112 §9.3.1)."""
        self.waits.connected(self._clock())
        self.close()
        self._tries_left -= 1
        if self._tries_left < 0:
            self.error = RequestFailed("connect", "the server closes connections without a response", retryable=True)
            return pycurl.PREREQFUNC_ABORT
        return pycurl.PREREQFUNC_OK

    def _open_socket(self, purpose: int, address: Any) -> Any:
        """Return a socket for an address that is permitted; libcurl connects it."""
        family, kind, protocol, where = address
        try:
            if objection := self._driver.objection(self._host, self._port, str(where[0])):
                self.error = RequestFailed("blocked-address", f"{self._host}:{self._port} is {objection}")
                return pycurl.SOCKET_BAD
            self.close()
            self._socket = socket.socket(family, kind, protocol)
            self._socket.dup().close()  # pycurl uses a duplicate; if it gets none, that looks like a failed connection
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.error = NoHandles(TOO_MANY_FILES)
            return pycurl.SOCKET_BAD
        return self._socket

    def discard(self) -> None:
        """Close the handle, with what it has open; it serves no further request."""
        self.close()
        self.easy.close()

    # head and body ------------------------------------------------------------------------------------------------

    def _begin(self, head: HeadReader) -> bool:
        status, headers = head.status, head.headers
        self.waits.head_came(self._clock())
        if self._response is not None:
            if self._file is not None and self._file.is_rest(self._received_before, status, headers, head.length):
                return True
            raise RequestFailed(
                "truncated", f"the server did not send the rest of the file (status {status})", retryable=True
            )
        self._response = response = Response(
            self._url,
            status,
            headers=headers,
            body=self,
            conditions=self._receiver.conditions,
            started=self._started,
            clock=self._clock,
        )
        self._file = resumable_file(status, headers, head.length)
        self._driver.headers.cookies.learn(self._request, response)
        if not self._receiver.begin(response):
            return self._drains()
        response.check_length()
        if objection := unreadable(headers):
            raise RequestFailed("unsupported-format", objection)
        if status in _BODILESS:
            return self._drains()
        self._is_compressed = bool(content_codings(headers))
        return True

    def _take_data(self, data: bytes) -> bool:
        if self._response is None:
            raise RequestFailed("connect", "the server sent data before the headers")  # after a change of the protocol
        self._received += len(data)
        self._driver.held_bytes += len(data)
        self._body_left -= len(data)
        if self._is_draining:
            return self._body_left >= 0
        if self._body_left < 0:
            raise RequestFailed("too-large", "the response is longer than its body and framing need")
        if self._is_compressed:
            self._compressed.append(data)
        else:
            self._accept(data)
        return True

    def _accept(self, piece: bytes) -> None:
        assert self._response is not None  # noqa: S101  # the head comes first
        self._response.count(piece)
        self._receiver.feed(piece)

    def _drains(self) -> bool:
        """Decide the outcome; return whether the rest of the body is read, so that the connection can be reused."""
        self._is_decided = True
        response = self._response
        if response is None or not self._head.is_complete:
            return False
        if self._head.forbids_reuse(is_conditional=bool(validators(self._receiver.conditions))):
            return False
        length = 0 if response.status in _BODILESS else int(response.headers.get("content-length", 0))
        left = length - self.received
        self._is_draining = left <= DRAINABLE
        self._body_left = DRAINABLE
        self._deadline = min(self._deadline, self._clock() + DRAIN_SECONDS)
        return self._is_draining

    def decompress(self) -> None:
        """Give the decompressed body to the receiver. Raise `RequestFailed`; this may take a while."""
        assert self._response is not None  # noqa: S101  # the head comes first
        headers = {"Content-Encoding": content_codings(self._response.headers)[0]}
        raw = HTTPResponse(BytesIO(b"".join(self._compressed)), headers, preload_content=False)
        while True:
            try:
                piece = raw.read1(_PIECE, decode_content=True)
            except NETWORK_ERRORS as error:
                raise classify(error) from error
            if not piece:
                return
            self._accept(piece)

    # the end ------------------------------------------------------------------------------------------------------

    def is_overdue(self, now: float) -> bool:
        """Return whether the request must end now, for the reason in `error`."""
        if self._is_draining:
            return now >= self._deadline
        failure = self.waits.failure(now, self._received, self._head.received, has_head=self._head.is_complete)
        if now >= self._deadline:
            part = "body" if self._head.is_complete else "headers"
            detail = f"{part} not complete after {now - self._started:.3g} s"
            failure = RequestFailed(
                "timeout", detail, retryable=not self._head.is_complete
            )  # a slow body will be slow again
        if failure is None:
            return False
        failure.down = "" if self.waits.is_connected else self._far_end
        self.error = failure
        return True

    def end(self, code: int, text: str) -> None:
        """Take libcurl's result: finish, or request the rest of a body that broke off."""
        try:
            if self._continues(code, text):
                return
        except Exception as error:  # noqa: BLE001  # one bad response must not affect the others
            _log.info("action=fetch url=%s", self._url, exc_info=True)
            self.error = RequestFailed("internal", type(error).__name__)
        self._driver.finish(self, self.error)

    def _continues(self, code: int, text: str) -> bool:
        """Set `error`; return whether the request continues, with the rest of its body or with decompression."""
        if self._response is not None:
            self._response.end()
        if self._is_decided:  # `error` says how
            return False
        if code == pycurl.E_OK and self._head.is_complete and self._head.length in (None, self._received):
            self.error = None  # an address may have been refused before another one accepted the connection
            if self._is_compressed:
                self._driver.in_background(self.decompress, partial(self._driver.finish, self))
            return self._is_compressed
        self.error = self.error or self._failure(code, text)
        is_cut = isinstance(self.error, RequestFailed) and self.error.reason == "truncated"
        return is_cut and self._resumes()

    def _failure(self, code: int, text: str) -> RequestFailed:
        if code == _E_TOO_LARGE:
            return RequestFailed("too-large", text)
        if self._response is not None:
            return RequestFailed("truncated", text, retryable=True)
        if code in _UNREAD:
            return UnreadableHead("connect", text)
        if self._head.has_begun:
            return RequestFailed("truncated", "the connection ended within the headers", retryable=True)
        reason, retryable = _FAILURES.get(code, ("connect", True))
        has_answer = self.waits.is_connected or self.easy.getinfo(pycurl.HTTP_CONNECTCODE)  # of a proxy
        is_down = code in _UNCONNECTED and not has_answer
        return RequestFailed(reason, text, retryable=retryable, down=self._far_end if is_down else "")

    def _resumes(self) -> bool:
        """Request the rest of a body that broke off. Return False if that is not possible."""
        if self._file is None or not self._resumptions_left or self._received < WORTH_RESUMING:
            return False
        self._resumptions_left -= 1
        self._received_before += self._received
        self.error = None
        self._send(self._file.range_from(self._received_before))
        self._driver.perform(self)
        return True


def _read_head(head: bytes) -> tuple[Headers, int | None]:
    """Return the headers, with a length only if that is valid, and the length of the body, or None if it is unknown."""
    if _SPACED_FRAMING.search(head):
        raise UnreadableHead("connect", "a length that libcurl does not see")
    headers = Headers(field_pairs(head))
    is_coded = bool(transfer_codings(headers.get("transfer-encoding", "")))
    length = None if is_coded else content_length(headers.getlist("content-length"))
    if length is not None and "transfer-encoding" in headers:
        raise UnreadableHead("connect", "a length that libcurl ignores, because of an unknown transfer coding")
    headers.replace("content-length", *([] if length is None else [str(length)]))
    return headers, length
