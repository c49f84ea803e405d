"""How much of the master's memory large messages may take up together."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct


class _Wish(Struct, frozen=True, eq=False):
    size: int
    who: str


class Ration:
    """Bytes that are handed out until they are given back; who asks for more than is left waits.

    Whoever came first is served first, but nobody waits for somebody who waits for his own share.

    Args:
        total: bytes that are out at most.
        share: bytes of them that one party may hold, and the most that may be asked for.
    """

    def __init__(self, total: int, share: int) -> None:
        self._total, self._share = total, share
        self._changed = threading.Condition()
        self._queue: list[_Wish] = []
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Bytes that are out."""
        with self._changed:
            return self._held.total()

    @property
    def waiting(self) -> int:
        """How many wait for theirs."""
        with self._changed:
            return len(self._queue)

    @contextmanager
    def hold(self, size: int, who: str, seconds: float) -> Iterator[None]:
        """Have ``size`` bytes for the length of the block, after ``seconds`` of waiting at most.

        Raises:
            TimeoutError: others had them all the time.
        """
        self._take(_Wish(min(size, self._share), who), seconds)
        try:
            yield
        finally:
            with self._changed:
                self._held[who] -= min(size, self._share)
                self._held += Counter()  # drops who holds nothing
                self._changed.notify_all()

    def _take(self, wish: _Wish, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._changed:
            self._queue.append(wish)
            try:
                while not self._is_next(wish):
                    if not self._changed.wait(max(0.0, end - time.monotonic())) and not self._is_next(wish):
                        raise TimeoutError("others had large messages under way all the time")
                self._held[wish.who] += wish.size
            finally:
                self._queue.remove(wish)
                self._changed.notify_all()

    def _is_next(self, wish: _Wish) -> bool:
        first = next((each for each in self._queue if self._held[each.who] + each.size <= self._share), None)
        return first is wish and self._held.total() + wish.size <= self._total
