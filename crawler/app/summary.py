"""How a run of a crawl ended."""

from pathlib import Path

from msgspec import Struct

from crawler.stats import FrontierStats, NearDuplicates, SavedCounts

#: Failure reasons of a seed whose host could not be reached.
_UNREACHED = frozenset({"dns", "connect", "timeout", "too-slow", "tls", "robots-unreachable", "host-down"})


class EarlierRun(Struct, frozen=True, kw_only=True):
    """The state of a crawl before the current run."""

    #: Whether the crawl had finished: every URL that it may request was settled.
    is_finished: bool = False
    #: When it finished, in seconds since the epoch; 0: unknown, because an earlier release did not record it.
    finished_at: float = 0.0


class Summary(Struct, frozen=True, kw_only=True):
    """How a run of a crawl ended. The counts in ``stats`` are those of all its runs."""

    stats: FrontierStats
    output: Path
    #: Images that this run saved, and the state before it; None: this run began the crawl.
    saved: SavedCounts = SavedCounts()
    before: EarlierRun | None = None
    #: Limits that can end a crawl while URLs wait, such as ``max_images = 300``.
    limits: tuple[str, ...] = ()
    #: URLs at which the seeds of this run were requested.
    tried: tuple[str, ...] = ()
    #: URL of the store with the pictures; empty: they are in ``output``.
    store: str = ""
    #: Seconds.
    elapsed: float
    interrupted: bool = False
    #: Messages about the patterns of ``include`` that matched nothing.
    unmatched: tuple[str, ...] = ()
    #: Near-duplicates; None: not searched for.
    near: NearDuplicates | None = None

    @property
    def exit_code(self) -> int:
        """0 done; 4 no seed could be reached; 8 a seed failed or nothing was saved; 130 interrupted."""
        stats = self.stats
        if self.interrupted:
            return 130
        if self.is_unreached:
            return 4
        return 8 if stats.seeds_failed or not stats.success + stats.duplicate else 0

    @property
    def is_unreached(self) -> bool:
        """Whether every seed failed, and for reasons of the network."""
        stats = self.stats
        return 0 < stats.seeds == stats.seeds_failed and stats.page_reasons.keys() <= _UNREACHED
