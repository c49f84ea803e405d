"""The connection from a worker to the master: calls as bytes, on a network that loses, delays and repeats them.

It repeats calls as `crawler.queue.client.Link` does: an attempt that is cut or takes too long is given up and made
again. So a call may be carried out more than once, and even after a later one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crawler.errors import CrawlerError
from crawler.queue import protocol
from crawler.queue.client import _ANSWER_SECONDS, _WAIT_AFTER_LOSS
from tests.simulation.loop import Loop, Process
from tests.simulation.master import Master


@dataclass
class NetworkFaults:
    """The network faults of one worker: probabilities, and faults that last for a while."""

    lost_request: float = 0.0
    lost_answer: float = 0.0
    twice: float = 0.0
    slow: float = 0.0
    #: Times until which nothing passes, and until which no response does.
    cut_until: float = 0.0
    deaf_until: float = 0.0

    def clear_up(self) -> None:
        self.lost_request = self.lost_answer = self.twice = self.slow = self.cut_until = self.deaf_until = 0.0


@dataclass(eq=False)
class _Attempt:
    """One connection that carries one call."""

    #: Whether the worker has given it up, and whether the master could detect that.
    is_over: bool = False
    is_seen: bool = False


class Line:
    """The calls of one life of a worker.

    Args:
        on_loss: called when the worker gives up because the master was unreachable for too long.
    """

    def __init__(
        self, loop: Loop, worker: Process, master: Master, network: NetworkFaults, on_loss: Callable[[], None]
    ):
        self._loop, self._worker, self._master, self._network = loop, worker, master, network
        self._on_loss = on_loss
        self._life = worker.life

    @property
    def is_open(self) -> bool:
        """Return whether the worker is still in the life that this line belongs to."""
        return self._worker.is_alive and self._worker.life == self._life

    def call(self, ident: str, method: str, *arguments: Any, then: Callable[[Any], None], seconds: float = 0.0) -> None:
        """Call a method of the master, with as many attempts as necessary."""
        frame = protocol.write_call(ident, method, arguments)
        _Call(self, frame, protocol.SIGNATURES[ident][method], seconds + _ANSWER_SECONDS, then).attempt()

    def delay(self) -> float:
        """Return the seconds that a message takes."""
        dice = self._loop.dice
        if dice.random() < self._network.slow:
            return dice.uniform(0.0, 40.0)
        return dice.uniform(0.001, 0.02)


class _Call:
    """One call, until it is answered."""

    def __init__(
        self, line: Line, frame: bytes, signature: protocol.Signature, seconds: float, then: Callable[[Any], None]
    ) -> None:
        self._line, self._frame, self._signature, self._seconds, self._then = line, frame, signature, seconds, then
        self._attempts = 0
        self._lost_at = -1.0

    def attempt(self) -> None:
        line = self._line
        loop, network, worker = line._loop, line._network, line._worker
        attempt = _Attempt()
        self._attempts += 1
        worker.later(self._seconds, lambda: self._give_up(attempt, is_seen=False))
        if loop.now < network.cut_until or loop.is_so(network.lost_request):
            if loop.is_so(0.5):  # a reset, or silence
                worker.later(line.delay(), lambda: self._give_up(attempt))
            return
        for _ in range(2 if loop.is_so(network.twice) else 1):
            loop.later(line.delay(), lambda: self._arrive(attempt))

    def _arrive(self, attempt: _Attempt) -> None:
        """Deliver the call to the master's machine; a worker that gave it up may have disconnected before."""
        master, loop = self._line._master, self._line._loop
        if attempt.is_over and attempt.is_seen and loop.is_so(0.5):
            return
        if not master.process.is_alive:
            if self._line.is_open:
                self._line._worker.later(self._line.delay(), lambda: self._give_up(attempt))
            return
        life = master.process.life

        def reply(answer: bytes) -> bool:
            return master.process.life == life and self._answer(attempt, answer)

        master.process.later(0.0, lambda: master.serve(self._frame, reply))

    def _answer(self, attempt: _Attempt, answer: bytes) -> bool:
        """Return whether the master could send its response, as far as it can detect."""
        line = self._line
        loop, network = line._loop, line._network
        if (attempt.is_over and attempt.is_seen) or not line.is_open:
            return False
        if loop.now < max(network.cut_until, network.deaf_until):
            return True
        if loop.is_so(network.lost_answer):
            line._worker.later(line.delay(), lambda: self._give_up(attempt))
            return True
        line._worker.later(line.delay(), lambda: self._take(attempt, answer))
        return True

    def _take(self, attempt: _Attempt, answer: bytes) -> None:
        if attempt.is_over:
            return
        attempt.is_over = attempt.is_seen = True
        result = protocol.read_answer(answer, self._signature)
        if isinstance(result, CrawlerError):  # a full disk, for example; the contract is that the call may be repeated
            self._line._loop.note(f"{self._line._worker.name} is answered with {type(result).__name__}")
            self._line._worker.later(1.0, self.attempt)
        else:
            self._then(result)

    def _give_up(self, attempt: _Attempt, *, is_seen: bool = True) -> None:
        """Drop the connection and try again after a pause."""
        if attempt.is_over:
            return
        attempt.is_over, attempt.is_seen = True, is_seen
        loop, worker = self._line._loop, self._line._worker
        self._lost_at = loop.now if self._lost_at < 0 else self._lost_at
        if loop.now - self._lost_at > _WAIT_AFTER_LOSS:
            self._line._on_loss()
            return
        pause = min(2.0, 0.05 * 2.0 ** min(self._attempts, 10)) * loop.dice.uniform(0.5, 1.0)
        worker.later(pause, self.attempt)
