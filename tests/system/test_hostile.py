"""One crawl of the hostile web: each endpoint ends in the state of the table, and affects no other."""

import re
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

import crawler
from crawler.app.summary import Summary
from crawler.model import REASONS, ImageRecord
from tests.support.hostile import ENDPOINTS, HOSTS, Endpoint, Host, HostileWeb, Seen, serving
from tests.support.misdeeds import body_of
from tests.support.processes import manifest_of

pytestmark = pytest.mark.xdist_group("hostile")  # one crawl is enough for all of these

TESTS = Path(__file__).parents[1]
#: Reason → the test that provokes it, for reasons that the hostile web does not provoke.
ELSEWHERE = {
    "blocked-address": "system/test_blocked_addresses.py::test_redirects_of_a_permitted_host_never_reach_the_canary",
    "cancelled": "net/test_requests_fetcher.py::test_abort_ends_a_waiting_read_from_another_thread",
    "dns": "net/test_requests_fetcher.py::test_an_unknown_name_is_a_dns_failure",
    "host-down": "frontier/test_host_health.py::test_requests_of_a_host_that_stays_down_fail_at_the_end_as_host_down",
    "internal": "worker/test_worker.py::test_an_exception_of_one_picture_costs_only_that_picture",
    "lost-file": "harvest/url_lists/test_list_handler.py::test_a_truncated_compressed_file_fails_at_its_end",
    "poison": "download/test_downloader.py::test_a_suspect_that_crashes_its_decoder_is_poison",
    "tls": "net/test_tls_requests.py::test_an_unknown_certificate_is_a_permanent_failure",
    "trap": "harvest/test_discovery.py::test_pages_that_keep_bringing_nothing_are_reported_and_skipped",
}
#: Reasons that are not in the table: reserved ones, and those with tests of their own.
NOT_YET = {"disk", "pin-mismatch", "hook"}


class Crawled(NamedTuple):
    web: HostileWeb
    log: list[Seen]
    summary: Summary
    output: Path
    has_process: bool
    #: By path on the main host, and by name of the other hosts.
    records: dict[str, ImageRecord]


@pytest.fixture(scope="module", params=[0, 1], ids=["threads", "process"])
def crawled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crawled]:
    """Crawl all of it once with each kind of downloader, with short timeouts."""
    output = tmp_path_factory.mktemp("hostile") / "out"
    with serving() as web:
        summary = crawler.run(
            web.url("main", "/index.html"),
            output,
            depth=0,
            workers=request.param,
            connections=24,
            patience=10,
            connect_timeout=5,
            first_byte_timeout=3,
            total_timeout=15,
            speed_window=0.5,
            min_speed=1000,
            max_bytes=1_000_000,
            min_size=8,
            types=("png",),
            durability="none",
            allow_private=True,
        )
        names = {f"127.0.0.1:{port}": name for name, port in web.ports.items()}
        records = {}
        for record in manifest_of(output):
            host, path = re.fullmatch(r"http://([^/]+)(/.*)", record.url).groups()  # type: ignore[union-attr]
            records[path if names[host] == "main" else names[host]] = record
        yield Crawled(web, web.log, summary, output, bool(request.param), records)


def asked(crawled: Crawled, host: str, path: str) -> list[Seen]:
    return [seen for seen in crawled.log if seen.host == host and seen.path == path]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_each_endpoint_ends_as_expected(crawled: Crawled, endpoint: Endpoint) -> None:
    endpoint = endpoint.with_libcurl() if crawled.has_process else endpoint
    record = crawled.records[endpoint.path]
    visits = len(asked(crawled, "main", endpoint.path))
    assert (record.status, record.reason) == ("failed" if endpoint.reason else "success", endpoint.reason)
    assert endpoint.requests <= visits <= (endpoint.most or endpoint.requests)
    assert record.elapsed <= 10 * endpoint.seconds
    if not endpoint.reason:
        assert (crawled.output / record.path).read_bytes() == body_of(endpoint.path)
        assert record.sha256 == sha256(body_of(endpoint.path)).hexdigest()


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
def test_each_host_is_treated_as_it_asks(crawled: Crawled, host: Host) -> None:
    record = crawled.records[host.name]
    assert (record.status, record.reason) == ("failed" if host.reason else "success", host.reason)
    visits = tuple(len(asked(crawled, host.name, path)) for path in ("/robots.txt", "/p.png"))
    assert visits == host.requests


@pytest.mark.parametrize("host", [host for host in HOSTS if host.asks_rest], ids=lambda host: host.name)
def test_a_host_that_names_a_wait_gets_it(crawled: Crawled, host: Host) -> None:
    moments = [seen.at for seen in crawled.log if seen.host == host.name]
    assert max(later - earlier for earlier, later in pairwise(moments)) >= 1.0


def test_no_other_request_was_found_and_none_was_lost(crawled: Crawled) -> None:
    assert crawled.records.keys() == {each.path for each in ENDPOINTS} | {host.name for host in HOSTS}
    stats = crawled.summary.stats
    assert stats.success + stats.duplicate + stats.failed == stats.discovered == len(crawled.records)
    assert stats.page_reasons == {} and stats.pages_done == 1


def test_the_crawl_ends_soon(crawled: Crawled) -> None:
    assert crawled.summary.elapsed < 250


def test_servers_receive_no_data_that_is_not_for_them(crawled: Crawled) -> None:
    """Check the logs of all servers: no credentials, no cookie outside its chain, only the origin of our page."""
    main = crawled.web.url("main", "/")
    allowed = {"/cookie-wall.png", "/cookie-loop.png"}
    for seen in crawled.log:
        assert "authorization" not in seen.headers and "secret" not in str(seen.headers)
        assert "cookie" not in seen.headers or (seen.host == "main" and seen.path in allowed)
        assert len(seen.headers.get("cookie", "")) <= 8_192
        if seen.path not in ("/robots.txt", "/index.html"):
            assert seen.headers["referer"] == (main + "index.html" if seen.host == "main" else main)


def test_a_part_is_requested_only_with_a_validator(crawled: Crawled) -> None:
    asked_for = {seen.path for seen in crawled.log if "range" in seen.headers}
    assert asked_for == {
        each.path for each in ENDPOINTS if each.path.startswith("/big/")
    } - {"/big/weak-tag.png", "/big/no-validator.png"}  # fmt: skip
    assert {seen.headers.get("if-range") for seen in crawled.log if "range" in seen.headers} == {
        '"v1"', "Mon, 02 Jan 2023 03:04:05 GMT",
    }  # fmt: skip


def test_no_secret_in_a_url_is_written_to_disk(crawled: Crawled) -> None:
    files = [path for path in crawled.output.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if b"user:secret" in path.read_bytes()] == []


def test_each_reason_is_tried_as_often_as_the_readme_says(crawled: Crawled) -> None:
    readme = (Path(crawler.__file__).parent / "guide" / "reference.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", readme, re.MULTILINE)
    stated = {reason: re.search(r"\((\d) attempts\)", text) for reason, text in rows}
    told = {reason: int(match[1]) if match else 1 for reason, match in stated.items()}
    tried: dict[str, int] = {}
    for record in crawled.records.values():
        if record.reason and not record.reason.startswith("http-"):
            tried[record.reason] = max(tried.get(record.reason, 0), record.attempts)
    assert len(tried) > 15
    assert tried == {reason: told[reason] for reason in tried}


def test_every_reason_is_provoked_by_a_test() -> None:
    here = {endpoint.reason for endpoint in ENDPOINTS} | {host.reason for host in HOSTS}
    named = {reason for reason in here if reason and not reason.startswith("http-")}
    assert len(ENDPOINTS) + len(HOSTS) >= 100
    assert named | ELSEWHERE.keys() | NOT_YET == REASONS.keys()
    assert not named & ELSEWHERE.keys() and not NOT_YET & (named | ELSEWHERE.keys())
    for reason, place in ELSEWHERE.items():
        file, _, test = place.partition("::")
        assert f"def {test}(" in (TESTS / file).read_text(encoding="utf-8"), reason
