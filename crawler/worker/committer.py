"""Reports of outcomes to the frontier, each after its file and its data are durable."""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from crawler.errors import DiskError
from crawler.model import Outcome
from crawler.worker.held_turns import NAP, EndedTurn, HeldTurns
from crawler.worker.patient_calls import PatientFrontier, PatientStore
from crawler.worker.turn import wants_rest

#: Most files flushed together, and most seconds that the first of them waits.
_FLUSH_FILES = 100
_FLUSH_SECONDS = 2.0


class Committer:
    """The thread that reports outcomes: those without a file at once, the others after a flush of several files.

    Args:
        frontier: receives the outcomes.
        store: makes outcomes durable.
        turns: the turns with the events to report.
        give_back: returns an outcome that releases a request uncharged, for a disk error and its token.
    """

    def __init__(
        self,
        frontier: PatientFrontier,
        store: PatientStore,
        turns: HeldTurns,
        give_back: Callable[[DiskError, str], Outcome],
    ) -> None:
        self._frontier, self._store, self._turns, self._give_back = frontier, store, turns, give_back
        #: Accepted verdicts on image URLs by their status, and those that a refresh has found ``unchanged``.
        self.counts: Counter[str | None] = Counter()

    def run(self, over: threading.Event, stop: threading.Event) -> None:
        """Report all outcomes until ``over`` is set. After ``stop``, do not wait for an unavailable disk."""
        waiting: list[Outcome] = []
        since = 0.0
        while True:
            is_last = over.is_set()
            events = self._collect(0.02 if is_last else NAP)
            ended = [event.turn for event in events if isinstance(event, EndedTurn)]
            outcomes = [event for event in events if isinstance(event, Outcome)]
            files = [outcome for outcome in outcomes if _has_file(outcome)]
            since = self._turns.clock() if files and not waiting else since
            waiting += files
            is_due = len(waiting) >= _FLUSH_FILES or self._turns.clock() - since >= _FLUSH_SECONDS
            # Files that a host sent before it asked for a pause are reported before that request.
            if waiting and (is_due or is_last or any(map(wants_rest, outcomes)) or self._turns.is_idle):
                self._report(waiting, [])
                waiting = []
            self._report([outcome for outcome in outcomes if not _has_file(outcome)], ended)
            self._store.go_on()
            if is_last and not events:
                self._store.finish(stop)
                return

    def _collect(self, seconds: float) -> list[Outcome | EndedTurn]:
        """Return the events since the last call, after waiting up to ``seconds`` for the first one."""
        events: list[Outcome | EndedTurn] = []
        try:
            events.append(self._turns.events.get(timeout=seconds))
            while len(events) < _FLUSH_FILES:
                events.append(self._turns.events.get_nowait())
        except queue.Empty:
            pass
        return events

    def _report(self, outcomes: Sequence[Outcome], ended: Sequence[str]) -> None:
        if not outcomes and not ended:
            return
        try:
            self._store.keep(outcomes)
        except DiskError as error:
            outcomes = [self._give_back(error, outcome.token) for outcome in outcomes]
        self._turns.close(outcomes)
        asked_at = self._turns.clock()
        verdicts = self._frontier.complete(outcomes, ended)
        self._turns.note_answer(asked_at)
        self._turns.reported(outcomes)
        accepted = [verdict for verdict in verdicts if verdict.state == "accepted"]
        self.counts.update("unchanged" if verdict.change == "unchanged" else verdict.status for verdict in accepted)
        self._store.settle(outcomes, verdicts)


def _has_file(outcome: Outcome) -> bool:
    return outcome.record is not None and bool(outcome.record.path)
