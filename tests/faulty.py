"""A network that misbehaves between two ends on loopback: passes on, holds everything back, cuts every connection."""

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
        self._over = threading.Event()
        self._ends: set[socket.socket] = set()
        #: Connections that are never served again, as when an address has changed.
        self._forgotten: set[socket.socket] = set()
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

    def mend(self) -> None:
        """From now on everything arrives, what was held back first."""
        self._is_dead.clear()

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
            self._pass_on(near, far)
            with self._lock:
                self._ends -= {near, far}

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        while not self._over.is_set():
            if self._is_dead.is_set() or near in self._forgotten:
                self._over.wait(_LOOK)
                continue
            for end in select.select([near, far], [], [], _LOOK)[0]:
                data = end.recv(65_536)
                if not data:
                    return
                (far if end is near else near).sendall(data)
