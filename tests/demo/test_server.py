"""The demo site matches its truth file, its server misbehaves only as configured, `compare` finds all differences."""

import hashlib
import http.client
import io
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from socket import create_connection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest
from msgspec.structs import replace
from PIL import Image

from crawler.demo.check import Truth, compare, load_truth
from crawler.demo.server import DemoServer, site_folder
from crawler.model import REASONS, ImageRecord
from crawler.urls import canonicalize

SUFFIXES = {".jpg", ".png", ".gif", ".webp", ".avif", ".bmp", ".ico", ".tif", ""}
#: Files with the name of a picture that are not pictures.
BAD = {"torn.jpg", "not-really.jpg", "empty.png", "note.png"}


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def get(url: str, method: str = "GET") -> Answer:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request(method, url.removeprefix(f"http://{parts.netloc}"))
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def server() -> Iterator[DemoServer]:
    with DemoServer() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Build a site of one page, one file and, on host b, a different file of the same name."""
    for name, data in {"a/index.html": b"<p>{{a}} {{host-b}}", "a/x.jpg": b"0123456789", "b/x.jpg": b"b"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.fixture
def truth(server: DemoServer) -> Truth:
    return load_truth(server)


@pytest.fixture
def rows(truth: Truth, server: DemoServer) -> dict[str, ImageRecord]:
    """Return the manifest of a faultless crawl."""
    moved = {f"{server.a}/img/moved.jpg": "/img/moved-here.jpg", f"{server.a}/img/away.jpg": "/media/landed.jpg"}
    later = {url for group in truth.duplicates for url in group[1:]}
    found = {}
    for url, verdict in truth.images.items():
        fields: dict[str, Any] = {"url": url, "final_url": url, **truth.words.get(url, {})}
        if url in moved:
            fields["final_url"] = (server.a if "moved" in url else server.b) + moved[url]
        if verdict.startswith("failed: "):
            fields["reason"] = verdict.removeprefix("failed: ")
        else:
            fields |= truth.pictures[fields["final_url"].partition("?")[0]]
            fields["status"] = "duplicate" if url in later else "success"
        found[url] = ImageRecord(**fields)
    return found


# Serving


def test_each_host_has_its_own_files(site: Path) -> None:
    with DemoServer(site) as server:
        assert get(f"{server.a}/x.jpg").body == b"0123456789"
        assert get(f"{server.b}/x.jpg").body == b"b"


def test_pages_have_placeholders_filled_and_pictures_do_not(site: Path) -> None:
    (site / "a/y.png").write_bytes(b"{{a}}")
    with DemoServer(site) as server:
        assert get(server.url).body.decode() == f"<p>{server.a} {server.b.removeprefix('http://')}"
        assert get(f"{server.a}/y.png").body == b"{{a}}"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/robots.txt", "text/plain"),
        ("/img/DSC_0042.JPG", "image/jpeg"),
        ("/img/bay-640.webp", "image/webp"),
        ("/img/bay-800.avif", "image/avif"),
        ("/img/view?id=7&size=large", "image/jpeg"),
        ("/img/view", "application/octet-stream"),
        ("/ru.html", "text/html; charset=windows-1251"),
    ],
)
def test_content_types_follow_the_extension(server: DemoServer, path: str, kind: str) -> None:
    answer = get(server.a + path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, kind)


def test_the_legacy_page_is_served_in_its_charset(server: DemoServer) -> None:
    assert "Вид на город с моста" in get(f"{server.a}/ru.html").body.decode("windows-1251")


def test_names_are_compared_decoded(server: DemoServer) -> None:
    assert get(f"{server.a}/img/caf%c3%a9%20cr%C3%A8me.jp%67").status == 200


@pytest.mark.parametrize(
    "path",
    ["/../faults.json", "/%2e%2e/faults.json", "/..%2ffaults.json", "/..\\faults.json", "//etc/passwd", "/%00", "/img"],
)
def test_files_outside_the_hosts_folders_are_not_served(server: DemoServer, path: str) -> None:
    assert get(server.a + path).status == 404


def test_a_connection_is_kept_for_further_requests(server: DemoServer) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.a).netloc, timeout=10)
    connection.request("GET", "/missing.html")
    connection.getresponse().read()
    socket = connection.sock
    connection.request("GET", "/robots.txt")
    assert connection.getresponse().read().startswith(b"#")
    assert connection.sock is socket
    connection.close()


def test_head_has_the_length_and_no_body(server: DemoServer) -> None:
    answer = get(f"{server.a}/img/snow.jpg", "HEAD")
    assert int(answer.headers["Content-Length"]) == len(get(f"{server.a}/img/snow.jpg").body)
    assert answer.body == b""


# Faults


def test_a_status_is_sent_a_few_times_and_then_the_file(site: Path) -> None:
    fault = {"status": 503, "times": 2, "headers": {"Retry-After": "1"}}
    with DemoServer(site, {"/x.jpg": fault}) as server:
        answers = [get(f"{server.a}/x.jpg") for _ in range(3)]
    assert [answer.status for answer in answers] == [503, 503, 200]
    assert [answer.headers["Retry-After"] for answer in answers] == ["1", "1", None]


def test_truncate_promises_more_than_it_sends(site: Path) -> None:
    with DemoServer(site, {"/x.jpg": {"truncate": 0.5}}) as server, pytest.raises(http.client.IncompleteRead) as caught:
        get(f"{server.a}/x.jpg")
    assert (caught.value.partial, caught.value.expected) == (b"01234", 5)


def test_delay_comes_before_the_first_byte(site: Path) -> None:
    with DemoServer(site, {"/x.jpg": {"delay": 0.2}}) as server:
        begun = time.monotonic()
        assert get(f"{server.a}/x.jpg").body == b"0123456789"
    assert time.monotonic() - begun >= 0.2


def test_reset_closes_the_connection_without_a_response(site: Path) -> None:
    with DemoServer(site, {"/x.jpg": {"reset": True}}) as server:
        with pytest.raises(ConnectionResetError) as caught:
            get(f"{server.a}/x.jpg")
        assert not isinstance(caught.value, http.client.RemoteDisconnected), "a plain close, no RST"
    assert [hit.status for hit in server.requests] == [0]


def test_stall_sends_only_headers(site: Path) -> None:
    with DemoServer(site, {"/x.jpg": {"stall": 0.2}}) as server, pytest.raises(http.client.IncompleteRead) as caught:
        get(f"{server.a}/x.jpg")
    assert (caught.value.partial, caught.value.expected) == (b"", 10)


def test_a_stall_ends_when_the_client_disconnects(site: Path) -> None:
    with DemoServer(site, {"/x.jpg": {"stall": 60}}) as server:
        host, port = urlsplit(server.a).netloc.split(":")
        with create_connection((host, int(port)), timeout=10) as client:
            client.sendall(f"GET /x.jpg HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            assert client.recv(9) == b"HTTP/1.1 "
        deadline = time.monotonic() + 10
        while server.requests[0].ended is None and time.monotonic() < deadline:
            get(server.url)
        assert server.requests[0].ended is not None


def test_redirects_lead_to_the_other_host(site: Path) -> None:
    with DemoServer(site, {"/y": {"redirect": "{{b}}/x.jpg"}, "/z": {"redirect": "/x.jpg", "status": 308}}) as server:
        there, here = get(f"{server.a}/y"), get(f"{server.a}/z")
    assert (there.status, there.headers["Location"]) == (302, f"{server.b}/x.jpg")
    assert (here.status, here.headers["Location"]) == (308, "/x.jpg")


def test_extra_faults_override_the_sites_own(site: Path) -> None:
    (site / "faults.json").write_text('{"/x.jpg": {"status": 404}, "/": {"type": "text/plain"}}')
    with DemoServer(site, {"/x.jpg": {}}) as server:
        assert get(f"{server.a}/x.jpg").status == 200
        assert get(server.url).headers["Content-Type"] == "text/plain"


def test_an_unknown_fault_is_refused(site: Path) -> None:
    with pytest.raises(msgspec.ValidationError, match="explode"):
        DemoServer(site, {"/x.jpg": {"explode": True}})


# Log, gates, end


def test_the_log_has_every_request_with_its_host_and_times(site: Path) -> None:
    with DemoServer(site) as server:
        get(f"{server.a}/x.jpg?v=1")
        get(f"{server.b}/gone")
        first, second = server.requests
    port = urlsplit(server.a).port
    assert (first.host, first.path, first.status) == (f"127.0.0.1:{port}", "/x.jpg?v=1", 200)
    assert (second.host, second.path, second.status) == (f"localhost:{port}", "/gone", 404)
    assert first.ended is not None
    assert first.started <= first.ended <= second.started
    assert server.counts() == {f"127.0.0.1:{port}": 1, f"localhost:{port}": 1}


def test_sequential_requests_are_never_seen_together(site: Path) -> None:
    with DemoServer(site) as server:
        for _ in range(200):
            get(f"{server.a}/x.jpg")
    assert {hit.in_flight for hit in server.requests} == {1}


def test_a_held_request_waits_until_released(site: Path) -> None:
    with DemoServer(site) as server, ThreadPoolExecutor() as pool:
        server.hold("/x.jpg")
        held: Future[Answer] = pool.submit(get, f"{server.a}/x.jpg")
        assert server.wait_for("/x.jpg").ended is None
        assert get(server.url).status == 200
        assert not held.done()
        server.release("/x.jpg")
        assert held.result(10).status == 200
        assert get(f"{server.a}/x.jpg").status == 200
    assert [hit.in_flight for hit in server.requests] == [1, 2, 1]


def test_in_flight_is_counted_by_host(site: Path) -> None:
    with DemoServer(site) as server, ThreadPoolExecutor() as pool:
        server.hold("/x.jpg")
        pool.submit(get, f"{server.a}/x.jpg")
        server.wait_for("/x.jpg")
        get(f"{server.b}/y")
        server.release("/x.jpg")
    assert [hit.in_flight for hit in server.requests] == [1, 1]


def test_waiting_for_a_missing_request_times_out(server: DemoServer) -> None:
    with pytest.raises(TimeoutError, match="/never"):
        server.wait_for("/never", timeout=0.01)


def test_stop_ends_idle_held_and_stalled_connections(site: Path) -> None:
    server = DemoServer(site, {"/stall": {"stall": 60}, "/delay": {"delay": 60}}).start()
    server.hold("/x.jpg")
    address = urlsplit(server.a).netloc.split(":")
    clients = [create_connection((address[0], int(address[1])), timeout=10) for _ in range(4)]
    for client, path in zip(clients, ("/stall", "/delay", "/x.jpg"), strict=False):
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {':'.join(address)}\r\n\r\n".encode())
        server.wait_for(path)
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < 30
    assert all(hit.ended for hit in server.requests)
    for client in clients:
        client.close()


def test_a_stopped_server_comes_back_on_its_port(site: Path) -> None:
    server = DemoServer(site)
    with server:
        before = server.url
    with pytest.raises(ConnectionRefusedError):
        get(before)
    with server:
        assert server.url == before
        assert get(before).status == 200


def test_a_client_that_disconnects_is_no_error(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    (site / "a/large.jpg").write_bytes(bytes(20_000_000))
    with caplog.at_level(logging.DEBUG, "crawler.demo.server"), DemoServer(site) as server:
        host, port = urlsplit(server.a).netloc.split(":")
        with create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"GET /large.jpg HTTP/1.1\r\nHost: x\r\n\r\n")
            client.recv(10)
    assert [record.levelname for record in caplog.records if "no response" in record.message] == ["DEBUG"]
    assert server.requests[0].ended is not None


# The site and its truth


def files(server: DemoServer) -> dict[str, Path]:
    """Return URL → file, for all files of the site with a picture's extension."""
    origins = {"a": server.a, "b": server.b}
    paths = [path for host in origins for path in (server.site / host).rglob("*") if path.is_file()]
    addresses = {path: path.relative_to(server.site).as_posix() for path in paths}
    return {origins[name[0]] + name[1:]: path for path, name in addresses.items() if path.suffix.lower() in SUFFIXES}


def test_every_url_is_spelled_canonically(truth: Truth) -> None:
    urls = [*truth.images, *truth.unwanted, *truth.words, *truth.pictures, *(u for g in truth.duplicates for u in g)]
    assert [url for url in urls if canonicalize(url) != url] == []


def test_every_verdict_is_one_of_the_contract(truth: Truth) -> None:
    reasons = {verdict.removeprefix("failed: ") for verdict in truth.images.values() if verdict.startswith("failed")}
    assert reasons == {"http-404", "truncated", "not-an-image", "unsupported-format", "robots", "opted-out"}
    assert reasons - {"http-404"} <= REASONS.keys()
    plain = {verdict for verdict in truth.images.values() if not verdict.startswith("failed")}
    assert plain == {"success", "duplicate-group"}


def test_every_picture_file_decodes_and_matches_its_note(server: DemoServer, truth: Truth) -> None:
    sound = {url: path for url, path in files(server).items() if path.name not in BAD}
    assert sound.keys() == truth.pictures.keys()
    for url, path in sound.items():
        with Image.open(path) as image:
            image.load()
            measures = {"format": str(image.format).lower(), "width": image.width, "height": image.height}
        assert truth.pictures[url] == measures | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_the_bad_files_do_not_decode(server: DemoServer) -> None:
    bad = [path for path in files(server).values() if path.name in BAD]
    assert len(bad) == len(BAD)
    for path in bad:
        with pytest.raises(OSError), Image.open(io.BytesIO(path.read_bytes())) as image:
            image.load()


def test_every_picture_file_is_a_row_or_unwanted(server: DemoServer, truth: Truth) -> None:
    named = {url.partition("?")[0] for url in (*truth.images, *truth.unwanted)}
    arrived = {f"{server.a}/img/moved-here.jpg"}  # no page names it: a redirect leads there
    assert files(server).keys() == named & files(server).keys() | arrived
    assert not set(truth.unwanted) & truth.images.keys()


def test_every_row_is_served() -> None:
    odd = {"/img/gone.jpg": 404, "/img/moved.jpg": 302, "/img/away.jpg": 302}
    with DemoServer(faults={"/img/busy.jpg": {}, "/img/slow.jpg": {}, "/img/cut-short.jpg": {}}) as whole:
        for url in load_truth(whole).images:
            path = url.removeprefix(whole.a).removeprefix(whole.b)
            assert get(url).status == odd.get(path, 200), url


def test_the_sites_faults_are_where_the_truth_expects_them() -> None:
    with DemoServer() as server:
        assert [get(f"{server.a}/img/busy.jpg").status for _ in range(2)] == [503, 200]
        assert get(f"{server.a}/img/moved.jpg").headers["Location"] == f"{server.a}/img/moved-here.jpg"
        assert get(f"{server.a}/img/away.jpg").headers["Location"] == f"{server.b}/media/landed.jpg"
        assert get(f"{server.a}/old.html").headers["Location"] == f"{server.a}/new.html"
        for _ in range(2):
            with pytest.raises(http.client.IncompleteRead):
                get(f"{server.a}/img/cut-short.jpg")


def test_duplicates_are_the_only_pictures_with_the_same_bytes(truth: Truth) -> None:
    grouped = {url for group in truth.duplicates for url in group}
    assert grouped == {url for url, verdict in truth.images.items() if verdict == "duplicate-group"}
    single = [facts["sha256"] for url, facts in truth.pictures.items() if url not in grouped]
    assert len(single) == len(set(single))


def test_the_site_stays_small() -> None:
    sizes = [path.stat().st_size for path in site_folder().rglob("*") if path.is_file()]
    assert sum(sizes) <= 600_000


# compare


def test_a_faultless_crawl_has_no_differences(truth: Truth, rows: dict[str, ImageRecord]) -> None:
    assert compare(truth, rows.values()) == []


def test_any_member_of_a_group_may_be_the_success(truth: Truth, rows: dict[str, ImageRecord]) -> None:
    first, *_, last = truth.duplicates[0]
    rows[first], rows[last] = replace(rows[first], status="duplicate"), replace(rows[last], status="success")
    assert compare(truth, rows.values()) == []


@pytest.mark.parametrize(
    ("path", "change", "line"),
    [
        ("/img/snow.jpg", {"status": "failed", "reason": "timeout"}, "got failed: timeout, want success"),
        ("/img/snow.jpg", {"status": "duplicate"}, "got duplicate, want success"),
        ("/img/gone.jpg", {"reason": "robots"}, "got failed: robots, want failed: http-404"),
        ("/img/copy.jpg", {"status": "failed", "reason": "corrupt"}, "got failed: corrupt, want duplicate-group"),
        ("/img/copy.jpg", {"status": "success"}, "wrong group: got 2 successes"),
        ("/img/original.jpg", {"status": "duplicate"}, "wrong group: got 0 successes"),
        ("/img/snow.jpg", {"alt": "Snow"}, "wrong alt: "),
        ("/img/lighthouse.jpg", {"title": ""}, "wrong title: "),
        ("/img/lighthouse.jpg", {"caption": "x"}, "wrong caption: "),
        ("/img/snow.jpg", {"sha256": "0" * 64}, "wrong sha256: "),
        ("/img/snow.jpg", {"format": "png"}, "wrong format: "),
        ("/img/snow.jpg", {"width": 1}, "wrong width: "),
        ("/img/snow.jpg", {"height": 1}, "wrong height: "),
        ("/img/moved.jpg", {"final_url": "http://127.0.0.1/"}, "wrong final_url: "),
    ],
)
def test_every_kind_of_wrong_row_is_one_line(
    server: DemoServer, truth: Truth, rows: dict[str, ImageRecord], path: str, change: dict[str, Any], line: str
) -> None:
    rows[server.a + path] = replace(rows[server.a + path], **change)
    (found,) = compare(truth, rows.values())
    assert line in found
    assert server.a + path in found


def test_missing_unexpected_and_repeated_urls_are_reported(
    server: DemoServer, truth: Truth, rows: dict[str, ImageRecord]
) -> None:
    missing = rows.pop(f"{server.a}/img/snow.jpg").url
    again = rows[f"{server.a}/img/gone.jpg"]
    small = ImageRecord(url=f"{server.a}/img/hero-400.jpg")
    assert compare(truth, [*rows.values(), again, small]) == [
        f"URL twice: {again.url}",
        f"unexpected URL: {small.url} (unwanted)",
        f"missing URL: {missing}",
    ]
