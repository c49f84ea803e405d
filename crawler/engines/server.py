"""The managed queue's server: threads in the master's process that answer the methods of `calls.SIGNATURES`.

It treats everybody as hostile who has not proved to know the key, and answers those who have nothing but the
listed methods: nobody can shut it down, look into it, or create objects in it.
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from multiprocessing import managers
from typing import Any

from crawler.engines import calls, wire
from crawler.engines.guests import Guests, Limits, descriptors, network
from crawler.engines.ration import Ration
from crawler.errors import AccessError, CrawlerError, MessageError, to_wire
from crawler.frontier.base import Frontier
from crawler.model import Grant, Outcome

log = logging.getLogger(__name__)

#: Seconds before the next attempt when the system has no descriptor or thread left for a connection.
_BREATH = 0.05
#: Where people had to go, the door stays shut for so many seconds; then it lets in so many at once. So those who come
#: again and again cost next to nothing, and who comes from elsewhere waits no longer than that.
_PAUSE, _AT_ONCE = 1.0, wire.BACKLOG

#: Frames from this size on, in bytes, are large: they wait for each other where there is not enough memory, and smaller
#: ones wait for none of them.
LARGE = 64 * 2**10
#: Bytes of large frames in memory at a time, in each direction; half of them for one network.
_MEMORY = 64 * 2**20
#: Bytes a second at which a large frame has to come, beside a few seconds for any frame.
_PACE, _GRACE = 2**20, 5.0
#: A frame from this size on may unfold to much more than itself, so only so many of them are read at a time.
_BRIEF, _DESKS = 4 * 2**10, 8
#: Seconds in which no more than so many complaints about peers go to the log.
_PERIOD, _COMPLAINTS = 10.0, 10


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
        self._limits = (limits or Limits()).within(descriptors())
        self._tls = tls
        self._queues = {name: entry[0](frontier) for name, entry in registry.items()}
        self._guests = Guests(self._limits, self.handle_request)
        self._calls, self._answers = Ration(_MEMORY, _MEMORY // 2), Ration(_MEMORY, _MEMORY // 2)
        self._desks = threading.BoundedSemaphore(_DESKS)
        self._complaints = Complaints()
        self._accepter = threading.Thread(target=self.accepter, name="queue-accepter", daemon=True)

    def start(self) -> wire.Address:
        """Serve in daemon threads from now on; returns the address that workers connect to."""
        self._accepter.start()
        return self.listener.address

    def stop(self, patience: float = 2.0) -> None:
        """Close the port and all connections; waits ``patience`` seconds at most for calls under way."""
        self.stop_event.set()
        self.listener.abort()
        threads = self._guests.close()
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
        """Take connections until stopped, whatever the system runs out of meanwhile."""
        is_short = False
        while not self.stop_event.is_set():
            before = self._guests.driven_out
            try:
                self._take_in()
                is_short = False
            except TimeoutError:
                continue
            except (OSError, RuntimeError, MemoryError) as error:  # RuntimeError: no more threads
                if not is_short and not self.stop_event.is_set():
                    log.warning("can't take connections for now: %s", error)
                is_short = True
                self.stop_event.wait(_BREATH)
            if self._guests.driven_out != before:
                self._complaints.warn("there are more connections than can be served")
                self.stop_event.wait(_PAUSE)

    def handle_request(self, conn: Any) -> None:
        """Serve one connection, from the handshake to its end."""
        try:
            self._meet(conn)
            self.serve_client(conn)
        except AccessError as error:
            self._complaints.warn("turned %s away: %s", conn.peer, error)
        except (OSError, EOFError) as error:
            log.debug("%s is gone: %s", conn.peer, error)
        finally:
            self._guests.leave(conn)
            conn.close()

    def serve_client(self, conn: Any) -> None:
        """Answer call after call of a peer that knows the key."""
        while not self.stop_event.is_set():
            self._guests.rest(conn)
            conn.allow(None)
            conn.peek(1)
            if not self._guests.work(conn):
                raise EOFError("it had to make room")
            conn.allow(self._limits.message)
            self._serve_call(conn)

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

    def _take_in(self) -> None:
        """Wait for somebody, and let in all who have come, or as many of them as are let in at once."""
        self._guests.arrive(self.listener.accept())
        try:
            for _ in range(_AT_ONCE):
                channel = self.listener.accept_more()
                if channel is None:
                    break
                self._guests.arrive(channel)
        finally:
            self._guests.start()

    def _meet(self, conn: wire.Channel) -> None:
        """Make a worker of a stranger, or raise `AccessError`."""
        conn.allow(self._limits.handshake)
        try:
            wire.admit(conn, self.authkey, self._tls)
        except (OSError, EOFError) as error:
            raise AccessError(f"no handshake, {error}") from error
        obstacle = self._guests.welcome(conn)
        if obstacle:
            raise AccessError(obstacle)

    def _serve_call(self, conn: wire.Channel) -> None:
        size, who = conn.announced(), network(conn.host)
        with _Answering() as answering:
            with ExitStack() as hearing:
                if size >= LARGE:
                    hearing.enter_context(self._calls.hold(size, who, self._limits.message))
                    conn.allow(min(self._limits.message, _GRACE + size / _PACE))
                frame = conn.recv_bytes() if size < LARGE else conn.recv_large()
                if size >= _BRIEF:
                    hearing.enter_context(self._desks)
                worker, answer = self._perform(conn, frame, answering)
                del frame
            self._reply(conn, worker, answer, answering)

    def _perform(self, conn: wire.Channel, frame: wire.Buffer, answering: "_Answering") -> tuple[str, tuple[str, Any]]:
        """The answer to a call, and who called, if work may have been leased to him.

        An error becomes words here: with its traceback it would keep the frame.
        """
        try:
            ident, method, arguments = calls.read_call(frame)
            if ident is None:
                return "", ("#RETURN", getattr(self, method)(conn, *arguments))
            if method == "records":  # the only answer that is long before anybody can say how long
                answering.take(self._room_for(conn, calls.RECORDS_BYTES))
            result = getattr(self._queues[ident], method)(*arguments)
            return (arguments[0] if method == "lease" else ""), ("#RETURN", result)
        except CrawlerError as error:
            return "", ("#ERROR", to_wire(error))
        except TimeoutError as error:
            return "", ("#ERROR", to_wire(MessageError(f"{error}; try again later")))
        except Exception as error:  # a fault of ours is ours to read: it neither ends the connection nor travels
            log.exception("a call of %s failed", conn.peer)
            return "", ("#ERROR", to_wire(error))

    def _reply(self, conn: wire.Channel, worker: str, answer: tuple[str, Any], answering: "_Answering") -> None:
        """Send an answer; what was leased to a worker that can't be told is taken back."""
        taken = answer[1] if isinstance(answer[1], Grant) and answer[1].turns else None
        is_sent = False
        try:
            if taken is not None and not conn.is_quiet():
                raise EOFError("left while it waited for work")
            is_sent = self._send(conn, answer, answering)
        finally:
            if taken is not None and not is_sent:
                self._take_back(worker, taken)

    def _send(self, conn: wire.Channel, answer: tuple[str, Any], answering: "_Answering") -> bool:
        """Whether the answer was sent, rather than the error that it can't be."""
        conn.allow(self._limits.message)
        try:
            frame = wire.encode(answer)
            if len(frame) >= LARGE and not answering.has_room:
                answering.take(self._room_for(conn, len(frame)))
                conn.allow(self._limits.message)
            conn.send_bytes(frame)
        except MessageError as error:
            log.error("can't answer %s: %s", conn.peer, error)
            conn.send(("#ERROR", to_wire(error)))
            return False
        return True

    def _room_for(self, conn: wire.Channel, size: int) -> AbstractContextManager[None]:
        return self._answers.hold(size, network(conn.host), self._limits.message)

    def _take_back(self, worker: str, grant: Grant) -> None:
        """Release at once what was leased to a worker that is gone: nobody has to wait for these leases to expire."""
        leases = [lease for turn in grant.turns for lease in turn.leases]
        released = [Outcome(status="released", token=lease.token) for lease in leases]
        log.info("took %d requests back from %s, which is gone", len(leases), worker)
        try:
            self._frontier.complete(worker, released, [turn.id for turn in grant.turns])
        except Exception:  # the frontier may be closing too; the leases will expire
            log.warning("could not release them", exc_info=True)


class _Answering(ExitStack):
    """What one answer takes up until it is sent: room for it, once, as waiting for more would block others."""

    has_room = False

    def take(self, room: AbstractContextManager[None]) -> None:
        """Wait for room."""
        self.enter_context(room)
        self.has_room = True


class Complaints:
    """Warnings about peers, who must not be able to fill the log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self._number = 0

    def warn(self, text: str, *words: object) -> None:
        """Log it, unless there were many of late; how many were left out is told later."""
        now = time.monotonic()
        with self._lock:
            left_out = 0
            if now >= self._until:
                left_out = max(0, self._number - _COMPLAINTS)
                self._until, self._number = now + _PERIOD, 0
            self._number += 1
            is_told = self._number <= _COMPLAINTS
        if left_out:
            log.warning("%d more warnings about peers were left out", left_out)
        if is_told:
            log.warning(text, *words)
