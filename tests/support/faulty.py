"""A faulty network between two ends on loopback: it holds data back, delays it, loses it, or cuts connections."""

import select
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

#: Seconds between two checks whether the network works again.
_LOOK = 0.05


class Cable:
    """A TCP relay to ``target``; neither end is informed about data that is held back.

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
        #: Connections that are never served again, as after a change of address.
        self._forgotten: set[socket.socket] = set()
        #: Delay of all data, seconds.
        self._late = 0.0
        #: Bytes that still pass before every connection is cut; None: no limit.
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
        """Hold all data back from now on, without closing connections."""
        self._is_dead.set()

    def slow(self, seconds: float) -> None:
        """Delay all data from now on by this number of seconds."""
        self._late = seconds

    def deafen(self) -> None:
        """Be half-open from now on: the target receives everything; each response is lost with its connection."""
        self._is_deaf.set()

    def cut_after(self, number: int) -> None:
        """Close every connection after this number of further bytes, in both directions together."""
        with self._lock:
            self._left = number

    def mend(self) -> None:
        """Deliver everything from now on, starting with the data held back."""
        self._is_dead.clear()
        self._is_deaf.clear()
        self._late = 0.0

    def forget(self) -> None:
        """Ignore the present connections for ever, without closing them; new ones work."""
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
        is_torn = False  # a response was lost, so nothing after it may arrive either
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
        """Return the part of the data that still passes, and whether it is the last."""
        with self._lock:
            if self._left is None or self._left > len(data):
                self._left = None if self._left is None else self._left - len(data)
                return data, False
            data, self._left = data[: self._left], None
            return data, True
