"""Referrer policies of the W3C: their values, their places, and their effects."""

import pytest

from crawler.harvest.harvester import Harvester
from crawler.model import ReferrerPolicy, Request
from crawler.net.fetcher import Canned, CannedFetcher
from crawler.net.referrer import element_policy, header_policy, meta_policy, referrer_for

PAGE = "https://u:p@a.example/dir/page?q#top"
WHOLE, ORIGIN = "https://a.example/dir/page?q", "https://a.example/"
SAME, CROSS, OPEN = "https://a.example/1.png", "https://b.example/1.png", "http://a.example/1.png"


@pytest.mark.parametrize(
    ("policy", "same", "cross", "out_of_tls"),
    [
        ("", WHOLE, ORIGIN, ""),
        ("no-referrer", "", "", ""),
        ("no-referrer-when-downgrade", WHOLE, WHOLE, ""),
        ("same-origin", WHOLE, "", ""),
        ("origin", ORIGIN, ORIGIN, ORIGIN),
        ("strict-origin", ORIGIN, ORIGIN, ""),
        ("origin-when-cross-origin", WHOLE, ORIGIN, ORIGIN),
        ("strict-origin-when-cross-origin", WHOLE, ORIGIN, ""),
        ("unsafe-url", WHOLE, WHOLE, WHOLE),
    ],
)
def test_each_policy_sends_these_referrers(policy: ReferrerPolicy, same: str, cross: str, out_of_tls: str) -> None:
    assert [referrer_for(PAGE, location, policy) for location in (SAME, CROSS, OPEN)] == [same, cross, out_of_tls]


def test_an_overlong_url_is_reduced_to_its_origin() -> None:
    assert referrer_for(ORIGIN + "x" * 4_096, CROSS, "unsafe-url") == ORIGIN


@pytest.mark.parametrize(
    ("value", "policy"),
    [
        ("no-referrer", "no-referrer"),
        (" Same-Origin ", "same-origin"),
        ("no-referrer, strict-origin, of-the-future", "strict-origin"),
        ("never", ""),
        ("", ""),
        ("\xff,,;", ""),
    ],
)
def test_the_last_known_policy_of_a_header_counts(value: str, policy: str) -> None:
    assert header_policy(value) == policy


@pytest.mark.parametrize(
    ("content", "policy"),
    [("never", "no-referrer"), ("ALWAYS", "unsafe-url"), (" origin ", "origin"), ("origin, origin", ""), ("x", "")],
)
def test_a_meta_element_has_one_policy(content: str, policy: str) -> None:
    assert meta_policy(content) == policy


@pytest.mark.parametrize(
    ("attributes", "policy"),
    [
        ({"referrerpolicy": "Origin"}, "origin"),
        ({"referrerpolicy": "never"}, ""),
        ({"rel": "noopener NoReferrer", "referrerpolicy": "unsafe-url"}, "no-referrer"),
        ({"rel": "noreferrers"}, ""),
    ],
)
def test_policies_of_elements_are_read(attributes: dict[str, str], policy: str) -> None:
    assert element_policy(attributes) == policy


def policies(html: str, source: str = "", type_: str = "text/html", **headers: str) -> dict[str, str]:
    """Return last letter of each URL found in a document at ``/`` → its policy."""
    url = "http://a.example/"
    headers = {"content-type": type_, **{name.replace("_", "-"): value for name, value in headers.items()}}
    fetcher = CannedFetcher({url: Canned(body=html.encode(), headers=headers)})
    request = Request(url=url, seed=url, source=source, referrer=f"{url}page", referrer_policy="same-origin")
    return {found.url[-5]: found.referrer_policy for found in Harvester(fetcher).handle(request).discovered}


def test_the_page_s_policy_applies_to_all_its_references() -> None:
    html = "<img src=1.png><a href=2.htm><link rel=stylesheet href=3.css><iframe src=4.htm></iframe>"
    assert policies(html) == dict.fromkeys("1234", "")
    assert policies(html, referrer_policy="origin") == dict.fromkeys("1234", "origin")
    assert policies(html + "<meta name=Referrer content=never>", referrer_policy="origin") == dict.fromkeys(
        "1234", "no-referrer"
    )


def test_an_element_s_own_policy_takes_precedence() -> None:
    html = """<meta name=referrer content=origin><img src=1.png referrerpolicy=no-referrer><img src=2.png>
    <a href=3.htm rel=noreferrer></a><a href=4.htm referrerpolicy=unsafe-url></a><a href=5.htm></a>
    <picture><source srcset=6.png><img src=7.png referrerpolicy=same-origin></picture>
    <link rel=stylesheet href=8.css referrerpolicy=no-referrer>"""
    assert policies(html) == {
        "1": "no-referrer", "2": "origin", "3": "no-referrer", "4": "unsafe-url", "5": "origin", "6": "same-origin",
        "8": "no-referrer",
    }  # fmt: skip


def test_a_document_in_a_frame_does_not_set_the_policy_of_the_page() -> None:
    html = '<iframe srcdoc="<meta name=referrer content=never><img src=1.png>"></iframe><img src=2.png>'
    assert policies(html, referrer_policy="origin") == {"1": "origin", "2": "origin"}


def test_the_pictures_of_a_style_sheet_never_get_more_than_the_policy_of_its_page_allows() -> None:
    sheet = "i { background: url(1.png) }"
    assert policies(sheet, "sheet", "text/css", referrer_policy="unsafe-url") == {"1": "same-origin"}


def test_a_redirect_may_change_the_policy() -> None:
    url = "http://a.example/"
    moved = Canned(status=302, headers={"location": "/2", "referrer-policy": "no-referrer"})
    silent = Canned(status=302, headers={"location": "/2"})
    for answer, expected in ((moved, "no-referrer"), (silent, "origin")):
        request = Request(url=url, referrer_policy="origin", seed=url)
        successor = Harvester(CannedFetcher({url: answer})).handle(request).successor
        assert successor is not None and successor.referrer_policy == expected
