"""Somebody between worker and master who passes on what he hears, and keeps what he can read of it."""

import select
import socket
import ssl
import threading
from types import TracebackType
from typing import Self

from crawler.engines.wire import Address


class Relay:
    """Passes on one connection.

    Args:
        master: where to.
        posing: TLS that he offers to the worker as if he were the master; None: he passes on what comes.
        joining: TLS that he speaks to the master as if he were the worker; None: likewise. With it he waits for the
            master's first word before he turns to the worker.
    """

    def __init__(
        self, master: Address, *, posing: ssl.SSLContext | None = None, joining: ssl.SSLContext | None = None
    ) -> None:
        self._master, self._posing, self._joining = master, posing, joining
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(5)
        self.address: Address = self._socket.getsockname()
        #: All that he could read.
        self.from_master = self.from_worker = b""
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        master = socket.create_connection(self._master, timeout=5)
        if self._joining is not None:
            master = self._joining.wrap_socket(master)
            self.from_master = master.recv(4096)
        worker, _ = self._socket.accept()
        worker.settimeout(5)
        with master:
            try:
                if self._posing is not None:
                    worker = self._posing.wrap_socket(worker, server_side=True)
                worker.sendall(self.from_master)
                self._pass_on(master, worker)
            except OSError:  # one of them has had enough
                pass
            finally:
                worker.close()

    def _pass_on(self, master: socket.socket, worker: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([master, worker], [], [], 5)
            if worker in ready:
                heard = worker.recv(65_536)
                self.from_worker += heard
                master.sendall(heard)
            else:
                heard = master.recv(65_536)
                self.from_master += heard
                worker.sendall(heard)
            if not heard:
                return


class Injector(Relay):
    """Passes everything on until it is time, and then says ``words`` to the master as if the worker had."""

    def __init__(self, master: Address, words: bytes) -> None:
        super().__init__(master)
        self._words = words
        self.is_time = threading.Event()
        #: What the master answered to that.
        self.answer = b""

    def _pass_on(self, master: socket.socket, worker: socket.socket) -> None:
        pairs = {master: worker, worker: master}
        while not self.is_time.is_set():
            for source in select.select([master, worker], [], [], 0.02)[0]:
                pairs[source].sendall(source.recv(65_536))
        master.sendall(self._words)
        master.shutdown(socket.SHUT_WR)
        self.answer = b"".join(iter(lambda: master.recv(65_536), b""))
