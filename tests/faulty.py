"""A network that misbehaves between two ends on loopback: holds everything back, dawdles, loses, cuts."""

import select
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

#: Seconds between two looks whether the network works again.
_LOOK = 0.05


class Cable:
    """A TCP relay to ``target``; what it holds back is lost on nobody, it only never arrives meanwhile.

    ``address`` is where to connect instead of the target.
    """

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1") -> None:
        self._target = target
        self._listener = socket.create_server((host, 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._is_dead = threading.Event()
        self._is_deaf = threading.Event()
        self._over = threading.Event()
        self._ends: set[socket.socket] = set()
        #: Connections that are never served again, as when an address has changed.
        self._forgotten: set[socket.socket] = set()
        #: Seconds by which everything is late.
        self._late = 0.0
        #: Bytes that still pass before every connection is cut; None: no end to them.
        self._left: int | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._listener.close()
        self.cut()

    def hold(self) -> None:
        """From now on nothing arrives, and nobody hears that it does not."""
        self._is_dead.set()

    def slow(self, seconds: float) -> None:
        """From now on everything arrives so much later."""
        self._late = seconds

    def deafen(self) -> None:
        """Half-open from now on: the target hears everything, and each of its answers is lost with its connection."""
        self._is_deaf.set()

    def cut_after(self, number: int) -> None:
        """Close every connection once so many bytes more have passed, in whatever direction."""
        with self._lock:
            self._left = number

    def mend(self) -> None:
        """From now on everything arrives, what was held back first."""
        self._is_dead.clear()
        self._is_deaf.clear()
        self._late = 0.0

    def forget(self) -> None:
        """Connections of before are dead for ever, without a word; new ones work."""
        with self._lock:
            self._forgotten |= self._ends
        self.mend()

    def cut(self) -> None:
        """Close every connection."""
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(self._target, 5) as far:
            with self._lock:
                self._ends |= {near, far}
            try:
                self._pass_on(near, far)
            finally:
                with self._lock:
                    self._ends -= {near, far}
                    self._forgotten -= {near, far}

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        is_torn = False  # an answer was lost: what comes after it can't arrive either
        while not self._over.is_set():
            if self._is_dead.is_set() or near in self._forgotten:
                self._over.wait(_LOOK)
                continue
            for end in select.select([near, far], [], [], _LOOK)[0]:
                data = end.recv(65_536)
                if not data:
                    return
                self._over.wait(self._late)
                if end is far and (is_torn or self._is_deaf.is_set()):
                    is_torn = True
                    continue
                data, is_last = self._rest(data)
                (far if end is near else near).sendall(data)
                if is_last:
                    self.cut()
                    return

    def _rest(self, data: bytes) -> tuple[bytes, bool]:
        """What of the data still passes, and whether it is the last that does."""
        with self._lock:
            if self._left is None or self._left > len(data):
                self._left = None if self._left is None else self._left - len(data)
                return data, False
            data, self._left = data[: self._left], None
            return data, True
