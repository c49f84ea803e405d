"""Include and exclude patterns: matching, refused patterns, and the cost for any URL."""

import fnmatch
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import ConfigError
from crawler.harvest.url_patterns import _LONGEST, UrlFilter, build_filters

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
def test_a_pattern_must_match_the_whole_part(pattern: str, expected: bool) -> None:
    assert UrlFilter([pattern]).admits(URL) is expected
    assert UrlFilter([], [pattern]).admits(URL) is not expected


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("bücher.example/*", "http://xn--bcher-kva.example/x"),
        ("/bücher/*", "http://a.example/b%C3%BCcher/x"),
        ("a.example:80/*", "http://a.example/"),
        ("web.example/*/http://b.example/*", "http://web.example/1/http://b.example/x"),
    ],
)
def test_patterns_may_be_written_as_users_write_them(pattern: str, url: str) -> None:
    assert UrlFilter([pattern]).admits(url)


@pytest.mark.parametrize(
    "pattern",
    ["", "  ", "re:", "a b/*", "a\x00*", "\udcff*", "a.example?x/*", "http:///x", "x" * 1_001, "re:[", "re:(a+)+b",
     "re:(a|b)*", "re:((a*))+", "re:(a?){30}", "re:(?:x{2,}){3}", "re:.*.*.*.*", "re:[[a]", "re:a{99999999999}"],
)  # fmt: skip
def test_a_bad_pattern_is_named(pattern: str) -> None:
    with pytest.raises(ConfigError) as caught:
        UrlFilter([], [pattern])
    assert str(caught.value).startswith(f"pattern {pattern[:100]!r}: ")


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("photos", "*photos*"),
        ("a.example", "a.example/*"),
        ("https://a.example", "https://a.example/*"),
        ("x.gif", "*x.gif*"),
    ],
)
def test_a_pattern_that_can_match_nothing_is_refused_with_a_suggestion(pattern: str, meant: str) -> None:
    complaint = re.escape(f"pattern {pattern!r} can match no URL") + ".*" + re.escape(f"{meant!r}?")
    with pytest.raises(ConfigError, match=complaint):
        UrlFilter([pattern])
    with pytest.raises(ConfigError, match=complaint):
        UrlFilter([], [pattern])


def test_patterns_without_a_match_are_reported_with_a_suggestion() -> None:
    found = UrlFilter(["photos/*", "/photos/*", "re:photos", "/nothing/*", "https://a.example:81/photos"])
    assert found.unmatched() == ()
    for number in range(3):
        found.admits(f"https://a.example:81/photos/{number}")
    assert (
        found.unmatched()
        == found.unmatched()
        == (
            "'photos/*' matched none of 3 links; did you mean '*photos/*'?",
            "'re:photos' matched none of 3 links; did you mean 're:.*photos.*'?",
            "'/nothing/*' matched none of 3 links",
            "'https://a.example:81/photos' matched none of 3 links; did you mean 'https://a.example:81/photos*'?",
        )
    )
    found = UrlFilter(["/photos/*"])
    found.admits(URL)
    found.admits("https://a.example/x")
    assert found.unmatched() == ()


def test_patterns_may_apply_to_both_kinds_or_to_one() -> None:
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


def test_without_patterns_everything_is_accepted() -> None:
    assert all(each.admits(URL) for each in build_filters())


@pytest.mark.parametrize("repetitions", [2, 3])
def test_a_regular_expression_rejects_overlong_urls(repetitions: int) -> None:
    pattern = UrlFilter([f"re:{'.*x' * repetitions}"])
    longest = "http://a.example/".ljust(_LONGEST[repetitions], "x")
    assert pattern.admits(longest)
    assert not pattern.admits(f"{longest}x")


@pytest.mark.parametrize(
    "pattern",
    ["re:.*.*c", "re:.+?.+?c", "re:[^b]*[^b]*[^b]*c", "re:.+?a.+?a.+?c", r"re:\S*c", f"*{'a' * 400}b*", "*a*a*a*a*b"],
)
def test_every_url_is_matched_quickly(pattern: str) -> None:
    judge = UrlFilter([pattern])
    start = time.process_time()
    for length in (300, 2_000, 8_192):
        assert not judge.admits("http://".ljust(length, "a"))
    assert time.process_time() - start < 2.0


_TEXT = st.text("ab*/.", max_size=8)


@given(_TEXT, _TEXT)
def test_stars_work_as_in_shells(pattern: str, path: str) -> None:
    expected = re.fullmatch(fnmatch.translate(pattern), path) is not None
    assert UrlFilter([f"/{pattern}"]).admits(f"http://a.example/{path}") is expected


@given(st.text(max_size=20) | st.text("re:()*+?{}[]|\\a1,", max_size=20).map("re:{}".format), st.text(max_size=20))
def test_any_pattern_is_usable_or_refused(pattern: str, text: str) -> None:
    try:
        judge = UrlFilter([pattern])
    except ConfigError:
        return
    assert judge.admits(text) in (True, False)
