"""Downloaders in processes that were forked before the master had threads."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.demo.server import DemoServer
from tests.support.processes import PATIENCE, commands, downloaders, many_pictures, stats_of, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks downloaders")

#: A program with one spare process, whose command reads a line and says what it sees.
_PROGRAM = """
import os, sys, threading
from subprocess import PIPE
from crawler.engines.spare_processes import SpareProcesses

def main(arguments):
    print("not shown")
    open_files = sorted(map(int, os.listdir("/proc/self/fd")))[3:-1]
    print(arguments, os.environ["WORD"], sys.stdin.readline().strip(), open_files, file=sys.stderr)
    print("own session", os.getsid(0) == os.getpid(), file=sys.stderr)
    return 7

inherited = os.dup(1)
print("buffered", end="")
with SpareProcesses(2, main) as spares:
    pids = [spare.pid for spare in spares._spares]
    process = spares.popen(["python", "-m", "crawler", "a", "\\udcff"], env={"WORD": "x y"}, stdin=PIPE)
    process.stdin.write("the join file\\n")
    process.stdin.close()
    said = process.stderr.read()
    process.wait()
print("", process.pid in pids, process.returncode, process.poll())
print(said)
process.kill()
"""


def output_of(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_spare_process_runs_a_command_with_pipes_and_no_other_files() -> None:
    first, said, session, *_ = output_of(_PROGRAM)
    assert first == "buffered True 7 7"
    assert said == r"['a', '\udcff'] x y the join file []"
    assert session == "own session True"


def test_a_process_with_threads_does_not_fork() -> None:
    program = _PROGRAM.partition("inherited")[0] + (
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print(SpareProcesses(2, main)._spares, SpareProcesses(2, None)._spares)\n"
    )
    assert output_of(program) == ["[] []"]


def test_after_the_spare_processes_a_command_is_started_as_usual() -> None:
    program = _PROGRAM.partition("inherited")[0] + (
        "spares = SpareProcesses(0, main)\n"
        "process = spares.popen([sys.executable, '-c', 'print(1)'], env=os.environ, stdout=PIPE, encoding='utf-8')\n"
        "print(process.communicate()[0], process.returncode)\n"
    )
    assert output_of(program) == ["1", " 0"]


@pytest.fixture
def crawl(tmp_path: Path) -> Iterator[tuple[Path, list[int]]]:
    """A crawl that waits for one picture, and the ids of its two downloader processes."""
    job = tmp_path / "job"
    with DemoServer(many_pictures(tmp_path, 2)) as server, commands(tmp_path) as start:
        server.hold("/0001.png")
        master = start("master", "run", server.url, "-o", job, "-w", "2")
        wait_until(lambda: len(downloaders(job)) == 2 and stats_of(job).success == 1, "one picture of two")
        pids = [
            int(pid)
            for pid in Path(f"/proc/{master.process.pid}/task/{master.process.pid}/children").read_text().split()
        ]
        yield job, [master.process.pid, *pids]
        server.release("/0001.png")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_downloaders_are_forked_and_end_with_a_killed_master(crawl: tuple[Path, list[int]]) -> None:
    _, (master, *pids) = crawl
    assert len(pids) == 2
    commands_of = {Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (master, *pids)}
    assert len(commands_of) == 1  # those of a forked process are its parent's
    os.kill(master, 9)
    wait_until(lambda: not any(map(is_alive, pids)), "the end of the downloaders")


def test_a_forked_downloader_that_is_killed_is_replaced(crawl: tuple[Path, list[int]]) -> None:
    job, (master, *pids) = crawl
    os.kill(pids[0], 9)
    wait_until(lambda: "starting it again" in (job / "crawl.log").read_text(), "a restart")
    assert is_alive(master)
