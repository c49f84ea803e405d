"""Rows of the user's lists: each reaches the manifest, and each URL is fetched once."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.app.master_frontier import MasterFrontier
from crawler.frontier.politeness import Policy
from crawler.maintenance.gather import gather
from crawler.maintenance.verify import verify
from crawler.model import ImageRecord, Outcome, Request
from crawler.store.manifest import row_json
from tests.support.calls import Call, calls
from tests.support.pictures import Answer, PictureHost
from tests.support.processes import commands, manifest_of, stats_of, wait_until

OUT = Path("out")


@pytest.fixture
def host() -> Iterator[PictureHost]:
    with PictureHost() as host:
        yield host


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


def listed(host: PictureHost, rows: list[tuple[int, str, str]], name: str = "list.csv") -> str:
    """Write a list of (number of the picture, caption, id)."""
    lines = [f'{host.url}/{number}.png,"{caption}",{key}' for number, caption, key in rows]
    Path(name).write_text("\n".join(["url,caption,id", *lines]), "utf-8")
    return name


def rows_of(record: ImageRecord) -> list[tuple[str, str]]:
    """Return caption and id of every row of a record, as a reader of the manifest gets them."""
    row = json.loads(row_json(record))
    return [(each["caption"], json.loads(each["columns"] or "{}").get("id", "")) for each in [row, *row["other_rows"]]]


def pairs() -> set[tuple[str, str, str]]:
    """Return number, caption and id of all rows in the manifest."""
    return {
        (record.url.rpartition("/")[2].partition(".")[0], *row)
        for record in manifest_of(OUT)
        for row in rows_of(record)
    }


def agrees() -> bool:
    found = verify(OUT)
    assert found.faults == ()
    return found.balance is not None and found.balance.is_finished


def test_every_row_of_a_repeated_url_is_in_the_manifest_and_the_url_is_fetched_once(
    call: Call, host: PictureHost
) -> None:
    rows = [(0, "a cat", "1"), (1, "a dog", "2"), (0, "the cat again", "3"), (2, "", "4"), (0, "", "5")]
    ended = call("run", "--images", listed(host, rows), "-w", 0, "--allow-private")
    assert pairs() == {
        ("0", "a cat", "1"),
        ("0", "the cat again", "3"),
        ("0", "", "5"),
        ("1", "a dog", "2"),
        ("2", "", "4"),
    }
    assert [len(rows_of(record)) for record in sorted(manifest_of(OUT), key=lambda each: each.url)] == [3, 1, 1]
    assert set(host.asked.values()) == {1}
    assert "list rows     5: 3 new URLs, 2 repeated\n" in ended.err
    assert agrees()


def test_equal_rows_are_stored_once(call: Call, host: PictureHost) -> None:
    call(
        "run",
        "--images",
        listed(host, [(0, "a", "1"), (0, "a", "1"), (0, "b", "1"), (0, "b", "1")]),
        "-w",
        0,
        "--allow-private",
    )
    assert rows_of(manifest_of(OUT)[0]) == [("a", "1"), ("b", "1")]


def test_rows_of_another_list_reach_the_records_of_a_finished_crawl(call: Call, host: PictureHost) -> None:
    call("run", "--images", listed(host, [(0, "a", "1"), (1, "b", "2"), (2, "c", "3")]), "-w", 0, "--allow-private")
    ended = call(
        "run",
        "--images",
        listed(host, [(0, "late", "4"), (1, "b", "2"), (3, "d", "5")], "more.csv"),
        "-w",
        0,
        "--allow-private",
    )
    assert pairs() == {("0", "a", "1"), ("0", "late", "4"), ("1", "b", "2"), ("2", "c", "3"), ("3", "d", "5")}
    assert "list rows     6: 4 new URLs, 2 repeated\n" in ended.err
    assert set(host.asked.values()) == {1} and len(manifest_of(OUT)) == 4
    assert agrees()


def test_rows_survive_a_retry_a_refresh_and_gathering(call: Call, tmp_path: Path) -> None:
    is_broken = True
    with PictureHost(answer=lambda path: Answer(404, {}) if path == "/robots.txt" or is_broken else None) as host:
        call(
            "run",
            "--images",
            listed(host, [(0, "a", "1"), (0, "b", "2"), (0, "x" * 5_000, "3")]),
            "-w",
            0,
            "--allow-private",
        )
        expected = {("0", "a", "1"), ("0", "b", "2"), ("0", "x" * 5_000, "3")}
        assert pairs() == expected and agrees()
        is_broken = False
        call("retry", OUT, "--only", "http-404", "-w", 0, "--allow-private")
        assert pairs() == expected and agrees()
        assert [record.status for record in manifest_of(OUT)] == ["success"]
        call("run", "-o", OUT, "--refresh", "-w", 0, "--allow-private")
        assert pairs() == expected and agrees()
        gather(OUT, [])
        assert pairs() == expected and agrees()


def test_a_row_for_a_picture_that_a_page_has_named_is_kept(call: Call) -> None:
    page = Answer(200, {"Content-Type": "text/html"}, b'<img src="0.png" alt="from the page">')
    robots = Answer(404, {})
    with PictureHost(answer=lambda path: {"/": page, "/robots.txt": robots}.get(path)) as host:
        call("run", host.url, "-w", 0, "--allow-private")
        call("run", "--images", listed(host, [(0, "from the list", "7")]), "-w", 0, "--allow-private")
        (record,) = manifest_of(OUT)
        assert (record.alt, host.asked["/0.png"]) == ("from the page", 1)
        assert rows_of(record) == [("", ""), ("from the list", "7")]
        assert agrees()


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_long_captions_and_columns_are_kept_whole_and_cuts_are_reported(
    call: Call, host: PictureHost, name: str
) -> None:
    texts = {"0": "x" * 3_000, "1": "é " * 100_000 + "end", "2": "y" * (2**20 + 1_000)}
    rows = [
        {"url": f"{host.url}/{key}.png", "caption": text, "note": f"{text[:200_000]}|"} for key, text in texts.items()
    ]
    if name.endswith("parquet"):
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), name)
    elif name.endswith("csv"):
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows[:2])]
        Path(name).write_text("\n".join(lines), "utf-8")
    else:
        Path(name).write_text("\n".join(map(json.dumps, rows[:2])), "utf-8")
    ended = call("run", "--images", name, "-w", 0, "--allow-private")
    found = {record.url.rpartition("/")[2][0]: record for record in manifest_of(OUT)}
    for key in ("0", "1"):
        assert found[key].caption == texts[key]
        assert json.loads(found[key].columns) == {"note": f"{texts[key][:200_000]}|"}
    assert (" truncated (too long)" in ended.err) == name.endswith("parquet")
    if name.endswith("parquet"):
        assert found["2"].caption == "y" * 2**20
        assert "list rows     3: 3 new URLs, 0 repeated; 1 truncated" in ended.err
    assert agrees()


def test_a_kill_after_a_late_row_leaves_a_consistent_crawl_and_the_next_run_writes_the_row(
    call: Call, host: PictureHost
) -> None:
    command = ("run", "--images", listed(host, [(0, "a", "1"), (1, "b", "2")]), "-w", 0, "--allow-private")
    call(*command)
    frontier = MasterFrontier(OUT / "frontier.sqlite", Policy(), settings={})
    frontier.mark(is_at_work=True, downloads_here=True)
    late = Request(url=f"{host.url}/0.png", kind="image", source="list", caption="late")
    frontier.put([Request(url="file:///late.csv", kind="list", entries="image")])
    (turn,) = frontier.lease("w1", ["list"], 1, 60.0, 0.0).turns
    frontier.complete("w1", [Outcome(status="done", token=turn.leases[0].token, discovered=(late,))], [turn.id])
    frontier.close()  # with its mark, as after a kill
    assert verify(OUT).faults == ()
    assert "late" not in (OUT / "manifest.jsonl").read_text()
    row = (OUT / "manifest.jsonl").read_text().replace('"caption":"a"', '"caption":"forged"')
    (OUT / "manifest.jsonl").write_text(row)
    assert [fault.rule for fault in verify(OUT).faults] == ["manifest.jsonl differs from the records"]
    call(*command)
    assert pairs() == {("0", "a", "1"), ("0", "late", ""), ("1", "b", "2")}
    assert agrees()


@pytest.mark.fire
def test_a_kill_between_or_within_chunks_neither_loses_nor_duplicates_a_row(tmp_path: Path) -> None:
    with PictureHost() as host, commands(tmp_path) as start:
        rows = [f"{host.url}/{n % 200}.png,caption {n},{n}" for n in range(30_000)]
        (tmp_path / "list.csv").write_text("\n".join(["url,caption,id", *rows]))
        job = tmp_path / "out"
        for kill in range(6):
            command = start("run", "run", "--images", "list.csv", "-o", "out", "-w", 0, "--allow-private")
            aim = 1 + kill * 5_000
            wait_until(lambda: stats_of(job).list_rows >= aim or command.process.poll() is not None, f"{aim} rows")  # noqa: B023
            command.kill()
            assert verify(job).faults == ()
        assert start("last", "run", "--images", "list.csv", "-o", "out", "-w", 0, "--allow-private").ends() == 0
        found = [int(key) for record in manifest_of(job) for _, key in rows_of(record)]
        assert sorted(found) == list(range(30_000))
        assert len(host.asked) == 200
        assert verify(job).faults == ()
