import errno
import json
import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from crawler.errors import ConfigError, DiskError
from crawler.model import ImageRecord
from crawler.store import manifest
from crawler.store.manifest import ManifestWriter, read_manifest, record_line
from crawler.urls import parse_record_line

Rows = list[tuple[int, ImageRecord]]


def rows_of(*names: str, first: int = 1) -> Rows:
    return [(n, ImageRecord(url=f"https://a.example/{name}", status="success")) for n, name in enumerate(names, first)]


class Frontier:
    """A frontier with given rows, which records its calls."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.calls: list[tuple[int, int]] = []

    def records(self, after: int, limit: int) -> Sequence[tuple[int, ImageRecord]]:
        self.calls.append((after, limit))
        return [row for row in self.rows if row[0] > after][:limit]


def write(directory: Path, rows: Rows) -> None:
    writer = ManifestWriter(directory)
    writer.append(rows)
    writer.close()


def urls_in(directory: Path) -> list[str]:
    """Return the names in both files, which must agree."""
    rows = [record.url for record in read_manifest(directory / "manifest.jsonl")]
    lines = [parse_record_line(line)[0] for line in (directory / "results.txt").read_text("ascii").splitlines()]
    assert rows == lines
    return [url.removeprefix("https://a.example/") for url in rows]


def test_a_row_has_the_fields_of_a_record_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, rows_of("x"))
    row = json.loads((tmp_path / "manifest.jsonl").read_bytes())
    assert list(row) == list(ImageRecord.__struct_fields__)
    assert row["url"] == "https://a.example/x"


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        ("success", "", "https://a.example/x--->success"),
        ("duplicate", "", "https://a.example/x--->success"),
        ("failed", "http-404", "https://a.example/x--->failed: http-404"),
        ("failed", "", "https://a.example/x--->failed: internal"),
    ],
)
def test_a_results_line_has_the_status(status: Any, reason: str, line: str) -> None:
    assert record_line(ImageRecord(url="https://a.example/x", status=status, reason=reason)) == line


def test_rows_are_appended_batch_by_batch(tmp_path: Path) -> None:
    writer = ManifestWriter(tmp_path / "made")
    writer.append(rows_of("a", "b"))
    writer.append([])
    writer.append(rows_of("c", first=3))
    writer.close()
    assert urls_in(tmp_path / "made") == ["a", "b", "c"]
    assert writer.last == 3


def test_a_new_directory_starts_with_the_first_record(tmp_path: Path) -> None:
    assert ManifestWriter(tmp_path).resume(Frontier(rows_of("a")).records) == 0


def test_resuming_reads_one_record_and_continues_after_it(tmp_path: Path) -> None:
    write(tmp_path, rows_of("a", "b"))
    frontier = Frontier(rows_of("a", "b", "c"))
    writer = ManifestWriter(tmp_path)
    assert writer.resume(frontier.records) == 2
    assert frontier.calls == [(1, 1)]
    writer.append(rows_of("c", first=3))
    writer.close()
    assert urls_in(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["manifest.jsonl", "results.txt"])
@pytest.mark.parametrize(
    "tail", [b"{", b'{"url":"https://a.exam', b"https://a.example/b--->succ", b"\0" * 4096, b"\xff\n"]
)
def test_a_torn_tail_is_cut(tmp_path: Path, name: str, tail: bytes) -> None:
    write(tmp_path, rows_of("a"))
    with (tmp_path / name).open("ab") as file:
        file.write(tail)
    assert ManifestWriter(tmp_path).resume(Frontier(rows_of("a", "b")).records) == 1
    assert urls_in(tmp_path) == ["a"]


def test_a_tail_torn_in_the_first_line_leaves_empty_files(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_bytes(b'{"url"')
    assert ManifestWriter(tmp_path).resume(Frontier([]).records) == 0
    assert (tmp_path / "manifest.jsonl").read_bytes() == b""


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_kill_at_any_byte_of_the_second_batch_is_repaired(tmp_path: Path, cut: int) -> None:
    rows = rows_of("a", "b", "c")
    write(tmp_path, rows)
    path = tmp_path / "results.txt"
    path.write_bytes(path.read_bytes()[: -1 - cut % 60])
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[: -1 - cut])
    writer = ManifestWriter(tmp_path)
    last = writer.resume(Frontier(rows).records)
    writer.append(rows[last:])
    writer.close()
    assert urls_in(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "rows",
    [rows_of("a", "x"), rows_of("a"), [], rows_of("b", "a"), [*rows_of("a"), *rows_of("b", first=5)]],
    ids=["other-url", "fewer", "none", "other-order", "gap"],
)
def test_files_that_do_not_match_the_records_are_rewritten(tmp_path: Path, rows: Rows) -> None:
    write(tmp_path, rows_of("a", "b"))
    last = ManifestWriter(tmp_path).resume(Frontier(rows).records)
    assert last == (rows[-1][0] if rows else 0)
    assert urls_in(tmp_path) == [record.url.removeprefix("https://a.example/") for _, record in rows]


def test_files_of_different_length_are_rewritten(tmp_path: Path) -> None:
    write(tmp_path, rows_of("a", "b"))
    (tmp_path / "results.txt").unlink()
    assert ManifestWriter(tmp_path).resume(Frontier(rows_of("a", "b")).records) == 2
    assert urls_in(tmp_path) == ["a", "b"]


def test_rewriting_keeps_the_last_row_of_each_url(tmp_path: Path) -> None:
    rows = [*rows_of("a", "b", "a", "c"), *rows_of("b", first=9)]
    writer = ManifestWriter(tmp_path)
    writer.append(rows)
    writer.rewrite(Frontier(rows).records)
    assert urls_in(tmp_path) == ["a", "c", "b"]
    assert writer.last == 9


def test_rewriting_reads_the_records_page_by_page(tmp_path: Path) -> None:
    frontier = Frontier(rows_of(*map(str, range(2_500))))
    ManifestWriter(tmp_path).rewrite(frontier.records)
    assert len(urls_in(tmp_path)) == 2_500
    assert {limit for _, limit in frontier.calls} == {1_000}


def test_rows_that_arrive_during_a_rewrite_are_appended_afterwards(tmp_path: Path) -> None:
    class Growing(Frontier):
        def records(self, after: int, limit: int) -> Sequence[tuple[int, ImageRecord]]:
            answer = super().records(after, limit)
            if not answer:
                self.rows = rows_of("a", "b", "c")
            return answer

    writer = ManifestWriter(tmp_path)
    writer.rewrite(Growing(rows_of("a", "b")).records)
    assert writer.last == 2
    assert urls_in(tmp_path) == ["a", "b"]


def test_an_interrupted_rewrite_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, rows_of("a"))

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DiskError, match="the disk is full"):
        ManifestWriter(tmp_path).rewrite(Frontier(rows_of("b")).records)
    assert urls_in(tmp_path) == ["a"]
    assert len(list(tmp_path.iterdir())) == 2


class FullAfter(FileIO):
    """A file on a disk with this number of free bytes."""

    space = 0

    def write(self, data: Any) -> int:
        taken = min(len(data), type(self).space)
        type(self).space -= taken
        if not taken:
            raise OSError(errno.ENOSPC, "full")
        return super().write(memoryview(data)[:taken])


@pytest.mark.parametrize("missing", [1, 20, 40, 300])
def test_a_full_disk_leaves_both_files_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    write(tmp_path, rows_of("a"))
    needed = sum(path.stat().st_size for path in tmp_path.iterdir())
    monkeypatch.setattr(manifest, "FileIO", FullAfter)
    monkeypatch.setattr(FullAfter, "space", needed - missing)
    writer = ManifestWriter(tmp_path)
    writer.resume(Frontier(rows_of("a")).records)
    with pytest.raises(DiskError, match="the disk is full"):
        writer.append(rows_of("b", first=2))
    assert (urls_in(tmp_path), writer.last) == (["a"], 1)
    monkeypatch.setattr(FullAfter, "space", 10_000)
    writer.append(rows_of("b", first=2))
    writer.close()
    assert urls_in(tmp_path) == ["a", "b"]


def test_reading_drops_a_torn_last_line(tmp_path: Path) -> None:
    write(tmp_path, rows_of("a", "b"))
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert [record.url for record in read_manifest(path)] == ["https://a.example/a"]


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"url":5}', b"\xff", b'{"url":"x","status":"maybe"}'])
def test_reading_names_the_line_that_is_not_a_row(tmp_path: Path, line: bytes) -> None:
    write(tmp_path, rows_of("a"))
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    with pytest.raises(ConfigError, match=r"manifest\.jsonl:2: not a manifest row"):
        list(read_manifest(path))


def test_reading_a_missing_file_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no manifest at"):
        list(read_manifest(tmp_path / "manifest.jsonl"))


texts = st.text(st.characters(codec="utf-8"))


@given(texts, texts, st.floats(0, 4e9), st.integers(0, 2**40))
def test_any_text_survives_the_round_trip(alt: str, title: str, fetched_at: float, size: int) -> None:
    record = ImageRecord(url="https://a.example/", alt=alt, title=title, fetched_at=fetched_at, bytes=size)
    line = manifest._row(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert manifest._decode(line) == record


def test_text_that_looks_like_rows_stays_text(tmp_path: Path) -> None:
    ((_, record),) = rows_of("a")
    nasty = structs.replace(record, alt='\n{"url":"https://evil.example/"}\n\u2028\x85\r', caption="--->success")
    write(tmp_path, [(1, nasty)])
    assert list(read_manifest(tmp_path / "manifest.jsonl")) == [nasty]
    assert urls_in(tmp_path) == ["a"]
