"""One meaning: the fetchers with requests and with libcurl read the same bytes from a socket in the same way."""

import contextlib
import gzip
import inspect
import random
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from crawler.errors import RequestFailed, UnreadableHead
from crawler.model import Request
from crawler.net.address_guard import Guard
from crawler.net.cookies import Cookies
from crawler.net.fetcher import Conditions, TransferLimits
from crawler.net.request_headers import RequestHeaders
from crawler.net.requests_fetcher import RequestsFetcher
from crawler.net.response_body import WORTH_RESUMING
from tests.support import peer as scripts
from tests.support.certificates import certificate
from tests.support.curl import curl
from tests.support.peer import Peer, Script, Server, answers, serving

#: Short enough for tests of timeouts.
QUICK = TransferLimits(connect=2.0, first_byte=0.3, total=0.6, window=30.0)
#: Limits that end nothing.
CALM = TransferLimits(connect=5.0, first_byte=5.0, total=10.0, window=30.0)
IMAGE = Conditions(accept="image/*", max_bytes=2**20)

#: Status, headers and body; or reason, whether a retry may help, and the part that is down.
Result = tuple[Any, ...]


@dataclass(frozen=True)
class Route:
    """What a request may use on its way: trusted certificates, a proxy, and cookies."""

    trust: Path | None = None
    proxy: str = ""
    cookies: Cookies | None = None


DIRECT = Route()


def by_requests(
    url: str, limits: TransferLimits, conditions: Conditions, route: Route = DIRECT, **fields: Any
) -> Result:
    options: dict[str, Any] = {"contact": "me@a.example", "proxy": route.proxy, "cookies": route.cookies}
    if route.trust:
        options["tls"] = ssl.create_default_context(cafile=route.trust)
    fetcher = RequestsFetcher(limits, "test/1.0", guard=Guard(allow_private=True), **options)
    try:
        with contextlib.closing(fetcher), fetcher.fetch(Request(url=url, **fields), conditions) as response:
            return response.status, [*response.headers.items()], response.read()
    except RequestFailed as error:
        return error.reason, error.retryable, error.down


def by_curl(url: str, limits: TransferLimits, conditions: Conditions, route: Route = DIRECT, **fields: Any) -> Result:
    options: dict[str, Any] = {"proxy": route.proxy} | ({"ca_bundle": str(route.trust)} if route.trust else {})
    with curl(limits, RequestHeaders("test/1.0", "me@a.example", route.cookies), **options) as fetch:
        try:
            kept = fetch.get(url, conditions, **fields)
        except UnreadableHead:
            return ("unreadable",)
        except RequestFailed as error:
            return error.reason, error.retryable, error.down
        assert kept.response is not None
        return kept.response.status, [*kept.response.headers.items()], kept.body


def both(make: Callable[[], Script], limits: TransferLimits, conditions: Conditions = IMAGE) -> tuple[Result, Result]:
    """Return the results of both fetchers, each from a server of its own."""
    results = []
    for fetch in (by_requests, by_curl):
        with serving(make()) as server:
            results.append(fetch(server.url, limits, conditions))
    return results[0], results[1]


SCRIPTS = {
    name: script
    for name, script in vars(scripts).items()
    if inspect.isfunction(script) and [*inspect.signature(script).parameters] == ["peer"]
}
#: Responses that libcurl refuses as a whole. A downloader requests them once more, through requests.
UNREAD = {"no_http"}


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_server_that_misbehaves_has_the_same_result(name: str) -> None:
    expected, found = both(lambda: SCRIPTS[name], QUICK)
    assert found == (("unreadable",) if name in UNREAD else expected)


def test_a_body_below_the_least_speed_ends_in_the_same_way() -> None:
    def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        peer.drip(0.02)

    limits = TransferLimits(connect=5.0, first_byte=5.0, total=20.0, window=0.3, min_speed=1_000)
    expected, found = both(lambda: script, limits)
    assert found == expected == ("too-slow", True, "")


def raw(data: bytes) -> Script:
    """Send a response, and close the connection."""

    def script(peer: Peer) -> None:
        peer.send(data)
        peer.stop()

    return script


def body(*lines: bytes, content: bytes = b"picture", status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([status, *lines, b"", content])


ZIPPED = gzip.compress(b"picture" * 100)
RESPONSES: dict[str, bytes] = {
    "length": body(b"Content-Length: 7"),
    "length twice": body(b"Content-Length: 7", b"Content-Length: 7"),
    "no body": body(b"Content-Length: 0", content=b""),
    "until the end": body(b"Connection: close"),
    "HTTP/1.0": body(b"Content-Type: image/png", status=b"HTTP/1.0 200 OK"),
    "no reason": body(b"Content-Length: 7", status=b"HTTP/1.1 200"),
    "line feeds": b"HTTP/1.1 200 OK\nContent-Length: 7\n\npicture",
    "folded": body(b"X-Long: a", b"  b", b"\tc", b"Content-Length: 7"),
    "Latin-1": body(b"Location: /caf\xe9", b"Content-Length: 7"),
    "empty value": body(b"Location:", b"ETag:   ", b"Content-Length: 7"),
    "same field twice": body(b"X-Robots-Tag: noindex", b"x-robots-tag: noimageindex", b"Content-Length: 7"),
    "two different ETags": body(b'ETag: "a"', b'ETag: "b"', b"Content-Length: 7"),
    "chunks": body(b"Transfer-Encoding: chunked", content=b"3\r\npic\r\n4\r\nture\r\n0\r\n\r\n"),
    "chunk extensions": body(b"Transfer-Encoding: chunked", content=b"7;a=b\r\npicture\r\n0;c\r\n\r\n"),
    "chunked in capitals": body(b"Transfer-Encoding: CHUNKED", content=b"7\r\npicture\r\n0\r\n\r\n"),
    "chunked with a blank": body(b"Transfer-Encoding: chunked ", content=b"7\r\npicture\r\n0\r\n\r\n"),
    "trailers": body(b"Transfer-Encoding: chunked", content=b"7\r\npicture\r\n0\r\nX: y\r\n\r\n"),
    "cut chunk": body(b"Transfer-Encoding: chunked", content=b"7\r\npict"),
    "no chunk size": body(b"Transfer-Encoding: chunked", content=b"zz\r\npicture\r\n0\r\n\r\n"),
    "gzip": body(b"Content-Encoding: gzip", b"Content-Length: %d" % len(ZIPPED), content=ZIPPED),
    "x-gzip": body(b"Content-Encoding: x-gzip", b"Content-Length: %d" % len(ZIPPED), content=ZIPPED),
    "deflate": body(b"Content-Encoding: deflate", content=zlib.compress(b"picture" * 9)),
    "gzip in chunks": body(
        b"Content-Encoding: gzip",
        b"Transfer-Encoding: chunked",
        content=b"%x\r\n%s\r\n0\r\n\r\n" % (len(ZIPPED), ZIPPED),
    ),
    "no gzip": body(b"Content-Encoding: gzip", b"Content-Length: 7"),
    "half of gzip": body(b"Content-Encoding: gzip", b"Content-Length: 9", content=ZIPPED[:9]),
    "bomb": body(b"Content-Encoding: gzip", content=gzip.compress(bytes(2**21))),
    "unknown coding": body(b"Content-Encoding: none", b"Content-Length: 7"),
    "brotli": body(b"Content-Encoding: br", b"Content-Length: 7"),
    "two codings": body(b"Content-Encoding: gzip, gzip", b"Content-Length: 7"),
    "too large": body(b"Content-Length: %d" % 2**21, content=b"x"),
    "larger than announced": body(b"Content-Length: 7", content=b"picture and more"),
    "too large in the end": body(b"Connection: close", content=bytes(2**20 + 1)),
    "as large as allowed": body(b"Connection: close", content=bytes(2**20)),
    "redirect": body(b"Location: /next", b"Content-Length: 4", content=b"gone", status=b"HTTP/1.1 301 Moved"),
    "404": body(b"Content-Length: 4", content=b"gone", status=b"HTTP/1.1 404 Not Found"),
    "304": body(b'ETag: "a"', content=b"", status=b"HTTP/1.1 304 Not Modified"),
    "204 with a length": body(b"Content-Length: 0", content=b"", status=b"HTTP/1.1 204 No Content"),
    "204 with a coding": body(
        b"Content-Encoding: gzip", b"Content-Length: 40", content=b"", status=b"HTTP/1.1 204 No Content"
    ),
    "304 with a coding": body(
        b"Content-Encoding: gzip", b"Content-Length: 40", content=b"", status=b"HTTP/1.1 304 Not Modified"
    ),
    "another protocol": body(b"Upgrade: x", status=b"HTTP/1.1 101 Switching Protocols"),
    "status 299": body(b"Content-Length: 7", status=b"HTTP/1.1 299 Odd"),
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + body(b"Content-Length: 7"),
    "huge length that breaks off": body(b"Content-Length: 99999999999999999999999"),
    "length of zeros": body(b"Content-Length: 0000007"),
    "negative chunk": body(b"Transfer-Encoding: chunked", content=b"-7\r\npicture\r\n0\r\n\r\n"),
    "chunk size of 20 digits": body(b"Transfer-Encoding: chunked", content=b"1" * 20 + b"\r\npicture"),
    "chunks and a length": body(
        b"Transfer-Encoding: chunked", b"Content-Length: 3", content=b"7\r\npicture\r\n0\r\n\r\n"
    ),
    "identity": body(b"Transfer-Encoding: identity"),
    "part without a request for it": body(
        b"Content-Range: bytes 0-6/100", b"Content-Length: 7", status=b"HTTP/1.1 206 Partial Content"
    ),
}
#: Heads that are not read with libcurl: for their first line, a line that browsers skip, a coding, or a second target.
#: With each, the status or the reason that requests makes of it.
REFUSED: dict[str, tuple[bytes, int | str]] = {
    "compressed transfer": (
        body(b"Transfer-Encoding: gzip, chunked", content=b"7\r\npicture\r\n0\r\n\r\n"),
        "unsupported-format",
    ),
    "identity and a length": (
        body(b"Transfer-Encoding: identity", b"Content-Length: 7", content=b"picture and more"),
        200,
    ),
    "two targets": (body(b"Location: /a", b"Location: /b", status=b"HTTP/1.1 302 Found"), 302),
    "no colon": (body(b"not a header", b"Content-Length: 7"), 200),
    "two lengths": (body(b"Content-Length: 7", b"Content-Length: 5"), "connect"),
    "empty lengths": (body(b"Content-Length: ,7,", b"Connection: close"), 200),
    "length in words": (body(b"Content-Length: seven", b"Connection: close"), 200),
    "blank before the colon": (body(b"Content-Length : 7", content=b"picture and more"), 200),
    "coding with a blank before the colon": (body(b"Transfer-Encoding\t: chunked", content=b"0\r\n\r\n"), 200),
    "NUL": (body(b"X: a\0b", b"Content-Length: 7"), 200),
    "blank line first": (b"\r\n" + body(b"Content-Length: 7"), "connect"),
    "status of four digits": (body(b"Content-Length: 7", status=b"HTTP/1.1 1000 Odd"), "connect"),
    "version 2": (body(b"Content-Length: 7", status=b"HTTP/2.0 200 OK"), "connect"),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_is_read_in_the_same_way(name: str) -> None:
    expected, found = both(lambda: raw(RESPONSES[name]), CALM)
    assert found == expected


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_that_libcurl_refuses_is_left_to_the_other_fetcher(name: str) -> None:
    data, meaning = REFUSED[name]
    result, found = both(lambda: raw(data), CALM)
    assert found == ("unreadable",) and result[0] == meaning


def test_the_end_of_a_chunked_body_without_its_last_line_is_whole_for_requests_alone() -> None:
    unended = raw(body(b"Transfer-Encoding: chunked", content=b"7\r\npicture\r\n0\r\n"))
    expected, found = both(lambda: unended, CALM)
    assert expected[::2] == (200, b"picture") and found == ("truncated", True, "")


# --- resumption


FILE = random.Random(1).randbytes(3 * WORTH_RESUMING)  # noqa: S311  # not a secret


def breaking(*parts: bytes, tag: bytes = b'"v1"') -> Callable[[], Script]:
    """Return the maker of a server that announces the file and breaks off; then it sends the next of ``parts``."""

    def make() -> Script:
        turn = count()

        def script(peer: Peer) -> None:
            number = next(turn)
            if number:
                peer.send(parts[number - 1])
            else:
                head = b"HTTP/1.1 200 OK\r\nETag: %s\r\nAccept-Ranges: bytes\r\nContent-Length: %d\r\n\r\n"
                peer.send(head % (tag, len(FILE)) + FILE[: 2 * WORTH_RESUMING])
            peer.stop()

        return script

    return make


def rest(start: int = 2 * WORTH_RESUMING, tag: bytes = b'"v1"', status: bytes = b"206 Partial Content") -> bytes:
    head = b"HTTP/1.1 %s\r\nETag: %s\r\nContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n\r\n"
    part = FILE[2 * WORTH_RESUMING :]
    return head % (status, tag, start, len(FILE) - 1, len(FILE), len(part)) + part


@pytest.mark.parametrize(
    ("make", "is_whole"),
    [
        (breaking(rest()), True),
        (breaking(rest(tag=b'"\xe9"'), tag=b'"\xe9"'), True),
        (breaking(rest(tag=b'"v2"')), False),
        (breaking(rest(start=5)), False),
        (breaking(rest(status=b"200 OK")), False),
        (breaking(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), False),
        (breaking(b""), False),
        (breaking(rest(tag=b'W/"v1"'), tag=b'W/"v1"'), False),
    ],
    ids=["rest", "tag of Latin-1", "another version", "another part", "whole file", "error", "nothing", "weak tag"],
)
def test_a_large_body_is_resumed_in_the_same_cases(make: Callable[[], Script], is_whole: bool) -> None:
    expected, found = both(make, CALM)
    assert found == expected
    assert (found[-1] == FILE) == is_whole and (is_whole or found[:2] == ("truncated", True))


# --- requests


def seen(fetch: Callable[..., Result], path: str, conditions: Conditions, **fields: Any) -> set[bytes]:
    """Return the request line and the headers that a server sees."""
    lines: set[bytes] = set()

    def talk(peer: Peer) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += peer.request.recv(65_536)
        lines.update(data.partition(b"\r\n\r\n")[0].split(b"\r\n"))
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with serving(answers(b"")) as server:
        server.talk = talk
        fetch(server.url + path, CALM, conditions, **fields)
        return {line.replace(str(server.port).encode(), b"PORT") for line in lines} - {b"Connection: keep-alive"}


@pytest.mark.parametrize(
    "path", ["", "a//b/./c/../d?x=1&y=%20|'", "%2e%2e/%41;a=b", "a'b(c)[d]{e}~!$&*+,=:@", "?q=a/../b", "a%00b"]
)
def test_the_server_sees_the_same_request(path: str) -> None:
    fields = {"kind": "image", "referrer": "http://127.0.0.1:1/page?q", "referrer_policy": "unsafe-url"}
    conditions = Conditions(accept="image/webp,*/*", etag='"a"', last_modified="Mon, 05 Oct 2026 10:00:00 GMT")
    expected, found = (seen(fetch, path, conditions, **fields) for fetch in (by_requests, by_curl))
    # requests encodes some characters that browsers send as they are.
    assert {unquote_to_bytes(line) for line in found} == {unquote_to_bytes(line) for line in expected}
    assert b"GET /%s HTTP/1.1" % path.replace("%2e", "%2E").encode() in found


@pytest.mark.parametrize("fetch", [by_requests, by_curl])
def test_nothing_is_read_from_the_environment(
    fetch: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".curlrc").write_text("user-agent = other\n")
    monkeypatch.setenv("CURL_HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    lines = seen(fetch, "", IMAGE)
    assert b"GET / HTTP/1.1" in lines and b"User-Agent: test/1.0" in lines
    assert not any(line.startswith(b"Authorization") for line in lines)


# --- TLS and proxies


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """Yield a TLS server, and the certificate to trust."""
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with serving(answers(b"secret")) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server, path


@pytest.mark.parametrize(("host", "is_trusted"), [("127.0.0.1", True), ("127.0.0.1", False), ("localhost", True)])
def test_certificates_are_judged_in_the_same_way(secure: tuple[Server, Path], host: str, is_trusted: bool) -> None:
    server, path = secure
    url, trust = f"https://{host}:{server.port}/", path if is_trusted else None
    expected = by_requests(url, CALM, IMAGE, Route(trust))
    assert by_curl(url, CALM, IMAGE, Route(trust)) == expected
    assert expected[0] == (200 if is_trusted and host == "127.0.0.1" else "tls")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with serving(answers(b"secret")) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://127.0.0.1:{server.port}/"
        assert by_requests(url, CALM, IMAGE, Route(path))[0] == "tls"
        assert by_curl(url, CALM, IMAGE, Route(path))[0] == "tls"


def test_a_server_without_tls_has_the_same_failure() -> None:
    with serving(SCRIPTS["silent"]) as server:
        server.greeting = b"220 ready\r\n"
        url = f"https://127.0.0.1:{server.port}/"
        assert by_curl(url, CALM, IMAGE) == by_requests(url, CALM, IMAGE) == ("tls", True, "")


def test_a_port_that_is_closed_has_the_same_failure() -> None:
    with serving(answers(b"")) as server:
        url = server.url
    assert by_curl(url, CALM, IMAGE) == by_requests(url, CALM, IMAGE) == ("connect", True, "host")


def tunnel(heads: list[bytes], status: bytes) -> Script:
    """Behave like a proxy: keep the head of the request, and connect to the place that it names."""

    def talk(peer: Peer) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += peer.request.recv(65_536)
        heads.append(data)
        peer.send(b"HTTP/1.1 " + status + b"\r\nX-Proxy: 1\r\n\r\n")
        if not status.startswith(b"200"):
            return
        port = int(data.split(b" ")[1].rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port)) as far:

            def copy(source: socket.socket, target: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    while part := source.recv(65_536):
                        target.sendall(part)
                with contextlib.suppress(OSError):
                    target.shutdown(socket.SHUT_WR)

            back = threading.Thread(target=copy, args=(far, peer.request), daemon=True)
            back.start()
            copy(peer.request, far)
            back.join(5)

    return talk


@pytest.mark.parametrize("status", [b"200 Connected", b"407 Who are you", b"502 No"])
def test_a_tunnel_through_a_proxy_has_the_same_result(secure: tuple[Server, Path], status: bytes) -> None:
    server, path = secure
    results, sent = [], []
    for fetch in (by_requests, by_curl):
        heads: list[bytes] = []
        with serving(answers(b"")) as proxy:
            proxy.talk = tunnel(heads, status)
            own = f"http://me:p%40ss@127.0.0.1:{proxy.port}/"
            results.append(fetch(f"https://127.0.0.1:{server.port}/", CALM, IMAGE, Route(path, own)))
        lines = heads[0].lower().replace(b"http/1.0", b"http/1.1").split(b"\r\n")
        sent.append([line for line in lines if line.startswith((b"connect", b"proxy-authorization"))])
    assert results[1] == results[0]
    assert sent[1] == sent[0] and len(sent[0]) == 2


@pytest.mark.parametrize("value", ["K\xf6ln", "\u6771\u4eac"])
def test_a_cookie_of_the_user_with_other_letters_has_the_same_result(tmp_path: Path, value: str) -> None:
    file = tmp_path / "cookies.txt"
    line = f"127.0.0.1\tFALSE\t/\tFALSE\t0\tcity\t{value}\n"
    file.write_text(f"# Netscape HTTP Cookie File\n{line}", errors="replace")  # in the encoding that the jar reads
    with serving(answers(b"ok")) as server:
        expected, found = (
            fetch(server.url, CALM, IMAGE, Route(cookies=Cookies(file))) for fetch in (by_requests, by_curl)
        )
    assert found == expected


def test_a_proxy_sees_the_same_request() -> None:
    sent = []
    for fetch in (by_requests, by_curl):
        heads: list[bytes] = []
        with serving(answers(b"")) as proxy:
            proxy.talk = tunnel(heads, b"204 No Content")
            own = f"http://me:p%40ss@127.0.0.1:{proxy.port}/"
            assert fetch("http://a.example/x//y?z", CALM, IMAGE, Route(proxy=own))[0] == 204
        sent.append({*heads[0].lower().split(b"\r\n")} - {b"connection: keep-alive", b"proxy-connection: keep-alive"})
    assert sent[1] == sent[0] and b"get http://a.example/x//y?z http/1.1" in sent[0]


def test_a_proxy_that_is_down_is_a_fault_of_this_machine() -> None:
    with serving(answers(b"")) as proxy:
        own = f"http://127.0.0.1:{proxy.port}/"
    for fetch in (by_requests, by_curl):
        assert fetch("http://a.example/", CALM, IMAGE, Route(proxy=own)) == ("connect", True, "resolver")
