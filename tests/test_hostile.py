"""One crawl of the hostile web: each endpoint ends in the state that the table says, and costs nothing but itself."""

import re
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

import crawler
from crawler.model import REASONS, ImageRecord
from crawler.view import Summary
from tests.hostile import ENDPOINTS, HOSTS, Endpoint, Host, HostileWeb, Seen, serving
from tests.misdeeds import body_of
from tests.processes import manifest_of

pytestmark = pytest.mark.xdist_group("hostile")  # one crawl does for all of these

TESTS = Path(__file__).parent
#: Reason → the test that provokes it, where that is not the hostile web.
ELSEWHERE = {
    "blocked-address": "test_blocked_addresses.py::test_redirects_of_a_permitted_host",
    "cancelled": "test_transport.py::test_abort_ends_a_waiting_read_from_another_thread",
    "dns": "test_transport.py::test_a_name_nobody_knows",
    "host-down": "frontier/test_conduct.py::test_at_the_end_what_waits_for_a_host_that_is_down_fails_as_such",
    "internal": "test_worker.py::test_one_bad_picture_costs_no_more_than_itself",
    "lost-file": "harvest/test_lists.py::test_a_packed_file_that_ends_early_is_lost_from_there",
    "poison": "frontier/test_contract.py::test_three_lonely_deliveries_without_a_verdict_are_poison",
    "tls": "test_transport_tls.py::test_an_unknown_certificate_is_refused_for_good",
    "trap": "harvest/test_finds.py::test_pages_that_bring_nothing_again_and_again_are_named_and_left",
}
#: Reasons that the format knows and nothing gives yet.
NOT_YET = {"disk", "pin-mismatch", "hook"}


class Crawled(NamedTuple):
    web: HostileWeb
    log: list[Seen]
    summary: Summary
    output: Path
    #: By path on the main host, and by name of the other hosts.
    records: dict[str, ImageRecord]


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crawled]:
    """All of it, crawled once with short time-outs."""
    output = tmp_path_factory.mktemp("hostile") / "out"
    with serving() as web:
        summary = crawler.run(
            web.url("main", "/index.html"),
            output,
            depth=0,
            threads=24,
            patience=10,
            connect_timeout=2,
            first_byte_timeout=1,
            total_timeout=4,
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
        yield Crawled(web, web.log, summary, output, records)


def asked(crawled: Crawled, host: str, path: str) -> list[Seen]:
    return [seen for seen in crawled.log if seen.host == host and seen.path == path]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_each_endpoint_ends_as_it_must(crawled: Crawled, endpoint: Endpoint) -> None:
    record = crawled.records[endpoint.path]
    visits = len(asked(crawled, "main", endpoint.path))
    assert (record.status, record.reason) == ("failed" if endpoint.reason else "success", endpoint.reason)
    assert endpoint.requests <= visits <= (endpoint.most or endpoint.requests)
    assert record.elapsed <= endpoint.seconds
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
def test_a_host_that_names_a_wait_has_it(crawled: Crawled, host: Host) -> None:
    moments = [seen.at for seen in crawled.log if seen.host == host.name]
    assert max(later - earlier for earlier, later in pairwise(moments)) >= 1.0


def test_nothing_else_was_found_and_nothing_was_lost(crawled: Crawled) -> None:
    assert crawled.records.keys() == {each.path for each in ENDPOINTS} | {host.name for host in HOSTS}
    stats = crawled.summary.stats
    assert stats.success + stats.duplicate + stats.failed == stats.discovered == len(crawled.records)
    assert stats.page_reasons == {} and stats.pages_done == 1


def test_the_crawl_is_over_soon(crawled: Crawled) -> None:
    assert crawled.summary.elapsed < 25


def test_nobody_is_told_more_than_concerns_them(crawled: Crawled) -> None:
    """The log of all servers: no credentials, no cookie outside its chain, of our page elsewhere only the origin."""
    main = crawled.web.url("main", "/")
    allowed = {"/cookie-wall.png", "/cookie-loop.png"}
    for seen in crawled.log:
        assert "authorization" not in seen.headers and "secret" not in str(seen.headers)
        assert "cookie" not in seen.headers or (seen.host == "main" and seen.path in allowed)
        assert len(seen.headers.get("cookie", "")) <= 8_192
        if seen.path not in ("/robots.txt", "/index.html"):
            assert seen.headers["referer"] == (main + "index.html" if seen.host == "main" else main)


def test_a_part_is_asked_for_only_where_the_server_vouches_for_it(crawled: Crawled) -> None:
    asked_for = {seen.path for seen in crawled.log if "range" in seen.headers}
    assert asked_for == {
        each.path for each in ENDPOINTS if each.path.startswith("/big/")
    } - {"/big/weak-tag.png", "/big/no-validator.png"}  # fmt: skip
    assert {seen.headers.get("if-range") for seen in crawled.log if "range" in seen.headers} == {
        '"v1"', "Mon, 02 Jan 2023 03:04:05 GMT",
    }  # fmt: skip


def test_no_secret_of_a_url_is_written_down(crawled: Crawled) -> None:
    files = [path for path in crawled.output.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if b"user:secret" in path.read_bytes()] == []


def test_each_reason_is_tried_as_often_as_the_readme_says(crawled: Crawled) -> None:
    readme = (TESTS.parent / "README.md").read_text(encoding="utf-8")
    told = {
        reason: int(attempts) for reason, attempts in re.findall(r"^\| `([a-z-]+)` \| (\d) \|", readme, re.MULTILINE)
    }
    tried: dict[str, int] = {}
    for record in crawled.records.values():
        if record.reason and not record.reason.startswith("http-"):
            tried[record.reason] = max(tried.get(record.reason, 0), record.attempts)
    assert len(tried) > 15
    assert tried == {reason: told[reason] for reason in tried}


def test_every_reason_is_provoked_somewhere() -> None:
    here = {endpoint.reason for endpoint in ENDPOINTS} | {host.reason for host in HOSTS}
    named = {reason for reason in here if reason and not reason.startswith("http-")}
    assert len(ENDPOINTS) + len(HOSTS) >= 100
    assert named | ELSEWHERE.keys() | NOT_YET == REASONS
    assert not named & ELSEWHERE.keys() and not NOT_YET & (named | ELSEWHERE.keys())
    for reason, place in ELSEWHERE.items():
        file, _, test = place.partition("::")
        assert f"def {test}(" in (TESTS / file).read_text(encoding="utf-8"), reason
