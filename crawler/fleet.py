"""The fleet in words: who works for a crawl, from where, how fast; and which store has how many of its pictures."""

from collections.abc import Iterator

from crawler import __version__
from crawler.logs import printable
from crawler.model import FrontierStats, StoreStats, WorkerStats

#: Seconds by which two clocks may differ before it is worth a word.
_CLOCKS = 60.0
#: A worker that holds nothing asks every second; after so many of silence it has left.
_GONE = 10.0
_HEADS = ("worker", "system", "release", "settled", "rate", "leases", "last seen")


def introduce(worker: WorkerStats) -> str:
    """The line with which a worker is greeted, and what is odd about it."""
    about = worker.about
    facts = [about.system, about.python and f"Python {about.python}", about.release and f"release {about.release}"]
    known = ", ".join(fact for fact in facts if fact)
    parts = [f"{worker.name} joined ({known})" if known else f"{worker.name} joined"]
    if about.release and about.release != __version__:
        parts.append(f"this master is of release {__version__}; both understand, but the older one should be upgraded")
    if abs(worker.clock_ahead) > _CLOCKS:
        side = "ahead of" if worker.clock_ahead > 0 else "behind"
        parts.append(f"its clock is {_span(abs(worker.clock_ahead))} {side} this one: set it, or its log misleads")
    return printable("; ".join(parts))


def describe_workers(stats: FrontierStats) -> list[str]:
    """A table, with a line for each worker."""
    rows = [_HEADS, *(_row(worker) for worker in stats.workers)] if stats.workers else []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  " + "  ".join(row).rstrip() for row in cells]


def describe_stores(stats: FrontierStats, own: str) -> str:
    """Where the pictures are, as seen from the box with the store ``own``; empty where none is elsewhere."""
    here = sum(store.pictures for store in stats.stores if store.id == own)
    elsewhere = [store for store in stats.stores if store.id != own and store.pictures]
    if not elsewhere:
        return ""
    places = ", ".join(f"{store.pictures} in {name_store(store)}" for store in elsewhere)
    return f"{here} pictures here, {sum(store.pictures for store in elsewhere)} elsewhere: {places}"


def name_store(store: StoreStats) -> str:
    """A store's id, and the box that it was on when it was new."""
    box = store.worker.partition("/")[0]
    return printable(f"store {store.id} ({box})" if box else f"store {store.id}")


def describe_silence(stats: FrontierStats) -> str:
    """Whose work is about to go to others, and when; empty where everybody keeps what they hold."""
    late = [worker for worker in stats.workers if worker.loses_in is not None]
    if not late:
        return ""
    worker = max(late, key=lambda each: each.leases)
    more = f" and {len(late) - 1} more" if len(late) > 1 else ""
    return printable(
        f"{worker.name}{more} silent: its {worker.leases} requests go to others in {worker.loses_in:.0f} s"
    )


def matching(stats: FrontierStats, name: str, own: str = "") -> list[str]:
    """The downloaders at work with that name, or on the box with that name.

    Those that belong to the crawl's own process are not among them: those of its store, whose id is ``own``.
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
    system = ", ".join(_parts(about.system, about.python and f"Python {about.python}")) or "unknown"
    seen = f"{_span(worker.silent)} ago"
    if worker.loses_in is not None:
        seen += f"; loses its leases in {worker.loses_in:.0f} s"
    elif worker.is_told:
        seen += "; told to leave"
    cells = (worker.name, system, about.release or "unknown", str(worker.settled), f"{worker.rate:.1f}/s")
    return tuple(printable(cell) for cell in (*cells, str(worker.leases), seen))


def _parts(*texts: str) -> Iterator[str]:
    return (text for text in texts if text)


def _span(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
