"""What stands behind the limits of a tree: its pictures are found all the same, in linear time."""

import time

import pytest

from crawler.harvest import flat
from crawler.harvest.page import Page
from crawler.harvest.stream import MAX_DEPTH, MAX_ELEMENTS, MAX_MARKUP, Attributes
from tests.harvest.readers import read


class Notes:
    """A visitor that writes everything down."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.open: list[str] = []
        self.full = False

    def enter(self, name: str, attributes: Attributes) -> None:
        self.open.append(name)
        self.told.append(" ".join([name, *(f"{key}={value}" for key, value in attributes.items())]))

    def text(self, data: str) -> None:
        self.told.append(f"'{data}'")

    def leave(self) -> None:
        self.told.append(f"/{self.open.pop()}")


def told(html: str) -> list[str]:
    notes = Notes()
    assert not flat.feed(html, notes)
    assert notes.open == []
    return notes.told


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
def test_what_is_told(html: str, expected: list[str]) -> None:
    assert told(html) == expected


def paths(page: Page) -> list[str]:
    return [image.url.removeprefix("http://a.example/") for image in page.images]


DEEP = "<div>" * (MAX_DEPTH + 20_000)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(DEEP, id="depth"),
        pytest.param("<b>" * 100_000, id="formatting"),
        pytest.param("<div>" * 100_000, id="great depth"),
        pytest.param("<i></i>" * (MAX_ELEMENTS + 10), id="elements"),
        pytest.param("<!---->" * (MAX_MARKUP + 10), id="markup"),
        pytest.param("<table><tr><td>" * 30_000, id="tables"),
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
def test_a_base_that_browsers_do_not_heed_is_none_behind_a_limit_either(name: str) -> None:
    assert paths(read(f"{DEEP}<{name}><base href=/w/></{name}><base href=/right/><img src=1>")) == ["right/1"]


@pytest.mark.parametrize("size", range(65_500, 65_540, 3))
def test_nothing_is_lost_where_reading_changes(size: int) -> None:
    html = "<div>" * (MAX_DEPTH + 1)
    html += "x" * (size - len(html)) + "".join(f"<img src={number}.png>" for number in range(9))
    assert paths(read(html)) == [f"{number}.png" for number in range(9)]


def test_elements_that_are_told_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "MAX_LOOKS", 10)
    notes = Notes()
    assert flat.feed("<a x>" * 11, notes)
    assert len(notes.told) == 20
    assert notes.open == []


def test_a_visitor_that_is_full_is_told_of_ends_only() -> None:
    notes = Notes()
    notes.full = True
    assert not flat.feed("<a href=x>" * 9, notes)
    assert notes.told == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    [
        *("<", "</", "<!", "<!--", "<!---->", "<a", "<a ", "<a>", "<a></a>", "<b x", "<b x='", "<b x>", "<b >"),
        *("<b x=&", "<svg>", "<script>", "<style></style", "<b/", "<title><!--", "</a>", "</svg ", "&", "<" + "x" * 99),
        *("<a ='", "<a x y=", "<a\n", "<image/>", "<picture><a>"),
    ],
)
def test_hostile_markup_costs_linear_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    notes = Notes()
    started = time.process_time()
    flat.feed(text, notes)
    assert time.process_time() - started < 4
    assert notes.open == []
