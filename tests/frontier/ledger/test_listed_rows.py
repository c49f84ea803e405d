"""List rows in the frontier: all of them are kept, outside of the leased requests."""

import json
from typing import Any

import pytest

from crawler.errors import DiskError
from crawler.frontier.ledger import listed_rows
from crawler.frontier.ledger.listed_rows import MAX_TEXT
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import ImageRecord, ListRow, Outcome, Request
from tests.frontier.fakes import Open, done, image, lease, turn_ids, work_off

LIST = Request(url="file:///list.csv", kind="list", entries="image")


def row(number: int = 0, **words: Any) -> Request:
    return image(f"http://a.example/{number}.jpg", source="list", **words)


def read(frontier: SqliteFrontier, *found: Request, url: str = LIST.url, shortened: int = 0) -> None:
    """Have a list of these rows read."""
    frontier.put([Request(url=url, kind="list", entries="image")])
    (turn,) = lease(frontier, "list").turns
    outcome = Outcome(status="done", token=turn.leases[0].token, discovered=found, shortened=shortened)
    frontier.complete("w1", [outcome], [turn.id])


def records(frontier: SqliteFrontier) -> list[ImageRecord]:
    return [record for _, record in frontier.records(0, 1_000)]


def test_a_lease_carries_a_short_row_and_the_record_a_long_one(open_file: Open) -> None:
    frontier = open_file()
    long = row(caption="x" * 100_000, columns=json.dumps({"a": "y" * 100_000}), alt="z")
    read(frontier, long, row(caption="é" * 10_000))
    grant = lease(frontier, "image")
    (request,) = [lease.request for turn in grant.turns for lease in turn.leases]
    assert (request.caption, request.columns, request.alt) == ("x" * MAX_TEXT, "", "z")
    frontier.complete("w1", done(grant), turn_ids(grant))
    (record,) = records(frontier)
    assert (record.caption, record.columns, record.alt) == (long.caption, long.columns, "z")
    assert record.other_rows == (ListRow(caption="é" * 10_000),)


def test_a_list_without_repeated_urls_adds_nothing_to_the_tables(open_file: Open) -> None:
    frontier = open_file()
    read(frontier, *[row(number, caption="x", columns='{"id":1}') for number in range(1_000)])
    read(frontier, *[row(number, caption="x", columns='{"id":1}') for number in range(1_000)], url="file:///again")
    assert frontier.ledger.database.number("SELECT COUNT(*) FROM list_row") == 0
    stats = frontier.stats()
    assert (stats.discovered, stats.list_rows, stats.list_repeated) == (1_000, 2_000, 1_000)


def test_a_failed_transaction_leaves_no_row_and_its_repetition_writes_all(
    open_file: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontier = open_file()
    frontier.put([LIST])
    (turn,) = lease(frontier, "list").turns
    outcome = Outcome(status="done", token=turn.leases[0].token, discovered=(row(alt="a"), row(alt="b"), row(1)))
    with monkeypatch.context() as patch:
        patch.setattr(frontier._applier, "apply", _refuse)
        with pytest.raises(DiskError):
            frontier.complete("w1", [outcome], [turn.id])
    assert (frontier.stats().list_rows, frontier.stats().discovered) == (0, 0)
    frontier.complete("w1", [outcome], [turn.id])
    frontier.complete("w1", [outcome], [turn.id])  # reported twice, as the answer was lost
    assert (frontier.stats().list_rows, frontier.stats().list_repeated) == (3, 1)
    work_off(frontier, "image")
    assert [record.other_rows for record in records(frontier)] == [(ListRow(alt="b"),), ()]


def _refuse(*_: object) -> None:
    raise DiskError("full")


def test_counts_and_rows_survive_a_restart(open_file: Open) -> None:
    first = open_file()
    read(first, row(alt="a"), row(alt="b"), shortened=1)
    first.close()
    second = open_file()
    stats = second.stats()
    assert (stats.list_rows, stats.list_repeated, stats.list_cut) == (2, 1, 1)
    work_off(second, "image")
    assert records(second)[0].other_rows == (ListRow(alt="b"),)


def test_rows_of_one_url_are_limited_and_the_surplus_is_counted(
    open_file: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed_rows, "_MAX_KEPT", 10_000)
    frontier = open_file()
    read(frontier, *[row(alt=f"{number:04}" * 200) for number in range(100)])
    work_off(frontier, "image")
    kept = len(records(frontier)[0].other_rows)
    assert (10 <= kept < 12, frontier.stats().list_cut) == (True, 99 - kept)


def test_a_page_of_records_has_a_size_limit_and_the_next_page_continues(
    open_file: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed_rows, "_PAGE_BYTES", 5_000)
    frontier = open_file()
    numbers = range(20)
    read(frontier, *[row(number, alt=f"{number:04}" * 500) for number in numbers if number % 3], *map(row, numbers))
    while work_off(frontier, "image"):
        pass
    after, pages = 0, []
    while page := frontier.records(after, 1_000):
        pages.append([len(record.alt) for _, record in page])
        after = page[-1][0]
    assert len(pages) > 3 and sum(map(len, pages)) == 20 and sum(map(sum, pages)) == 13 * 2_000
