"""Reports of outcomes to the frontier, each after its file and its data are durable."""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf

from crawler.errors import DiskError
from crawler.model import Outcome
from crawler.worker.held_turns import NAP, EndedTurn, HeldTurns
from crawler.worker.patient_calls import PatientFrontier, PatientStore

#: Most events of one report, and least seconds from one report to the next.
_FLUSH_FILES = 256
_INTERVAL = 0.1


class Committer:
    """The thread that reports outcomes, after a flush of the files of all outcomes that have come meanwhile.

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
        reported_at = -inf
        while True:
            is_last = over.is_set()
            # At the end all threads that add events have ended, and further ones need not be awaited.
            events = self._collect(0.0, -inf) if is_last else self._collect(NAP, reported_at)
            ended = [event.turn for event in events if isinstance(event, EndedTurn)]
            self._report([event for event in events if isinstance(event, Outcome)], ended)
            reported_at = self._turns.clock()
            self._store.go_on()
            if is_last and not events:
                self._store.finish(stop)
                return

    def _collect(self, seconds: float, reported_at: float) -> list[Outcome | EndedTurn]:
        """Return the events since the last call, after waiting up to ``seconds`` for the first one.

        Unless one is urgent, the others have until `_INTERVAL` after the last report. So a report covers what came
        during the last one, whose length the disk and the network decide, and this thread wakes up a few times a
        second, not for each image.
        """
        events: list[Outcome | EndedTurn] = []
        with suppress(queue.Empty):
            event = self._turns.events.get(timeout=seconds)
            self._turns.urgent.wait(max(0.0, reported_at + _INTERVAL - self._turns.clock()))
            self._turns.urgent.clear()
            while event is not None:
                events.append(event)
                event = self._turns.events.get_nowait() if len(events) < _FLUSH_FILES else None
        return events

    def _report(self, outcomes: Sequence[Outcome], ended: Sequence[str]) -> None:
        if not outcomes and not ended:
            return
        try:
            self._store.keep(outcomes)
        except DiskError as error:
            outcomes = [
                self._give_back(error, outcome.token) if _has_file(outcome) else outcome for outcome in outcomes
            ]
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
