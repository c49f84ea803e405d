"""The managed queue: one crawl's frontier, served to workers elsewhere by `multiprocessing.managers`.

The well-known shape is kept: a manager with ``get_task_queue`` and ``get_result_queue``, an address and a key::

    manager = QueueManager.from_join("out/join")
    manager.connect()
    tasks, results = manager.get_task_queue(), manager.get_result_queue()
    grant = tasks.lease("worker-1", ["image"], limit=10, seconds=120, wait=5)

What stands behind it is not a `queue.Queue`, which loses what a killed worker held, but the frontier with its
leases. The server is made of threads in the process that owns the frontier; nothing is pickled to start it.
"""

import errno
import socket
import threading
import time
from collections.abc import Sequence
from multiprocessing import managers, process
from pathlib import Path
from typing import Any, NoReturn, Self

from crawler.engines import calls
from crawler.engines.calls import RESULTS, TASKS
from crawler.engines.client import FIRST_WAIT, Link, ResultQueueProxy, TaskQueueProxy
from crawler.engines.guests import Limits
from crawler.engines.join import read_join
from crawler.engines.server import Server
from crawler.engines.tls import Certificate, server_context
from crawler.engines.wire import SERIALIZER, Address, encode, format_address, parse_address
from crawler.errors import ConfigError, CrawlerError
from crawler.frontier.base import Frontier
from crawler.model import About, FrontierStats, Grant, ImageRecord, Kind, Outcome, Renewal, Verdict
from crawler.urls import is_loopback

#: Shortest key a server accepts, in bytes; what can be guessed opens the queue to everybody.
MIN_KEY_BYTES = 16

#: Calls for work that wait in the frontier at a time; the others wait for a place, and look on their way in and out.
_PLACES = 64
#: Records that are looked at together, before the size of an answer is known.
_PORTION = 50


class TaskQueue:
    """What a worker may do to get work: a view of the frontier. See `crawler.frontier.base.Frontier`."""

    def __init__(self, frontier: Frontier) -> None:
        self._frontier = frontier
        self._places = threading.BoundedSemaphore(_PLACES)

    def hello(self, worker: str, protocol: int, about: About) -> dict[str, Any]:
        return self._frontier.hello(worker, protocol, about)

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        """As the frontier's, but not everybody waits in the frontier, where each change wakes all who do."""
        end = time.monotonic() + min(wait, calls.MAX_WAIT)
        has_place = self._places.acquire(blocking=False)
        if not has_place:
            grant = self._frontier.lease(worker, kinds, limit, seconds, 0.0)
            if grant.state != "wait":
                return grant
            has_place = self._places.acquire(timeout=max(0.0, end - time.monotonic()))
        try:
            return self._frontier.lease(worker, kinds, limit, seconds, max(0.0, end - time.monotonic()))
        finally:
            if has_place:
                self._places.release()

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        return self._frontier.extend(worker, tokens, seconds)

    def stats(self) -> FrontierStats:
        return self._frontier.stats()


class ResultQueue:
    """What a worker may do with results: a view of the frontier. A result *is* the acknowledgement of its lease."""

    def __init__(self, frontier: Frontier) -> None:
        self._frontier = frontier

    def put(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        return self._frontier.complete(worker, outcomes, ended_turns)

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """May be fewer than ``limit`` though there are more: an answer ends after `calls.RECORDS_BYTES`."""
        found: list[tuple[int, ImageRecord]] = []
        size = 0
        while len(found) < limit and size < calls.RECORDS_BYTES:
            portion = self._frontier.records(after, min(limit - len(found), _PORTION))
            if not portion:
                break
            found += portion
            size += len(encode(portion))
            after = portion[-1][0]
        return tuple(found)


def get_task_queue(frontier: Frontier) -> TaskQueue:
    """The task queue of a frontier; the server calls it with its own."""
    return TaskQueue(frontier)


def get_result_queue(frontier: Frontier) -> ResultQueue:
    """The result queue of a frontier; the server calls it with its own."""
    return ResultQueue(frontier)


_OFFERS = {TASKS: (get_task_queue, TaskQueueProxy), RESULTS: (get_result_queue, ResultQueueProxy)}


class QueueManager(managers.BaseManager):
    """Serves a frontier (`get_server`), or reaches one that is served elsewhere (`connect`).

    Args:
        address: host and port of the server.
        authkey: what server and workers share; by default that of this process and its children.
        frontier: what is served; workers leave it out.
        cert: certificate of the server in PEM, for workers: TLS. Without it the server must be on this machine.
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
        place = address or ("127.0.0.1", 0)
        key = bytes(process.current_process().authkey) if authkey is None else authkey
        super().__init__(place, key, SERIALIZER)
        self._places = [place]
        self._key = key
        self._frontier = frontier
        self._cert = cert
        self._link: Link | None = None

    @classmethod
    def from_join(cls, path: str | Path) -> Self:
        """A manager for the crawl that a join file describes.

        Raises:
            ConfigError: the file is missing, readable by others, or no join file.
        """
        join = read_join(Path(path))
        places = [parse_address(address) for address in join.addresses]
        manager = cls(places[0], join.authkey, cert=join.cert)
        manager._places = places
        return manager

    @classmethod
    def register(cls, typeid: str, *args: Any, **kwds: Any) -> None:
        """Register one of the two queues; the name is enough, as function and proxy are known.

        Raises:
            ConfigError: another name, or a function of one's own: the queue is a view of the frontier.
        """
        function, proxy = _OFFERS.get(typeid, (None, None))
        if function is None:
            raise ConfigError(f"a crawl has no {typeid[:80]!r}; register {TASKS!r} and {RESULTS!r}")
        if (args[0] if args else kwds.get("callable")) not in (None, function):
            raise ConfigError(f"{typeid} is served from the crawl's frontier; register it without a callable")
        super().register(typeid, function, proxy, tuple(calls.SIGNATURES[typeid]), create_method=False)

    def get_server(self, *, limits: Limits | None = None, tls: Certificate | None = None) -> Server:
        """A server of this manager's frontier, bound and ready to `Server.start`.

        Args:
            limits: what peers may take up.
            tls: the certificate to serve it with (`crawler.engines.tls.ensure_certificate`); not needed on loopback.

        Raises:
            ConfigError: no frontier, a short key, a damaged certificate, an address that can't be had, or that others
                can reach while there is no certificate.
        """
        place = self._places[0]
        if self._frontier is None:
            raise ConfigError("there is nothing to serve; write QueueManager(address, authkey, frontier=…)")
        if len(self._key) < MIN_KEY_BYTES:
            raise ConfigError(f"the key has {len(self._key)} bytes; take {MIN_KEY_BYTES} random ones at least")
        if tls is None and not is_loopback(place[0]):
            raise ConfigError(f"{format_address(place)} can be reached by others; serve it with TLS, or on 127.0.0.1")
        context = None if tls is None else server_context(tls)
        registry = self._registry  # type: ignore[attr-defined]  # typeshed leaves it out
        try:
            return Server(registry, place, authkey=self._key, frontier=self._frontier, limits=limits, tls=context)
        except OSError as error:
            raise ConfigError(f"can't listen on {format_address(place)}: {_reason(place, error)}") from error

    def start(self, *args: Any, **kwds: Any) -> NoReturn:
        """Refused: a server in another process would serve a frontier that nobody fills.

        Raises:
            CrawlerError: always.
        """
        raise CrawlerError("the queue lives where its frontier is; use get_server().start() in that process")

    def connect(self, wait: float = FIRST_WAIT) -> None:
        """Reach the server, which may still be starting: tries for ``wait`` seconds.

        Raises:
            NetworkError: nobody answers, or somebody else does.
            TLSError: it has another certificate, or none.
            AccessError: the key was refused.
            ConfigError: it is on another machine, and there is no certificate to know it by.
        """
        link = Link(self._places, self._key, cert=self._cert, wait=wait)
        try:
            link.call(None, "dummy")
        except BaseException:
            link.close()
            raise
        self._link = link

    def get_task_queue(self) -> TaskQueueProxy:
        """The master's task queue."""
        return TaskQueueProxy(self._connected())

    def get_result_queue(self) -> ResultQueueProxy:
        """The master's result queue."""
        return ResultQueueProxy(self._connected())

    def shutdown(self) -> None:  # type: ignore[override]  # typeshed: an attribute that only start() sets
        """Let go of the server's connections. The server goes on: only its own process ends it."""
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


def _reason(place: Address, error: OSError) -> str:
    """Why an address can't be had, and what to do."""
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return "that is not an address of this machine. Try --listen HOST:0 with one that is, or 0.0.0.0:0 for all"
    why = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return f"{why}. Try --listen {format_address((place[0], 0))}"


QueueManager.register(TASKS)
QueueManager.register(RESULTS)
