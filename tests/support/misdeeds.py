"""Behaviours of a server, correct or not: in raw bytes, so that any violation can be sent."""

import gzip
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from random import Random

from tests.download.pictures import png_chunk
from tests.support.pictures import picture


class Visit:
    """One request, and the means to answer it correctly or not."""

    def __init__(
        self,
        connection: socket.socket,
        path: str,
        headers: dict[str, str],
        name: str,
        ports: dict[str, int],
        over: threading.Event,
    ) -> None:
        self.connection, self.path, self.headers = connection, path, headers
        #: Ports of all hosts of this web.
        self.ports = ports
        #: Name of the picture to send.
        self.name = name
        self._over = over
        #: Number of requests for this path so far, this one included.
        self.number = 1
        self.keeps_open = True

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def answer(self, body: bytes = b"", status: str = "200 OK", *fields: str) -> None:
        """Send a complete response with its length."""
        self.head(status, f"Content-Length: {len(body)}", *fields)
        self.send(body)

    def head(self, status: str, *fields: str) -> None:
        lines = [f"HTTP/1.1 {status}", *fields, "", ""]
        self.send("\r\n".join(lines).encode("latin-1"))

    def stop(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.keeps_open = False

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())  # at once, even if another thread reads from it
        self.keeps_open = False

    def repeat(self, data: bytes, pause: float = 0.0) -> None:
        """Send the same data until the client disconnects."""
        while not self._over.wait(pause):
            self.send(data)

    def wait(self, seconds: float = 30.0) -> None:
        """Send nothing for a while, or until the test ends."""
        self._over.wait(seconds)


Behaviour = Callable[[Visit], None]


# pictures -------------------------------------------------------------------------------------------------------------


def body_of(name: str) -> bytes:
    """Return the picture of an endpoint or a host; all pictures differ."""
    number = zlib.crc32(name.encode())
    if name.startswith("/big/"):
        noise = png_chunk(b"noIs", Random(number).randbytes(900_000))  # noqa: S311  # pictures, not secrets
        small = picture(number)
        return small[:33] + noise + small[33:]
    return picture(number)


def fine(visit: Visit, *fields: str) -> None:
    visit.answer(body_of(visit.name), "200 OK", *fields)


# behaviours -----------------------------------------------------------------------------------------------------------


def status(code: int) -> Behaviour:
    return lambda visit: visit.answer(b"no", f"{code} So", "Content-Type: image/png")


def saying(*fields: str) -> Behaviour:
    """Send the picture with these headers."""
    return lambda visit: fine(visit, *fields)


def body(data: bytes, *fields: str) -> Behaviour:
    return lambda visit: visit.answer(data, "200 OK", "Content-Type: image/png", *fields)


def to(location: str) -> Behaviour:
    return lambda visit: visit.answer(b"", "302 Found", f"Location: {location}")


def to_host(name: str, path: str) -> Behaviour:
    """Redirect to another host, with a cookie that is not for it and a password that it must not see."""

    def play(visit: Visit) -> None:
        location = f"http://user:secret@127.0.0.1:{visit.ports[name]}{path}"
        visit.answer(b"", "307 So", f"Location: {location}", "Set-Cookie: secret=1; Path=/; Domain=127.0.0.1")

    return play


def raw(data: bytes, *, ending: bool = True) -> Behaviour:
    def play(visit: Visit) -> None:
        visit.send(data)
        if ending:
            visit.stop()

    return play


def at_first(bad: Behaviour, times: int = 1, *, then: Behaviour = fine) -> Behaviour:
    """Behave badly a few times, and then well."""
    return lambda visit: (bad if visit.number <= times else then)(visit)


def endlessly(head: bytes, data: bytes, pause: float = 0.0) -> Behaviour:
    def play(visit: Visit) -> None:
        visit.send(head)
        visit.repeat(data, pause)

    return play


def silent(visit: Visit) -> None:
    visit.wait()
    visit.stop()


def silent_body(visit: Visit) -> None:
    visit.head("200 OK", "Content-Length: 1000")
    visit.wait()
    visit.stop()


def hang_up(visit: Visit) -> None:
    visit.stop()


def cut(visit: Visit) -> None:
    """Send half of the announced length."""
    data = body_of(visit.name)
    visit.head("200 OK", f"Content-Length: {len(data)}")
    visit.send(data[: len(data) // 2])
    visit.stop()


def reset_amid(visit: Visit) -> None:
    visit.head("200 OK", "Content-Length: 1000")
    visit.send(bytes(100))
    visit.reset()


def chunked(visit: Visit) -> None:
    data = body_of(visit.name)
    visit.head("200 OK", "Transfer-Encoding: chunked")
    for at in range(0, len(data), 500):
        piece = data[at : at + 500]
        visit.send(b"%x;a=b\r\n%s\r\n" % (len(piece), piece))
    visit.send(b"0\r\nX-Trailer: 1\r\n\r\n")


def until_close(visit: Visit) -> None:
    visit.send(b"HTTP/1.0 200 OK\r\n\r\n" + body_of(visit.name))
    visit.stop()


def closing_after(visit: Visit) -> None:
    """Announce a persistent connection, and close it."""
    fine(visit, "Connection: keep-alive")
    visit.stop()


def two_framings(visit: Visit) -> None:
    data = body_of(visit.name)
    visit.head("200 OK", "Content-Length: 5", "Transfer-Encoding: chunked")
    visit.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))


def interim(visit: Visit) -> None:
    visit.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    fine(visit)


def packed(visit: Visit) -> None:
    visit.answer(gzip.compress(body_of(visit.name)), "200 OK", "Content-Encoding: x-gzip")


def packed_and_junk(visit: Visit) -> None:
    visit.answer(gzip.compress(body_of(visit.name)) + b"junk", "200 OK", "Content-Encoding: gzip")


def packed_and_cut(visit: Visit) -> None:
    visit.answer(gzip.compress(body_of(visit.name))[:-20], "200 OK", "Content-Encoding: gzip")


def packed_with_a_wrong_sum(visit: Visit) -> None:
    visit.answer(gzip.compress(body_of(visit.name))[:-8] + bytes(8), "200 OK", "Content-Encoding: gzip")


def byte_by_byte(visit: Visit) -> None:
    """Send each byte as a chunk, and name the coding twice."""
    visit.head("200 OK", "Transfer-Encoding: chunked", "transfer-encoding: CHUNKED")
    visit.send(b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body_of(visit.name)) + b"0\r\n\r\n")


def listed_length(visit: Visit) -> None:
    data = body_of(visit.name)
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d, %d\r\n\r\n" % (len(data), len(data)) + data)


def slow_but_steady(visit: Visit) -> None:
    data = body_of(visit.name)
    visit.head("200 OK", f"Content-Length: {len(data)}")
    for at in range(0, len(data), 400):
        visit.wait(0.1)
        visit.send(data[at : at + 400])


def cookie_wall(visit: Visit) -> None:
    """Send the picture only if the client returns the cookie."""
    if "wall=1" in visit.headers.get("cookie", ""):
        fine(visit)
    else:
        visit.answer(b"", "302 Found", "Set-Cookie: wall=1; Path=/", f"Location: {visit.path}")


def growing_cookies(visit: Visit) -> None:
    """Set another cookie with each redirect, as long as a cookie may be."""
    visit.answer(b"", "302 Found", f"Set-Cookie: n{visit.number}={'9' * 4_000}", f"Location: {visit.path}?")


def hot_linked(visit: Visit) -> None:
    """Send the picture only if the referrer is a page of this site."""
    host = visit.headers["host"]
    if visit.headers.get("referer") == f"http://{host}/index.html":
        fine(visit)
    else:
        visit.answer(b"", "403 Forbidden")


LONG_AGO, NOW = "Last-Modified: Mon, 02 Jan 2023 03:04:05 GMT", "Date: Tue, 03 Jan 2023 03:04:05 GMT"


def ranged(answer_rest: Callable[[Visit, bytes, int], None], *fields: str) -> Behaviour:
    """Break off in the middle once, and then answer to ``Range`` with the given behaviour; otherwise send the whole."""
    fields = fields or ('ETag: "v1"',)

    def play(visit: Visit) -> None:
        data = body_of(visit.name)
        asked = visit.headers.get("range", "")
        if visit.number == 1:
            visit.head("200 OK", f"Content-Length: {len(data)}", "Accept-Ranges: bytes", *fields)
            visit.send(data[: len(data) // 2])
            visit.stop()
        elif asked:
            answer_rest(visit, data, int(asked.removeprefix("bytes=").rstrip("-")))
        else:
            fine(visit)

    return play


def rest(visit: Visit, data: bytes, start: int) -> None:
    part(visit, data[start:], f"bytes {start}-{len(data) - 1}/{len(data)}")


def rest_by_date(visit: Visit, data: bytes, start: int) -> None:
    part(visit, data[start:], f"bytes {start}-{len(data) - 1}/{len(data)}", LONG_AGO)


def part(visit: Visit, data: bytes, where: str, *fields: str) -> None:
    visit.answer(data, "206 Partial Content", f"Content-Range: {where}", *(fields or ('ETag: "v1"',)))


def part_from_the_beginning(visit: Visit, data: bytes, start: int) -> None:
    part(visit, data, f"bytes 0-{len(data) - 1}/{len(data)}")


def part_shifted(visit: Visit, data: bytes, start: int) -> None:
    part(visit, data[start + 1 :], f"bytes {start + 1}-{len(data) - 1}/{len(data)}")


def part_of_another_version(visit: Visit, data: bytes, start: int) -> None:
    part(visit, data[:start], f"bytes {start}-{len(data) - 1}/{len(data)}", 'ETag: "v2"')


def part_too_short(visit: Visit, data: bytes, start: int) -> None:
    part(visit, data[start:-1], f"bytes {start}-{len(data) - 1}/{len(data)}")


def part_packed(visit: Visit, data: bytes, start: int) -> None:
    where = f"bytes {start}-{len(data) - 1}/{len(data)}"
    part(visit, data[start:], where, 'ETag: "v1"', "Content-Encoding: gzip")


def the_whole_again(visit: Visit, data: bytes, start: int) -> None:
    visit.answer(data, "200 OK", 'ETag: "v2"')


def no_such_range(visit: Visit, data: bytes, start: int) -> None:
    visit.answer(b"", "416 Range Not Satisfiable", f"Content-Range: bytes */{len(data)}")


def packed_nothing(visit: Visit) -> None:
    """Send endless compressed data that decompress to nothing."""
    visit.head("200 OK", "Content-Encoding: gzip")
    visit.repeat(gzip.compress(b"") * 3_000)
