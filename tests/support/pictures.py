"""A small, fast host of any number of pictures, each made from the number in its path, with a log of requests."""

import select
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from socketserver import StreamRequestHandler
from threading import Condition, Thread
from types import TracebackType
from typing import NamedTuple, Self

from crawler.demo.server import HangUpServer

#: Pixels of a side; noise, so that the number of bytes is that of the colours.
_SIDE = 24


def picture(number: int) -> bytes:
    """Return a PNG of about 1.8 kB; all numbers give different bytes."""
    noise = Random(number).randbytes(3 * _SIDE * _SIDE)  # noqa: S311  # pictures, not secrets
    rows = b"".join(b"\0" + noise[at : at + 3 * _SIDE] for at in range(0, len(noise), 3 * _SIDE))
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


class Visit(NamedTuple):
    """One request as the host saw it; times are `time.monotonic` seconds."""

    path: str
    started: float
    #: When the last byte left, or the client disconnected.
    ended: float
    #: Status of the response; 0 if the client disconnected before it.
    status: int


class Answer(NamedTuple):
    """A response that replaces the picture."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class PictureHost:
    """Serves ``/1.png``, ``/2.png``, … on a free port; a context manager.

    Args:
        delay: seconds before each response; a client that disconnects in this time is detected at once.
        answer: path → the response that replaces the picture; None: the picture.
    """

    def __init__(self, delay: float = 0.0, answer: Callable[[str], Answer | None] | None = None) -> None:
        self._delay, self._answer = delay, answer or _no_robots
        self._log: list[Visit] = []
        self._asked: Counter[str] = Counter()
        self._changed = Condition()  # guards the two above
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()

    def list_of(self, number: int, folder: Path) -> Path:
        """Write a file with the URLs of the first ``number`` pictures."""
        path = folder / "pictures.txt"
        path.write_text("".join(f"{self.url}/{n}.png\n" for n in range(number)))
        return path

    @property
    def visits(self) -> list[Visit]:
        """Return all finished requests, in the order of their start."""
        with self._changed:
            return sorted(self._log, key=lambda visit: visit.started)

    @property
    def asked(self) -> Counter[str]:
        """Return picture → number of requests."""
        with self._changed:
            return Counter(self._asked)

    def wait_for(self, is_so: Callable[[Counter[str]], bool], timeout: float = 60.0) -> bool:
        """Wait until a condition on the requests holds; return False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: is_so(self._asked), timeout)

    def visit(self, path: str, connection: socket.socket) -> bool:
        """Answer one request; return False if the client has disconnected."""
        started, status = time.monotonic(), 0
        answer = self._answer(path)
        with self._changed:
            if answer is None:
                self._asked[path] += 1
                self._changed.notify_all()
        try:
            if select.select([connection], [], [], self._delay)[0]:
                return False  # no client pipelines, so readable data is the end of the connection
            answer = answer or Answer(200, {"Content-Type": "image/png"}, picture(int(path[1:].partition(".")[0])))
            fields = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
            head = f"HTTP/1.1 {answer.status} So\r\n{fields}Content-Length: {len(answer.body)}\r\n\r\n"
            status = answer.status
        finally:  # logged before the response is sent: a client that has received it must never be found in progress
            with self._changed:
                self._log.append(Visit(path, started, time.monotonic(), status))
        connection.sendall(head.encode() + answer.body)
        return True


def most_at_once(visits: list[Visit]) -> int:
    """Return the maximum number of requests in progress at one time."""
    # A request that ended at the instant at which another began was not parallel to it: an end sorts before a start.
    moments = sorted([(visit.started, 1) for visit in visits] + [(visit.ended, -1) for visit in visits])
    most = now = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


def gaps(visits: list[Visit]) -> list[float]:
    """Return the seconds between the starts of each request and the next."""
    return [later.started - earlier.started for earlier, later in pairwise(visits)]


def _no_robots(path: str) -> Answer | None:
    return Answer(404, {}) if path == "/robots.txt" else None


class _Server(HangUpServer):
    def __init__(self, host: PictureHost) -> None:
        self.host = host
        super().__init__(0, _Handler)


class _Handler(StreamRequestHandler):
    """The requests on a connection, one after the other."""

    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with suppress(OSError):  # a client that has disconnected needs no response
            while line := self.rfile.readline():
                while self.rfile.readline() not in (b"\r\n", b""):
                    pass
                if not self.server.host.visit(line.split()[1].decode("latin-1"), self.connection):
                    return
