"""The counts behind every number shown: read from the ledger once, then kept along with it."""

from collections import Counter
from collections.abc import Callable, Collection
from functools import partial

from crawler.frontier.history import History
from crawler.frontier.ledger import DONE, FAILED, WAITING, Entry
from crawler.model import ImageRecord, Kind, Request, StoreStats

#: Stores that are told of at most.
MAX_STORES = 1_000

_BAD_LINES, _SPARED = "bad_lines", "spared"
#: The largest sum that is shown: what workers tell is bounded each by each only.
_MOST = 2**53


class Tally:
    """Requests by kind and state, failures by reason, seeds, duplicates, bytes.

    It begins with what is settled; what waits is added by whoever takes it up.
    """

    def __init__(self, ledger: History) -> None:
        self._ledger = ledger
        self.states: Counter[tuple[Kind, int]] = Counter()
        self.seeds: Counter[int] = Counter()
        self._reasons: Counter[tuple[Kind, str]] = Counter()
        for kind, seed, state, reason, number in ledger.census():
            self.states[kind, state] += number
            self.seeds[state] += number * seed
            if state == FAILED:
                self._reasons[kind, reason] += number
        self.duplicates = ledger.duplicates()
        self.bytes = ledger.bytes_saved()
        #: What the last refresh has found: change → image URLs.
        self.changes: Counter[str] = Counter(ledger.changes())
        #: Store → the first worker that saved in it, and the number of first copies there.
        self.stores: dict[str, str] = {}
        self.copies: Counter[str] = Counter()
        self.count_stores()
        self.bad_lines = int(ledger.get_meta(_BAD_LINES) or b"0")
        #: Bytes that were not transferred.
        self.spared = int(ledger.get_meta(_SPARED) or b"0")

    def reasons(self, kind: Kind) -> dict[str, int]:
        """Reason → number of failed requests of a kind, most frequent first."""
        found = Counter({reason: number for (of, reason), number in self._reasons.items() if of == kind and number})
        return dict(found.most_common())

    def discovered(self, kind: Kind) -> int:
        return sum(self.states[kind, state] for state in (WAITING, DONE, FAILED))

    def saved(self) -> int:
        """Images saved for the first time."""
        return self.states["image", DONE] - self.duplicates

    def add(self, kind: Kind, is_seed: bool, number: int) -> None:
        """Requests were discovered, or wait again."""
        self.states[kind, WAITING] += number
        self.seeds[WAITING] += number * is_seed

    def reopen(self, entry: Entry) -> None:
        """A settled request is no longer so; `add` follows."""
        self.states[entry.request.kind, entry.state] -= 1
        self.seeds[entry.state] -= entry.request.is_seed
        if entry.state == FAILED:
            self._reasons[entry.request.kind, entry.reason] -= 1

    def settle(self, settled: Collection[tuple[Request, str, ImageRecord | None]]) -> None:
        """Waiting requests have their final states: why each failed, and its manifest row."""
        alike = Counter((request.kind, request.is_seed, reason) for request, reason, _ in settled)
        for (kind, is_seed, reason), number in alike.items():
            state = FAILED if reason else DONE
            self.states[kind, WAITING] -= number
            self.states[kind, state] += number
            self.seeds[WAITING] -= number * is_seed
            self.seeds[state] += number * is_seed
            if reason:
                self._reasons[kind, reason] += number
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
        """A settled duplicate is the first copy of its bytes from now on."""
        self.duplicates -= 1
        self._count_first(record)

    def _count_first(self, record: ImageRecord) -> None:
        self.bytes += record.bytes
        self.stores.setdefault(record.store, record.worker)
        self.copies[record.store] += 1

    def count_stores(self) -> None:
        """Read from the ledger what is where."""
        self.stores = self._ledger.owners()
        self.copies = Counter(self._ledger.stores())

    def where(self) -> tuple[StoreStats, ...]:
        """The stores, the fullest first."""
        fullest = self.copies.most_common(MAX_STORES)
        return tuple(
            StoreStats(id=store, worker=self.stores.get(store, ""), pictures=number)
            for store, number in fullest
            if number
        )

    def count_bad_lines(self, number: int) -> Callable[[], None]:
        """Lines of a list that were no URL: kept within a transaction, counted when the returned effect is run."""
        return self._note(_BAD_LINES, self.bad_lines + number)

    def count_spared(self, number: int) -> Callable[[], None]:
        """Bytes that were not transferred: kept and counted in the same way."""
        return self._note(_SPARED, min(self.spared + number, _MOST))

    def _note(self, name: str, total: int) -> Callable[[], None]:
        self._ledger.set_meta(name, str(total).encode())
        return partial(setattr, self, name, total)
