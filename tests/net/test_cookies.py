"""Cookies: their recipients and their lifetime."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import ConfigError
from crawler.handler import redirected
from crawler.model import Request
from crawler.net.cookies import Cookies
from crawler.net.fetcher import Canned, CannedFetcher, Conditions, Response
from crawler.net.headers import Headers

FIRST = Request(url="http://a.example/wall/x.jpg", kind="image")


def redirect(request: Request, location: str, *cookies: str, status: int = 302) -> Response:
    """Return a redirect response to ``request``."""
    fetcher = CannedFetcher({request.location: Canned(status=status, headers={"location": location})})
    response = fetcher.fetch(request, Conditions())
    lines = [("Set-Cookie", cookie) for cookie in cookies]
    response.headers = Headers([*response.headers.items(), *lines])
    return response


def follow(cookies: Cookies, location: str, *lines: str, request: Request = FIRST) -> Request:
    """Return the request that follows a redirect."""
    response = redirect(request, location, *lines)
    cookies.learn(request, response)
    successor = redirected(request, response, 20).successor
    assert successor is not None
    return successor


@pytest.mark.parametrize(
    ("line", "location", "sent"),
    [
        ("id=1", "/wall/y.jpg", "id=1"),
        ("id=1", "/other/y.jpg", ""),  # its path is that of the URL that set it
        ("id=1; Path=/", "/other/y.jpg", "id=1"),
        ("id=1; Path=/wal", "/wall/y.jpg", ""),
        ("id=1; Domain=a.example; HttpOnly; SameSite=Lax", "", "id=1"),
        ("id=1; Domain=.example; Path=/", "/", ""),
        ("id=1; Domain=b.example; Path=/", "/", ""),
        ("id=1; Secure; Path=/", "/", ""),
        ("id=1; Max-Age=0; Path=/", "/", ""),
        ("id=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/", "/", ""),
        ("id=1; Path=/", "http://www.a.example/", ""),
        ("id=1; Path=/", "http://a.example:8080/", ""),
        ("id=1; Path=/", "https://a.example/", ""),
        ("id=a\x07b; Path=/", "/", ""),
        ("id=" + "x" * 4_096 + "; Path=/", "/", ""),
    ],
)
def test_a_cookie_set_by_a_redirect_is_sent_within_its_origin(line: str, location: str, sent: str) -> None:
    cookies = Cookies()
    assert cookies.header(follow(cookies, location or FIRST.url, line)) == sent


def test_a_redirect_chain_collects_and_replaces_cookies() -> None:
    cookies = Cookies()
    second = follow(cookies, "/2", "a=1; Path=/", "b=1; Path=/")
    third = follow(cookies, "/3", "b=2; Path=/", request=second)
    assert set(cookies.header(third).split("; ")) == {"a=1", "b=2"}


def test_a_chain_continues_over_a_redirect_that_sets_nothing() -> None:
    cookies = Cookies()
    third = follow(cookies, "/3", request=follow(cookies, "/2", "a=1; Path=/"))
    assert cookies.header(third) == "a=1"


def test_no_cookie_outlives_its_chain() -> None:
    cookies = Cookies()
    follow(cookies, "/2", "a=1; Path=/")
    assert cookies.header(FIRST) == ""
    assert (
        cookies.header(Request(url="http://a.example/other.jpg", kind="image", target="http://a.example/2", hops=1))
        == ""
    )
    second = follow(cookies, "/2", "a=1; Path=/")
    cookies.learn(second, redirect(second, "", status=200))
    assert cookies.header(second) == ""


def test_a_chain_that_left_its_origin_ends_even_if_it_returns() -> None:
    cookies = Cookies()
    second = follow(cookies, "http://b.example/", "a=1; Path=/")
    third = follow(cookies, "http://a.example/", request=second)
    assert cookies.header(third) == ""


def test_the_size_of_the_cookie_header_is_limited() -> None:
    cookies = Cookies()
    many = follow(cookies, "/2", *(f"n{n}=1; Path=/" for n in range(30)))
    assert cookies.header(many).count("=") == 20
    assert cookies.header(follow(cookies, "/2", *(f"n{n}={'x' * 4_000}; Path=/" for n in range(3)))) == ""


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=60), max_size=5))
def test_any_set_cookie_gives_a_harmless_header(lines: list[str]) -> None:
    cookies = Cookies()
    header = cookies.header(
        follow(cookies, "/2", *lines, *(f"x={line}; Expires={line}; Max-Age={line}" for line in lines))
    )
    assert header.isascii() and header.isprintable()


# --- cookies of the user


FILE = """# Netscape HTTP Cookie File
.a.example\tTRUE\t/\tFALSE\t0\twide\t1
a.example\tFALSE\t/p\tFALSE\t0\tnarrow\t2
#HttpOnly_a.example\tFALSE\t/\tTRUE\t0\tsafe\t3
a.example\tFALSE\t/\tFALSE\t1\told\t4
"""


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://a.example/", {"wide=1"}),
        ("http://a.example/p/q", {"wide=1", "narrow=2"}),
        ("https://a.example/", {"wide=1", "safe=3"}),
        ("http://www.a.example/p", {"wide=1"}),
        ("http://a.example.evil.example/", set()),
        ("http://aa.example/", set()),
    ],
)
def test_a_user_s_cookie_is_sent_only_where_it_belongs(tmp_path: Path, url: str, sent: set[str]) -> None:
    path = tmp_path / "cookies.txt"
    path.write_text(FILE)
    assert set(filter(None, Cookies(path).header(Request(url=url)).split("; "))) == sent


def test_a_chain_sends_the_user_s_cookies_too_and_stores_none(tmp_path: Path) -> None:
    path = tmp_path / "cookies.txt"
    path.write_text(FILE)
    cookies = Cookies(path)
    assert set(cookies.header(follow(cookies, "/2", "a=1; Path=/")).split("; ")) == {"wide=1", "a=1"}
    assert cookies.header(Request(url="http://a.example/")) == "wide=1"
    assert path.read_text() == FILE


@pytest.mark.parametrize("text", [None, "no cookies", "# Netscape HTTP Cookie File\na.example\tTRUE\n", "\xff\xfe"])
def test_an_unreadable_file_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "mine.txt"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine\.txt"):
        Cookies(path)
