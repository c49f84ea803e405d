"""XHTML: elements by their namespace; documents that are not XML are read as HTML."""

import time
from collections.abc import Callable

import pytest

from crawler.harvest.html.visitor import MAX_ELEMENTS
from crawler.harvest.page import Page
from tests.harvest.readers import read

HTML, SVG, XLINK = "http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def page(body: str, content_type: str = "application/xhtml+xml") -> Page:
    return read(
        f'<?xml version="1.0"?><html xmlns="{HTML}"><body>{body}</body></html>',
        "http://a.example/",
        content_type,
    )


def paths(page: Page) -> list[str]:
    return [image.url.removeprefix("http://a.example/") for image in page.images]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f'<s:svg xmlns:s="{SVG}" xmlns:x="{XLINK}"><s:image x:href="1"/></s:svg>', ["1"]),
        (f'<svg xmlns="{SVG}"><image href="1"/><g><h:img xmlns:h="{HTML}" src="2"/></g></svg>', ["1", "2"]),
        (f'<h:picture xmlns:h="{HTML}"><h:source srcset="1 2x"/><h:img src="2"/></h:picture>', ["1", "2"]),
        ('<IMG SRC="1"/>', ["1"]),
        ('<o:img xmlns:o="urn:other" src="1"/><o:img xmlns:o="urn:other" data-src="x.png"/>', []),
        ('<![CDATA[<img src="1"/>]]><img src="2"/>', ["2"]),
        ('<script/><style/><iframe/><title/><img src="1"/>', ["1"]),
        ('<style><![CDATA[ i { background: url(1) } ]]></style>', ["1"]),
        ('<img src="1?a=1&amp;b=2"/>&nbsp;&unknown; & <img src="2?a&b"/>', ["1?a=1&b=2", "2?a&b"]),
        ('<img src="1" alt="ä"/>', ["1"]),
        (f'<svg xmlns="{SVG}"><base href="/w/"/></svg><img src="1"/>', ["1"]),
    ],
)  # fmt: skip
def test_a_document_is_read_as_xml(body: str, expected: list[str]) -> None:
    assert paths(page(body)) == expected


@pytest.mark.parametrize("content_type", ["application/xhtml+xml", "text/xml; charset=utf-8", "Application/XML"])
def test_all_xml_types_are_read_as_xml(content_type: str) -> None:
    assert paths(page(f'<s:svg xmlns:s="{SVG}"><s:image href="1"/></s:svg>', content_type)) == ["1"]


@pytest.mark.parametrize(
    "body",
    [
        "<p><br><img src=1><p>",
        '<img src="1"/></b>',
        '<img src="1"/><x:y/>',
        '<img src="1"/>\x00\x08',
        pytest.param("<b>" * 1_000 + '<img src="1"/>' + "</b>" * 1_000, id="deep"),
        pytest.param("<b/>" * MAX_ELEMENTS + '<img src="1"/>', id="elements", marks=pytest.mark.fire),
    ],
)
def test_invalid_xml_is_read_as_html(body: str) -> None:
    assert paths(page(body)) == ["1"]


def test_the_declared_encoding_is_ignored_after_decoding() -> None:
    html = f'<?xml version="1.0" encoding="gbk"?><html xmlns="{HTML}"><img src="1" alt="漢字"/></html>'
    (image,) = read(html.encode("gbk"), content_type="application/xhtml+xml").images
    assert image.alt == "漢字"


def test_the_language_is_an_xml_attribute() -> None:
    assert read(f'<html xmlns="{HTML}" xml:lang="fr"/>', content_type="text/xml").language == "fr"


LAUGHS = "".join(f"<!ENTITY l{n} '" + f"&l{n - 1};" * 10 + "'>" for n in range(1, 10))
LAUGHING = f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]>'
FILE = '<!DOCTYPE x [<!ENTITY l SYSTEM "file:///etc/hostname">]>'
DEFAULTS = "<!DOCTYPE x [<!ATTLIST b " + " ".join(f"a{n} CDATA 'x'" for n in range(20_000)) + ">]>"
IMG = "<img src='1'/>"


def many(unit: str, number: int) -> str:
    """Return an element with this number of attributes, and the end."""
    return f"<b {' '.join(unit.format(n) for n in range(number))}/></x>"


def long(unit: int) -> str:
    """Return the beginning of a document with a long namespace."""
    return f"<x xmlns:p='{'n' * (30 * unit)}'>{IMG}"


#: Makes a hostile document of that many times a hundred bytes, or more.
Hostile = Callable[[int], str]


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(lambda unit: f"{LAUGHING}<x>{IMG}&l9;</x>", id="laughs"),
        pytest.param(lambda unit: f"{LAUGHING}<x><img src='1' alt='&l9;'/></x>", id="laughs in attributes"),
        pytest.param(lambda unit: f"{FILE}<x>{IMG}<img src='&l;'/></x>", id="files"),
        pytest.param(lambda unit: f"{DEFAULTS}<x>{IMG}{'<b/>' * (unit // 5)}</x>", id="attributes by default"),
        pytest.param(lambda unit: long(unit) + "<p:b p:c=''/>" * unit + "</x>", id="namespaces"),
        pytest.param(lambda unit: long(unit) + many("p:a{}=''", unit), id="attributes of a namespace"),
        pytest.param(lambda unit: f"<x>{IMG}" + many("a{}=''", 4 * unit), id="attributes"),
        pytest.param(lambda unit: f"<x>{IMG}" + many("xmlns:a{}='n'", 2 * unit), id="declarations"),
        pytest.param(lambda unit: f"<x>{IMG}{'<b>' * (20 * unit)}", id="nesting"),
        pytest.param(lambda unit: f"<x>{IMG}{'&a' * (30 * unit)}", id="references"),
        pytest.param(lambda unit: f"<x>{IMG}<b c='{'y' * (90 * unit)}'/></x>", id="a long attribute"),
    ],
)
def test_hostile_documents_are_read_in_time(hostile: Hostile, scale: int) -> None:
    text = hostile(scale * 6_250)
    started = time.process_time()
    found = paths(read(text, content_type="application/xhtml+xml"))
    assert found[:1] == ["1"] and not any("localhost" in path or "ha" in path for path in found)
    assert time.process_time() - started < 2.5 * scale
