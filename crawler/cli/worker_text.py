"""Descriptions of workers and stores as text: names, systems, rates, clocks and numbers of pictures."""

from collections.abc import Iterator

from crawler.stats import FrontierStats, StoreStats, WorkerStats
from crawler.text import printable
from crawler.version import __version__

#: Difference of two clocks in seconds above which the user gets a warning.
_MAX_CLOCK_DIFFERENCE = 60.0
#: Seconds of silence after which a worker without leases has left; it would call every second.
_GONE = 10.0
_HEADS = ("worker", "system", "release", "settled", "rate", "leases", "last seen")


def introduce(worker: WorkerStats) -> str:
    """Return the line for a worker that has joined, with warnings about its release and its clock."""
    about = worker.about
    facts = [about.system, about.python and f"Python {about.python}", about.release and f"release {about.release}"]
    system = ", ".join(fact for fact in facts if fact)
    parts = [f"{worker.name} joined ({system})" if system else f"{worker.name} joined"]
    if about.release and about.release != __version__:
        parts.append(f"this master runs release {__version__}; they work together, but upgrade the older one")
    if abs(worker.clock_ahead) > _MAX_CLOCK_DIFFERENCE:
        side = "ahead of" if worker.clock_ahead > 0 else "behind"
        difference = _duration(abs(worker.clock_ahead))
        parts.append(f"its clock is {difference} {side} the master's; correct it, or times in its log will be wrong")
    return printable("; ".join(parts))


def describe_workers(stats: FrontierStats) -> list[str]:
    """Return a table with a line for each worker."""
    rows = [_HEADS, *(_row(worker) for worker in stats.workers)] if stats.workers else []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  " + "  ".join(row).rstrip() for row in cells]


def describe_stores(stats: FrontierStats, own: str) -> str:
    """Return the number of pictures in the store ``own`` and in each other store, or "" if no other has any."""
    here = sum(store.pictures for store in stats.stores if store.id == own)
    others = [store for store in stats.stores if store.id != own and store.pictures]
    if not others:
        return ""
    counts = ", ".join(f"{store.pictures} in {name_store(store)}" for store in others)
    return f"{here} pictures here, {sum(store.pictures for store in others)} in other stores: {counts}"


def name_store(store: StoreStats) -> str:
    """Return a store's id, and the machine that it was created on."""
    machine = store.worker.partition("/")[0]
    return printable(f"store {store.id} ({machine})" if machine else f"store {store.id}")


def machine_of(store: StoreStats) -> str:
    """Return the machine that a store was created on, or its id if that is unknown."""
    return printable(store.worker.partition("/")[0] or store.id)


def describe_silence(stats: FrontierStats) -> str:
    """Return which workers are about to lose their leases, and when, or "" if there are none."""
    late = [(worker, worker.loses_in) for worker in stats.workers if worker.loses_in is not None]
    if not late:
        return ""
    worker, seconds = max(late, key=lambda pair: pair[0].leases)
    if len(late) == 1:
        return printable(
            f"{worker.name} is silent: its {worker.leases} requests go to other workers in {seconds:.0f} s"
            if worker.leases > 1
            else f"{worker.name} is silent: its request goes to another worker in {seconds:.0f} s"
        )
    requests, seconds = sum(worker.leases for worker, _ in late), max(seconds for _, seconds in late)
    return printable(
        f"{worker.name} and {len(late) - 1} more are silent:"
        f" their {requests} requests go to other workers within {seconds:.0f} s"
    )


def matching(stats: FrontierStats, name: str, own: str = "") -> list[str]:
    """Return the active downloaders with that name, or on the machine with that name.

    Downloaders that the crawl itself started are left out. They save in its store, whose id is ``own``.
    """
    return [
        worker.name
        for worker in stats.workers
        if name in (worker.name, worker.name.partition("/")[0])
        and "/" in worker.name
        and not (own and worker.name.partition("/")[2].startswith(f"{own[:8]}-"))
        and (worker.leases or not (worker.is_told or worker.silent > _GONE))
    ]


def _row(worker: WorkerStats) -> tuple[str, ...]:
    about = worker.about
    system = ", ".join(_non_empty(about.system, about.python and f"Python {about.python}")) or "unknown"
    seen = f"{_duration(worker.silent)} ago"
    if worker.loses_in is not None:
        seen += f"; loses its leases in {worker.loses_in:.0f} s"
    elif worker.is_told:
        seen += "; stopping"
    cells = (worker.name, system, about.release or "unknown", str(worker.settled), f"{worker.rate:.1f}/s")
    return tuple(printable(cell) for cell in (*cells, str(worker.leases), seen))


def _non_empty(*texts: str) -> Iterator[str]:
    return (text for text in texts if text)


def _duration(seconds: float) -> str:
    """Return a duration in days, hours, minutes or seconds; the number is 2 or more, except for seconds."""
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
