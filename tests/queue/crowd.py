"""Many connections to a master that send nothing, in a process of their own."""

import contextlib
import functools
import multiprocessing
import queue
import selectors
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from crawler.queue import wire
from crawler.queue.join_file import read_join
from crawler.queue.tls import client_context

#: Connections that are being opened at a time.
_AT_ONCE = 64


class Crowd:
    """The handle of the process with the connections."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def count(self) -> tuple[int, int]:
        """Return how many are connected as far as they know, and how many connections they have made."""
        self._pipe.send(None)
        assert self._pipe.poll(30), "the crowd does not answer"
        connected, made = self._pipe.recv()
        return connected, made


@contextmanager
def crowd(join: Path, number: int, *, has_key: bool, comes_again: bool, source: str = "127.0.0.1") -> Iterator[Crowd]:
    """Hold idle connections until the end of the block; it begins when each of them was connected once.

    Args:
        join: the master's join file.
        number: the number of connections.
        has_key: whether they authenticate first.
        comes_again: whether a connection that was closed is opened again at once.
        source: the address that they come from.
    """
    here, there = multiprocessing.Pipe()
    arguments = (join, number, has_key, comes_again, source, there)
    process = multiprocessing.Process(target=_gather, args=arguments, daemon=True)
    process.start()
    try:
        assert here.poll(100) and here.recv() == "all were there"
        yield Crowd(here)
    finally:
        process.terminate()
        process.join()


def _gather(join: Path, number: int, has_key: bool, comes_again: bool, source: str, pipe: Connection) -> None:
    import resource  # not on Windows

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    socket.create_connection = functools.partial(socket.create_connection, source_address=(source, 0))
    _Gathering(join, number, has_key=has_key, comes_again=comes_again, pipe=pipe).run()


class _Gathering:
    """The connections of the process: one thread detects their ends, others open them."""

    def __init__(self, join: Path, number: int, *, has_key: bool, comes_again: bool, pipe: Connection) -> None:
        self._join = read_join(join)
        self._address = wire.parse_address(self._join.addresses[0])
        self._tls = client_context(self._join.cert) if self._join.cert else None
        self._number, self._has_key, self._comes_again, self._pipe = number, has_key, comes_again, pipe
        self._opened: queue.SimpleQueue[wire.Channel] = queue.SimpleQueue()
        self._waker, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._connected = self._made = 0

    def run(self) -> None:
        self._selector.register(self._waker, selectors.EVENT_READ, self._take_in)
        self._selector.register(self._pipe, selectors.EVENT_READ, self._report)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in range(self._number):
                pool.submit(self._connect)
            while True:
                for key, _ in self._selector.select():
                    key.data()
                    if isinstance(key.fileobj, wire.Channel) and key.fileobj.fileno() < 0 and self._comes_again:
                        pool.submit(self._connect)

    def _connect(self) -> None:
        channel = None
        while channel is None:
            with contextlib.suppress(OSError, EOFError):
                if self._has_key:
                    channel = wire.connect(self._address, self._join.authkey, self._tls)
                else:
                    channel = wire.Channel(socket.create_connection(self._address, timeout=60))
        self._opened.put(channel)
        self._wake.send(b"x")

    def _take_in(self) -> None:
        for _ in self._waker.recv(1_000):
            channel = self._opened.get()
            self._selector.register(channel, selectors.EVENT_READ, functools.partial(self._hear, channel))
            self._connected, self._made = self._connected + 1, self._made + 1
            if self._made == self._number:
                self._pipe.send("all were there")

    def _report(self) -> None:
        self._pipe.recv()
        self._pipe.send((self._connected, self._made))

    def _hear(self, channel: wire.Channel) -> None:
        if _is_over(channel):
            self._selector.unregister(channel)
            channel.close()
            self._connected -= 1


def _is_over(channel: wire.Channel) -> bool:
    """Return whether the master has closed a connection; discard data that it sent."""
    with socket.socket(fileno=socket.dup(channel.fileno())) as same:
        same.settimeout(0)
        try:
            return not same.recv(4_096)
        except BlockingIOError:
            return False
        except OSError:
            return True
