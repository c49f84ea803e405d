"""Items per second over the managed queue, leased and completed: ``python -m tests.benchmarks.bench_wire [--tls]``.

Workers are processes, as in production. The frontier is the fake of the tests, so that only the wire is measured. With
``--tls`` each measurement is made in turn without TLS and with it, several times, and the medians are compared.
"""

import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.context import SpawnContext
from pathlib import Path

from crawler.model import Outcome, describe
from crawler.queue.client import RemoteFrontier
from crawler.queue.join_file import JoinFile, new_key, read_join, write_join
from crawler.queue.manager import QueueManager
from crawler.queue.tls import Certificate, ensure_certificate
from crawler.queue.wire import format_address
from tests.queue.fake_frontier import FakeFrontier

#: Calls for as many items as each worker handles, per batch size.
ITEMS = {1: 10_000, 100: 200_000, 1_000: 400_000}
#: Rounds of a comparison.
ROUNDS = 5


def work(path: Path, batch: int, items: int, gate: "multiprocessing.synchronize.Barrier") -> None:
    """Run one worker: lease and complete, with a record for each, until it has had its items."""
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


def measure(
    context: SpawnContext, folder: Path, workers: int, batch: int, *, tls: Certificate | None = None
) -> tuple[float, float]:
    """Return items per second, and CPU seconds of the master per item."""
    items = ITEMS[batch]
    urls = [f"http://static.a.test/pictures/2024/06/some-gallery/picture-{n:08d}.jpg?width=1200" for n in range(items)]
    join = JoinFile(crawl="bench", addresses=(), key=new_key())
    server = QueueManager(authkey=join.authkey, frontier=FakeFrontier(urls)).get_server(tls=tls)
    address = format_address(server.start())
    cert = tls.pem if tls else ""
    write_join(path := folder / "join", JoinFile(crawl="bench", addresses=(address,), key=join.key, cert=cert))
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


def compare(context: SpawnContext, folder: Path, workers: int, batch: int) -> str:
    """Return the medians without and with TLS, measured in turn, so that other load on the machine affects both."""
    certificate = ensure_certificate(folder)
    plain, secure = [], []
    for _ in range(ROUNDS):
        plain.append(measure(context, folder, workers, batch)[0])
        secure.append(measure(context, folder, workers, batch, tls=certificate)[0])
    without, with_tls = statistics.median(plain), statistics.median(secure)
    return f"{without:>9,.0f} items/s, {with_tls:>9,.0f} with TLS: {with_tls / without:.2f}"


def main() -> None:
    """Measure 1 and 4 workers with each batch size."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 4):
            for batch in ITEMS:
                if "--tls" in sys.argv:
                    figures = compare(context, Path(folder), workers, batch)
                else:
                    rate, cpu = measure(context, Path(folder), workers, batch)
                    figures = f"{rate:>9,.0f} items/s, {cpu * 1e6:6.1f} us CPU/item"
                sys.stdout.write(f"{workers} workers, batches of {batch:>5,}: {figures}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
