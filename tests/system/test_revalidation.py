"""Revalidation: the validators that are stored, the requests that carry them, and the handling of a 304."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import responses
from hypothesis import given
from hypothesis import strategies as st

from crawler.download.downloader import Downloader
from crawler.errors import RequestFailed
from crawler.handler import revalidating
from crawler.harvest.harvester import Harvester
from crawler.model import ImageRecord, Lease, Outcome, PriorFetch, Request, Turn
from crawler.net.fetcher import Canned, CannedFetcher, Conditions, Response
from crawler.net.requests_fetcher import RequestsFetcher
from crawler.store.local import LocalStore
from crawler.worker.turn import work_off
from tests.download.pictures import picture
from tests.frontier.fakes import image

URL = "http://a.example/cat.jpg"
TAG, DATE = '"v1"', "Mon, 02 Jan 2023 03:04:05 GMT"
JPEG = picture("JPEG")
HELD = {"etag": TAG, "last-modified": DATE}


class Asking(CannedFetcher):
    """A fetcher that records the conditions of each request."""

    def __init__(self, answers: dict[str, Canned | RequestFailed]) -> None:
        super().__init__(answers)
        self.asked: list[tuple[str, str]] = []

    def fetch(self, request: Request, conditions: Conditions) -> Response:
        self.asked.append((conditions.etag, conditions.last_modified))
        return super().fetch(request, conditions)


def answer(**headers: str) -> Response:
    fields = {name.replace("_", "-"): text for name, text in headers.items()}
    return CannedFetcher({URL: Canned(headers=fields)}).fetch(Request(url=URL), Conditions())


def known(store: LocalStore, **fields: Any) -> PriorFetch:
    """Return the prior fetch of a saved picture."""
    outcome = Downloader(CannedFetcher({URL: Canned(body=JPEG, headers=HELD)}), store).handle(image(URL))
    record = outcome.record
    assert record is not None and (record.etag, record.last_modified) == (TAG, DATE)
    names = set(PriorFetch.__struct_fields__) - {"url", "reason"}
    return PriorFetch(url=record.final_url, **{name: getattr(record, name) for name in names} | fields)


# --- validators


@given(st.text())
def test_any_validator_of_a_server_fits_a_record_and_a_header(text: str) -> None:
    etag, modified = answer(etag=text, last_modified=text).validators
    assert etag in ("", text) and modified in ("", text)
    record = ImageRecord(url=URL, etag=etag, last_modified=modified)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=ImageRecord) == record
    assert (etag + modified).isascii() and (etag + modified).isprintable()


@pytest.mark.parametrize("etag", ['"a"', 'W/"a"', '""', "unquoted-but-usual", '"' + "x" * 254 + '"'])
def test_valid_etags_are_kept_unchanged(etag: str) -> None:
    assert answer(etag=etag).validators == (etag, "")


@pytest.mark.parametrize("etag", ["", "*", '"a\x00"', '"ä"', '"' + "x" * 255 + '"', '"a"\r\nX-Evil: 1'])
def test_invalid_etags_are_dropped(etag: str) -> None:
    assert answer(etag=etag).validators == ("", "")


@pytest.mark.parametrize(
    ("modified", "date", "is_kept"),
    [
        (DATE, "", True),
        (DATE, "Mon, 02 Jan 2023 03:04:06 GMT", True),
        (DATE, DATE, False),  # it may be changed again in the same second
        (DATE, "Mon, 02 Jan 2023 03:04:04 GMT", False),
        ("yesterday", "", False),
        (f"{DATE} {'x' * 64}", "", False),
    ],
)
def test_dates_are_kept_if_they_distinguish_versions(modified: str, date: str, is_kept: bool) -> None:
    assert answer(last_modified=modified, date=date).validators == ("", modified if is_kept else "")


# --- requests


def test_validators_are_sent_only_to_the_url_that_gave_them() -> None:
    held = PriorFetch(url="http://b.example/2.jpg", etag=TAG, last_modified=DATE)
    asked = [
        revalidating(Conditions(), image(URL, target=target, prior=held))
        for target in ("", "http://c.example/2.jpg", "http://b.example/3.jpg", held.url)
    ]
    assert [conditions.is_conditional for conditions in asked] == [False, False, False, True]
    assert (asked[-1].etag, asked[-1].last_modified) == (TAG, DATE)


@responses.activate
def test_validators_are_sent_as_headers_only_if_there_are_any() -> None:
    responses.add(responses.GET, URL, status=304)
    fetcher = RequestsFetcher()
    for conditions in (Conditions(etag=TAG, last_modified=DATE), Conditions(last_modified=DATE), Conditions()):
        with fetcher.fetch(Request(url=URL), conditions) as response:
            assert response.is_unchanged == conditions.is_conditional
    fetcher.close()
    sent = [call.request.headers for call in responses.calls]
    assert [headers.get("If-None-Match") for headers in sent] == [TAG, None, None]
    assert [headers.get("If-Modified-Since") for headers in sent] == [DATE, DATE, None]


# --- 304 responses


def test_an_unchanged_picture_is_reported_from_its_prior_fetch(tmp_path: Path) -> None:
    held = known(store := LocalStore(tmp_path))
    fetcher = Asking({URL: Canned(status=304, headers={"etag": '"v1.1"'})})
    outcome = Downloader(fetcher, store).handle(image(URL, prior=held, alt="a cat"))
    record = outcome.record
    assert fetcher.asked == [(TAG, DATE)] and record is not None
    assert (outcome.status, outcome.reason, outcome.received, outcome.stored) == ("done", "", 0, False)
    assert (record.status, record.http_status, record.alt) == ("success", 304, "a cat")
    assert (record.sha256, record.path, record.store, record.bytes) == (held.sha256, held.path, store.id, len(JPEG))
    assert (record.format, record.width, record.height) == ("jpeg", 61, 47)
    assert (record.etag, record.last_modified) == ('"v1.1"', DATE)


def test_an_unrequested_304_is_a_failure(tmp_path: Path) -> None:
    held = known(store := LocalStore(tmp_path))
    for request in (image(URL), image(URL, prior=msgspec.structs.replace(held, url="http://b.example/"))):
        outcome = Downloader(Asking({URL: Canned(status=304)}), store).handle(request)
        assert (outcome.status, outcome.reason) == ("done", "http-304")
    page = Harvester(CannedFetcher({URL: Canned(status=304)})).handle(Request(url=URL))
    assert (page.status, page.reason) == ("done", "http-304")


def test_a_picture_is_requested_unconditionally_if_its_file_is_not_here(tmp_path: Path) -> None:
    held = known(store := LocalStore(tmp_path))
    store.remove(held.path)
    fetcher = Asking({URL: Canned(body=JPEG)})
    outcome = Downloader(fetcher, store).handle(image(URL, prior=held))
    assert fetcher.asked == [("", "")] and outcome.stored and store.exists(held.path)
    fetcher = Asking({URL: Canned(status=304)})
    elsewhere = msgspec.structs.replace(held, store="ab" * 8)
    record = Downloader(fetcher, LocalStore(tmp_path / "other")).handle(image(URL, prior=elsewhere)).record
    assert fetcher.asked == [(TAG, DATE)] and record is not None and record.store == "ab" * 8


@pytest.mark.parametrize(
    ("options", "headers", "reason"),
    [
        ({"min_size": 50}, {}, "too-small"),
        ({"types": frozenset({"png"})}, {}, "filtered"),
        ({"types": frozenset({"jpg"})}, {}, ""),
        ({}, {"x-robots-tag": "noai"}, "opted-out"),
    ],
)
def test_changed_settings_and_opt_outs_apply_to_an_unchanged_picture(
    options: dict[str, Any], headers: dict[str, str], reason: str, tmp_path: Path
) -> None:
    held = known(store := LocalStore(tmp_path))
    downloader = Downloader(CannedFetcher({URL: Canned(status=304, headers=headers)}), store, **options)
    assert downloader.handle(image(URL, prior=held)).reason == reason


def test_unchanged_content_that_was_no_picture_fails_with_the_same_reason(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = Downloader(CannedFetcher({URL: Canned(body=b"<html>", headers=HELD)}), store).handle(image(URL))
    assert first.record is not None and (first.reason, first.record.etag) == ("not-an-image", TAG)
    held = PriorFetch(url=first.record.final_url, etag=TAG, reason=first.reason)
    again = Downloader(CannedFetcher({URL: Canned(status=304)}), store).handle(image(URL, prior=held))
    assert again.record is not None and (again.status, again.reason) == ("done", "not-an-image")
    assert (again.record.etag, again.received) == (TAG, 0)
    better = Downloader(CannedFetcher({URL: Canned(body=JPEG)}), store).handle(image(URL, prior=held))
    assert better.reason == ""


def test_an_unchanged_page_names_nothing_again() -> None:
    html = Canned(body=b"<html><img src=1.jpg>", headers={"content-type": "text/html", **HELD})
    first = Harvester(CannedFetcher({"http://a.example/": html})).handle(Request(url="http://a.example/"))
    assert (
        first.seen == PriorFetch(url="http://a.example/", etag=TAG, last_modified=DATE) and len(first.discovered) == 1
    )
    fetcher = Asking({"http://a.example/": Canned(status=304, headers={"etag": '"v2"'})})
    again = Harvester(fetcher).handle(Request(url="http://a.example/", prior=first.seen))
    assert fetcher.asked == [(TAG, DATE)]
    assert (again.status, again.reason, again.discovered) == ("done", "", ())
    assert again.seen == PriorFetch(url="http://a.example/", etag='"v2"', last_modified=DATE)


def test_a_redirect_within_a_turn_leads_to_the_conditional_request(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    held = msgspec.structs.replace(known(store), url="http://a.example/new.jpg")
    fetcher = Asking(
        {
            URL: Canned(status=302, headers={"location": "/new.jpg"}),
            "http://a.example/new.jpg": Canned(status=304),
        }
    )
    turn = Turn(id="t", host="a.example", leases=(Lease(request=image(URL, prior=held), token="k"),))
    outcomes: list[Outcome] = list(work_off(turn, Downloader(fetcher, store).handle))
    assert fetcher.asked == [("", ""), (TAG, DATE)] and [outcome.reason for outcome in outcomes] == [""]
