"""Deliberate fire: a crawl whose processes are killed again and again ends as if nothing had happened."""

import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crawler.demo import DemoServer
from tests.processes import Command, commands, downloaders, manifest_of, many_pictures, stats_of, wait_until

Start = Callable[..., Command]

#: Whatever could run what came over a network.
NO_PICKLE = """
import _pickle, pickle
def refuse(*args, **kwargs):
    raise SystemExit("something was unpickled")
class Refuse:
    __init__ = refuse
for module in (pickle, _pickle):
    module.load = module.loads = refuse
    module.Unpickler = Refuse
from crawler.cli import main
main()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "crawler.toml").write_text("[queue]\nlease = 4\n")
    with commands(tmp_path) as starter:
        yield starter


class Fire:
    """A master and two boxes that are killed, and started again at once, at the throw of a dice."""

    def __init__(self, start: Start, server: DemoServer, folder: Path, seed: int) -> None:
        self._start, self._dice = start, random.Random(seed)  # noqa: S311  # a chaos that can be repeated
        self.job = folder / "job"
        self._lives: Counter[str] = Counter()
        self._master = ["harvest", server.url, "-o", self.job]
        self._boxes = {name: ["download", self.job / "join", "-o", folder / name, "-t", "4"] for name in ("A", "B")}
        self.stores = [folder / name for name in self._boxes]
        self.running: dict[str, Command] = {}
        self._begin("master")
        wait_until(lambda: (self.job / "join").exists(), "a join file")
        for name in self._boxes:
            self._begin(name)

    def strike(self) -> str:
        """Kill one of them, or let it sleep for a moment; it is as before when this returns."""
        name = self._dice.choice(["master", *self._boxes])
        victim = self.running[name]
        if name != "master" and os.name != "nt" and self._dice.random() < 0.2:
            victim.process.send_signal(signal.SIGSTOP)
            self._nap()
            victim.process.send_signal(signal.SIGCONT)
            return f"pause {name}"
        victim.kill()
        self._begin(name)
        return f"kill {name}"

    def _nap(self) -> None:
        """Until the others have got on a little without it, or have nothing to do."""
        before = stats_of(self.job)
        wait_until(lambda: (now := stats_of(self.job)).success > before.success or not now.waiting, "others go on")

    def _begin(self, name: str) -> None:
        self._lives[name] += 1
        command = self._master if name == "master" else self._boxes[name]
        self.running[name] = self._start(f"{name}-{self._lives[name]}", *command)


def settled(job: Path) -> int:
    stats = stats_of(job)
    return stats.success + stats.duplicate + stats.failed


def test_fifty_kills_lose_nothing_and_double_nothing(start: Start, tmp_path: Path) -> None:
    number, kills = 600, 50
    faults = {f"/{n:04}.png": {"delay": 0.1} for n in range(number)}
    with DemoServer(many_pictures(tmp_path, number), faults) as server:
        fire = Fire(start, server, tmp_path, seed=1)
        struck = 0
        while struck < kills:
            before = settled(fire.job)
            wait_until(lambda: settled(fire.job) >= min(before + 4, number - 20), "it goes on")  # noqa: B023
            struck += fire.strike().startswith("kill")
        master, *boxes = [command.ends() for command in fire.running.values()]
        assert master == 0, fire.running["master"].said
        assert set(boxes) <= {0, 4}  # 4: one that was started again when the master was already gone
        asked = Counter(hit.path for hit in server.requests)
    rows = manifest_of(fire.job)
    assert len(rows) == len({row.url for row in rows}) == number
    assert Counter(row.status for row in rows) == {"success": number}
    verify = start("verify", "verify", fire.job, "--store", fire.stores[0], "--store", fire.stores[1])
    assert verify.ends() == 0 and f"{number} whole, 0 missing, 0 damaged" in verify.said, verify.said
    again = sum(times - 1 for path, times in asked.items() if path.endswith(".png"))
    assert again <= kills * 2 * 4  # at most what each thread of each box had under way
    sys.stdout.write(f"{again} fetched again in {kills} kills\n")


def test_idle_downloaders_that_are_killed_swallow_nothing(start: Start, tmp_path: Path) -> None:
    job = tmp_path / "job"
    (tmp_path / "crawler.toml").unlink()  # no request may take longer than half a lease, and this one will
    with DemoServer(many_pictures(tmp_path, 20)) as server:
        server.hold("/")
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        idle = [start(f"idle{n}", "download", job / "join", "-o", tmp_path / f"idle{n}") for n in range(8)]
        wait_until(lambda: len(downloaders(job)) == 8, "eight idle downloaders")
        for command in idle:
            command.kill()
        server.release("/")
        box = start("box", "download", job / "join", "-o", tmp_path / "box")
        assert (master.ends(), box.ends()) == (0, 0), master.said
    assert [row.status for row in manifest_of(job)] == ["success"] * 20


def test_a_whole_crawl_never_unpickles(start: Start, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with DemoServer(many_pictures(tmp_path, 5)) as server:
        master = start("master", "harvest", server.url, "-o", job, "--tls", "always", script=NO_PICKLE)
        wait_until(lambda: (job / "join").exists(), "a join file")
        box = start("box", "download", job / "join", "-o", tmp_path / "A", script=NO_PICKLE)
        assert (master.ends(), box.ends()) == (0, 0), master.said + box.said
    assert [row.status for row in manifest_of(job)] == ["success"] * 5
