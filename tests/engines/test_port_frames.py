"""Ten thousand hostile frames to a master in a process of its own: nothing is executed, nothing grows, nobody stops."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest

from crawler.engines import wire
from crawler.engines.client import RemoteFrontier
from crawler.engines.tls import client_context
from crawler.frontier.base import PROTOCOL
from tests.engines.hostile import Hostile, bulky
from tests.engines.master import Master, at_work, master
from tests.processes import wait_until

SEED = 1
#: Frames of each sort, to each of two masters: 10,000 in all.
WHOLE, BROKEN, STRANGE = 3_800, 200, 1_000
#: Bytes by which the master may grow; what it frees, the system's allocator does not give back at once.
GROWTH = 48 * 2**20
#: Seconds in which a worker must be served meanwhile.
SOON = 2.0
#: Senders at a time.
SENDERS = 4

Hear = Callable[[bytes], None]


def dial(one: Master) -> wire.Channel:
    tls = client_context(one.join.cert) if one.join.cert else None
    channel = wire.connect(wire.parse_address(one.join.addresses[0]), one.join.authkey, tls)
    channel.allow(60)
    return channel


def send_frames(one: Master, hostile: Hostile, hear: Hear) -> None:
    """As a worker: each frame is answered, whatever it says, and the connection goes on."""
    with closing(dial(one)) as channel:
        for frame in hostile.frames(WHOLE // SENDERS):
            channel.send_bytes(frame)
            hear(channel.recv_bytes())


def send_broken(one: Master, hostile: Hostile, hear: Hear) -> None:
    """As a worker: each of them ends its connection."""
    for part in hostile.broken(BROKEN // SENDERS):
        with closing(dial(one)) as channel, suppress(OSError):  # it may be over before all is said
            channel._sock.sendall(part)
            socket.socket.shutdown(channel._sock, socket.SHUT_WR)
            hear(_rest(channel._sock))


def send_strange(one: Master, hostile: Hostile, hear: Hear) -> None:
    """As a stranger, in the clear and, to a master that speaks it, under TLS."""
    address = wire.parse_address(one.join.addresses[0])
    for number, frame in enumerate(hostile.frames(STRANGE // SENDERS)):
        with closing(socket.create_connection(address, timeout=60)) as sock:
            stranger = sock
            with suppress(OSError):
                if one.join.cert and number % 2:
                    stranger = client_context(one.join.cert).wrap_socket(sock)
                stranger.sendall(len(frame).to_bytes(4, "big") + frame if number % 3 else frame)
                socket.socket.shutdown(stranger, socket.SHUT_WR)
                hear(_rest(stranger))
            stranger.close()


def _rest(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65_536), b""))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_hostile_frames_execute_nothing_grow_nothing_and_stop_nobody(tmp_path: Path, tls: bool) -> None:
    marker, home = tmp_path / "marker", tmp_path / "master"
    home.mkdir()
    waits: list[float] = []
    heard: list[int] = []
    telling = [word.encode() for word in ("Traceback", ".py", str(home), str(tmp_path))]

    def hear(answer: bytes) -> None:
        assert not [word for word in telling if word in answer]
        heard.append(len(answer))

    with master(home, tls=tls) as one:
        before = one.vitals()
        with at_work(one.join, waits), ThreadPoolExecutor(SENDERS) as pool:
            senders = [send_frames, send_broken, send_strange]
            ends = [
                pool.submit(send, one, Hostile(SEED + number, marker), hear)
                for number in range(SENDERS)
                for send in senders
            ]
            for end in ends:
                end.result()
        wait_until(lambda: one.vitals().threads <= before.threads, "its threads are those of before")
        after = one.vitals()
    assert not marker.exists()
    assert len(heard) >= WHOLE
    assert after.faults == []
    assert after.memory - before.memory < GROWTH
    assert after.files == before.files
    assert waits and max(waits) < SOON


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process from /proc")
def test_large_calls_wait_for_each_other_and_small_ones_for_none(tmp_path: Path) -> None:
    """Thirty workers send the longest call there is and keep its last byte back: 480 MiB, if all of it were taken."""
    frame = wire.CALL_LIMIT.to_bytes(4, "big") + bytes(wire.CALL_LIMIT - 1)
    waits: list[float] = []
    with master(tmp_path) as one, ThreadPoolExecutor(30) as pool:
        before = one.vitals().memory
        channels = [dial(one) for _ in range(30)]

        def send(channel: wire.Channel) -> None:
            with suppress(OSError):
                channel._sock.settimeout(30)
                channel._sock.sendall(frame)

        ends = [pool.submit(send, channel) for channel in channels]
        wait_until(lambda: one.vitals().memory - before > 30 * 2**20, "the first two are there")
        with at_work(one.join, waits):
            threading.Event().wait(SOON)  # as long as all the others would need
        grown = one.vitals().memory - before
        for channel in channels:
            channel.abort()
        for end in ends:
            end.result()
        for channel in channels:
            channel.close()
    assert grown < 64 * 2**20
    assert len(waits) > 5 and max(waits) < SOON


def test_the_dearest_call_costs_a_moment_only(tmp_path: Path) -> None:
    with master(tmp_path) as one, closing(RemoteFrontier(one.join)) as remote:
        remote.hello("dear", PROTOCOL)
        (turn,) = remote.lease("dear", ["image"], 1, 60.0, 5.0).turns
        before = one.vitals()
        remote.complete("dear", bulky(turn.leases[0].token), [turn.id])
        after = one.vitals()
        assert remote.stats().discovered > 20_000
    assert after.cpu - before.cpu < 2 * SOON
    assert after.memory - before.memory < 2 * GROWTH
    assert after.faults == []


def test_a_seed_gives_the_same_frames_again(tmp_path: Path) -> None:
    first, second = ([*Hostile(seed, tmp_path / "marker").frames(500)] for seed in (SEED, SEED))
    assert first == second
    assert msgspec.msgpack.decode(next(frame for frame in first if frame[:1] == b"\x94" and b"shutdown" in frame))
