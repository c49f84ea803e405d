"""`crawler.turn.work_off`, one question at a time.

It is a generator that waits inside the calls it makes, so in one thread it can't be left alone there. Instead it is
begun anew for each answer and told the earlier ones again, with the same dice, until it asks what is still open.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crawler.model import Outcome, Request, Turn
from crawler.turn import work_off


@dataclass(frozen=True)
class Start:
    """May it begin a request at this time of the clock?"""

    at: float


class _Asked(BaseException):  # no Exception, which somebody might catch
    """A question that has no answer yet."""

    def __init__(self, question: Start | Request) -> None:
        super().__init__(question)
        self.question = question


class Steps:
    """One turn, worked off.

    Args:
        seed: of the dice for the pace.
        clock: monotonic seconds.
    """

    def __init__(self, turn: Turn, seed: int, clock: Callable[[], float]) -> None:
        self._turn, self._seed, self._clock = turn, seed, clock
        self._answers: list[Any] = []
        self._told = 0

    def next(self) -> Start | Request | Outcome | None:
        """The next question, which `answer` answers, or the next outcome; None at the end."""
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
