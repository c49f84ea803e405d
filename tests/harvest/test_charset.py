"""Detection of the encoding, and the encoding of queries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest.charset import content_type_of, decode, encode_query
from crawler.urls import resolve


@pytest.mark.parametrize(
    ("body", "content_type", "codec", "text"),
    [
        pytest.param("é".encode(), None, "utf-8", "é", id="UTF-8 unsaid"),
        pytest.param(b"\xe9", None, "cp1252", "é", id="neither said nor UTF-8"),
        pytest.param(b"\xe9", "text/html; charset=iso-8859-1", "cp1252", "é", id="latin-1 means windows-1252"),
        pytest.param(b"\x80", "text/html;charset=us-ascii", "cp1252", "€", id="ASCII means windows-1252"),
        pytest.param(b"\xe9", 'text/html; x=y; Charset="ISO-8859-5"', "iso8859-5", "щ", id="quoted, second"),
        pytest.param("漢".encode("gbk"), "text/html; charset=gb2312", "gbk", "漢", id="gb2312 means gbk"),
        pytest.param(b"\x81\x30\x81\x30", "text/html; charset=gbk", "gbk", "\x80", id="gbk is read as gb18030"),
        pytest.param("①".encode("cp932"), "text/html; charset=shift_jis", "cp932", "①", id="shift_jis means cp932"),
        pytest.param(b"\xef\xbb\xbf\xc3\xa9", "text/html; charset=gbk", "utf-8", "é", id="mark beats header"),
        pytest.param(b"\xff\xfea\0", "text/html; charset=gbk", "utf-16-le", "a", id="UTF-16 by its mark"),
        pytest.param(b"\xfe\xff\0a", None, "utf-16-be", "a", id="the other UTF-16"),
        pytest.param(b"\xe9", "text/html; charset=nonsense", "cp1252", "é", id="unknown label"),
        pytest.param(b"\xe9", "text/html; charset=zip", "cp1252", "é", id="a codec that is no label"),
        pytest.param(b"\xe9", "text/html; charset=\u00e9\r\nx: y", "cp1252", "é", id="a broken header"),
        pytest.param(b"\x1b$)C", "text/html; charset=iso-2022-kr", "replacement", "\ufffd", id="an unsafe encoding"),
        pytest.param(b"a\xffb", "text/html; charset=utf-8", "utf-8", "a\ufffdb", id="bad byte"),
        pytest.param(b"\xe9", "text/html; charset=x-user-defined", "cp1252", "é", id="user-defined, as in a page"),
        pytest.param(b"", None, "utf-8", "", id="empty"),
        pytest.param(b"\x81\x80", None, "cp1252", "\x81€", id="a hole is a control character"),
        pytest.param(b"\x98\xaa", "text/html; charset=windows-1253", "cp1253", "\x98\ufffd", id="other holes stay"),
        pytest.param(b"\xdb\x81", "text/html; charset=tis-620", "cp874", "\ufffd\x81", id="holes of windows-874"),
        pytest.param(b"\x80\x81\x80\xff", "text/html; charset=gbk", "gbk", "€亐\ufffd", id="the euro sign in GBK"),
        pytest.param(
            b"\xad\xa2\xad\xdf\xad\xe0\xad\xbf\xad",
            "text/html; charset=euc-jp",
            "euc_jp",
            "②㍻〝\ufffd\ufffd",
            id="row 13",
        ),
    ],
)
def test_the_encoding_is_detected(body: bytes, content_type: str | None, codec: str, text: str) -> None:
    found, name = decode(body, content_type)
    assert (name, found) == (codec, text)


@pytest.mark.parametrize(
    "declaration",
    [
        b"<meta charset=windows-1251>",
        b'<META CHARSET="Windows-1251">',
        b'<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">',
        b"<meta content='text/html; charset=cp1251' http-equiv=content-type>",
        b'<?xml version="1.0" encoding="windows-1251"?>',
        b"<meta data-x='>' " + b" " * 2_000 + b"charset = windows-1251 />",
        b"<meta name=x content=y><meta/charset=windows-1251 />",
        b"<meta http-equiv=content-type content='text/html; charset = \"windows-1251\"'>",
    ],
)
def test_a_page_declares_its_encoding(declaration: bytes) -> None:
    text, codec = decode(declaration + b"<p>\xe9", "text/html")
    assert (codec, text[-1]) == ("cp1251", "й")


@pytest.mark.parametrize(
    "html",
    [
        b"<!-- <meta charset=gbk> -->",
        b"<!-- <meta charset=gbk>",
        b"<meta charset=nonsense>",
        b"<meta charset=>",
        b"<link charset=gbk>",
        b"<metadata charset=gbk>",
        b"<meta name=description content='text/html; charset=gbk'>",
        b"<meta http-equiv=refresh content='charset=gbk'>",
        b"<meta name=x content=\"<meta charset='gbk'>\">",
        b" " * 100_000 + b"<meta charset=gbk>",
    ],
)
def test_an_invalid_declaration_is_ignored(html: bytes) -> None:
    assert decode(html, None)[1] == "utf-8"


def test_the_first_known_declaration_counts() -> None:
    assert decode(b"<meta charset=nonsense><meta charset=gbk><meta charset=big5>", None)[1] == "gbk"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("piece", [b"<meta ", b"<!--", b"<meta charset=", b"<?xml ", b" encoding="])
def test_a_hostile_head_is_read_quickly(piece: bytes) -> None:
    assert decode(piece * (10_000_000 // len(piece)), '";' * 100_000)[1] == "utf-8"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("label", ["gbk", "euc-jp", "windows-1252"])
def test_a_page_of_invalid_bytes_costs_little(label: str) -> None:
    assert len(decode(b"\x80\xff" * 5_000_000, f"text/html; charset={label}")[0]) == 10_000_000


def test_the_header_takes_precedence_over_the_page() -> None:
    assert decode(b"<meta charset=gbk>\xc3\xa9", "text/html; charset=utf-8")[0].endswith("é")


def test_a_page_readable_as_ascii_is_not_utf_16() -> None:
    assert decode(b"<meta charset=utf-16>\xc3\xa9", None) == ("<meta charset=utf-16>é", "utf-8")


def test_text_is_kept_without_lone_surrogates() -> None:
    assert decode("\ufeffa\ud800b", None) == ("a?b", "utf-8")


@given(st.binary(), st.none() | st.text())
def test_any_bytes_under_any_header_are_decoded(body: bytes, content_type: str | None) -> None:
    text, codec = decode(body, content_type)
    assert text.encode("utf-8").decode("utf-8") == text
    assert codec


_SAME = st.sampled_from([("utf-8", "é漢"), ("windows-1251", "щ"), ("gbk", "漢"), ("shift_jis", "漢"), ("euc-kr", "한")])


@given(_SAME, st.text(" \t\n", max_size=3), st.booleans(), st.sampled_from(["'", '"', ""]))
def test_all_spellings_of_a_declaration_are_read(same: tuple[str, str], space: str, upper: bool, quote: str) -> None:
    label, text = same
    tag = f"<meta name=x{space}\n/charset{space}={space}{quote}{label.upper() if upper else label}{quote} >"
    assert decode(f"{tag}{text}".encode(label), None)[0] == tag + text


# --- the query


@pytest.mark.parametrize(
    ("reference", "codec", "expected"),
    [
        ("/é?q=é#é", "cp1252", "/é?q=%E9#é"),
        ("/a?q=é", "utf-8", "/a?q=é"),
        ("/a?q=é", "utf-16-le", "/a?q=é"),
        ("/a?q=漢&r=1", "gbk", "/a?q=%9Dh&r=1"),
        ("/a?q=漢", "cp1252", "/a?q=%26%2328450%3B"),
        ("/a?q=é漢é", "cp1252", "/a?q=%E9%26%2328450%3B%E9"),
        ("/é", "cp1252", "/é"),
        ("/a#x?é", "cp1252", "/a#x?é"),
        ("/a?b%20c=<d>", "cp1252", "/a?b%20c=<d>"),
        ("/a?q=\x80\x81€", "cp1252", "/a?q=%26%23128%3B%81%80"),
        ("/a?q=€", "gbk", "/a?q=%80"),
        ("/a?q=€", "gb18030", "/a?q=%A2%E3"),
        ("/a?q=é", "euc_kr", "/a?q=%26%23233%3B"),
        ("/a?q=€", "euc_jp", "/a?q=%26%238364%3B"),
    ],
)
def test_non_ascii_letters_of_a_query_use_the_encoding_of_the_page(reference: str, codec: str, expected: str) -> None:
    assert encode_query(reference, codec) == expected


@given(st.text(), st.sampled_from(["utf-8", "cp1252", "gbk", "cp932", "iso8859-5", "replacement"]))
def test_any_reference_can_be_encoded_and_resolved(reference: str, codec: str) -> None:
    encoded = encode_query(reference, codec)
    assert encoded == reference or not reference.isascii()
    assert resolve("http://a.example/", encoded) is None or "://" in str(resolve("http://a.example/", encoded))


@pytest.mark.parametrize(
    ("values", "content_type"),
    [
        (["Text/HTML; charset=GBK"], 'text/html;charset="GBK"'),
        (["text/html; charset=gbk", "text/html"], 'text/html;charset="gbk"'),
        (["text/html; charset=gbk, text/html; charset=utf-8"], 'text/html;charset="utf-8"'),
        (["text/html; charset=gbk", "text/css"], "text/css"),
        ([], ""),
        (["", ";;;"], ""),
        (["nonsense; x"], "nonsense"),
    ],
)
def test_several_content_types_are_combined(values: list[str], content_type: str) -> None:
    assert content_type_of(values) == content_type


@pytest.mark.parametrize("unit", [",", '"', "a/b,", 'a/b;charset="', "x"])
def test_an_overlong_content_type_is_cut(unit: str) -> None:
    assert len(content_type_of([unit * 1_000_000])) <= 1_000
