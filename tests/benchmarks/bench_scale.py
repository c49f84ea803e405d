"""Cost of one call of the frontier in a large crawl: ``python -m tests.benchmarks.bench_scale [PART ...]``.

Every part measures CPU time of this process, without workers and without a network. Parts: stats, lease, forged, turns,
list, restart. Without a part, all of them run, each in its own process, so that the memory of one does not count for
another.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import structs

from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.harvest.url_lists.list_handler import ListHandler
from crawler.model import Lease, Outcome, Request, RobotsRules
from tests.benchmarks.bench_frontier import outcome

HOSTS = 30_000
FREE = Policy(robots=False, delay=0.0, per_host=1)
RULED = Policy(delay=0.0, per_host=1)
PACED = Policy(delay=1.0)
#: Bytes of the robots.txt of each host, a common size.
ROBOTS = RobotsRules(text="User-agent: *\n" + "Disallow: /private/some-folder/\n" * 60, crawl_delay=None)


def image(number: int, hosts: int = HOSTS) -> Request:
    host = f"http://www{number % hosts}.example"
    return Request(url=f"{host}/pictures/2024/picture-{number:08d}.jpg", kind="image", source="list", alt="A picture")


def memory() -> float:
    """Return the MiB that this process uses now, or its peak where the system reports no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return pages * 4096 / 2**20


def say(label: str, figures: str) -> None:
    sys.stdout.write(f"{label:<52} {figures}\n")
    sys.stdout.flush()


def timed(call: Callable[[], object], rounds: int = 1) -> float:
    """Return the milliseconds of CPU of one call."""
    begin = time.process_time()
    for _ in range(rounds):
        call()
    return (time.process_time() - begin) / rounds * 1_000


@contextmanager
def frontier_of(policy: Policy, requests: int, hosts: int = HOSTS) -> Iterator[SqliteFrontier]:
    """Yield a frontier on a file with this number of waiting pictures."""
    with tempfile.TemporaryDirectory() as folder:
        frontier = SqliteFrontier(Path(folder) / "bench.sqlite", policy)
        for start in range(0, requests, 2_000):
            frontier.put([image(number, hosts) for number in range(start, min(start + 2_000, requests))])
        yield frontier
        frontier.close()


def work(frontier: SqliteFrontier, number: int, kind: str = "image") -> int:
    """Settle at most this number of requests of a kind; return how many."""
    turns = frontier.lease("bench", [kind], number, 120.0, 0.0).turns  # type: ignore[list-item]
    leases = [lease for turn in turns for lease in turn.leases]
    frontier.complete("bench", [answer(lease) for lease in leases], [turn.id for turn in turns])
    return len(leases)


def answer(lease: Lease) -> Outcome:
    if lease.request.kind == "robots":
        rules = structs.replace(
            ROBOTS, text=f"{ROBOTS.text}# {lease.request.url}\n"
        )  # no two hosts share a text in memory
        return Outcome(status="done", token=lease.token, robots=rules, latency=0.05)
    return outcome(lease)


def stats() -> None:
    with frontier_of(FREE, HOSTS) as frontier:
        say(f"stats, {HOSTS:,} hosts wait", f"{timed(frontier.stats, 10):9.2f} ms")
        while work(frontier, 5_000):
            pass
        say(f"stats, {HOSTS:,} hosts known, none waits", f"{timed(frontier.stats, 10):9.2f} ms")
        frontier.put([Request(url="http://www1.example/last.jpg", kind="image")])
        lease_nothing = timed(lambda: frontier.lease("w", ["page"], 1, 9.0, 0.0), 10)
        say("lease of nothing, the last host waits", f"{lease_nothing:9.2f} ms")


def lease() -> None:
    with frontier_of(RULED, HOSTS) as frontier:
        calls = [timed(lambda: frontier.lease("bench", ["image", "robots"], 10, 120.0, 0.0)) for _ in range(200)]
        say(f"lease, {HOSTS:,} new origins, the longest of 200", f"{max(calls):9.2f} ms")
        say("all of these", f"{sum(calls):9.2f} ms")


def forged() -> None:
    with frontier_of(FREE, 20_000, 100) as frontier:
        false = [Outcome(status="done", token=f"{row}.{row:016x}.{row:016x}") for row in range(10_000)]
        say("complete, 10,000 forged tokens", f"{timed(lambda: frontier.complete('w', false, [])):9.2f} ms")
        tokens = [each.token for each in false]
        say("extend, 10,000 forged tokens", f"{timed(lambda: frontier.extend('w', tokens, 9.0)):9.2f} ms")
        turns = [turn for _ in range(10) for turn in frontier.lease("w", ["image"], 1_000, 120.0, 0.0).turns]
        done = [outcome(lease) for turn in turns for lease in turn.leases]
        say(f"complete, {len(done):,} outcomes", f"{timed(lambda: frontier.complete('w', done, [])):9.2f} ms")
        say("complete, the same told again", f"{timed(lambda: frontier.complete('w', done, [])):9.2f} ms")


def turns() -> None:
    with frontier_of(FREE, 4_000, 2_000) as frontier:
        held = [frontier.lease(f"w{n}", ["image"], 1, 120.0, 0.0).turns[0] for n in range(1_000)]
        batch = [frontier.lease("w", ["image"], 1, 120.0, 0.0).turns[0] for _ in range(100)]
        rest = iter(batch)

        def settle() -> None:
            turn = next(rest)
            frontier.complete("w", [outcome(turn.leases[0])], [turn.id])

        say(f"complete of one, {len(held):,} turns on loan", f"{timed(settle, 100):9.2f} ms")
        say("lease of one, as many", f"{timed(lambda: frontier.lease('w', ['image'], 1, 120.0, 0.0), 100):9.2f} ms")
        say("stats, as many", f"{timed(frontier.stats, 10):9.2f} ms")
        tokens = [lease.token for lease in held[0].leases]
        say("extend of one, as many", f"{timed(lambda: frontier.extend('w0', tokens, 60.0), 100):9.2f} ms")


def read_list(rows: int = 200_000) -> None:
    """Read the list as fast as the frontier leases it; of the other work, only robots.txt is done."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        path.write_text("".join(f"{image(number).url}\n" for number in range(rows)))
        frontier, reader = SqliteFrontier(Path(folder) / "bench.sqlite", PACED), ListHandler()
        frontier.put([Request(url=path.as_uri(), kind="list", entries="image")])
        before, begin = memory(), time.process_time()
        while turns := frontier.lease("harvester", ["list"], 1, 120.0, 0.0).turns:
            done = reader.handle(turns[0].leases[0].request)
            told = Outcome(
                status=done.status,
                token=turns[0].leases[0].token,
                discovered=done.discovered,
                successor=done.successor,
            )
            frontier.complete("harvester", [told], [turns[0].id])
        cpu, waiting = time.process_time() - begin, frontier.stats().waiting
        say(f"list of {rows:,} rows: read ahead", f"{waiting:9,} rows, {cpu:.1f} s, {memory() - before:.0f} MiB")
        known = 0
        for _ in range(1_000):
            frontier.lease("bench", ["image"], 1, 120.0, 0.0)  # so that the rules are wanted
            known += work(frontier, 2_000, "robots")
            if known == min(rows, HOSTS):
                break
        say(f"and with {len(ROBOTS.text):,} bytes of robots.txt of each host", f"{memory() - before:9.0f} MiB")
        frontier.close()


def restart(rows: int = 900_000, waiting: int = 100_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.sqlite"
        process = multiprocessing.get_context("spawn").Process(target=make_known, args=(path, rows, waiting))
        process.start()
        process.join()
        before, begin, clock = memory(), time.process_time(), time.perf_counter()
        frontier = SqliteFrontier(path, RULED)
        cpu, wall = time.process_time() - begin, time.perf_counter() - clock
        counts = f"{rows:,} rows, {waiting:,} wait, {HOSTS:,} hosts"
        say(f"open, {counts}", f"{cpu:9.2f} s CPU, {wall:.2f} s, {memory() - before:.0f} MiB")
        say("first lease", f"{timed(lambda: frontier.lease('w', ['image'], 100, 120.0, 0.0)):9.2f} ms")
        frontier.close()


def make_known(path: Path, rows: int, waiting: int) -> None:
    """Write a crawl of ``rows`` rows, some of them waiting, as the frontier would write it, without leases."""
    frontier = SqliteFrontier(path, FREE)
    for start in range(0, rows, 10_000):
        frontier.put([image(number) for number in range(start, start + 10_000)])
    ledger = frontier.ledger
    for start in range(1, rows - waiting + 1, 10_000):
        with ledger.transaction():
            for entry in ledger.requests.get(range(start, start + 10_000)).values():
                record = outcome(Lease(request=entry.request, token="")).record
                if record is not None:
                    ledger.requests.settle(entry.row, "", ledger.records.write(entry.row, record, replaced=0))
    with ledger.transaction():
        for name in list(ledger.origins.names.values()):
            ledger.origins.save_rules(name, ROBOTS, time.time() + 80_000)
    frontier.close()


PARTS = {
    "stats": stats,
    "lease": lease,
    "forged": forged,
    "turns": turns,
    "list": read_list,
    "restart": restart,
}


def main() -> None:
    """Measure the named parts, each in its own process."""
    for name in sys.argv[1:] or PARTS:
        process = multiprocessing.get_context("spawn").Process(target=PARTS[name])
        process.start()
        process.join()


if __name__ == "__main__":
    main()
