"""Between what was saved and what is told: the seam, and what of it waits while the disk refuses."""

import threading
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from crawler.errors import DiskError
from crawler.model import Outcome, Verdict
from crawler.pause import DiskPause


class Keeper(Protocol):
    """Stands between what was saved and what is told."""

    def note(self, outcome: Outcome) -> None:
        """It is going to be told, if this life lasts; from any thread. Raises `crawler.errors.DiskError`."""
        ...

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        """Return when what these outcomes tell of would survive; raises `crawler.errors.DiskError`."""
        ...

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> None:
        """The frontier has decided on them; raises `crawler.errors.DiskError`, and has done nothing then."""
        ...


class Keeping:
    """A keeper, or none, on a disk that may refuse; what was decided meanwhile is settled when it takes it again.

    `note` and `keep` raise `crawler.errors.DiskError`, for what they are about is not told then.
    """

    def __init__(self, keeper: Keeper | None, disk: DiskPause) -> None:
        self._keeper, self._disk = keeper, disk
        self._due: deque[tuple[Sequence[Outcome], Sequence[Verdict]]] = deque()

    def note(self, outcome: Outcome) -> None:
        if self._keeper is not None:
            self._keeper.note(outcome)

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        if self._keeper is not None:
            self._keeper.keep(outcomes)
        if any(outcome.record is not None and outcome.record.path for outcome in outcomes):
            self._disk.worked()

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> None:
        """The frontier has decided on them; raises `crawler.errors.DiskError` where that is not to be waited for."""
        self._due.append((outcomes, verdicts))
        self.go_on()

    def go_on(self) -> None:
        """Settle what is due, as far as the disk takes it; raises `crawler.errors.DiskError` as `settle` does."""
        while self._keeper is not None and self._due and not self._disk.is_on:
            try:
                self._keeper.settle(*self._due[0])
            except DiskError as error:
                if not self._disk.begin(error):
                    raise
            else:
                self._due.popleft()

    def finish(self, stop: threading.Event) -> None:
        """Settle all that is due, however long the disk refuses.

        Raises:
            DiskError: it has refused for too long, or ``stop`` is set; a later life finds what was noted.
        """
        while self._keeper is not None and self._due:
            self._disk.through(partial(self._keeper.settle, *self._due[0]), stop)
            self._due.popleft()
