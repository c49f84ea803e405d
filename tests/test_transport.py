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
from crawler.exchange import MAX_HEADER_BYTES
from crawler.fetcher import Conditions, Limits
from crawler.model import Request
from crawler.transport import RequestsFetcher
from tests.peer import (
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
#: Short enough for tests of patience; the speed limit has tests of its own.
QUICK = Limits(connect=2.0, first_byte=0.3, total=0.6, window=30.0)


# --- with mocked answers


@pytest.fixture
def fetcher() -> Iterator[RequestsFetcher]:
    fetcher = RequestsFetcher(Limits(), "test/1.0", contact="me@bot.example")
    yield fetcher
    fetcher.close()


@pytest.fixture
def mocked() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


def sent(
    fetcher: RequestsFetcher, mock: responses.RequestsMock, request: Request, conditions: Conditions
) -> dict[str, str]:
    """The headers of the request that goes out."""
    mock.get(request.location)
    with fetcher.fetch(request, conditions):
        return dict(mock.calls[0].request.headers)


def test_a_mocked_answer_comes_through(fetcher: RequestsFetcher, mocked: responses.RequestsMock) -> None:
    mocked.get(URL, body=b"bytes", status=203, headers={"X-Robots-Tag": "noai"})
    with fetcher.fetch(Request(url="http://site.example/", target=URL), IMAGE) as response:
        assert (response.url, response.status, response.headers["x-robots-tag"]) == (URL, 203, "noai")
        assert (response.read(), response.received) == (b"bytes", 5)


def test_images_are_asked_for_as_they_are(fetcher: RequestsFetcher, mocked: responses.RequestsMock) -> None:
    headers = sent(fetcher, mocked, Request(url=URL, referrer="http://site.example/p#top"), IMAGE)
    assert headers == {
        "User-Agent": "test/1.0",
        "From": "me@bot.example",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Referer": "http://site.example/p",
    }


def test_pages_may_come_compressed(fetcher: RequestsFetcher, mocked: responses.RequestsMock) -> None:
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
def test_the_page_is_told_as_browsers_tell_it(
    fetcher: RequestsFetcher, mocked: responses.RequestsMock, referrer: str, told: str
) -> None:
    assert sent(fetcher, mocked, Request(url=URL, referrer=referrer), IMAGE)["Referer"] == told


@pytest.mark.parametrize("referrer", ["https://site.example/secret", "file:///etc/passwd", "http://[", ""])
def test_some_referrers_stay_at_home(fetcher: RequestsFetcher, mocked: responses.RequestsMock, referrer: str) -> None:
    assert "Referer" not in sent(fetcher, mocked, Request(url=URL, referrer=referrer), IMAGE)


def test_only_an_address_goes_into_from(mocked: responses.RequestsMock) -> None:
    fetcher = RequestsFetcher(Limits(), "test/1.0", contact="https://bot.example/about")
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


def test_the_environment_has_no_say(
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


def test_a_compressed_body_is_unpacked_under_the_cap(fetcher: RequestsFetcher, mocked: responses.RequestsMock) -> None:
    mocked.get(URL, body=gzip.compress(b"x" * 5000), headers={"Content-Encoding": "gzip"})
    with fetcher.fetch(Request(url=URL), Conditions(max_bytes=5000)) as response:
        assert response.read() == b"x" * 5000
        assert response.received < 100


def test_a_bomb_is_refused_without_unpacking_it(fetcher: RequestsFetcher, mocked: responses.RequestsMock) -> None:
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


def test_a_body_that_is_not_what_its_encoding_says_is_corrupt(
    fetcher: RequestsFetcher, mocked: responses.RequestsMock
) -> None:
    mocked.get(URL, body=b"plain text", headers={"Content-Encoding": "gzip"})
    with fetcher.fetch(Request(url=URL), IMAGE) as response, pytest.raises(RequestFailed) as caught:
        response.read()
    assert (caught.value.reason, caught.value.retryable) == ("corrupt", False)


@pytest.mark.parametrize("url", ["ftp://site.example/", "file:///etc/passwd", "//site.example/"])
def test_only_the_web_is_fetched(fetcher: RequestsFetcher, url: str) -> None:
    with pytest.raises(RequestFailed, match="unsupported-scheme"):
        fetcher.fetch(Request(url=url), IMAGE)


def test_a_name_nobody_knows(fetcher: RequestsFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _no_such_name)
    with pytest.raises(RequestFailed) as caught:
        fetcher.fetch(Request(url="http://nowhere.example/"), IMAGE)
    assert (caught.value.reason, caught.value.retryable) == ("dns", True)


def _no_such_name(*args: object, **kwargs: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


# --- against a server on loopback


def fetched(server: Server, limits: Limits = QUICK) -> bytes:
    fetcher = RequestsFetcher(limits, "test/1.0")
    with contextlib.closing(fetcher), fetcher.fetch(Request(url=server.url), Conditions()) as response:
        return response.read()


def failure_of(script: Script, limits: Limits = QUICK) -> RequestFailed:
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
def test_a_body_cut_short_is_never_taken_for_whole(script: Script) -> None:
    error = failure_of(script)
    assert (error.reason, error.retryable) == ("truncated", True)


@pytest.mark.parametrize(("script", "retryable"), [(hang_up, True), (no_http, False)])
def test_no_answer_is_no_connection(script: Script, retryable: bool) -> None:
    error = failure_of(script)
    assert (error.reason, error.retryable) == ("connect", retryable)


def test_a_closed_port_refuses() -> None:
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
def test_no_body_outlasts_the_deadline_nor_is_given_another(script: Script) -> None:
    error = failure_of(script)
    assert (error.reason, error.retryable) == ("timeout", False)


def test_the_deadline_is_kept_though_the_server_may_be_silent_for_longer() -> None:
    started = time.monotonic()
    assert failure_of(silent, Limits(first_byte=10.0, total=0.3)).reason == "timeout"
    assert time.monotonic() - started < 5


def test_a_body_nobody_wants_is_not_waited_for() -> None:
    with serving(stalling) as server, contextlib.closing(RequestsFetcher(Limits(), "test/1.0")) as fetcher:
        response = fetcher.fetch(Request(url=server.url), Conditions())
        started = time.monotonic()
        response.close()
        assert time.monotonic() - started < 5


def test_a_slow_body_ends_before_the_deadline() -> None:
    error = failure_of(dripping_body, Limits(window=0.2))
    assert (error.reason, error.retryable) == ("too-slow", True)


def test_a_slow_body_that_is_fast_enough_is_read() -> None:
    with serving(slow_but_steady) as server:
        assert len(fetched(server, Limits(window=0.05))) == 10_000


@pytest.mark.parametrize("script", [flood_of_headers, flood_of_interim_answers])
def test_headers_are_capped(script: Script) -> None:
    assert f"headers of more than {MAX_HEADER_BYTES} bytes" in str(failure_of(script, Limits()))


@pytest.mark.parametrize("script", [two_hundred_headers, one_long_header, one_long_header_in_pieces])
def test_headers_are_too_large_by_number_and_by_length_of_a_line(script: Script) -> None:
    error = failure_of(script, Limits())
    assert (error.reason, error.retryable) == ("too-large", False)


def connections_for(script: Script, times: int) -> int:
    """How many connections it takes to ask so often without reading the bodies."""
    with serving(script) as server, contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher:
        for _ in range(times):
            fetcher.fetch(Request(url=server.url), Conditions()).close()
        return server.connections


def test_a_connection_is_used_again_though_the_body_was_not_wanted() -> None:
    assert connections_for(answers(b"x" * 1000, "404 Not Found"), 3) == 1
    assert connections_for(chunked, 3) == 1


def test_an_idle_connection_is_let_go_of_where_handles_are_few() -> None:
    with serving(answers(b"ok")) as server, contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher:
        for _ in range(3):
            fetcher.fetch(Request(url=server.url), Conditions()).close()
            fetcher.relieve()
        assert server.connections == 3


def test_a_connection_with_much_left_on_it_is_closed() -> None:
    assert connections_for(answers(b"x" * 1_000_000), 3) == 3


def test_a_connection_that_broke_is_not_used_again() -> None:
    with serving(short) as server, contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher:
        for _ in range(2):
            with pytest.raises(RequestFailed), fetcher.fetch(Request(url=server.url), IMAGE) as response:
                response.read()
        assert server.connections == 2


def test_a_connection_that_the_server_gave_up_is_replaced_unnoticed() -> None:
    with (
        serving(once(answers(b"ok"), hang_up)) as server,
        contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher,
    ):
        for _ in range(3):
            with fetcher.fetch(Request(url=server.url), Conditions()) as response:
                assert response.read() == b"ok"
        assert server.connections == 3


def test_a_connection_that_is_merely_slow_is_not_replaced() -> None:
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


def test_a_connection_that_was_made_anew_is_not_replaced() -> None:
    with serving(closing_then_dead) as server, contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher:
        fetcher.fetch(Request(url=server.url), Conditions()).close()
        with pytest.raises(RequestFailed, match="connect"):
            fetcher.fetch(Request(url=server.url), Conditions())
        assert server.connections == 2


def test_a_connection_with_two_lengths_is_not_used_again() -> None:
    assert connections_for(two_lengths, 2) == 2


def test_what_an_answer_left_behind_costs_the_next_request_nothing() -> None:
    """A server that says more than it announced, and only after we have looked whether it does."""
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
    with serving(script) as server, contextlib.closing(RequestsFetcher(Limits(), "test/1.0")) as fetcher:
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


def test_a_fetcher_works_on_after_an_abort() -> None:
    with serving(answers(b"ok")) as server, contextlib.closing(RequestsFetcher(QUICK, "test/1.0")) as fetcher:
        for _ in range(2):
            with fetcher.fetch(Request(url=server.url), Conditions()) as response:
                assert response.read() == b"ok"
            fetcher.abort()
        assert server.connections == 1
