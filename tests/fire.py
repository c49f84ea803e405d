"""Deliberate fire: a master and its boxes, the faults that are thrown at them, and the judge of what is left.

Everything that happens is drawn from one seed; only the moments are the machine's.
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
from tests.faulty import Cable
from tests.fleet import Fleet, Start
from tests.pictures import PictureHost, picture
from tests.processes import manifest_of

#: Ends a fault that lasts.
Undo = Callable[[], None]

#: Seconds of a lease, and downloads at a time of each box.
LEASE = 4.0
THREADS = 4
BOXES = ("A", "B", "C")
#: Downloaders that do not wait half a minute for an answer which a network has lost.
IMPATIENT = "from crawler.engines import client; client.ANSWER_SECONDS = 2.0; from crawler.cli import main; main()"
#: Longest that nothing may get on, seconds.
_STANDSTILL = 60.0
#: Below what systems give to connections, so that nobody takes the master's port while it is dead.
_PORTS = range(20_000, 30_000)

KILLS = ("kill master", "kill box")


class Fire:
    """A master and its boxes, each behind a cable of its own; `strike` throws what the deck holds.

    Args:
        start: starts commands.
        host: whose pictures are downloaded.
        number: how many of them.
        folder: where all of it lies.
        faults: kind → how often it is thrown; kinds are the methods below, with spaces.
        seed: of the dice.
    """

    def __init__(
        self, start: Start, host: PictureHost, number: int, folder: Path, faults: Mapping[str, int], seed: int
    ) -> None:
        self._host = host
        self._dice = random.Random(seed)  # noqa: S311  # a chaos that can be repeated
        self.deck = [kind for kind, times in faults.items() for _ in range(times)]
        self._dice.shuffle(self.deck)
        place = ("127.0.0.1", _quiet_port(self._dice))
        self._cables = {name: Cable(place) for name in BOXES}
        boxes = {
            name: ("-t", THREADS, "--connect", _address(self._cables[name].address), "--wait", 20) for name in BOXES
        }
        master = ("--images", host.list_of(number, folder), "--listen", _address(place))
        self.fleet = Fleet(start, folder, master, boxes, script=IMPATIENT)
        #: Faults that last: box → when they end, and how.
        self._lasting: dict[str, tuple[float, Undo]] = {}
        #: Boxes whose last life brought nothing.
        self._idle: set[str] = set()
        self.thrown: Counter[str] = Counter()
        #: Processes that ended by themselves, and what they said.
        self.deserters: list[str] = []

    def light(self, stack: ExitStack) -> None:
        """Start everybody."""
        for cable in self._cables.values():
            stack.enter_context(cable)
        self.fleet.begin_all()

    def burn(self, number: int) -> None:
        """Throw the whole deck, evenly over the first nine tenths of the pictures."""
        for count, kind in enumerate(self.deck, 1):
            self._wait_for(number * 9 * count // (10 * len(self.deck)))
            self._throw(kind)
        for name in list(self._lasting):
            self._heal(name)

    def _wait_for(self, pictures: int) -> None:
        """Until so many pictures were asked for; what lasts ends meanwhile."""
        deadline = time.monotonic() + _STANDSTILL
        while not self._host.wait_for(lambda asked: len(asked) >= pictures, timeout=0.05):
            self._heal_in_time()
            assert time.monotonic() < deadline, f"standstill at {len(self._host.asked)}: {self.fleet.said}"
        self._heal_in_time()

    def _throw(self, kind: str) -> None:
        for name, command in self.fleet.running.items():
            if command.process.poll() is not None:
                self.deserters.append(f"{name}: exit {command.process.returncode}: {command.said[-500:]}")
                self.fleet.begin(name)
        self.thrown[kind] += 1
        box = self._dice.choice(BOXES)
        fault: Callable[[str], None] = getattr(self, "_" + kind.replace(" ", "_"))
        fault(box)

    # faults -------------------------------------------------------------------------------------------------------

    def _kill_master(self, box: str) -> None:
        self.fleet.kill("master")

    def _kill_box(self, box: str) -> None:
        # A picture that dies with its box three times in a row is taken for the cause, so a box that was killed before
        # it brought anything has to bring something before it is killed once more.
        fit = [name for name in BOXES if self._has_brought(name) or name not in self._idle]
        box = box if box in fit else self._dice.choice(fit or BOXES)
        self._idle = self._idle - {box} if self._has_brought(box) else self._idle | {box}
        self.fleet.kill(box)

    def _pause(self, box: str) -> None:
        self._suspend(box, self._dice.uniform(0.1, 1.0))

    def _sleep(self, box: str) -> None:
        self._suspend(box, LEASE + self._dice.uniform(0.5, 1.5))

    def _cut(self, box: str) -> None:
        self._cables[box].cut()

    def _cut_after_bytes(self, box: str) -> None:
        self._cables[box].cut_after(self._dice.randrange(1, 3_000))

    def _hold(self, box: str) -> None:
        self._cables[box].hold()
        self._lasts(box, self._dice.uniform(0.1, 2.0), self._cables[box].mend)

    def _hold_for_long(self, box: str) -> None:
        self._cables[box].hold()
        self._lasts(box, LEASE + self._dice.uniform(0.5, 1.5), self._cables[box].mend)

    def _slow(self, box: str) -> None:
        self._cables[box].slow(self._dice.uniform(0.02, 0.3))
        self._lasts(box, self._dice.uniform(0.5, 2.0), self._cables[box].mend)

    def _half_open(self, box: str) -> None:
        self._cables[box].deafen()
        self._lasts(box, self._dice.uniform(0.5, 2.0), self._cables[box].mend)

    # inside -------------------------------------------------------------------------------------------------------

    def _suspend(self, box: str, seconds: float) -> None:
        """SIGSTOP for a while; where there is none, the nearest to it: nothing passes."""
        if os.name == "nt":
            self._cables[box].hold()
            self._lasts(box, seconds, self._cables[box].mend)
            return
        process = self.fleet.running[box].process
        process.send_signal(signal.SIGSTOP)
        self._lasts(box, seconds, lambda: process.send_signal(signal.SIGCONT))

    def _lasts(self, box: str, seconds: float, undo: Undo) -> None:
        """What lasted on this box until now ends; this one lasts so long."""
        self._heal(box)
        self._lasting[box] = (time.monotonic() + seconds, undo)

    def _heal(self, box: str) -> None:
        _, undo = self._lasting.pop(box, (0.0, lambda: None))
        undo()

    def _heal_in_time(self) -> None:
        for box in [box for box, (until, _) in self._lasting.items() if until <= time.monotonic()]:
            self._heal(box)

    def _has_brought(self, box: str) -> bool:
        """Whether it has noted an outcome in this life."""
        notes = self.fleet.stores[box] / ".told-0.jsonl"
        return notes.exists() and notes.stat().st_mtime > self.fleet.began[box]


class Findings(NamedTuple):
    """What the judge has found."""

    #: Pictures that are recorded as saved, and whose bytes lie in a store as they were sent.
    whole: int
    #: Pictures without a record, and records beyond the first of each.
    lost: int
    doubled: int
    #: Pictures that died with their boxes three times in a row, and ones that failed for another reason.
    poison: int
    failed: int
    #: Files under a final name whose bytes are not those of the name.
    corrupt: int
    #: Requests for pictures beyond the first of each.
    again: int


def judge(host: PictureHost, number: int, job: Path, stores: Iterable[Path]) -> Findings:
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
        poison=sum(row.reason == "poison" for row in rows),
        failed=sum(row.reason not in ("", "poison") or row.status == "duplicate" for row in rows),
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
