import sys
from pathlib import Path

import pytest
from msgspec import structs

from crawler.download.decoder_pool import DecoderPool
from crawler.download.downloader import Downloader
from crawler.download.naming import digest
from crawler.errors import DiskError, RequestFailed
from crawler.model import ImageRecord, Outcome, Request
from crawler.net.fetcher import Canned, CannedFetcher
from crawler.net.headers import Headers
from crawler.store.local import LocalStore
from tests.download.pictures import MAKERS, picture

URL = "https://a.example/cat.jpg"
REQUEST = Request(url=URL, kind="image", referrer="https://a.example/", source="img", alt="a cat", depth=2)
JPEG = picture("JPEG")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def answer_with(store: LocalStore, canned: Canned | RequestFailed, **options: object) -> Outcome:
    return Downloader(CannedFetcher({URL: canned}), store, **options).handle(REQUEST)  # type: ignore[arg-type]


def record_of(outcome: Outcome) -> ImageRecord:
    assert outcome.record is not None
    return outcome.record


def reason_for(store: LocalStore, canned: Canned | RequestFailed, **options: object) -> str:
    outcome = answer_with(store, canned, **options)
    record = record_of(outcome)
    assert record.status == "failed"
    assert record.reason == outcome.reason
    assert not (store.root / "images").exists()
    return outcome.reason


def test_an_image_is_stored_byte_for_byte_and_described(store: LocalStore) -> None:
    record = record_of(outcome := answer_with(store, Canned(body=JPEG)))
    assert (outcome.status, outcome.reason, outcome.received) == ("done", "", len(JPEG))
    assert (record.status, record.format, record.width, record.height) == ("success", "jpeg", 61, 47)
    assert (record.sha256, record.bytes, record.http_status) == (digest(JPEG), len(JPEG), 200)
    assert (record.page_url, record.alt, record.source, record.depth) == ("https://a.example/", "a cat", "img", 2)
    assert record.store == store.id
    assert (store.root / record.path).read_bytes() == JPEG
    assert record.fetched_at > 1.7e9


def test_the_extension_is_that_of_the_bytes(store: LocalStore) -> None:
    png = picture("PNG")
    record = record_of(answer_with(store, Canned(headers={"content-type": "image/jpeg"}, body=png)))
    assert record.path.endswith(f"/{digest(png)}.png")


def test_the_same_bytes_are_stored_once(store: LocalStore) -> None:
    records = [record_of(answer_with(store, Canned(body=JPEG))) for _ in range(2)]
    assert records[0].path == records[1].path
    assert records[1].status == "success"


def test_a_redirect_gives_the_request_a_new_target(store: LocalStore) -> None:
    outcome = answer_with(store, Canned(status=302, headers={"location": "//b.example/x.jpg"}))
    assert outcome.status == "moved"
    assert outcome.successor is not None
    assert outcome.successor.location == "https://b.example/x.jpg"


def test_final_url_is_that_of_the_last_hop(store: LocalStore) -> None:
    target = "https://b.example/x.jpg"
    downloader = Downloader(CannedFetcher({target: Canned(body=JPEG)}), store)
    record = record_of(downloader.handle(Request(url=URL, kind="image", target=target, hops=1)))
    assert (record.url, record.final_url) == (URL, target)


def test_too_many_redirects_fail(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.download.downloader.MAX_REDIRECTS", 0)
    canned = Canned(status=302, headers={"location": "/next"})
    assert reason_for(store, canned) == "redirect-limit"


@pytest.mark.parametrize(("status", "verdict"), [(404, "done"), (410, "done"), (500, "retry"), (503, "retry")])
def test_bad_status_fails_with_its_code(store: LocalStore, status: int, verdict: str) -> None:
    outcome = answer_with(store, Canned(status=status))
    assert (outcome.status, outcome.reason) == (verdict, f"http-{status}")
    assert record_of(outcome).http_status == status


def test_a_failed_fetch_is_an_outcome(store: LocalStore) -> None:
    outcome = answer_with(store, RequestFailed("timeout", retryable=True))
    assert (outcome.status, outcome.reason) == ("retry", "timeout")


def test_retry_after_reaches_the_frontier(store: LocalStore) -> None:
    outcome = answer_with(store, Canned(status=429, headers={"retry-after": "7"}))
    assert (outcome.host_wait, outcome.overloaded) == (7.0, True)


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"", "not-an-image"), (b"<html>", "not-an-image"), (b"<svg/>", "unsupported-format"), (JPEG[:-9], "truncated")],
)
def test_bad_bytes_are_settled_at_once(store: LocalStore, body: bytes, reason: str) -> None:
    outcome = answer_with(store, Canned(body=body))
    assert (outcome.status, outcome.received) == ("done", len(body))
    assert record_of(outcome).http_status == 200
    assert reason_for(store, Canned(body=body)) == reason


def test_a_long_body_is_cut(store: LocalStore) -> None:
    assert reason_for(store, Canned(body=JPEG), max_bytes=100) == "too-large"


def test_a_large_canvas_is_refused(store: LocalStore) -> None:
    assert reason_for(store, Canned(body=JPEG), max_pixels=100) == "pixels-limit"


def test_small_pictures_are_filtered(store: LocalStore) -> None:
    assert reason_for(store, Canned(body=JPEG), min_size=48) == "too-small"
    assert answer_with(store, Canned(body=JPEG), min_size=47).reason == ""


def test_other_types_are_filtered(store: LocalStore) -> None:
    assert reason_for(store, Canned(body=JPEG), types=frozenset({"png"})) == "filtered"


@pytest.mark.parametrize("name", ["jpeg", "jpg"])
def test_a_type_may_be_given_as_its_extension(store: LocalStore, name: str) -> None:
    assert answer_with(store, Canned(body=JPEG), types=frozenset({name})).reason == ""


@pytest.mark.parametrize(
    ("header", "directive"),
    [
        ({"X-Robots-Tag": "all, noai"}, "noai"),
        ({"x-robots-tag": "unavailable_after: 25 Jun 2010"}, "unavailable_after:1277424000"),
        ({"TDM-Reservation": "1"}, "tdm-reservation:1"),
    ],
)
def test_an_opt_out_is_honoured_and_logged(
    store: LocalStore, header: dict[str, str], directive: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert reason_for(store, Canned(headers=header, body=JPEG)) == "opted-out"
    assert caplog.messages[0] == f"action=opt-out url={URL} directive={directive}"


def test_an_opt_out_may_name_our_crawler(store: LocalStore) -> None:
    canned = Canned(headers={"x-robots-tag": "ourbot: noai"}, body=JPEG)
    assert reason_for(store, canned, agent="OurBot/1.0 (+https://a.example/)") == "opted-out"
    assert answer_with(store, canned, agent="TheirBot").reason == ""


def test_headers_are_read_separately(store: LocalStore) -> None:
    headers = Headers([("X-Robots-Tag", "otherbot: nofollow"), ("X-Robots-Tag", "noindex")])
    assert reason_for(store, Canned(headers=headers, body=JPEG)) == "opted-out"  # type: ignore[arg-type]
    assert answer_with(store, Canned(headers={"X-Robots-Tag": "otherbot: nofollow, noindex"}, body=JPEG)).reason == ""


@pytest.mark.parametrize("value", ["0", "", "x"])
def test_unknown_reservations_are_ignored(store: LocalStore, value: str) -> None:
    assert answer_with(store, Canned(headers={"tdm-reservation": value}, body=JPEG)).reason == ""


def test_a_disk_error_is_charged_to_no_url(store: LocalStore) -> None:
    (store.root / "images").write_bytes(b"a file where the directory belongs")
    with pytest.raises(DiskError, match="images"):
        answer_with(store, Canned(body=JPEG))


# --- header first

BIG = picture("PNG", 700, 500)


def test_an_unwanted_picture_is_abandoned_at_its_header(store: LocalStore) -> None:
    length = {"content-length": str(len(BIG))}
    outcome = answer_with(store, Canned(headers=length, body=BIG), min_size=501)
    assert outcome.reason == "too-small"
    assert outcome.received <= 65_536
    assert outcome.spared == len(BIG) - outcome.received > 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"types": frozenset({"jpeg"})}, "filtered"),
        ({"max_aspect": 1.3}, "filtered"),
        ({"animated": "only"}, "filtered"),
        ({"max_pixels": 349_999}, "pixels-limit"),
        ({"max_bytes": len(BIG) - 1}, "too-large"),
    ],
)
def test_each_filter_saves_the_rest_of_the_transfer(store: LocalStore, options: dict[str, object], reason: str) -> None:
    outcome = answer_with(store, Canned(headers={"content-length": str(len(BIG))}, body=BIG), **options)
    assert (outcome.reason, outcome.spared > 0) == (reason, True)


def test_a_page_instead_of_a_picture_is_abandoned_too(store: LocalStore) -> None:
    page = b"<!DOCTYPE html>".ljust(500_000)
    outcome = answer_with(store, Canned(headers={"content-length": "500000"}, body=page))
    assert (outcome.reason, outcome.spared > 400_000) == ("not-an-image", True)


def test_a_wanted_picture_counts_no_spared_bytes(store: LocalStore) -> None:
    length = {"content-length": str(len(BIG) + 9)}
    assert answer_with(store, Canned(headers=length, body=BIG)).spared == 0
    assert answer_with(store, Canned(status=404, headers=length, body=BIG)).spared == 0


@pytest.mark.parametrize("length", ["", "-5", "1e9", "٣", "9" * 30])
def test_an_invalid_content_length_counts_no_spared_bytes(store: LocalStore, length: str) -> None:
    canned = Canned(headers={"content-length": length}, body=BIG)
    assert answer_with(store, canned, types=frozenset({"gif"})).spared == 0


def test_an_exaggerated_content_length_is_capped(store: LocalStore) -> None:
    canned = Canned(headers={"content-length": "9" * 19}, body=BIG)
    assert answer_with(store, canned).spared == 2**40


@pytest.mark.parametrize("name", [name for name in MAKERS if "animated" in name])
def test_animations_can_be_excluded_or_be_all_that_is_kept(store: LocalStore, name: str) -> None:
    body = MAKERS[name]()
    assert answer_with(store, Canned(body=body), animated="skip").reason == "filtered"
    assert answer_with(store, Canned(body=body), animated="only").reason == ""
    assert answer_with(store, Canned(body=body)).reason == ""


@pytest.mark.parametrize("name", MAKERS)
def test_structure_checks_can_replace_decoding(store: LocalStore, name: str) -> None:
    body = MAKERS[name]()
    decoded, read = (record_of(answer_with(store, Canned(body=body), verify=how)) for how in ("decode", "header"))
    assert (read.format, read.width, read.height) == (decoded.format, decoded.width, decoded.height)
    assert answer_with(store, Canned(body=body[: len(body) * 2 // 3]), verify="header").reason == "truncated"


def test_an_undecoded_picture_may_be_damaged_inside(store: LocalStore) -> None:
    damaged = JPEG[:-600] + b"\x11" * 598 + JPEG[-2:]
    assert answer_with(store, Canned(body=damaged), verify="header").reason == ""


def test_a_picture_that_crashes_its_decoder_is_an_ordinary_failure(store: LocalStore) -> None:
    code = (
        "import os; from crawler.download import decoder_child as child; child.serve(lambda found, limit: os.abort())"
    )
    downloader = Downloader(
        CannedFetcher({URL: Canned(body=picture("WEBP"))}),
        store,
        decoders=DecoderPool(1, command=(sys.executable, "-c", code)),
    )
    outcome = downloader.handle(REQUEST)
    downloader.close()
    assert (outcome.status, outcome.reason) == ("done", "corrupt")


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_suspect_that_crashes_its_decoder_is_poison(store: LocalStore, name: str) -> None:
    crashing = (
        "import os; from crawler.download import decoder_child as child; child.serve(lambda *_, **__: os.abort())"
    )
    decoders = DecoderPool(1, command=(sys.executable, "-c", crashing))
    request = structs.replace(REQUEST, is_suspect=True)
    downloader = Downloader(CannedFetcher({URL: Canned(body=picture(name))}), store, decoders=decoders)
    outcome = downloader.handle(request)
    downloader.close()
    assert (outcome.status, outcome.reason, record_of(outcome).reason) == ("done", "poison", "poison")
    assert not (store.root / "images").exists()


def test_a_suspect_that_decodes_is_saved(store: LocalStore) -> None:
    downloader = Downloader(CannedFetcher({URL: Canned(body=JPEG)}), store)
    plain, suspected = (downloader.handle(structs.replace(REQUEST, is_suspect=is_so)) for is_so in (False, True))
    downloader.close()
    assert (record_of(plain).status, record_of(suspected).path) == ("success", record_of(plain).path)
