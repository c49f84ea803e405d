"""Who works here: what the frontier knows of its workers, in memory."""

from collections import Counter, deque
from dataclasses import dataclass, field

from crawler.frontier.leases import Leases
from crawler.model import About, GrantState, WorkerStats

#: Seconds that a rate looks back, and those between two of the marks it is measured by.
_WINDOW, _STEP = 10.0, 1.0
#: Seconds of silence after which a worker is far, and after which it may be forgotten.
_NEAR, _LONG = 60.0, 3_600.0
#: Workers that are remembered.
MAX_MEMBERS = 2_000
#: A worker renews its leases after a quarter of their time. Who has less than this part of it left is late.
_LATE = 0.6


@dataclass(slots=True)
class _Member:
    #: Clock time of its last call.
    seen: float
    #: Requests of which it brought the verdict.
    settled: int = 0
    #: Clock times of the last seconds, and what was settled before each.
    marks: deque[tuple[float, int]] = field(default_factory=deque)
    #: Whether its last call for work was answered with the end.
    is_told: bool = False
    #: Whether it gets no more work until it joins again.
    is_leaving: bool = False
    #: Clock time at which it began its life, if it said so.
    joined: float | None = None
    #: Whether it said hello to this life of the frontier, and the answer still holds.
    is_announced: bool = False
    #: Name of the life that it began last, as far as it was told.
    life: str = ""
    about: About = field(default_factory=About)
    clock_ahead: float = 0.0

    def rate(self, now: float) -> float:
        """Requests settled per second, lately."""
        marks = [mark for mark in self.marks if mark[0] > now - _WINDOW]
        return (self.settled - marks[0][1]) / max(_STEP, now - marks[0][0]) if marks else 0.0


class Roll:
    """Workers by name, from their first call on."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}

    def heard(self, worker: str, now: float) -> None:
        """It called."""
        self._members.setdefault(worker, _Member(now)).seen = now
        if len(self._members) > MAX_MEMBERS:
            self._forget(now)

    def join(self, worker: str, about: About, now: float, *, clock_ahead: float) -> None:
        """It begins a life, unless a later one has begun already; it was heard of before."""
        member = self._members[worker]
        if _is_late(about, member):
            member.is_announced = True  # it may be the same box with its clock set back: it has been told all the same
            return
        member.joined = now if not about.stays else member.joined
        member.life = about.life or member.life
        member.about, member.clock_ahead = about, clock_ahead
        member.is_announced, member.is_leaving = True, False

    def begins(self, worker: str, about: About) -> bool:
        """Whether it says so for the first time in a life, in which it holds nothing yet; it was heard of before."""
        member = self._members[worker]
        return not about.stays and not _is_late(about, member) and (not about.life or about.life != member.life)

    def is_new(self, worker: str, now: float, seconds: float) -> bool:
        """Whether it began this life so lately that leases of so many seconds can't have been lost since."""
        joined = self._members[worker].joined
        return joined is not None and now - joined < seconds

    def greet_anew(self) -> None:
        """What they were told at their hello is out of date: each is to say it again."""
        for member in self._members.values():
            member.is_announced = False

    def is_announced(self, worker: str) -> bool:
        """Whether it said hello; it was heard of before."""
        return self._members[worker].is_announced

    def silence(self, worker: str, now: float) -> float | None:
        """Seconds since it was heard of; None where it never was."""
        member = self._members.get(worker)
        return now - member.seen if member is not None else None

    def is_near(self, worker: str, now: float) -> bool:
        """Whether it was heard of lately, so that its store is within reach."""
        silence = self.silence(worker, now)
        return silence is not None and silence < _NEAR

    def credit(self, worker: str, settled: int, now: float) -> None:
        """It settled so many requests; it was heard of before."""
        member = self._members[worker]
        if not member.marks or member.marks[-1][0] <= now - _STEP:
            member.marks.append((now, member.settled))
        while member.marks[0][0] <= now - _WINDOW:
            member.marks.popleft()
        member.settled += settled

    def answered(self, worker: str, state: GrantState) -> None:
        """Its call for work was answered so; it was heard of before."""
        self._members[worker].is_told = state in ("draining", "drained")

    def send_away(self, worker: str) -> None:
        """It gets no more work in this life; nothing happens where nobody has that name."""
        if worker in self._members:
            self._members[worker].is_leaving = True

    def is_leaving(self, worker: str) -> bool:
        """Whether it gets no more work; it was heard of before."""
        return self._members[worker].is_leaving

    def _forget(self, now: float) -> None:
        """Who has been silent for long makes room for others."""
        for name in [name for name, member in self._members.items() if member.seen < now - _LONG]:
            del self._members[name]
        while len(self._members) > MAX_MEMBERS:
            del self._members[min(self._members, key=lambda name: self._members[name].seen)]

    def stats(self, leases: Leases, now: float) -> tuple[WorkerStats, ...]:
        """Each of them, in the order of their first calls."""
        held: Counter[str] = Counter()
        late: dict[str, float] = {}
        for turn in leases.turns.values():
            held[turn.worker] += len(turn.entries)
            left = max(0.0, turn.until - now)
            if turn.entries and left < _LATE * turn.seconds:
                late[turn.worker] = min(left, late.get(turn.worker, left))
        return tuple(
            WorkerStats(
                name=name,
                leases=held[name],
                settled=member.settled,
                rate=member.rate(now),
                silent=max(0.0, now - member.seen),
                loses_in=late.get(name),
                is_told=member.is_told and not held[name],
                about=member.about,
                clock_ahead=member.clock_ahead,
            )
            for name, member in self._members.items()
        )


def _is_late(about: About, member: _Member) -> bool:
    """Whether it is of a life before the one that has begun: a network may keep words longer than a worker lives."""
    return 0 < about.wall < member.about.wall
