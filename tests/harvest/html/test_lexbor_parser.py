"""The fast parser: it gives the same pages as the default one and has the same limits."""

import re
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crawler
from crawler.harvest.html import lxml_parser
from crawler.harvest.html.extract import extract
from crawler.harvest.html.visitor import MAX_DEPTH, Attributes, Visitor
from crawler.harvest.page import Page
from tests.harvest.readers import PARSERS, read

lexbor = pytest.importorskip("crawler.harvest.html.lexbor_parser", exc_type=ImportError)

URL = "http://a.example/"
SITE = Path(crawler.__file__).parent.parent / "fixtures" / "site"
Feed = Callable[[str, Visitor], bool]


def urls(page: Page) -> set[str]:
    return {image.url for image in page.images} | {*page.links, *page.sheets, *page.frames}


def numbered(html: str) -> str:
    """Return ``html`` with a different number in place of each ``{}``."""
    numbers = count()
    return re.sub("{}", lambda _: str(next(numbers)), html)


# --- equal results


@pytest.mark.parametrize("path", sorted(SITE.rglob("*.html")), ids=lambda path: path.name)
def test_pages_of_the_bundled_web_are_equal(path: Path) -> None:
    assert read(path.read_bytes()).base.startswith("http")


#: Elements without an end, and elements that contain others; ``{}`` becomes a number.
_VOID = [
    *(
        "<img src={}.jpg>",
        "<img srcset='{}.jpg 2x' data-src=/{}.png>",
        "<input type=image src={}>",
        "<area href={}.gif>",
    ),
    *("<meta itemprop=image content=/{}>", "<link rel=icon href={}>", "<embed src={}.svg>", "<base href={}/>", "<br>"),
    *("<svg><g><image href={} /><use href={}.svg#a></use></g></svg>", "<title>a<img src={}></title>", "a &amp; b"),
]
_FULL = [
    *(
        "div",
        "p",
        "span",
        "b",
        "i",
        "ul",
        "li",
        "section",
        "h2",
        "figure",
        "figcaption",
        "picture",
        "template",
        "noscript",
    ),
    *("a href={}", "a href={}.jpg", "video poster={}", "object data={}.png", "p style='background:url({})'", "main"),
    *("button", "p itemscope", "select", "details", "label", "font color={}", "table background={}"),
]


def _within(tag: str, children: list[str]) -> str:
    name = tag.split()[0]
    content = "".join(children)
    return f"<{tag}><tr><td>{content}</td></tr></{name}>" if name == "table" else f"<{tag}>{content}</{name}>"


_TREES = st.recursive(
    st.sampled_from(_VOID),
    lambda children: st.builds(_within, st.sampled_from(_FULL), st.lists(children, max_size=3)),
    max_leaves=20,
)


@given(st.lists(_TREES, max_size=4))
def test_well_nested_pages_give_equal_results(trees: list[str]) -> None:
    html = numbered("".join(trees))
    assert urls(extract(html, URL, parser="lexbor")) == urls(extract(html, URL))


@pytest.mark.parametrize(
    ("html", "by_lxml", "by_lexbor"),
    [
        pytest.param("<frameset><frame src=/1></frameset><img src=2>", {"1", "2"}, {"1"}, id="beside frames"),
        pytest.param("<form><form data-bg=/1>", {"1"}, set(), id="a form in a form"),
        pytest.param("<td background=/1>", {"1"}, set(), id="a cell without a table"),
        pytest.param("<iframe/><img src=1>", {"1"}, set(), id="an element that ends itself"),
        pytest.param("<img src=0><body data-bg=/1>", {"0"}, {"0", "1"}, id="a second body"),
    ],
)
def test_the_known_differences_are_these(html: str, by_lxml: set[str], by_lexbor: set[str]) -> None:
    found = [{url.removeprefix(URL) for url in urls(extract(html, URL, parser=parser))} for parser in PARSERS]
    assert found == [by_lxml, by_lexbor]


def test_xhtml_is_parsed_as_xml() -> None:
    assert len(read("<iframe/><img src='1'/>", content_type="Application/XHTML+XML; charset=utf-8").images) == 1


# --- limits


class Counter:
    """A visitor that counts calls."""

    def __init__(self, limit: int = 10**9) -> None:
        self.elements = self.deepest = self.open = 0
        self._limit = limit

    @property
    def full(self) -> bool:
        return self.elements >= self._limit

    def enter(self, name: str, attributes: Attributes) -> None:
        self.elements += 1
        self.open += 1
        self.deepest = max(self.deepest, self.open)

    def text(self, data: str) -> None:
        assert data

    def leave(self) -> None:
        self.open -= 1


FEEDS = [pytest.param(lxml_parser.feed, id="lxml"), pytest.param(lexbor.feed, id="lexbor")]


@pytest.mark.parametrize("feed", FEEDS)
def test_deep_pages_are_cut(feed: Feed) -> None:
    visitor = Counter()
    assert feed("<div>" * 20_000, visitor)
    assert visitor.open == 0 < MAX_DEPTH <= visitor.deepest < 20_000


@pytest.mark.parametrize("feed", FEEDS)
def test_a_full_visitor_receives_only_end_tags(feed: Feed) -> None:
    visitor = Counter(limit=5)
    assert not feed("<div><p>a" * 50, visitor)
    assert (visitor.elements, visitor.open) == (5, 0)


def test_elements_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexbor, "MAX_ELEMENTS", 10)
    visitor = Counter()
    assert lexbor.feed("<i></i>" * 8, visitor)
    assert visitor.elements == 10
    assert not lexbor.feed("<i></i>" * 6, Counter())


@pytest.mark.parametrize(
    "html",
    [
        pytest.param("<p>" * (lexbor._MAX_TAGS + 1), id="tags"),
        pytest.param("<i " + " ".join(f"a{n}=b" for n in range(300)) + ">", id="attributes"),
        pytest.param("<i " + "".join(f"a{n}='>'" for n in range(300)) + ">", id="attributes that seem to end it"),
        pytest.param("<script>'<i a=\"'</script><i " + "a/" * 300 + ">", id="attributes after what is none"),
        pytest.param("".join(f'<b id="{n}"><p>' for n in range(1_000)), id="formatting"),
        pytest.param(numbered(("<i " + "{}=b " * 290 + ">") * 200), id="names"),
        pytest.param("".join(f"<b id={n}><p>" for n in range(1_500)), id="formatting without quotes"),
        pytest.param("<b a='<b>'>" * 1_500, id="formatting within formatting"),
    ],
)
def test_markup_that_might_take_long_is_left_to_the_parser_with_limits(html: str) -> None:
    assert not lexbor._is_harmless(html)
    assert lexbor.feed(html, Counter()) == lxml_parser.feed(html, Counter())


def test_ordinary_markup_is_not() -> None:
    item = "<li class=a><a href=/x title='a > b'><b>x</b> <i class=\"y\">z</i><img src=1></a><!-- <b> --></li>"
    assert lexbor._is_harmless(f"<ul>{item * 1_000}</ul>")


def test_text_without_markup_names_nothing() -> None:
    visitor = Counter()
    assert not lexbor.feed("", visitor)
    assert not lexbor.feed("words\0", visitor)
    assert visitor.open == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("piece", ["<div>", "<ul><li>", "<b></i>", "<p><div>", "<body a{}=b>", "<nobr><div>"])
def test_accepted_markup_is_read_in_time(piece: str) -> None:
    html = numbered(piece * (lexbor._MAX_TAGS // piece.count("<")))
    begin = time.process_time()
    assert lexbor._is_harmless(html)
    lexbor.feed(html, Counter())
    assert time.process_time() - begin < 15  # a tenth of that on an idle machine
