"""Lists: every row is read once, in chunks, for any content of the file."""

import gzip
import logging
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import ConfigError
from crawler.harvest.url_lists import list_handler, row_readers
from crawler.harvest.url_lists.list_handler import _MAX_LOGGED, MAX_LINES, ListHandler, check_list
from crawler.harvest.url_lists.row_readers import _MAX_LINE
from crawler.model import Kind, Outcome, Request


def request(path: Path, entries: Kind = "page") -> Request:
    return Request(url=path.as_uri(), kind="list", entries=entries, priority=5)


def read(path: Path, entries: Kind = "page", *, afresh: bool = False) -> list[Outcome]:
    """Return the outcomes of all chunks of a list, read by one reader, or if ``afresh`` by a new one for each chunk."""
    outcomes: list[Outcome] = []
    reader = ListHandler()
    successor: Request | None = request(path, entries)
    while successor is not None:
        outcomes.append((ListHandler() if afresh else reader).handle(successor))
        successor = outcomes[-1].successor
    assert [outcome.status for outcome in outcomes] == ["moved"] * (len(outcomes) - 1) + ["done"]
    return outcomes


def urls(outcomes: list[Outcome]) -> list[str]:
    return [found.url for outcome in outcomes for found in outcome.discovered]


def rejected(outcomes: list[Outcome]) -> int:
    return sum(outcome.rejected for outcome in outcomes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a list é #1.txt"


def test_each_line_becomes_a_seed(path: Path) -> None:
    path.write_text("http://a.example\nHTTPS://B.example/x#y\n", "utf-8")
    (outcome,) = read(path)
    seeds = ["http://a.example/", "https://b.example/x"]
    assert outcome.discovered == tuple(Request(url=url, seed=url, priority=5, source="list") for url in seeds)


def test_each_line_becomes_an_image_if_set(path: Path) -> None:
    path.write_text("http://a.example/x.jpg")
    (outcome,) = read(path, "image")
    expected = Request(url="http://a.example/x.jpg", kind="image", priority=5, source="list")
    assert outcome.discovered == (expected,)


def test_blank_lines_comments_byte_order_marks_and_line_ends_are_skipped(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfhttp://a.example/\r\n\r\n  # note\n\t http://b.example/ \n\n#" + b"x" * 20_000)
    outcomes = read(path)
    assert (urls(outcomes), rejected(outcomes)) == (["http://a.example/", "http://b.example/"], 0)


@pytest.mark.parametrize("text", [b"", b"\xef\xbb\xbf", b"\n\n", b"# nothing"])
def test_a_list_without_urls_is_done(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    assert read(path) == [Outcome(status="done")]


@pytest.mark.parametrize(
    "line",
    [
        *(b"example.org/x", b"//example.org/x", b"/x", b"ftp://a.example/", b"http://[", b"words", b"http://\xff/"),
        *(
            b"http://a.example/" + b"x" * _MAX_LINE,
            b"http://a.example/" + b" " * _MAX_LINE + b"x",
            b" " * 20_000 + b"x",
        ),
        *(b"x" * 100_000, b"\xff\xfeh\0t\0"),
    ],
)
def test_an_invalid_line_is_rejected_and_the_next_is_read(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\nhttp://b.example/\n")
    outcomes = read(path)
    assert (urls(outcomes), rejected(outcomes)) == (["http://b.example/"], 1)


def test_a_rejected_line_is_logged_with_its_number_and_can_not_forge_a_line(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path.write_bytes(b"http://a.example/\n# note\nbad\rline \x1b[31m" + b"x" * 5_000)
    read(path)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert f"{path}:3: not an http(s) URL: 'bad\\rline \\x1b[31mxxx" in record.getMessage()
    assert len(record.getMessage()) < 600


@pytest.mark.parametrize("afresh", [False, True])
def test_line_numbers_continue_across_chunks(path: Path, caplog: pytest.LogCaptureFixture, afresh: bool) -> None:
    caplog.set_level("INFO")
    path.write_bytes(b"http://a.example/\n" * (2 * MAX_LINES + 1) + b"bad")
    read(path, afresh=afresh)
    assert [message.split(": ")[0] for message in caplog.messages] == [f"{path}:{2 * MAX_LINES + 2}"]


def test_the_first_bad_lines_of_a_list_are_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path.write_bytes(b"bad\n" * 3 * MAX_LINES)
    assert rejected(read(path)) == 3 * MAX_LINES
    assert len(caplog.records) == _MAX_LOGGED + 1
    assert caplog.messages[-1] == f"{path}: further bad lines are only counted"


def test_the_longest_line_is_read(path: Path) -> None:
    url = "http://a.example/".ljust(_MAX_LINE - 1, "x")
    path.write_text(f"{url}\nhttp://b.example/", "ascii", newline="\n")
    assert urls(read(path)) == [url, "http://b.example/"]


# --- chunks


def test_a_chunk_has_a_maximum_number_of_lines(path: Path) -> None:
    expected = [f"http://a.example/{number}" for number in range(2 * MAX_LINES + 1)]
    path.write_text("\n".join(expected), "ascii", newline="\n")
    outcomes = read(path)
    assert [len(outcome.discovered) for outcome in outcomes] == [MAX_LINES, MAX_LINES, 1]
    assert urls(outcomes) == expected


def test_a_full_chunk_at_the_end_of_the_file_completes_the_list(path: Path) -> None:
    path.write_text("http://a.example/\n" * MAX_LINES, "ascii", newline="\n")
    assert len(read(path)) == 1


def test_a_line_longer_than_chunks_is_rejected_once(path: Path) -> None:
    path.write_bytes(b"http://a.example/\n" + b"x" * (3 * 2**20) + b"\nhttp://b.example/\n")
    outcomes = read(path)
    assert (urls(outcomes), rejected(outcomes)) == (["http://a.example/", "http://b.example/"], 1)
    assert len(outcomes) == 2


def test_the_same_chunk_gives_the_same_outcome_again(path: Path) -> None:
    path.write_text("http://a.example/\n" * 3_000, "ascii", newline="\n")
    moved = ListHandler().handle(request(path)).successor
    assert moved is not None
    assert ListHandler().handle(moved) == ListHandler().handle(moved)


def test_an_offset_behind_the_end_completes_the_list(path: Path) -> None:
    path.write_text("http://a.example/\n")
    assert ListHandler().handle(Request(url=path.as_uri(), kind="list", offset=999)) == Outcome(status="done")


_LINES = st.lists(
    st.sampled_from(
        [b"", b"#", b"bad", b"http://a.example/", b"http://b.example/long", b"x" * 40, b"y" * 41, b"z" * 200]
    )
)


@given(lines=_LINES, chunk_lines=st.integers(1, 5), chunk_bytes=st.integers(1, 100))
def test_every_line_is_counted_once_for_any_chunk_size(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], chunk_lines: int, chunk_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("lists") / "list"
    path.write_bytes(b"\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MAX_LINES", chunk_lines), ("MAX_BYTES", chunk_bytes)):
            patch.setattr(list_handler, name, value)
        patch.setattr(row_readers, "_MAX_LINE", 40)
        outcomes = read(path)
        assert read(path, afresh=True) == outcomes
    good = [line.decode() for line in lines if line.startswith(b"http")]
    assert urls(outcomes) == good
    assert rejected(outcomes) == len([line for line in lines if line and line != b"#"]) - len(good)


# --- other formats


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'caption,image_url\n"a cat,\non a mat",http://a.example/1.jpg\nnone,x\n,http://a.example/2.jpg\n'),
        ("a.tsv", "alt\tURL\na cat\thttp://a.example/1.jpg\n\nnone\tx\n\thttp://a.example/2.jpg\n"),
        ("a.jsonl", '{"url": "http://a.example/1.jpg", "text": "a cat"}\n{"url": 1}\n"http://a.example/2.jpg"\n'),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("afresh", [False, True])
def test_formats_are_detected_by_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, packed: bool, afresh: bool
) -> None:
    monkeypatch.setattr(list_handler, "MAX_LINES", 2)
    path = tmp_path / f"{name}{'.gz' * packed}"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    outcomes = read(path, "image", afresh=afresh)
    assert urls(outcomes) == ["http://a.example/1.jpg", "http://a.example/2.jpg"]
    assert rejected(outcomes) == 1


def test_texts_of_a_row_become_those_of_the_request(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("src,alt,title,caption\nhttp://a.example/1,an  alt,a title,a caption\n")
    (outcome,) = read(path, "image")
    (found,) = outcome.discovered
    assert (found.alt, found.title, found.caption) == ("an alt", "a title", "a caption")


def test_an_object_without_a_url_is_a_bad_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "a.jsonl"
    path.write_text('{"picture_of": "a cat"}\n')
    assert rejected(read(path, "image")) == 1
    assert caplog.messages == [f"{path}:1: the row has no field that is known to hold a URL, such as 'url'"]


def test_a_url_in_another_encoding_is_rejected_and_texts_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"url,alt\nhttp://a.example/\xe9,x\nhttp://b.example/,caf\xe9\n")
    outcomes = read(path, "image")
    assert (urls(outcomes), rejected(outcomes)) == (["http://b.example/"], 1)
    assert outcomes[0].discovered[0].alt == "caf\ufffd"


def test_a_truncated_compressed_file_fails_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"http://a.example/\n" * 5 + bytes(range(256)) * 900)[:-9])
    outcome = ListHandler().handle(request(path))
    assert (outcome.status, outcome.reason, len(outcome.discovered)) == ("done", "lost-file", 5)


def test_a_table_without_urls_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("name,size\nx,1\n")
    with pytest.raises(
        ConfigError,
        match=r"a\.csv has no column that is known to contain URLs; name the column of URLs 'url'",
    ):
        ListHandler().handle(request(path))
    with pytest.raises(ConfigError, match="no column"):
        check_list(path, "image")


def test_a_list_can_be_checked_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(b"\x1f\x8b torn")
    with pytest.raises(ConfigError, match="can't read the list"):
        check_list(path, "page")
    path.write_bytes(b"http://a.example/")
    check_list(path, "page")


# --- long lists


@pytest.mark.parametrize("name", ["a.txt", pytest.param("a.csv.gz", marks=pytest.mark.fire)])
def test_a_long_list_uses_no_more_memory_than_a_chunk(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = b"url\n" * path.name.startswith("a.csv") + b"".join(b"http://a.example/%d\n" % n for n in range(20_000))
    path.write_bytes(gzip.compress(text, 1) if name.endswith("gz") else text)
    reader, found = ListHandler(), 0
    successor: Request | None = request(path, "image")
    tracemalloc.start()
    while successor is not None:
        outcome = reader.handle(successor)
        successor, found = outcome.successor, found + len(outcome.discovered)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == 20_000
    assert peak < 4_000_000  # neither the file nor its requests are kept in memory


# --- missing files


@pytest.mark.parametrize("name", ["missing.txt", ""])
def test_an_unreadable_file_is_lost(tmp_path: Path, name: str) -> None:
    outcome = ListHandler().handle(request(tmp_path / name))
    assert (outcome.status, outcome.reason) == ("done", "lost-file")


def test_an_impossible_path_is_lost(tmp_path: Path) -> None:
    outcome = ListHandler().handle(Request(url=f"{tmp_path.as_uri()}/a%00b", kind="list"))
    assert outcome.reason == "lost-file"
