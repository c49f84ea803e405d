"""Items per second over the managed queue, leased and completed: ``python -m tests.benchmarks.bench_wire``.

Workers are processes, as in life; the frontier is the tests' fake, so that only the wire is measured.
"""

import multiprocessing
import sys
import tempfile
import time
from multiprocessing.context import SpawnContext
from pathlib import Path

from crawler.engines.client import RemoteFrontier
from crawler.engines.join import JoinFile, new_key, read_join, write_join
from crawler.engines.manager import QueueManager
from crawler.engines.wire import format_address
from crawler.model import Outcome, describe
from tests.engines.fake_frontier import FakeFrontier

#: Calls for as many items as each worker handles, per batch size.
ITEMS = {1: 10_000, 100: 200_000, 1_000: 400_000}


def work(path: Path, batch: int, items: int, gate: "multiprocessing.synchronize.Barrier") -> None:
    """One worker: lease, complete with a record for each, until it has had its items."""
    frontier = RemoteFrontier(read_join(path))
    frontier.stats()
    gate.wait()
    for _ in range(items // batch):
        grant = frontier.lease("bench", ["image"], batch, 120.0, 5.0)
        turn = grant.turns[0]
        done = [
            Outcome(status="done", token=lease.token, record=describe(lease.request, status="success", sha256="0" * 64))
            for lease in turn.leases
        ]
        frontier.complete("bench", done, [turn.id])
    gate.wait()
    frontier.close()


def measure(context: SpawnContext, folder: Path, workers: int, batch: int) -> tuple[float, float]:
    """Items per second, and CPU seconds of the master per item."""
    items = ITEMS[batch]
    urls = [f"http://static.a.test/pictures/2024/06/some-gallery/picture-{n:08d}.jpg?width=1200" for n in range(items)]
    join = JoinFile(crawl="bench", addresses=(), key=new_key())
    server = QueueManager(authkey=join.authkey, frontier=FakeFrontier(urls)).get_server()
    address = format_address(server.start())
    write_join(path := folder / "join", JoinFile(crawl="bench", addresses=(address,), key=join.key))
    gate = context.Barrier(workers + 1)
    share = items // workers // batch * batch
    processes = [context.Process(target=work, args=(path, batch, share, gate)) for _ in range(workers)]
    for process in processes:
        process.start()
    gate.wait()
    begin, cpu = time.perf_counter(), time.process_time()
    gate.wait()
    elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
    for process in processes:
        process.join()
    server.stop()
    return share * workers / elapsed, cpu / (share * workers)


def main() -> None:
    """Measure 1 and 4 workers with each batch size."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 4):
            for batch in ITEMS:
                rate, cpu = measure(context, Path(folder), workers, batch)
                line = (
                    f"{workers} workers, batches of {batch:>5,}: {rate:>9,.0f} items/s, {cpu * 1e6:6.1f} us CPU/item\n"
                )
                sys.stdout.write(line)


if __name__ == "__main__":
    main()
