"""The harvester: from one request to one outcome, with a fetcher that uses no network."""

from collections.abc import Callable
from typing import Any

import pytest

from crawler.errors import RequestFailed
from crawler.harvest.discovery import DiscoveryRules
from crawler.harvest.harvester import MAX_REDIRECTS, Harvester
from crawler.harvest.html import extract
from crawler.model import Outcome, Request
from crawler.net.fetcher import Canned, CannedFetcher, Conditions, Response
from crawler.net.headers import Headers

URL = "http://a.example/dir/page"
SEED = Request(url=URL, seed=URL, source="list")
DEEP = Request(url=URL, seed="http://a.example/", referrer="http://a.example/", depth=3, priority=7, source="a")

Harvest = Callable[..., Outcome]


def harvest(
    body: str = "", request: Request = SEED, *, headers: dict[str, str] | None = None, **options: Any
) -> Outcome:
    answer = Canned(headers={"Content-Type": "text/html", **(headers or {})}, body=body.encode())
    rules = DiscoveryRules(
        **{name: options.pop(name) for name in list(options) if name in DiscoveryRules.__struct_fields__}
    )
    return Harvester(CannedFetcher({request.location: answer}), rules, **options).handle(request)


def images(outcome: Outcome) -> list[str]:
    return [request.url for request in outcome.discovered if request.kind == "image"]


def links(outcome: Outcome) -> list[str]:
    return [request.url for request in outcome.discovered if request.kind == "page"]


# --- found requests


def test_an_image_is_requested_with_all_its_properties() -> None:
    html = "<figure><img src=/x.jpg alt=Cat title=T><figcaption>C</figcaption></figure>"
    assert harvest(html, DEEP).discovered == (
        Request(
            url="http://a.example/x.jpg",
            kind="image",
            depth=3,
            priority=7,
            seed="http://a.example/",
            referrer=URL,
            source="img",
            alt="Cat",
            title="T",
            caption="C",
        ),
    )


def test_a_link_is_requested_one_step_deeper() -> None:
    expected = Request(
        url="http://a.example/x", depth=4, priority=7, seed="http://a.example/", referrer=URL, source="a"
    )
    assert harvest("<a href=/x#part>", DEEP).discovered == (expected,)


def test_images_come_first_and_each_request_once() -> None:
    outcome = harvest("<a href=/p><img src=/1><img src=/1#x><a href=/p#x><img src=/2><a href=>")
    assert [request.url.rpartition("/")[2] for request in outcome.discovered] == ["1", "2", "p"]


def test_one_candidate_or_all_are_requested() -> None:
    html = "<img srcset='/1 1x, /2 2x' src=/3>"
    assert images(harvest(html)) == ["http://a.example/2"]
    assert len(images(harvest(html, candidates="all"))) == 3


def test_a_refresh_in_the_header_is_followed() -> None:
    assert links(harvest("", headers={"Refresh": "0; url=/next"})) == ["http://a.example/next"]
    assert links(harvest("<meta name=robots content=nofollow>", headers={"Refresh": "0; url=/next"})) == []


def test_images_may_be_on_any_site_and_links_only_in_scope() -> None:
    html = "<img src=//cdn.example/x.jpg><a href=//cdn.example/><a href=/other><a href=sub>"
    assert images(harvest(html, scope="page")) == ["http://cdn.example/x.jpg"]
    assert links(harvest(html)) == ["http://a.example/other", "http://a.example/dir/sub"]
    assert links(harvest(html, scope="path")) == ["http://a.example/dir/sub"]
    assert len(links(harvest(html, scope="any"))) == 3


@pytest.mark.parametrize(("max_depth", "expected"), [(0, 0), (3, 0), (4, 1), (None, 1)])
def test_links_end_at_the_maximum_depth(max_depth: int | None, expected: int) -> None:
    assert len(links(harvest("<a href=/x>", DEEP, max_depth=max_depth))) == expected


@pytest.mark.parametrize("name", ["x.jpg", "x.PDF", "x.zip?y", "x.mp4", "x.css"])
def test_a_file_that_is_no_page_is_not_followed(name: str) -> None:
    assert links(harvest(f"<a href=/{name}>")) == []


@pytest.mark.parametrize("name", ["x", "x.html", "x.php?f=a.jpg", "x.com/", "v1.2"])
def test_any_other_link_may_be_a_page(name: str) -> None:
    assert links(harvest(f"<a href=/{name}>")) == [f"http://a.example/{name}"]


def test_a_nofollow_link_is_not_followed() -> None:
    assert links(harvest("<a href=/x rel=nofollow><a href=/y>")) == ["http://a.example/y"]


def test_overlong_urls_are_dropped() -> None:
    assert harvest(f"<img src=/{'é' * 2_000}><a href=/{'x' * 9_000}>").discovered == ()


# --- opt-outs


@pytest.mark.parametrize("word", ["noindex", "noimageindex", "noai", "noimageai", "noml"])
@pytest.mark.parametrize("name", ["robots", "imgcrawler"])
def test_images_of_a_page_that_opts_out_are_not_requested(name: str, word: str) -> None:
    outcome = harvest(f"<meta name={name} content={word}><img src=x><a href=/y>")
    assert (outcome.status, outcome.reason) == ("done", "opted-out")
    assert (images(outcome), links(outcome)) == ([], ["http://a.example/y"])


def test_links_of_a_page_that_says_nofollow_are_not_followed() -> None:
    outcome = harvest("<meta name=robots content=nofollow><img src=x><a href=/y>")
    assert (outcome.reason, images(outcome), links(outcome)) == ("", ["http://a.example/dir/x"], [])


def test_none_means_neither() -> None:
    outcome = harvest("<meta name=robots content=none><img src=x><a href=/y>")
    assert (outcome.reason, outcome.discovered) == ("opted-out", ())


def test_directives_in_the_header_count_like_those_in_the_page() -> None:
    outcome = harvest("<img src=x>", headers={"X-Robots-Tag": "otherbot: nofollow, noai"})
    assert (outcome.reason, outcome.discovered) == ("opted-out", ())


def test_headers_are_read_separately() -> None:
    headers = Headers([("X-Robots-Tag", "otherbot: nofollow"), ("X-Robots-Tag", "noindex")])
    answer = Canned(headers=headers, body=b"<img src=x>")  # type: ignore[arg-type]
    assert Harvester(CannedFetcher({URL: answer})).handle(SEED).reason == "opted-out"
    assert harvest("<img src=x>", headers={"X-Robots-Tag": "otherbot: nofollow, noindex"}).reason == ""


def test_the_reservation_of_the_page_overrides_the_header() -> None:
    page, header = "<meta name=tdm-reservation content={}><img src=x>", {"tdm-reservation": "1"}
    assert harvest(page.format(1)).reason == "opted-out"
    assert (harvest(page.format(0), headers=header).reason, harvest(page, headers=header).reason) == ("", "opted-out")


def test_an_expired_page_names_no_images(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    html = "<meta name=robots content='unavailable_after: 2010-06-25'><img src=x><a href=/y>"
    assert harvest(html, clock=lambda: 1_277_423_999.0).reason == ""
    assert len(harvest(html, clock=lambda: 1_277_424_000.0).discovered) == 1
    assert caplog.messages == [f"action=opt-out url={URL} directive=unavailable_after:1277424000"]


def test_a_full_user_agent_is_matched_by_its_product() -> None:
    assert harvest("<meta name=imgcrawler content=noai><img src=x>", agent="imgcrawler/0.1 (+me)").reason == "opted-out"


def test_directives_for_other_agents_do_not_apply_to_us() -> None:
    html = "<meta name=googlebot content=none><img src=x><a href=/y>"
    assert len(harvest(html).discovered) == 2
    assert harvest(html, agent="GoogleBot").discovered == ()


# --- redirects


def redirect(request: Request, location: str, **options: Any) -> Outcome:
    answer = Canned(status=302, headers={"Location": location})
    rules = DiscoveryRules(
        **{name: options.pop(name) for name in list(options) if name in DiscoveryRules.__struct_fields__}
    )
    return Harvester(CannedFetcher({request.location: answer}), rules, **options).handle(request)


def test_a_redirect_continues_the_same_request() -> None:
    outcome = redirect(DEEP, "/new#x")
    assert outcome.status == "moved"
    assert outcome.successor is not None
    assert (outcome.successor.url, outcome.successor.target) == (URL, "http://a.example/new")
    assert outcome.successor.hops == 1


def test_a_page_redirected_out_of_scope_is_filtered() -> None:
    outcome = redirect(DEEP, "http://b.example/")
    assert (outcome.status, outcome.reason, outcome.successor) == ("done", "filtered", None)


def test_a_redirected_seed_defines_the_scope() -> None:
    moved = redirect(SEED, "http://b.example/start").successor
    assert moved is not None
    outcome = harvest("<img src=x><a href=/in><a href=http://a.example/out>", moved)
    assert {request.seed for request in outcome.discovered} == {"http://b.example/start"}
    assert {request.referrer for request in outcome.discovered} == {"http://b.example/start"}
    assert links(outcome) == ["http://b.example/in"]


@pytest.mark.parametrize(
    ("location", "hops", "reason"),
    [
        ("/x", MAX_REDIRECTS, "redirect-limit"),
        ("ftp://a.example/", 0, "unsupported-scheme"),
        ("http://[", 0, "bad-url"),
    ],
)
def test_a_redirect_without_a_target_fails(location: str, hops: int, reason: str) -> None:
    outcome = redirect(Request(url=URL, hops=hops), location)
    assert (outcome.status, outcome.reason) == ("done", reason)


# --- other content


@pytest.mark.parametrize("content_type", ["text/html", "Application/XHTML+XML; charset=utf-8", ""])
def test_html_and_untyped_content_are_read(content_type: str) -> None:
    assert len(harvest("<img src=x>", headers={"Content-Type": content_type}).discovered) == 1


@pytest.mark.parametrize("content_type", ["application/pdf", "text/plain", "video/mp4", "nonsense"])
def test_anything_else_is_not_read(content_type: str) -> None:
    outcome = harvest("<img src=x>", headers={"Content-Type": content_type})
    assert (outcome.status, outcome.reason, outcome.received) == ("done", "unsupported-format", 0)


@pytest.mark.parametrize(("request_", "source"), [(SEED, "seed"), (DEEP, "link")])
def test_an_image_at_the_url_of_a_page_is_an_image(request_: Request, source: str) -> None:
    outcome = harvest("JFIF", request_, headers={"Content-Type": "image/jpeg"})
    (image,) = outcome.discovered
    assert (image.kind, image.url, image.source) == ("image", URL, source)
    assert (image.depth, image.referrer) == (request_.depth, request_.referrer)
    assert outcome.reason == ""


def test_an_image_behind_a_redirect_is_requested_at_its_target() -> None:
    moved = Request(url=URL, target="http://a.example/real", hops=2)
    (image,) = harvest("JFIF", moved, headers={"Content-Type": "image/png"}).discovered
    assert (image.url, image.target, image.hops) == ("http://a.example/real", "", 0)


# --- failures and statistics


@pytest.mark.parametrize(
    ("status", "outcome", "overloaded"), [(404, "done", False), (500, "retry", False), (503, "retry", True)]
)
def test_an_error_status_is_a_failure(status: int, outcome: str, overloaded: bool) -> None:
    answer = Canned(status=status, headers={"Retry-After": "7"}, body=b"<img src=x>")
    result = Harvester(CannedFetcher({URL: answer})).handle(SEED)
    assert (result.status, result.reason, result.overloaded) == (outcome, f"http-{status}", overloaded)
    assert (result.host_wait, result.discovered) == (7.0 if overloaded else None, ())


def test_a_failed_fetch_is_an_outcome() -> None:
    fetcher = CannedFetcher({URL: RequestFailed("dns", retryable=True)})
    outcome = Harvester(fetcher).handle(SEED)
    assert (outcome.status, outcome.reason, outcome.record) == ("retry", "dns", None)


def test_a_page_too_large_fails() -> None:
    outcome = harvest("x" * 1_001, max_page_bytes=1_000)
    assert (outcome.status, outcome.reason) == ("done", "too-large")


class Ending:
    """A body that ends with an error."""

    received = 0

    def __init__(self, data: bytes, fault: RequestFailed) -> None:
        self._pieces, self._fault = [data], fault

    def read(self, size: int) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        raise self._fault

    def close(self) -> None:
        pass


def cut_short(fault: RequestFailed, html: str = "<img src=/1.png><a href=/next>", **headers: str) -> Outcome:
    class Fetcher:
        def fetch(self, request: Request, conditions: Conditions) -> Response:
            fields = {"content-type": "text/html", **headers}
            body = Ending(html.encode(), fault)
            return Response(request.location, 200, headers=fields, body=body, conditions=conditions)

    return Harvester(Fetcher()).handle(SEED)


@pytest.mark.parametrize("reason", ["too-large", "decompression-limit", "corrupt"])
def test_the_beginning_of_an_incomplete_page_is_used(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    outcome = cut_short(RequestFailed(reason))
    assert (outcome.status, outcome.reason) == ("done", "")
    assert [found.url for found in outcome.discovered] == ["http://a.example/1.png", "http://a.example/next"]
    assert "is incomplete" in caplog.text


@pytest.mark.parametrize("reason", ["truncated", "too-slow", "timeout"])
def test_an_interrupted_page_is_retried_and_its_beginning_is_used(reason: str) -> None:
    outcome = cut_short(RequestFailed(reason, retryable=True))
    assert (outcome.status, outcome.reason) == ("retry", reason)
    assert len(outcome.discovered) == 2


def test_an_empty_beginning_is_a_failure() -> None:
    assert cut_short(RequestFailed("too-large"), "<p>").reason == "too-large"
    assert cut_short(RequestFailed("cancelled")).discovered == ()


def test_a_large_content_length_is_no_reason_to_refuse_a_page() -> None:
    outcome = harvest("<img src=x>", headers={"Content-Length": "999999999999"})
    assert (outcome.reason, len(outcome.discovered)) == ("", 1)


@pytest.mark.parametrize(
    ("content_type", "is_read"),
    [
        ("text/html, text/html; charset=utf-8", True),
        ("text/plain, text/html", True),
        ("text/html, text/plain", False),
        ("text/html, */*", True),
        ("text/html, nonsense", True),
        ("nonsense, text/html", True),
        ('text/html; charset="a,b"', True),
        ("TEXT/HTML ;x", True),
    ],
)
def test_of_several_types_the_last_counts(content_type: str, is_read: bool) -> None:
    assert bool(harvest("<img src=x>", headers={"Content-Type": content_type}).discovered) == is_read


def test_time_and_bytes_are_reported() -> None:
    outcome = harvest("<img src=x>")
    assert outcome.received == len("<img src=x>")
    assert outcome.latency > 0


def test_a_truncated_page_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(extract, "MAX_URLS", 1)
    assert len(harvest("<img src=1><img src=2>").discovered) == 1
    assert URL in caplog.text
