"""Robots directives of pages: the elements that carry them, and the agents they name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.robots.page_directives import parse_directives


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("robots", "noindex", {"noindex"}),
        (" ROBOTS ", "NoIndex , NOFOLLOW", {"noindex", "nofollow"}),
        ("robots", "max-image-preview: none", {"max-image-preview:none"}),
        ("robots", "unavailable_after: 25 Jun 2010 15:00:00 PST, noai", {"unavailable_after:1277506800", "noai"}),
        ("googlebot", "noindex, notranslate", {"googlebot:noindex"}),
        ("ImgCrawler", "noindex, noai", {"imgcrawler:noindex", "imgcrawler:noai"}),
        ("tdm-reservation", "1", {"tdm-reservation:1"}),
        ("TDM-Reservation", " 0 ", {"tdm-reservation:0"}),
        ("tdm-reservation", "noindex", set()),
        ("tdm-policy", "https://a.example/policy", set()),
        ("og:image", "none", set()),
        ("description", "a page about nothing", set()),
        ("", "noindex", set()),
        ("robots", "", set()),
    ],
)
def test_meta_elements_are_read(name: str, content: str, expected: set[str]) -> None:
    assert parse_directives(name, content) == expected


@given(st.text(), st.text())
def test_any_text_is_read_without_an_exception(name: str, content: str) -> None:
    assert all(word == word.lower() for word in parse_directives(name, content))
