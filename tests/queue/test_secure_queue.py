"""The queue under TLS: accepted peers, data visible to others, and the message for each mistake."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from crawler.errors import AccessError, ConfigError, CrawlerError, NetworkError, TLSError
from crawler.frontier.base import PROTOCOL
from crawler.queue import protocol, wire
from crawler.queue.client import RemoteFrontier
from crawler.queue.handshake import GREETING
from crawler.queue.join_file import new_key, read_join, write_join
from crawler.queue.manager import QueueManager
from crawler.queue.protocol import TASKS
from crawler.queue.tls import Certificate, client_context, ensure_certificate, server_context
from tests.queue.conftest import Serve, join_for
from tests.queue.fake_frontier import FakeFrontier
from tests.queue.relay import Injector, Relay

AUTHKEY = join_for(("127.0.0.1", 1)).authkey


@pytest.fixture
def other(tmp_path: Path) -> Certificate:
    """Return the certificate of another master."""
    return ensure_certificate(tmp_path)


def any_certificate() -> ssl.SSLContext:
    """Return TLS of a peer that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def waiting(address: wire.Address, cert: str = "", key: str = "", wait: float = 5.0) -> int:
    """Return the complaint of a worker with that join file, which must come at once: any pause fails the test."""
    join = join_for(address, key, cert) if key else join_for(address, cert=cert)
    with closing(RemoteFrontier(join, wait=wait, on_wait=lambda *why: pytest.fail(f"paused: {why}"))) as remote:
        return remote.stats().waiting


@contextmanager
def answering(reply: bytes) -> Iterator[wire.Address]:
    """Run a service that sends nothing until it has received something, then ``reply``, and closes."""
    over = threading.Event()

    def answer() -> None:
        while not over.is_set():
            peer, _ = server.accept()
            with peer:
                peer.settimeout(5)
                if peer.recv(4096):
                    peer.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            over.set()
            socket.create_connection(server.getsockname()).close()
            thread.join()


# accepted peers -------------------------------------------------------------------------------------------------------


def test_a_join_file_with_a_certificate_is_sufficient(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate, tmp_path: Path
) -> None:
    join = join_for(serve(frontier, tls=certificate).address, cert=certificate.pem)
    write_join(tmp_path / "join", join)
    with QueueManager.from_join(tmp_path / "join") as manager:
        assert manager.get_task_queue().hello("me", PROTOCOL)["delay"] == 1.0
    with closing(RemoteFrontier(read_join(tmp_path / "join").at(join.addresses[0]))) as remote:
        assert remote.stats().waiting == 5


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "machine.test"])
def test_an_address_reachable_by_others_is_served_only_with_tls(
    frontier: FakeFrontier, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Check the arguments of bind only: tests open no port to others."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    asked: list[tuple[wire.Address, bool]] = []

    def bind(place: wire.Address, *, dualstack_ipv6: bool, **_: object) -> socket.socket:
        asked.append((place, dualstack_ipv6))
        return socket.socket()

    monkeypatch.setattr(socket, "create_server", bind)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(family, 0, 0, "", (host, 7))])
    manager = QueueManager((host, 7), AUTHKEY, frontier=frontier)
    with pytest.raises(ConfigError, match="other machines can connect to"):
        manager.get_server()
    assert not asked
    manager.get_server(tls=certificate).listener.close()
    assert asked == [((host, 7), host == "::" and socket.has_dualstack_ipv6())]


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_other_names_of_this_machine_work(
    serve: Serve, frontier: FakeFrontier, cert: Certificate | None, host: str
) -> None:
    try:
        server = serve(frontier, (host, 0), tls=cert)
    except ConfigError as error:
        pytest.skip(f"no such loopback here: {error}")
    assert waiting(server.address, cert.pem if cert else "") == 5


def test_nothing_is_sent_to_another_machine_without_a_certificate() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:5000 is the address of another machine.*--listen HOST:PORT"):
        RemoteFrontier(join_for(("192.0.2.1", 5000)))
    with pytest.raises(ConfigError, match="no certificate"):
        QueueManager(("a.test", 5000), AUTHKEY).connect()


def test_a_remote_name_that_looks_local_is_detected(
    serve: Serve, frontier: FakeFrontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(socket.socket):
        def getpeername(self) -> wire.Address:
            return "192.0.2.1", 5000

    there = socket.create_connection(serve(frontier).address)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: Elsewhere(fileno=there.detach()))
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:5000 is the address of another machine"):
        wire.connect(("cats.localhost", 5000), AUTHKEY)


# data visible to others -----------------------------------------------------------------------------------------------


def test_a_relay_with_a_certificate_of_its_own_gets_no_session(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate, other: Certificate
) -> None:
    server = serve(frontier, tls=certificate)
    relay = Relay(server.address, posing=server_context(other), joining=any_certificate())
    with relay, pytest.raises(TLSError):
        waiting(relay.address, certificate.pem)
    assert GREETING in relay.from_master
    assert relay.from_worker == b""


def test_responses_without_tls_open_no_session_under_tls(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(frontier, tls=certificate)
    with Relay(server.address, joining=any_certificate()) as relay, pytest.raises(AccessError):
        waiting(relay.address)
    assert relay.from_worker
    assert relay.from_master.endswith(b"#REFUSED#")
    server.stop()
    assert "wrong key" in caplog.text


def test_a_relay_that_passes_on_everything_sees_only_ciphertext(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate
) -> None:
    server = serve(frontier, tls=certificate)
    with (
        Relay(server.address) as relay,
        closing(RemoteFrontier(join_for(relay.address, cert=certificate.pem))) as remote,
    ):
        assert remote.lease("worker-1", ["image"], 5, 60.0, 0.0).turns
    seen = relay.from_master + relay.from_worker
    assert not [word for word in (GREETING, b"worker-1", b"http://a.test/4.jpg") if word in seen]


def test_a_call_injected_after_the_handshake_is_ignored(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate
) -> None:
    server = serve(frontier, tls=certificate)
    call = protocol.write_call(TASKS, "stats", ())
    with (
        Injector(server.address, len(call).to_bytes(4, "big") + call) as relay,
        closing(RemoteFrontier(join_for(relay.address, cert=certificate.pem))) as remote,
    ):
        assert remote.stats().waiting == 5  # worker and master have authenticated each other
        relay.is_time.set()
    assert b"waiting" not in relay.answer


def test_a_master_under_tls_sends_no_greeting_without_it(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate
) -> None:
    server = serve(frontier, tls=certificate, handshake=0.3)
    with socket.create_connection(server.address, timeout=5) as stranger:
        assert stranger.recv(100) == b""


# unauthenticated connections ------------------------------------------------------------------------------------------


def test_silent_connections_do_not_delay_a_worker(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate
) -> None:
    server = serve(frontier, tls=certificate, handshake=60)
    with ExitStack() as stack:
        for number in range(50):
            stranger = stack.enter_context(socket.create_connection(server.address, timeout=5))
            stranger.sendall(
                b"\x16\x03\x01\x02\x00\x01\x00"[: number % 8]
            )  # silent from the start, or within the first message
        begin = time.monotonic()
        assert waiting(server.address, certificate.pem) == 5
        assert time.monotonic() - begin < 30


@pytest.mark.parametrize("words", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x20ab"])
def test_unauthenticated_connections_end_at_the_deadline(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate, words: bytes
) -> None:
    server = serve(frontier, tls=certificate, handshake=0.3)
    with socket.create_connection(server.address, timeout=5) as stranger:
        stranger.sendall(words)
        try:
            while stranger.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert waiting(server.address, certificate.pem) == 5


def test_stop_ends_all_connections_under_tls(serve: Serve, frontier: FakeFrontier, certificate: Certificate) -> None:
    server = serve(frontier, tls=certificate, handshake=60)
    with socket.create_connection(server.address, timeout=5):
        channel = wire.connect(server.address, AUTHKEY, client_context(certificate.pem))
        server.stop()
        with pytest.raises((EOFError, OSError)):
            channel.recv_bytes()
        channel.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("queue-")]


# messages -------------------------------------------------------------------------------------------------------------


def told(kind: type[CrawlerError], address: wire.Address, cert: str = "", key: str = "") -> str:
    """Return the complaint of a worker, which must come at once and in one line."""
    with pytest.raises(kind) as caught:
        waiting(address, cert, key)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert wire.format_address(address) in message
    assert "\n" not in message
    return message


def test_a_wrong_certificate_is_reported(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate, other: Certificate
) -> None:
    server = serve(frontier, tls=certificate)
    assert "not the one in the join file: copy the join file again" in told(TLSError, server.address, other.pem)


def test_a_wrong_key_under_tls_is_reported(serve: Serve, frontier: FakeFrontier, certificate: Certificate) -> None:
    address = serve(frontier, tls=certificate).address
    assert "refused the key" in told(AccessError, address, certificate.pem, new_key())


def test_a_worker_without_tls_at_a_master_under_tls_is_reported(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_GREETING_SECONDS", 0.2)
    message = told(TLSError, serve(frontier, tls=certificate).address)
    assert "uses TLS, but the join file has no certificate: copy the join file again" in message


def test_a_worker_under_tls_at_a_master_without_tls_is_reported(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate
) -> None:
    message = told(TLSError, serve(frontier).address, certificate.pem)
    assert "does not use TLS, but the join file has a certificate: copy the join file again" in message


def test_another_service_is_recognised(cert: Certificate | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_GREETING_SECONDS", 0.2)
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        join = join_for(address, cert=cert.pem if cert else "")
        with pytest.raises(
            NetworkError, match="not the master of a crawl"
        ):  # without TLS it waits for the first message
            RemoteFrontier(join, wait=0.3).stats()


def test_a_silent_service_is_reported(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_GREETING_SECONDS", 0.2)
    waits: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(NetworkError, match="not the master of a crawl"):
        join = join_for(mute.getsockname(), cert=certificate.pem)
        RemoteFrontier(join, wait=0.3, on_wait=lambda _, why: waits.append(why)).stats()
    assert waits


def test_a_service_that_closes_may_be_a_master_that_stops(certificate: Certificate) -> None:
    waits: list[str] = []
    with answering(b"") as address, pytest.raises(NetworkError, match="no answer from"):
        join = join_for(address, cert=certificate.pem)
        RemoteFrontier(join, wait=0.3, on_wait=lambda _, why: waits.append(why)).stats()
    assert waits


def test_a_refusal_at_one_address_is_reported_when_no_other_answers(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate, other: Certificate
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = wire.format_address(closed.getsockname())
    join = join_for(serve(frontier, tls=certificate).address, cert=other.pem)
    waits: list[float] = []
    both = type(join)(crawl="test", addresses=(nobody, *join.addresses), key=join.key, cert=join.cert)
    with pytest.raises(TLSError, match="not the one in the join file"):
        RemoteFrontier(both, wait=0.3, on_wait=lambda left, _: waits.append(left)).stats()
    assert waits


def test_a_master_that_returns_with_another_certificate_is_refused(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate, other: Certificate
) -> None:
    first = serve(frontier, tls=certificate)
    waits: list[str] = []
    join = join_for(first.address, cert=certificate.pem)
    with closing(RemoteFrontier(join, wait_after_loss=0.3, on_wait=lambda _, why: waits.append(why))) as remote:
        remote.stats()
        first.stop()
        serve(frontier, first.address, tls=other)
        with pytest.raises(TLSError):
            remote.stats()
    assert "not the one in the join file" in waits[0]
