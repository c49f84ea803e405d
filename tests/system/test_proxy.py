"""Requests through a proxy: everything goes through it, and only the proxy sees its password."""

import base64
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from crawler.errors import RequestFailed
from crawler.model import Request
from crawler.net.fetcher import Conditions, TransferLimits
from crawler.net.requests_fetcher import RequestsFetcher
from tests.support.certificates import certificate
from tests.support.peer import Peer, answers, serving
from tests.support.processes import commands, manifest_of

PASSWORD = "Basic " + base64.b64encode(b"me:s e").decode()


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy that fetches URLs, opens tunnels, and keeps the heads of its requests."""

    daemon_threads = True

    def __init__(self, refusal: bytes = b"") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heads: list[str] = []
        self.refusal = refusal
        self.port = self.socket.getsockname()[1]


class _Handler(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        with suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head and (data := self.request.recv(4_096)):
                head += data
            self.server.heads.append(head.decode("latin-1"))
            if self.server.refusal:
                self.request.sendall(b"HTTP/1.1 " + self.server.refusal + b"\r\nContent-Length: 0\r\n\r\n")
            elif head.startswith(b"CONNECT "):
                self._tunnel(head.split()[1].decode())
            else:
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nfetched")

    def _tunnel(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 5) as far:
            self.request.sendall(b"HTTP/1.1 200 Connected\r\nX: y\r\n\r\n")
            back = threading.Thread(target=_pump, args=(far, self.request))
            back.start()
            _pump(self.request, far)
            back.join(5)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxying(refusal: bytes = b"") -> Iterator[Proxy]:
    with Proxy(refusal) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


def fetched(url: str, port: int, tls: ssl.SSLContext | None = None) -> bytes:
    fetcher = RequestsFetcher(TransferLimits(total=5.0), "test/1.0", proxy=f"http://me:s%20e@127.0.0.1:{port}", tls=tls)
    with closing(fetcher), fetcher.fetch(Request(url=url), Conditions()) as response:
        return response.read()


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://[::1]/x", "http://localhost/", "http://a.example:25/"])
def test_a_url_that_is_visibly_private_is_not_sent_to_a_proxy(url: str) -> None:
    with proxying() as proxy, pytest.raises(RequestFailed, match="blocked-address"):
        fetched(url, proxy.port)
    assert proxy.heads == []


def test_a_proxy_receives_the_whole_url_and_its_password() -> None:
    with proxying() as proxy:
        assert fetched("http://site.example/a?b=%2F", proxy.port) == b"fetched"
    (head,) = proxy.heads
    assert head.startswith("GET http://site.example/a?b=%2F HTTP/1.1\r\n")
    assert f"\r\nproxy-authorization: {PASSWORD}\r\n" in head and "\r\nHost: site.example\r\n" in head


@pytest.mark.usefixtures("near")
def test_the_password_is_not_sent_through_a_tunnel(tmp_path: Path) -> None:
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    heard: list[bytes] = []

    def script(peer: Peer) -> None:
        heard.append(b"asked")
        answers(b"secret")(peer)

    with serving(script) as server, proxying() as proxy:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        trust = ssl.create_default_context(cafile=path)
        assert fetched(f"https://127.0.0.1:{server.port}/x", proxy.port, trust) == b"secret"
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.")
    assert PASSWORD in head and heard == [b"asked"]


@pytest.mark.usefixtures("near")
def test_a_certificate_is_checked_inside_a_tunnel_too(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    with serving(answers(b"secret")) as server, proxying() as proxy, pytest.raises(RequestFailed) as caught:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        fetched(f"https://127.0.0.1:{server.port}/x", proxy.port)
    assert (caught.value.reason, caught.value.retryable) == ("tls", False)


def test_a_proxy_that_refuses_a_tunnel_is_a_connection_failure() -> None:
    with proxying(b"407 Proxy Authentication Required") as proxy, pytest.raises(RequestFailed) as caught:
        fetched("https://site.example/", proxy.port)
    assert (caught.value.reason, caught.value.retryable, caught.value.down) == ("connect", True, "")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_failure_of_a_proxy_is_not_attributed_to_a_host(scheme: str) -> None:
    with proxying() as proxy:
        pass
    with pytest.raises(RequestFailed) as caught:
        fetched(f"{scheme}://site.example/", proxy.port)
    assert (caught.value.reason, caught.value.retryable, caught.value.down) == ("connect", True, "resolver")
    assert "s%20e" not in str(caught.value) and "s e" not in str(caught.value)


def test_processes_of_a_crawl_use_the_proxy_and_its_address_is_not_stored(tmp_path: Path) -> None:
    """Use a URL that only the proxy can reach; a separate process fetches its picture, with a cookie."""
    (tmp_path / "cookies.txt").write_text("# Netscape HTTP Cookie File\nsite.example\tFALSE\t/\tFALSE\t0\tid\tmine\n")
    (tmp_path / "list.txt").write_text("http://site.example/1.png\n")
    with proxying() as proxy, commands(tmp_path) as start:
        (tmp_path / "crawler.toml").write_text(
            f'[machine]\nproxy = "http://me:s%20e@127.0.0.1:{proxy.port}"\ncookies = "cookies.txt"\n'
        )
        command = start("run", "run", "--images", "list.txt", "--no-robots", "-w", 1, "-o", "out")
        assert command.ends() == 8
        (head,) = proxy.heads
    assert head.startswith("GET http://site.example/1.png HTTP/1.1\r\n")
    assert PASSWORD in head and "\r\nCookie: id=mine\r\n" in head
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [row.reason for row in manifest_of(tmp_path / "out")] == ["not-an-image"]
    assert not [data for data in [*written, command.said.encode()] if b"s%20e" in data or b"mine" in data]
