"""Who is connected to the managed queue, and who has to go when there are too many.

Room is scarce in two places that do not touch each other: strangers, who have not proved to know the key, can't take
the place of a worker. In both, whoever comes last is let in, and one of the network that takes up most has to go:
among strangers the oldest, among workers the one that has been idle for longest, whose client connects again by itself
when it has something to say. A worker in mid-call never has to go.
"""

import ipaddress
import os
import threading
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct, structs

from crawler.engines.wire import HANDSHAKE_SECONDS, Channel

#: Most descriptors that are kept for everything else: the database, the log, sites, images.
_OTHER_FILES = 128


class Limits(Struct, frozen=True, kw_only=True):
    """What peers may take up."""

    #: Seconds for the whole handshake.
    handshake: float = HANDSHAKE_SECONDS
    #: Seconds for one message, once it has begun. Between messages a worker may be silent.
    message: float = 30.0
    #: Connections that have not proved the key.
    strangers: int = 64
    #: Connections that have, and how many of them may come from one network, behind whose address there may be many
    #: boxes. A downloader has three or four.
    connections: int = 960
    per_network: int = 720

    def within(self, descriptors: float) -> "Limits":
        """These limits, or what is left of them in a process that may open so many files."""
        room = int(min(descriptors - min(_OTHER_FILES, descriptors / 2), self.strangers + self.connections))
        strangers = min(self.strangers, max(1, room // 4))
        connections = min(self.connections, max(1, room - strangers))
        return structs.replace(
            self, strangers=strangers, connections=connections, per_network=min(self.per_network, connections)
        )


def descriptors() -> float:
    """How many files this process may open; infinite where the platform sets no bound that matters."""
    if os.name != "posix":
        return float("inf")
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return float("inf") if soft == resource.RLIM_INFINITY else float(soft)


@lru_cache(maxsize=4_096)
def network(host: str) -> str:
    """What one party can have as many addresses of as it likes: an IPv4 address, or 64 bits of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) & -(1 << 64), 64)))


class Guests:
    """Every open connection, with the thread that serves it; from any thread.

    Args:
        limits: how many there may be.
        serve: what the thread of a connection runs.
    """

    def __init__(self, limits: Limits, serve: Callable[[Channel], None]) -> None:
        self._limits = limits
        self._serve = serve
        self._lock = threading.Lock()
        self._is_closed = False
        #: In the order of their coming; None: its thread was not started yet.
        self._strangers: dict[Channel, threading.Thread | None] = {}
        self._workers: dict[Channel, threading.Thread | None] = {}
        #: Workers between two calls, whoever has been so for longest first.
        self._idle: dict[Channel, None] = {}
        #: Network → how many of each are from there.
        self._crowds: Counter[str] = Counter()
        self._of: Counter[str] = Counter()
        #: How many had to go.
        self.driven_out = 0

    def arrive(self, channel: Channel) -> None:
        """Somebody has connected; served from the next `start` on, if he is still there."""
        with self._lock:
            if self._is_closed:
                channel.close()
                return
            self._strangers[channel] = None
            self._crowds[network(channel.host)] += 1
            if len(self._strangers) <= self._limits.strangers:
                return
            crowd = max(self._crowds, key=self._crowds.__getitem__)
            oldest = next(each for each in self._strangers if network(each.host) == crowd)
            thread = self._dismiss(oldest)
            self.driven_out += 1
        if thread is None:
            oldest.close()
        else:
            oldest.abort()  # its thread closes it

    def start(self) -> None:
        """Give those who have come a thread each.

        Raises:
            RuntimeError, MemoryError: the system has none; they are gone.
        """
        with self._lock:
            fresh = [channel for channel, thread in self._strangers.items() if thread is None]
        for number, channel in enumerate(fresh):
            thread = threading.Thread(target=self._serve, args=(channel,), name="queue-connection", daemon=True)
            with self._lock:
                if channel in self._strangers:
                    self._strangers[channel] = thread
            try:
                thread.start()
            except (RuntimeError, MemoryError):
                for unlucky in fresh[number:]:
                    self.leave(unlucky)
                    unlucky.close()
                raise

    def welcome(self, channel: Channel) -> str:
        """A stranger has proved to know the key. Returns why it can't stay all the same, empty: it can."""
        with self._lock:
            if channel not in self._strangers:
                return "driven out by others that came later"
            victim = self._victim(channel)
            if victim is channel:
                return f"all of {len(self._workers)} connections are at work"
            self._workers[channel] = self._dismiss(channel)
            self._of[network(channel.host)] += 1
            if victim is not None:
                self._forget(victim)
                self.driven_out += 1
        if victim is not None:
            victim.abort()
        return ""

    def rest(self, channel: Channel) -> None:
        """A worker's call is answered."""
        with self._lock:
            if channel in self._workers:
                self._idle[channel] = None

    def work(self, channel: Channel) -> bool:
        """A worker calls; False: it had to go a moment ago."""
        with self._lock:
            self._idle.pop(channel, None)
            return channel in self._workers

    def leave(self, channel: Channel) -> None:
        """A connection has ended."""
        with self._lock:
            if channel in self._strangers:
                self._dismiss(channel)
            elif channel in self._workers:
                self._forget(channel)

    def close(self) -> list[threading.Thread]:
        """End all connections, and let nobody in any more; returns the threads that still have to notice."""
        with self._lock:
            self._is_closed = True
            everybody = {**self._strangers, **self._workers}
        for channel in everybody:
            channel.abort()
        return [thread for thread in everybody.values() if thread is not None]

    def _victim(self, channel: Channel) -> Channel | None:
        """Who has to go for a new worker: None: nobody; the new one itself, where all the others are at work."""
        is_full = len(self._workers) >= self._limits.connections
        if self._of[network(channel.host)] >= self._limits.per_network:
            return next((each for each in self._idle if network(each.host) == network(channel.host)), channel)
        return max(self._idle, key=lambda each: self._of[network(each.host)], default=channel) if is_full else None

    def _dismiss(self, stranger: Channel) -> threading.Thread | None:
        _count_out(self._crowds, network(stranger.host))
        return self._strangers.pop(stranger)

    def _forget(self, worker: Channel) -> None:
        _count_out(self._of, network(worker.host))
        self._idle.pop(worker, None)
        del self._workers[worker]


def _count_out(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
