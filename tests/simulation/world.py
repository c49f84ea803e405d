"""One integer → one crawl: its web, its settings, its faults, and whether all invariants held."""

import random
import shutil
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random

from crawler.frontier.politeness import Policy
from crawler.model import Kind
from crawler.store.outbox import Outbox
from crawler.store.result_store import OwnResultStore, ResultStore
from crawler.worker.worker import WorkerSettings
from tests.simulation.invariants import Invariants
from tests.simulation.line import Line, NetworkFaults
from tests.simulation.loop import Loop, Process
from tests.simulation.master import Master
from tests.simulation.politeness import HostLogs
from tests.simulation.stores import SimulatedStore
from tests.simulation.web import Web
from tests.simulation.workers import Life, Local, Remote

#: Seconds of simulated time after which faults stop, and those within which the crawl must end then.
TROUBLE, BOUND = 120.0, 3_600.0
#: More events than any crawl takes; a crawl with more loops without progress.
_MOST_EVENTS = 300_000
_YEAR = 31_557_600.0
#: Kinds of faults.
FAULTS = frozenset(
    {
        *("kill worker", "cut power of worker", "stop worker", "partition", "half-open"),
        *("kill master", "kill master at a commit", "cut power of master", "stop master"),
        *("set the clock", "refuse commits", "crash worker"),
    }
)
_WALKER: tuple[Kind, ...] = ("page", "part", "robots", "list")
_DOWNLOADER: tuple[Kind, ...] = ("image", "robots")


@dataclass(frozen=True)
class Result:
    """The result of a simulated crawl."""

    seed: int
    trace: tuple[str, ...]
    #: The violated invariant; empty if there is none.
    breach: str
    #: Simulated seconds, events, and numbers of faults by kind.
    seconds: float
    events: int
    faults: dict[str, int]
    #: Numbers of visits and of their results: verdicts, and late requests.
    counts: dict[str, int]

    @property
    def digest(self) -> str:
        """Return a checksum that is equal for equal runs."""
        return sha256("\n".join(self.trace).encode()).hexdigest()


class Machine:
    """The machine of one downloader: a process that is killed and started again, and the store that survives."""

    def __init__(self, world: "World", number: int) -> None:
        self.world, self.name = world, f"machine/{number:08x}-0"
        self.process = Process(world.loop, self.name)
        self.network = NetworkFaults()
        root = world.folder / f"store-{number}"
        root.mkdir()
        self.store = SimulatedStore(root, f"{number:016x}")
        world.invariants.stores[self.store.id] = self.store
        self._life: Life | None = None
        self._ahead = world.loop.dice.uniform(-100.0, 100.0)
        self.is_done = False

    def start(self) -> None:
        """Start it, unless it runs or the crawl is over."""
        if self.process.is_alive or self.is_done:
            return
        self.process.start()
        world = self.world
        line = Line(world.loop, self.process, world.master, self.network, self._give_up)
        self._life = Life(
            self.name,
            self.process,
            Remote(line),
            _DOWNLOADER,
            world.settings,
            loop=world.loop,
            web=world.web,
            host_logs=world.host_logs,
            shelf=self._shelf(),
            wall=lambda: world.master.wall() + self._ahead,
            on_end=self._finish,
            on_crash=self._crash,
        )
        self._life.begin()

    def _shelf(self) -> ResultStore:
        if self.world.has_own_records:
            return OwnResultStore(self.store, self.name, 0, "crawl", self.store.root)
        return ResultStore(self.store, Outbox(self.store.root, self.name, 0))

    def kill(self, *, is_power_cut: bool = False) -> None:
        """End it at once; it is started again after a while."""
        if not self.process.is_alive:
            return
        self._end("loses power" if is_power_cut else "is killed")
        if is_power_cut:
            self.store.lose_power()
            for notes in self.store.root.glob(".told-*.jsonl"):
                data = notes.read_bytes()
                notes.write_bytes(data[: self.world.loop.dice.randint(0, len(data))])
        self.world.loop.later(self.world.loop.dice.uniform(0.0, 2.0 * self.world.settings.lease), self.start)

    def _crash(self) -> None:
        """End it after a picture has crashed it."""
        self.world.faults["crash worker"] = self.world.faults.get("crash worker", 0) + 1
        self.kill()

    def _give_up(self) -> None:
        self._end("gives up")
        self.world.loop.later(self.world.loop.dice.uniform(1.0, 10.0), self.start)

    def _finish(self) -> None:
        self.is_done = True
        self._end("is done")

    def _end(self, how: str) -> None:
        if self._life is not None:
            self._life.die()
        self.process.end(how)


class World:
    """The whole crawl of a seed.

    Args:
        folder: for the files; empty.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.folder = folder
        self.loop = Loop(seed)
        dice = self.loop.dice
        self.is_calm = dice.random() < 0.1
        lease = dice.choice((120.0, 120.0, 30.0, 8.0, 2.0))
        self.settings = WorkerSettings(
            threads=dice.choice((1, 2, 4, 16)),
            batch=dice.choice((1, 2, 16, 16)),
            lease=lease,
            request=dice.choice((min(20.0, lease / 2), lease / 2)),
        )
        self.policy = Policy(
            delay=dice.choice((0.0, 0.2, 1.0, 1.0, 3.0)),
            per_host=dice.choice((1, 2, 5)),
            robots=dice.random() < 0.8,
            order=dice.choice(("fifo", "fifo", "lifo", "priority")),
            patience=dice.choice((60.0, 60.0, 10.0, 0.0)),
        )
        self.has_own_records = dice.random() < 0.3
        self.web = Web(dice, self.settings.margin, is_calm=self.is_calm)
        self.host_logs = HostLogs(self.loop, self.policy, self.web)
        self.invariants = Invariants(self.loop, self.policy, self.web, self.host_logs)
        self.invariants.lease_seconds = lease
        self.master = Master(self.loop, folder, self.policy, self.web.seeds, self.invariants)
        self.master.on_start.append(self._walk)
        self.master.on_death.append(self._walker_dies)
        self.machines = [Machine(self, number) for number in range(dice.randint(1, 4))]
        self.faults: dict[str, int] = {}
        self._walker: Life | None = None
        self.events = 0

    # running ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run from the first start to the end."""
        dice = self.loop.dice
        self.loop.note(f"{self.settings} {self.policy}")
        self.master.start()
        for machine in self.machines:
            self.loop.later(dice.uniform(0.0, 3.0), machine.start)
        if not self.is_calm:
            self._plan_trouble(dice)
            self.loop.later(TROUBLE, self._calm_down)
        while not all(machine.is_done for machine in self.machines):
            self.events += 1
            if self.loop.now > TROUBLE + BOUND or self.events > _MOST_EVENTS:
                raise AssertionError("the crawl does not end")
            if not self.loop.step():
                raise AssertionError("nothing happens any more")
        if self.master.process.is_alive:
            self.master.close()
        self.master.start()
        self.invariants.check_all(self.master.frontier)

    def close(self) -> None:
        for machine in self.machines:
            if machine.process.is_alive:
                machine._end("is left")
        if self.master.process.is_alive:
            self.master.close()

    def _walk(self) -> None:
        """Start the worker that walks pages; it lives and dies with its master."""
        process = self.master.process
        self._walker = Life(
            "harvester",
            process,
            Local(self.master),
            _WALKER,
            self.settings,
            loop=self.loop,
            web=self.web,
            host_logs=self.host_logs,
            shelf=None,
            wall=self.master.wall,
            on_end=lambda: None,
            on_crash=lambda: None,
        )
        process.later(0.0, self._walker.begin)

    def _walker_dies(self) -> None:
        if self._walker is not None:
            self._walker.die()
            self._walker = None

    # faults -----------------------------------------------------------------------------------------------------------

    def _plan_trouble(self, dice: Random) -> None:
        """Choose some kinds of faults, each of which recurs; not all of them at once, as they hide each other."""
        kinds: dict[str, Callable[[], None]] = {
            "kill worker": lambda: self._random_machine().kill(),
            "cut power of worker": lambda: self._random_machine().kill(is_power_cut=True),
            "stop worker": lambda: self._random_machine().process.stop(self._duration()),
            "partition": self._partition,
            "half-open": self._make_half_open,
            "kill master": self._kill_master,
            "kill master at a commit": self._kill_at_commit,
            "cut power of master": lambda: self._kill_master(is_power_cut=True),
            "stop master": lambda: self.master.process.stop(self._duration()),
            "set the clock": lambda: self.master.set_clock(dice.choice((-_YEAR, _YEAR, -3600.0, 3600.0))),
            "refuse commits": self._refuse,
        }
        for kind, act in kinds.items():
            if dice.random() < 0.35:
                self._repeat(kind, act, dice.choice((5.0, 20.0, 60.0)))
        for machine in self.machines:
            network = machine.network
            network.lost_request, network.lost_answer = dice.choice((0.0, 0.02, 0.2)), dice.choice((0.0, 0.02, 0.3))
            network.twice, network.slow = dice.choice((0.0, 0.02, 0.2)), dice.choice((0.0, 0.0, 0.01, 0.05))

    def _repeat(self, kind: str, act: Callable[[], None], every: float) -> None:
        def happen() -> None:
            if self.loop.now < TROUBLE:
                self.faults[kind] = self.faults.get(kind, 0) + 1
                act()
                self._repeat(kind, act, every)

        self.loop.later(self.loop.dice.expovariate(1.0 / every), happen)

    def _calm_down(self) -> None:
        """Stop all faults, so that the crawl must come to its end."""
        self.loop.note("calm")
        self.master.refusals, self.master.dies = 0, ""
        for machine in self.machines:
            machine.network.clear_up()
            machine.start()

    def _random_machine(self) -> Machine:
        return self.loop.dice.choice(self.machines)

    def _duration(self) -> float:
        """Return a random duration of a fault, sometimes longer than a lease."""
        return self.loop.dice.choice((0.05, 1.0, 0.5, 1.5, 3.0)) * self.settings.lease * self.loop.dice.random()

    def _partition(self) -> None:
        self._random_machine().network.cut_until = self.loop.now + self._duration()

    def _make_half_open(self) -> None:
        self._random_machine().network.deaf_until = self.loop.now + self._duration()

    def _kill_master(self, *, is_power_cut: bool = False) -> None:
        if self.master.process.is_alive:
            self.master.kill(is_power_cut=is_power_cut)

    def _kill_at_commit(self) -> None:
        if self.master.process.is_alive:
            self.master.dies = self.loop.dice.choice(("before", "after"))

    def _refuse(self) -> None:
        self.master.refusals = self.loop.dice.randint(1, 3)

    def restart_master(self) -> None:
        """Start it again after a short or a long time."""
        self.loop.later(self.loop.dice.choice((0.1, 3.0, 30.0)) * self.loop.dice.random(), self._start_master)

    def _start_master(self) -> None:
        if not self.master.process.is_alive:
            self.master.start()


def simulate(seed: int) -> Result:
    """Run the crawl of that seed."""
    folder = Path(tempfile.mkdtemp(prefix="simulation-"))
    state = random.getstate()
    breach = ""
    world = World(seed, folder)
    try:
        world.master.on_death.append(world.restart_master)
        world.run()
    except AssertionError as error:
        breach = str(error) or repr(error)
    except Exception:  # noqa: BLE001  # any exception is a violation, reported with its seed
        breach = traceback.format_exc()
    finally:
        world.master.on_death.remove(world.restart_master)
        world.close()
        random.setstate(state)
        shutil.rmtree(folder)
    counts = {"visits": world.web.visits.total(), "late": world.host_logs.late_requests, **world.invariants.verdicts}
    return Result(seed, tuple(world.loop.trace), breach, world.loop.now, world.events, world.faults, counts)
