"""URLs per second through the frontier on a file: ``python -m tests.benchmarks.bench_frontier [--profile]``.

One thread, no network, no gap: the benchmark measures the ledger and the schedule. CPU time is that of the whole
process, so it includes the creation of the outcomes.
"""

import cProfile
import pstats
import sys
import tempfile
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Lease, Outcome, Request, describe

URLS = 200_000
HOSTS = 1_000
BATCHES = (100, 1_000)

#: No gap, so that only the disk and the processor limit the rate; a turn of one host may fill a whole batch.
POLICY = Policy(robots=False, delay=0.0, per_host=1)


def requests() -> list[Request]:
    """Return image requests in the order of a harvester: those of one page, then those of the next host."""
    return [
        Request(
            url=f"http://www{n // 50 % HOSTS}.example/pictures/2024/some-gallery/picture-{n:08d}.jpg?width=1200",
            kind="image",
            depth=1,
            referrer=f"http://www{n // 50 % HOSTS}.example/gallery/{n // 50}.html",
            source="img",
            alt="A picture of something, in a few words",
        )
        for n in range(URLS)
    ]


def outcome(lease: Lease) -> Outcome:
    """Return the outcome of a saved picture, with different bytes for each URL."""
    request = lease.request
    digest = blake2b(request.url.encode(), digest_size=32).hexdigest()
    path = f"images/{digest[:2]}/{digest}.jpg"
    found = {"store": "51" * 8, "path": path, "sha256": digest, "bytes": 100_000, "http_status": 200}
    record = describe(request, status="success", **found)
    return Outcome(status="done", token=lease.token, record=record, latency=0.05, received=100_000)


def put(frontier: SqliteFrontier, found: Sequence[Request], batch: int) -> None:
    for start in range(0, len(found), batch):
        frontier.put(found[start : start + batch])


def work_off(frontier: SqliteFrontier, batch: int) -> int:
    """Lease and complete until nothing is left; return the number of URLs."""
    total = 0
    while turns := frontier.lease("bench", ["image"], batch, 120.0, 0.0).turns:
        leases = [lease for turn in turns for lease in turn.leases]
        frontier.complete("bench", [outcome(lease) for lease in leases], [turn.id for turn in turns])
        total += len(leases)
    return total


def report(label: str, number: int, since: tuple[float, float]) -> None:
    elapsed, cpu = time.perf_counter() - since[0], time.process_time() - since[1]
    sys.stdout.write(f"{label:<28} {number / elapsed:>9,.0f} URLs/s  {cpu / number * 1e6:6.1f} us CPU/URL\n")


def measure(path: Path, batch: int, found: Sequence[Request]) -> None:
    frontier = SqliteFrontier(path, POLICY)
    begin = time.perf_counter(), time.process_time()
    put(frontier, found, batch)
    report(f"put, batches of {batch:,}", len(found), begin)
    frontier.close()
    since = time.perf_counter()
    frontier = SqliteFrontier(path, POLICY)
    sys.stdout.write(f"reopened with {len(found):,} waiting in {time.perf_counter() - since:.2f} s\n")
    middle = time.perf_counter(), time.process_time()
    total = work_off(frontier, batch)
    report(f"lease + complete, {batch:,}", total, middle)
    report(f"all of it, {batch:,}", total, begin)
    frontier.close()


def peak_memory() -> str:
    """Return the peak memory of this process, where the system reports it."""
    try:
        import resource
    except ImportError:
        return "unknown"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB"


def main() -> None:
    """Measure each batch size on a fresh file."""
    found = requests()
    sys.stdout.write(f"{URLS:,} URLs of {HOSTS:,} hosts; memory with the URLs alone: {peak_memory()}\n")
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    with tempfile.TemporaryDirectory() as folder:
        for batch in BATCHES:
            if profile:
                profile.enable()
            measure(Path(folder) / f"{batch}.sqlite", batch, found)
            if profile:
                profile.disable()
    sys.stdout.write(f"most memory: {peak_memory()}\n")
    if profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
