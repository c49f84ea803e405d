"""The fetcher with libcurl: addresses, aborts, refusals and connections. Other tests compare it with requests."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crawler.errors import NoHandles, RequestFailed
from crawler.model import Request
from crawler.net.address_guard import Guard
from crawler.net.fetcher import Conditions, Response, TransferLimits
from tests.support.curl import Curl, Kept, curl
from tests.support.network import PUBLIC, Canary
from tests.support.peer import Peer, Script, answers, closing_then_dead, serving, silent, silent_body, stalling
from tests.support.processes import wait_until

PATIENCE = 10.0


@pytest.fixture
def fetch() -> Iterator[Curl]:
    with curl() as made:
        yield made


def failure(fetch: Curl, url: str) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        fetch.get(url)
    return caught.value


# --- addresses


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as made:
        yield made


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "localhost", "[::1]"])
def test_a_private_address_is_refused_and_nothing_is_sent(canary: Canary, host: str) -> None:
    with curl(guard=Guard()) as fetch:
        assert failure(fetch, f"http://{host}:{canary.port}/").reason == "blocked-address"
    assert (canary.connections, canary.bytes) == (0, 0)


def names(monkeypatch: pytest.MonkeyPatch, *answers_in_order: list[str]) -> list[str]:
    """Let every name have these addresses, look-up after look-up; return the names that are looked up."""
    asked: list[str] = []

    def look_up(host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        asked.append(host)
        found = answers_in_order[min(len(asked), len(answers_in_order)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_a_name_is_connected_at_the_address_that_was_vetted(monkeypatch: pytest.MonkeyPatch, canary: Canary) -> None:
    """A second answer of the name servers, with a private address, is never used without a check."""
    asked = names(monkeypatch, ["127.0.0.1"], ["127.0.0.1"])
    with curl(guard=Guard()) as fetch:
        assert failure(fetch, f"http://a.example:{canary.port}/").reason == "blocked-address"
    assert asked == ["a.example"] and canary.connections == 0


def test_only_the_permitted_addresses_of_a_name_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["10.0.0.1", "127.0.0.1", "192.168.0.1"])

    class Picky(Guard):
        def objection(self, host: str, port: int, address: str) -> str:
            return "" if address == "127.0.0.1" else "private"

    with serving(answers(b"ok")) as server, curl(guard=Picky()) as fetch:
        assert fetch.get(f"http://a.example:{server.port}/").body == b"ok"


def test_a_name_is_looked_up_once_for_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names(monkeypatch, ["127.0.0.1"])
    with serving(answers(b"ok")) as server, curl() as fetch:
        for _ in range(3):
            assert fetch.get(f"http://a.example:{server.port}/").body == b"ok"
    assert asked == ["a.example"]


def test_a_name_is_looked_up_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.net.curl_fetcher._NAME_SECONDS", 0.0)
    asked = names(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])

    class Picky(Guard):
        def objection(self, host: str, port: int, address: str) -> str:
            return "" if address == "127.0.0.1" else "private"

    with serving(answers(b"ok")) as server, curl(guard=Picky()) as fetch:
        assert fetch.get(f"http://a.example:{server.port}/").body == b"ok"
        assert failure(fetch, f"http://a.example:{server.port}/").reason == "blocked-address"
    assert asked == ["a.example", "a.example"]


def test_an_address_is_vetted_again_when_it_is_connected(canary: Canary) -> None:
    class Late(Guard):
        looks = 0

        def objection(self, host: str, port: int, address: str) -> str:
            self.looks += 1
            return "" if self.looks == 1 else "private"

    with curl(guard=Late()) as fetch:
        assert failure(fetch, f"http://127.0.0.1:{canary.port}/").reason == "blocked-address"
    assert canary.connections == 0


def test_a_name_without_an_address_is_a_dns_failure(fetch: Curl, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name(*args: object, **more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    error = failure(fetch, "http://nowhere.example/")
    assert (error.reason, error.retryable, error.down) == ("dns", True, "host")


def test_a_slow_name_server_delays_no_other_request(fetch: Curl, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, real = threading.Event(), socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        if host == "slow.example":
            assert go_on.wait(PATIENCE)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    slow = fetch.start("http://slow.example/")
    with serving(answers(b"ok")) as server:
        assert fetch.get(server.url).body == b"ok" and not slow.ended.is_set()
    go_on.set()
    assert slow.ended.wait(PATIENCE)


def test_the_wait_for_a_name_is_no_wait_for_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first name server of a machine is down, each name takes seconds. Its host still has its time to answer."""
    limits, found = TransferLimits(connect=0.5), [0.0]

    def look_up(host: str, port: int, *rest: Any, **more: Any) -> Any:
        threading.Event().wait(limits.connect)
        found[0] = time.monotonic()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with serving(silent) as server, curl(limits) as fetch:
        server.talk = Peer.wait  # no handshake, so there is no connection
        error = failure(fetch, f"https://a.example:{server.port}/")
    assert (error.reason, error.down) == ("timeout", "host")
    assert time.monotonic() - found[0] >= limits.connect


def test_names_that_take_long_delay_no_other_name(fetch: Curl, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def look_up(host: str, port: int, *rest: Any, **more: Any) -> Any:
        assert host == "quick.example" or go_on.wait(PATIENCE)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with serving(answers(b"ok")) as server:
        others = [fetch.start(f"http://slow{number}.example:{server.port}/") for number in range(32)]
        assert fetch.get(f"http://quick.example:{server.port}/").body == b"ok"
        go_on.set()
        assert all(other.ended.wait(PATIENCE) for other in others)


# --- aborts


@pytest.mark.parametrize("script", [silent, silent_body])
def test_an_abort_ends_fetches_in_progress(fetch: Curl, script: Any) -> None:
    with serving(script) as server:
        kept = fetch.start(server.url)
        assert server.reached.wait(PATIENCE)
        fetch.fetcher.abort()
        assert kept.ended.wait(PATIENCE)
        assert isinstance(kept.error, RequestFailed) and kept.error.reason == "cancelled"
    with serving(answers(b"ok")) as server:
        assert fetch.get(server.url).body == b"ok"


def test_an_abort_ends_a_fetch_that_waits_for_its_name(fetch: Curl, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def look_up(*args: Any, **more: Any) -> Any:
        reached.set()
        assert go_on.wait(PATIENCE)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, 80))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    kept = fetch.start("http://a.example/")
    assert reached.wait(PATIENCE)
    fetch.fetcher.abort()
    assert kept.ended.wait(PATIENCE)
    go_on.set()
    assert isinstance(kept.error, RequestFailed) and kept.error.reason == "cancelled"


# --- receivers that refuse


class Refusing(Kept):
    """A receiver that raises where a test says."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__(Conditions())
        self._where, self._error = where, error

    def begin(self, response: Response) -> bool:
        if self._where == "begin":
            raise self._error
        return super().begin(response)

    def feed(self, piece: bytes) -> None:
        if self._where == "feed":
            raise self._error
        super().feed(piece)


@pytest.mark.parametrize("where", ["begin", "feed"])
@pytest.mark.parametrize("error", [RequestFailed("too-small"), ValueError("a fault of ours")], ids=["own", "other"])
def test_a_refusal_ends_the_fetch_and_no_other(fetch: Curl, where: str, error: Exception) -> None:
    with serving(answers(b"picture")) as server:
        refusing = Refusing(where, error)
        fetch.loop.call(lambda: fetch.fetcher.start(Request(url=server.url), refusing, refusing.take_end))
        assert refusing.ended.wait(PATIENCE) and isinstance(refusing.error, RequestFailed)
        assert refusing.error.reason == ("too-small" if isinstance(error, RequestFailed) else "internal")
        assert fetch.get(server.url).body == b"picture"


def test_a_request_goes_over_at_most_two_connections_that_end_without_an_answer(fetch: Curl) -> None:
    together, is_later = threading.Barrier(4), threading.Event()
    late = []

    def script(peer: Peer) -> None:
        if not is_later.is_set():
            together.wait(PATIENCE)
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        else:
            late.append(peer)
            peer.stop()

    with serving(script) as server:
        first = [fetch.start(server.url) for _ in range(4)]
        assert all(kept.ended.wait(PATIENCE) for kept in first) and server.connections == 4
        is_later.set()
        error = failure(fetch, server.url)
        assert (error.reason, error.retryable, error.down) == ("connect", True, "")
        assert len(late) == 2


def test_a_short_body_that_is_not_wanted_leaves_the_connection_usable(fetch: Curl) -> None:
    with serving(answers(b"x" * 1_000)) as server:
        assert fetch.get(server.url, wants_body=False).body == b""
        assert len(fetch.get(server.url).body) == 1_000
        assert server.connections == 1


def test_the_length_of_an_unchanged_file_leaves_the_connection_usable(fetch: Curl) -> None:
    """The answer to a conditional request may state the length of the file, and has no body (RFC 9110 §8.6)."""
    with serving(lambda peer: peer.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5000000\r\n\r\n")) as server:
        for _ in range(3):
            fetch.get(server.url, Conditions(max_bytes=9_999_999, etag='"a"'), wants_body=False)
        assert server.connections == 1


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Content-Length: 2"])
@pytest.mark.parametrize("wants_body", [True, False])
def test_a_body_that_must_not_come_never_becomes_the_next_response(
    fetch: Curl, status: bytes, framing: bytes, wants_body: bool
) -> None:
    data = b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n\r\n"
    with serving(lambda peer: peer.send(data)) as server:
        assert [fetch.get(server.url, wants_body=wants_body).body for _ in range(2)] == [b"", b""]
        assert server.connections == 2


def test_a_long_body_that_is_not_wanted_is_not_read(fetch: Curl) -> None:
    def long(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        peer.drip(0.0, bytes(65_536))

    with serving(long) as server:
        assert fetch.get(server.url, wants_body=False).body == b""
    with serving(answers(b"ok")) as server:
        assert fetch.get(server.url).body == b"ok"


def test_the_rest_of_an_unwanted_body_is_not_waited_for(fetch: Curl) -> None:
    with serving(stalling) as server:
        assert fetch.get(server.url, wants_body=False).error is None


def broken_off(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + bytes(1_000))
    peer.stop()


@pytest.mark.parametrize(("script", "received"), [(answers(bytes(2_000)), 2_000), (broken_off, 1_000)])
def test_a_response_keeps_its_number_of_bytes(fetch: Curl, script: Script, received: int) -> None:
    """A large image is decoded in another thread, and its handle serves the next request meanwhile."""
    with serving(script) as server:
        kept = fetch.start(server.url)
        assert kept.ended.wait(PATIENCE)
    with serving(answers(b"ok")) as server:
        assert fetch.get(server.url).body == b"ok"
    assert kept.response is not None
    assert (kept.response.received, kept.response.spared) == (received, 2_000 - received)


# --- connections


def test_a_connection_is_reused(fetch: Curl) -> None:
    with serving(answers(b"ok")) as server:
        for _ in range(5):
            assert fetch.get(server.url).body == b"ok"
        assert server.connections == 1


def test_a_connection_that_the_server_closed_is_replaced(fetch: Curl) -> None:
    with serving(closing_then_dead) as server:
        assert fetch.get(server.url).body == b"ok"
        assert failure(fetch, server.url).reason == "connect"


def test_many_fetches_run_at_a_time(fetch: Curl) -> None:
    gate = threading.Barrier(20)

    def together(peer: Peer) -> None:
        gate.wait(PATIENCE)
        answers(b"ok")(peer)

    with serving(together) as server:
        kept = [fetch.start(server.url) for _ in range(20)]
        assert all(one.ended.wait(PATIENCE) for one in kept)
        assert [one.body for one in kept] == [b"ok"] * 20
    assert fetch.fetcher.held_bytes == 0


def test_a_lack_of_descriptors_is_not_the_host_s_fault(fetch: Curl, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(24, "Too many open files")

    with serving(answers(b"ok")) as server:
        monkeypatch.setattr("crawler.net.curl_transfer.socket.socket", refuse)
        with pytest.raises(NoHandles):
            fetch.get(server.url)


@contextlib.contextmanager
def one_descriptor() -> Iterator[None]:
    """Let this process open one more file, and no other."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connection_that_gets_only_one_descriptor_is_not_the_host_s_fault(fetch: Curl) -> None:
    with serving(silent) as gone:
        url = gone.url
    assert failure(fetch, url).reason == "connect"  # the name is known from now on
    with pytest.raises(NoHandles), one_descriptor():
        fetch.get(url)


def test_idle_connections_are_closed_once_descriptors_are_lacking(fetch: Curl) -> None:
    closed = threading.Event()
    with serving(silent) as gone:
        pass

    def talk(peer: Peer) -> None:
        peer.request.recv(65_536)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        if not peer.request.recv(1):
            closed.set()

    with serving(silent) as server:
        server.talk = talk
        fetch.get(server.url)
        fetch.fetcher.relieve()
        deadline = time.monotonic() + PATIENCE  # libcurl itself closes such a connection after two minutes
        while not closed.wait(0.05):
            assert time.monotonic() < deadline
            failure(fetch, gone.url)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists the descriptors of a process")
def test_no_descriptor_is_left_open() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    with serving(answers(b"ok")) as server, serving(stalling) as other:
        for _ in range(10):
            with curl() as fetch:
                failure(fetch, "http://127.0.0.1:1/")
                fetch.get(server.url)
                fetch.get(other.url, wants_body=False)
                fetch.start(other.url)
        assert other.reached.wait(PATIENCE)
    wait_until(lambda: count() <= before, "the end of the servers' connections")


def test_the_loop_ends_with_fetches_in_progress() -> None:
    with serving(silent) as server, curl() as fetch:
        kept = fetch.start(server.url)
        assert server.reached.wait(PATIENCE)
    assert not kept.ended.is_set()


def test_a_url_that_is_not_http_is_refused(fetch: Curl) -> None:
    assert failure(fetch, "ftp://a.example/").reason == "unsupported-scheme"
