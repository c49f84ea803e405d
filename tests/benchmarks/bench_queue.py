"""URLs per second through the whole managed queue: ``python -m tests.benchmarks.bench_queue [--pending N] [--tls]``.

This process is the master: a frontier on a file, with a million requests waiting on 10,000 hosts, no gap, behind its
server. Workers are processes. Each outcome brings one new request, so every URL counted was put, leased and completed
through the manager, and the number of waiting requests stays the same. With ``--tls`` each round runs without TLS and
then with it, so that other load on the machine affects both.
"""

import argparse
import multiprocessing
import multiprocessing.synchronize
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path

from msgspec import Struct, structs

from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Lease, Outcome, Request
from crawler.queue.client import RemoteFrontier
from crawler.queue.join_file import JoinFile, new_key, read_join, write_join
from crawler.queue.manager import QueueManager
from crawler.queue.tls import Certificate, ensure_certificate
from crawler.queue.wire import format_address
from tests.benchmarks.bench_frontier import POLICY, outcome, peak_memory

#: Requests of one put while the crawl is filled, and how often a waiting worker is woken.
PUT_BATCH, WAKES = 1_000, 100


class Load(Struct, frozen=True, kw_only=True):
    """The load that a measurement applies."""

    pending: int
    hosts: int
    workers: int
    batch: int
    seconds: float
    rounds: int
    tls: bool


def request(n: int, hosts: int, maker: str = "m") -> Request:
    """Return an image request as a harvester finds it: those of one page, then those of the next host."""
    host = f"http://www{n // 50 % hosts}.example"
    return Request(
        url=f"{host}/pictures/2024/some-gallery/{maker}-{n:08d}.jpg?width=1200",
        kind="image",
        depth=1,
        referrer=f"{host}/gallery/{n // 50}.html",
        source="img",
        alt="A picture of something, in a few words",
    )


def settled(lease: Lease, new: Request) -> Outcome:
    return structs.replace(outcome(lease), discovered=(new,))


def work(path: Path, name: str, load: Load, gate: "multiprocessing.synchronize.Barrier", done: Connection) -> None:
    """Run one worker until the time is up: lease and complete, with a new request for each; report their number."""
    frontier = RemoteFrontier(read_join(path))
    number = settled_here = random.randrange(10**9)  # noqa: S311  # so that no round finds the requests of another
    gate.wait(60)
    end = time.perf_counter() + load.seconds
    while time.perf_counter() < end:
        turns = frontier.lease(name, ["image"], load.batch, 120.0, 5.0).turns
        outcomes = []
        for lease in (lease for turn in turns for lease in turn.leases):
            outcomes.append(settled(lease, request(number, load.hosts, name)))
            number += 1
        frontier.complete(name, outcomes, [turn.id for turn in turns])
    done.send(number - settled_here)
    frontier.close()


def wait_for_work(path: Path, name: str, woken: Connection) -> None:
    """Run one worker that has nothing to do: report when each request reached it, until the master ends it."""
    frontier = RemoteFrontier(read_join(path))
    woken.send(0.0)
    while True:
        turns = frontier.lease(name, ["image"], 1, 120.0, 20.0).turns
        if turns:
            woken.send(time.time())
            outcomes = [outcome(lease) for turn in turns for lease in turn.leases]
            frontier.complete(name, outcomes, [turn.id for turn in turns])


@contextmanager
def served(frontier: SqliteFrontier, folder: Path, tls: Certificate | None = None) -> Iterator[Path]:
    """Yield the path of the join file of a server that ends with the block."""
    join = JoinFile(crawl="bench", addresses=(), key=new_key(), cert=tls.pem if tls else "")
    server = QueueManager(authkey=join.authkey, frontier=frontier).get_server(tls=tls)
    address = format_address(server.start())
    write_join(path := folder / "join", structs.replace(join, addresses=(address,)))
    try:
        yield path
    finally:
        server.stop()


def fill(frontier: SqliteFrontier, load: Load) -> float:
    """Return the requests per second that the master puts itself."""
    elapsed = 0.0
    for start in range(0, load.pending, PUT_BATCH):
        found = [request(n, load.hosts) for n in range(start, min(start + PUT_BATCH, load.pending))]
        begin = time.perf_counter()
        frontier.put(found)
        elapsed += time.perf_counter() - begin
    return load.pending / elapsed


def measure(
    context: SpawnContext, frontier: SqliteFrontier, folder: Path, load: Load, tls: Certificate | None
) -> tuple[float, float]:
    """Return the URLs per second, and the microseconds of the master's CPU for each."""
    gate = context.Barrier(load.workers + 1)
    pipes = [context.Pipe(duplex=False) for _ in range(load.workers)]
    with served(frontier, folder, tls) as path:
        processes = [
            context.Process(target=work, args=(path, f"node{n}", load, gate, done)) for n, (_, done) in enumerate(pipes)
        ]
        for process, (_, done) in zip(processes, pipes, strict=True):
            process.start()
            done.close()  # so that a failed worker does not cause an endless wait
        gate.wait(60)
        begin, cpu = time.perf_counter(), time.process_time()
        total = sum(results.recv() for results, _ in pipes)
        elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
        for process in processes:
            process.join()
    return total / elapsed, cpu / total * 1e6


def wake(context: SpawnContext, folder: Path, load: Load) -> float:
    """Return the median milliseconds from a `put` of one request to its arrival at one of the waiting workers."""
    frontier = SqliteFrontier(folder / "wake.sqlite", POLICY)
    frontier.put([request(0, 1)])
    frontier.lease("holder", ["image"], 1, 3_600.0, 0.0)  # a leased page may bring more work, so the others wait
    results, woken = context.Pipe(duplex=False)
    delays: list[float] = []
    with served(frontier, folder) as path:
        names = [f"node{n}" for n in range(load.workers)]
        processes = [context.Process(target=wait_for_work, args=(path, name, woken)) for name in names]
        for process in processes:
            process.start()
            results.recv()
        for n in range(WAKES):
            time.sleep(0.02)  # all of them wait again
            begin = time.time()
            frontier.put([request(50 * (n + 1), WAKES + 1, "wake")])  # not at the host of the leased request
            delays.append(results.recv() - begin)
        for process in processes:
            process.terminate()
            process.join()
    frontier.close()
    return statistics.median(delays) * 1_000


def say(label: str, figures: str) -> None:
    sys.stdout.write(f"{label:<28} {figures}\n")
    sys.stdout.flush()


def arguments() -> Load:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"pending": 1_000_000, "hosts": 10_000, "workers": 4, "batch": 100, "seconds": 10.0, "rounds": 3}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--tls", action="store_true")
    return Load(**vars(parser.parse_args()))


def main() -> None:
    """Fill, close, reopen, work and wait."""
    load, context = arguments(), multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate = ensure_certificate(folder)
        frontier = SqliteFrontier(path := folder / "bench.sqlite", POLICY)
        say("put by the master", f"{fill(frontier, load):>9,.0f} URLs/s")
        frontier.close()
        begin = time.perf_counter()
        frontier = SqliteFrontier(path, POLICY)
        frontier.lease("first", ["image"], 1, 0.0, 0.0)
        say("first lease after a restart", f"{time.perf_counter() - begin:>9.2f} s, {load.pending:,} pending")
        for _ in range(load.rounds):
            for tls in (None, certificate) if load.tls else (None,):
                rate, cpu = measure(context, frontier, folder, load, tls)
                label = f"{load.workers} workers, {load.batch} a call"
                say(label, f"{rate:>9,.0f} URLs/s {cpu:6.1f} us CPU/URL {'with TLS' if tls else ''}")
        say("most memory of the master", f"{peak_memory():>9}")
        say("a waiting worker has work", f"{wake(context, folder, load):>9.1f} ms, median of {WAKES}")
        frontier.close()


if __name__ == "__main__":
    main()
