"""Classification of the errors of the underlying libraries, and the limits of an exchange."""

import http.client
import socket
import ssl
import threading
from contextlib import suppress

import pytest
import requests
from urllib3 import exceptions as urllib3
from urllib3.connection import HTTPConnection

from crawler.errors import RequestFailed
from crawler.net.address_guard import NoNameServer
from crawler.net.exchange import MAX_HEADER_BYTES, Exchange, classify
from crawler.net.fetcher import TransferLimits

CONNECTION = HTTPConnection("site.example")
REFUSED = ConnectionRefusedError(111, "Connection refused")


UNKNOWN = socket.gaierror(socket.EAI_NONAME, "unknown")
SILENT = NoNameServer(socket.EAI_AGAIN, "try again")
BROKEN = socket.gaierror(socket.EAI_AGAIN, "try again")


def wrapped(error: Exception) -> Exception:
    """Return the error as requests raises it for an error of urllib3 after its last retry."""
    return requests.ConnectionError(urllib3.MaxRetryError(None, "/", error))  # type: ignore[arg-type]  # no pool here


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (wrapped(urllib3.NameResolutionError("x", CONNECTION, socket.gaierror(-2, "unknown"))), "dns", True),
        (wrapped(caused(urllib3.NewConnectionError(CONNECTION, "refused"), REFUSED)), "connect", True),
        (wrapped(urllib3.NewConnectionError(CONNECTION, "no route")), "connect", True),
        (wrapped(urllib3.ConnectTimeoutError(CONNECTION, "slow")), "timeout", True),
        (requests.ReadTimeout("slow"), "timeout", True),
        (TimeoutError("timed out"), "timeout", True),
        (requests.exceptions.SSLError(ssl.SSLCertVerificationError(1, "expired")), "tls", False),
        (wrapped(urllib3.SSLError(ssl.SSLError(1, "wrong version number"))), "tls", True),
        (requests.ConnectionError(urllib3.ProtocolError("x", http.client.RemoteDisconnected("gone"))), "connect", True),
        (requests.ConnectionError(urllib3.ProtocolError("x", ConnectionResetError(104, "reset"))), "connect", True),
        (requests.ConnectionError(urllib3.ProtocolError("x", http.client.BadStatusLine("SSH"))), "connect", False),
        (urllib3.ProtocolError("x", http.client.IncompleteRead(b"", 5)), "truncated", True),
        (requests.exceptions.ChunkedEncodingError("cut"), "truncated", True),
        (urllib3.DecodeError("no gzip"), "corrupt", False),
        (urllib3.LocationParseError("http://x y"), "bad-url", False),
        (http.client.InvalidURL("control character"), "bad-url", False),
        (KeyError("?"), "internal", False),
    ],
)
def test_every_error_has_a_reason(error: Exception, reason: str, retryable: bool) -> None:
    failure = classify(error)
    assert (failure.reason, failure.retryable) == (reason, retryable)
    assert "\n" not in failure.detail


@pytest.mark.parametrize(
    ("error", "down"),
    [
        (wrapped(caused(urllib3.NameResolutionError("x", CONNECTION, UNKNOWN), UNKNOWN)), "host"),
        (wrapped(caused(urllib3.NameResolutionError("x", CONNECTION, SILENT), SILENT)), "resolver"),
        (wrapped(caused(urllib3.NameResolutionError("x", CONNECTION, BROKEN), BROKEN)), "host"),
        (socket.gaierror(socket.EAI_FAIL, "failed"), "host"),
        (wrapped(caused(urllib3.NewConnectionError(CONNECTION, "refused"), REFUSED)), "host"),
        (wrapped(urllib3.ConnectTimeoutError(CONNECTION, "slow")), "host"),
        (requests.ReadTimeout("slow"), ""),
        (requests.ConnectionError(urllib3.ProtocolError("x", ConnectionResetError(104, "reset"))), ""),
        (requests.exceptions.SSLError(ssl.SSLCertVerificationError(1, "expired")), ""),
    ],
)
def test_an_error_without_any_response_says_which_side_was_silent(error: Exception, down: str) -> None:
    assert classify(error).down == down


def test_text_of_a_server_is_harmless_in_a_log() -> None:
    assert classify(http.client.BadStatusLine("\x1b[2J\r\nfake\u202e line")).detail == "BadStatusLine: ?[2J fake? line"


def test_the_context_of_an_error_is_not_its_cause() -> None:
    error = ConnectionResetError("reset")
    error.__context__ = socket.gaierror("of another request")
    assert classify(error).reason == "connect"


def test_a_cycle_of_causes_ends() -> None:
    error = OSError("loop")
    assert classify(caused(error, error)).reason == "connect"


def test_a_classified_error_is_not_changed() -> None:
    error = RequestFailed("too-slow", retryable=True)
    assert classify(error) is error


def test_deadlines_use_the_clock_and_cancelling_comes_first() -> None:
    now = [100.0]
    exchange = Exchange(TransferLimits(total=60.0), lambda: now[0])
    now[0] = 130.0
    assert exchange.check() == 30.0
    exchange.hurry(1.0)
    assert exchange.check() == 1.0
    now[0] = 131.0
    with pytest.raises(RequestFailed, match="timeout"):
        exchange.check()
    exchange.cut()
    with pytest.raises(RequestFailed, match="cancelled"):
        exchange.check()


class CutWhileReading(socket.socket):
    """A socket that is reset because its exchange is cut in the middle of a read."""

    exchange: Exchange

    def recv_into(self, *args: object) -> int:
        self.exchange.cut()
        raise ConnectionResetError("reset")


def test_a_reset_caused_by_cancelling_is_not_the_server_s() -> None:
    with CutWhileReading() as sock, Exchange(TransferLimits(), lambda: 0.0) as exchange:
        sock.exchange = exchange.attach(sock)
        with pytest.raises(RequestFailed, match="cancelled"):
            exchange.readinto(bytearray(1))


@pytest.mark.parametrize(("size", "is_read"), [(MAX_HEADER_BYTES, True), (MAX_HEADER_BYTES + 1, False)])
def test_headers_are_read_up_to_the_cap(size: int, is_read: bool) -> None:
    near, far = socket.socketpair()
    with near, far, Exchange(TransferLimits(), lambda: 0.0).attach(near) as exchange:
        threading.Thread(target=_send_and_end, args=(far, size)).start()
        with exchange.makefile("rb") as file:
            if is_read:
                assert len(file.read()) == size
            else:
                with pytest.raises(RequestFailed, match="too-large"):
                    file.read()


def _send_and_end(sock: socket.socket, size: int) -> None:
    with suppress(OSError):  # the reader may have closed its end
        sock.sendall(b"x" * size)
        sock.shutdown(socket.SHUT_WR)
