"""Kills of a saver at any system call: no file is corrupt afterwards, and every acknowledgement was true."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from crawler.store.base import Durability
from tests.support.needs import need
from tests.support.saver import Task, check_end, look_at, prepare

#: All calls that change a disk, and those around them.
CALLS = "openat,write,pwrite64,fsync,fdatasync,syncfs,rename,link,unlink,mkdir,ftruncate,chmod,close"
#: Kills at every call, and at a few, spread evenly: CI has time for every call of the default durability.
EVERY, SOME = 1_000, 60
FIRE = [("batch", EVERY), *((durability, SOME) for durability in ("none", "file", "strict"))]
LONG = [(durability, EVERY) for durability in ("none", "file", "strict")]
PICTURES = 5


class Savers:
    """A process that forks savers, each traced by strace from its first step to its last."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.saver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def run(self, task: Task, *options: str) -> int:
        """Run a saver under strace, or without it if there are no options; return its wait status."""
        number = self._ask(msgspec.json.encode(task, enc_hook=str).decode())
        watch = None
        if options:
            command = ["strace", "-p", str(number), "-e", f"trace={CALLS}", *options]
            watch = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
            assert watch.stderr is not None
            assert "attached" in watch.stderr.readline()
        status = self._ask("go")
        if watch is not None:
            watch.communicate(timeout=60)
        return status

    def _ask(self, line: str) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def savers() -> Iterator[Savers]:
    need("strace", is_there=shutil.which("strace") is not None, reason="strace is not installed")
    made = Savers()
    yield made
    made.close()


def spread(number: int, most: int) -> list[int]:
    """Return the numbers from 1, or at most ``most`` of them, spread evenly."""
    return sorted({1 + at * number // most for at in range(most)} if number > most else range(1, number + 1))


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(
    ("durability", "most"),
    [pytest.param(*case, marks=pytest.mark.fire) for case in FIRE]
    + [pytest.param(*case, marks=pytest.mark.long) for case in LONG],
)
def test_a_kill_at_any_system_call_corrupts_nothing(
    savers: Savers, tmp_path: Path, durability: Durability, most: int
) -> None:
    def fresh(name: str) -> Task:
        task = Task(job=tmp_path / name, acks=tmp_path / f"{name}.acks", number=PICTURES, durability=durability)
        shutil.copytree(tmp_path / "begun", task.job)
        return task

    prepare(Task(job=tmp_path / "begun", acks=tmp_path / "none", number=PICTURES, durability=durability))
    log, whole = tmp_path / "log", fresh("whole")
    assert savers.run(whole, "-o", str(log)) == 0
    check_end(whole)
    made = Counter(re.findall(r"(?m)^(\w+)\(", log.read_text()))
    points = [(call, number) for call, total in made.items() for number in range(1, total + 1)]
    chosen = [points[at - 1] for at in spread(len(points), most)]
    killed, told = 0, 0
    for call, number in chosen:
        task = fresh("job")
        status = savers.run(task, "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={number}")
        assert status in (0, 9), (call, number, status)
        killed += status == 9
        left = look_at(task)
        told += left.told
        assert left.is_good and not left.spoilt, (call, number, left)
        assert savers.run(task) == 0, (call, number)
        check_end(task)
        shutil.rmtree(task.job)
        task.acks.unlink()
    sys.stdout.write(f"{durability}: {sum(made.values())} calls {dict(made)}, {killed} kills, {told} pictures told\n")
    assert killed >= 0.9 * len(chosen)  # a run may make one call less than the one that was counted
    assert 0 < told < PICTURES * len(chosen)
