"""The events of the parser, its limits, and markup that tries to break it."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag
from bs4.element import NavigableString, PreformattedString
from lxml import etree

from crawler.demo.server import site_folder
from crawler.harvest.html import lxml_parser
from crawler.harvest.html.visitor import _MAX_MARKUP, MAX_DEPTH, MAX_ELEMENTS, Attributes

#: Start tags, end tags and texts of which random pages are made.
NAMES = [*("html", "head", "body", "div", "p", "a", "img", "figure", "picture", "source", "table", "tr", "td", "b")]
NAMES += ["script", "style", "svg", "title", "base", "link", "frameset"]
ATTRIBUTES = ["src=x.png", 'href="y"', "data-x=b.png", 'style="color:red"', 'alt="t &amp; u"', "xlink:href=w", "hidden"]
TEXTS = ["text", " ", "\n", "&copy;", "<!-- c -->", "<![CDATA[x]]>", "<?pi?>", "\0", "<", "<!doctype html>"]


class Events:
    """A visitor that keeps the events as text: the markup that they describe, and the names of the elements."""

    def __init__(self) -> None:
        self.markup: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []

    def enter(self, name: str, attributes: Attributes) -> None:
        self._open.append(name)
        self.elements.append((name, dict(attributes)))
        self.markup.append(f"<{name} {sorted(attributes.items())}>")

    def text(self, data: str) -> None:
        if data.strip():
            self.markup.append("".join(data.split()))

    def leave(self) -> None:
        self.markup.append(f"</{self._open.pop()}>")

    @property
    def full(self) -> bool:
        return len(self.elements) >= 3 * MAX_ELEMENTS

    @property
    def depth(self) -> int:
        return len(self._open)


def parse(text: str) -> tuple[Events, bool]:
    """Return the events, and whether a limit cut something off."""
    events = Events()
    cut = lxml_parser.feed(text, events)
    assert events.depth == 0
    return events, cut


def images(text: str) -> list[object]:
    return [attributes.get("src") for name, attributes in parse(text)[0].elements if name == "img"]


def tree(text: str) -> Iterator[str]:
    """Yield the events of a tree that BeautifulSoup has built with lxml."""

    def walk(tag: Tag) -> Iterator[str]:
        for child in tag.children:
            if isinstance(child, Tag):
                yield f"<{child.name} {sorted((name, str(value)) for name, value in child.attrs.items())}>"
                yield from walk(child)
                yield f"</{child.name}>"
            elif isinstance(child, NavigableString) and not isinstance(child, PreformattedString) and child.strip():
                yield "".join(child.split())

    yield from walk(BeautifulSoup(text.replace("\0", "\ufffd"), "lxml", multi_valued_attributes=None))


def random_page(dice: random.Random) -> str:
    pieces = ["<p>"]
    for _ in range(dice.randint(1, 40)):
        name, kind = dice.choice(NAMES), dice.random()
        words = " ".join(dice.choice(ATTRIBUTES) for _ in range(dice.randint(0, 2)))
        pieces.append(f"<{name} {words}>" if kind < 0.5 else f"</{name}>" if kind < 0.75 else dice.choice(TEXTS))
    return "".join(pieces)


def test_the_events_are_those_of_a_tree_on_every_page_of_the_site() -> None:
    pages = sorted(site_folder().rglob("*.html"))
    assert len(pages) > 20
    for path in pages:
        text = path.read_text(encoding="utf-8", errors="replace")
        if "<body background" not in text:
            assert "".join(parse(text)[0].markup) == "".join(tree(text)), path


@pytest.mark.filterwarnings("ignore")  # BeautifulSoup warns of pages that look like XML or a file name
@pytest.mark.parametrize("seed", range(200))
def test_the_events_are_those_of_a_tree_on_broken_markup(seed: int) -> None:
    text = random_page(random.Random(seed))  # noqa: S311  # the same page each time
    assert "".join(parse(text)[0].markup) == "".join(tree(text)), text


def test_a_later_body_is_reported_as_an_element_of_its_own() -> None:
    events, _ = parse("<body><p>x<body background=a.png><p>y")
    assert ("late-body", {"background": "a.png"}) in events.elements
    events, _ = parse("<title>t</title><body background=b.png><img src=c><body background=d.png>")
    names = [element for element in events.elements if "background" in element[1]]
    assert names == [("body", {"background": "b.png"}), ("late-body", {"background": "d.png"})]


@pytest.mark.parametrize("text", ["", " ", "just words", "http://a.example/", "file.html", "a\0b"])
def test_text_without_markup_is_an_empty_page(text: str) -> None:
    events, cut = parse(text)
    assert (events.markup, cut) == ([], False)


def test_xml_is_read_like_html_without_a_warning() -> None:
    assert images('<?xml version="1.0" encoding="gbk"?><x><img src="é"/></x>') == ["é"]


def test_a_declared_encoding_does_not_change_text() -> None:
    assert images("<meta charset=gbk><img src='é漢😀'>") == ["é漢😀"]


def test_nul_does_not_end_the_page() -> None:
    assert images("<p>a\0b<img src='x\0y'>\0<img src=z>") == ["x\ufffdy", "z"]


def test_text_split_at_any_place_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<!DOCTYPE html><!-- c --><script>if (a<b) '<img src=no>'</script><p>é&amp;😀<img alt='a\"b' src=x?y&amp;z>"
    whole = "".join(parse(text)[0].markup)
    for size in range(1, 9):
        monkeypatch.setattr(lxml_parser, "_PIECE", size)
        assert "".join(parse(text)[0].markup) == whole


def test_a_parser_that_gives_up_keeps_the_part_it_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, target: Any) -> None:
            self._parser = make(target=target)

        def feed(self, text: str) -> None:
            self._parser.feed(text)

        def close(self) -> None:
            raise etree.ParserError("no more")

    make = etree.HTMLParser
    monkeypatch.setattr(etree, "HTMLParser", Failing)
    assert (images("<img src=a>"), parse("<img src=a>")[1]) == (["a"], True)


def test_elements_are_capped() -> None:
    events, cut = parse("<i></i>" * (MAX_ELEMENTS + 10) + "<b></b>" * MAX_ELEMENTS)
    assert cut
    assert MAX_ELEMENTS <= len(events.elements) <= MAX_ELEMENTS + lxml_parser._PIECE


@pytest.mark.fire
def test_markup_is_capped() -> None:
    events, cut = parse("<!---->" * _MAX_MARKUP + "<img src=late>")
    assert cut
    assert len(events.elements) <= 1


def test_elements_just_below_the_cap_are_complete() -> None:
    assert parse("<i></i>" * (MAX_ELEMENTS - 2))[1] is False  # html and body come on top


@pytest.mark.parametrize(
    ("before", "piece", "number"),
    [
        pytest.param("", "<div>", 12_500, id="nesting"),
        pytest.param("<b>" * 40_000, "</i>", 125_000, id="end tags that end nothing"),
        pytest.param("<b>" * (MAX_DEPTH - 100), "</i>", 125_000, id="the same below the depth limit"),
        pytest.param("", "<table><tr><td>", 6_250, id="tables"),
        pytest.param("", "<a href=x>", 31_250, id="anchors"),
        pytest.param("", "<", 312_500, id="less-than signs"),
        pytest.param("<!--", "-", 312_500, id="an endless comment"),
        pytest.param("<p>", "&", 312_500, id="ampersands"),
        pytest.param("<img ", "a=b ", 62_500, id="attributes"),
        pytest.param("<img src='", "a", 625_000, id="a huge attribute"),
        pytest.param("<script>", "<x", 125_000, id="a script that never ends"),
    ],
)
def test_hostile_markup_is_read_in_time(before: str, piece: str, number: int, scale: int) -> None:
    events, _ = parse(before + piece * (scale * number))
    assert len(events.elements) <= 3 * MAX_ELEMENTS


def test_a_deep_page_is_cut() -> None:
    events, cut = parse("<div>" * 50_000 + "<img src=a>")
    assert cut
    assert len(events.elements) > MAX_DEPTH
