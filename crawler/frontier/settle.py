"""Settling what workers have told: many calls in one transaction, as most of its cost is waiting for the disk."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from msgspec import structs

from crawler.frontier.history import History
from crawler.frontier.judge import Judge, Ruling, told, verdict_on
from crawler.frontier.leases import Leases
from crawler.frontier.ledger import Entry
from crawler.frontier.roll import Roll
from crawler.frontier.tally import Tally
from crawler.known import PIN_MISMATCH
from crawler.model import ImageRecord, Kind, Outcome, Request, Verdict, VerdictState

#: Kinds that a worker's outcome may bring: no list from the master's disk.
_FOUND: tuple[Kind, ...] = ("page", "image", "part")


@dataclass(eq=False, slots=True)
class Call:
    """One call of `complete`, and what came of it."""

    worker: str
    outcomes: Sequence[Outcome]
    ended_turns: Sequence[str]
    #: Whether what it tells is on the disk, be it that the answer can't be read from there.
    is_written: bool = False
    verdicts: tuple[Verdict, ...] | None = None
    error: Exception | None = None

    @property
    def is_answered(self) -> bool:
        return self.verdicts is not None or self.error is not None

    def answer(self) -> tuple[Verdict, ...]:
        """The verdicts; raises what went wrong."""
        if self.error is not None:
            raise self.error
        return self.verdicts or ()


class Settler:
    """Writes outcomes to the ledger, and has memory follow. The frontier calls it under its lock."""

    def __init__(
        self,
        ledger: History,
        leases: Leases,
        judge: Judge,
        tally: Tally,
        roll: Roll,
        enlist: Callable[[Collection[Entry]], None],
    ) -> None:
        self._ledger, self._leases, self._judge = ledger, leases, judge
        self._tally, self._roll, self._enlist = tally, roll, enlist

    def settle(self, calls: Sequence[Call], now: float) -> None:
        """Write what all of these calls tell and answer them, or raise."""
        states: list[list[tuple[VerdictState, int]]] = []
        judged: dict[int, tuple[Entry, Outcome]] = {}
        workers: dict[int, str] = {}
        for call in calls:
            states.append(self._look_at(call, judged, workers))
        rulings = self._apply(judged, workers, now) if judged else {}
        for call in calls:
            call.is_written = True
        for call, theirs in zip(calls, states, strict=True):
            call.verdicts = tuple(
                self._answer(call.worker, outcome, state, self._record(state, row, rulings), now)
                for outcome, (state, row) in zip(call.outcomes, theirs, strict=True)
            )

    def _apply(
        self, judged: dict[int, tuple[Entry, Outcome]], workers: dict[int, str], now: float
    ) -> dict[int, Ruling]:
        """Write what was told of these rows, and have memory follow."""
        found = [new for _, outcome in judged.values() for new in outcome.discovered if _may_be_found(new)]
        rules = [pair for pair in judged.values() if pair[1].robots is not None]
        found += [new for entry, outcome in rules for new in self._judge.sitemaps(entry, outcome)]
        rejected = sum(outcome.rejected for _, outcome in judged.values())
        spared = sum(outcome.spared for _, outcome in judged.values())
        known = self._judge.learn(judged, now)
        rulings: dict[int, Ruling] = {}
        with self._ledger.transaction():
            effects = self._judge.keep(known, now)
            effects += [self._tally.count_bad_lines(rejected)] if rejected else []
            effects += [self._tally.count_spared(spared)] if spared else []
            added = self._ledger.add(found)
            self._ledger.recall_copies(outcome.record.sha256 for _, outcome in judged.values() if outcome.record)
            for row, (entry, outcome) in judged.items():
                rulings[row] = self._judge.apply(entry, outcome, workers[row], now)
            added += self._ledger.add(ruling.instead for ruling in rulings.values() if ruling.instead)
        self._leases.let_go(judged)
        for effect in effects:
            effect()
        self._judge.conclude(rulings.values())
        self._enlist(added)
        for worker, number in Counter(workers[row] for row, ruling in rulings.items() if ruling.is_final).items():
            self._roll.credit(worker, number, now)
        return rulings

    def _look_at(
        self, call: Call, judged: dict[int, tuple[Entry, Outcome]], workers: dict[int, str]
    ) -> list[tuple[VerdictState, int]]:
        """The states and rows of a call's outcomes; what is to be applied goes to ``judged``."""
        states: list[tuple[VerdictState, int]] = []
        for outcome in call.outcomes:
            row, turn = self._leases.check(call.worker, outcome.token)
            entry = turn.entries[row] if turn else self._ledger.get([row]).get(row)
            state = verdict_on(entry, outcome, is_held=turn is not None, is_judged=row in judged)
            if entry is not None and state == "accepted":
                judged[row] = (entry, outcome)
                workers[row] = call.worker
            states.append((state, row))
        return states

    def _record(self, state: VerdictState, row: int, rulings: dict[int, Ruling]) -> ImageRecord | None:
        """The manifest row of an outcome, also of one that is told again, or that somebody else was faster with."""
        if state == "stale":
            return None
        return rulings[row].record if row in rulings else self._ledger.record_of(row)

    def _answer(
        self, worker: str, outcome: Outcome, state: VerdictState, record: ImageRecord | None, now: float
    ) -> Verdict:
        if record is None:
            return Verdict(state=state)
        is_spare, place = self._spare(outcome.record, state, record, now)
        if record.worker == worker:
            verdict = told(state, record, is_spare=is_spare)
        else:
            verdict = Verdict(state=state, is_spare=is_spare)
        return verdict if place is None else structs.replace(verdict, store=place[0], path=place[1])

    def _spare(
        self, copy: ImageRecord | None, state: VerdictState, record: ImageRecord, now: float
    ) -> tuple[bool, tuple[str, str] | None]:
        """Whether the copy that a worker has told of is one too many, as `Verdict` has it.

        And where the first one is that makes it so in the same store, under another name.
        """
        if copy is None or not copy.path:
            return False, None
        own = copy.store, copy.path
        if (state, record.status) == ("accepted", "success") and own == (record.store, record.path):
            return False, None
        store, path = self._ledger.place_of(copy.sha256)
        if record.reason == PIN_MISMATCH:
            return (store, path) != own, None
        if store == copy.store:
            return (True, (store, path)) if path != copy.path else (False, None)
        return bool(store) and self._roll.is_near(self._tally.stores.get(store, ""), now), None


def _may_be_found(request: Request) -> bool:
    """Whether a worker may bring it: what is known of it, the frontier alone says."""
    return request.kind in _FOUND and request.known is None
