"""Bytes of feeds and sitemaps to text: encodings, compression, and repaired errors."""

import gzip
import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest import xml_repair
from crawler.harvest.xml_repair import _MAX_REFERENCES, MAX_BYTES, decoded, repaired


def text(data: bytes, content_type: str = "") -> str:
    return "".join(decoded(data, content_type))


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        ("<a>é".encode(), ""),
        (" \n<a>é".encode(), ""),
        ("\ufeff<a>é".encode(), "text/xml; charset=latin1"),
        ("<a>é".encode("latin-1"), "text/xml; charset=latin1"),
        ("\ufeff<a>é".encode("utf-16-le"), ""),
        (gzip.compress("<a>é".encode(), mtime=0), "application/gzip"),
    ],
)
def test_bytes_become_text(data: bytes, content_type: str) -> None:
    assert text(data, content_type) == "<a>é"


def test_a_file_may_declare_its_encoding() -> None:
    declared = '<?xml version="1.0" encoding="shift_jis"?><a>猫'
    assert text(declared.encode("shift_jis")) == declared


@given(st.text(min_size=1).filter(lambda text: not text[0].isspace()), st.booleans(), st.integers(1, 9))
def test_text_split_at_any_place_is_joined(words: str, compressed: bool, size: int) -> None:
    body = f"<a>{words}".encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xml_repair, "_PIECE", size)
        assert text(gzip.compress(body, mtime=0) if compressed else body) == body.decode()


@given(st.binary(), st.text())
def test_any_bytes_become_text(data: bytes, content_type: str) -> None:
    assert len(text(data, content_type)) <= len(data)


def test_a_decompression_bomb_ends_at_the_limit() -> None:
    length = 0
    with pytest.raises(ValueError, match="more than"):
        for piece in decoded(gzip.compress(bytes(2 * MAX_BYTES)), ""):
            length += len(piece)
    assert length <= MAX_BYTES


# --- references


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a&amp;b", "a&#38;b"),
        ("&lt;&gt;&quot;&apos;", "&#60;&#62;&#34;&#39;"),
        ("?a=b&c=d&copy=e", "?a=b&#38;c=d&#38;copy=e"),
        ("&nbsp;&eacute;", "&#160;&#233;"),
        ("&#38;&#x26;", "&#38;&#x26;"),
        ("&unknown;&", "&#38;unknown;&#38;"),
        ("a\0b\x1f", "a\ufffdb\ufffd"),
    ],
)
def test_references_become_numeric(written: str, expected: str) -> None:
    assert "".join(repaired([written])) == expected


@given(st.lists(st.sampled_from([*"&;amplt#3 ", "&amp;", "&nbsp;", "&#38;", "&nothing;"])))
def test_references_split_at_any_place_stay_whole(pieces: list[str]) -> None:
    whole = "".join(repaired(["".join(pieces)]))
    assert "".join(repaired(pieces)) == whole
    assert "&amp;" not in whole


@given(st.text("ab<>&;'\""))
def test_escaped_text_keeps_its_meaning(words: str) -> None:
    assert html.unescape("".join(repaired([html.escape(words)]))) == words


def test_references_are_capped() -> None:
    with pytest.raises(ValueError, match="more than"):
        list(repaired(["&" * (_MAX_REFERENCES + 50)]))
