"""Events in the order of their times, and the processes that they belong to: the only clock of a simulated crawl."""

import heapq
import random
from collections.abc import Callable

Action = Callable[[], None]


class Loop:
    """Runs events one after the other; time passes only between them.

    Args:
        seed: determines all random choices.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311  # chance, not secrets
        self.now = 0.0
        self.trace: list[str] = []
        self._events: list[tuple[float, int, Action]] = []
        self._count = 0
        self._names: dict[str, str] = {}

    def later(self, seconds: float, action: Action) -> None:
        """Schedule an action this number of seconds from now."""
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, action))

    def step(self) -> bool:
        """Run the next event; return False if there is none."""
        if not self._events:
            return False
        self.now, _, action = heapq.heappop(self._events)
        action()
        return True

    def note(self, text: str) -> None:
        """Append a line to the trace."""
        self.trace.append(f"{self.now:9.3f}  {text}")

    def name(self, secret: str) -> str:
        """Return a name for a truly random string that is the same in every run."""
        return self._names.setdefault(secret, f"#{len(self._names) + 1}")

    def is_so(self, chance: float) -> bool:
        return self.dice.random() < chance


class Process:
    """A process that can be killed, stopped (SIGSTOP) and started again; its events die with it or wait.

    Its monotonic clock starts at a random value, and at another one in each life, as after a boot.
    """

    def __init__(self, loop: Loop, name: str) -> None:
        self.loop, self.name = loop, name
        self.is_alive = self.is_stopped = False
        self.life = 0
        #: Number of stops.
        self.stops = 0
        self._ahead = 0.0
        self._held_up: list[Action] = []

    def clock(self) -> float:
        """Return the monotonic seconds."""
        return self.loop.now + self._ahead

    def start(self) -> None:
        self.is_alive, self.is_stopped = True, False
        self.life += 1
        self._ahead = self.loop.dice.uniform(10.0, 1e6)
        self.loop.note(f"{self.name} starts")

    def end(self, how: str) -> None:
        self.loop.note(f"{self.name} {how}")
        self.is_alive = False
        self._held_up.clear()

    def stop(self, seconds: float) -> None:
        """Suspend it for a while; delayed events then happen at once, in any order."""
        if not self.is_alive or self.is_stopped:
            return
        self.loop.note(f"{self.name} is stopped for {seconds:.3f}")
        self.is_stopped = True
        self.stops += 1
        life = self.life
        self.loop.later(seconds, lambda: self._go_on(life))

    def _go_on(self, life: int) -> None:
        if life != self.life or not self.is_alive:
            return
        self.loop.note(f"{self.name} goes on")
        self.is_stopped = False
        held_up, self._held_up = self._held_up, []
        self.loop.dice.shuffle(held_up)
        for action in held_up:
            self.later(0.0, action)

    def later(self, seconds: float, action: Action) -> None:
        """Schedule an action in the present life of the process."""
        life = self.life
        self.loop.later(seconds, lambda: self._happen(life, action))

    def _happen(self, life: int, action: Action) -> None:
        if life != self.life or not self.is_alive:
            return
        if self.is_stopped:
            self._held_up.append(action)
        else:
            action()
