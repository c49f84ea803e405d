"""Statistics that a frontier reports about itself, its workers and its stores."""

from collections.abc import Iterable

from msgspec import Struct, structs

from crawler.model import Count, GrantState, ImageRecord, WorkerInfo


class WorkerStats(Struct, frozen=True, kw_only=True):
    """Statistics of one worker, as the frontier sees it."""

    name: str
    leases: int = 0
    settled: int = 0
    #: Requests settled per second, recently.
    rate: float = 0.0
    #: Seconds since its last call.
    silent: float = 0.0
    #: Seconds until other workers get its requests; None while it renews its leases in time.
    loses_in: float | None = None
    #: Whether the reply to its last request for work was ``drained`` or ``draining``.
    is_told: bool = False
    #: Whether its last connection was closed after its last call.
    is_disconnected: bool = False
    about: WorkerInfo = WorkerInfo()
    #: Seconds by which its wall clock was ahead of the master's when it joined.
    clock_ahead: float = 0.0


class StoreStats(Struct, frozen=True, kw_only=True):
    """Statistics of one store, from the frontier's records."""

    id: str
    #: The worker that was the first to save into it; its name begins with the name of its machine.
    worker: str = ""
    #: Number of pictures whose first copy is in this store.
    pictures: int = 0


class FrontierStats(Struct, frozen=True, kw_only=True):
    """Statistics of a crawl, the only source of displayed numbers.

    For images, waiting + leased + success + duplicate + failed = discovered.
    """

    state: GrantState = "wait"
    is_paused: bool = False
    discovered: int = 0
    waiting: int = 0
    leased: int = 0
    success: int = 0
    duplicate: int = 0
    failed: int = 0
    #: Pages are counted separately; ``pages_done`` excludes failed pages.
    pages_waiting: int = 0
    pages_leased: int = 0
    pages_done: int = 0
    pages_failed: int = 0
    #: Pages that the user named, and the number of them that failed.
    seeds: int = 0
    seeds_failed: int = 0
    #: Lists still being read.
    lists_open: int = 0
    #: Reason → number, for failed images and for failed pages, most frequent first.
    reasons: dict[str, int] = {}
    page_reasons: dict[str, int] = {}
    #: Reason → number of origins whose robots.txt could not be fetched.
    robots_reasons: dict[str, int] = {}
    #: Bytes of saved images; each image counts once.
    bytes: Count = 0
    #: Number of refreshes, the current one included, and results of the latest one: change → number of image URLs.
    refreshes: int = 0
    changes: dict[str, int] = {}
    #: Hosts seen, and hosts with waiting requests.
    hosts: int = 0
    hosts_waiting: int = 0
    #: Hosts with waiting requests that are known to be down.
    hosts_down: int = 0
    #: If one host limits the crawl: the only host with waiting requests, and the seconds between its requests.
    limiting_host: str = ""
    limiting_gap: float = 0.0
    #: Rows of input lists that name a URL; rows whose URL was already known; rows with text that was cut.
    list_rows: int = 0
    list_repeated: int = 0
    list_cut: int = 0
    #: Lines of input lists that are not URLs.
    bad_lines: int = 0
    #: Bytes that servers announced and that filters and limits saved from being transferred.
    spared: int = 0
    #: Problem of the master's disk, such as ``disk full``; empty: none.
    trouble: str = ""
    #: Stores with pictures, the fullest first.
    stores: tuple[StoreStats, ...] = ()
    workers: tuple[WorkerStats, ...] = ()


class NearDuplicates(Struct, frozen=True, kw_only=True):
    """The result of a search for near-duplicates."""

    #: Number of pictures that are not the best of their group, and number of groups.
    pictures: int = 0
    groups: int = 0
    #: Number of successes that became duplicates in this search, and the bytes of their files.
    dropped: int = 0
    freed: int = 0
    #: Number of pictures that were not dropped, as they or the best of their group are in another store.
    elsewhere: int = 0

    def corrected(self, stats: FrontierStats) -> FrontierStats:
        """Return the earlier counts of the crawl, corrected for the dropped pictures."""
        return structs.replace(
            stats,
            success=stats.success - self.dropped,
            duplicate=stats.duplicate + self.dropped,
            bytes=stats.bytes - self.freed,
        )


class SavedCounts(Struct, frozen=True, kw_only=True):
    """Number and bytes of the images that one run has saved, without those that a refresh found unchanged."""

    images: int = 0
    bytes: int = 0

    def plus(self, records: Iterable[ImageRecord]) -> "SavedCounts":
        """Return the counts after these settled image URLs."""
        sizes = [row.bytes for row in records if row.status == "success" and row.change != "unchanged"]
        return SavedCounts(images=self.images + len(sizes), bytes=self.bytes + sum(sizes))
