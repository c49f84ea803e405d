"""The limits of the tree, and markup that tries to break the parser."""

from typing import Any

import pytest
from bs4 import Tag
from bs4.builder import LXMLTreeBuilder  # type: ignore[attr-defined]  # there at run time
from lxml import etree

from crawler.harvest import tree
from crawler.harvest.stream import MAX_DEPTH, MAX_ELEMENTS, MAX_MARKUP
from crawler.harvest.tree import parse


def images(text: str) -> list[object]:
    return [tag.get("src") for tag in parse(text)[0].find_all("img") if isinstance(tag, Tag)]


def test_a_tree_is_searchable() -> None:
    soup, cut = parse("<p class='a b'>x<img src=1>")
    assert [str(tag) for tag in soup.select("p.a > img")] == ['<img src="1"/>']
    assert not cut


@pytest.mark.parametrize("text", ["", " ", "just words", "http://a.example/", "file.html", "a\0b"])
def test_text_without_markup_is_an_empty_page(text: str) -> None:
    soup, cut = parse(text)
    assert (soup.find_all(True), cut) == ([], False)


def test_xml_is_read_like_html_without_a_warning() -> None:
    assert images('<?xml version="1.0" encoding="gbk"?><x><img src="é"/></x>') == ["é"]


def test_a_declared_encoding_does_not_change_text() -> None:
    assert images("<meta charset=gbk><img src='é漢😀'>") == ["é漢😀"]


def test_nul_ends_nothing() -> None:
    assert images("<p>a\0b<img src='x\0y'>\0<img src=z>") == ["x\ufffdy", "z"]


def test_pieces_are_joined_wherever_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<!DOCTYPE html><!-- c --><script>if (a<b) '<img src=no>'</script><p>é&amp;😀<img alt='a\"b' src=x?y&amp;z>"
    whole = str(parse(text)[0])
    for size in range(1, 9):
        monkeypatch.setattr(tree, "_PIECE", size)
        assert str(parse(text)[0]) == whole


def test_a_parser_that_gives_up_leaves_what_it_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, parser: Any) -> None:
            self.feed = parser.feed

        def close(self) -> None:
            raise etree.ParserError("no more")

    make: Any = LXMLTreeBuilder.parser_for
    monkeypatch.setattr(LXMLTreeBuilder, "parser_for", lambda builder, encoding: Failing(make(builder, encoding)))
    soup, cut = parse("<img src=a>")
    assert (len(soup.find_all("img")), cut) == (1, True)


def test_elements_are_capped() -> None:
    soup, cut = parse("<i></i>" * (MAX_ELEMENTS + 10))
    assert cut
    assert len(soup.find_all(True)) == MAX_ELEMENTS


def test_markup_is_capped() -> None:
    soup, cut = parse("<!---->" * MAX_MARKUP + "<img src=late>")
    assert cut
    assert soup.find("img") is None


def test_elements_just_below_the_cap_are_whole() -> None:
    assert parse("<i></i>" * (MAX_ELEMENTS - 2))[1] is False  # html and body come on top


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("<div>" * 50_000, id="nesting"),
        pytest.param("<b>" * 40_000 + "</i>" * 2_000_000, id="end tags that end nothing"),
        pytest.param("<b>" * (MAX_DEPTH - 100) + "</i>" * 2_000_000, id="the same below the depth limit"),
        pytest.param("<table><tr><td>" * 100_000, id="tables"),
        pytest.param("<a href=x>" * 500_000, id="anchors"),
        pytest.param("<" * 5_000_000, id="less-than signs"),
        pytest.param("<!--" + "-" * 5_000_000, id="an endless comment"),
        pytest.param("<p>" + "&" * 5_000_000, id="ampersands"),
        pytest.param("<img " + "a=b " * 1_000_000 + ">", id="attributes"),
        pytest.param("<img src='" + "a" * 10_000_000 + "'>", id="a huge attribute"),
        pytest.param("<script>" + "<x" * 2_000_000, id="a script that never ends"),
    ],
)
def test_hostile_markup_ends_in_time(text: str) -> None:
    soup, _ = parse(text)
    assert len(soup.find_all(True)) <= MAX_ELEMENTS
    assert isinstance(soup.get_text(), str)


def test_a_deep_tree_is_cut_and_can_be_written_out() -> None:
    soup, cut = parse("<div>" * 50_000 + "<img src=a>")
    assert cut
    assert len(str(soup)) > MAX_DEPTH
