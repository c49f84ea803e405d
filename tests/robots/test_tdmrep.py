"""tdmrep.json: the paths that an origin reserves, and robustness against any bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.robots.tdmrep import MAX_BYTES, MAX_TEXT, parse_tdmrep, tdm_allowed, tdm_reserved

SITE = "https://site.example"


def rules(*pairs: tuple[str, object]) -> str:
    """Return the rules of a file in which each location has that ``tdm-reservation``."""
    return parse_tdmrep(json.dumps([{"location": path, "tdm-reservation": value} for path, value in pairs]).encode())


def reserved(location: str, path: str) -> bool:
    return not tdm_allowed(rules((location, 1)), f"{SITE}{path}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), (" 1 ", True), ("0", False), ("", None), ("2", None), ("true", None), ("01", None)],
)
def test_only_one_and_zero_are_valid_values(value: str, expected: bool | None) -> None:
    assert tdm_reserved(value) is expected


@pytest.mark.parametrize(
    ("location", "path", "expected"),
    [
        *[("/", "/", True), ("/", "/any/thing?x", True), ("", "/x", True), ("*", "/x", True)],
        *[("/a/", "/a/x.jpg", True), ("/a/", "/a", False), ("/a", "/ab", True), ("/A", "/a", False)],
        *[("/a/*.jpg", "/a/b/c.jpg", True), ("/a/*.jpg", "/a/c.jpg?w=1", True), ("/a/*.jpg", "/b/c.jpg", False)],
        *[("/a/*.jpg$", "/a/c.jpg", True), ("/a/*.jpg$", "/a/c.jpg?w=1", False), ("/a$", "/a", True)],
        *[("/a$", "/ab", False), ("/*a*a$", "/a", False), ("/*a*a$", "/aba", True), ("/*?*w=", "/x?h=1&w=2", True)],
        *[("images/", "/images/x", True), ("https://site.example/a", "/a/x", True), ("  /a ", "/a", True)],
        *[("/caf%C3%A9", "/café", True), ("/café", "/caf%c3%a9", True), ("/%7Ejoe", "/~joe", True)],
        *[("/foo-%24", "/foo-$", True), ("/a%2Ab", "/a*b", True), ("/a%2Ab", "/axb", False), ("/a%2Fb", "/a/b", False)],
    ],
)
def test_locations_match_as_in_robots_txt(location: str, path: str, expected: bool) -> None:
    assert reserved(location, path) is expected


def test_the_first_match_decides() -> None:
    found = rules(("/open/", 0), ("/", 1), ("/open/secret", 1))
    assert tdm_allowed(found, f"{SITE}/open/secret")
    assert not tdm_allowed(found, f"{SITE}/other")


@pytest.mark.parametrize("value", [2, -1, None, True, 1.0, "yes", [1], {}])
def test_a_rule_with_another_value_is_ignored(value: object) -> None:
    assert rules(("/", value)) == ""
    assert rules(("/", value), ("/a", "1")) == rules(("/a", 1))


def test_rules_without_effect_are_dropped() -> None:
    assert rules(("/a", 0), ("/b", 0)) == ""
    assert rules(("/a", 1), ("/b", 0)) == rules(("/a", 1))


def test_of_a_repeated_location_the_first_rule_counts() -> None:
    assert rules(("/a", 1), ("/a", 0), ("/a", 1)) == "Tdm-reservation: 1 /a\n"


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[1, [], {}]", b'[{"location": 1, "tdm-reservation": 1}]', b"<html>", b"[" * 100_000, b"\xff"],
)
def test_other_json_reserves_nothing(data: bytes) -> None:
    assert parse_tdmrep(data) == ""


def test_a_single_rule_without_brackets_and_a_byte_order_mark_are_accepted() -> None:
    assert parse_tdmrep(b'\xef\xbb\xbf{"location": "/", "tdm-reservation": 1}') == "Tdm-reservation: 1 /\n"


def test_a_location_can_not_forge_a_line() -> None:
    assert len(rules(("/a\nTdm-reservation: 0 /", 1), ("/b", 1)).splitlines()) == 2


def test_an_overlong_file_counts_as_missing_and_long_rules_are_cut_at_a_line() -> None:
    assert rules(("/" + "x" * MAX_BYTES, 1)) == ""
    found = rules(*((f"/{number:080}", 1) for number in range(4_000)))
    assert MAX_TEXT - 200 < len(found) <= MAX_TEXT
    assert found.endswith("\n")


def test_rules_may_be_mixed_with_those_of_robots_txt() -> None:
    text = "User-agent: *\nDisallow: /Tdm-reservation: 1 /\n" + rules(("/a", 1))
    assert (tdm_allowed(text, f"{SITE}/a"), tdm_allowed(text, f"{SITE}/")) == (False, True)


def test_many_stars_are_matched_quickly() -> None:
    assert not reserved("/" + "*a" * 60_000 + "b$", "/" + "a" * 8_000)
    assert reserved("/" + "*" * 60_000, "/" + "a" * 8_000)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.text("/*$%2a\n", max_size=6),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["location", "tdm-reservation", "x"]), values)
    ),
)


@given(st.binary() | _JSON.map(lambda value: json.dumps(value).encode()), st.text())
def test_no_bytes_and_no_url_raise(data: bytes, url: str) -> None:
    found = parse_tdmrep(data)
    assert found.isascii()
    assert all(line.startswith(("Tdm-reservation: 1 ", "Tdm-reservation: 0 ")) for line in found.splitlines())
    tdm_allowed(found, url)
