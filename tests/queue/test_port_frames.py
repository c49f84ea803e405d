"""Ten thousand hostile frames to a master in a process of its own: it executes none and keeps serving."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest

from crawler.frontier.base import PROTOCOL
from crawler.queue import wire
from crawler.queue.client import RemoteFrontier
from crawler.queue.tls import client_context
from tests.queue.hostile import Hostile, bulky
from tests.queue.master import Master, at_work, master
from tests.support.processes import wait_until

SEED = 1
#: Frames of each sort, to each of two masters: 10,000 in all.
WHOLE, BROKEN, STRANGE = 3_800, 200, 1_000
#: Bytes by which the master may grow; the system's allocator does not return freed memory at once.
GROWTH = 48 * 2**20
#: Seconds in which a worker must be served during the attack.
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
    """Send them as a worker: each frame is answered, for any content, and the connection continues."""
    with closing(dial(one)) as channel:
        for frame in hostile.frames(WHOLE // SENDERS):
            channel.send_bytes(frame)
            hear(channel.recv_bytes())


def send_broken(one: Master, hostile: Hostile, hear: Hear) -> None:
    """Send them as a worker: each of them ends its connection."""
    for part in hostile.broken(BROKEN // SENDERS):
        with closing(dial(one)) as channel, suppress(OSError):  # the master may close before all is sent
            channel._sock.sendall(part)
            socket.socket.shutdown(channel._sock, socket.SHUT_WR)
            hear(_rest(channel._sock))


def send_strange(one: Master, hostile: Hostile, hear: Hear) -> None:
    """Send them without authentication, unencrypted and, to a master with TLS, encrypted."""
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


@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=pytest.mark.fire)], ids=["plain", "tls"])
def test_hostile_frames_are_not_executed_and_leave_memory_and_service_stable(tmp_path: Path, tls: bool) -> None:
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
        wait_until(lambda: one.vitals().threads <= before.threads, "its earlier number of threads")
        after = one.vitals()
    assert not marker.exists()
    assert len(heard) >= WHOLE
    assert after.faults == []
    assert after.memory - before.memory < GROWTH
    assert after.files == before.files
    assert waits and max(waits) < SOON


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process from /proc")
def test_large_calls_wait_for_each_other_and_small_ones_do_not_wait(tmp_path: Path) -> None:
    """Hold back the last byte of the longest call in thirty workers: 480 MiB, if all of it were stored."""
    frame = wire._CALL_LIMIT.to_bytes(4, "big") + bytes(wire._CALL_LIMIT - 1)
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


def test_the_most_expensive_call_takes_only_a_moment(tmp_path: Path) -> None:
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
