"""The managed queue: one crawl's frontier, served to remote workers through `multiprocessing.managers`.

It has the well-known shape: a manager with ``get_task_queue`` and ``get_result_queue``, an address and a key::

    manager = QueueManager.from_join("out/join")
    manager.connect()
    tasks, results = manager.get_task_queue(), manager.get_result_queue()
    grant = tasks.lease("worker-1", ["image"], limit=10, seconds=120, wait=5)

The queues are views of the frontier with its leases; a `queue.Queue` would lose the requests that a killed worker held.
The server consists of threads in the process that owns the frontier. Nothing is pickled to start it.
"""

import errno
import socket
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import managers, process
from pathlib import Path
from typing import Any, NoReturn, Self

from crawler.errors import ConfigError, CrawlerError
from crawler.frontier.base import Frontier
from crawler.model import Grant, ImageRecord, Kind, Outcome, Renewal, Verdict, WorkerInfo
from crawler.queue import protocol
from crawler.queue.client import FIRST_WAIT, Link, ResultQueueProxy, TaskQueueProxy
from crawler.queue.connections import ConnectionLimits
from crawler.queue.join_file import read_join
from crawler.queue.protocol import RESULTS, TASKS
from crawler.queue.server import Server
from crawler.queue.tls import Certificate, server_context
from crawler.queue.wire import SERIALIZER, Address, encode, format_address, parse_address
from crawler.stats import FrontierStats
from crawler.urls import is_loopback

#: Shortest key a server accepts, in bytes: a key that can be guessed opens the queue to every peer.
_MIN_KEY_BYTES = 16

#: Most lease calls that wait in the frontier at a time. Other calls wait for a slot, and ask for work before and after.
_MAX_WAITING = 64
#: Records that are read together, before the size of an answer is known.
_PORTION = 50


class TaskQueue:
    """View of the frontier with the methods that give work to a worker. See `crawler.frontier.base.Frontier`."""

    def __init__(self, frontier: Frontier) -> None:
        self._frontier = frontier
        self._slots = threading.BoundedSemaphore(_MAX_WAITING)

    def hello(self, worker: str, protocol: int, about: WorkerInfo) -> dict[str, Any]:
        return self._frontier.hello(worker, protocol, about)

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        """Lease from the frontier; limit the calls that wait in the frontier, because each change wakes all of them."""
        end = time.monotonic() + min(wait, protocol.MAX_WAIT)
        has_slot = self._slots.acquire(blocking=False)
        if not has_slot:
            grant = self._frontier.lease(worker, kinds, limit, seconds, 0.0)
            if grant.state != "wait":
                return grant
            has_slot = self._slots.acquire(timeout=max(0.0, end - time.monotonic()))
        try:
            return self._frontier.lease(worker, kinds, limit, seconds, max(0.0, end - time.monotonic()))
        finally:
            if has_slot:
                self._slots.release()

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        return self._frontier.extend(worker, tokens, seconds)

    def stats(self) -> FrontierStats:
        return self._frontier.stats()


class ResultQueue:
    """View of the frontier with the methods that take results. A result *is* the acknowledgement of its lease."""

    def __init__(self, frontier: Frontier) -> None:
        self._frontier = frontier

    def put(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        return self._frontier.complete(worker, outcomes, ended_turns)

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """Return up to ``limit`` records; fewer, even if more exist, once they exceed `protocol.RECORDS_BYTES`."""
        records: list[tuple[int, ImageRecord]] = []
        size = 0
        while len(records) < limit and size < protocol.RECORDS_BYTES:
            portion = self._frontier.records(after, min(limit - len(records), _PORTION))
            if not portion:
                break
            records += portion
            size += len(encode(portion))
            after = portion[-1][0]
        return tuple(records)


def get_task_queue(frontier: Frontier) -> TaskQueue:
    """Return the task queue of a frontier. The server calls this function with its own frontier."""
    return TaskQueue(frontier)


def get_result_queue(frontier: Frontier) -> ResultQueue:
    """Return the result queue of a frontier. The server calls this function with its own frontier."""
    return ResultQueue(frontier)


_OFFERS = {TASKS: (get_task_queue, TaskQueueProxy), RESULTS: (get_result_queue, ResultQueueProxy)}


class QueueManager(managers.BaseManager):
    """Manager that serves a frontier (`get_server`), or connects to a server elsewhere (`connect`).

    Args:
        address: host and port of the server.
        authkey: key that server and workers share; by default that of this process and its children.
        frontier: the frontier to serve; workers omit it.
        cert: certificate of the server in PEM, for workers that use TLS. Without it the server must be on this machine.
    """

    _Server = Server

    def __init__(
        self,
        address: Address | None = None,
        authkey: bytes | None = None,
        *,
        frontier: Frontier | None = None,
        cert: str = "",
    ) -> None:
        address = address or ("127.0.0.1", 0)
        key = bytes(process.current_process().authkey) if authkey is None else authkey
        super().__init__(address, key, SERIALIZER)
        self._addresses = [address]
        self._key = key
        self._frontier = frontier
        self._cert = cert
        self._link: Link | None = None

    @classmethod
    def from_join(cls, path: str | Path) -> Self:
        """Return a manager for the crawl that a join file describes.

        Raises:
            ConfigError: the file is missing, readable by others, or not a join file.
        """
        join = read_join(Path(path))
        addresses = [parse_address(address) for address in join.addresses]
        manager = cls(addresses[0], join.authkey, cert=join.cert)
        manager._addresses = addresses
        return manager

    @classmethod
    def register(cls, typeid: str, *args: Any, **kwds: Any) -> None:
        """Register one of the two queues by its name; function and proxy are fixed.

        Raises:
            ConfigError: the name is another one, or a function is given: the queues are views of the frontier.
        """
        function, proxy = _OFFERS.get(typeid, (None, None))
        if function is None:
            raise ConfigError(f"unknown queue {typeid[:80]!r}; register {TASKS!r} and {RESULTS!r}")
        if (args[0] if args else kwds.get("callable")) not in (None, function):
            raise ConfigError(f"{typeid} is built in; register it without a callable")
        super().register(typeid, function, proxy, tuple(protocol.SIGNATURES[typeid]), create_method=False)

    def get_server(
        self,
        *,
        limits: ConnectionLimits | None = None,
        tls: Certificate | None = None,
        on_departure: Callable[[str], None] | None = None,
    ) -> Server:
        """Return a server of this manager's frontier, bound and ready to `Server.start`.

        Args:
            limits: limits on connections and time of peers.
            tls: the certificate to serve with (`crawler.queue.tls.ensure_certificate`); not needed on loopback.
            on_departure: called with the name of a worker whose last connection has ended.

        Raises:
            ConfigError: there is no frontier, the key is too short, the certificate is damaged, the address can't be
                bound, or other machines can reach it and there is no certificate.
        """
        address = self._addresses[0]
        if self._frontier is None:
            raise ConfigError("there is no frontier to serve; write QueueManager(address, authkey, frontier=…)")
        if len(self._key) < _MIN_KEY_BYTES:
            raise ConfigError(f"the key has {len(self._key)} bytes; use at least {_MIN_KEY_BYTES} random bytes")
        if tls is None and not is_loopback(address[0]):
            where = format_address(address)
            raise ConfigError(f"other machines can connect to {where}: pass a certificate for TLS, or use 127.0.0.1")
        context = None if tls is None else server_context(tls)
        registry = self._registry  # type: ignore[attr-defined]  # typeshed leaves it out
        try:
            return Server(
                registry,
                address,
                authkey=self._key,
                frontier=self._frontier,
                limits=limits,
                tls=context,
                on_departure=on_departure,
            )
        except OSError as error:
            raise ConfigError(f"can't listen on {format_address(address)}: {_reason(address, error)}") from error

    def start(self, *args: Any, **kwds: Any) -> NoReturn:
        """Refuse the call: a server in another process would serve an empty frontier.

        Raises:
            CrawlerError: always.
        """
        raise CrawlerError("serve the queue in the process that has the frontier: call get_server().start() there")

    def connect(self, wait: float = FIRST_WAIT) -> None:
        """Connect to the server, which may still be starting; try for ``wait`` seconds.

        Raises:
            NetworkError: the server does not answer, or another program does.
            TLSError: the server has another certificate, or none.
            AccessError: the key was refused.
            ConfigError: the server is on another machine, and there is no certificate that identifies it.
        """
        link = Link(self._addresses, self._key, cert=self._cert, wait=wait)
        try:
            link.call(None, "dummy")
        except BaseException:
            link.close()
            raise
        self._link = link

    def get_task_queue(self) -> TaskQueueProxy:
        """Return a proxy of the master's task queue."""
        return TaskQueueProxy(self._connected())

    def get_result_queue(self) -> ResultQueueProxy:
        """Return a proxy of the master's result queue."""
        return ResultQueueProxy(self._connected())

    def shutdown(self) -> None:  # type: ignore[override]  # typeshed: an attribute that only start() sets
        """Disconnect from the server. The server keeps running: only its own process ends it."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def __enter__(self) -> Self:
        if self._link is None:
            self.connect()
        return self

    def _connected(self) -> Link:
        if self._link is None:
            raise CrawlerError("not connected; call connect() first")
        return self._link


def _reason(address: Address, error: OSError) -> str:
    """Return why an address can't be bound, and what to do."""
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return "that is not an address of this machine. Try --listen HOST:0 with one that is, or 0.0.0.0:0 for all"
    why = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return f"{why}. Try --listen {format_address((address[0], 0))}"


QueueManager.register(TASKS)
QueueManager.register(RESULTS)
