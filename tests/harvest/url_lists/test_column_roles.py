"""Columns of a list: the URL, the texts, and the columns that are kept as they are."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest.url_lists.column_roles import MAX_ROW, ListItem, find_columns, read_item
from crawler.model import Kind


def item(names: tuple[str, ...], *values: object, entries: Kind = "image") -> ListItem:
    columns = find_columns(names, entries)
    assert columns is not None
    return read_item(columns, values, MAX_ROW[entries])


def extra(**values: object) -> Any:
    """Return the other columns that are kept of a row."""
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
def test_the_best_name_is_the_url_column(names: tuple[str, ...], entries: Kind, url: int) -> None:
    columns = find_columns(names, entries)
    assert columns is not None
    assert columns.url == url


@pytest.mark.parametrize("names", [(), ("curl",), ("url2", "caption"), ("",)])
def test_without_a_known_name_there_are_no_columns(names: tuple[str, ...]) -> None:
    assert find_columns(names, "image") is None


def test_an_image_column_is_no_page_column() -> None:
    assert find_columns(("image_url",), "page") is None


def test_texts_are_one_line_and_cut() -> None:
    found = item(("URL", "TEXT", "Alt-Text", "title"), "u", " a\n cat ", "x" * 5_000, 7)
    assert found == ListItem("u", caption="a cat", alt="x" * 5_000)
    found = item(("URL", "TEXT", "alt"), "u", "é" * 2**20, "b", entries="page")
    assert found == ListItem("u", caption="é" * (MAX_ROW["page"] // 2), is_cut=True)


def test_a_second_text_column_is_kept_as_another_column() -> None:
    found = item(("url", "caption", "text"), "u", "one", "two")
    assert (found.caption, found.columns) == ("one", '{"text":"two"}')


def test_other_columns_keep_their_names_and_values() -> None:
    assert extra(Width=640, licence="cc-by", none=None, empty="", nested={"a": [1]}) == {
        "Width": 640,
        "licence": "cc-by",
        "nested": {"a": [1]},
    }


def test_a_text_that_is_longer_in_json_is_cut_and_not_dropped() -> None:
    room = MAX_ROW["image"]
    text = 'said "no"\n' * (room // 11)
    found = item(("url", "talk", "b"), "u", text, 1)
    kept = json.loads(found.columns)["talk"]
    assert found.is_cut and text.startswith(kept)
    assert 0.9 * room < len(found.columns) <= room


def test_a_text_with_lone_surrogates_is_dropped() -> None:
    found = item(("url", "a", "b"), "u", "\ud800", "b")
    assert found == ListItem("u", columns='{"b":"b"}', is_cut=True)


def test_without_other_columns_the_json_is_empty() -> None:
    assert item(("url",), " u ") == ListItem("u")


def test_long_texts_are_cut_and_columns_beyond_the_limit_are_dropped() -> None:
    room = MAX_ROW["image"]
    found = item(("url", "a", "b", "c", "d", "e"), "u", "é" * 5_000, list(range(200_000)), "x" * room, "y", 1)
    columns = json.loads(found.columns)
    assert found.is_cut and len(found.columns) <= room - 5_000
    assert columns == {"a": "é" * 5_000, "c": "x" * (room - 10_000 - len('{}"a":"",') - len('"c":"",'))}
    assert extra(a="é" * 5_000, e=1) == {"a": "é" * 5_000, "e": 1}


@pytest.mark.parametrize("values", [(), ("",), (" ",), (None,), (7,), (b"http://a.example/",)])
def test_a_row_without_url_is_no_item(values: tuple[object, ...]) -> None:
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
def test_other_columns_are_always_small_valid_json(row: dict[str, object]) -> None:
    columns = find_columns(("image_url", *row), "image")
    assert columns is not None
    found = read_item(columns, ("u", *row.values()), room := 60).columns
    assert len(found.encode()) <= room
    assert found == "" or isinstance(json.loads(found), dict)
