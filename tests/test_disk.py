"""A disk that is full, read-only or somebody else's: one line, exit code 3, and afterwards nothing was lost."""

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from crawler.demo import DemoServer
from crawler.engines.join import JoinFile, new_key, write_join
from crawler.frontier.sqlite import SqliteFrontier
from tests.calls import Call, calls
from tests.processes import Command, commands, manifest_of, many_pictures, wait_until

Start = Callable[..., Command]

SEED = "http://127.0.0.1:1/"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_the_directory_is_3(call: Call, place: str) -> None:
    Path("file").write_text("mine")
    ended = call("run", SEED, "-o", place)
    assert (ended.code, Path("file").read_text()) == (3, "mine")
    assert place in ended.complaint


def test_a_directory_that_can_t_be_written_is_3(call: Call) -> None:
    place = next((place for place in map(Path, ("/proc", "/sys")) if place.is_dir()), None)
    if place is None:
        pytest.skip("this system has no directory in which nobody can write")
    ended = call("run", SEED, "-o", place)
    assert ended.code == 3
    assert f"can't write to {place}" in ended.complaint and "-o" in ended.complaint


def test_a_downloader_that_can_t_save_is_3(call: Call) -> None:
    write_join(Path("join"), JoinFile(crawl="x", addresses=("127.0.0.1:1",), key=new_key()))
    Path("file").write_text("mine")
    ended = call("download", "join", "-o", "file")
    assert ended.code == 3 and "file" in ended.complaint


class Disk:
    """A small file system of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def resize(self, size: str, *options: str) -> None:
        what = ["remount", f"size={size}"] if self.place.is_mount() else [f"size={size}"]
        command = ["mount", "-t", "tmpfs", "-o", ",".join([*what, *options]), "none", str(self.place)]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    small = Disk(place)
    try:
        small.resize("600k")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small file system, and only on Linux")
    yield small
    subprocess.run(["umount", "-l", str(place)], check=True)


def check_whole(job: Path, *stores: Path, number: int) -> None:
    """Every picture once, every file what the manifest says, and not a file more."""
    rows = manifest_of(job)
    assert [row.status for row in rows] == ["success"] * number
    roots = {msgspec.json.decode((store / "store.json").read_bytes())["id"]: store for store in stores}
    named = {roots[row.store] / row.path: row.sha256 for row in rows}
    files = {path: path.read_bytes() for store in stores for path in (store / "images").rglob("*") if path.is_file()}
    assert {path: hashlib.sha256(data).hexdigest() for path, data in files.items()} == named
    assert (job / "results.txt").read_text().count("--->success\n") == number


def test_a_full_disk_ends_a_run_with_3_and_the_same_command_ends_it_well(
    start: Start, disk: Disk, tmp_path: Path
) -> None:
    job = disk.place / "job"
    with DemoServer(many_pictures(tmp_path, 200)) as server:
        command = ("run", server.url, "-o", job, "-w", 1)
        full = start("full", *command)
        assert full.ends() == 3
        line = full.said.splitlines()[-1]
        assert line.startswith("crawler: ") and "free some" in line and "same command again" in line
        assert "Traceback" not in full.said and "Logging error" not in full.said
        assert sum(1 for path in (job / "images").rglob("*.png")) > 0
        disk.resize("20m")
        again = start("again", *command)
        assert again.ends() == 0, again.said
        assert sum(1 for hit in server.requests if hit.path == "/") == 1
    check_whole(job, job, number=200)


def test_a_full_disk_of_another_box_costs_its_master_nothing(start: Start, disk: Disk, tmp_path: Path) -> None:
    job, box = tmp_path / "job", disk.place / "box"
    with DemoServer(many_pictures(tmp_path, 200)) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        full = start("full", "download", job / "join", "-o", box)
        assert full.ends() == 3
        (line,) = full.said.splitlines()
        assert line.startswith(f"crawler: can't use {box}") and "the disk is full: free some space" in line
        disk.resize("20m")
        again = start("again", "download", job / "join", "-o", box)
        assert (again.ends(), master.ends()) == (0, 0), again.said
    check_whole(job, box, number=200)


def test_a_master_with_a_full_disk_goes_on_where_it_was(start: Start, disk: Disk, tmp_path: Path) -> None:
    job, box = disk.place / "job", tmp_path / "box"
    with DemoServer(many_pictures(tmp_path, 300)) as server:
        command, downloads = ("harvest", server.url, "-o", job), ("download", job / "join", "-o", box)
        master = start("master", *command)
        wait_until(lambda: (job / "join").exists(), "a join file")
        helper = start("box", *downloads)
        assert master.ends() == 3
        assert master.said.splitlines()[-1].startswith("crawler: ") and "Traceback" not in master.said
        helper.kill()  # it may have heard of the full disk, or wait for its master
        disk.resize("20m")
        master, helper = start("again", *command), start("box again", *downloads)
        assert (master.ends(), helper.ends()) == (0, 0), master.said + helper.said
        assert sum(1 for hit in server.requests if hit.path == "/") == 1
    check_whole(job, box, number=300)


def test_a_crawl_on_a_full_disk_is_not_taken_for_a_running_one(start: Start, disk: Disk, tmp_path: Path) -> None:
    job = disk.place / "job"
    job.mkdir()
    SqliteFrontier(job / "frontier.sqlite").close()
    with (disk.place / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(4_096))
    status = start("status", "status", job)
    assert status.ends() == 3
    assert "free some space" in status.said
