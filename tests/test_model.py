"""The data types of a crawl: plain, frozen, and refused if data from a peer could do harm."""

import re
from typing import Any

import msgspec
import pytest

from crawler import model
from crawler.errors import RequestFailed
from crawler.handler import failure
from crawler.model import REASONS, Grant, ImageRecord, Lease, Outcome, Request, RobotsRules, Turn, describe
from crawler.stats import FrontierStats, WorkerStats

PICTURE = Request(
    url="http://a.example/1.jpg",
    kind="image",
    target="http://b.example/2.jpg",
    depth=2,
    referrer="http://a.example/",
    source="img",
    alt="a cat",
    title="Tom",
    caption="Our cat",
)
EVERYTHING = [
    PICTURE,
    Grant(
        turns=(
            Turn(id="t", host="a.example", robots={"o": "Disallow: /x"}, leases=(Lease(request=PICTURE, token="k"),)),
        )
    ),
    Outcome(status="moved", successor=PICTURE, record=describe(PICTURE), robots=RobotsRules(), discovered=(PICTURE,)),
    FrontierStats(reasons={"dns": 1}, workers=(WorkerStats(name="w", is_told=True),)),
]
STRUCTS = [kind for kind in vars(model).values() if isinstance(kind, type) and kind.__module__ == model.__name__]


@pytest.mark.parametrize("value", EVERYTHING, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("codec", [msgspec.msgpack, msgspec.json], ids=["msgpack", "json"])
def test_every_type_survives_the_wire(value: msgspec.Struct, codec: Any) -> None:
    assert codec.decode(codec.encode(value), type=type(value)) == value


@pytest.mark.parametrize("kind", STRUCTS)
def test_types_are_frozen_and_keyword_only(kind: type[msgspec.Struct]) -> None:
    assert kind.__struct_config__.frozen
    assert all(field.required is False or field.name for field in msgspec.structs.fields(kind))
    with pytest.raises(TypeError):
        kind("positional")


def test_instances_share_no_mutable_default() -> None:
    FrontierStats().reasons["dns"] = 1
    Turn(id="t", host="h").robots["o"] = "x"
    assert FrontierStats().reasons == {}
    assert Turn(id="u", host="h").robots == {}


@pytest.mark.parametrize("reason", ["x\nhttp://b.example/--->success", "no such host", "DNS", "dns\n", "dnß"])
def test_a_reason_that_could_forge_a_record_line_is_refused(reason: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"status": "done", "reason": reason}), type=Outcome)


@pytest.mark.parametrize("reason", [*sorted(REASONS), "http-404", ""])
def test_every_reason_of_ours_is_accepted(reason: str) -> None:
    outcome = Outcome(status="done", reason=reason)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(outcome), type=Outcome) == outcome


def test_reasons_have_one_spelling() -> None:
    assert [reason for reason in REASONS if not re.fullmatch(r"[a-z]+(-[a-z]+)*", reason)] == []


def test_a_request_is_fetched_from_its_target_once_it_has_one() -> None:
    assert Request(url="http://a.example/").location == "http://a.example/"
    assert PICTURE.location == "http://b.example/2.jpg"


def test_a_record_has_the_properties_known_before_the_fetch() -> None:
    record = describe(PICTURE, width=3, final_url="http://c.example/")
    assert (record.url, record.page_url, record.source, record.depth) == (
        PICTURE.url,
        PICTURE.referrer,
        PICTURE.source,
        PICTURE.depth,
    )
    assert (record.alt, record.title, record.caption) == ("a cat", "Tom", "Our cat")
    assert (record.width, record.final_url, record.status) == (3, "http://c.example/", "failed")


def test_a_record_has_no_field_with_a_name_of_its_own() -> None:
    with pytest.raises(TypeError):
        describe(PICTURE, hight=3)


def test_a_final_failure_of_an_image_has_its_record() -> None:
    outcome = failure(PICTURE, RequestFailed("http-404", http_status=404), 1.5)
    assert (outcome.status, outcome.reason, outcome.latency) == ("done", "http-404", 1.5)
    assert outcome.record == describe(PICTURE, reason="http-404", http_status=404, elapsed=1.5)


def test_a_temporary_failure_is_retried_with_the_wait_of_the_host() -> None:
    error = RequestFailed("http-503", retryable=True, host_wait=7.0, overloaded=True)
    outcome = failure(PICTURE, error)
    assert (outcome.status, outcome.host_wait, outcome.overloaded) == ("retry", 7.0, True)


@pytest.mark.parametrize("kind", ["page", "robots", "list"])
def test_only_images_have_records(kind: Any) -> None:
    assert failure(Request(url="http://a.example/", kind=kind), RequestFailed("dns")).record is None


def test_a_manifest_row_has_the_documented_columns() -> None:
    assert ImageRecord.__struct_fields__ == (
        "url",
        "final_url",
        "status",
        "reason",
        "page_url",
        "source",
        "alt",
        "title",
        "caption",
        "link_text",
        "heading",
        "page_title",
        "language",
        "license",
        "declared_width",
        "declared_height",
        "columns",
        "other_rows",
        "store",
        "path",
        "sha256",
        "bytes",
        "format",
        "width",
        "height",
        "phash",
        "near",
        "http_status",
        "attempts",
        "worker",
        "fetched_at",
        "elapsed",
        "depth",
        "etag",
        "last_modified",
        "change",
    )
