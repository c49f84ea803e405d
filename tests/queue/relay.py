"""A relay between worker and master that passes data on and keeps the part that it can read."""

import select
import socket
import ssl
import threading
from types import TracebackType
from typing import Self

from crawler.queue.wire import Address


class Relay:
    """Passes on one connection.

    Args:
        master: the address to connect to.
        posing: TLS that it offers to the worker as if it were the master; None: it passes the bytes on.
        at: the address to listen at.
        joining: TLS that it speaks to the master as if it were the worker; None: it passes the bytes on. With it
            the relay waits for the master's first message before it accepts the worker.
    """

    def __init__(
        self,
        master: Address,
        *,
        posing: ssl.SSLContext | None = None,
        joining: ssl.SSLContext | None = None,
        at: Address = ("127.0.0.1", 0),
    ) -> None:
        self._master, self._posing, self._joining = master, posing, joining
        self._socket = socket.create_server(at)
        self._socket.settimeout(5)
        self.address: Address = self._socket.getsockname()
        #: All data that it could read.
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
            except OSError:  # one of the two has closed its end
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
    """Passes everything on for a while, and then sends ``words`` to the master as if the worker had sent them."""

    def __init__(self, master: Address, words: bytes) -> None:
        super().__init__(master)
        self._words = words
        self.is_time = threading.Event()
        #: The master's response to that.
        self.answer = b""

    def _pass_on(self, master: socket.socket, worker: socket.socket) -> None:
        pairs = {master: worker, worker: master}
        while not self.is_time.is_set():
            for source in select.select([master, worker], [], [], 0.02)[0]:
                pairs[source].sendall(source.recv(65_536))
        master.sendall(self._words)
        master.shutdown(socket.SHUT_WR)
        self.answer = b"".join(iter(lambda: master.recv(65_536), b""))
