"""A simulated network in this process: known names, and public addresses that lead to servers on loopback.

Nothing leaves the machine: an address without a route is refused like a closed port. A `Canary` stands for the
addresses that must not be reached.
"""

import errno
import ipaddress
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

#: A public address, which is never really contacted.
PUBLIC = "93.184.216.34"
#: Every address of this machine at which a canary may listen; 127.0.0.2 exists on Linux only.
HERE = ("127.0.0.1", "127.0.0.2", "::1")

_GETADDRINFO, _CONNECT = socket.getaddrinfo, socket.socket.connect


class Network:
    """Answers the lookups and makes the connections of all sockets of this process, once it is installed.

    Args:
        names: name → the results of successive lookups, the last one for ever: addresses, or an error.
        routes: public address → host and port on loopback.
    """

    def __init__(
        self, names: dict[str, list[Sequence[str] | OSError]], routes: dict[str, tuple[str, int] | OSError]
    ) -> None:
        self._names, self._routes = names, routes
        #: Number of lookups of each name.
        self.questions: Counter[str] = Counter()
        #: Destination of each connection, and its timeout in seconds.
        self.journeys: list[tuple[str, int, float | None]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Install it until the end of the test."""
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)
        # A method of the class, so that it receives each socket.
        monkeypatch.setattr(socket.socket, "connect", lambda sock, place: self.connect(sock, place))

    def look_up(self, host: str, port: int, family: int = 0, kind: int = 0, *rest: int, **more: int) -> Any:
        """Return the result of `socket.getaddrinfo`."""
        answers = self._names.get(host, [("::1", "127.0.0.1")] if host.rstrip(".") == "localhost" else None)
        if answers is None:
            return self._literally(host, port, family, kind)
        answer = answers[min(self.questions[host], len(answers) - 1)]
        self.questions[host] += 1
        if isinstance(answer, OSError):
            raise answer
        return [place for address in answer for place in self._literally(address, port, family, kind)]

    def connect(self, sock: socket.socket, place: Any) -> None:
        """Replace the `connect` of a socket."""
        if sock.family == getattr(socket, "AF_UNIX", None):
            return _CONNECT(sock, place)
        host, port = place[:2]
        self.journeys.append((host, port, sock.gettimeout()))
        route = self._routes.get(host)
        if isinstance(route, OSError):
            raise route
        if route is not None:
            return _CONNECT(sock, route)
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody is at {host}")
        return _CONNECT(sock, place)

    @staticmethod
    def _literally(host: str, port: int, family: int, kind: int) -> Any:
        bare, _, zone = host.partition("%")
        try:
            version = ipaddress.ip_address(bare).version
        except ValueError:  # short and octal forms, which the system knows; names are refused
            return _GETADDRINFO(host, port, family, kind)
        if version == 4:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, port, 0, 1 if zone else 0))]


class Canary:
    """A listener on one port at every address of this machine, which counts connections and their data."""

    def __init__(self) -> None:
        self.connections = self.bytes = 0
        self.port = 0
        self._listeners: list[socket.socket] = []
        self._over = threading.Event()

    def __enter__(self) -> "Canary":
        for address in HERE:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with suppress(OSError):  # not every machine has all of them
                self._listeners.append(socket.create_server((address, self.port), family=family))
                self.port = self._listeners[-1].getsockname()[1]
        for listener in self._listeners:
            listener.settimeout(0.1)
            threading.Thread(target=self._watch, args=(listener,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        for listener in self._listeners:
            listener.close()

    def _watch(self, listener: socket.socket) -> None:
        while not self._over.is_set():
            with suppress(OSError):
                guest, _ = listener.accept()
                self.connections += 1
                with guest:
                    guest.settimeout(1)
                    self.bytes += len(guest.recv(65_536))


#: Host and path of a request → status, headers, body.
Site = Callable[[str, str], tuple[int, dict[str, str], bytes]]


@contextmanager
def web(site: Site) -> Iterator[tuple[str, int]]:
    """Serve a site on loopback, with a new connection for each request; yield host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = site(self.headers.get("Host", ""), self.path)
            fields = {"Content-Length": str(len(body)), "Connection": "close"} | headers
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            self.wfile.write(f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # named so by the base class
            pass

    with ExitStack() as stack:
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield server.server_address[0], server.server_port  # type: ignore[misc]  # a name and a number, over IPv4
