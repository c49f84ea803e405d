"""The head of a response and its framing, read as tolerantly as in a browser."""

import contextlib
import http.client
import inspect
import socket
import ssl
import time
from pathlib import Path

import pytest

from crawler.errors import RequestFailed
from crawler.model import Request
from crawler.net.exchange import Exchange
from crawler.net.fetcher import Conditions, TransferLimits
from crawler.net.requests_fetcher import RequestsFetcher
from crawler.net.response_head import ResponseHead, fields
from tests.support.certificates import certificate
from tests.support.peer import (
    Peer,
    Script,
    dripping_headers,
    endless_continue,
    serving,
    slow_header_lines,
    told_twice,
    until_close,
    with_surplus,
)

pytestmark = pytest.mark.usefixtures("near")

#: Headers have much less time than the whole: anything longer than ``first_byte`` fails these tests by ``total``.
QUICK = TransferLimits(connect=2.0, first_byte=0.3, total=20.0, window=30.0)
OK = b"Content-Length: 2\r\n\r\nok"


def raw(head: bytes) -> Script:
    """Return a script that sends a response 200 with these headers and body on a persistent connection."""
    return lambda peer: peer.send(b"HTTP/1.1 200 OK\r\n" + head)


@pytest.mark.parametrize(
    ("name", "caller"),
    [
        ("_read_status", "begin"),
        ("_check_close", "begin"),
        ("_close_conn", "close"),
        ("_get_chunk_left", "_read1_chunked"),  # `ResponseHead` replaces it, so http.client must call it
        ("_read_and_discard_trailer", "_get_chunk_left"),
    ],
)
def test_this_python_has_the_private_methods_of_http_client_that_a_head_uses(name: str, caller: str) -> None:
    calling = inspect.getsource(getattr(http.client.HTTPResponse, caller))
    assert f"self.{name}(" in calling  # without it, a new Python would frame bodies by its own rules
    assert callable(getattr(http.client.HTTPResponse, name))


@pytest.mark.parametrize("name", ["chunk_left", "chunked", "fp", "length", "will_close"])
def test_this_python_has_the_fields_of_http_client_that_a_head_sets(name: str) -> None:
    assert f"self.{name}" in inspect.getsource(http.client.HTTPResponse)


def chunks(framed: bytes, coding: bytes = b"chunked") -> Script:
    return raw(b"Transfer-Encoding: " + coding + b"\r\n\r\n" + framed)


def bodies(script: Script, times: int = 2, limits: TransferLimits = QUICK) -> tuple[list[bytes], int]:
    """Return the bodies of that many sequential requests, and the number of connections used."""
    with serving(script) as server, contextlib.closing(RequestsFetcher(limits, "test/1.0")) as fetcher:
        found = []
        for _ in range(times):
            with fetcher.fetch(Request(url=server.url), Conditions()) as response:
                found.append(response.read())
        return found, server.connections


def failure_of(script: Script) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        bodies(script, 1)
    return caught.value


# --- the time limit of a head


@pytest.mark.parametrize("script", [dripping_headers, endless_continue, slow_header_lines])
def test_an_endless_head_has_the_time_of_a_first_byte(script: Script) -> None:
    started = time.monotonic()
    error = failure_of(script)
    assert (error.reason, error.retryable) == ("timeout", True)
    assert time.monotonic() - started < 5


def test_a_slow_head_does_not_shorten_the_time_of_the_body() -> None:
    def script(peer: Peer) -> None:
        peer.server.ended.wait(0.6)
        peer.send(b"HTTP/1.1 200 OK\r\n")
        peer.server.ended.wait(0.05)
        peer.send(b"Content-Length: 2\r\n\r\n")
        peer.server.ended.wait(0.6)
        peer.send(b"ok")

    assert bodies(script, 1, TransferLimits(first_byte=1.0))[0] == [b"ok"]


# --- invalid header lines


@pytest.mark.parametrize(
    "line",
    [
        b"this is junk",
        b"X-Powered-By : PHP",
        b"a b: c",
        b"From me: you",
        b"a\0b: c",
        b"caf\xc3\xa9: noir",
        b"X: one\rtwo",
        b": nameless",
        b"junk\r\n folded: junk",
    ],
)
def test_an_invalid_line_does_not_affect_the_headers(line: bytes) -> None:
    assert bodies(raw(line + b"\r\n" + OK)) == ([b"ok", b"ok"], 1)


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"Server : x\r\nA:\t b \r\n", [("Server", "x"), ("A", "b")]),
        (b"A: b\r\n c\r\n\t d\nE: f\r\n", [("A", "b c d"), ("E", "f")]),
        (b"A: b\rC: d\r\nE: f\0g\r\n", [("A", "b C: d"), ("E", "f g")]),
        (b" A: b\r\nC: d\r\n", [("C", "d")]),
        (b"A: b\r\njunk\r\n c\r\n", [("A", "b")]),
        (b"A: b\r\nA: b\r\nLOCATION: /\r\nLocation: /\r\n", [("A", "b"), ("A", "b"), ("LOCATION", "/")]),
        (b"Location: /a\r\nLocation: /b\r\n", [("Location", "/a"), ("Location", "/b")]),
    ],
)
def test_fields_are_parsed_as_in_browsers(head: bytes, found: list[tuple[str, str]]) -> None:
    assert fields(head).items() == found


def test_invalid_lines_count_as_headers() -> None:
    error = failure_of(raw(b"junk\r\n" * 200 + OK))
    assert (error.reason, error.retryable) == ("too-large", False)


def test_equal_copies_of_a_header_count_once() -> None:
    head = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nContent-Length: 0\r\nRetry-After: 7\r\nRetry-After: 7\r\n\r\n"
    with (
        serving(lambda peer: peer.send(head)) as server,
        contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher,
        fetcher.fetch(Request(url=server.url), Conditions()) as response,
        pytest.raises(RequestFailed) as caught,
    ):
        response.raise_for_status()
    assert caught.value.host_wait == 7


@pytest.mark.parametrize(("second", "reason"), [(b"/there", ""), (b"/elsewhere", "bad-url")])
def test_a_redirect_must_have_a_single_target(second: bytes, reason: str) -> None:
    script = told_twice(b"/there", second)
    with (
        serving(script) as server,
        contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher,
        fetcher.fetch(Request(url=server.url), Conditions()) as response,
    ):
        if not reason:
            assert response.location == server.url + "there"
            return
        with pytest.raises(RequestFailed) as caught:
            _ = response.location
        assert (caught.value.reason, caught.value.retryable) == (reason, False)


# --- the end of a body


@pytest.mark.parametrize(
    "coding",
    [
        b"chunked \t",
        b"CHUNKED",
        b", chunked",
        b"identity, chunked",
        b"chunked, chunked",
        b"chunked;x=y",
        b"no, chunked",
    ],
)
def test_chunks_are_decoded_for_any_spelling_of_the_coding(coding: bytes) -> None:
    assert bodies(chunks(b"2\r\nok\r\n0\r\n\r\n", coding)) == ([b"ok", b"ok"], 1)


@pytest.mark.parametrize("coding", [b"identity", b"binary", b""])
def test_transfer_codings_without_effect_are_ignored(coding: bytes) -> None:
    assert bodies(raw(b"Transfer-Encoding: " + coding + b"\r\n" + OK)) == ([b"ok", b"ok"], 1)


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"gzip", b"chunked, deflate\r\nContent-Length: 2"])
def test_a_compressed_transfer_coding_is_refused(coding: bytes) -> None:
    error = failure_of(chunks(b"2\r\nok\r\n0\r\n\r\n", coding))
    assert (error.reason, error.retryable) == ("unsupported-format", False)


@pytest.mark.parametrize(
    "framed",
    [
        b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
        b"+2\r\nok\r\n0\r\n\r\n",
        b"0x2\r\nok\r\n0\r\n\r\n",
        b"-2\r\nok\r\n0\r\n\r\n",
        b"\r\n2\r\nok\r\n0\r\n\r\n",
        b"2\r\nok--0\r\n\r\n",
        b"2\r\nok0\r\n\r\n",
    ],
)
def test_invalid_chunks_are_truncated_and_not_guessed_at(framed: bytes) -> None:
    error = failure_of(chunks(framed))
    assert (error.reason, error.retryable) == ("truncated", True)


@pytest.mark.parametrize("framed", [b"2  \r\nok\r\n00\r\n\r\n", b"2;a=b\r\nok\r\n0;c\r\nT: u\r\n\r\n", b"2\nok\n0\n\n"])
def test_usual_deviations_of_chunks_are_accepted(framed: bytes) -> None:
    assert bodies(chunks(framed)) == ([b"ok", b"ok"], 1)


@pytest.mark.parametrize("length", [b"1_0", b"+10", b"-10", b"ten", b"9" * 5000])
def test_an_invalid_length_is_ignored(length: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\nall of it, until the end")
        peer.stop()

    assert bodies(script) == ([b"all of it, until the end"] * 2, 2)


def test_equal_lengths_are_accepted_and_invalid_ones_refused() -> None:
    assert bodies(raw(b"Content-Length: 2, 2,\r\n" + OK)) == ([b"ok", b"ok"], 1)
    error = failure_of(raw(b"Content-Length: x\r\n" + OK))
    assert (error.reason, error.retryable) == ("connect", False)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Content-Length: 2"])
def test_a_body_that_must_not_come_is_neither_read_nor_the_next_response(status: bytes, framing: bytes) -> None:
    data = b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n\r\n"
    assert bodies(lambda peer: peer.send(data)) == ([b"", b""], 2)


def test_the_length_of_an_unchanged_file_leaves_the_connection_usable() -> None:
    """The answer to a conditional request may state the length of the file, and has no body (RFC 9110 §8.6)."""
    with (
        serving(lambda peer: peer.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n")) as server,
        contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher,
    ):
        for _ in range(2):
            with fetcher.fetch(Request(url=server.url), Conditions(etag='"a"')) as response:
                assert response.status == 304
        assert server.connections == 1


# --- after the body


@pytest.mark.parametrize("framing", [b"Content-Length: 2\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
def test_surplus_of_a_response_never_becomes_the_next_response(framing: bytes) -> None:
    found, connections = bodies(with_surplus(framing))
    assert connections == 2
    assert b"forged" not in found


def test_surplus_already_decrypted_never_becomes_the_next_response(tmp_path: Path) -> None:
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    body = b"x" * 100_000
    script = with_surplus(b"Content-Length: 100000\r\n\r\n" + body)
    fetcher = RequestsFetcher(QUICK, "test/1.0", tls=ssl.create_default_context(cafile=path))
    with serving(script) as server, contextlib.closing(fetcher):
        server.socket = context.wrap_socket(server.socket, server_side=True)
        for _ in range(2):
            with fetcher.fetch(Request(url=f"https://127.0.0.1:{server.port}/"), Conditions()) as response:
                assert response.read() == body
        assert server.connections == 2


def test_the_rest_on_a_connection_that_ends_is_not_read() -> None:
    with (
        serving(until_close) as server,
        contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher,
        fetcher.fetch(Request(url=server.url), Conditions()) as response,
    ):
        response.close()
        assert response.received == 0


class Layer:
    """The object that urllib3 uses inside the TLS of a proxy: it has the methods of a socket but is not one."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def __getattr__(self, name: str) -> object:
        return getattr(self.socket, name)


def test_an_unwanted_body_is_closed_inside_the_tls_of_a_proxy_too() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 90000\r\n\r\n" + b"x" * 5_000)
        answer = ResponseHead(Exchange(TransferLimits(), time.monotonic), Layer(ours))  # type: ignore[arg-type]
        answer.begin()
        answer.close()
        assert theirs.recv(1) == b""  # it is closed: the remaining bytes belong to no response
