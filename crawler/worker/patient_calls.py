"""Wrappers of the frontier and of the store of a worker for the time in which their disk is unavailable."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from crawler.errors import DiskError, DiskTrouble
from crawler.frontier.base import Frontier
from crawler.model import Grant, Kind, Outcome, Renewal, Verdict
from crawler.store.full_disk_pause import RETRY_SECONDS, DiskPause, Result
from crawler.store.result_store import ResultStore


class PatientFrontier:
    """Wrapper of a frontier that repeats calls while the frontier's own disk is unavailable.

    Args:
        worker: name of the worker that calls it.
        over: when set, calls are not repeated.
    """

    def __init__(self, worker: str, frontier: Frontier, over: threading.Event) -> None:
        self._worker, self._frontier, self._over = worker, frontier, over

    def lease(self, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        """Return a grant of the frontier, or an empty grant while its disk is unavailable."""
        try:
            return self._frontier.lease(self._worker, kinds, limit, seconds, wait)
        except DiskTrouble:
            self._over.wait(RETRY_SECONDS)
            return Grant(retry_in=RETRY_SECONDS)

    def extend(self, tokens: Sequence[str], seconds: float) -> Renewal:
        return self._repeat(lambda: self._frontier.extend(self._worker, tokens, seconds))

    def complete(self, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        return self._repeat(lambda: self._frontier.complete(self._worker, outcomes, ended_turns))

    def _repeat(self, call: Callable[[], Result]) -> Result:
        while True:
            try:
                return call()
            except DiskTrouble:
                if self._over.wait(RETRY_SECONDS):
                    raise


class PatientStore:
    """Wrapper of an optional `ResultStore` on a disk that may be unavailable; verdicts wait until the disk works.

    `note` and `keep` raise `crawler.errors.DiskError` at once, because their outcomes are not reported then.
    """

    def __init__(self, store: ResultStore | None, disk: DiskPause) -> None:
        self._store, self._disk = store, disk
        self._pending: deque[tuple[Sequence[Outcome], Sequence[Verdict]]] = deque()

    def note(self, outcome: Outcome) -> None:
        if self._store is not None:
            self._store.note(outcome)

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        if self._store is not None:
            self._store.keep(outcomes)
        if any(outcome.record is not None and outcome.record.path for outcome in outcomes):
            self._disk.worked()

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> None:
        """Settle outcomes with the frontier's verdicts, now or once the disk works again.

        Raises:
            DiskError: the disk failed in a way that waiting does not solve.
        """
        self._pending.append((outcomes, verdicts))
        self.go_on()

    def go_on(self) -> None:
        """Settle pending verdicts unless the disk is unavailable; raise `crawler.errors.DiskError` as `settle` does."""
        while self._store is not None and self._pending and not self._disk.is_on:
            try:
                self._store.settle(*self._pending[0])
            except DiskError as error:
                if not self._disk.begin(error):
                    raise
            else:
                self._pending.popleft()

    def finish(self, stop: threading.Event) -> None:
        """Settle all pending verdicts; wait while the disk is unavailable.

        Raises:
            DiskError: the disk was unavailable for too long, or ``stop`` is set. The next run finds the noted outcomes.
        """
        while self._store is not None and self._pending:
            self._disk.through(partial(self._store.settle, *self._pending[0]), stop)
            self._pending.popleft()
