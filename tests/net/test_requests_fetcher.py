"""The fetcher on the network: headers by `responses`, misbehaviour by a server on loopback."""

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import requests
import responses

from crawler.errors import RequestFailed
from crawler.model import Request
from crawler.net.exchange import MAX_HEADER_BYTES
from crawler.net.fetcher import Conditions, TransferLimits
from crawler.net.requests_fetcher import RequestsFetcher
from tests.support.peer import (
    Peer,
    Script,
    Server,
    answers,
    chunked,
    closing_then_dead,
    cut_chunk,
    cut_headers,
    dripping_body,
    dripping_headers,
    early_hints,
    endless_continue,
    endless_trailers,
    flood_of_headers,
    flood_of_interim_answers,
    hang_up,
    no_http,
    no_last_chunk,
    once,
    one_long_header,
    one_long_header_in_pieces,
    reset,
    serving,
    short,
    silent,
    silent_body,
    slow_but_steady,
    stalling,
    two_hundred_headers,
    two_lengths,
    until_close,
)

pytestmark = pytest.mark.usefixtures("near")

URL = "http://site.example/a.jpg"
IMAGE = Conditions(accept="image/*")
#: Short enough for tests of timeouts; the speed limit has tests of its own.
QUICK = TransferLimits(connect=2.0, first_byte=0.3, total=0.6, window=30.0)


# --- with mocked responses


@pytest.fixture
def fetcher() -> Iterator[RequestsFetcher]:
    fetcher = RequestsFetcher(TransferLimits(), "test/1.0", contact="me@bot.example")
    yield fetcher
    fetcher.close()


@pytest.fixture
def mocked() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


def sent(
    fetcher: RequestsFetcher, mock: responses.RequestsMock, request: Request, conditions: Conditions
) -> dict[str, str]:
    """Return the headers of the request that is sent."""
    mock.get(request.location)
    with fetcher.fetch(request, conditions):
        return dict(mock.calls[0].request.headers)


def test_a_mocked_response_is_returned(fetcher: RequestsFetcher, mocked: responses.RequestsMock) -> None:
    mocked.get(URL, body=b"bytes", status=203, headers={"X-Robots-Tag": "noai"})
    with fetcher.fetch(Request(url="http://site.example/", target=URL), IMAGE) as response:
        assert (response.url, response.status, response.headers["x-robots-tag"]) == (URL, 203, "noai")
        assert (response.read(), response.received) == (b"bytes", 5)


def test_images_are_requested_uncompressed(fetcher: RequestsFetcher, mocked: responses.RequestsMock) -> None:
    headers = sent(fetcher, mocked, Request(url=URL, referrer="http://site.example/p#top"), IMAGE)
    assert headers == {
        "User-Agent": "test/1.0",
        "From": "me@bot.example",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Referer": "http://site.example/p",
    }


def test_pages_may_be_compressed(fetcher: RequestsFetcher, mocked: responses.RequestsMock) -> None:
    headers = sent(fetcher, mocked, Request(url=URL), Conditions(accept="text/html"))
    assert headers["Accept-Encoding"] == "gzip, deflate"
    assert "Referer" not in headers


@pytest.mark.parametrize(
    ("referrer", "told"),
    [
        ("http://u:p@site.example/p?q#top", "http://site.example/p?q"),
        ("http://site.example/é", "http://site.example/%C3%A9"),
        ("http://site.example/" + "x" * 4_096, "http://site.example/"),
        ("http://www.site.example/private/page", "http://www.site.example/"),
        ("http://site.example:8080/page", "http://site.example:8080/"),
    ],
)
def test_the_referrer_is_sent_as_in_browsers(
    fetcher: RequestsFetcher, mocked: responses.RequestsMock, referrer: str, told: str
) -> None:
    assert sent(fetcher, mocked, Request(url=URL, referrer=referrer), IMAGE)["Referer"] == told


@pytest.mark.parametrize("referrer", ["https://site.example/secret", "file:///etc/passwd", "http://[", ""])
def test_some_referrers_are_not_sent(fetcher: RequestsFetcher, mocked: responses.RequestsMock, referrer: str) -> None:
    assert "Referer" not in sent(fetcher, mocked, Request(url=URL, referrer=referrer), IMAGE)


def test_only_an_email_address_is_sent_as_from(mocked: responses.RequestsMock) -> None:
    fetcher = RequestsFetcher(TransferLimits(), "test/1.0", contact="https://bot.example/about")
    assert "From" not in sent(fetcher, mocked, Request(url=URL), IMAGE)


def test_cookies_are_not_kept(fetcher: RequestsFetcher, mocked: responses.RequestsMock) -> None:
    mocked.get(URL, headers={"Set-Cookie": "id=1; Path=/"})
    for _ in range(2):
        fetcher.fetch(Request(url=URL), IMAGE).close()
    assert "Cookie" not in mocked.calls[1].request.headers


def test_redirects_are_reported_not_followed(fetcher: RequestsFetcher, mocked: responses.RequestsMock) -> None:
    mocked.get(URL, status=302, headers={"Location": "b.jpg"})
    with fetcher.fetch(Request(url=URL), IMAGE) as response:
        assert (response.status, response.location) == (302, "http://site.example/b.jpg")
    assert len(mocked.calls) == 1


def test_the_environment_is_ignored(
    fetcher: RequestsFetcher, mocked: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    headers = sent(fetcher, mocked, Request(url=URL), IMAGE)
    assert "Proxy-Authorization" not in headers
    assert not mocked.calls[0].request.req_kwargs.get("proxies")  # type: ignore[attr-defined]  # set by responses


def test_a_mocked_failure_is_classified(fetcher: RequestsFetcher, mocked: responses.RequestsMock) -> None:
    mocked.get(URL, body=requests.ConnectionError("no answer"))
    with pytest.raises(RequestFailed, match="connect: ConnectionError: no answer"):
        fetcher.fetch(Request(url=URL), IMAGE)
    assert len(mocked.calls) == 1


def test_a_compressed_body_is_decompressed_under_the_cap(
    fetcher: RequestsFetcher, mocked: responses.RequestsMock
) -> None:
    mocked.get(URL, body=gzip.compress(b"x" * 5000), headers={"Content-Encoding": "gzip"})
    with fetcher.fetch(Request(url=URL), Conditions(max_bytes=5000)) as response:
        assert response.read() == b"x" * 5000
        assert response.received < 100


def test_a_decompression_bomb_is_refused_without_decompressing_it(
    fetcher: RequestsFetcher, mocked: responses.RequestsMock
) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    mocked.get(URL, body=bomb, headers={"Content-Encoding": "gzip"})
    size = 0
    with (
        fetcher.fetch(Request(url=URL), Conditions(max_bytes=100_000)) as response,
        pytest.raises(RequestFailed, match="decompression-limit"),
    ):
        for piece in response.chunks():
            size += len(piece)
    assert size <= 100_000


def test_a_body_that_contradicts_its_encoding_is_corrupt(
    fetcher: RequestsFetcher, mocked: responses.RequestsMock
) -> None:
    mocked.get(URL, body=b"plain text", headers={"Content-Encoding": "gzip"})
    with fetcher.fetch(Request(url=URL), IMAGE) as response, pytest.raises(RequestFailed) as caught:
        response.read()
    assert (caught.value.reason, caught.value.retryable) == ("corrupt", False)


@pytest.mark.parametrize("url", ["ftp://site.example/", "file:///etc/passwd", "//site.example/"])
def test_only_http_is_fetched(fetcher: RequestsFetcher, url: str) -> None:
    with pytest.raises(RequestFailed, match="unsupported-scheme"):
        fetcher.fetch(Request(url=url), IMAGE)


def test_an_unknown_name_is_a_dns_failure(fetcher: RequestsFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _no_such_name)
    with pytest.raises(RequestFailed) as caught:
        fetcher.fetch(Request(url="http://nowhere.example/"), IMAGE)
    assert (caught.value.reason, caught.value.retryable) == ("dns", True)


def _no_such_name(*args: object, **kwargs: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


# --- against a server on loopback


def fetched(server: Server, limits: TransferLimits = QUICK) -> bytes:
    fetcher = RequestsFetcher(limits, "test/1.0")
    with contextlib.closing(fetcher), fetcher.fetch(Request(url=server.url), Conditions()) as response:
        return response.read()


def failure_of(script: Script, limits: TransferLimits = QUICK) -> RequestFailed:
    with serving(script) as server, pytest.raises(RequestFailed) as caught:
        fetched(server, limits)
    return caught.value


@pytest.mark.parametrize(
    ("script", "body"),
    [(answers(b"ok"), b"ok"), (chunked, b"abcde"), (until_close, b"all of it"), (early_hints, b"ok")],
)
def test_every_framing_is_read(script: Script, body: bytes) -> None:
    with serving(script) as server:
        assert fetched(server) == body


@pytest.mark.parametrize("script", [short, cut_headers, cut_chunk, no_last_chunk, reset])
def test_a_truncated_body_is_never_accepted(script: Script) -> None:
    error = failure_of(script)
    assert (error.reason, error.retryable) == ("truncated", True)


@pytest.mark.parametrize(("script", "retryable"), [(hang_up, True), (no_http, False)])
def test_a_missing_response_is_a_connection_failure(script: Script, retryable: bool) -> None:
    error = failure_of(script)
    assert (error.reason, error.retryable) == ("connect", retryable)


def test_a_closed_port_is_a_connection_failure() -> None:
    with serving(answers(b"")) as server:
        pass
    with pytest.raises(RequestFailed) as caught:
        fetched(server)
    assert (caught.value.reason, caught.value.retryable) == ("connect", True)


@pytest.mark.parametrize("script", [silent, dripping_headers, endless_continue])
def test_no_head_outlasts_the_deadline(script: Script) -> None:
    error = failure_of(script)
    assert (error.reason, error.retryable) == ("timeout", True)


def test_no_silence_outlasts_the_deadline() -> None:
    assert failure_of(silent_body).reason == "timeout"


@pytest.mark.parametrize("script", [dripping_body, endless_trailers])
def test_a_body_ends_at_the_deadline_and_is_not_retried(script: Script) -> None:
    error = failure_of(script)
    assert (error.reason, error.retryable) == ("timeout", False)


def test_the_deadline_is_kept_even_if_the_idle_timeout_is_longer() -> None:
    started = time.monotonic()
    assert failure_of(silent, TransferLimits(first_byte=10.0, total=0.3)).reason == "timeout"
    assert time.monotonic() - started < 5


def test_an_unwanted_body_is_not_waited_for() -> None:
    with serving(stalling) as server, contextlib.closing(RequestsFetcher(TransferLimits(), "test/1.0")) as fetcher:
        response = fetcher.fetch(Request(url=server.url), Conditions())
        started = time.monotonic()
        response.close()
        assert time.monotonic() - started < 5


def test_a_body_below_the_minimum_speed_ends_before_the_deadline() -> None:
    error = failure_of(dripping_body, TransferLimits(window=0.2))
    assert (error.reason, error.retryable) == ("too-slow", True)


def test_a_slow_body_that_is_fast_enough_is_read() -> None:
    with serving(slow_but_steady) as server:
        assert len(fetched(server, TransferLimits(window=0.05))) == 10_000


@pytest.mark.parametrize("script", [flood_of_headers, flood_of_interim_answers])
def test_the_size_of_all_headers_is_capped(script: Script) -> None:
    assert f"the headers have more than {MAX_HEADER_BYTES} bytes" in str(failure_of(script, TransferLimits()))


@pytest.mark.parametrize("script", [two_hundred_headers, one_long_header, one_long_header_in_pieces])
def test_too_many_or_overlong_header_lines_are_refused(script: Script) -> None:
    error = failure_of(script, TransferLimits())
    assert (error.reason, error.retryable) == ("too-large", False)


def connections_for(script: Script, times: int) -> int:
    """Return the number of connections that ``times`` requests take without reading the bodies."""
    with serving(script) as server, contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher:
        for _ in range(times):
            fetcher.fetch(Request(url=server.url), Conditions()).close()
        return server.connections


def test_a_connection_is_reused_after_an_unread_body() -> None:
    assert connections_for(answers(b"x" * 1000, "404 Not Found"), 3) == 1
    assert connections_for(chunked, 3) == 1


def test_an_idle_connection_is_closed_when_file_descriptors_are_scarce() -> None:
    with serving(answers(b"ok")) as server, contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher:
        for _ in range(3):
            fetcher.fetch(Request(url=server.url), Conditions()).close()
            fetcher.relieve()
        assert server.connections == 3


def test_a_connection_with_a_long_unread_rest_is_closed() -> None:
    assert connections_for(answers(b"x" * 1_000_000), 3) == 3


def test_a_broken_connection_is_not_reused() -> None:
    with serving(short) as server, contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher:
        for _ in range(2):
            with pytest.raises(RequestFailed), fetcher.fetch(Request(url=server.url), IMAGE) as response:
                response.read()
        assert server.connections == 2


def test_a_connection_closed_by_the_server_is_replaced_transparently() -> None:
    with (
        serving(once(answers(b"ok"), hang_up)) as server,
        contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher,
    ):
        for _ in range(3):
            with fetcher.fetch(Request(url=server.url), Conditions()) as response:
                assert response.read() == b"ok"
        assert server.connections == 3


def test_a_slow_connection_is_not_replaced() -> None:
    with (
        serving(once(answers(b"ok"), silent)) as server,
        contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher,
    ):
        fetcher.fetch(Request(url=server.url), Conditions()).close()
        with pytest.raises(RequestFailed, match="timeout"):
            fetcher.fetch(Request(url=server.url), Conditions())
        assert server.connections == 1


def test_a_new_connection_is_not_replaced() -> None:
    with serving(hang_up) as server:
        with pytest.raises(RequestFailed, match="connect"):
            fetched(server)
        assert server.connections == 1


def test_a_replaced_connection_is_not_replaced_again() -> None:
    with serving(closing_then_dead) as server, contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher:
        fetcher.fetch(Request(url=server.url), Conditions()).close()
        with pytest.raises(RequestFailed, match="connect"):
            fetcher.fetch(Request(url=server.url), Conditions())
        assert server.connections == 2


def test_a_connection_with_two_lengths_is_not_reused() -> None:
    assert connections_for(two_lengths, 2) == 2


def test_surplus_of_a_response_does_not_affect_the_next_request() -> None:
    """Use a server that sends more than announced, and only after the check for surplus."""
    answered: list[int] = []

    def script(peer: Peer) -> None:
        answered.append(peer.server.connections)
        if answered.count(1) == 2 and answered[-1] == 1:
            peer.send(b"what was left of the one before\r\n\r\n")
            peer.stop()
        else:
            answers(b"ok")(peer)

    with serving(script) as server, contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher:
        for _ in range(3):
            with fetcher.fetch(Request(url=server.url), IMAGE) as response:
                assert response.read() == b"ok"
    assert answered == [1, 1, 2, 2]


def test_few_idle_connections_are_kept_per_thread() -> None:
    with (
        contextlib.ExitStack() as stack,
        contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher,
    ):
        servers = [stack.enter_context(serving(answers(b"ok"))) for _ in range(6)]
        for server in [*servers, servers[0], servers[5]]:
            fetcher.fetch(Request(url=server.url), IMAGE).close()
        assert [server.connections for server in servers] == [2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("script", [silent, silent_body])
def test_abort_ends_a_waiting_read_from_another_thread(script: Script) -> None:
    failures: list[RequestFailed] = []
    with serving(script) as server, contextlib.closing(RequestsFetcher(TransferLimits(), "test/1.0")) as fetcher:
        thread = threading.Thread(target=_collect_failure, args=(fetcher, server.url, failures))
        thread.start()
        assert server.reached.wait(5)
        fetcher.abort()
        thread.join(5)
        assert [(error.reason, error.retryable) for error in failures] == [("cancelled", False)]


def _collect_failure(fetcher: RequestsFetcher, url: str, failures: list[RequestFailed]) -> None:
    try:
        with fetcher.fetch(Request(url=url), Conditions()) as response:
            response.read()
    except RequestFailed as error:
        failures.append(error)


def test_a_fetcher_works_after_an_abort() -> None:
    with serving(answers(b"ok")) as server, contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher:
        for _ in range(2):
            with fetcher.fetch(Request(url=server.url), Conditions()) as response:
                assert response.read() == b"ok"
            fetcher.abort()
        assert server.connections == 1
