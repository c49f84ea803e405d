"""A master and its machines as real processes that are killed, started again, or suspended under their names."""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support.pictures import PictureHost
from tests.support.processes import PATIENCE, Command, manifest_of, stats_of, wait_until

Start = Callable[..., Command]

#: Seconds between two kills.
_BEAT = 0.5
#: Pictures that must be left when the killing ends.
_REST = 8

#: A list exempts nothing, and its host is this machine.
_FLAGS = ("-q", "--allow-private")


class Fleet:
    """A ``master`` and its downloaders (``machines``); the name of a downloader is also the name of its store.

    Args:
        start: starts commands.
        folder: for all files.
        master: arguments of ``harvest``.
        machines: name → flags of ``download``.
        script: a script that replaces the command of the downloaders.
    """

    def __init__(
        self,
        start: Start,
        folder: Path,
        master: Sequence[object],
        machines: Mapping[str, Sequence[object]],
        *,
        script: str = "",
    ) -> None:
        self._start, self._folder, self._script = start, folder, script
        self._master, self._machines = master, machines
        self.job = folder / "job"
        self.stores = {name: folder / name for name in machines}
        self.running: dict[str, Command] = {}

    def begin(self, name: str) -> None:
        """Start one of the processes."""
        if name == "master":
            self.running[name] = self._start(name, "harvest", *self._master, "-o", self.job, *_FLAGS)
            return
        flags = ("-o", self.stores[name], *_FLAGS, *self._machines[name])
        self.running[name] = self._start(name, "download", self.job / "join", *flags, script=self._script)

    def begin_all(self) -> None:
        """Start the master, and the downloaders as soon as there is a join file."""
        self.begin("master")
        wait_until(lambda: (self.job / "join").exists(), "a join file")
        for name in self._machines:
            self.begin(name)

    def kill(self, name: str) -> None:
        """Kill one of the processes, and start it again at once."""
        self.running[name].kill()
        self.begin(name)

    def ends(self, patience: float = PATIENCE) -> dict[str, int]:
        """Return the exit codes of all processes after waiting for their end."""
        return {name: command.ends(patience) for name, command in self.running.items()}

    def holders(self) -> list[str]:
        """Return the downloaders that hold leases now."""
        holding = {worker.name for worker in stats_of(self.job).workers if worker.leases}
        stores = [(name, store / "store.json") for name, store in self.stores.items()]
        known = {name: json.loads(path.read_text())["id"][:8] for name, path in stores if path.exists()}
        return [name for name, mark in known.items() if any(f"/{mark}-" in worker for worker in holding)]

    @property
    def said(self) -> str:
        """Return the end of the output of each process, for the message of a failed test."""
        return "\n".join(f"{name}: {command.said[-500:]}" for name, command in self.running.items())


def fleet_for(
    start: Start, host: PictureHost, number: int, folder: Path, *flags: object, machines: int, threads: int
) -> Fleet:
    """Start a fleet that downloads this number of pictures of a host."""
    master = ("--images", host.list_of(number, folder), *flags)
    fleet = Fleet(start, folder, master, {f"machine{n}": ("-t", threads, "--wait", 20) for n in range(machines)})
    fleet.begin_all()
    assert host.wait_for(lambda asked: asked.total() > 0), fleet.said
    return fleet


def kill_for_a_while(fleet: Fleet, host: PictureHost, number: int, kills: int) -> None:
    """Kill at most twice a second: first the master, then downloaders that hold leases.

    Each kill waits for progress after the one before, and the last one leaves some work.
    """
    dice = random.Random(3)  # noqa: S311  # repeatable faults
    for count in range(kills):
        # After the master's death all processes run for a while: two of them could now have the same turn.
        seen = host.asked.total() + (4 if count == 1 else 0)
        host.wait_for(lambda asked: asked.total() > seen, timeout=6 * _BEAT)  # noqa: B023  # called within the loop
        time.sleep(dice.uniform(0.5, 1.5) * _BEAT)  # the interval; there is no state to wait for
        if len(host.asked) >= number - _REST:
            assert count > 1, f"{len(host.asked)} of {number} pictures before the second kill"
            return
        fleet.kill("master" if count == 0 else dice.choice(fleet.holders() or list(fleet.stores)))


def ended_well(fleet: Fleet, number: int) -> bool:
    """Return whether each picture has exactly one record, and was saved."""
    codes = fleet.ends()
    rows = manifest_of(fleet.job)
    is_saved = {row.reason for row in rows} <= {""}
    return codes["master"] == 0 and len(rows) == len({row.url for row in rows}) == number and is_saved
