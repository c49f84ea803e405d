"""In-memory registry of workers: last call, rate, state."""

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field

from crawler.frontier.leases import Leases
from crawler.model import WorkerInfo
from crawler.stats import WorkerStats

#: Seconds over which a rate is measured, and seconds between two samples.
_WINDOW, _STEP = 10.0, 1.0
#: Seconds of silence after which a worker's store counts as unreachable, and after which the worker may be forgotten.
_NEAR_SECONDS, _FORGET_SECONDS = 60.0, 3_600.0
#: Most workers that are remembered.
_MAX_WORKERS = 2_000
#: Longest time in seconds for which a network delays a hello.
_HELLO_DELAY = 60.0
#: A worker renews its leases after a quarter of their time. A lease with less than this part of its time left is late.
_LATE = 0.6


@dataclass(slots=True)
class _KnownWorker:
    """State of one worker."""

    #: Clock time of its last call.
    seen: float
    #: Requests that its outcomes settled.
    settled: int = 0
    #: Samples of the last seconds: clock time, and requests settled before it.
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    #: Whether its last call for work was answered with ``drained`` or ``draining``.
    is_dismissed: bool = False
    #: Whether its last connection was closed after its last call.
    is_disconnected: bool = False
    #: Whether it gets no more work until it joins again.
    is_leaving: bool = False
    #: Ids of the turns that its previous process held when the present one started.
    superseded: Collection[str] = ()
    #: Whether it said hello to this process of the frontier, and the answer is still up to date.
    is_announced: bool = False
    #: `WorkerInfo.life` of its last process; empty: unknown.
    life: str = ""
    about: WorkerInfo = field(default_factory=WorkerInfo)
    clock_ahead: float = 0.0

    def rate(self, now: float) -> float:
        """Return the requests settled per second over the last seconds."""
        samples = [sample for sample in self.samples if sample[0] > now - _WINDOW]
        return (self.settled - samples[0][1]) / max(_STEP, now - samples[0][0]) if samples else 0.0

    def begins(self, about: WorkerInfo, clock_ahead: float) -> bool:
        """Return whether a hello is the first of a new process of the worker, which holds no leases yet."""
        is_late = self._is_late(about, clock_ahead)
        return not about.stays and not is_late and (not about.life or about.life != self.life)

    def join(self, about: WorkerInfo, clock_ahead: float) -> None:
        """Record the start of a worker's process, unless the hello is of an earlier process than the last."""
        self.is_announced = True  # if the machine's clock was set back instead, the worker has its answer
        if not self._is_late(about, clock_ahead):
            self.life = about.life or self.life
            self.about, self.clock_ahead, self.is_leaving = about, clock_ahead, False

    def _is_late(self, about: WorkerInfo, clock_ahead: float) -> bool:
        """Return whether a hello is of an earlier process than the last one, because the network delayed it.

        The worker's clock then seems to be set back by the seconds of the delay. A clock that is back by more was set.
        """
        return 0 < about.wall < self.about.wall and self.clock_ahead - clock_ahead < _HELLO_DELAY

    def credit(self, settled: int, now: float) -> None:
        """Count requests that the worker settled."""
        if not self.samples or self.samples[-1][0] <= now - _STEP:
            self.samples.append((now, self.settled))
        while self.samples[0][0] <= now - _WINDOW:
            self.samples.popleft()
        self.settled += settled


class WorkerRegistry:
    """Workers by name, from their first call on."""

    def __init__(self) -> None:
        self.known: dict[str, _KnownWorker] = {}

    def heard(self, name: str, now: float) -> _KnownWorker:
        """Record a call of a worker and return its state."""
        worker = self.known.setdefault(name, _KnownWorker(now))
        worker.seen, worker.is_disconnected = now, False
        if len(self.known) > _MAX_WORKERS:
            self._forget(now)
        return worker

    def is_near(self, name: str, now: float) -> bool:
        """Return whether a worker called within the last minute, so that its store is reachable."""
        return name in self.known and now - self.known[name].seen < _NEAR_SECONDS

    def _forget(self, now: float) -> None:
        """Forget workers that have been silent for long, then the most silent ones above `_MAX_WORKERS`."""
        for name in [name for name, worker in self.known.items() if worker.seen < now - _FORGET_SECONDS]:
            del self.known[name]
        while len(self.known) > _MAX_WORKERS:
            del self.known[min(self.known, key=lambda name: self.known[name].seen)]

    def stats(self, leases: Leases, now: float) -> tuple[WorkerStats, ...]:
        """Return the state of each worker, in the order of their first calls."""
        held: Counter[str] = Counter()
        loses_in: dict[str, float] = {}
        for turn in leases.turns.values():
            held[turn.worker] += len(turn.entries)
            left = max(0.0, turn.until - now)
            if turn.entries and left < _LATE * turn.seconds:
                loses_in[turn.worker] = min(left, loses_in.get(turn.worker, left))
        return tuple(
            WorkerStats(
                name=name,
                leases=held[name],
                settled=worker.settled,
                rate=worker.rate(now),
                silent=max(0.0, now - worker.seen),
                loses_in=loses_in.get(name),
                is_told=worker.is_dismissed and not held[name],
                is_disconnected=worker.is_disconnected,
                about=worker.about,
                clock_ahead=worker.clock_ahead,
            )
            for name, worker in self.known.items()
        )
