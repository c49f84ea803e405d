"""A master in a process of its own, so that memory, threads and files can be measured: a frontier, and its port."""

import logging
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from msgspec import Struct

from crawler.frontier.base import PROTOCOL
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Request
from crawler.queue.client import RemoteFrontier
from crawler.queue.join_file import JoinFile, new_key, read_join, write_join
from crawler.queue.manager import QueueManager
from crawler.queue.tls import ensure_certificate
from crawler.queue.wire import format_address

#: Seconds between two calls of a worker.
OFTEN = 0.1
#: Pictures that wait in its frontier.
PICTURES = 500


class Vitals(Struct, frozen=True, kw_only=True):
    """Measurements of a process."""

    #: Seconds of processor time since its start, and the time of the measurement.
    cpu: float
    at: float
    threads: int
    #: Bytes of memory that are its own now, and descriptors; 0 if there is no /proc.
    memory: int
    files: int
    #: Exceptions that ended threads, and errors in the log.
    faults: list[str]

    def load(self, before: "Vitals") -> float:
        """Return the part of one core that it has used since then."""
        return (self.cpu - before.cpu) / (self.at - before.at)


class Master:
    """The handle of a running master, for measurements."""

    def __init__(self, join: Path, pipe: Connection) -> None:
        self.path = join
        self.join = read_join(join)
        self._pipe = pipe

    def vitals(self) -> Vitals:
        self._pipe.send(None)
        assert self._pipe.poll(30), "the master sends no measurements"
        vitals = self._pipe.recv()
        assert isinstance(vitals, Vitals)
        return vitals


@contextmanager
def master(folder: Path, *, files: int | None = None, tls: bool = False) -> Iterator[Master]:
    """Run a master until the end of the block.

    Args:
        folder: for its database and its join file.
        files: the limit of its descriptors.
        tls: whether it speaks TLS.
    """
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(folder, files, tls, there), daemon=True)
    process.start()
    try:
        assert here.poll(60) and here.recv() == "ready"
        yield Master(folder / "join", here)
    finally:
        process.terminate()
        process.join()


@contextmanager
def at_work(join: JoinFile, waits: list[float], *, anew: bool = False) -> Iterator[None]:
    """Run a worker that calls repeatedly until the end of the block, with ``anew`` each time on a new connection."""
    over = threading.Event()

    def work() -> None:
        remote = RemoteFrontier(join, wait=30.0)
        while not over.wait(1.0 if anew else OFTEN):
            begin = time.monotonic()
            try:
                if anew:
                    remote.close()
                    remote = RemoteFrontier(join, wait=30.0)
                remote.hello("worker", PROTOCOL)
                waits.append(time.monotonic() - begin)
            except Exception:
                waits.append(math.inf)
                raise
        remote.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def _serve(folder: Path, files: int | None, tls: bool, pipe: Connection) -> None:
    faults: list[str] = []
    threading.excepthook = lambda what: faults.append(f"{what.thread}: {what.exc_value!r}")
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: faults.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    if files is not None:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    frontier = SqliteFrontier(folder / "frontier.sqlite", Policy(delay=0.0, per_host=16, robots=False))
    frontier.put([Request(url=f"http://a.example/{n}.jpg", kind="image") for n in range(PICTURES)])
    certificate = ensure_certificate(folder) if tls else None
    join = JoinFile(crawl="test", addresses=(), key=new_key(), cert=certificate.pem if certificate else "")
    server = QueueManager(authkey=join.authkey, frontier=frontier).get_server(tls=certificate)
    address = format_address(server.start())
    write_join(folder / "join", JoinFile(crawl="test", addresses=(address,), key=join.key, cert=join.cert))
    pipe.send("ready")
    while True:
        pipe.recv()
        pipe.send(_vitals(faults))


def _vitals(faults: list[str]) -> Vitals:
    status = Path("/proc/self/statm")
    memory = int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0
    files = len(list(Path("/proc/self/fd").iterdir())) if status.exists() else 0
    return Vitals(
        cpu=time.process_time(),
        at=time.monotonic(),
        threads=threading.active_count(),
        memory=memory,
        files=files,
        faults=list(faults),
    )
