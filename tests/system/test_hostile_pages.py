"""One crawl of odd, broken or hostile pages: exactly the pictures that a browser would show are found."""

import gzip
import re
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import crawler
from crawler.app.summary import Summary
from tests.support.hostile import Server
from tests.support.misdeeds import Behaviour, Visit, at_first, fine, status, to

pytestmark = pytest.mark.xdist_group("hostile pages")  # one crawl is enough for all of these

_SVG, _XLINK, _HTML = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink", "http://www.w3.org/1999/xhtml"
_PACKED = "Content-Encoding: gzip"


def show(html: str | bytes, *fields: str, type_: str = "text/html") -> Behaviour:
    data = html if isinstance(html, bytes) else html.encode()
    return lambda visit: visit.answer(data, "200 OK", f"Content-Type: {type_}", *fields)


def raw(data: bytes) -> Behaviour:
    def play(visit: Visit) -> None:
        visit.send(data)
        visit.stop()

    return play


def img(name: str) -> str:
    return f"<img src=/p/{name}.png>"


def bytes_of(name: str) -> bytes:
    return img(name).encode()


def by_the_byte(visit: Visit) -> None:
    visit.head("200 OK", "Transfer-Encoding: chunked", "Content-Type: text/html")
    visit.send(b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in bytes_of("bytes")) + b"0\r\nT: x\r\n\r\n")


def without_end(visit: Visit) -> None:
    visit.head("200 OK", "Content-Type: text/html")
    with suppress(OSError):
        visit.send(bytes_of("endless"))
        visit.repeat(b"<p>x" * 16_384)


def _deflated(html: str) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(html.encode()) + packer.flush()


pytestmark = pytest.mark.fire

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
_CSS = """<style>@import "/loop.css"; i{background:url( /p/css1.png )} b{background:url("/p/css\\32.png")}</style>
<p style="background:url('/p/css3.png')">"""
_LOOP = '@import "/loop.css"; @import "/loop.css?again"; i{background:url(/p/css4.png)}'
_FEED = """<?xml version="1.0"?><!DOCTYPE rss [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;"><!ENTITY x SYSTEM "file:///x">]>
<rss><channel><title>&b;&x;</title><item><enclosure url="/p/feed.png" type="image/png"/></item></channel></rss>"""
_XHTML = f"""<?xml version="1.0"?>
<h:html xmlns:h="{_HTML}" xmlns:s="{_SVG}" xmlns:x="{_XLINK}"><h:img src="/p/xml1.png"/>
<s:svg><s:image x:href="/p/xml2.png"/></s:svg><![CDATA[<img src="/p/no-cdata.png"/>]]></h:html>"""

#: Path → its behaviour, and the pictures that must be found by it.
PAGES: dict[str, tuple[Behaviour, str]] = {
    # bytes and characters
    "utf-16": (show(("\ufeff" + img("utf16")).encode("utf-16-le")), "utf16"),
    "utf-7": (show(b"+ADw-img src=/p/no-utf7.png+AD4-" + bytes_of("utf7"), type_="text/html; charset=utf-7"), "utf7"),
    "bogus": (show(b"\xc3(" + bytes_of("bogus"), type_="text/html; charset=bogus"), "bogus"),
    "nul": (show(b"<im\0g src=/p/no-nul.png><p>a\0b<img src=/p/nul.png>"), "nul"),
    "references": (show("<p>" + "&amp;" * 150_000 + "<img src='/p/references&#46;png'>"), "references"),
    "quotes": (show("<img alt='a>b' src=/p/q1.png><img alt=\"'\" src=/p/q2.png><img\nsrc\n=\n/p/q3.png>"), "q1 q2 q3"),
    "comments": (show(f"<!-- {img('no-comment')} --><!-->{img('c1')}<!-- {img('no-open')}"), "c1"),
    # types
    "two-types": (show(img("types"), "Content-Type: text/html; charset=utf-8"), "types"),
    "no-type": (lambda visit: visit.answer(b"<!doctype html>" + bytes_of("untyped")), "untyped"),
    "text": (show(img("no-text"), type_="text/plain"), ""),
    "stream": (show(img("no-stream"), type_="multipart/x-mixed-replace; boundary=x"), ""),
    # codings and framings
    "packed-twice": (show(gzip.compress(bytes_of("g1")) + gzip.compress(bytes_of("g2")), _PACKED), "g1 g2"),
    "packed-and-junk": (show(gzip.compress(bytes_of("g3")) + b"junk", _PACKED), "g3"),
    "deflated": (show(_deflated(img("deflated")), "Content-Encoding: deflate"), "deflated"),
    "bomb": (show(gzip.compress(bytes_of("bomb") + bytes(10_000_000)), _PACKED), "bomb"),
    "large": (show(bytes_of("large") + b"<p>x" * 3_000_000), "large"),
    "endless": (without_end, "endless"),
    "by-the-byte": (by_the_byte, "bytes"),
    "cut": (raw(_HEAD + b"Content-Length: 9999\r\n\r\n" + bytes_of("cut")), "cut"),
    "no-last-chunk": (raw(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n20\r\n" + bytes_of("chunk").ljust(32) + b"\r\n"),
                      "chunk"),
    "old": (raw(b"HTTP/1.0 200 OK\nContent-Type: text/html\n\n" + bytes_of("old")), "old"),
    "cookies": (show(img("cookies"), *(f"Set-Cookie: c{n}={'v' * 500}" for n in range(80))), "cookies"),
    # structure
    "deep": (show("<div>" * 100_000 + img("deep") + "</div>" * 100_000), "deep"),
    "deep-tables": (show("<table>" * 40_000 + img("tables")), "tables"),
    "deep-forms": (show("<form>" * 60_000 + img("forms")), "forms"),
    "elements": (show("<i>x</i>" * 120_000 + img("elements")), "elements"),
    "attributes": (show("<p " + " ".join(f"a{n}" for n in range(100_000)) + ">" + img("attributes")), "attributes"),
    "no-tags": (show("<" * 600_000 + " " + img("lts")), "lts"),
    "candidates": (
        show("<img src=/p/plain.png srcset='" + ",".join(f"/p/no-{n}.png {n}w" for n in range(1, 20_000)) + "'>"),
        "plain",
    ),
    "xml": (show(_XHTML, type_="application/xhtml+xml"), "xml1 xml2"),
    # URLs
    "odd-addresses": (
        show("<base href='javascript:x'><img src='\\p\\a1.png'><img src='/x/../p/%2e/a2.png'><img src='\x01/p/a3.png'>"
             f"<img src='/{'y' * 100_000}'><img src='/p/a\n4.png'><img src='http://[::1'><img src='//'>"),
        "a1 a2 a3 a4",
    ),
    # parts and further pages
    "css": (show(_CSS), "css1 css2 css3 css4"),
    "frames": (
        show("<iframe src=/frames></iframe><iframe src=/frames?1></iframe><iframe srcdoc='<img src=/p/frame.png>'>"),
        "frame",
    ),
    "header": (show("", "Link: </p/link.png>; rel=preload; as=image", f"Link: <{'x' * 30_000}>"), "link"),
    "feed.xml": (show(_FEED, type_="application/rss+xml"), "feed"),
    "refresh": (show("<meta http-equiv=refresh content='0;url=/refreshed'>"), "refreshed"),
    "moved": (to("moved/here?a=1#b"), "moved"),
    "circle": (to("/circle"), ""),
    "busy": (at_first(lambda visit: visit.answer(b"", "503 So", "Retry-After: 1"), then=show(img("busy"))), "busy"),
    "gone": (lambda visit: visit.answer(bytes_of("no-gone"), "404 So", "Content-Type: text/html"), ""),
}  # fmt: skip
_MORE: dict[str, Behaviour] = {
    "/robots.txt": status(404),
    "/loop.css": show(_LOOP, type_="text/css"),
    "/refreshed": show(img("refreshed")),
    "/moved/here": show(img("moved")),
    "/": show("".join(f"<a href='/{name}'>x</a>" for name in PAGES)),
}


class Pages:
    """All pages on one host."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self.over = threading.Event()
        self.asked: Counter[str] = Counter()
        self._lock = threading.Lock()  # guards the one above
        self._plays = {f"/{name}": play for name, (play, _) in PAGES.items()} | _MORE

    def visit(self, host: str, visit: Visit) -> None:
        with self._lock:
            self.asked[visit.path] += 1
            visit.number = self.asked[visit.path]
        play = fine if visit.path.startswith("/p/") else self._plays.get(visit.path, status(404))
        play(visit)


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pages, Summary, set[str]]]:
    output = tmp_path_factory.mktemp("pages") / "out"
    web = Pages()
    with Server(web, "pages") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        summary = crawler.run(
            f"http://127.0.0.1:{web.ports['pages']}/", output, depth=3, threads=8, patience=10, durability="none",
            connect_timeout=20, first_byte_timeout=20, total_timeout=60, max_page_bytes=1_000_000,
        )  # fmt: skip
        web.over.set()
        server.shutdown()
        thread.join()
    yield web, summary, _saved(output)


def _saved(output: Path) -> set[str]:
    lines = (output / "results.txt").read_text(encoding="ascii").splitlines()
    return {match[1] for line in lines if (match := re.fullmatch(r"http://[^/]+/p/([^/]+)\.png--->success", line))}


@pytest.mark.parametrize("name", PAGES)
def test_the_pictures_shown_by_a_page_are_found(crawled: tuple[Pages, Summary, set[str]], name: str) -> None:
    assert set(PAGES[name][1].split()) <= crawled[2]


def test_nothing_else_is_requested(crawled: tuple[Pages, Summary, set[str]]) -> None:
    wanted = {picture for _, pictures in PAGES.values() for picture in pictures.split()}
    asked = {path.removeprefix("/p/").removesuffix(".png") for path in crawled[0].asked if path.startswith("/p/")}
    assert asked == wanted == crawled[2]


def test_a_redirect_loop_is_left_and_interrupted_responses_are_retried_a_few_times(
    crawled: tuple[Pages, Summary, set[str]],
) -> None:
    asked = crawled[0].asked
    # 20 redirects; before them up to 20 requests, if the host asks for its one pause in the middle of a first try.
    assert 21 <= asked["/circle"] <= 20 + 21
    assert max(asked["/frames"], asked["/loop.css"]) <= 4
    assert asked["/cut"] == asked["/no-last-chunk"] == 5
    assert asked["/large"] == asked["/bomb"] == asked["/endless"] == 1


def test_the_crawl_ends_soon(crawled: tuple[Pages, Summary, set[str]]) -> None:
    assert crawled[1].elapsed < 300  # it takes a thirtieth of that
