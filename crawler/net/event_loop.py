"""A small event loop: sockets, timers and calls from other threads, all in one thread; and threads for all that blocks.

asyncio would add a task, a future and several callbacks to each step of a download. libcurl needs only what is here.
"""

import heapq
import itertools
import os
import queue
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf

#: Longest wait in seconds; some systems accept no longer ones.
_LONGEST_WAIT = 60.0

#: Most sockets that one loop watches: select() of Windows takes 512, of which the loop itself needs some.
MOST_SOCKETS = 500 if os.name == "nt" else sys.maxsize

Callback = Callable[[], None]


class EventLoop:
    """An event loop that `run` drives. Only `call` and `stop` may be called from other threads.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        #: Clock time of the next call of `on_alarm`; each may be replaced at any time.
        self.alarm_at = inf
        self.on_alarm: Callback = lambda: None
        self._selector = selectors.DefaultSelector()
        self._calls: deque[Callback] = deque()
        self._timers: list[tuple[float, int, Callback]] = []
        self._count = itertools.count()
        self._is_stopped = False
        self._thread_id = 0
        self._wake_reader, self._wake_writer = socket.socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, self._drain)

    def watch(self, fd: int, events: int, callback: Callable[[int, int], None]) -> None:
        """Call ``callback`` with the socket and the events that happened, until `unwatch`."""
        if fd in self._selector.get_map():
            self._selector.modify(fd, events, callback)
        else:
            self._selector.register(fd, events, callback)

    def unwatch(self, fd: int) -> None:
        with suppress(KeyError, ValueError, OSError):  # not watched, or closed already
            self._selector.unregister(fd)

    def call(self, callback: Callback) -> None:
        """Call ``callback`` in the loop's thread, soon. Any thread may call this."""
        self._calls.append(callback)
        if threading.get_ident() != self._thread_id:
            with suppress(OSError):  # full: the loop wakes up anyway; closed: it has ended
                self._wake_writer.send(b"\0")

    def call_at(self, at: float, callback: Callback) -> None:
        """Call ``callback`` at a clock time."""
        heapq.heappush(self._timers, (at, next(self._count), callback))

    def run(self) -> None:
        """Run until `stop` is called. An exception of a callback ends the loop, and is raised."""
        self._thread_id = threading.get_ident()
        while not self._is_stopped:
            self._turn()

    def stop(self) -> None:
        """End `run` after the current callbacks. Any thread may call this."""

        def end() -> None:
            self._is_stopped = True

        self.call(end)

    def close(self) -> None:
        """Release the loop's own descriptors. The caller does this after `run` has ended."""
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _turn(self) -> None:
        soonest = min(self.alarm_at, self._timers[0][0] if self._timers else inf)
        wait = 0.0 if self._calls else min(_LONGEST_WAIT, max(0.0, soonest - self.clock()))
        for key, events in self._selector.select(wait):
            key.data(key.fd, events)
        now = self.clock()
        if self.alarm_at <= now:
            self.alarm_at = inf
            self.on_alarm()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        for _ in range(len(self._calls)):  # those that these calls add wait for the next turn
            self._calls.popleft()()

    def _drain(self, fd: int, events: int) -> None:
        with suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass


class Threads:
    """Threads for calls that take long. One thread uses this object.

    Unlike the threads of `concurrent.futures`, they do not delay the end of the process: a look-up may take half a
    minute, and the user's second Ctrl-C ends the process at once.

    Args:
        count: most threads; each is started when no other one is free.
        name: beginning of their names.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._calls: queue.SimpleQueue[Callback | None] = queue.SimpleQueue()
        self._free = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def submit(self, call: Callback) -> None:
        """Make a call, which raises nothing, in one of the threads."""
        self._calls.put(call)
        if not self._free.acquire(blocking=False) and len(self._threads) < self._count:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self, *, wait: bool) -> None:
        """End the threads: after all calls, and wait for that; or after their present calls, without a wait."""
        if not wait:
            with suppress(queue.Empty):
                while True:
                    self._calls.get_nowait()
        for _ in self._threads:
            self._calls.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            self._free.release()
