"""The managed queue's server: threads in the master's process that answer the methods of `protocol.SIGNATURES`.

It treats every peer as hostile until the peer has proved that it knows the key. After that the peer can call only the
listed methods: it cannot shut the server down, inspect it or create objects in it.
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from multiprocessing import managers
from typing import Any

from crawler.errors import AccessError, BusyError, CrawlerError, MessageError, to_wire
from crawler.frontier.base import Frontier
from crawler.model import Grant, Outcome
from crawler.queue import protocol, wire
from crawler.queue.connections import ConnectionLimits, Connections, WorkerConnections, descriptors, network
from crawler.queue.memory_quota import MemoryQuota

log = logging.getLogger(__name__)

#: Seconds before the next attempt when the system has no descriptor or thread left for a connection.
_RETRY_SECONDS = 0.05
#: After a connection was closed in favour of another, no connection is accepted for this many seconds, and then at most
#: this many at once. So peers that reconnect again and again cost almost nothing, and other peers wait no longer.
_PAUSE, _AT_ONCE = 1.0, wire.BACKLOG

#: Frames of at least this size, in bytes, are large: they wait for each other if memory is short. Smaller frames never
#: wait for them.
_LARGE = 64 * 2**10
#: Most bytes of large frames in memory at a time, in each direction; one network may use half of them.
_MEMORY = 64 * 2**20
#: Bytes a second at which a large frame must arrive, after a few seconds that every frame has.
_MIN_RATE, _GRACE = 2**20, 5.0
#: A frame of at least this size may unfold to a multiple of it in memory, so only this many are decoded at a time.
_SMALL, _DECODERS = 4 * 2**10, 8
#: In this many seconds at most this many warnings about peers are logged.
_PERIOD, _MAX_WARNINGS = 10.0, 10
#: Seconds between two warnings about one network, and number of networks that are remembered.
_MINUTE, _NETWORKS = 60.0, 1_024


class Server(managers.Server):
    """Server of one frontier. No worker can stop it. Each ``conn`` and ``c`` is a `wire.Channel`.

    Args:
        registry: name → (function that makes the queue from the frontier, exposed methods, …), as managers keep it.
        address: address to listen on; port 0 takes a free port.
        authkey: key that workers must know.
        frontier: the frontier to serve.
        limits: limits on connections and time of peers.
        tls: `crawler.queue.tls.server_context`, or None for plain TCP.
        on_departure: called with the name of a worker whose last connection has ended.

    Raises:
        OSError: the address can't be bound.
    """

    #: Methods that the standard library's server answers. This class uses `protocol.SIGNATURES`, which lists the same.
    public = ["accept_connection", "create", "decref", "dummy", "incref"]

    address: wire.Address
    listener: wire.Listener
    authkey: bytes
    mutex: threading.Lock

    def __init__(
        self,
        registry: dict[str, tuple[Callable[..., Any], Iterable[str], dict[str, str], Any]],
        address: wire.Address,
        *,
        authkey: bytes,
        frontier: Frontier,
        limits: ConnectionLimits | None = None,
        tls: ssl.SSLContext | None = None,
        on_departure: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(registry, address, authkey, wire.SERIALIZER)
        self.stop_event = threading.Event()
        self._frontier = frontier
        self._limits = (limits or ConnectionLimits()).within(descriptors())
        self._tls = tls
        self._queues = {name: entry[0](frontier) for name, entry in registry.items()}
        self._connections = Connections(self._limits, self.handle_request)
        self._worker_connections, self._on_departure = WorkerConnections(), on_departure
        self._calls, self._answers = MemoryQuota(_MEMORY, _MEMORY // 2), MemoryQuota(_MEMORY, _MEMORY // 2)
        self._decoders = threading.BoundedSemaphore(_DECODERS)
        self._warnings = _PeerWarnings()
        self._accepter = threading.Thread(target=self.accepter, name="queue-accepter", daemon=True)

    def start(self) -> wire.Address:
        """Serve in daemon threads; return the address that workers connect to."""
        self._accepter.start()
        return self.listener.address

    def stop(self, patience: float = 2.0) -> None:
        """Close the port and all connections; wait at most ``patience`` seconds for calls in progress."""
        self.stop_event.set()
        self.listener.abort()
        threads = self._connections.close()
        end = time.monotonic() + patience
        for thread in (self._accepter, *threads):
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))
        self.listener.close()

    def serve_forever(self) -> None:
        """Serve until Ctrl-C, for scripts that do nothing else."""
        self.start()
        try:
            while not self.stop_event.wait(1):
                pass
        except KeyboardInterrupt:
            log.info("interrupted")
        finally:
            self.stop()

    def accepter(self) -> None:
        """Accept connections until stopped, even while the system runs out of descriptors, threads or memory."""
        is_short = False
        while not self.stop_event.is_set():
            before = self._connections.driven_out
            try:
                self._accept()
                is_short = False
            except TimeoutError:
                continue
            except (OSError, RuntimeError, MemoryError) as error:  # RuntimeError: no more threads
                if not is_short and not self.stop_event.is_set():
                    log.warning("can't accept connections from downloaders at the moment, trying again: %s", error)
                is_short = True
                self.stop_event.wait(_RETRY_SECONDS)
            if self._connections.driven_out != before:
                self._warnings.warn("too many connections: closed some to accept newer ones")
                self.stop_event.wait(_PAUSE)

    def handle_request(self, conn: Any) -> None:
        """Serve one connection, from the handshake to its end."""
        try:
            self._authenticate(conn)
            self.serve_client(conn)
        except AccessError as error:
            self._warnings.warn("refused a connection from %s: %s", conn.peer, error, of=network(conn.host))
        except (OSError, EOFError) as error:
            log.debug("the connection from %s ended: %s", conn.peer, error)
        finally:
            self._connections.leave(conn)
            conn.close()
            departed = self._worker_connections.leave(conn)
            if departed and self._on_departure is not None and not self.stop_event.is_set():
                self._on_departure(departed)

    def serve_client(self, conn: Any) -> None:
        """Answer the calls of a peer that knows the key."""
        while not self.stop_event.is_set():
            self._connections.rest(conn)
            conn.allow(None)
            conn.peek(1)
            if not self._connections.work(conn):
                raise EOFError("the master closed it to accept another connection")
            conn.allow(self._limits.message)
            self._serve_call(conn)

    def dummy(self, c: Any) -> None:
        """Do nothing: the answer shows that the server is running."""

    def accept_connection(self, c: Any, name: str) -> None:
        """Do nothing: every connection may carry any number of calls."""

    def incref(self, c: Any, ident: str) -> None:
        """Do nothing: the queues exist as long as the server."""

    def decref(self, c: Any, ident: str) -> None:
        """Do nothing: no peer can delete a queue that others use."""

    def create(self, c: Any, typeid: str) -> tuple[str, tuple[str, ...]]:
        """Return identifier and methods of a queue. The queue exists already, with the same name after a restart.

        Raises:
            MessageError: the queue does not exist.
        """
        if typeid not in self._queues:
            raise MessageError(f"the master has no queue {typeid[:50]!r}")
        return typeid, tuple(protocol.SIGNATURES[typeid])

    def _accept(self) -> None:
        """Wait for a connection; accept it and those that wait behind it, up to `_AT_ONCE`."""
        self._connections.arrive(self.listener.accept())
        try:
            for _ in range(_AT_ONCE):
                channel = self.listener.accept_more()
                if channel is None:
                    break
                self._connections.arrive(channel)
        finally:
            self._connections.start()

    def _authenticate(self, conn: wire.Channel) -> None:
        """Run the handshake and make the stranger a worker; raise `AccessError` if it is refused."""
        conn.allow(self._limits.handshake)
        try:
            wire.admit(conn, self.authkey, self._tls)
        except (OSError, EOFError) as error:
            raise AccessError(f"the handshake failed: {error}") from error
        refusal = self._connections.welcome(conn)
        if refusal:
            raise AccessError(refusal)

    def _serve_call(self, conn: wire.Channel) -> None:
        size = conn.announced()
        with _AnswerMemory() as memory:
            with ExitStack() as reading:
                if size >= _LARGE:
                    reading.enter_context(self._calls.hold(size, network(conn.host), self._limits.message))
                    conn.allow(min(self._limits.message, _GRACE + size / _MIN_RATE))
                frame = conn.recv_bytes() if size < _LARGE else conn.recv_large()
                if size >= _SMALL:
                    reading.enter_context(self._decoders)
                worker, answer = self._perform(conn, frame, memory)
                del frame
            self._reply(conn, worker, answer, memory)

    def _perform(self, conn: wire.Channel, frame: wire.Buffer, memory: "_AnswerMemory") -> tuple[str, tuple[str, Any]]:
        """Return the name of the worker, if the call may have leased requests to it, and the answer to the call.

        An error is converted to plain data here: its traceback would keep the frame in memory.
        """
        try:
            ident, method, arguments = protocol.read_call(frame)
            if ident is None:
                return "", ("#RETURN", getattr(self, method)(conn, *arguments))
            if method in protocol.OF_WORKERS:
                self._worker_connections.note(conn, arguments[0])
            if method == "records":  # the only answer that uses much memory before its length is known
                memory.reserve(self._memory_for(conn, protocol.RECORDS_BYTES))
            result = getattr(self._queues[ident], method)(*arguments)
            return (arguments[0] if method == "lease" else ""), ("#RETURN", result)
        except CrawlerError as error:
            return "", ("#ERROR", to_wire(error))
        except TimeoutError as error:
            return "", ("#ERROR", to_wire(BusyError(f"{error}; try again later")))
        except Exception as error:  # a bug of this program: its details stay in the log, and the connection stays open
            log.exception("a call from %s failed", conn.peer)
            return "", ("#ERROR", to_wire(error))

    def _reply(self, conn: wire.Channel, worker: str, answer: tuple[str, Any], memory: "_AnswerMemory") -> None:
        """Send an answer; take leases back that the worker cannot receive."""
        grant = answer[1] if isinstance(answer[1], Grant) and answer[1].turns else None
        is_sent = False
        try:
            if grant is not None and not conn.is_quiet():
                raise EOFError("the downloader disconnected while it waited for work")
            is_sent = self._send(conn, answer, memory)
        finally:
            if grant is not None and not is_sent:
                self._take_back(worker, grant)

    def _send(self, conn: wire.Channel, answer: tuple[str, Any], memory: "_AnswerMemory") -> bool:
        """Send the answer, or an error if it can't be sent; return whether it was the answer."""
        conn.allow(self._limits.message)
        try:
            frame = wire.encode(answer)
            if len(frame) >= _LARGE and not memory.is_reserved:
                memory.reserve(self._memory_for(conn, len(frame)))
                conn.allow(self._limits.message)
            conn.send_bytes(frame)
        except MessageError as error:
            log.error("can't send an answer to %s: %s", conn.peer, error)
            conn.send(("#ERROR", to_wire(error)))
            return False
        return True

    def _memory_for(self, conn: wire.Channel, size: int) -> AbstractContextManager[None]:
        return self._answers.hold(size, network(conn.host), self._limits.message)

    def _take_back(self, worker: str, grant: Grant) -> None:
        """Release the leases of a worker that has disconnected, so that the crawl need not wait until they expire."""
        leases = [lease for turn in grant.turns for lease in turn.leases]
        released = [Outcome(status="released", token=lease.token) for lease in leases]
        log.info("took %d requests back from %s: it has disconnected", len(leases), worker)
        try:
            self._frontier.complete(worker, released, [turn.id for turn in grant.turns])
        except Exception:  # the frontier may be closing, too
            log.warning(
                "can't take requests back from %s, which has disconnected; they wait until their leases expire",
                worker,
                exc_info=True,
            )


class _AnswerMemory(ExitStack):
    """Memory that is reserved for one answer until it is sent: once, because waiting for more would block others."""

    is_reserved = False

    def reserve(self, memory: AbstractContextManager[None]) -> None:
        """Wait for memory."""
        self.enter_context(memory)
        self.is_reserved = True


class _PeerWarnings:
    """Log of warnings about peers, limited in rate so that peers cannot fill it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self._number = 0
        #: Network → clock time of the last warning about it.
        self._last: dict[str, float] = {}

    def warn(self, text: str, *words: object, of: str = "") -> None:
        """Log a warning, unless there were many recently, or one about the network ``of`` in the last minute.

        The number of warnings suppressed for the first reason is logged later.
        """
        now = time.monotonic()
        with self._lock:
            if of and now - self._last.get(of, -_MINUTE) < _MINUTE:
                return
            if len(self._last) >= _NETWORKS:
                self._last.clear()
            self._last[of] = now
            suppressed = 0
            if now >= self._until:
                suppressed = max(0, self._number - _MAX_WARNINGS)
                self._until, self._number = now + _PERIOD, 0
            self._number += 1
            is_logged = self._number <= _MAX_WARNINGS
        if suppressed:
            log.warning("left out %d more warnings about connections to the queue", suppressed)
        if is_logged:
            log.warning(text, *words)
