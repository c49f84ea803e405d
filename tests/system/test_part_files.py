"""Part files of killed processes: removed at the next start, while those of live processes stay."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crawler.demo.server import DemoServer
from crawler.store import disk
from crawler.store.disk import is_part
from crawler.store.local import LocalStore
from tests.support.processes import commands, many_pictures, wait_until

#: Saves a file, and waits in the middle of it until its standard input is closed.
SAVE = """
import sys
from pathlib import Path
from crawler.store.disk import write_file
def halves():
    yield b"one half, "
    print("half", flush=True)
    sys.stdin.read()
    yield b"and the other"
write_file(Path(sys.argv[1]), halves(), sync=False)
"""
ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the start time of a process")


@contextmanager
def saving(path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process in the middle of saving a file; end it with the block."""
    command = [sys.executable, "-c", SAVE, str(path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        try:
            assert process.stdout is not None and process.stdout.readline().strip() == b"half"
            yield process
        finally:
            process.kill()


def parts(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if is_part(path.name)]


def leave_part(path: Path) -> Path:
    """Leave the part file of a process that is killed in the middle of saving."""
    with saving(path) as process:
        process.kill()
    (part,) = parts(path.parent)
    return part


def renamed(part: Path, process: int) -> Path:
    """Rename the file as if a process with another id had written it at the same time."""
    return part.rename(part.with_name(re.sub(r"\.\d+(-\d+\.|\.)(?=\w{8}\.part)", rf".{process}\1", part.name)))


def test_the_part_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    part = leave_part(tmp_path / "images" / "x.jpg")
    assert not (tmp_path / "images" / "x.jpg").exists()
    assert (LocalStore(tmp_path).clear_parts(), part.exists()) == (1, False)


def test_the_part_file_of_a_live_process_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    with saving(path) as process:
        assert LocalStore(tmp_path).clear_parts() == 0
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
    assert path.read_bytes() == b"one half, and the other"


@ONLY_LINUX
def test_a_process_id_reused_by_another_process_protects_no_file(tmp_path: Path) -> None:
    part = renamed(leave_part(tmp_path / "x.jpg"), os.getppid())
    assert disk._may_live(os.getppid())
    assert (LocalStore(tmp_path).clear_parts(), part.exists()) == (1, False)


@ONLY_LINUX
def test_our_own_process_id_protects_our_files_and_none_of_an_earlier_process(tmp_path: Path) -> None:
    earlier = renamed(leave_part(tmp_path / "x.jpg"), os.getpid())
    ours = tmp_path / f".y.jpg.{disk._process_tag(os.getpid())}.0123abcd.part"
    ours.write_bytes(b"half")
    os.utime(ours, ns=(earlier.stat().st_mtime_ns,) * 2)
    assert LocalStore(tmp_path).clear_parts() == 1
    assert parts(tmp_path) == [ours]


def test_master_and_downloader_clean_their_directories_when_they_start(tmp_path: Path) -> None:
    job, machine = tmp_path / "job", tmp_path / "machine"
    for place in (job, machine / "images" / "ab"):
        leave_part(place / "x.jpg")
    with commands(tmp_path) as start, DemoServer(many_pictures(tmp_path, 3)) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "crawl.toml").exists(), "a master at work")
        assert parts(job) == []
        helper = start("machine", "download", job / "join", "-o", machine)
        assert (master.ends(), helper.ends()) == (0, 0), master.said + helper.said
    assert parts(machine) == []
    assert sum(1 for path in (machine / "images").rglob("*") if path.is_file()) == 3
