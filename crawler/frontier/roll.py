"""Who works here: what the frontier knows of its workers, in memory."""

from collections import Counter
from dataclasses import dataclass

from crawler.frontier.leases import Leases
from crawler.model import GrantState, WorkerStats


@dataclass(slots=True)
class _Member:
    #: Clock time of its last call.
    seen: float
    #: Requests of which it brought the verdict.
    settled: int = 0
    #: Whether its last call for work was answered with the end.
    is_told: bool = False


class Roll:
    """Workers by name, from their first call on."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}

    def heard(self, worker: str, now: float) -> None:
        """It called."""
        self._members.setdefault(worker, _Member(now)).seen = now

    def credit(self, worker: str, settled: int) -> None:
        """It settled so many requests; it was heard of before."""
        self._members[worker].settled += settled

    def answered(self, worker: str, state: GrantState) -> None:
        """Its call for work was answered so; it was heard of before."""
        self._members[worker].is_told = state in ("draining", "drained")

    def stats(self, leases: Leases, now: float) -> tuple[WorkerStats, ...]:
        """Each of them, in the order of their first calls."""
        held: Counter[str] = Counter()
        for turn in leases.turns.values():
            held[turn.worker] += len(turn.entries)
        return tuple(
            WorkerStats(
                name=name,
                leases=held[name],
                settled=member.settled,
                silent=max(0.0, now - member.seen),
                is_told=member.is_told and not held[name],
            )
            for name, member in self._members.items()
        )
