"""Connections to the managed queue, and the choice of the connection that is closed when there are too many.

Two separate limits apply, so that strangers, which have not proved that they know the key, cannot displace workers. In
both groups a new connection is accepted, and one of the network with the most connections is closed: the oldest of the
strangers, or the longest idle of the workers, whose client reconnects by itself at its next call. A connection with a
call in progress is never closed.
"""

import ipaddress
import os
import threading
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct, structs

from crawler.queue.wire import HANDSHAKE_SECONDS, Channel

#: Most descriptors that are reserved for everything else: the database, the log, sites, images.
_OTHER_FILES = 128


class ConnectionLimits(Struct, frozen=True, kw_only=True):
    """Limits on the connections and the time of peers."""

    #: Seconds for the whole handshake.
    handshake: float = HANDSHAKE_SECONDS
    #: Seconds for one message after its first byte. Between messages a worker may be silent.
    message: float = 30.0
    #: Most connections that have not proved the key.
    strangers: int = 64
    #: Most connections that have proved the key, and most of them from one network. Many machines may share the address
    #: of a network. A downloader has three or four connections.
    connections: int = 960
    per_network: int = 720

    def within(self, descriptors: float) -> "ConnectionLimits":
        """Return these limits, reduced to a process that may open ``descriptors`` files."""
        available = int(min(descriptors - min(_OTHER_FILES, descriptors / 2), self.strangers + self.connections))
        strangers = min(self.strangers, max(1, available // 4))
        connections = min(self.connections, max(1, available - strangers))
        return structs.replace(
            self, strangers=strangers, connections=connections, per_network=min(self.per_network, connections)
        )


def descriptors() -> float:
    """Return how many files this process may open, or infinity if the platform sets no relevant limit."""
    if os.name != "posix":
        return float("inf")
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return float("inf") if soft == resource.RLIM_INFINITY else float(soft)


@lru_cache(maxsize=4_096)
def network(host: str) -> str:
    """Return the network of a host, within which one party may use any address: IPv4 address or IPv6 /64."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) & -(1 << 64), 64)))


class Connections:
    """Registry of the open connections and the threads that serve them. Thread-safe.

    Args:
        limits: limits on the connections.
        serve: function that the thread of a connection runs.
    """

    def __init__(self, limits: ConnectionLimits, serve: Callable[[Channel], None]) -> None:
        self._limits = limits
        self._serve = serve
        self._lock = threading.Lock()
        self._is_closed = False
        #: In order of arrival, with the thread, or None before it is started.
        self._strangers: dict[Channel, threading.Thread | None] = {}
        self._workers: dict[Channel, threading.Thread | None] = {}
        #: Workers between two calls, the longest idle first.
        self._idle: dict[Channel, None] = {}
        #: Network → number of its connections.
        self._strangers_of: Counter[str] = Counter()
        self._workers_of: Counter[str] = Counter()
        #: Number of connections that were closed in favour of others.
        self.driven_out = 0

    def arrive(self, channel: Channel) -> None:
        """Add a new connection. The next `start` serves it, unless it was closed meanwhile."""
        with self._lock:
            if self._is_closed:
                channel.close()
                return
            self._strangers[channel] = None
            self._strangers_of[network(channel.host)] += 1
            if len(self._strangers) <= self._limits.strangers:
                return
            largest = max(self._strangers_of, key=self._strangers_of.__getitem__)
            oldest = next(stranger for stranger in self._strangers if network(stranger.host) == largest)
            thread = self._remove_stranger(oldest)
            self.driven_out += 1
        if thread is None:
            oldest.close()
        else:
            oldest.abort()  # its thread closes it

    def start(self) -> None:
        """Start a thread for each new connection.

        Raises:
            RuntimeError, MemoryError: the system has no more threads; the connections without a thread were closed.
        """
        with self._lock:
            new = [channel for channel, thread in self._strangers.items() if thread is None]
        for number, channel in enumerate(new):
            thread = threading.Thread(target=self._serve, args=(channel,), name="queue-connection", daemon=True)
            with self._lock:
                if channel in self._strangers:
                    self._strangers[channel] = thread
            try:
                thread.start()
            except (RuntimeError, MemoryError):
                for unserved in new[number:]:
                    self.leave(unserved)
                    unserved.close()
                raise

    def welcome(self, channel: Channel) -> str:
        """Make a stranger that has proved the key a worker; return why that is refused, or an empty string."""
        with self._lock:
            if channel not in self._strangers:
                return "closed to accept newer connections"
            victim = self._victim(channel)
            if victim is channel:
                return f"too many busy connections ({len(self._workers)} in total)"
            self._workers[channel] = self._remove_stranger(channel)
            self._workers_of[network(channel.host)] += 1
            if victim is not None:
                self._remove_worker(victim)
                self.driven_out += 1
        if victim is not None:
            victim.abort()
        return ""

    def rest(self, channel: Channel) -> None:
        """Mark a worker's connection as idle: its call is answered."""
        with self._lock:
            if channel in self._workers:
                self._idle[channel] = None

    def work(self, channel: Channel) -> bool:
        """Mark a worker's connection as busy; return False if it was closed a moment ago."""
        with self._lock:
            self._idle.pop(channel, None)
            return channel in self._workers

    def leave(self, channel: Channel) -> None:
        """Remove a connection that has ended."""
        with self._lock:
            if channel in self._strangers:
                self._remove_stranger(channel)
            elif channel in self._workers:
                self._remove_worker(channel)

    def close(self) -> list[threading.Thread]:
        """End all connections and refuse new ones; return the threads that have not ended yet."""
        with self._lock:
            self._is_closed = True
            connections = {**self._strangers, **self._workers}
        for channel in connections:
            channel.abort()
        return [thread for thread in connections.values() if thread is not None]

    def _victim(self, channel: Channel) -> Channel | None:
        """Return the connection to close for a new one: None if there is room, the new one if all others are busy."""

        is_full = len(self._workers) >= self._limits.connections
        if self._workers_of[network(channel.host)] >= self._limits.per_network:
            return next((idle for idle in self._idle if network(idle.host) == network(channel.host)), channel)
        if not is_full:
            return None
        return max(self._idle, key=lambda idle: self._workers_of[network(idle.host)], default=channel)

    def _remove_stranger(self, stranger: Channel) -> threading.Thread | None:
        _decrement(self._strangers_of, network(stranger.host))
        return self._strangers.pop(stranger)

    def _remove_worker(self, worker: Channel) -> None:
        _decrement(self._workers_of, network(worker.host))
        self._idle.pop(worker, None)
        del self._workers[worker]


class WorkerConnections:
    """Registry of the worker that calls over each connection. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: dict[Channel, str] = {}
        self._connections: Counter[str] = Counter()

    def note(self, channel: Channel, worker: str) -> None:
        """Record that a worker has called over a connection."""
        if self._workers.get(channel) == worker:
            return
        with self._lock:
            self._drop(channel)
            self._workers[channel] = worker
            self._connections[worker] += 1

    def leave(self, channel: Channel) -> str:
        """Remove a connection that has ended; return the worker whose last connection it was, or an empty string."""
        with self._lock:
            worker = self._drop(channel)
            return "" if worker in self._connections else worker

    def _drop(self, channel: Channel) -> str:
        worker = self._workers.pop(channel, "")
        if worker:
            _decrement(self._connections, worker)
        return worker


def _decrement(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
