"""A master and its boxes as real processes that are killed, started again, or put to sleep under their names."""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.pictures import PictureHost
from tests.processes import Command, manifest_of, stats_of, wait_until

Start = Callable[..., Command]

#: Seconds between two kills.
_BEAT = 0.5
#: Pictures that are to be left when the killing ends.
_REST = 8

#: A list exempts nothing, and its host is this machine.
_FLAGS = ("-q", "--allow-private")


class Fleet:
    """``master`` and its boxes; a box's name is also the name of its store.

    Args:
        start: starts commands.
        folder: where all of it lies.
        master: arguments of ``harvest``.
        boxes: name → flags of ``download``.
        script: what stands in for the boxes' command.
    """

    def __init__(
        self,
        start: Start,
        folder: Path,
        master: Sequence[object],
        boxes: Mapping[str, Sequence[object]],
        *,
        script: str = "",
    ) -> None:
        self._start, self._folder, self._script = start, folder, script
        self._master, self._boxes = master, boxes
        self.job = folder / "job"
        self.stores = {name: folder / name for name in boxes}
        self.running: dict[str, Command] = {}
        #: When each began its life, seconds since the epoch.
        self.began: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """Start one of them."""
        self.began[name] = time.time()
        if name == "master":
            self.running[name] = self._start(name, "harvest", *self._master, "-o", self.job, *_FLAGS)
            return
        flags = ("-o", self.stores[name], *_FLAGS, *self._boxes[name])
        self.running[name] = self._start(name, "download", self.job / "join", *flags, script=self._script)

    def begin_all(self) -> None:
        """Start the master, and the boxes as soon as there is a join file."""
        self.begin("master")
        wait_until(lambda: (self.job / "join").exists(), "a join file")
        for name in self._boxes:
            self.begin(name)

    def kill(self, name: str) -> None:
        """Kill one of them, and start it again at once."""
        self.running[name].kill()
        self.begin(name)

    def ends(self, patience: float = 60.0) -> dict[str, int]:
        """Exit codes of those that are running at the end."""
        return {name: command.ends(patience) for name, command in self.running.items()}

    def holders(self) -> list[str]:
        """Boxes that hold leases now."""
        holding = {worker.name for worker in stats_of(self.job).workers if worker.leases}
        stores = [(name, store / "store.json") for name, store in self.stores.items()]
        known = {name: json.loads(path.read_text())["id"][:8] for name, path in stores if path.exists()}
        return [name for name, mark in known.items() if any(f"/{mark}-" in worker for worker in holding)]

    @property
    def said(self) -> str:
        """The end of what each has said, for whoever wonders why."""
        return "\n".join(f"{name}: {command.said[-500:]}" for name, command in self.running.items())


def fleet_for(
    start: Start, host: PictureHost, number: int, folder: Path, *flags: object, boxes: int, threads: int
) -> Fleet:
    """A fleet at work on so many pictures of a host."""
    master = ("--images", host.list_of(number, folder), *flags)
    fleet = Fleet(start, folder, master, {f"box{n}": ("-t", threads, "--wait", 20) for n in range(boxes)})
    fleet.begin_all()
    assert host.wait_for(lambda asked: asked.total() > 0), fleet.said
    return fleet


def kill_for_a_while(fleet: Fleet, host: PictureHost, number: int, kills: int) -> None:
    """Two kills a second at most, the master first, then whoever holds leases.

    Each waits for a sign of life after the one before, and they end while there is still something to do.
    """
    dice = random.Random(3)  # noqa: S311  # a chaos that can be repeated
    for count in range(kills):
        # After the master's death everybody is left at work for a while: two could now be at one turn.
        seen = host.asked.total() + (4 if count == 1 else 0)
        host.wait_for(lambda asked: asked.total() > seen, timeout=6 * _BEAT)  # noqa: B023  # called within the loop
        time.sleep(dice.uniform(0.5, 1.5) * _BEAT)  # the beat; no state is waited for
        if len(host.asked) >= number - _REST:
            assert count > 1, f"{len(host.asked)} of {number} pictures before the second kill"
            return
        fleet.kill("master" if count == 0 else dice.choice(fleet.holders() or list(fleet.stores)))


def ended_well(fleet: Fleet, number: int) -> bool:
    """Whether each picture has its one record; one that was in hand at three kills may have been given up."""
    codes = fleet.ends()
    rows = manifest_of(fleet.job)
    reasons = {row.reason for row in rows}
    return codes["master"] == 0 and len(rows) == len({row.url for row in rows}) == number and reasons <= {"", "poison"}
