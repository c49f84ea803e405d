"""`crawler.worker.turn.work_off`, one question at a time.

It is a generator that waits inside its calls, so a single thread can't suspend it there. Instead, each step starts it
again, gives it the earlier answers with the same random numbers, and stops at its next question.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crawler.model import Outcome, Request, Turn
from crawler.worker.turn import work_off


@dataclass(frozen=True)
class Start:
    """The question whether a request may begin at this time of the clock."""

    at: float


class _Asked(BaseException):  # not an Exception, so that no handler catches it
    """A question without an answer so far."""

    def __init__(self, question: Start | Request) -> None:
        super().__init__(question)
        self.question = question


class Steps:
    """The execution of one turn.

    Args:
        seed: for the random numbers of the pace.
        clock: monotonic seconds.
    """

    def __init__(self, turn: Turn, seed: int, clock: Callable[[], float]) -> None:
        self._turn, self._seed, self._clock = turn, seed, clock
        self._answers: list[Any] = []
        self._told = 0

    def next(self) -> Start | Request | Outcome | None:
        """Return the next question, which `answer` answers, or the next outcome; None at the end."""
        random.seed(self._seed)
        given = iter(self._answers)

        def ask(question: Start | Request) -> Any:
            for answer in given:
                return answer
            raise _Asked(question)

        def clock() -> float:
            for answer in given:
                return float(answer)
            self._answers.append(self._clock())
            return float(self._answers[-1])

        outcomes = work_off(self._turn, ask, may_start=lambda at: bool(ask(Start(at))), clock=clock)
        try:
            for number, outcome in enumerate(outcomes):
                if number == self._told:
                    self._told += 1
                    return outcome
        except _Asked as asked:
            return asked.question
        return None

    def answer(self, answer: bool | Outcome) -> None:
        """Answer the last question."""
        self._answers.append(answer)
