"""Attacks on the handshake by local processes without the key."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from crawler.errors import AccessError, TLSError
from crawler.queue import client, wire
from crawler.queue.client import RemoteFrontier
from crawler.queue.handshake import GREETING
from crawler.queue.join_file import new_key
from crawler.queue.tls import Certificate, client_context, ensure_certificate
from tests.queue.conftest import Serve, join_for
from tests.queue.fake_frontier import FakeFrontier
from tests.queue.relay import Relay

AUTHKEY = join_for(("127.0.0.1", 1)).authkey
_NONCE = 32


@contextmanager
def stranger(talk: Callable[[socket.socket], None], address: wire.Address = ("127.0.0.1", 0)) -> Iterator[wire.Address]:
    """Run an attacker without the key at a port: ``talk`` gets the listening socket."""
    with socket.create_server(address) as server:
        thread = threading.Thread(target=talk, args=(server,))
        thread.start()
        try:
            yield server.getsockname()
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join()


def accept(server: socket.socket) -> wire.Channel:
    channel = wire.Channel(server.accept()[0])
    channel.allow(5)
    return channel


def test_a_reflected_proof_is_refused() -> None:
    """Have one worker answer the challenge of another one."""

    def reflect(server: socket.socket) -> None:
        with closing(accept(server)) as first, closing(accept(server)) as second:
            nonce = b"n" * _NONCE
            first.send_bytes(GREETING + nonce)
            asked = first.recv_bytes()[:_NONCE]
            second.send_bytes(GREETING + asked)
            first.send_bytes(second.recv_bytes()[_NONCE:])
            with suppress(EOFError, OSError):
                first.recv_bytes()

    errors: list[BaseException] = []

    def work(address: wire.Address) -> None:
        try:
            wire.connect(address, AUTHKEY).close()
        except (AccessError, OSError, EOFError) as error:
            errors.append(error)

    with stranger(reflect) as address:
        workers = [threading.Thread(target=work, args=(address,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert AccessError in map(type, errors)
    assert len(errors) == 2


def test_a_worker_does_not_accept_its_own_proof() -> None:
    def reflect(server: socket.socket) -> None:
        with closing(accept(server)) as worker:
            worker.send_bytes(GREETING + b"n" * _NONCE)
            answer = worker.recv_bytes()
            worker.send_bytes(answer[_NONCE:])

    with stranger(reflect) as address, pytest.raises(AccessError, match="refused the key"):
        wire.connect(address, AUTHKEY)


def test_a_relay_at_the_old_port_of_a_master_gets_no_session_without_tls(serve: Serve, frontier: FakeFrontier) -> None:
    server = serve(frontier)
    with Relay(server.address) as relay, pytest.raises(AccessError, match="no tunnel without TLS"):
        wire.connect(relay.address, AUTHKEY)
    assert relay.from_master.endswith(b"#REFUSED#")


def test_a_relay_at_another_address_with_the_master_s_port_gets_no_session_without_tls(
    serve: Serve, frontier: FakeFrontier
) -> None:
    server = serve(frontier)
    try:
        relay = Relay(server.address, at=("127.0.0.77", server.address[1]))
    except OSError as error:
        pytest.skip(f"no such loopback here: {error}")
    with relay, pytest.raises(AccessError):
        wire.connect(relay.address, AUTHKEY)


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\x2b" + GREETING + b"n" * 32])
def test_a_worker_with_an_absent_master_keeps_waiting_for_any_other_response_at_its_port(
    serve: Serve, frontier: FakeFrontier, cert: Certificate | None, words: bytes
) -> None:
    """Check another protocol, and a greeting like a master's that refuses the key."""
    first = serve(frontier, tls=cert)
    waits: list[str] = []
    is_over = threading.Event()

    def answer(server: socket.socket) -> None:
        server.settimeout(0.05)
        while not is_over.is_set():
            with suppress(OSError, EOFError), closing(accept(server)) as peer:
                peer._sock.sendall(words)
                peer.recv_bytes()
                peer.send_bytes(b"#REFUSED#")

    def on_wait(left: float, reason: str) -> None:
        waits.append(reason)
        if len(waits) == 2:
            is_over.set()

    join = join_for(first.address, cert=cert.pem if cert else "")
    with closing(RemoteFrontier(join, on_wait=on_wait)) as remote:
        remote.stats()
        first.stop()
        with stranger(answer, first.address):
            caller = threading.Thread(target=remote.stats)
            caller.start()
            is_over.wait(60)
        serve(frontier, first.address, tls=cert)
        caller.join(60)
        assert not caller.is_alive()
    assert len(waits) >= 2


def test_another_certificate_on_this_machine_does_not_hide_that_the_master_is_away(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = ensure_certificate(tmp_path_factory.mktemp("other"))
    here = wire.format_address(serve(frontier, tls=other).address)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        away = wire.format_address(closed.getsockname())
    join = join_for(("127.0.0.1", 1), cert=certificate.pem)
    both = type(join)(crawl="test", addresses=(away, here), key=join.key, cert=join.cert)
    waits: list[str] = []
    with pytest.raises(TLSError):
        RemoteFrontier(both, wait=0.3, on_wait=lambda _, why: waits.append(why)).stats()
    assert "refused" in waits[0] and "certificate" in waits[0]


def test_another_certificate_on_another_machine_is_a_final_error_for_all_addresses(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client, "is_own", lambda host: False)
    there = wire.format_address(serve(frontier, tls=ensure_certificate(tmp_path)).address)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        away = wire.format_address(closed.getsockname())
    join = join_for(("127.0.0.1", 1), cert=certificate.pem)
    both = type(join)(crawl="test", addresses=(away, there, away), key=join.key, cert=join.cert)
    with pytest.raises(TLSError):
        RemoteFrontier(both, on_wait=lambda *why: pytest.fail(f"paused: {why}")).stats()


def test_a_refused_key_is_a_final_error_for_all_addresses(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate
) -> None:
    there = wire.format_address(serve(frontier, tls=certificate).address)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        away = wire.format_address(closed.getsockname())
    join = join_for(("127.0.0.1", 1), key=new_key(), cert=certificate.pem)
    both = type(join)(crawl="test", addresses=(away, there, away), key=join.key, cert=join.cert)
    with pytest.raises(AccessError):
        RemoteFrontier(both, on_wait=lambda *why: pytest.fail(f"paused: {why}")).stats()


def test_under_tls_a_proof_is_valid_through_a_tunnel(
    serve: Serve, frontier: FakeFrontier, certificate: Certificate
) -> None:
    server = serve(frontier, tls=certificate)
    with Relay(server.address) as tunnel:
        wire.connect(tunnel.address, AUTHKEY, client_context(certificate.pem)).close()
