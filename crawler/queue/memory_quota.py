"""Limit on the memory of the master that large messages use together."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct


class _Reservation(Struct, frozen=True, eq=False):
    size: int
    owner: str


class MemoryQuota:
    """Quota of bytes that callers reserve and release; a reservation waits while too few bytes are free.

    Reservations are served in order of arrival, except that one that exceeds its owner's share does not delay others.

    Args:
        total: most bytes that are reserved at a time.
        share: most bytes that one owner may hold; a larger reservation counts as this many.
    """

    def __init__(self, total: int, share: int) -> None:
        self._total, self._share = total, share
        self._changed = threading.Condition()
        self._queue: list[_Reservation] = []
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Bytes that are reserved."""
        with self._changed:
            return self._held.total()

    @property
    def waiting(self) -> int:
        """Number of reservations that wait."""
        with self._changed:
            return len(self._queue)

    @contextmanager
    def hold(self, size: int, who: str, seconds: float) -> Iterator[None]:
        """Reserve ``size`` bytes for ``who`` until the block ends; wait at most ``seconds``.

        Raises:
            TimeoutError: other reservations held the memory all the time.
        """
        self._take(_Reservation(min(size, self._share), who), seconds)
        try:
            yield
        finally:
            with self._changed:
                self._held[who] -= min(size, self._share)
                self._held += Counter()  # drops owners that hold nothing
                self._changed.notify_all()

    def _take(self, reservation: _Reservation, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._changed:
            self._queue.append(reservation)
            try:
                while not self._is_next(reservation):
                    left = max(0.0, end - time.monotonic())
                    if not self._changed.wait(left) and not self._is_next(reservation):
                        raise TimeoutError("the master is busy with large messages from others; try again later")
                self._held[reservation.owner] += reservation.size
            finally:
                self._queue.remove(reservation)
                self._changed.notify_all()

    def _is_next(self, reservation: _Reservation) -> bool:
        first = next((other for other in self._queue if self._held[other.owner] + other.size <= self._share), None)
        return first is reservation and self._held.total() + reservation.size <= self._total
