"""The managed queue's server: threads in the master's process that answer the methods of `calls.SIGNATURES`.

It treats everybody as hostile who has not proved to know the key, and answers those who have nothing but the
listed methods: nobody can shut it down, look into it, or create objects in it.
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing import managers
from typing import Any

from msgspec import Struct

from crawler.engines import calls, wire
from crawler.errors import AccessError, CrawlerError, MessageError, to_wire
from crawler.frontier.base import Frontier
from crawler.model import Grant, Outcome

log = logging.getLogger(__name__)

#: Seconds before the next attempt when the system has no descriptor or thread left for a connection.
_BREATH = 0.05


class Limits(Struct, frozen=True, kw_only=True):
    """What peers may take up."""

    #: Seconds for the whole handshake.
    handshake: float = wire.HANDSHAKE_SECONDS
    #: Seconds for one message, once it has begun. Between messages a worker may be silent.
    message: float = 30.0
    #: Connections that have not proved the key; one more drives the oldest out, so that silent ones block nobody.
    strangers: int = 64
    #: All connections; one more is closed.
    connections: int = 1_024


class Server(managers.Server):
    """Serves one frontier until it is stopped, which no worker can do. Each ``conn`` and ``c`` is a `wire.Channel`.

    Args:
        registry: name → (function that makes the queue from the frontier, exposed methods, …), as managers keep it.
        address: where to listen; port 0 takes a free one.
        authkey: what workers must know.
        frontier: what is served.
        limits: what peers may take up.
        tls: `crawler.engines.tls.server_context`; None: plain TCP.

    Raises:
        OSError: the address can't be had.
    """

    #: What the standard library's server would answer; ours goes by `calls.SIGNATURES`, which says the same.
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
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(registry, address, authkey, wire.SERIALIZER)
        self.stop_event = threading.Event()
        self._frontier = frontier
        self._limits = limits or Limits()
        self._tls = tls
        self._queues = {name: entry[0](frontier) for name, entry in registry.items()}
        self._strangers: dict[wire.Channel, threading.Thread] = {}
        self._workers: dict[wire.Channel, threading.Thread] = {}
        self._accepter = threading.Thread(target=self.accepter, name="queue-accepter", daemon=True)

    def start(self) -> wire.Address:
        """Serve in daemon threads from now on; returns the address that workers connect to."""
        self._accepter.start()
        return self.listener.address

    def stop(self, patience: float = 2.0) -> None:
        """Close the port and all connections; waits ``patience`` seconds at most for calls under way."""
        self.stop_event.set()
        self.listener.abort()
        with self.mutex:
            threads = {**self._strangers, **self._workers}
        for channel in threads:
            channel.abort()
        end = time.monotonic() + patience
        for thread in (self._accepter, *threads.values()):
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
        """Take connections until stopped, whatever the system runs out of meanwhile."""
        is_short = False
        while not self.stop_event.is_set():
            try:
                channel = self.listener.accept()
                self._admit(channel)
                is_short = False
            except TimeoutError:
                continue
            except (OSError, RuntimeError, MemoryError) as error:  # RuntimeError: no more threads
                if not is_short and not self.stop_event.is_set():
                    log.warning("can't take connections for now: %s", error)
                is_short = True
                self.stop_event.wait(_BREATH)

    def handle_request(self, conn: Any) -> None:
        """Serve one connection, from the handshake to its end."""
        try:
            self._meet(conn)
            self.serve_client(conn)
        except AccessError as error:
            log.warning("turned %s away: %s", conn.peer, error)
        except (OSError, EOFError) as error:
            log.debug("%s is gone: %s", conn.peer, error)
        finally:
            with self.mutex:
                self._strangers.pop(conn, None)
                self._workers.pop(conn, None)
            conn.close()

    def serve_client(self, conn: Any) -> None:
        """Answer call after call of a peer that knows the key."""
        while not self.stop_event.is_set():
            conn.allow(None)
            conn.peek(1)
            conn.allow(self._limits.message)
            self._serve_call(conn, conn.recv_bytes())

    def dummy(self, c: Any) -> None:
        """Answered to show that somebody is here."""

    def accept_connection(self, c: Any, name: str) -> None:
        """Nothing to do: every connection may carry any number of calls."""

    def incref(self, c: Any, ident: str) -> None:
        """Nothing to do: the queues live as long as the server."""

    def decref(self, c: Any, ident: str) -> None:
        """Nothing to do, and nothing that could be taken from others."""

    def create(self, c: Any, typeid: str) -> tuple[str, tuple[str, ...]]:
        """Identifier and methods of a queue; it exists already, under its registered name in every life of the master.

        Raises:
            MessageError: no such queue.
        """
        if typeid not in self._queues:
            raise MessageError("there is no such queue")
        return typeid, tuple(calls.SIGNATURES[typeid])

    def _admit(self, channel: wire.Channel) -> None:
        """Give a new connection its thread, within the limits."""
        thread = threading.Thread(target=self.handle_request, args=(channel,), name="queue-connection", daemon=True)
        with self.mutex:
            is_full = len(self._strangers) + len(self._workers) >= self._limits.connections
            is_over = is_full or self.stop_event.is_set()
            oldest = next(iter(self._strangers), None) if len(self._strangers) >= self._limits.strangers else None
            if oldest is not None:
                del self._strangers[oldest]
            if not is_over:
                self._strangers[channel] = thread
        if oldest is not None:
            oldest.abort()
        if is_full:
            log.warning("closed a connection from %s: there are %d already", channel.peer, self._limits.connections)
        if is_over:
            channel.close()
            return
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            with self.mutex:
                self._strangers.pop(channel, None)
            channel.close()
            raise

    def _meet(self, conn: wire.Channel) -> None:
        """Make a worker of a stranger, or raise `AccessError`."""
        conn.allow(self._limits.handshake)
        try:
            wire.admit(conn, self.authkey, self._tls)
        except (OSError, EOFError) as error:
            raise AccessError(f"no handshake, {error}") from error
        with self.mutex:
            thread = self._strangers.pop(conn, None)
            if thread is None:
                raise AccessError("driven out by others that came later")
            self._workers[conn] = thread

    def _serve_call(self, conn: wire.Channel, frame: bytes) -> None:
        arguments: tuple[Any, ...] = ()
        result: Any = None
        try:
            function, arguments = self._resolve(conn, frame)
            result = function(*arguments)
            answer = ("#RETURN", result)
        except CrawlerError as error:
            answer = ("#ERROR", to_wire(error))
        except Exception as error:  # a fault of ours is ours to read: it neither ends the connection nor travels
            log.exception("a call of %s failed", conn.peer)
            answer = ("#ERROR", to_wire(error))
        taken = result if isinstance(result, Grant) and result.turns else None
        try:
            if taken is not None and not conn.is_quiet():
                raise EOFError("left while it waited for work")
            is_sent = self._send(conn, answer)
        except (OSError, EOFError):
            if taken is not None:
                self._take_back(arguments[0], taken)
            raise
        if taken is not None and not is_sent:
            self._take_back(arguments[0], taken)

    def _resolve(self, conn: wire.Channel, frame: bytes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        ident, method, arguments = calls.read_call(frame)
        if ident is None:
            return getattr(self, method), (conn, *arguments)
        return getattr(self._queues[ident], method), arguments

    def _send(self, conn: wire.Channel, answer: tuple[str, Any]) -> bool:
        """Whether the answer was sent, rather than the error that it can't be."""
        conn.allow(self._limits.message)
        try:
            conn.send(answer)
        except MessageError as error:
            log.error("can't answer %s: %s", conn.peer, error)
            conn.send(("#ERROR", to_wire(error)))
            return False
        return True

    def _take_back(self, worker: str, grant: Grant) -> None:
        """Release at once what was leased to a worker that is gone: nobody has to wait for these leases to expire."""
        leases = [lease for turn in grant.turns for lease in turn.leases]
        released = [Outcome(status="released", token=lease.token) for lease in leases]
        log.info("took %d requests back from %s, which is gone", len(leases), worker)
        try:
            self._frontier.complete(worker, released, [turn.id for turn in grant.turns])
        except Exception:  # the frontier may be closing too; the leases will expire
            log.warning("could not release them", exc_info=True)
