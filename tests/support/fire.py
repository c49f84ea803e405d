"""Fault injection: a master and its machines, the faults that they suffer, and the check of the result.

Everything is drawn from one seed, except for the exact times.
"""

import hashlib
import json
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from crawler.model import ImageRecord
from tests.support.faulty import Cable
from tests.support.fleet import Fleet, Start
from tests.support.pictures import PictureHost, picture
from tests.support.processes import manifest_of

#: Ends a fault that lasts.
Undo = Callable[[], None]

#: Seconds of a lease, and parallel downloads of each machine.
LEASE = 4.0
THREADS = 4
MACHINES = ("A", "B", "C")
#: Downloaders with a short timeout for responses that the network has lost.
IMPATIENT = (
    "from crawler.queue import client; client._ANSWER_SECONDS = 2.0; from crawler.cli.commands import main; main()"
)
#: Longest time without progress, seconds.
_STANDSTILL = 300.0
#: Below the ports that systems give to connections, so that none of these takes the master's port while it is dead.
_PORTS = range(20_000, 30_000)

KILLS = ("kill master", "kill machine")


class FaultInjector:
    """A master and its machines, each behind a `Cable` of its own, and the injection of a list of faults.

    Args:
        start: starts commands.
        host: the host of the pictures.
        number: how many pictures.
        folder: for all files.
        faults: kind → number of injections; kinds are the methods below, with spaces.
        seed: for the random order of faults.
    """

    def __init__(
        self, start: Start, host: PictureHost, number: int, folder: Path, faults: Mapping[str, int], seed: int
    ) -> None:
        self._host = host
        self._dice = random.Random(seed)  # noqa: S311  # repeatable faults
        self.planned = [kind for kind, times in faults.items() for _ in range(times)]
        self._dice.shuffle(self.planned)
        place = ("127.0.0.1", _quiet_port(self._dice))
        self._cables = {name: Cable(place) for name in MACHINES}
        machines = {
            name: ("-t", THREADS, "--connect", _address(self._cables[name].address), "--wait", 20) for name in MACHINES
        }
        master = ("--images", host.list_of(number, folder), "--listen", _address(place))
        self.fleet = Fleet(start, folder, master, machines, script=IMPATIENT)
        #: Lasting faults: machine → the end time, and the function that ends it.
        self._lasting: dict[str, tuple[float, Undo]] = {}
        self.injected: Counter[str] = Counter()
        #: Processes that ended by themselves, with their output.
        self.unexpected_exits: list[str] = []

    def start_all(self, stack: ExitStack) -> None:
        """Start all processes."""
        for cable in self._cables.values():
            stack.enter_context(cable)
        self.fleet.begin_all()

    def inject_all(self, number: int) -> None:
        """Inject all faults, evenly over the first nine tenths of the pictures."""
        for count, kind in enumerate(self.planned, 1):
            self._wait_for(number * 9 * count // (10 * len(self.planned)))
            self._inject(kind)
        for name in list(self._lasting):
            self._end_fault(name)

    def _wait_for(self, pictures: int) -> None:
        """Wait until this number of pictures was requested; end lasting faults in time."""
        deadline = time.monotonic() + _STANDSTILL
        while not self._host.wait_for(lambda asked: len(asked) >= pictures, timeout=0.05):
            self._end_faults_in_time()
            assert time.monotonic() < deadline, f"standstill at {len(self._host.asked)}: {self.fleet.said}"
        self._end_faults_in_time()

    def _inject(self, kind: str) -> None:
        for name, command in self.fleet.running.items():
            if command.process.poll() is not None:
                self.unexpected_exits.append(f"{name}: exit {command.process.returncode}: {command.said[-500:]}")
                self.fleet.begin(name)
        self.injected[kind] += 1
        machine = self._dice.choice(MACHINES)
        fault: Callable[[str], None] = getattr(self, "_" + kind.replace(" ", "_"))
        fault(machine)

    # faults -----------------------------------------------------------------------------------------------------------

    def _kill_master(self, machine: str) -> None:
        self.fleet.kill("master")

    def _kill_machine(self, machine: str) -> None:
        self.fleet.kill(machine)

    def _pause(self, machine: str) -> None:
        self._suspend(machine, self._dice.uniform(0.1, 1.0))

    def _sleep(self, machine: str) -> None:
        self._suspend(machine, LEASE + self._dice.uniform(0.5, 1.5))

    def _cut(self, machine: str) -> None:
        self._cables[machine].cut()

    def _cut_after_bytes(self, machine: str) -> None:
        self._cables[machine].cut_after(self._dice.randrange(1, 3_000))

    def _hold(self, machine: str) -> None:
        self._cables[machine].hold()
        self._register(machine, self._dice.uniform(0.1, 2.0), self._cables[machine].mend)

    def _hold_for_long(self, machine: str) -> None:
        self._cables[machine].hold()
        self._register(machine, LEASE + self._dice.uniform(0.5, 1.5), self._cables[machine].mend)

    def _slow(self, machine: str) -> None:
        self._cables[machine].slow(self._dice.uniform(0.02, 0.3))
        self._register(machine, self._dice.uniform(0.5, 2.0), self._cables[machine].mend)

    def _half_open(self, machine: str) -> None:
        self._cables[machine].deafen()
        self._register(machine, self._dice.uniform(0.5, 2.0), self._cables[machine].mend)

    # helpers ----------------------------------------------------------------------------------------------------------

    def _suspend(self, machine: str, seconds: float) -> None:
        """Stop it with SIGSTOP for a while; on systems without it, hold its connections."""
        if os.name == "nt":
            self._cables[machine].hold()
            self._register(machine, seconds, self._cables[machine].mend)
            return
        process = self.fleet.running[machine].process
        process.send_signal(signal.SIGSTOP)
        self._register(machine, seconds, lambda: process.send_signal(signal.SIGCONT))

    def _register(self, machine: str, seconds: float, undo: Undo) -> None:
        """End the present fault of this machine and register the end of the new one."""
        self._end_fault(machine)
        self._lasting[machine] = (time.monotonic() + seconds, undo)

    def _end_fault(self, machine: str) -> None:
        _, undo = self._lasting.pop(machine, (0.0, lambda: None))
        undo()

    def _end_faults_in_time(self) -> None:
        for machine in [machine for machine, (until, _) in self._lasting.items() if until <= time.monotonic()]:
            self._end_fault(machine)


class Findings(NamedTuple):
    """The result of the check."""

    #: Pictures that are recorded as saved, and whose bytes are in a store as they were sent.
    whole: int
    #: Pictures without a record, and records beyond the first of each.
    lost: int
    doubled: int
    #: Pictures that failed, for any reason.
    failed: int
    #: Files under a final name with other bytes than those of the name.
    corrupt: int
    #: Requests for pictures beyond the first of each.
    again: int


def check_results(host: PictureHost, number: int, job: Path, stores: Iterable[Path]) -> Findings:
    """Compare records, files and the host's log."""
    rows = manifest_of(job)
    recorded = Counter(row.url for row in rows)
    wanted = {f"{host.url}/{n}.png" for n in range(number)}
    files, corrupt = {}, 0
    for path in (path for store in stores for path in (store / "images").rglob("*") if path.is_file()):
        if path.suffix == ".png":
            files[path] = hashlib.sha256(path.read_bytes()).hexdigest()
            corrupt += files[path] != path.stem
    places = {json.loads((store / "store.json").read_text())["id"]: store for store in stores}
    return Findings(
        whole=sum(row.url in wanted and _is_whole(row, places, files) for row in rows),
        lost=len(wanted - recorded.keys()),
        doubled=recorded.total() - len(recorded),
        failed=sum(row.status != "success" for row in rows),
        corrupt=corrupt,
        again=host.asked.total() - len(host.asked),
    )


def _is_whole(row: ImageRecord, places: Mapping[str, Path], files: Mapping[Path, str]) -> bool:
    sent = hashlib.sha256(picture(int(row.url.rpartition("/")[2].partition(".")[0]))).hexdigest()
    return row.store in places and files.get(places[row.store] / row.path) == row.sha256 == sent


def _address(place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}"


def _quiet_port(dice: random.Random) -> int:
    while True:
        port = dice.choice(_PORTS)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
