"""Include and exclude: what a pattern matches, which patterns are refused, and that no URL takes long."""

import fnmatch
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import ConfigError
from crawler.harvest.filters import LONGEST, Filter, build_filters

URL = "https://a.example:81/photos/2020/x.GIF?a=1"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", True),
        (URL, True),
        ("*.GIF*", True),
        ("*.gif*", False),
        ("*.GIF", False),
        ("/photos/*", True),
        ("/photos", False),
        ("/*/2020/*", True),
        ("photos/*", False),
        ("a.example:81/*", True),
        ("A.EXAMPLE:81/*", True),
        ("a.example/*", False),
        ("https://a.example:81/*", True),
        ("HTTPS://*/x.GIF?a=1", True),
        ("http://*", False),
        ("*://a.example:81/*", True),
        ("*/photos/*/*.GIF?a=*", True),
        ("*x.GIF?a=1*x.GIF?a=1", False),
        (r"re:https?://[^/]+/photos/\d{4}/.*", True),
        (r"re:.*\.(gif|GIF)\?.*", True),
        (r"re:photos", False),
        (r"re:(?!.*thumb).*", True),
        (r"re:(?:\d|[()+*|])?https.*", True),
    ],
)
def test_a_pattern_matches_the_whole_of_what_it_speaks_of(pattern: str, expected: bool) -> None:
    assert Filter([pattern]).admits(URL) is expected
    assert Filter([], [pattern]).admits(URL) is not expected


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("bücher.example/*", "http://xn--bcher-kva.example/x"),
        ("/bücher/*", "http://a.example/b%C3%BCcher/x"),
        ("a.example:80/*", "http://a.example/"),
        ("web.example/*/http://b.example/*", "http://web.example/1/http://b.example/x"),
    ],
)
def test_patterns_are_spelled_as_people_do(pattern: str, url: str) -> None:
    assert Filter([pattern]).admits(url)


@pytest.mark.parametrize(
    "pattern",
    ["", "  ", "re:", "a b/*", "a\x00*", "\udcff*", "a.example?x/*", "http:///x", "x" * 1_001, "re:[", "re:(a+)+b",
     "re:(a|b)*", "re:((a*))+", "re:(a?){30}", "re:(?:x{2,}){3}", "re:.*.*.*.*", "re:[[a]", "re:a{99999999999}"],
)  # fmt: skip
def test_a_bad_pattern_is_named(pattern: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Filter([], [pattern])
    assert str(caught.value).startswith(f"pattern {pattern[:100]!r}: ")


def test_plain_patterns_and_those_of_one_kind() -> None:
    pages, images = build_filters(["/gallery/*", "image:*.jpg"], ["*/print/*", "image:re:.*thumb.*", "page:*.jpg"])
    urls = [
        "/gallery/x",
        "/gallery/print/x",
        "/x.jpg",
        "/gallery/x.jpg",
        "/gallery/thumb",
        "/print/x.jpg",
        "/thumb.jpg",
    ]
    assert [url for url in urls if pages.admits(f"http://a.example{url}")] == ["/gallery/x", "/gallery/thumb"]
    assert [url for url in urls if images.admits(f"http://a.example{url}")] == ["/x.jpg", "/gallery/x.jpg"]


def test_without_patterns_everything_may_come() -> None:
    assert all(each.admits(URL) for each in build_filters())


@pytest.mark.parametrize("repetitions", [2, 3])
def test_a_regular_expression_leaves_long_urls_alone(repetitions: int) -> None:
    pattern = Filter([f"re:{'.*x' * repetitions}"])
    longest = "http://a.example/".ljust(LONGEST[repetitions], "x")
    assert pattern.admits(longest)
    assert not pattern.admits(f"{longest}x")


@pytest.mark.parametrize(
    "pattern",
    ["re:.*.*c", "re:.+?.+?c", "re:[^b]*[^b]*[^b]*c", "re:.+?a.+?a.+?c", r"re:\S*c", f"*{'a' * 400}b*", "*a*a*a*a*b"],
)
def test_no_url_takes_long(pattern: str) -> None:
    judge = Filter([pattern])
    start = time.process_time()
    for length in (300, 2_000, 8_192):
        assert not judge.admits("http://".ljust(length, "a"))
    assert time.process_time() - start < 2.0


_TEXT = st.text("ab*/.", max_size=8)


@given(_TEXT, _TEXT)
def test_stars_mean_what_they_mean_in_shells(pattern: str, path: str) -> None:
    expected = re.fullmatch(fnmatch.translate(pattern), path) is not None
    assert Filter([f"/{pattern}"]).admits(f"http://a.example/{path}") is expected


@given(st.text(max_size=20) | st.text("re:()*+?{}[]|\\a1,", max_size=20).map("re:{}".format), st.text(max_size=20))
def test_any_pattern_is_usable_or_refused(pattern: str, text: str) -> None:
    try:
        judge = Filter([pattern])
    except ConfigError:
        return
    assert judge.admits(text) in (True, False)
