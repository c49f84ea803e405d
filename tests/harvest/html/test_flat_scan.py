"""Markup behind the limits of the tree: its pictures are found in linear time."""

import time

import pytest

from crawler.harvest.html import flat_scan
from crawler.harvest.html.visitor import _MAX_MARKUP, MAX_DEPTH, MAX_ELEMENTS, Attributes
from crawler.harvest.page import Page
from tests.harvest.readers import read


class Notes:
    """A visitor that records every call."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.open: list[str] = []
        self.full = False

    def enter(self, name: str, attributes: Attributes) -> None:
        self.open.append(name)
        self.events.append(" ".join([name, *(f"{key}={value}" for key, value in attributes.items())]))

    def text(self, data: str) -> None:
        self.events.append(f"'{data}'")

    def leave(self) -> None:
        self.events.append(f"/{self.open.pop()}")


def events(html: str) -> list[str]:
    notes = Notes()
    assert not flat_scan.feed(html, notes)
    assert notes.open == []
    return notes.events


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p><b>x</b><img src=a.png>y", ["img src=a.png", "/img"]),
        ("<IMG SRC='a b' alt=\"<i src=no>\">", ["img src=a b alt=<i src=no>", "/img"]),
        ("<img/src=a/alt=b>", ["img src=a/alt=b", "/img"]),
        ("<img src=a src=b hidden>", ["img src=a hidden=", "/img"]),
        ("<img src=a?b=1&amp;c=2&copy=3&copy;&#x41;&#66>", ["img src=a?b=1&c=2&copy=3©AB", "/img"]),
        ("<!-- <img src=no> --><!--><img src=a><!-- <img src=no>", ["img src=a", "/img"]),
        ("<!-- <img src=no> --!><img src=a>", ["img src=a", "/img"]),
        ("<style>i{}<img src=no></STYLE ><img src=a>", ["style", "'i{}<img src=no>'", "/style", "img src=a", "/img"]),
        ("<script></script><title>&amp;</title>", ["script", "/script", "title", "'&amp;'", "/title"]),
        ("<script><img src=a><script><img src=b>", ["img src=a", "/img", "img src=b", "/img"]),
        ("<a href=x>one &lt; <b>two</b></a>three", ["a href=x", "'one <  two '", "/a"]),
        ("<a href=x><a href=y></a></a>", ["a href=x", "/a", "a href=y", "/a"]),
        ("<picture><source srcset=a><img src=b></picture><img src=c>",
         ["picture", "source srcset=a", "/source", "img src=b", "/img", "/picture", "img src=c", "/img"]),
        ("<svg><image href=a /></svg><svg/><image src=b>",
         ["svg", "image href=a", "/image", "/svg", "image src=b", "/image"]),
        ("<figure><svg></figure></svg></a>", ["figure", "svg", "/svg", "/figure"]),
        ("<img src='a", ["img src=a", "/img"]),
        ("<", []),
        ("1 < 2 <3 </> <?x src=no> <!doctype y>", []),
    ],
)  # fmt: skip
def test_the_visitor_receives_these_events(html: str, expected: list[str]) -> None:
    assert events(html) == expected


def paths(page: Page) -> list[str]:
    return [image.url.removeprefix("http://a.example/") for image in page.images]


DEEP = "<div>" * (MAX_DEPTH + 2_000)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(DEEP, id="depth"),
        pytest.param("<b>" * 10_000, id="formatting"),
        pytest.param("<div>" * 100_000, id="great depth", marks=pytest.mark.fire),
        pytest.param("<i></i>" * (MAX_ELEMENTS + 10), id="elements", marks=pytest.mark.fire),
        pytest.param("<!---->" * (_MAX_MARKUP + 10), id="markup", marks=pytest.mark.fire),
        pytest.param("<table><tr><td>" * 6_000, id="tables"),
        pytest.param("<p " + "a b=c " * 20_000 + ">", id="attributes"),
    ],
)
def test_pictures_behind_a_limit_are_found(before: str) -> None:
    page = read(
        f"{before}<img src=1.png><img src=2.png alt=Boat><picture><source srcset=3.png><img src=4.png></picture>"
        f"<style>i {{ background: url(5.png) }}</style><a href=next>go</a>"
    )
    assert paths(page) == ["1.png", "2.png", "3.png", "4.png", "5.png"]
    assert page.images[1].alt == "Boat"
    assert page.images[2].group == page.images[3].group != page.images[1].group
    assert page.links == ("http://a.example/next",)
    assert page.truncated


@pytest.mark.parametrize("name", ["noscript", "svg"])
def test_a_base_that_browsers_ignore_is_ignored_behind_a_limit_too(name: str) -> None:
    assert paths(read(f"{DEEP}<{name}><base href=/w/></{name}><base href=/right/><img src=1>")) == ["right/1"]


@pytest.mark.parametrize("size", range(65_500, 65_540, 3))
def test_no_element_is_lost_at_the_switch_to_the_flat_scan(size: int) -> None:
    html = "<div>" * (MAX_DEPTH + 1)
    html += "x" * (size - len(html)) + "".join(f"<img src={number}.png>" for number in range(9))
    assert paths(read(html)) == [f"{number}.png" for number in range(9)]


def test_the_number_of_reported_elements_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_scan, "_MAX_LOOKS", 10)
    notes = Notes()
    assert flat_scan.feed("<a x>" * 11, notes)
    assert len(notes.events) == 20
    assert notes.open == []


def test_a_full_visitor_receives_only_end_tags() -> None:
    notes = Notes()
    notes.full = True
    assert not flat_scan.feed("<a href=x>" * 9, notes)
    assert notes.events == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "unit",
    [
        *("<", "</", "<!", "<!--", "<!---->", "<a", "<a ", "<a>", "<a></a>", "<b x", "<b x='", "<b x>", "<b >"),
        *("<b x=&", "<svg>", "<script>", "<style></style", "<b/", "<title><!--", "</a>", "</svg ", "&", "<" + "x" * 99),
        *("<a ='", "<a x y=", "<a\n", "<image/>", "<picture><a>"),
    ],
)
def test_hostile_markup_costs_linear_time(unit: str, scale: int) -> None:
    text = unit * (scale * 62_500 // len(unit))
    notes = Notes()
    started = time.process_time()
    flat_scan.feed(text, notes)
    assert time.process_time() - started < 4
    assert notes.open == []
