"""The interface of fetchers: the promises of a Response, for every implementation."""

from typing import Any

import pytest

from crawler.errors import RequestFailed
from crawler.handler import redirected
from crawler.model import Request
from crawler.net.fetcher import Canned, CannedFetcher, Conditions, Fetcher, Response, TransferLimits, retry_after
from crawler.net.requests_fetcher import RequestsFetcher

URL = "http://site.example/a/b.html"
DATE = "Tue, 01 Sep 2026 10:00:00 GMT"


def answer(max_bytes: int = 1000, **canned: Any) -> Response:
    return CannedFetcher({URL: Canned(**canned)}).fetch(Request(url=URL), Conditions(max_bytes=max_bytes))


def failed(response: Response) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        response.raise_for_status()
    return caught.value


def test_canned_and_real_fetchers_implement_the_interface() -> None:
    fetchers: list[Fetcher] = [CannedFetcher({}), RequestsFetcher(TransferLimits(), "test")]
    assert all(callable(fetcher.fetch) for fetcher in fetchers)


def test_canned_responses_are_recorded_and_unknown_urls_are_404() -> None:
    fetcher = CannedFetcher({URL: Canned(body=b"hello")})
    with fetcher.fetch(Request(url="http://site.example/", target=URL), Conditions()) as known:
        assert (known.status, known.url, known.read(), known.received) == (200, URL, b"hello", 5)
    assert fetcher.fetch(Request(url="http://site.example/no"), Conditions()).status == 404
    assert fetcher.fetched == [URL, "http://site.example/no"]


def test_canned_failures_are_raised() -> None:
    with pytest.raises(RequestFailed, match="dns"):
        CannedFetcher({URL: RequestFailed("dns")}).fetch(Request(url=URL), Conditions())


def test_header_names_are_case_insensitive() -> None:
    assert answer(headers={"Content-TYPE": "image/png"}).headers["content-type"] == "image/png"


def test_a_body_as_long_as_the_cap_is_read_completely() -> None:
    assert answer(body=b"x" * 1000).read() == b"x" * 1000


def test_a_body_over_the_cap_is_refused_after_reading_the_cap() -> None:
    pieces: list[bytes] = []
    with pytest.raises(RequestFailed) as caught:
        pieces += answer(body=b"x" * 1001).chunks()
    assert (caught.value.reason, caught.value.retryable) == ("too-large", False)
    assert sum(map(len, pieces)) <= 1000


def test_a_content_length_over_the_cap_is_refused_unread() -> None:
    response = answer(headers={"content-length": "1001"})
    with pytest.raises(RequestFailed, match="too-large: the response has 1001 bytes"):
        response.read()
    assert response.received == 0


@pytest.mark.parametrize("length", ["", "-5", "many", "٣", "9" * 400, "10, 20"])
def test_an_invalid_content_length_is_ignored(length: str) -> None:
    assert answer(headers={"content-length": length}, body=b"ok").read() == b"ok"


@pytest.mark.parametrize("status", [200, 204, 299])
def test_a_successful_response_raises_no_failure(status: int) -> None:
    response = answer(status=status)
    response.raise_for_status()
    assert response.status == status


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 522, 524])
def test_temporary_errors_may_be_retried(status: int) -> None:
    error = failed(answer(status=status))
    assert (error.reason, error.http_status, error.retryable) == (f"http-{status}", status, True)
    assert error.overloaded == (status in (429, 503))


@pytest.mark.parametrize("status", [206, 304, 400, 401, 403, 404, 410, 451, 501, 505])
def test_permanent_errors_are_not_retried(status: int) -> None:
    error = failed(answer(status=status))
    assert (error.reason, error.retryable, error.host_wait) == (f"http-{status}", False, None)


def test_an_overloaded_response_has_the_wait_of_its_header() -> None:
    assert failed(answer(status=429, headers={"Retry-After": "120"})).host_wait == 120
    assert failed(answer(status=503)).host_wait is None


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": " 7 "}, 7),
        ({"retry-after": "Tue, 01 Sep 2026 10:01:00 GMT", "date": DATE}, 60),
        ({"retry-after": "Tue, 01 Sep 2026 09:00:00 GMT", "date": DATE}, 0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:30 GMT"}, 20),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:30 -0000", "date": "yesterday"}, 20),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "1e3"}, None),
        ({"retry-after": "9" * 5000}, None),
        ({"retry-after": "Fri, 99 Foo 99999 99:99:99 GMT"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_of_the_servers_clock(headers: dict[str, str], wait: float | None) -> None:
    assert retry_after(headers, now=10.0) == wait


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/c", "http://site.example/c"),
        ("../d?e", "http://site.example/d?e"),
        ("https://other.example", "https://other.example/"),
        ("//other.example/x", "http://other.example/x"),
        ("/b\u00c3\u00bccher", "http://site.example/b%C3%BCcher"),  # UTF-8 on the wire, read as Latin-1
        ("/caf\u00e9", "http://site.example/caf%C3%A9"),
    ],
)
def test_location_is_resolved_as_in_browsers(location: str, target: str) -> None:
    assert answer(status=302, headers={"Location": location}).location == target


@pytest.mark.parametrize(("status", "location"), [(200, "/c"), (304, "/c"), (302, "")])
def test_a_response_that_is_no_redirect_has_no_location(status: int, location: str) -> None:
    assert answer(status=status, headers={"Location": location}).location is None


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("ftp://site.example/", "unsupported-scheme"),
        ("\tJavaScript:alert(1)", "unsupported-scheme"),
        ("data:image/png,x", "unsupported-scheme"),
        ("http://site.example:99999/", "bad-url"),
        ("http://[::1", "bad-url"),
    ],
)
def test_a_redirect_to_an_unsupported_url_fails(location: str, reason: str) -> None:
    with pytest.raises(RequestFailed) as caught:
        _ = answer(status=301, headers={"Location": location}).location
    assert caught.value.reason == reason


def test_a_redirect_changes_the_target_of_the_request() -> None:
    request = Request(url=URL, kind="image", alt="cat", hops=1)
    outcome = redirected(request, answer(status=307, headers={"Location": "http://u:p@other.example/x#y"}), limit=5)
    assert outcome.status == "moved"
    assert outcome.successor == Request(url=URL, kind="image", alt="cat", hops=2, target="http://other.example/x")
    assert outcome.latency > 0


def test_redirects_end_at_the_limit_even_in_a_loop() -> None:
    request = Request(url=URL)
    for _ in range(5):
        successor = redirected(request, answer(status=302, headers={"Location": URL}), limit=5).successor
        assert successor is not None
        request = successor
    with pytest.raises(RequestFailed, match="redirect-limit"):
        redirected(request, answer(status=302, headers={"Location": URL}), limit=5)


def test_a_redirect_to_an_overlong_url_fails() -> None:
    with pytest.raises(RequestFailed, match="bad-url"):
        redirected(Request(url=URL), answer(status=302, headers={"Location": "/" + "x" * 9000}), limit=5)


def test_elapsed_ends_with_the_last_byte() -> None:
    ticks = iter([7.0, 8.0, 100.0])
    body = CannedFetcher({URL: Canned()}).fetch(Request(url=URL), Conditions())
    response = Response(
        URL, 200, headers={}, body=body._body, conditions=Conditions(), started=5.0, clock=lambda: next(ticks)
    )
    assert response.elapsed == 2.0
    response.read()
    assert (response.elapsed, response.elapsed) == (3.0, 3.0)
