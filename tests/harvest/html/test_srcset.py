"""The srcset algorithm: splitting, descriptors, and hostile text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest.html.srcset import MAX_CANDIDATES, Candidate, parse_srcset


def urls(text: str) -> list[str]:
    return [candidate.url for candidate in parse_srcset(text)]


# --- splitting


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n\f\r ", []),
        (",, ,", []),
        ("a.jpg", ["a.jpg"]),
        ("  a.jpg  ", ["a.jpg"]),
        ("a.jpg, b.jpg", ["a.jpg", "b.jpg"]),
        ("a.jpg,b.jpg", ["a.jpg,b.jpg"]),
        ("a.jpg 1x,b.jpg 2x", ["a.jpg", "b.jpg"]),
        ("a.jpg,, b.jpg", ["a.jpg", "b.jpg"]),
        (",a.jpg", ["a.jpg"]),
        ("a.jpg\n1x,\n\tb.jpg\n2x", ["a.jpg", "b.jpg"]),
        ("a,b.jpg 1x, c.jpg 2x", ["a,b.jpg", "c.jpg"]),
        ("data:image/png;base64,AAAA 1x, b.jpg 2x", ["data:image/png;base64,AAAA", "b.jpg"]),
        ("/w=300,h=200/a.jpg 300w, /w=600,h=400/a.jpg 600w", ["/w=300,h=200/a.jpg", "/w=600,h=400/a.jpg"]),
    ],
)
def test_candidates_are_split_as_in_browsers(text: str, expected: list[str]) -> None:
    assert urls(text) == expected


def test_only_ascii_whitespace_separates() -> None:
    assert urls("a\u00a0b 1x, c\vd 2x") == ["a\u00a0b", "c\vd"]


def test_a_comma_in_parentheses_separates_nothing() -> None:
    assert urls("a.jpg (1x, b.jpg 2x), c.jpg") == ["c.jpg"]
    assert urls("a.jpg (1x, b.jpg 2x") == []


# --- descriptors


@pytest.mark.parametrize(
    ("descriptors", "width", "density"),
    [
        ("", None, None),
        ("300w", 300, None),
        ("0300w", 300, None),
        ("2x", None, 2.0),
        ("1.5x", None, 1.5),
        (".5x", None, 0.5),
        ("1e1x", None, 10.0),
        ("0x", None, 0.0),
        ("-0x", None, 0.0),
        ("300w 200h", 300, None),
        ("200h 300w", 300, None),
    ],
)
def test_descriptors_are_read(descriptors: str, width: int | None, density: float | None) -> None:
    assert parse_srcset(f"a.jpg {descriptors}") == (Candidate("a.jpg", width, density),)


@pytest.mark.parametrize(
    "descriptors",
    [
        *("0w", "-1w", "1.5w", "+1w", "w", "1W", "99999999999w", "9" * 5_000 + "w", "١w"),
        *("-1x", "x", "1.x", "+1x", "1e999x", "NaNx", "infx", "1_0x", "1X"),
        *("200h", "0h 300w", "2x 200h", "200h 2x", "300w 2x", "2x 300w", "300w 300w", "1x 1x", "1h 1h 1w"),
        *("wide", "300", "300w wide", "(300w)"),
    ],
)
def test_a_candidate_with_a_broken_descriptor_is_dropped(descriptors: str) -> None:
    assert urls(f"a.jpg {descriptors}, b.jpg") == ["b.jpg"]


# --- hostile text


def test_candidates_are_capped() -> None:
    assert len(parse_srcset("a 1x, " * (MAX_CANDIDATES + 1))) == MAX_CANDIDATES


@pytest.mark.timeout(120)
@pytest.mark.parametrize("piece", ["a", ",", " ", "(", ")", "a (", "a 1x 1x,", "a ,", "1" * 100 + "x "])
def test_hostile_text_costs_linear_time(piece: str) -> None:
    assert len(parse_srcset(piece * (1_000_000 // len(piece)))) <= MAX_CANDIDATES


@given(st.text())
def test_any_text_is_read_without_an_exception(text: str) -> None:
    assert all(candidate.url and not set(candidate.url) & set(" \t\n\f\r") for candidate in parse_srcset(text))


@given(st.text("ab,() \t12.wxh"))
def test_text_of_the_grammar_gives_candidates_of_the_grammar(text: str) -> None:
    for candidate in parse_srcset(text):
        assert candidate.url in text
        assert candidate.url[0] != "," != candidate.url[-1]
        assert candidate.width is None or candidate.density is None


_URLS = st.from_regex(r"[a-z/,.:()]*[a-z/.]", fullmatch=True).filter(lambda url: url[0] != ",")
_CANDIDATES = st.lists(
    st.one_of(
        st.builds(Candidate, _URLS),
        st.builds(Candidate, _URLS, st.integers(1, 10_000)),
        st.builds(Candidate, _URLS, st.none(), st.floats(0, 10)),
    )
)
_SPACES = st.text(" \t\n\f\r", max_size=3)


def descriptor(candidate: Candidate) -> str:
    if candidate.width is not None:
        return f" {candidate.width}w"
    return "" if candidate.density is None else f" {candidate.density!r}x"


@given(_CANDIDATES, _SPACES, st.sampled_from([", ", " , ", ",\n", " ,"]))
def test_a_written_srcset_is_read_back(candidates: list[Candidate], spaces: str, comma: str) -> None:
    text = comma.join(f"{spaces}{candidate.url}{descriptor(candidate)}{spaces}" for candidate in candidates)
    assert list(parse_srcset(text)) == candidates
