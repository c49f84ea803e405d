"""Columns: which is the URL, which are words, and what is carried along."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest.columns import MAX_EXTRA, MAX_VALUE, Item, find_columns, read_item
from crawler.model import Kind


def item(names: tuple[str, ...], *values: object, entries: Kind = "image") -> Item:
    columns = find_columns(names, entries)
    assert columns is not None
    return read_item(columns, values)


def extra(**values: object) -> Any:
    """What is carried along of a row with those columns."""
    found = item(("url", *values), "http://a.example/", *values.values())
    return json.loads(found.columns or "{}")


@pytest.mark.parametrize(
    ("names", "entries", "url"),
    [
        (("id", "URL"), "image", 1),
        (("url", "Image URL"), "image", 1),
        (("page-url", "image-url"), "page", 0),
        (("link", "url"), "page", 1),
        (("image", " src "), "image", 1),
        (("image",), "image", 0),
    ],
)
def test_the_best_name_is_the_url_s(names: tuple[str, ...], entries: Kind, url: int) -> None:
    columns = find_columns(names, entries)
    assert columns is not None
    assert columns.url == url


@pytest.mark.parametrize("names", [(), ("curl",), ("url2", "caption"), ("",)])
def test_no_such_name_no_columns(names: tuple[str, ...]) -> None:
    assert find_columns(names, "image") is None


def test_an_image_is_no_page() -> None:
    assert find_columns(("image_url",), "page") is None


def test_words_are_one_line_and_cut() -> None:
    found = item(("URL", "TEXT", "Alt-Text", "title"), "u", " a\n cat ", "x" * 5_000, 7)
    assert found == Item("u", caption="a cat", alt="x" * MAX_VALUE)


def test_the_second_column_of_the_same_words_is_carried_along() -> None:
    found = item(("url", "caption", "text"), "u", "one", "two")
    assert (found.caption, found.columns) == ("one", '{"text":"two"}')


def test_other_columns_keep_their_names_and_values() -> None:
    assert extra(Width=640, licence="cc-by", none=None, empty="", nested={"a": [1]}) == {
        "Width": 640,
        "licence": "cc-by",
        "nested": {"a": [1]},
    }


def test_a_text_that_is_not_unicode_is_left_out() -> None:
    assert extra(a="\ud800", b="b") == {"b": "b"}


def test_without_other_columns_there_is_no_text() -> None:
    assert item(("url",), " u ") == Item("u")


def test_long_texts_are_cut_and_what_has_no_room_is_left_out() -> None:
    found = extra(a="é" * 5_000, b=list(range(2_000)), c="x" * 5_000, d="y" * 1_050, e=1)
    assert found == {"a": "é" * MAX_VALUE, "c": "x" * MAX_VALUE, "d": "y" * MAX_VALUE, "e": 1}


@pytest.mark.parametrize("values", [(), ("",), (" ",), (None,), (7,), (b"http://a.example/",)])
def test_a_row_without_url_is_none(values: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="no URL"):
        item(("url", "alt"), *values)


def test_a_row_may_be_shorter_or_longer_than_its_header() -> None:
    assert item(("url", "alt", "x"), "u") == item(("url", "alt"), "u", "", "", "more")


_VALUES = st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.decimals()


@given(
    st.dictionaries(
        st.text(),
        _VALUES | st.lists(_VALUES) | st.dictionaries(st.integers() | st.dates() | st.binary(), _VALUES),
        max_size=8,
    )
)
def test_whatever_stands_in_other_columns_is_json_and_small(row: dict[str, object]) -> None:
    found = item(("image_url", *row), "u", *row.values()).columns
    assert len(found.encode()) <= MAX_EXTRA
    assert found == "" or isinstance(json.loads(found), dict)
