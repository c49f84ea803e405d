"""What a worker may claim in a record: people join paths from the manifest, and programs read its rows."""

from typing import Any

import msgspec
import pytest

from crawler.engines.calls import RESULTS, TASKS, read_call, write_call
from crawler.errors import MessageError
from crawler.model import ImageRecord, Outcome

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
    """The record as it arrives."""
    outcome = Outcome(status="done", token="t", record=record)
    _, _, (_, (arrived,), _) = read_call(write_call(RESULTS, "put", ("w1", (outcome,), ())))
    assert isinstance(arrived, Outcome)
    return arrived.record


def test_what_our_downloaders_write_passes() -> None:
    failed = ImageRecord(url="http://a.example/1.jpg", reason="http-404")
    assert (put(GOOD), put(failed)) == (GOOD, failed)


@pytest.mark.parametrize(
    "lie",
    [
        {"path": "../../../../etc/passwd"},
        {"path": f"images/cd/{SHA}.jpg"},
        {"path": f"images/ab/{SHA}.jpg/../../x"},
        {"store": "\x1b]0;evil"},
        {"sha256": "<script>", "path": ""},
        {"bytes": -(2**62)},
        {"width": -1},
        {"format": "a\nb"},
        {"final_url": "javascript:alert(1)"},
        {"final_url": "http://a.example/\n"},
    ],
)
def test_anything_else_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        put(msgspec.structs.replace(GOOD, **lie))


@pytest.mark.parametrize("name", ["harvester", "downloader", "", "a b", "a" * 129])
def test_a_name_that_is_not_a_workers_is_refused(name: str) -> None:
    with pytest.raises(MessageError):
        read_call(write_call(TASKS, "hello", (name, 1)))
