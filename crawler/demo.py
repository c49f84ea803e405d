"""The bundled web on loopback: what ``crawler demo`` shows to newcomers and what the tests crawl.

One server answers for two hosts: ``127.0.0.1`` has the pages, ``localhost`` is the host of pictures.
``fixtures/README.md`` describes the site, its faults and the truth about it.
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
#: Written out, because what `mimetypes` says depends on the machine.
_TYPES = {**_TEXTS, **_PICTURES, ".jpg": "image/jpeg", ".svg": "image/svg+xml", ".ico": "image/x-icon"}


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one address misbehaves; ``fixtures/README.md`` tells what each field does."""

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
    #: When the last byte left; None while the answer is under way.
    ended: float | None = None
    #: ``Host`` header in lower case, and the request target as sent, with its query.
    host: str
    path: str
    #: Status of the answer; 0 where there is none (yet).
    status: int = 0
    #: Requests of this host that were under way when it started, itself included.
    in_flight: int
    #: Bytes of the body that was sent.
    sent: int = 0


def site_folder() -> Path:
    """Where the demo site lies: inside an installed package, or beside it in a clone; else raises `ConfigError`."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_site", package.parent / "fixtures" / "site"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"the demo site is missing in {package}; install the package again")


class DemoServer:
    """Serves a site on a port of its own choice until `stop`; a context manager.

    Args:
        site: folder with ``a/``, ``b/`` and, if wanted, ``faults.json``; None: the bundled site. Its files are listed
            when it starts, and only these are ever opened, so no request can leave the site.
        faults: address → fields of a `Fault`, on top of the site's own; ``{}`` heals an address.

    An address is a request target exactly as sent, with its query, on either host.
    """

    def __init__(self, site: Path | None = None, faults: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.site = site or site_folder()
        noted = self.site / "faults.json"
        own = msgspec.json.decode(noted.read_bytes(), type=dict[str, Fault]) if noted.is_file() else {}
        self._faults = own | msgspec.convert(faults or {}, dict[str, Fault])
        self._files: dict[str, dict[str, Path]] = {}
        #: Origins of the two hosts, and the page to begin with; known once it has started.
        self.a = self.b = self.url = ""
        self._port = 0
        self._hits: list[Hit] = []
        self._asked: Counter[str] = Counter()
        self._under_way: Counter[str] = Counter()
        self._changed = Condition()  # guards the three above
        self._held: dict[str, Event] = {}
        self._stopping = Event()

    @property
    def requests(self) -> list[Hit]:
        """Every request so far, in the order of their start."""
        with self._changed:
            return list(self._hits)

    def counts(self) -> dict[str, int]:
        """Host (with port) → number of requests so far."""
        return dict(Counter(hit.host for hit in self.requests))

    def wait_for(self, path: str, timeout: float = 10.0) -> Hit:
        """The first request for ``path``, once it is there; raises `TimeoutError` after ``timeout`` seconds."""
        with self._changed:
            hit = self._changed.wait_for(lambda: next((hit for hit in self._hits if hit.path == path), None), timeout)
        if hit is None:
            raise TimeoutError(f"no request for {path} within {timeout} s")
        return hit

    def hold(self, path: str) -> None:
        """Let requests for ``path`` wait, from now on and until `release` or `stop`."""
        self._held.setdefault(path, Event())

    def release(self, path: str) -> None:
        """Answer the requests for ``path``, those that wait and later ones."""
        self._held.pop(path, Event()).set()

    def fill(self, template: bytes) -> bytes:
        """``template`` with ``{{a}}`` and ``{{b}}`` as origins, ``{{host-a}}`` and ``{{host-b}}`` as host:port."""
        for name, url in (("a", self.a), ("b", self.b)):
            template = template.replace(b"{{%b}}" % name.encode(), url.encode())
            template = template.replace(b"{{host-%b}}" % name.encode(), url.removeprefix("http://").encode())
        return template

    def start(self) -> Self:
        """Listen; after a `stop`, on the same port as before."""
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
        """Close the port and every connection; what is held, delayed or stalled ends now."""
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
        """Note a request; returns its number and how it is to be spoilt, once it may go on."""
        with self._changed:
            number = len(self._hits)
            self._asked[path] += 1
            self._under_way[host] += 1
            self._hits.append(Hit(started=time.monotonic(), host=host, path=path, in_flight=self._under_way[host]))
            self._changed.notify_all()
            fault = self._faults.get(path, Fault())
            if fault.times is not None and self._asked[path] > fault.times:
                fault = Fault()
        if gate := self._held.get(path):
            gate.wait()
        self._stopping.wait(fault.delay)
        return number, fault

    def _end(self, number: int, status: int, sent: int = 0) -> None:
        """Note the end of a request; a second call changes nothing."""
        with self._changed:
            hit = self._hits[number]
            if hit.ended is None:
                self._under_way[hit.host] -= 1
                self._hits[number] = msgspec.structs.replace(hit, ended=time.monotonic(), status=status, sent=sent)

    def _reply(self, host: str, path: str, fault: Fault, asked: Message) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body. What is asked with validators that still hold is not sent (RFC 9110 §13)."""
        files = self._files["b" if host.partition(":")[0] == "localhost" else "a"]
        file = files.get(unquote(path.partition("?")[0]))
        status = fault.status or (302 if fault.redirect else 200 if file else 404)
        kind, body = "text/html", b"" if status in (204, 304) else b"<h1>%d</h1>\n" % status
        if file and status == 200:
            suffix, body = file.suffix.lower(), file.read_bytes()
            kind, body = _TYPES.get(suffix, "application/octet-stream"), self.fill(body) if suffix in _TEXTS else body
        validators = _validators(file, body) if file and status == 200 else {}
        if _holds(validators, asked):
            return 304, validators, b""
        headers = {"Content-Type": fault.type or kind, "Content-Length": str(len(body)), **validators}
        if fault.redirect:
            headers["Location"] = self.fill(fault.redirect.encode()).decode()
        return status, headers | fault.headers, body


def _validators(file: Path, body: bytes) -> dict[str, str]:
    changed = formatdate(file.stat().st_mtime, usegmt=True)
    return {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "Last-Modified": changed}


def _holds(validators: Mapping[str, str], asked: Message) -> bool:
    """Whether a client has this version; where it sends a tag, its date does not count (RFC 9110 §13.1.3)."""
    if not validators:
        return False
    tag = asked.get("If-None-Match")
    return validators["ETag"] == tag if tag else validators["Last-Modified"] == asked.get("If-Modified-Since")


def _addresses(folder: Path) -> dict[str, Path]:
    """Decoded URL path → file, for every file below ``folder``; their names are percent-encoded."""
    files = {f"/{unquote(f.relative_to(folder).as_posix())}": f for f in sorted(folder.rglob("*")) if f.is_file()}
    return files | {path.removesuffix("index.html"): f for path, f in files.items() if f.name == "index.html"}


class HangUpServer(ThreadingTCPServer):
    """Has a thread for each connection, and keeps account of them, so that it can hang up on idle ones."""

    allow_reuse_address = os.name != "nt"  # on Windows it would let a second server take the port
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
        """Close every connection, and wait until the last handler has seen it."""
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
        gone = isinstance(sys.exception(), ConnectionError)
        logger.log(logging.DEBUG if gone else logging.ERROR, "%s: no answer", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Sends one reply after the other on a connection, or spoils it as the fault says."""

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
            whole = head + body
            self.wfile.write(whole[:-1])
            # Noted before the last byte goes: a client that has it all must never be found under way.
            demo._end(number, status, len(body))
            self.wfile.write(whole[-1:])
        finally:
            demo._end(number, status)

    do_HEAD = do_GET  # noqa: N815  # the base class looks for this name

    def _stall(self, head: bytes, seconds: float) -> None:
        """Send nothing after ``head``, until the time is up or the client hangs up."""
        self.close_connection = True
        self.wfile.write(head)
        self.connection.settimeout(seconds)
        with suppress(TimeoutError):
            self.rfile.read(1)

    def _reset(self) -> None:
        """Close with a lingering time of 0, which sends RST; the option is of another format on Windows."""
        self.close_connection = True
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        socket.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # named so by the base class
        logger.debug(format, *args)
