"""Rows of lists: formats, records of several lines, and faults that cost one line."""

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import ConfigError
from crawler.harvest.url_lists.row_readers import _MAX_LOOSE_LINES, _MAX_RECORD, ListLine, read_rows


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


def rows(folder: Path, name: str, data: bytes | str) -> list[ListLine]:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(read_rows(path, "image"))


def values(found: list[ListLine]) -> list[list[object]]:
    return [list(row.values) for row in found if row.values]


def faults(found: list[ListLine]) -> list[tuple[int, str]]:
    return [(row.line, row.fault) for row in found if row.fault]


# --- file formats


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.csv", "id,url\n1,http://a/\n", ("id", "url")),
        ("a.csv", "id;url\n1;http://a/\n", ("id", "url")),
        ("a.csv", "id\turl\n1\thttp://a/\n", ("id", "url")),
        ("a.csv", "1,http://a/\n", ("1", "url")),
        ("a.csv", "no,where\nx,y\n1,http://a/\n", ("no", "url")),
        ("a.csv", "http://a/;x\nhttp://b/;y\n", ("url", "2")),
        ("a.csv", "http://a/,url\n", ("url", "2")),
        ("a.csv", "url\nhttp://a/\n", ("url",)),
        ("A.TSV", "id,url\thttp://a/\n", ("1", "url")),
        ("a.txt", "http://a/\ta caption\n", ("url", "2")),
        ("a.txt", "url,caption\nhttp://a/,x\n", ("url", "caption")),
        ("a.txt", "http://a/,url,x\n", ("url",)),
        ("a", '{"src": "http://a/", "n": 1}\n', ("src", "n")),
        ("a", "# a note\nhttp://a/,b\n", ("url",)),
    ],
)
def test_formats_are_detected_by_name_and_content(folder: Path, name: str, text: str, names: tuple[str, ...]) -> None:
    assert next(row.names for row in rows(folder, name, text) if row.values) == names


def test_the_byte_order_mark_is_no_part_of_the_header(folder: Path) -> None:
    assert rows(folder, "a.csv", b"\xef\xbb\xbfurl,x\nhttp://a/,1\n")[1].names == ("url", "x")


def test_a_header_is_not_a_row_and_numbers_count_lines(folder: Path) -> None:
    found = rows(folder, "a.csv", 'url,x\n"http://a/","two\nlines"\nhttp://b/,1\n')
    assert [(row.line, row.end, list(row.values)) for row in found] == [
        (1, 6, []),
        (2, 30, ["http://a/", "two\nlines"]),
        (4, 42, ["http://b/", "1"]),
    ]


@pytest.mark.parametrize("data", ["", "\n", "\ufeff"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.txt.gz"])
def test_an_empty_list_has_no_values(folder: Path, name: str, data: str) -> None:
    assert [row for row in rows(folder, name, data) if row.values or row.fault] == []


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.csv", "a,b\n1,2\n", "no column that is known to contain URLs"),
        ("a.json", ' [\n{"url": "http://a/"}]', "one JSON array"),
    ],
)
def test_a_file_without_a_recognisable_url_column_is_refused(folder: Path, name: str, text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        rows(folder, name, text)


# --- faults


def test_an_unclosed_quote_costs_one_line(folder: Path) -> None:
    text = 'url,x\nhttp://a/,"open\n' + "http://b/,1\n" * 2 * _MAX_LOOSE_LINES
    found = rows(folder, "a.csv", text)
    assert faults(found) == [(2, "unterminated quotes: b'http://a/,\"open'")]
    assert values(found) == [["http://b/", "1"]] * 2 * _MAX_LOOSE_LINES


def test_a_quoted_text_may_have_any_number_of_lines(folder: Path) -> None:
    text = "\n".join(f'line {number}, a ""word""' for number in range(50 * _MAX_LOOSE_LINES))
    found = rows(folder, "a.csv", f'url,x\nhttp://a/,"{text}"\nhttp://b/,1\n')
    assert faults(found) == []
    assert values(found) == [["http://a/", text.replace('""', '"')], ["http://b/", "1"]]


def test_an_extra_quote_does_not_swallow_the_rows_up_to_the_next_one(folder: Path) -> None:
    between = [["http://b/", "1"]] * 2 * _MAX_LOOSE_LINES
    found = rows(folder, "a.csv", 'url,x\nhttp://a/,"open\n' + "http://b/,1\n" * len(between) + 'http://c/,"fine"\n')
    assert [line for line, _ in faults(found)] == [2]
    assert values(found) == [*between, ["http://c/", "fine"]]


def test_an_unclosed_quote_at_the_end_of_the_file_costs_one_line(folder: Path) -> None:
    found = rows(folder, "a.csv", 'url\nhttp://a/\n"http://b/\nhttp://c/')
    assert ([line for line, _ in faults(found)], values(found)) == ([3], [["http://a/"], ["http://c/"]])


@pytest.mark.parametrize(
    ("name", "bad", "fault"),
    [
        ("a.csv", "http://a/," + "x" * _MAX_RECORD, f"more than {_MAX_RECORD} bytes"),
        ("a.csv", "http://a/,a\rb", "new-line character"),
        ("a.jsonl", '{"url": ', "not JSON"),
        ("a.jsonl", "[" * 10_000, "not JSON"),
        ("a.jsonl", '"' + "x" * _MAX_RECORD + '"', f"more than {_MAX_RECORD} bytes"),
        ("a.jsonl", "7", "neither an object nor a string"),
    ],
)
def test_a_bad_line_costs_only_itself(folder: Path, name: str, bad: str, fault: str) -> None:
    good = '{"url": "http://b/"}' if name == "a.jsonl" else "http://b/"
    head = "" if name == "a.jsonl" else "url,x\n"
    found = rows(folder, name, f"{head}{good}\n{bad}\n{good}\n")
    assert [fault in why for _, why in faults(found)] == [True]
    assert len(faults(found)[0][1]) < 900
    assert values(found) == [["http://b/"]] * 2


# --- resuming


_BYTES = st.lists(
    st.sampled_from(
        [b"http://a.example/", b'"', b"\n", b",", b"\t", b"{", b'{"url": "u"}\n', b"x" * 50, b"\r", b"\xff"]
    )
    | st.binary(max_size=3)
).map(b"".join)


@given(st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.txt", "b", "c.csv.gz"]), _BYTES, st.binary(max_size=4))
def test_rows_continue_at_their_offset(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes, start: bytes
) -> None:
    path = tmp_path_factory.mktemp("rows") / name
    path.write_bytes(gzip.compress(b"url,x\n" + data) if name.endswith("gz") else start + data)
    try:
        found = list(read_rows(path, "image"))
    except (ConfigError, OSError, EOFError, ValueError):
        return
    for index, row in enumerate(found):
        assert list(read_rows(path, "image", row.end)) == found[index + 1 :]


# --- Parquet


def table(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path, **options)
    return path


def test_parquet_is_read_row_by_row(tmp_path: Path) -> None:
    path = table(tmp_path / "a", {"id": [1, 2, 3], "URL": ["http://a/", None, "http://c/"]}, row_group_size=2)
    found = list(read_rows(path, "image"))
    assert [row.values for row in found] == [(1, "http://a/"), (2, None), (3, "http://c/")]
    assert [row.end for row in found] == [1, 2, 3]
    for start in range(4):
        assert list(read_rows(path, "image", start)) == found[start:]


def test_parquet_columns_of_bytes_and_nested_types_are_dropped(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", {"url": ["http://a/"], "jpg": [b"\xff"], "vector": [[1.0, 2.0]]})
    assert [row.names for row in read_rows(path, "image")] == [("url",)]


def test_parquet_values_beyond_the_range_of_python_are_none(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    far = arrow.array([2**50], arrow.timestamp("s"))
    path = table(tmp_path / "a.parquet", {"url": ["http://a/"], "at": far})
    assert [row.values for row in read_rows(path, "image")] == [("http://a/", None)]


def test_parquet_without_urls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column that is known to contain URLs"):
        list(read_rows(table(tmp_path / "a.parquet", {"x": [1]}), "image"))


def test_broken_parquet_is_a_broken_file(tmp_path: Path) -> None:
    whole = table(tmp_path / "a.parquet", {"url": ["http://a/"]}).read_bytes()
    for broken in (whole[:-20], whole[:4], whole[:20] + bytes(len(whole) - 20)):
        with pytest.raises((ValueError, OSError)):
            rows(tmp_path, "b.parquet", broken)


def test_without_its_extra_parquet_is_refused_with_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'imgcrawler\[parquet\]'"):
        rows(tmp_path, "a.parquet", b"PAR1")
