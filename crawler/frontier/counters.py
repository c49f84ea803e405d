"""The counts behind every number shown: restored from the ledger once, then updated in memory."""

from collections import Counter
from collections.abc import Collection, Mapping

from crawler.frontier.ledger.rows import DONE, FAILED, WAITING
from crawler.model import ImageRecord, Kind, Request
from crawler.stats import StoreStats

#: Most stores that are reported.
_MAX_STORES = 1_000

#: Totals that the ledger keeps in its table ``meta``: list lines that are not a URL; bytes that were not transferred;
#: rows of lists, those whose URL was known already, and those dropped or shortened.
TOTALS = ("bad_lines", "spared", "list_rows", "list_repeated", "list_cut")
#: The largest total that is shown: each number that a worker reports is bounded, but their sum is not.
_MAX_TOTAL = 2**53


class Counters:
    """Requests by kind and state, failures by reason, seeds, duplicates, bytes; `recover` restores them."""

    def __init__(self) -> None:
        self.states: Counter[tuple[Kind, int]] = Counter()
        self.seeds: Counter[int] = Counter()
        self._reasons: Counter[tuple[Kind, str]] = Counter()
        self.duplicates = 0
        self.bytes = 0
        #: Results of the last refresh: change → image URLs.
        self.changes: Counter[str] = Counter()
        #: Store → the first worker that saved in it, and the number of first copies there.
        self.stores: dict[str, str] = {}
        self.copies: Counter[str] = Counter()
        #: Values of `TOTALS`.
        self.totals = dict.fromkeys(TOTALS, 0)

    def reasons(self, kind: Kind) -> dict[str, int]:
        """Return reason → number of failed requests of a kind, most frequent first."""
        numbers = Counter({reason: number for (of, reason), number in self._reasons.items() if of == kind and number})
        return dict(numbers.most_common())

    def discovered(self, kind: Kind) -> int:
        """Return the number of requests of a kind, in any state."""
        return sum(self.states[kind, state] for state in (WAITING, DONE, FAILED))

    def saved(self) -> int:
        """Return the number of saved images, without duplicates."""
        return self.states["image", DONE] - self.duplicates

    def add(self, kind: Kind, is_seed: bool, number: int, state: int = WAITING, reason: str = "") -> None:
        """Count requests that are in a state, with the reason of failed ones; a negative number uncounts them."""
        self.states[kind, state] += number
        self.seeds[state] += number * is_seed
        if state == FAILED:
            self._reasons[kind, reason] += number

    def settle(self, settled: Collection[tuple[Request, str, ImageRecord | None]]) -> None:
        """Count waiting requests that are settled, each with its reason ("" on success) and its manifest row."""
        groups = Counter((request.kind, request.is_seed, reason) for request, reason, _ in settled)
        for (kind, is_seed, reason), number in groups.items():
            self.add(kind, is_seed, -number)
            self.add(kind, is_seed, number, FAILED if reason else DONE, reason)
        for _, reason, record in settled:
            if record is None:
                continue
            if record.change:
                self.changes[record.change] += 1
            if record.status == "duplicate":
                self.duplicates += 1
            elif not reason:
                self._count_first(record)

    def promote(self, record: ImageRecord) -> None:
        """Count a settled duplicate as the first copy of its bytes."""
        self.duplicates -= 1
        self._count_first(record)

    def _count_first(self, record: ImageRecord) -> None:
        self.bytes += record.bytes
        self.stores.setdefault(record.store, record.worker)
        self.copies[record.store] += 1

    def set_stores(self, owners: Mapping[str, str], copies: Mapping[str, tuple[int, int]]) -> None:
        """Set the first worker of each store, and the number and bytes of the first copies in it."""
        self.stores = dict(owners)
        self.copies = Counter({store: number for store, (number, _) in copies.items()})
        self.bytes = sum(size for _, size in copies.values())

    def where(self) -> tuple[StoreStats, ...]:
        """Return the stores that have pictures, the fullest first."""
        fullest = self.copies.most_common(_MAX_STORES)
        return tuple(
            StoreStats(id=store, worker=self.stores.get(store, ""), pictures=number)
            for store, number in fullest
            if number
        )

    def raised(self, numbers: Mapping[str, int]) -> dict[str, int]:
        """Return the new values of the totals that these numbers, if not 0, raise. The caller writes and sets them."""
        return {name: min(self.totals[name] + number, _MAX_TOTAL) for name, number in numbers.items() if number}
