import pickle
import socket
import threading
from collections.abc import Iterator
from multiprocessing import managers
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import ConfigError, MessageError, NetworkError
from crawler.queue import protocol, wire
from crawler.queue.tls import Certificate
from crawler.queue.wire import Channel, FrameTooLarge, Listener
from tests.queue.conftest import secure
from tests.queue.evil import evil_pickle

PLAIN = msgspec.msgpack.Decoder(Any)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    """Yield a channel, and the bare socket at its other end."""
    listener = Listener()
    other = socket.create_connection(listener.address, timeout=5)
    channel = listener.accept()
    channel.allow(5)
    yield channel, other
    for closable in (channel, other, listener):
        closable.close()


@pytest.fixture
def pair(ends: tuple[Channel, socket.socket], cert: Certificate | None) -> Iterator[tuple[Channel, Channel]]:
    left, right = ends[0], Channel(ends[1])
    right.allow(5)
    if cert is not None:
        secure(left, right, cert)
    for channel in (left, right):
        channel.reads = channel.sends = wire._CALL_LIMIT
    yield left, right
    right.close()


def test_it_is_a_serializer_of_multiprocessing_managers() -> None:
    table = managers.listener_client  # type: ignore[attr-defined]  # typeshed leaves it out
    assert table[wire.SERIALIZER] == (Listener, wire.connect)


@pytest.mark.parametrize("message", [None, [], {"ключ": [1, -1, 2.5, True, None, "ü"]}, ["#RETURN", {"a": {}}]])
def test_plain_data_arrives_as_it_was_sent(pair: tuple[Channel, Channel], message: object) -> None:
    pair[0].send(message)
    assert pair[1].recv() == message


def test_a_long_frame_arrives_whole(pair: tuple[Channel, Channel]) -> None:
    content = bytes(range(256)) * 40_000
    sender = threading.Thread(target=pair[0].send_bytes, args=(content,))
    sender.start()
    assert pair[1].recv_bytes() == content
    sender.join()


def test_frames_sent_together_are_received_one_by_one(ends: tuple[Channel, socket.socket]) -> None:
    ends[1].sendall(b"\0\0\0\3one\0\0\0\0\0\0\0\5three")
    assert [ends[0].recv_bytes() for _ in range(3)] == [b"one", b"", b"three"]


def test_a_frame_longer_than_the_limit_of_the_peer_is_not_sent(pair: tuple[Channel, Channel]) -> None:
    pair[0].sends = 10
    with pytest.raises(FrameTooLarge):
        pair[0].send("eleven bytes and more")
    pair[0].send("short")
    assert pair[1].recv() == "short"


@pytest.mark.parametrize("limit", [wire._STRANGER_LIMIT, wire._CALL_LIMIT, wire._ANSWER_LIMIT])
@pytest.mark.parametrize("header", [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"])
def test_an_absurd_length_is_refused_at_the_header(
    ends: tuple[Channel, socket.socket], limit: int, header: bytes
) -> None:
    ends[0].reads = limit
    ends[1].sendall(header)
    with pytest.raises(OSError, match="was announced"):
        ends[0].recv_bytes()


def test_a_dripping_peer_does_not_outlive_the_deadline(ends: tuple[Channel, socket.socket]) -> None:
    enough = threading.Event()

    def drip() -> None:
        ends[1].sendall(b"\0\0\0\xff")
        while not enough.wait(0.02):
            ends[1].sendall(b"x")

    dripper = threading.Thread(target=drip)
    dripper.start()
    ends[0].allow(0.2)
    with pytest.raises(TimeoutError):
        ends[0].recv_bytes()
    enough.set()
    dripper.join()


def test_the_end_between_frames_is_eof_and_within_a_frame_an_error(ends: tuple[Channel, socket.socket]) -> None:
    ends[1].sendall(b"\0\0\0\1a\0\0\0\2b")
    ends[1].shutdown(socket.SHUT_WR)
    assert ends[0].recv_bytes() == b"a"
    with pytest.raises(OSError, match="in the middle of a message"):
        ends[0].recv_bytes()


def test_a_closed_connection_is_eof(pair: tuple[Channel, Channel]) -> None:
    pair[1].close()
    with pytest.raises(EOFError):
        pair[0].recv_bytes()


def test_abort_wakes_a_reader(pair: tuple[Channel, Channel]) -> None:
    pair[0].allow(None)
    threading.Timer(0.05, pair[0].abort).start()
    with pytest.raises((EOFError, OSError)):
        pair[0].recv_bytes()


def test_a_channel_is_quiet_until_data_arrives(pair: tuple[Channel, Channel]) -> None:
    assert pair[0].is_quiet()
    pair[1].send("unasked")
    pair[0].peek(1)
    assert not pair[0].is_quiet()
    assert pair[0].recv() == "unasked"
    assert pair[0].is_quiet()
    pair[1].close()
    with pytest.raises(EOFError):
        pair[0].peek(1)
    assert not pair[0].is_quiet()


@pytest.mark.parametrize("level", [b"\x91", b"\x81\x01", b"\x81\xa1a"])
def test_depth_is_limited(level: bytes) -> None:
    with pytest.raises(MessageError):
        wire.decode(level * 200_000, PLAIN)


def test_the_evil_pickle_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(evil_pickle(tmp_path / "marker"))  # noqa: S301  # the only place that loads it
    assert (tmp_path / "marker").exists()


def test_a_pickle_is_only_a_malformed_message(tmp_path: Path) -> None:
    with pytest.raises(MessageError):
        wire.decode(evil_pickle(tmp_path / "marker"), PLAIN)
    assert not (tmp_path / "marker").exists()


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize("message", [object(), "\ud800", 2**80, LOOP, {1: pickle.dumps}])
def test_only_plain_data_is_sent(message: object) -> None:
    with pytest.raises(MessageError):
        wire.encode(message)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_the_same_error(frame: bytes) -> None:
    for read in (lambda: wire.decode(frame, PLAIN), lambda: protocol.read_call(frame), lambda: _answer(frame)):
        try:
            read()
        except MessageError as error:
            assert "\n" not in str(error)


def _answer(frame: bytes) -> Any:
    return protocol.read_answer(frame, protocol.SIGNATURES[protocol.TASKS]["lease"])


def test_a_silent_port_is_no_master(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_GREETING_SECONDS", 0.1)
    monkeypatch.setattr(wire, "_PROBE_SECONDS", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(wire.NoGreeting, match="not the master of a crawl"),
    ):
        wire.connect(mute.getsockname(), b"k" * 32)


def test_a_port_that_speaks_another_protocol_is_no_master() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        greeter = threading.Thread(target=_greet, args=(other,))
        greeter.start()
        with pytest.raises(NetworkError, match="not the master of a crawl"):
            wire.connect(other.getsockname(), b"k" * 32)
        greeter.join()


def _greet(server: socket.socket) -> None:
    peer, _ = server.accept()
    with peer:
        peer.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
        peer.recv(1)


def test_small_frames_are_not_delayed(ends: tuple[Channel, socket.socket]) -> None:
    ends[1].shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        wire.admit(ends[0], b"k" * 32)
    with socket.socket(fileno=socket.dup(ends[0].fileno())) as same:
        assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert same.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_an_ipv6_address_works() -> None:
    try:
        listener = Listener(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    with socket.create_connection(listener.address, timeout=5):
        channel = listener.accept()
        assert channel.peer.startswith("[::1]:")
        channel.close()
    listener.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [("a.test:5000", ("a.test", 5000)), ("[::1]:1", ("::1", 1)), ("127.0.0.1:65535", ("127.0.0.1", 65535))],
)
def test_addresses_are_read_and_written(text: str, address: wire.Address) -> None:
    assert wire.parse_address(text) == address
    assert wire.format_address(address) == text


@pytest.mark.parametrize("text", ["", "a.test", ":5000", "::1:5000", "a.test:0", "a.test:65536", "a:²", "a:-1", "[]:1"])
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        wire.parse_address(text)
