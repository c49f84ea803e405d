"""A server on loopback that misbehaves by script, in ways that mocks can't reproduce."""

import contextlib
import functools
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator

Script = Callable[["Peer"], None]


class Peer(socketserver.BaseRequestHandler):
    """One connection; the server's script handles each request on it."""

    server: "Server"

    def handle(self) -> None:
        self.server.connections += 1
        self.send(self.server.greeting)
        if self.server.talk is not None:
            with contextlib.suppress(OSError):
                self.server.talk(self)
            return
        with contextlib.suppress(OSError), self.request.makefile("rb") as lines:
            while lines.readline() and not self.server.ended.is_set():
                while lines.readline() not in (b"\r\n", b""):
                    pass
                self.server.script(self)

    def send(self, data: bytes) -> None:
        self.request.sendall(data)

    def stop(self) -> None:
        self.request.shutdown(socket.SHUT_RDWR)

    def drip(self, pause: float, data: bytes = b"x") -> None:
        """Send ``data`` repeatedly until the client disconnects or the test ends."""
        while not self.server.ended.wait(pause):
            self.send(data)

    def wait(self) -> None:
        """Send nothing until the test ends; signal the test that this point is reached."""
        self.server.reached.set()
        self.server.ended.wait(10)


class Server(socketserver.ThreadingTCPServer):
    """A server that runs one script. It counts ``connections``; ``reached`` and ``ended`` allow waits without sleep."""

    daemon_threads = True
    connections = 0
    greeting = b""
    #: A script for a connection that replaces the one for its requests.
    talk: Script | None = None

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), Peer)
        self.script = script
        self.reached = threading.Event()
        self.ended = threading.Event()
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore peers that disconnect in the middle: these tests are about them."""


@contextlib.contextmanager
def serving(script: Script) -> Iterator[Server]:
    with Server(script) as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


def answers(body: bytes, status: str = "200 OK") -> Script:
    data = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)
    return lambda peer: peer.send(data)


def early_hints(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def chunked(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")


def until_close(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    peer.stop()


def short(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
    peer.stop()


def cut_chunk(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nshort")
    peer.stop()


def cut_headers(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: image/pn")
    peer.stop()


def stalling(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    peer.wait()


def no_last_chunk(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n")
    peer.stop()


def reset(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
    peer.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.close(peer.request.detach())  # at once, even if another thread reads from it


def hang_up(peer: Peer) -> None:
    peer.stop()


def no_http(peer: Peer) -> None:
    peer.send(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    peer.stop()


def silent(peer: Peer) -> None:
    peer.wait()


def silent_body(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    peer.wait()


def dripping_headers(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nX: ")
    peer.drip(0.02)


def dripping_handshake(peer: Peer) -> None:
    """Send the beginning of a long TLS record, and then a byte of it at intervals."""
    peer.request.recv(4_096)
    peer.send(b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb")
    peer.drip(0.05)


def dripping_body(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    peer.drip(0.02)


def endless_continue(peer: Peer) -> None:
    peer.drip(0.02, b"HTTP/1.1 100 Continue\r\n\r\n")


def slow_header_lines(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n")
    peer.drip(0.1, b"X: y\r\n")


def endless_trailers(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    peer.drip(0.02, b"x: y\r\n")


def flood_of_interim_answers(peer: Peer) -> None:
    peer.drip(0.0, b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000)


def flood_of_headers(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 10_000 + b"\r\n") * 90 + b"Content-Length: 0\r\n\r\n")


def two_hundred_headers(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"Content-Length: 0\r\n\r\n")


def one_long_header(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 65_530 + b"\r\nContent-Length: 0\r\n\r\n")


def one_long_header_in_pieces(peer: Peer) -> None:
    """Send one header in pieces: 65,573 bytes are too many for any division into packets."""
    peer.send(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000)
    peer.server.ended.wait(0.05)
    peer.send(b"y" * 25_530 + b"\r\nContent-Length: 0\r\n\r\n")


def slow_but_steady(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    for _ in range(10):
        peer.server.ended.wait(0.02)
        peer.send(bytes(1000))


def closing_then_dead(peer: Peer) -> None:
    """Send a complete response with ``Connection: close`` on the first connection, nothing on later ones."""
    if peer.server.connections == 1:
        peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    peer.stop()


def once(answer: Script, then: Script) -> Script:
    """Send one response on each connection, and then misbehave as an idle server may at a bad moment."""
    answered: set[Peer] = set()

    def script(peer: Peer) -> None:
        (then if peer in answered else answer)(peer)
        answered.add(peer)

    return script


def two_lengths(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")


def told_twice(first: bytes, second: bytes) -> Script:
    """Redirect to two places."""
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: %s\r\nLocation: %s\r\n\r\n"
    return lambda peer: peer.send(head % (first, second))


def with_surplus(framing: bytes) -> Script:
    """Send half of another response after the first one, and the rest at the next request."""
    data = b"HTTP/1.1 200 OK\r\n" + framing + b"HTTP/1.1 200 OK\r\nContent-"
    rest = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    return once(lambda peer: peer.send(data), lambda peer: peer.send(rest))
