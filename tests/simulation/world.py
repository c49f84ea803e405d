"""One integer → one crawl: its web, its settings, its misfortunes, and whether everything held that must."""

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
from crawler.notes import Notes
from crawler.shelf import OwnShelf, Shelf
from crawler.worker import WorkerSettings
from tests.simulation.judge import Judge
from tests.simulation.line import Line, Weather
from tests.simulation.loop import Loop, Process
from tests.simulation.manners import Manners
from tests.simulation.master import Master
from tests.simulation.stores import SimulatedStore
from tests.simulation.web import Web
from tests.simulation.workers import Life, Local, Remote

#: Seconds of simulated time after which misfortunes stop, and those within which the crawl must end then.
TROUBLE, BOUND = 120.0, 3_600.0
#: More events than any crawl takes: one that goes round in circles within no time.
_MOST_EVENTS = 300_000
_YEAR = 31_557_600.0
#: What may happen.
FAULTS = frozenset(
    {
        *("kill worker", "cut power of worker", "stop worker", "partition", "half-open"),
        *("kill master", "kill master at a commit", "cut power of master", "stop master"),
        *("set the clock", "refuse commits"),
    }
)
_WALKER: tuple[Kind, ...] = ("page", "part", "robots", "list")
_DOWNLOADER: tuple[Kind, ...] = ("image", "robots")


@dataclass(frozen=True)
class Result:
    """How a simulated crawl went."""

    seed: int
    trace: tuple[str, ...]
    #: What did not hold; empty: everything did.
    breach: str
    #: Simulated seconds, events, and numbers of misfortunes by kind.
    seconds: float
    events: int
    faults: dict[str, int]
    #: Numbers of visits and of what they came to: verdicts, and late requests.
    counts: dict[str, int]

    @property
    def digest(self) -> str:
        """Equal for equal runs."""
        return sha256("\n".join(self.trace).encode()).hexdigest()


class Box:
    """One downloader's box: the process that is killed and started again, and what survives in it."""

    def __init__(self, world: "World", number: int) -> None:
        self.world, self.name = world, f"box/{number:08x}-0"
        self.process = Process(world.loop, self.name)
        self.weather = Weather()
        root = world.folder / f"store-{number}"
        root.mkdir()
        self.store = SimulatedStore(root, f"{number:016x}")
        world.judge.stores[self.store.id] = self.store
        self._life: Life | None = None
        self._ahead = world.loop.dice.uniform(-100.0, 100.0)
        self.is_done = False

    def start(self) -> None:
        """Unless it runs, or the crawl is over."""
        if self.process.is_alive or self.is_done:
            return
        self.process.start()
        world = self.world
        line = Line(world.loop, self.process, world.master, self.weather, self._give_up)
        self._life = Life(
            self.name,
            self.process,
            Remote(line),
            _DOWNLOADER,
            world.settings,
            loop=world.loop,
            web=world.web,
            manners=world.manners,
            shelf=self._shelf(),
            wall=lambda: world.master.wall() + self._ahead,
            on_end=self._finish,
        )
        self._life.begin()

    def _shelf(self) -> Shelf:
        if self.world.has_own_records:
            return OwnShelf(self.store, self.name, 0, "crawl")
        return Shelf(self.store, Notes(self.store.root, self.name, 0))

    def kill(self, *, is_power_cut: bool = False) -> None:
        """At once; it is started again after a while."""
        if not self.process.is_alive:
            return
        self._end("loses power" if is_power_cut else "is killed")
        if is_power_cut:
            self.store.lose_power()
            for notes in self.store.root.glob(".told-*.jsonl"):
                data = notes.read_bytes()
                notes.write_bytes(data[: self.world.loop.dice.randint(0, len(data))])
        self.world.loop.later(self.world.loop.dice.uniform(0.0, 2.0 * self.world.settings.lease), self.start)

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
    """Everything that a seed says.

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
        self.manners = Manners(self.loop, self.policy, self.web)
        self.judge = Judge(self.loop, self.policy, self.web, self.manners)
        self.judge.lease_seconds = lease
        self.master = Master(self.loop, folder, self.policy, self.web.seeds, self.judge)
        self.master.on_start.append(self._walk)
        self.master.on_death.append(self._walker_dies)
        self.boxes = [Box(self, number) for number in range(dice.randint(1, 4))]
        self.faults: dict[str, int] = {}
        self._walker: Life | None = None
        self.events = 0

    # running ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the first start to the end."""
        dice = self.loop.dice
        self.loop.note(f"{self.settings} {self.policy}")
        self.master.start()
        for box in self.boxes:
            self.loop.later(dice.uniform(0.0, 3.0), box.start)
        if not self.is_calm:
            self._plan_trouble(dice)
            self.loop.later(TROUBLE, self._calm_down)
        while not all(box.is_done for box in self.boxes):
            self.events += 1
            if self.loop.now > TROUBLE + BOUND or self.events > _MOST_EVENTS:
                raise AssertionError("the crawl does not end")
            if not self.loop.step():
                raise AssertionError("nothing happens any more")
        if self.master.process.is_alive:
            self.master.close()
        self.master.start()
        self.judge.check_all(self.master.frontier)

    def close(self) -> None:
        for box in self.boxes:
            if box.process.is_alive:
                box._end("is left")
        if self.master.process.is_alive:
            self.master.close()

    def _walk(self) -> None:
        """The walker of pages lives and dies with its master."""
        process = self.master.process
        self._walker = Life(
            "harvester",
            process,
            Local(self.master),
            _WALKER,
            self.settings,
            loop=self.loop,
            web=self.web,
            manners=self.manners,
            shelf=None,
            wall=self.master.wall,
            on_end=lambda: None,
        )
        process.later(0.0, self._walker.begin)

    def _walker_dies(self) -> None:
        if self._walker is not None:
            self._walker.die()
            self._walker = None

    # trouble ------------------------------------------------------------------------------------------------------

    def _plan_trouble(self, dice: Random) -> None:
        """Some kinds of misfortune, each again and again; not all of them at once, as they hide each other."""
        kinds: dict[str, Callable[[], None]] = {
            "kill worker": lambda: self._some().kill(),
            "cut power of worker": lambda: self._some().kill(is_power_cut=True),
            "stop worker": lambda: self._some().process.stop(self._spell()),
            "partition": self._partition,
            "half-open": self._deafen,
            "kill master": self._kill_master,
            "kill master at a commit": self._kill_at_commit,
            "cut power of master": lambda: self._kill_master(is_power_cut=True),
            "stop master": lambda: self.master.process.stop(self._spell()),
            "set the clock": lambda: self.master.set_clock(dice.choice((-_YEAR, _YEAR, -3600.0, 3600.0))),
            "refuse commits": self._refuse,
        }
        for kind, act in kinds.items():
            if dice.random() < 0.35:
                self._repeat(kind, act, dice.choice((5.0, 20.0, 60.0)))
        for box in self.boxes:
            weather = box.weather
            weather.lost_request, weather.lost_answer = dice.choice((0.0, 0.02, 0.2)), dice.choice((0.0, 0.02, 0.3))
            weather.twice, weather.slow = dice.choice((0.0, 0.02, 0.2)), dice.choice((0.0, 0.0, 0.01, 0.05))

    def _repeat(self, kind: str, act: Callable[[], None], every: float) -> None:
        def happen() -> None:
            if self.loop.now < TROUBLE:
                self.faults[kind] = self.faults.get(kind, 0) + 1
                act()
                self._repeat(kind, act, every)

        self.loop.later(self.loop.dice.expovariate(1.0 / every), happen)

    def _calm_down(self) -> None:
        """From now on all is well, so that the crawl must come to its end."""
        self.loop.note("calm")
        self.master.refusals, self.master.dies = 0, ""
        for box in self.boxes:
            box.weather.clear_up()
            box.start()

    def _some(self) -> Box:
        return self.loop.dice.choice(self.boxes)

    def _spell(self) -> float:
        """Seconds for which something goes on, longer than a lease now and then."""
        return self.loop.dice.choice((0.05, 1.0, 0.5, 1.5, 3.0)) * self.settings.lease * self.loop.dice.random()

    def _partition(self) -> None:
        self._some().weather.cut_until = self.loop.now + self._spell()

    def _deafen(self) -> None:
        self._some().weather.deaf_until = self.loop.now + self._spell()

    def _kill_master(self, *, is_power_cut: bool = False) -> None:
        if self.master.process.is_alive:
            self.master.kill(is_power_cut=is_power_cut)

    def _kill_at_commit(self) -> None:
        if self.master.process.is_alive:
            self.master.dies = self.loop.dice.choice(("before", "after"))

    def _refuse(self) -> None:
        self.master.refusals = self.loop.dice.randint(1, 3)

    def restart_master(self) -> None:
        """Somebody starts it again, soon or late."""
        self.loop.later(self.loop.dice.choice((0.1, 3.0, 30.0)) * self.loop.dice.random(), self._start_master)

    def _start_master(self) -> None:
        if not self.master.process.is_alive:
            self.master.start()


def simulate(seed: int) -> Result:
    """The crawl of that seed."""
    folder = Path(tempfile.mkdtemp(prefix="simulation-"))
    state = random.getstate()
    breach = ""
    world = World(seed, folder)
    try:
        world.master.on_death.append(world.restart_master)
        world.run()
    except AssertionError as error:
        breach = str(error) or repr(error)
    except Exception:  # noqa: BLE001  # whatever the crawler raises where it must not is a finding, with its seed
        breach = traceback.format_exc()
    finally:
        world.master.on_death.remove(world.restart_master)
        world.close()
        random.setstate(state)
        shutil.rmtree(folder)
    counts = {"visits": world.web.visits.total(), "late": world.manners.late_requests, **world.judge.verdicts}
    return Result(seed, tuple(world.loop.trace), breach, world.loop.now, world.events, world.faults, counts)
