"""Linked data: the values that are pictures, their descriptions, and broken or hostile scripts."""

import json
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest.html.jsonld import _MAX_NODES, MAX_DEPTH, MAX_TEXT, MAX_URLS, LinkedImage, linked_data_images
from crawler.urls import MAX_URL_LENGTH


def urls(data: Any) -> list[str]:
    text = data if isinstance(data, str) else json.dumps(data)
    return [image.url for image in linked_data_images(text)]


# --- values that are pictures


@pytest.mark.parametrize(
    "name",
    [
        *("image", "logo", "photo", "primaryImage", "primaryImageOfPage", "screenshot", "thumbnail", "thumbnailUrl"),
        *("schema:image", "http://schema.org/image", "https://schema.org/image", "https://www.schema.org/image"),
    ],
)
def test_these_properties_hold_a_picture(name: str) -> None:
    assert urls({"@type": "Article", name: "https://a.example/1"}) == ["https://a.example/1"]


@pytest.mark.parametrize(
    "value",
    [
        "/1.jpg",
        " /1.jpg\n",
        ["/1.jpg"],
        [["/1.jpg"], "", None, 5],
        {"url": "/1.jpg"},
        {"@type": "ImageObject", "url": ["/1.jpg"]},
        {"@type": ["Thing", "schema:ImageObject"], "contentUrl": "/1.jpg"},
        {"type": "ImageObject", "schema:contentUrl": "/1.jpg", "url": "/about-1"},
        {"@id": "/1.jpg"},
        {"@list": ["/1.jpg"]},
        {"@value": "/1.jpg"},
        {"@type": "Thing", "url": "/1.jpg"},
        {"@type": "ImageObject", "embedUrl": "/1.jpg", "@id": "#x"},
    ],
)
def test_these_forms_of_a_picture_are_read(value: Any) -> None:
    assert urls({"image": value}) == ["/1.jpg"]


@pytest.mark.parametrize(
    "data",
    [
        {"@graph": [{"@type": "WebPage"}, {"@type": "ImageObject", "url": "/1"}]},
        [{"author": {"@type": "Person", "image": "/1"}}],
        {"associatedMedia": {"@type": "ImageObject", "contentUrl": "/1"}},
        {"@type": "VideoObject", "contentUrl": "/1.mp4", "embedUrl": "/2", "thumbnailUrl": "/1"},
        {"@type": "https://schema.org/ImageObject", "http://schema.org/contentUrl": "/1"},
    ],
)
def test_pictures_are_found_in_nested_objects(data: Any) -> None:
    assert urls(data) == ["/1"]


@pytest.mark.parametrize(
    "data",
    [
        {"@type": "Article", "url": "https://a.example/", "mainEntityOfPage": "/1.jpg"},
        {"image": {"@type": "Photograph", "url": "/page"}},
        {"image": "no picture"},
        {"image": {"text": "/1.jpg"}},
        {"@context": {"image": "/1.jpg"}},
        {"@type": "AudioObject", "contentUrl": "/1.mp3"},
        {"image": f"/{'x' * MAX_URL_LENGTH}.jpg"},
        {"image": ""},
        {},
        "5",
        '"/1.jpg"',
    ],
)
def test_these_values_name_no_picture(data: Any) -> None:
    assert urls(data) == []


@pytest.mark.parametrize("fields", [{}, {"@type": "ImageObject"}, {"@type": "ImageObject", "url": "/1.jpg"}])
def test_an_identifier_in_a_picture_property_may_be_a_picture(fields: dict[str, str]) -> None:
    found = linked_data_images(json.dumps({"image": {"@id": "https://a.example/#logo"} | fields}))
    assert [image.url for image in found if image.is_reference] == ["https://a.example/#logo"]
    assert [image.url for image in found if not image.is_reference] == ([fields["url"]] if "url" in fields else [])


def test_files_of_other_media_are_pictures_only_by_their_extension() -> None:
    assert urls({"@type": "MediaObject", "contentUrl": "/1.webp"}) == ["/1.webp"]


def test_a_picture_has_a_file_and_may_have_smaller_ones() -> None:
    image = {"@type": "ImageObject", "url": "/1.jpg", "contentUrl": "/2.jpg", "thumbnail": {"url": "/3.jpg"}}
    assert urls(image) == ["/2.jpg", "/1.jpg", "/3.jpg"]


def test_each_url_is_returned_once_in_order() -> None:
    assert urls({"image": ["/1", "/2", "/1"], "logo": "/2"}) == ["/1", "/2"]


# --- descriptions


def test_the_text_and_the_size_are_kept_with_the_picture() -> None:
    image = {
        "@type": "ImageObject",
        "url": "/1",
        "caption": " A\n cat ",
        "license": "/free",
        "width": 800,
        "height": "600px",
    }
    assert linked_data_images(json.dumps(image)) == (LinkedImage("/1", "A cat", "/free", 800, 600),)


def test_a_description_of_a_picture_counts_in_any_place() -> None:
    data = {"image": "/1", "@graph": [{"@type": "ImageObject", "url": "/1", "caption": "cat"}], "logo": "/1"}
    assert linked_data_images(json.dumps(data)) == (LinkedImage("/1", "cat"),)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a", "a"),
        (["a", "b"], "a"),
        ({"@value": "a"}, "a"),
        ({"@type": "CreativeWork", "name": "a", "url": "b"}, "a"),
        ({"@id": "b"}, "b"),
        ([{"x": 1}], ""),
        ([], ""),
        (5, ""),
        (None, ""),
        ("x " * 10_000, ("x " * 500)),
    ],
)
def test_text_is_read_from_these_properties(value: Any, words: str) -> None:
    (image,) = linked_data_images(json.dumps({"image": {"url": "/1", "license": value}}))
    assert image.license == words


def sizes(value: Any) -> set[int | None]:
    (image,) = linked_data_images(json.dumps({"image": {"url": "/1", "width": value, "height": value}}))
    return {image.width, image.height}


@pytest.mark.parametrize("value", [800, 800.0, "0800.5 PX", {"@type": "QuantitativeValue", "value": 800}])
def test_a_size_is_read_from_these_values(value: Any) -> None:
    assert sizes(value) == {800}


@pytest.mark.parametrize("value", [0, -1, True, None, "", "wide", "80%", [800], {}, 10**9, 1e300, "9" * 9_000])
def test_no_size_is_read_from_these_values(value: Any) -> None:
    assert sizes(value) == {None}


# --- broken scripts


@pytest.mark.parametrize(
    "text",
    [
        '\ufeff {"image": "/1"} ',
        '//<![CDATA[\n{"image": "/1"}\n//]]>',
        '/* <![CDATA[ */ {"image": "/1"} /* ]]> */',
        '<!-- {"image": "/1"} -->',
        '{"image": "/1"};',
        '{"name": "two\nlines\tand more", "image": "/1"}',
        '{"name": "a,]", "image": ["/1", ], }',
        "{&quot;image&quot;: &#34;/1&#34;}",
        "{&quot;image&quot;: &quot;/1&quot;,}",
    ],
)
def test_small_errors_are_repaired(text: str) -> None:
    assert urls(text) == ["/1"]


def test_a_script_without_escapes_keeps_its_ampersands() -> None:
    assert urls('{"image": "/1?a=b&copy=c",}') == ["/1?a=b&copy=c"]


def test_an_escaped_ampersand_is_unescaped() -> None:
    assert urls({"image": "/1?a=b&amp;copy=c&copy=d"}) == ["/1?a=b&copy=c&copy=d"]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "<!--",
            "{",
            '{"image": "/1"',
            "{'image': '/1'}",
            '{"image": /1}',
            "image",
            '{"image": "/1" "a": 2}',
        ),
        f'{{"image": "/1", "width": {"9" * 5_000}}}',
        f'{{"image": "/1"}}&#{"9" * 5_000};'[1:],
    ],
)
def test_text_beyond_repair_is_ignored(text: str) -> None:
    assert urls(text) == []


# --- hostile scripts


def test_urls_are_capped() -> None:
    assert len(urls({"image": [f"/{number}" for number in range(MAX_URLS + 1)]})) == MAX_URLS


def test_values_are_capped() -> None:
    assert urls([0] * (_MAX_NODES - 3) + [{"image": "/1"}]) == ["/1"]
    assert urls([0] * (_MAX_NODES - 2) + [{"image": "/1"}]) == []


def test_text_is_capped() -> None:
    assert urls('{"image": "/1"}'.ljust(MAX_TEXT)) == ["/1"]
    assert urls('{"image": "/1"}'.ljust(MAX_TEXT + 1)) == []


def test_depth_is_capped() -> None:
    text = '{"image": "/1", "name": "[[[["}'
    assert urls("[" * (MAX_DEPTH - 1) + text + "]" * (MAX_DEPTH - 1)) == ["/1"]
    assert urls("[" * MAX_DEPTH + text + "]" * MAX_DEPTH) == []


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "[",
            "{",
            '{"a":',
            "[[],",
            '"',
            "\\",
            '"\\',
            ",",
            ", ",
            "[,",
            ",]",
            " ",
            "//",
            "/*",
            "<!--",
            "&",
            "&quot;",
            "&#9",
        ),
        *("9", "-", "[1e9,", '"a",', "}", "\n", '{"image":"/a"},', "&amp;", "&quot;,"),
    ],
)
@pytest.mark.parametrize("start", ["", '[{"image": "', '{"image": '])
def test_hostile_text_costs_linear_time(start: str, piece: str, scale: int) -> None:
    length = scale * MAX_TEXT // 64
    started = process_time()
    assert len(urls((start + piece * length)[:length])) <= MAX_URLS
    assert process_time() - started < 4


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["/1", "a.jpg", "x", "ImageObject", ""]),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["image", "url", "contentUrl", "@type", "@id", "width", "license", "@graph"]), inner
        )
    ),
)


@given(st.text() | st.text('{}[]":,\\&;/*<!-image 1\n') | _JSON.map(json.dumps))
def test_any_text_is_read_without_an_exception(text: str) -> None:
    for image in linked_data_images(text):
        assert image.url
        assert image.width is None or image.width > 0


@given(_JSON)
def test_every_url_occurs_in_the_data(data: Any) -> None:
    assert set(urls(data)) <= {"/1", "a.jpg"}


@given(st.lists(st.from_regex(r"/[a-zé\"\\&<]{1,9}", fullmatch=True), unique=True))
def test_written_data_is_read_back(names: list[str]) -> None:
    data = {"@graph": [{"@type": "ImageObject", "contentUrl": name} for name in names]}
    assert urls(data) == names
    assert urls(f"/*<![CDATA[*/ {json.dumps(data, indent=2)[:-1]},}} /*]]>*/") == names
