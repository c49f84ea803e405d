"""A hostile web on loopback: possible misbehaviour of servers, each with the state in which it must end.

`ENDPOINTS` is the table. Each endpoint is a picture of one page, and its behaviour one of `tests.support.misdeeds`;
some hosts are hostile as a whole (`HOSTS`).
"""

import gzip
import socketserver
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple, Protocol

from tests.download.pictures import picture as drawn
from tests.download.pictures import png_chunk, png_header, png_of
from tests.support.misdeeds import (
    LONG_AGO,
    NOW,
    Behaviour,
    Visit,
    at_first,
    body,
    body_of,
    byte_by_byte,
    chunked,
    closing_after,
    cookie_wall,
    cut,
    endlessly,
    fine,
    growing_cookies,
    hang_up,
    hot_linked,
    interim,
    listed_length,
    no_such_range,
    packed,
    packed_and_cut,
    packed_and_junk,
    packed_nothing,
    packed_with_a_wrong_sum,
    part_from_the_beginning,
    part_of_another_version,
    part_packed,
    part_shifted,
    part_too_short,
    ranged,
    raw,
    reset_amid,
    rest,
    rest_by_date,
    saying,
    silent,
    silent_body,
    slow_but_steady,
    status,
    the_whole_again,
    to,
    to_host,
    two_framings,
    until_close,
)
from tests.support.pictures import picture

_TWO_LENGTHS = b"Content-Length: 5\r\nContent-Length: 9\r\n\r\nabcdefghi"


class Endpoint(NamedTuple):
    """A path, its behaviour, and the expected result."""

    path: str
    play: Behaviour
    #: Empty: it must be saved, with the bytes of `body_of`.
    reason: str = ""
    #: The exact number of requests; or the minimum, with ``most`` as the maximum, if it depends on reused connections.
    requests: int = 1
    most: int = 0
    #: Maximum duration of the last attempt, seconds.
    seconds: float = 6.0

    def with_libcurl(self) -> "Endpoint":
        """Return what to expect of a downloader process, which uses libcurl."""
        if self.path in UNREADABLE:
            return self._replace(requests=2, most=(self.most or self.requests) + 1)
        reason, requests = DIFFERENT.get(self.path, (self.reason, self.requests))
        return self._replace(reason=reason, requests=requests)


#: Responses whose head is not read with libcurl: they are requested once more, with requests.
UNREADABLE = frozenset(
    {
        "/odd-headers.png",
        "/header-in-a-header.png",
        "/nul-header.png",
        "/odd-cookies.png",
        "/no-http.png",
        "/http-3.png",
        "/shoutcast.png",
        "/no-status.png",
        "/status-99.png",
        "/two-lengths.png",
    }
)
#: Reason and number of requests that differ with libcurl: it refuses such a chunk size, and does not count extensions,
#: of which so many come here that the first bytes of the body are read soon.
DIFFERENT = {"/huge-chunk.png": ("truncated", 5), "/endless-extensions.png": ("not-an-image", 1)}


#: Data that begins like a picture, so that it is read on.
_BEGINNING = png_of(png_header(8, 8))[:33]


def _bomb() -> bytes:
    return gzip.compress(_BEGINNING + bytes(30_000_000), 9)


_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_LENGTH = _OK + b"Content-Length: 1000\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PACKED = "Content-Encoding: gzip"
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
_CANVAS = png_of(png_header(30_000, 30_000), png_chunk(b"IDAT", zlib.compress(bytes(9))))
_WIDE_GIF = b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;"
_WRONG_SUM = picture(0)[:-16] + bytes(4) + picture(0)[-12:]
_CORRUPT = png_of(png_header(40, 40), png_chunk(b"IDAT", b"no deflate"))

ENDPOINTS = (
    # must be saved, in spite of its oddities
    Endpoint("/ok.png", fine),
    Endpoint("/chunked.png", chunked),
    Endpoint("/until-close.png", until_close),
    Endpoint("/closing-after.png", closing_after),
    Endpoint("/two-framings.png", two_framings),
    Endpoint("/interim.png", interim),
    Endpoint("/packed.png", packed),
    Endpoint("/packed-and-junk.png", packed_and_junk),
    Endpoint("/byte-by-byte.png", byte_by_byte),
    Endpoint("/listed-length.png", listed_length),
    Endpoint("/no-coding.png", saying("Content-Encoding: none, utf-8")),
    Endpoint("/same-lengths.png", lambda visit: fine(visit, f"Content-Length: {len(body_of(visit.name))}")),
    Endpoint("/no-type-no-extension", fine),
    Endpoint("/octets.png", saying("Content-Type: application/octet-stream")),
    Endpoint("/called-html.png", saying("Content-Type: text/html")),
    Endpoint("/disposition.png", saying('Content-Disposition: attachment; filename="../../../etc/passwd"')),
    Endpoint("/odd-headers.png", saying("No colon here", "Space before : x", "X: a\r\n folded", "X: \xff\xfe")),
    Endpoint("/nameless-headers.png", saying(": nameless", "X:", "   ")),
    Endpoint("/header-in-a-header.png", saying("X: a\rSet-Cookie: secret=1", "Content-Range: bytes 0-5/6")),
    Endpoint("/other-coding.png", saying("Content-Encoding: aws-chunked")),
    Endpoint("/called-text.png", saying("Content-Type: text/plain, ;;;")),
    Endpoint("/nul-header.png", saying("X-Nul: a\0b", "X-Escape: \x1b[2J")),
    Endpoint("/ninety-headers.png", saying(*(f"X-{n}: y" for n in range(90)))),
    Endpoint("/for-another-bot.png", saying("X-Robots-Tag: otherbot: noindex, noimageindex")),
    Endpoint("/odd-wishes.png", saying("X-Robots-Tag: :,;:=\xff,,", "TDM-Reservation: perhaps", "Retry-After: never")),
    Endpoint("/odd-cookies.png", saying("Set-Cookie: =;;;=,", "Set-Cookie: a\0b=c", "Set-Cookie: " + "x" * 9_000)),
    Endpoint("/slow-but-steady.png", slow_but_steady),
    Endpoint("/hot-linked.png", hot_linked),
    Endpoint("/cookie-wall.png", cookie_wall, requests=2),
    Endpoint("/redirect.png", at_first(to("redirect.png?again")), requests=2),
    Endpoint("/to-another-host.png", to_host("no-robots", "/moved.png")),
    Endpoint("/cut-once.png", at_first(cut), requests=2),
    Endpoint("/reset-once.png", at_first(reset_amid), requests=2),
    Endpoint("/500-twice.png", at_first(status(500), 2), requests=3),
    # large interrupted ones: resumed, or fetched again
    Endpoint("/big/resumed.png", ranged(rest), requests=2),
    Endpoint("/big/resumed-by-date.png", ranged(rest_by_date, LONG_AGO, NOW), requests=2),
    Endpoint("/big/weak-tag.png", ranged(rest, 'ETag: W/"v1"'), requests=2),
    Endpoint("/big/no-validator.png", ranged(rest, "X: y"), requests=2),
    Endpoint("/big/the-whole-again.png", ranged(the_whole_again), requests=3),
    Endpoint("/big/no-such-range.png", ranged(no_such_range), requests=3),
    Endpoint("/big/from-the-beginning.png", ranged(part_from_the_beginning), requests=3),
    Endpoint("/big/shifted.png", ranged(part_shifted), requests=3),
    Endpoint("/big/another-version.png", ranged(part_of_another_version), requests=3),
    Endpoint("/big/too-short.png", ranged(part_too_short), requests=3),
    Endpoint("/big/packed.png", ranged(part_packed), requests=3),
    # statuses
    *(Endpoint(f"/{code}.png", status(code), f"http-{code}") for code in (206, 300, 304, 401, 403, 404, 410, 999)),
    *(Endpoint(f"/{code}.png", status(code), f"http-{code}", 5) for code in (408, 500, 502)),
    *(Endpoint(f"/{code}.png", status(code), f"http-{code}") for code in (402, 418, 451, 501, 600)),
    Endpoint("/302-nowhere.png", to(""), "http-302"),
    # redirects
    Endpoint("/loop.png", to("/loop.png"), "redirect-limit", 21),
    Endpoint("/cookie-loop.png", growing_cookies, "redirect-limit", 21),
    Endpoint("/to-script.png", to("javascript:alert(1)"), "unsupported-scheme"),
    Endpoint("/to-data.png", to("data:image/png;base64,AAAA"), "unsupported-scheme"),
    Endpoint("/to-gopher.png", to("gopher://127.0.0.1:70/_x"), "unsupported-scheme"),
    Endpoint("/to-no-number.png", to("http://127.0.0.1:abc/"), "bad-url"),
    Endpoint("/to-itself.png", to("#again"), "redirect-limit", 21),
    Endpoint("/to-file.png", to("file:///etc/passwd"), "unsupported-scheme"),
    Endpoint("/to-no-port.png", to("http://127.0.0.1:99999/"), "bad-url"),
    Endpoint("/to-endless.png", to("/" + "x" * 9_000), "bad-url"),
    Endpoint("/to-forbidden.png", to("/private/1.png"), "robots"),
    Endpoint("/to-forbidden-host.png", to_host("robots-elsewhere", "/moved.png"), "robots"),
    Endpoint("/to-silent-host.png", to_host("robots-silent", "/moved.png"), "robots-unreachable"),
    Endpoint("/to-page.png", to("/index.html"), "not-an-image"),
    # no response, or one that is not HTTP
    Endpoint("/hang-up.png", hang_up, "connect", 5, most=10),
    Endpoint("/no-http.png", raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), "connect", most=2),
    Endpoint("/no-status.png", raw(b"HTTP/1.1 abc OK\r\n\r\n"), "connect", most=2),
    Endpoint("/switching.png", raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), "connect", 5, most=10),
    Endpoint("/http-3.png", raw(b"HTTP/3.0 200 OK\r\n\r\n"), "connect", most=2),
    Endpoint("/shoutcast.png", raw(b"ICY 200 OK\r\n\r\n"), "connect", most=2),
    Endpoint("/status-99.png", raw(b"HTTP/1.1 99 So\r\n\r\n"), "connect", most=2),
    Endpoint("/two-lengths.png", raw(_OK + _TWO_LENGTHS), "connect", most=2),
    # truncated bodies and headers
    Endpoint("/cut.png", cut, "truncated", 5),
    Endpoint("/reset.png", reset_amid, "truncated", 5),
    Endpoint("/cut-headers.png", raw(_OK + b"Content-Type: ima"), "truncated", 5),
    Endpoint("/cut-chunk.png", raw(_CHUNKED + b"64\r\nshort"), "truncated", 5),
    Endpoint("/negative-chunk.png", raw(_CHUNKED + b"-5\r\nshort\r\n"), "truncated", 5),
    Endpoint("/length-of-400-digits.png", raw(_OK + b"Content-Length: " + b"9" * 400 + b"\r\n\r\nx"), "truncated", 5),
    Endpoint("/packed-and-cut.png", packed_and_cut, "truncated"),
    Endpoint("/no-last-chunk.png", raw(_CHUNKED + b"5\r\nshort\r\n"), "truncated", 5),
    Endpoint("/no-chunk.png", raw(_CHUNKED + b"xyz\r\nshort\r\n"), "truncated", 5),
    # time
    Endpoint("/silent.png", silent, "timeout", 2),
    Endpoint("/silent-body.png", silent_body, "timeout", 2),
    Endpoint("/dripping-headers.png", endlessly(_OK + b"X: ", b"x", 0.05), "timeout", 2),
    Endpoint("/endless-continue.png", endlessly(b"", _CONTINUE, 0.05), "timeout", 2),
    Endpoint("/dripping.png", endlessly(_LENGTH, b"x", 0.05), "too-slow", 2),
    # size
    Endpoint("/announced.png", raw(_OK + b"Content-Length: 100000000000\r\n\r\n" + bytes(9_999)), "too-large"),
    Endpoint("/endless.png", endlessly(_OK + b"\r\n" + _BEGINNING, bytes(65_536)), "too-large"),
    Endpoint("/huge-chunk.png", endlessly(_CHUNKED + b"ffffffffffffffff\r\n" + _BEGINNING, bytes(65_536)), "too-large"),
    Endpoint("/many-headers.png", saying(*(f"X-{n}: y" for n in range(120))), "too-large"),
    Endpoint("/long-header.png", saying("X: " + "y" * 70_000), "too-large"),
    Endpoint("/endless-headers.png", endlessly(_OK, b"X: y\r\n" * 99), "too-large"),
    Endpoint("/endless-interim.png", endlessly(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 99), "too-large"),
    Endpoint("/endless-trailers.png", endlessly(_CHUNKED + b"0\r\n", b"X: y\r\n" * 999), "too-large"),
    Endpoint("/endless-extensions.png", endlessly(_CHUNKED, b"1;" + b"x" * 9_000 + b"\r\nx\r\n"), "too-large"),
    # compression
    Endpoint("/bomb.png", body(_bomb(), _PACKED), "decompression-limit"),
    Endpoint("/twice.png", body(gzip.compress(_bomb()), "Content-Encoding: gzip, gzip"), "unsupported-format"),
    Endpoint("/twice-in-two.png", body(b"x", _PACKED, "Content-Encoding: deflate"), "unsupported-format"),
    Endpoint("/packed-with-a-wrong-sum.png", packed_with_a_wrong_sum, "corrupt"),
    Endpoint("/hundredfold.png", body(b"x", "Content-Encoding: " + "gzip, " * 99 + "gzip"), "unsupported-format"),
    Endpoint("/brotli.png", body(b"x", "Content-Encoding: br"), "unsupported-format"),
    Endpoint("/zstd.png", body(b"x", "Content-Encoding: zstd"), "unsupported-format"),
    Endpoint("/not-packed.png", body(picture(0), _PACKED), "corrupt"),
    Endpoint("/packed-nothing.png", packed_nothing, "too-large"),
    # other content, or unwanted pictures
    Endpoint("/page.png", body(b"<!doctype html><title>Sorry</title>"), "not-an-image"),
    Endpoint("/document.png", body(b"%PDF-1.7\n"), "not-an-image"),
    Endpoint("/gif-canvas.png", body(_WIDE_GIF), "pixels-limit"),
    Endpoint("/wrong-sum.png", body(_WRONG_SUM), "corrupt"),
    Endpoint("/json.png", body(b'{"error": "no"}'), "not-an-image"),
    Endpoint("/204.png", status(204), "not-an-image"),
    Endpoint("/empty.png", body(b""), "not-an-image"),
    Endpoint("/drawing.svg", body(_SVG), "unsupported-format"),
    Endpoint("/corrupt.png", body(_CORRUPT), "corrupt"),
    Endpoint("/half.png", body(picture(0)[:900]), "truncated"),
    Endpoint("/canvas.png", body(_CANVAS), "pixels-limit"),
    Endpoint("/dot.png", body(drawn("PNG", 1, 1)), "too-small"),
    Endpoint("/moving.gif", body(drawn("GIF")), "filtered"),
    # requests to wait
    Endpoint("/private/1.png", fine, "robots", 0),
    Endpoint("/noai.png", saying("X-Robots-Tag: noai"), "opted-out"),
    Endpoint("/for-us.png", saying("X-Robots-Tag: a: all", "X-Robots-Tag: imgcrawler: noimageindex"), "opted-out"),
    Endpoint("/reserved.png", saying("TDM-Reservation: 1"), "opted-out"),
)  # fmt: skip


# hosts ----------------------------------------------------------------------------------------------------------------


def busy(*fields: str, code: int = 429) -> Behaviour:
    return lambda visit: visit.answer(b"", f"{code} Busy", *fields)


def _robots(text: bytes) -> Behaviour:
    return lambda visit: visit.answer(text, "200 OK", "Content-Type: text/plain")


_ALL = b"User-agent: *\nDisallow: /"


class Host(NamedTuple):
    """A host with its robots.txt and one picture, and the expected result."""

    name: str
    robots: Behaviour
    play: Behaviour = fine
    reason: str = ""
    #: Requests for robots.txt and for the picture.
    requests: tuple[int, int] = (1, 1)
    #: Whether it asks for a pause of a second.
    asks_rest: bool = False


HOSTS = (
    Host("no-robots", status(404)),
    Host("robots-forbidden", status(403)),
    Host("robots-elsewhere", at_first(to("/robots.txt?2"), then=_robots(_ALL)), reason="robots", requests=(2, 0)),
    Host("robots-page", body(b"<!doctype html><p>Disallow: /")),
    Host("robots-500", status(500), reason="robots-unreachable", requests=(4, 0)),
    Host("robots-silent", silent, reason="robots-unreachable", requests=(2, 0)),
    Host("robots-busy", at_first(busy("Retry-After: 1"), then=status(404)), requests=(2, 1), asks_rest=True),
    Host("robots-loop", to("/robots.txt"), requests=(6, 1)),
    Host("busy-once", status(404), at_first(busy("Retry-After: 1")), requests=(1, 2), asks_rest=True),
    Host("down-for-a-moment", status(404), at_first(busy("Retry-After: 1", code=503)), requests=(1, 2), asks_rest=True),
    Host("busy-for-long", status(404), busy("Retry-After: 9999"), "rate-limited"),
)  # fmt: skip


class Seen(NamedTuple):
    """One request in the log."""

    host: str
    path: str
    headers: dict[str, str]
    #: `time.monotonic` seconds.
    at: float


class HostileWeb:
    """All endpoints and hosts, each host on a port of its own; the result of `serving`."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self._log: list[Seen] = []
        self._asked: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()  # guards the two above
        self.over = threading.Event()
        self._plays = {("main", each.path): each.play for each in ENDPOINTS}
        self._plays["main", "/robots.txt"] = _robots(b"User-agent: *\nDisallow: /private/")
        self._plays["main", "/index.html"] = lambda visit: visit.answer(
            self.index(), "200 OK", "Content-Type: text/html"
        )
        self._plays["no-robots", "/moved.png"] = body(body_of("/to-another-host.png"))
        for host in HOSTS:
            self._plays[host.name, "/robots.txt"], self._plays[host.name, "/p.png"] = host.robots, host.play

    @property
    def log(self) -> list[Seen]:
        with self._lock:
            return list(self._log)

    def url(self, host: str, path: str) -> str:
        return f"http://127.0.0.1:{self.ports[host]}{path}"

    def index(self) -> bytes:
        """The page with all pictures, and with references that no crawler can use."""
        bad = (
            "javascript:alert(1)",
            "http://[::1",
            "http://127.0.0.1:99999/x.png",
            "http://a b/",
            "//",
            "\\\\",
            "data:,x",
        )
        named = [*bad, *(each.path for each in ENDPOINTS), *(self.url(host.name, "/p.png") for host in HOSTS)]
        secret = f"http://user:secret@127.0.0.1:{self.ports['main']}/ok.png"
        return "".join(f'<img src="{name}">\n' for name in [*named, secret, "http://" + "x" * 70_000]).encode()

    def visit(self, host: str, visit: Visit) -> None:
        with self._lock:
            self._asked[host, visit.path] += 1
            visit.number = self._asked[host, visit.path]
            self._log.append(Seen(host, visit.path, visit.headers, time.monotonic()))
        self._plays.get((host, visit.path), status(404))(visit)


class Web(Protocol):
    """The interface between a server and its web."""

    ports: dict[str, int]
    over: threading.Event

    def visit(self, host: str, visit: Visit) -> None: ...


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, web: Web, host: str) -> None:
        self.web, self.host = web, host
        super().__init__(("127.0.0.1", 0), _Handler)
        web.ports[host] = self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect: these tests are about them."""


class _Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    server: Server

    def handle(self) -> None:
        with suppress(OSError):
            while line := self.rfile.readline():
                headers = {}
                while (field := self.rfile.readline()) not in (b"\r\n", b""):
                    name, _, value = field.decode("latin-1").partition(":")
                    headers[name.lower()] = value.strip()
                path = line.split()[1].decode("latin-1").partition("?")[0]
                web, host = self.server.web, self.server.host
                visit = Visit(self.connection, path, headers, path if host == "main" else host, web.ports, web.over)
                web.visit(host, visit)
                if not visit.keeps_open:
                    return


@contextmanager
def serving() -> Iterator[HostileWeb]:
    """Serve a hostile web for one test."""
    web = HostileWeb()
    with ExitStack() as stack:
        for name in ("main", *(host.name for host in HOSTS)):
            server = stack.enter_context(Server(web, name))
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        stack.callback(web.over.set)
        yield web
