"""Limits on the claims of a worker in a record: users join paths from the manifest, and programs read its rows."""

from typing import Any

import msgspec
import pytest

from crawler.errors import MessageError
from crawler.model import ImageRecord, ListRow, Outcome, Request, RobotsRules
from crawler.queue.manager import ResultQueue
from crawler.queue.protocol import RESULTS, TASKS, read_call, write_call
from tests.queue.fake_frontier import FakeFrontier
from tests.queue.served import served

SHA = "ab" * 32
GOOD = ImageRecord(
    url="http://a.example/1.jpg",
    final_url="http://a.example/1.jpg",
    status="success",
    store="0123456789abcdef",
    path=f"images/ab/{SHA}.jpg",
    sha256=SHA,
    bytes=10,
    format="jpeg",
)


def put(record: ImageRecord) -> ImageRecord | None:
    """Return the record as it arrives."""
    outcome = Outcome(status="done", token="t", record=record)
    _, _, (_, (arrived,), _) = read_call(write_call(RESULTS, "put", ("w1", (outcome,), ())))
    assert isinstance(arrived, Outcome)
    return arrived.record


def test_records_of_our_downloaders_are_accepted() -> None:
    failed = ImageRecord(url="http://a.example/1.jpg", reason="http-404")
    named = msgspec.structs.replace(GOOD, path=f"images/a.example/été.{SHA[:32]}.jpg")
    assert (put(GOOD), put(failed), put(named)) == (GOOD, failed, named)


@pytest.mark.parametrize(
    "lie",
    [
        {"path": "../../../../etc/passwd"},
        {"path": f"images/cd/{'cd' * 32}.jpg"},
        {"path": f"images/nul.{SHA[:32]}.jpg"},
        {"path": f"images/boat.{'cd' * 16}.jpg"},
        {"path": f"elsewhere/{SHA}.jpg"},
        {"path": f"images/ab/{SHA}.jpg/../../x"},
        {"store": "\x1b]0;evil"},
        {"sha256": "<script>", "path": ""},
        {"bytes": -(2**62)},
        {"width": -1},
        {"format": "a\nb"},
        {"final_url": "javascript:alert(1)"},
        {"final_url": "http://a.example/\n"},
        {"other_rows": (ListRow(alt="x"),)},
    ],
)
def test_anything_else_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        put(msgspec.structs.replace(GOOD, **lie))


@pytest.mark.parametrize("name", ["harvester", "downloader", "", "a b", "a" * 129])
def test_a_name_that_is_not_a_workers_is_refused(name: str) -> None:
    with pytest.raises(MessageError):
        read_call(write_call(TASKS, "hello", (name, 1)))


@pytest.mark.parametrize(
    ("outcomes", "complaint"),
    [
        ([Outcome(status="done", discovered=(Request(url="u"),) * 15_000)] * 2, "more than 20000 requests"),
        ([Outcome(status="done", discovered=(Request(url="u"),) * 20_001)], "length <= 20000"),
        ([Outcome(status="done", discovered=(Request(url="u", title="t" * 70_000),))], "Request is too long"),
        ([Outcome(status="done", record=ImageRecord(url="u", alt="t" * 90_000))], "ImageRecord is too long"),
        ([Outcome(status="done", robots=RobotsRules(sitemaps=("t" * 5_000,) * 1_000))], "RobotsRules is too long"),
        ([Outcome(status="done", robots=RobotsRules(sitemaps=("",) * 1_001))], "length <= 1000"),
        ([Outcome(status="done", token="9" * 5_000)], "length <= 128"),
    ],
)
def test_a_message_that_would_expand_too_much_is_refused(outcomes: list[Outcome], complaint: str) -> None:
    with pytest.raises(MessageError, match=complaint):
        read_call(write_call(RESULTS, "put", ("w1", tuple(outcomes), ())))


def test_the_rules_carried_by_a_robots_txt_request_do_not_count_towards_its_length() -> None:
    carried = Request(url="http://a.example/robots.txt", kind="robots", rules=RobotsRules(text="Allow: /\n" * 100_000))
    call = write_call(RESULTS, "put", ("w1", (Outcome(status="moved", token="t", successor=carried),), ()))
    _, _, (_, (arrived,), _) = read_call(call)
    assert arrived.successor == carried


class LongRecords(FakeFrontier):
    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        return tuple((n, ImageRecord(url="u", alt="a" * 60_000)) for n in range(after + 1, after + limit + 1))


def test_a_response_of_records_has_a_size_limit_and_the_rest_is_fetched_by_the_next_call() -> None:
    first = ResultQueue(LongRecords()).records(0, 1_000)
    assert 4 * 2**20 < sum(len(record.alt) for _, record in first) < 8 * 2**20
    with served(LongRecords()) as remote:
        assert [number for number, _ in remote.records(0, 300)] == list(range(1, 301))


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/\nhttp://b.example/--->success",
        "http://a.example/x--->success",
        "http://a.example/ x",
        "http://a.example/<x",
        "http://a.example/ä",
        "http://a.example/\x00",
        "http://a.example/\x7f",
        "http://a.example/\n",
    ],
)
def test_a_url_that_could_forge_a_record_line_is_refused(url: str) -> None:
    sound = Request(url="http://a.example/", kind="image")
    for forged in (Request(url=url), Request(url="http://a.example/", fallback=url)):
        for outcome in (
            Outcome(status="done", discovered=(sound, forged)),
            Outcome(status="moved", successor=forged),
        ):
            with pytest.raises(MessageError, match="URL"):
                read_call(write_call(RESULTS, "put", ("w1", (outcome,), ())))
