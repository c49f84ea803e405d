"""Each place in which a page names an image, by itself."""

import pytest

from crawler.harvest.page import Image
from crawler.harvest.sources import IMAGE_EXTENSIONS, MAX_LAZY_VALUE, extension
from tests.harvest.readers import read


def found(html: str) -> list[tuple[str, str]]:
    return [(image.source, image.url.removeprefix("http://a.example/")) for image in images(html)]


def images(html: str) -> tuple[Image, ...]:
    return read(html).images


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<img src=1>", [("img", "1")]),
        ("<IMG SRC=' 1 '>", [("img", "1")]),
        ("<img srcset='1 1x, 2 2x'>", [("srcset", "1"), ("srcset", "2")]),
        ("<amp-img src=1>", [("img", "1")]),
        ("<picture><source srcset=1><img></picture>", [("picture", "1")]),
        ("<video><source src=1.mp4></video>", []),
        ("<input type=image src=1>", [("input", "1")]),
        ("<input type=' IMAGE ' src=1>", [("input", "1")]),
        ("<input type=text src=1><input src=1>", []),
        ("<video poster=1>", [("poster", "1")]),
        ("<a href=/1.JPG>", [("a", "1.JPG")]),
        ("<a href=1.png?x=y#z>", [("a", "1.png?x=y#z")]),
        ("<area href=1.webp>", [("a", "1.webp")]),
        ("<a href=1.html><a href=?file=1.jpg><a href=#1.jpg><a href=1.jpg/>", []),
    ],
)
def test_elements_of_the_body(html: str, expected: list[tuple[str, str]]) -> None:
    assert found(html) == expected


@pytest.mark.parametrize(
    ("html", "source"),
    [
        ("<link rel=icon href=1>", "icon"),
        ("<link rel='Shortcut Icon' href=1>", "icon"),
        ("<link rel=apple-touch-icon href=1>", "apple-touch-icon"),
        ("<link rel=apple-touch-icon-precomposed href=1>", "apple-touch-icon-precomposed"),
        ("<link rel=mask-icon href=1>", "mask-icon"),
        ("<link rel=image_src href=1>", "image_src"),
        ("<meta property=og:image content=1>", "og:image"),
        ("<meta property=OG:Image:secure_url content=1>", "og:image"),
        ("<meta name=og:image:url content=1>", "og:image"),
        ("<meta name=twitter:image content=1>", "twitter:image"),
        ("<meta property=twitter:image:src content=1>", "twitter:image"),
        ("<meta name=twitter:image0 content=1>", "twitter:image"),
    ],
)
def test_elements_of_the_head(html: str, source: str) -> None:
    assert found(html) == [(source, "1")]


@pytest.mark.parametrize(
    "html",
    [
        "<link rel=stylesheet href=1.css>",
        "<link rel=icon>",
        "<link href=1>",
        "<meta property=og:image:width content=300>",
        "<meta property=og:image:alt content=cat>",
        "<meta name=twitter:card content=summary_large_image>",
        "<meta property=og:image>",
    ],
)
def test_elements_of_the_head_that_name_no_image(html: str) -> None:
    assert found(html) == []


def test_descriptors_travel_along() -> None:
    narrow, wide, dense, plain = images("<img srcset='1 300w, 2 600w, 3 2x' src=4>")
    assert [(image.width, image.density) for image in (narrow, wide)] == [(300, None), (600, None)]
    assert (dense.width, dense.density, plain.density) == (None, 2.0, None)


# --- attributes that only scripts read


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<img data-src=/1>", [("data-src", "1")]),
        ("<img data-src=1.jpg>", [("data-src", "1.jpg")]),
        ("<img data-src=//a.example/1>", [("data-src", "1")]),
        ("<img data-src='/1 1x, /2 2x'>", [("data-src", "1"), ("data-src", "2")]),
        ("<img data-srcset='1.jpg 300w, 2.jpg 600w'>", [("data-srcset", "1.jpg"), ("data-srcset", "2.jpg")]),
        ("<img data-original=1.jpg lazysrc=2.jpg>", [("data-original", "1.jpg"), ("lazysrc", "2.jpg")]),
        ("<picture><source data-srcset=/1><img></picture>", [("data-srcset", "1")]),
        ("<div data-bg=1.jpg></div>", [("data-bg", "1.jpg")]),
        ("<section data-of-our-own='/1.png?v=2'></section>", [("data-of-our-own", "1.png?v=2")]),
        ("<li data-thumb=' 1.webp '></li>", [("data-thumb", "1.webp")]),
    ],
)
def test_lazy_attributes(html: str, expected: list[tuple[str, str]]) -> None:
    assert found(html) == expected


@pytest.mark.parametrize(
    "html",
    [
        "<img data-src='data:image/gif;base64,AA'>",
        "<img data-src='{{ image.src }}'>",
        "<img data-src='/{width}x/a.jpg'>",
        "<img data-src=true>",
        "<img data-src='a cat'>",
        "<img data-id=/1>",
        "<iframe data-src=/1></iframe>",
        "<div data-url=/1></div>",
        """<div data-settings='{"image":"1.jpg"}'></div>""",
        "<div data-caption='see 1.jpg'></div>",
        "<div data-sizes='(min-width: 1px) 300w'></div>",
        "<div cite=1.jpg></div>",
        f"<img data-src=/{'a' * MAX_LAZY_VALUE}.jpg>",
    ],
)
def test_attributes_that_hold_something_else(html: str) -> None:
    assert found(html) == []


def test_lazy_attributes_rank_above_plain_ones_and_larger_above_those() -> None:
    ranks = {image.source: image.rank for image in images("<img src=1 data-src=/2 data-original=/3 data-full-src=/4>")}
    assert ranks == {"img": 0, "data-src": 1, "data-original": 2, "data-full-src": 2}


# --- extensions


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a.example/b.JPG", "jpg"),
        ("http://a.example/b.tar.gz?x=.png#.gif", "gz"),
        ("b.svg", "svg"),
        ("/dir.d/file", ""),
        ("http://a.jp2", ""),
        ("//a.png", ""),
        ("", ""),
        (".jpg", "jpg"),
        ("a.jpg ", "jpg"),
    ],
)
def test_the_extension_is_that_of_the_path(url: str, expected: str) -> None:
    assert extension(url) == expected


def test_extensions_are_spelled_as_they_are_compared() -> None:
    assert all(word == word.lower() and word.isalnum() for word in IMAGE_EXTENSIONS)
