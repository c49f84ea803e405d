"""Robots directives of pages and of headers, and whom they are meant for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest.directives import NO_IMAGES, NO_LINKS, forbids, parse_directives, parse_header


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("robots", "noindex", {"noindex"}),
        ("ROBOTS", "NoIndex , NOFOLLOW", {"noindex", "nofollow"}),
        (" robots ", "noindex nofollow", {"noindex", "nofollow"}),
        ("robots", "max-image-preview: none", {"max-image-preview:none"}),
        (
            "robots",
            "unavailable_after: 25 Jun 2030 15:00:00 PST, noai",
            {"unavailable_after:25jun203015:00:00pst", "noai"},
        ),
        ("googlebot", "noindex, notranslate", {"googlebot:noindex"}),
        ("ImgCrawler", "noai", {"imgcrawler:noai"}),
        ("og:image", "none", set()),
        ("description", "a page about nothing", set()),
        ("", "noindex", set()),
        ("robots", "", set()),
    ],
)
def test_meta_elements_are_read(name: str, content: str, expected: set[str]) -> None:
    assert parse_directives(name, content) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", set()),
        ("noindex", {"noindex"}),
        ("NoIndex, noai", {"noindex", "noai"}),
        ("googlebot: noindex", {"googlebot:noindex"}),
        ("googlebot: nofollow, noai", {"googlebot:nofollow", "noai"}),
        ("max-image-preview:none, noai", {"max-image-preview:none", "noai"}),
        ("unavailable_after: Fri, 25 Jun 2030 15:00:00 GMT, noai", {"noai"}),
    ],
)
def test_headers_are_read(value: str, expected: set[str]) -> None:
    assert parse_header(value) == expected


@pytest.mark.parametrize("word", sorted(NO_IMAGES))
def test_each_word_forbids_images_to_all_or_to_us(word: str) -> None:
    assert forbids({word}, NO_IMAGES, "ImgCrawler")
    assert forbids({f"imgcrawler:{word}"}, NO_IMAGES, "ImgCrawler")
    assert not forbids({f"otherbot:{word}"}, NO_IMAGES, "ImgCrawler")


def test_none_forbids_links_too_and_noindex_does_not() -> None:
    assert forbids({"none"}, NO_LINKS, "x")
    assert not forbids({"noindex", "follow"}, NO_LINKS, "x")


def test_a_preview_limit_of_none_forbids_nothing() -> None:
    assert not forbids(parse_header("max-image-preview:none"), NO_IMAGES, "imgcrawler")
    assert not forbids(parse_directives("robots", "max-image-preview: none"), NO_IMAGES, "imgcrawler")


@given(st.text(), st.text())
def test_any_text_is_read_without_an_exception(name: str, content: str) -> None:
    assert all(word == word.lower() for word in parse_directives(name, content) | parse_header(content))
