"""Group commit of reported outcomes: many calls in one transaction, as most of its cost is waiting for the disk."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import structs

from crawler.errors import DiskError
from crawler.frontier.counters import Counters
from crawler.frontier.leases import Leases, OpenTurn
from crawler.frontier.ledger.ledger import Ledger
from crawler.frontier.ledger.rows import Entry
from crawler.frontier.verdicts import OutcomeApplier, Ruling, verdict_for, verdict_on
from crawler.frontier.workers import WorkerRegistry
from crawler.model import PIN_MISMATCH, ImageRecord, Kind, Outcome, Request, Verdict, VerdictState

#: Kinds of requests that a worker's outcome may add. A list would be a file on the master's disk.
_DISCOVERABLE: tuple[Kind, ...] = ("page", "image", "part")

#: SHA-256 → store and path of the first copy.
_FirstCopies = dict[str, tuple[str, str]]


@dataclass(eq=False, slots=True)
class PendingCall:
    """One call of `complete` with its result."""

    worker: str
    outcomes: Sequence[Outcome]
    ended_turns: Sequence[str]
    #: Whether its outcomes are on the disk, even if reading the answer failed afterwards.
    is_written: bool = False
    verdicts: tuple[Verdict, ...] | None = None
    error: Exception | None = None

    @property
    def is_answered(self) -> bool:
        """Whether the call has verdicts or an error."""
        return self.verdicts is not None or self.error is not None

    def answer(self) -> tuple[Verdict, ...]:
        """Return the verdicts, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.verdicts or ()


class GroupCommit:
    """Writer of outcomes to the ledger; it updates memory after the commit.

    The frontier calls `answer_calls` under its lock.

    Args:
        end_turns: frees the hosts of turns, at a clock time.
    """

    def __init__(
        self,
        ledger: Ledger,
        leases: Leases,
        applier: OutcomeApplier,
        counters: Counters,
        registry: WorkerRegistry,
        end_turns: Callable[[Sequence[OpenTurn], float], None],
    ) -> None:
        self._ledger, self._leases, self._applier = ledger, leases, applier
        self._counters, self._registry, self._end_turns = counters, registry, end_turns
        #: Calls without an answer, which the next `answer_calls` of any thread answers.
        self.calls: deque[PendingCall] = deque()

    def answer_calls(self, now: float) -> None:
        """Settle all pending calls in one transaction, and end their turns."""
        calls = list(self.calls)
        for call in calls:
            self._registry.heard(call.worker, now)
        try:
            self._settle(calls, now)
        except DiskError as error:
            for call in calls:
                call.error = error
        except Exception:  # noqa: BLE001  # one call is the cause, and the others must not fail with it
            for call in calls:
                self._settle_alone(call, now)
        for call in calls:
            self.calls.popleft()  # only now: if this thread is interrupted, another one settles them
            if call.is_written:
                turns = [self._leases.turns.get(turn_id) for turn_id in dict.fromkeys(call.ended_turns)]
                self._end_turns([turn for turn in turns if turn is not None and turn.worker == call.worker], now)

    def _settle_alone(self, call: PendingCall, now: float) -> None:
        try:
            self._settle([call], now)
        except Exception as error:  # noqa: BLE001  # raised by `complete`, in the thread whose call it is
            call.error = error

    def _settle(self, calls: Sequence[PendingCall], now: float) -> None:
        """Write the outcomes of all calls and set their verdicts, or raise."""
        accepted: dict[int, tuple[Entry, Outcome]] = {}
        workers: dict[int, str] = {}
        states = [self._check(call, accepted, workers) for call in calls]
        rulings = self._apply(accepted, workers, now) if accepted else {}
        for call in calls:
            call.is_written = True
        earlier = {row for checked in states for state, row in checked if state != "stale" and row not in rulings}
        records: dict[int, ImageRecord | None] = {**self._ledger.records.of(earlier)}
        records |= {row: ruling.record for row, ruling in rulings.items()}
        results = [
            [(outcome, state, records.get(row) if state != "stale" else None) for outcome, (state, row) in pairs]
            for pairs in (zip(call.outcomes, checked, strict=True) for call, checked in zip(calls, states, strict=True))
        ]
        copies = (_second_copy(*result) for call_results in results for result in call_results)
        first_copies = self._ledger.records.first_copies({copy.sha256 for copy in copies if copy is not None})
        for call, call_results in zip(calls, results, strict=True):
            call.verdicts = tuple(self._answer(call.worker, *result, first_copies, now) for result in call_results)

    def _apply(
        self, accepted: dict[int, tuple[Entry, Outcome]], workers: dict[int, str], now: float
    ) -> dict[int, Ruling]:
        """Write the outcomes of these rows, then update memory."""
        discovered: list[Request] = []
        list_rows: list[Request] = []
        for entry, outcome in accepted.values():
            requests = list_rows if entry.request.kind == "list" else discovered
            requests.extend(filter(_is_discoverable, outcome.discovered))
        with_sitemaps = [pair for pair in accepted.values() if pair[1].robots is not None or pair[0].request.is_seed]
        discovered += [new for entry, outcome in with_sitemaps for new in self._applier.sitemaps(entry, outcome)]
        numbers = {
            "bad_lines": sum(outcome.rejected for _, outcome in accepted.values()),
            "spared": sum(outcome.spared for _, outcome in accepted.values()),
        }
        health = self._applier.learn(accepted, now)
        rulings: dict[int, Ruling] = {}
        with self._ledger.transaction():
            self._applier.save_health(health, now)
            added = self._ledger.requests.add(discovered)
            if list_rows:
                listed = self._ledger.requests.add_rows(list_rows)
                added += listed.entries
                cut = listed.dropped + sum(outcome.shortened for _, outcome in accepted.values())
                numbers |= {"list_rows": len(list_rows), "list_repeated": listed.repeated, "list_cut": cut}
            totals = self._counters.raised(numbers)
            for name, total in totals.items():
                self._ledger.database.set_meta(name, str(total).encode())
            self._ledger.records.recall_copies(
                outcome.record.sha256 for _, outcome in accepted.values() if outcome.record
            )
            for row, (entry, outcome) in accepted.items():
                rulings[row] = self._applier.apply(entry, outcome, workers[row], now)
            added += self._ledger.requests.add(ruling.instead for ruling in rulings.values() if ruling.instead)
        decided = {row for row, call in accepted.items() if rulings[row].is_final or _is_progress(*call)}
        self._leases.let_go(accepted, decided=decided)
        self._counters.totals |= totals
        self._applier.set_health(health, now)
        self._applier.conclude(rulings.values())
        self._applier.enlist(added)
        for worker, number in Counter(workers[row] for row, ruling in rulings.items() if ruling.is_final).items():
            self._registry.known[worker].credit(number, now)
        return rulings

    def _check(
        self, call: PendingCall, accepted: dict[int, tuple[Entry, Outcome]], workers: dict[int, str]
    ) -> list[tuple[VerdictState, int]]:
        """Return the states and rows of a call's outcomes; add the accepted ones to ``accepted`` and ``workers``."""
        states: list[tuple[VerdictState, int]] = []
        checks = [self._leases.check(call.worker, outcome.token) for outcome in call.outcomes]
        earlier = self._ledger.requests.get(list({row for row, turn in checks if turn is None and row > 0}))
        for outcome, (row, turn) in zip(call.outcomes, checks, strict=True):
            entry = turn.entries[row] if turn else earlier.get(row)
            state = verdict_on(entry, outcome, is_held=turn is not None, is_settled=row in accepted)
            if entry is not None and state == "accepted":
                accepted[row] = (entry, outcome)
                workers[row] = call.worker
            states.append((state, row))
        return states

    def _answer(
        self,
        worker: str,
        outcome: Outcome,
        state: VerdictState,
        record: ImageRecord | None,
        first_copies: _FirstCopies,
        now: float,
    ) -> Verdict:
        if record is None:
            return Verdict(state=state)
        copy = _second_copy(outcome, state, record)
        is_spare, kept = self._check_copy(copy, record, first_copies, now) if copy is not None else (False, None)
        if record.worker == worker:
            verdict = verdict_for(state, record, is_spare=is_spare)
        else:
            verdict = Verdict(state=state, is_spare=is_spare)
        return verdict if kept is None else structs.replace(verdict, store=kept[0], path=kept[1])

    def _check_copy(
        self, copy: ImageRecord, record: ImageRecord, first_copies: _FirstCopies, now: float
    ) -> tuple[bool, tuple[str, str] | None]:
        """Return whether a worker's copy is spare (`Verdict.is_spare`).

        If the first copy lies in the same store under another name, also return its store and path, else None.
        """
        store, path = first_copies.get(copy.sha256, ("", ""))
        if record.reason == PIN_MISMATCH:
            return (store, path) != (copy.store, copy.path), None
        if store == copy.store:
            return (True, (store, path)) if path != copy.path else (False, None)
        return bool(store) and self._registry.is_near(self._counters.stores.get(store, ""), now), None


def _second_copy(outcome: Outcome, state: VerdictState, record: ImageRecord | None) -> ImageRecord | None:
    """Return the record of an outcome with a file, or None if its manifest row names that same file."""
    copy = outcome.record
    if record is None or copy is None or not copy.path:
        return None
    is_first = (state, record.status) == ("accepted", "success")
    return None if is_first and (copy.store, copy.path) == (record.store, record.path) else copy


def _is_progress(entry: Entry, outcome: Outcome) -> bool:
    """Return whether a part of a list was read, which no earlier loss of the request can be due to."""
    return entry.request.kind == "list" and outcome.status == "moved"


def _is_discoverable(request: Request) -> bool:
    """Return whether a worker may add the request: only the frontier sets ``prior`` and ``is_suspect``."""
    return request.kind in _DISCOVERABLE and request.prior is None and not request.is_suspect
