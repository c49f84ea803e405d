"""A server on loopback for the bundled site, which ``crawler demo`` and the tests crawl.

One server answers for two hosts: ``127.0.0.1`` has the pages, ``localhost`` has the pictures. ``fixtures/README.md``
describes the site, its faults and the expected result of a crawl.
"""

import hashlib
import logging
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from email.message import Message
from email.utils import formatdate
from http.client import responses
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Condition, Event, Thread
from typing import Any, Self
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from crawler.errors import ConfigError

logger = logging.getLogger(__name__)

_TEXTS = {".html": "text/html", ".css": "text/css", ".txt": "text/plain", ".xml": "application/xml"}
_PICTURES = {f".{kind}": f"image/{kind}" for kind in ("jpeg", "png", "gif", "webp", "avif")}
#: A fixed table, because the result of `mimetypes` depends on the machine.
_TYPES = {**_TEXTS, **_PICTURES, ".jpg": "image/jpeg", ".svg": "image/svg+xml", ".ico": "image/x-icon"}


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one address misbehaves; ``fixtures/README.md`` describes each field."""

    status: int = 0
    times: int | None = None
    headers: dict[str, str] = {}
    type: str = ""
    redirect: str = ""
    delay: float = 0.0
    truncate: float = 1.0
    stall: float = 0.0
    reset: bool = False


class Hit(Struct, frozen=True, kw_only=True):
    """One request as the server saw it; times are `time.monotonic` seconds."""

    started: float
    #: When the last byte was sent; None during the response.
    ended: float | None = None
    #: ``Host`` header in lower case, and the request target as sent, with its query.
    host: str
    path: str
    #: Status of the response; 0 if there is none, or none yet.
    status: int = 0
    #: Requests to this host that were in progress when this one started, including this one.
    in_flight: int
    #: Bytes of the body that were sent.
    sent: int = 0


def site_folder() -> Path:
    """Return the folder of the demo site, in an installed package or beside it in a clone, or raise `ConfigError`."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_site", package.parent / "fixtures" / "site"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"the demo site is missing in {package}; install the package again")


class DemoServer:
    """Serves a site on a free port until `stop`; a context manager.

    Args:
        site: folder with ``a/``, ``b/`` and, optionally, ``faults.json``; None: the bundled site. The server lists the
            files when it starts and opens only these, so no request can leave the site.
        faults: address → fields of a `Fault`, in addition to those of the site; ``{}`` removes the fault of an address.

    An address is a request target exactly as sent, with its query, on any of the two hosts.
    """

    def __init__(self, site: Path | None = None, faults: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.site = site or site_folder()
        path = self.site / "faults.json"
        own = msgspec.json.decode(path.read_bytes(), type=dict[str, Fault]) if path.is_file() else {}
        self._faults = own | msgspec.convert(faults or {}, dict[str, Fault])
        self._files: dict[str, dict[str, Path]] = {}
        #: Origins of the two hosts, and the URL of the first page; set by `start`.
        self.a = self.b = self.url = ""
        self._port = 0
        self._hits: list[Hit] = []
        self._counts: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._changed = Condition()  # guards the three fields above
        self._held: dict[str, Event] = {}
        self._stopping = Event()

    @property
    def requests(self) -> list[Hit]:
        """All requests so far, in the order of their start."""
        with self._changed:
            return list(self._hits)

    def counts(self) -> dict[str, int]:
        """Return the number of requests so far, by host with port."""
        return dict(Counter(hit.host for hit in self.requests))

    def wait_for(self, path: str, timeout: float = 10.0) -> Hit:
        """Return the first request for ``path`` when there is one; raise `TimeoutError` after ``timeout`` seconds."""
        with self._changed:
            hit = self._changed.wait_for(lambda: next((hit for hit in self._hits if hit.path == path), None), timeout)
        if hit is None:
            raise TimeoutError(f"no request for {path} within {timeout} s")
        return hit

    def hold(self, path: str) -> None:
        """Hold back the responses to requests for ``path`` until `release` or `stop`."""
        self._held.setdefault(path, Event())

    def release(self, path: str) -> None:
        """Answer waiting and later requests for ``path``."""
        self._held.pop(path, Event()).set()

    def fill(self, template: bytes) -> bytes:
        """Replace ``{{a}}`` and ``{{b}}`` by the origins, and ``{{host-a}}`` and ``{{host-b}}`` by host:port."""
        for name, url in (("a", self.a), ("b", self.b)):
            template = template.replace(b"{{%b}}" % name.encode(), url.encode())
            template = template.replace(b"{{host-%b}}" % name.encode(), url.removeprefix("http://").encode())
        return template

    def start(self) -> Self:
        """Start to listen; after a `stop`, on the same port as before."""
        self._files = {host: _addresses(self.site / host) for host in ("a", "b")}
        self._stopping.clear()
        self._server = _Server(self, self._port)
        self._port = self._server.server_address[1]
        self.a, self.b = f"http://127.0.0.1:{self._port}", f"http://localhost:{self._port}"
        self.url = f"{self.a}/"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), name="demo-server", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the port and every connection; held, delayed and stalled responses end now."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._stopping.set()
        for path in list(self._held):
            self.release(path)
        self._server.hang_up()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _begin(self, host: str, path: str) -> tuple[int, Fault]:
        """Record a request, wait if it is held or delayed, and return its number and its fault."""
        with self._changed:
            number = len(self._hits)
            self._counts[path] += 1
            self._in_flight[host] += 1
            self._hits.append(Hit(started=time.monotonic(), host=host, path=path, in_flight=self._in_flight[host]))
            self._changed.notify_all()
            fault = self._faults.get(path, Fault())
            if fault.times is not None and self._counts[path] > fault.times:
                fault = Fault()
        if gate := self._held.get(path):
            gate.wait()
        self._stopping.wait(fault.delay)
        return number, fault

    def _end(self, number: int, status: int, sent: int = 0) -> None:
        """Record the end of a request; a second call changes nothing."""
        with self._changed:
            hit = self._hits[number]
            if hit.ended is None:
                self._in_flight[hit.host] -= 1
                self._hits[number] = msgspec.structs.replace(hit, ended=time.monotonic(), status=status, sent=sent)

    def _reply(self, host: str, path: str, fault: Fault, request: Message) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body; 304 if the validators of the request still match (RFC 9110 §13)."""
        files = self._files["b" if host.partition(":")[0] == "localhost" else "a"]
        file = files.get(unquote(path.partition("?")[0]))
        status = fault.status or (302 if fault.redirect else 200 if file else 404)
        kind, body = "text/html", b"" if status in (204, 304) else b"<h1>%d</h1>\n" % status
        if file and status == 200:
            suffix, body = file.suffix.lower(), file.read_bytes()
            kind, body = _TYPES.get(suffix, "application/octet-stream"), self.fill(body) if suffix in _TEXTS else body
        validators = _validators(file, body) if file and status == 200 else {}
        if _matches(validators, request):
            return 304, validators, b""
        headers = {"Content-Type": fault.type or kind, "Content-Length": str(len(body)), **validators}
        if fault.redirect:
            headers["Location"] = self.fill(fault.redirect.encode()).decode()
        return status, headers | fault.headers, body


def _validators(file: Path, body: bytes) -> dict[str, str]:
    changed = formatdate(file.stat().st_mtime, usegmt=True)
    return {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "Last-Modified": changed}


def _matches(validators: Mapping[str, str], request: Message) -> bool:
    """Whether the client has this version; if it sends a tag, its date does not count (RFC 9110 §13.1.3)."""
    if not validators:
        return False
    tag = request.get("If-None-Match")
    return validators["ETag"] == tag if tag else validators["Last-Modified"] == request.get("If-Modified-Since")


def _addresses(folder: Path) -> dict[str, Path]:
    """Return the files below ``folder`` by decoded URL path; the file names are percent-encoded."""
    files = {f"/{unquote(f.relative_to(folder).as_posix())}": f for f in sorted(folder.rglob("*")) if f.is_file()}
    return files | {path.removesuffix("index.html"): f for path, f in files.items() if f.name == "index.html"}


class HangUpServer(ThreadingTCPServer):
    """A TCP server with a thread for each connection; it can close all of them, also idle ones."""

    allow_reuse_address = os.name != "nt"  # on Windows it would allow a second server on the port
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, handler: type[BaseRequestHandler]) -> None:
        self._connections: set[Any] = set()
        self._changed = Condition()
        super().__init__(("127.0.0.1", port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def hang_up(self) -> None:
        """Close every connection, and wait until the handlers have ended."""
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, timeout=5)


class _Server(HangUpServer):
    def __init__(self, demo: DemoServer, port: int) -> None:
        self.demo = demo
        super().__init__(port, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        is_closed = isinstance(sys.exception(), ConnectionError)
        logger.log(logging.DEBUG if is_closed else logging.ERROR, "%s: no response", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Sends the responses of a connection, with the faults of their addresses."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        demo, host, status = self.server.demo, self.headers.get("Host", "").lower(), 0
        number, fault = demo._begin(host, self.path)
        try:
            if fault.reset:
                self._reset()
                return
            status, headers, body = demo._reply(host, self.path, fault, self.headers)
            fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"HTTP/1.1 {status} {responses.get(status, 'Unheard Of')}\r\n{fields}\r\n".encode("latin-1")
            body = b"" if self.command == "HEAD" else body[: int(len(body) * fault.truncate)]
            self.close_connection |= fault.truncate < 1
            if fault.stall:
                self._stall(head, fault.stall)
                return
            response = head + body
            self.wfile.write(response[:-1])
            # Recorded before the last byte: a client with the whole response must not count as in progress.
            demo._end(number, status, len(body))
            self.wfile.write(response[-1:])
        finally:
            demo._end(number, status)

    do_HEAD = do_GET  # noqa: N815  # the base class looks for this name

    def _stall(self, head: bytes, seconds: float) -> None:
        """Send ``head``, then nothing until the time is up or the client closes the connection."""
        self.close_connection = True
        self.wfile.write(head)
        self.connection.settimeout(seconds)
        with suppress(TimeoutError):
            self.rfile.read(1)

    def _reset(self) -> None:
        """Close with a linger time of 0, which sends RST. The option has another format on Windows."""
        self.close_connection = True
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        socket.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # named so by the base class
        logger.debug(format, *args)
