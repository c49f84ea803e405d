"""Robots directives: their syntax, the agents they name, and their effects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.robots.directives import (
    NO_IMAGES,
    NO_LINKS,
    header_directives,
    names,
    objection,
    product_tokens,
    read_directives,
    tdm_directives,
    together,
)

NOW = 1_700_000_000.0
UA = "ImgCrawler/1.0 (+https://a.example/bot)"


def against(*headers: str, agent: str = UA, now: float = NOW) -> str:
    """Return the directive of these ``X-Robots-Tag`` headers that forbids a picture."""
    return objection(header_directives(headers), NO_IMAGES, agent, now)


# --- reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NoIndex , NOFOLLOW", {"noindex", "nofollow"}),
        ("noindex nofollow", {"noindex", "nofollow"}),
        ("", set()),
        (",,:,", set()),
        ("max-image-preview: none, noarchive", {"max-image-preview:none", "noarchive"}),
        ("googlebot: noindex", {"googlebot:noindex"}),
        ("otherbot: noindex, nofollow", {"otherbot:noindex", "otherbot:nofollow"}),
        ("googlebot: none, imgcrawler: noai", {"googlebot:none", "imgcrawler:noai"}),
        ("googlebot: nofollow, noai", {"googlebot:nofollow", "noai"}),
        ("otherbot: noai noimageai", {"otherbot:noai", "otherbot:noimageai"}),
        ("otherbot: noarchive", set()),
        ("*: noai", {"noai"}),
        ("robots: noindex", {"noindex"}),
    ],
)
def test_directives_are_read(text: str, expected: set[str]) -> None:
    assert read_directives(text) == expected


def test_directives_for_one_agent_are_kept_separate() -> None:
    assert read_directives("noindex, noai, noarchive", "otherbot") == {"otherbot:noindex", "otherbot:noai"}


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("25 Jun 2010 15:00:00 PST", 1_277_506_800),
        ("Fri, 25 Jun 2010 15:00:00 GMT", 1_277_478_000),
        ("Friday, 25-Jun-10 15:00:00 UTC", 1_277_478_000),
        ("25 Jun 2010 17:00 +0200", 1_277_478_000),
        ("25 June 2010", 1_277_424_000),
        ("2010-06-25", 1_277_424_000),
        ("2010-06-25T15:00:00Z", 1_277_478_000),
        ("2010-06-25 17:00:00+02:00", 1_277_478_000),
        ("1 Jan 1960 00:00:00 GMT", 0),
    ],
)
def test_dates_are_read_in_the_usual_formats(date: str, seconds: int) -> None:
    expected = {f"unavailable_after:{seconds}", "noai"}
    assert read_directives(f"unavailable_after: {date}, noai") == expected
    assert f"otherbot:unavailable_after:{seconds}" in read_directives(f"otherbot: unavailable_after:{date}")


@pytest.mark.parametrize("date", ["soon", "", "31 Feb 2010 10:00:00", "2010-13-01", "25 Jun 99999", "10:00"])
def test_an_invalid_date_hides_no_other_directive(date: str) -> None:
    assert "noindex" in read_directives(f"unavailable_after: {date}, noindex")
    assert not [word for word in read_directives(f"unavailable_after: {date}") if word.startswith("unavailable_after:")]


@pytest.mark.parametrize("value", ["1", " 1 ", "0, 1", "1,1"])
def test_a_reservation_in_any_header_counts(value: str) -> None:
    assert objection(header_directives([], [value]), NO_IMAGES, UA, NOW) == "tdm-reservation:1"


@pytest.mark.parametrize("value", ["0", "", "yes", "11"])
def test_other_values_reserve_nothing(value: str) -> None:
    assert not objection(header_directives([], [value]), NO_IMAGES, UA, NOW)


# --- agents


@pytest.mark.parametrize(
    ("user_agent", "tokens"),
    [
        ("foobot", {"foobot"}),
        ("Foobot/1.0 (+http://f.example/)", {"foobot"}),
        ("Mozilla/5.0 (compatible; Foobot/1.0; +http://f/)", {"foobot"}),
        ("Mozilla/5.0", {"mozilla"}),
        ("", set()),
    ],
)
def test_the_products_of_a_header_are_found(user_agent: str, tokens: set[str]) -> None:
    assert product_tokens(user_agent) == tokens


def test_a_name_counts_with_and_without_its_version() -> None:
    assert names("Foobot/2.1") == names("foobot") == {"foobot"}
    assert names("Foobot2") == {"foobot", "foobot2"}
    assert names("") == names("*") == set()


@pytest.mark.parametrize(
    "written", ["foobotä", "Foobot%C3%A4/1", "foobot%E4", "foobotя", "foobot\u0301x", "%C3%A4foobot"]
)
def test_a_name_with_letters_of_other_scripts_is_not_cut_to_another_name(written: str) -> None:
    assert "foobot" not in names(written)


@pytest.mark.parametrize("written", ["foobot\xa0", "Foobot%C2%A0", "foobot%A0x", "foobot\u200b", "foobot%20x"])
def test_a_name_ends_where_its_letters_end(written: str) -> None:
    assert "foobot" in names(written)


@pytest.mark.parametrize("written", ["imgcrawler", "ImgCrawler", "imgcrawler/2.0", "ImgCrawler2", "*", "robots"])
def test_these_names_are_ours(written: str) -> None:
    assert against(f"{written}: noai")


@pytest.mark.parametrize("written", ["img", "imgcrawler-news", "crawler", "bot", "mozilla"])
def test_these_names_are_not_ours(written: str) -> None:
    assert not against(f"{written}: noai", agent=f"Mozilla/5.0 (compatible; {UA})")


# --- effects


@pytest.mark.parametrize(
    "headers",
    [
        *(["noindex"], ["none"], ["NoAI"], ["noml"], ["all", "noimageai"], ["nofollow , noimageindex"]),
        *(["imgcrawler: noai"], ["ImgCrawler:noindex"], ["*: noai"], ["googlebot: noindex, imgcrawler: noai"]),
        *(["unavailable_after: 25 Jun 2090 15:00:00 PST, noai"], ["max-image-preview:none, noai"]),
        *(["googlebot: nofollow, noai"], ["noarchive noai"], ["imgcrawler : nofollow noindex"], ["index, noindex"]),
        *(["googlebot: noindex", "noindex"], ["unavailable_after: 25 Jun 2010"], ["imgcrawler: nofollow, noindex"]),
    ],
)
def test_these_directives_forbid_a_picture(headers: list[str]) -> None:
    assert against(*headers)
    assert against(*headers, agent="imgcrawler")


@pytest.mark.parametrize(
    "headers",
    [
        *([], [""], [":"], [",,"], ["all"], ["nofollow, noarchive"], ["noaircraft"], ["unavailable_after: 1 Jan 2090"]),
        *(["googlebot: noindex"], ["otherbot: noai", "index"], ["max-image-preview:none"], ["max-snippet: 0"]),
        *(["otherbot: nofollow, noindex"], ["otherbot: unavailable_after: 1 Jan 2010"]),
    ],
)
def test_these_directives_do_not(headers: list[str]) -> None:
    assert not against(*headers)


def test_the_objection_is_the_directive_itself() -> None:
    assert against("nofollow, imgcrawler: noimageai") == "imgcrawler:noimageai"


def test_a_date_means_noindex_once_it_is_past_and_does_not_affect_links() -> None:
    found = read_directives("unavailable_after: 2010-06-25")
    assert objection(found, NO_IMAGES, UA, 1_277_424_000.0) == "unavailable_after:1277424000"
    assert not objection(found, NO_IMAGES, UA, 1_277_423_999.0)
    assert not objection(found, NO_LINKS, UA, NOW)


@pytest.mark.parametrize(
    ("word", "concerns"), [("nofollow", True), ("none", True), ("noindex", False), ("noai", False)]
)
def test_these_directives_concern_links(word: str, concerns: bool) -> None:
    assert bool(objection({word}, NO_LINKS, UA, NOW)) is concerns


@pytest.mark.parametrize(("header", "page", "is_reserved"), [("1", "0", False), ("0", "1", True), ("1", "", True)])
def test_the_reservation_of_the_page_overrides_the_header(header: str, page: str, is_reserved: bool) -> None:
    found = together(header_directives(["noarchive"], [header]), tdm_directives(page))
    assert bool(objection(found, NO_IMAGES, UA, NOW)) is is_reserved
    assert "noarchive" in found


# --- properties


@given(st.text() | st.text("noaindex,:* -0123456789jun:t").map("unavailable_after: ".__add__), st.text(max_size=5))
def test_any_text_is_read_without_an_exception(text: str, agent: str) -> None:
    found = read_directives(text, agent.lower())
    assert all(word == word.lower() for word in found)
    assert objection(found, NO_IMAGES, agent, NOW) in found | {""}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("piece", ["unavailable_after:", "unavailable_after: fri, 25 ", "a ", "a: ", "max-", " "])
def test_only_the_beginning_of_a_long_text_is_read(piece: str) -> None:
    assert len(read_directives(piece * 1_000_000)) <= 4_000
