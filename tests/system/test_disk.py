"""A disk that is full, read-only or not writable: one line, a pause or exit code 3, and no data is lost."""

import hashlib
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from crawler.demo.server import DemoServer
from crawler.frontier.sqlite import SqliteFrontier
from crawler.queue.join_file import JoinFile, new_key, write_join
from tests.support.calls import Call, calls
from tests.support.processes import Command, commands, manifest_of, many_pictures, stats_of, wait_until

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
def test_a_file_at_the_path_of_the_directory_is_3(call: Call, place: str) -> None:
    Path("file").write_text("mine")
    ended = call("run", SEED, "-o", place)
    assert (ended.code, Path("file").read_text()) == (3, "mine")
    assert place in ended.complaint


def test_an_unwritable_directory_is_3(call: Call) -> None:
    place = next((place for place in map(Path, ("/proc", "/sys")) if place.is_dir()), None)
    if place is None:
        pytest.skip("this system has no directory that is read-only for all users")
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

    def fill(self) -> Path:
        """Use up all free space."""
        ballast = self.place / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
            while True:
                file.write(bytes(4_096))
        return ballast


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
    """Check that every picture is recorded once, that every file matches its record, and that no other file exists."""
    rows = manifest_of(job)
    assert [row.status for row in rows] == ["success"] * number
    roots = {msgspec.json.decode((store / "store.json").read_bytes())["id"]: store for store in stores}
    named = {roots[row.store] / row.path: row.sha256 for row in rows}
    files = {path: path.read_bytes() for store in stores for path in (store / "images").rglob("*") if path.is_file()}
    found = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    # A picture that a machine had saved and could not report is fetched by another one, so a spare copy may remain.
    spare = found.keys() - named.keys() if len(stores) > 1 else set()
    assert {path: digest for path, digest in found.items() if path not in spare} == named
    assert {found[path] for path in spare} <= set(named.values())
    assert (job / "results.txt").read_text().count("--->success\n") == number


@pytest.mark.fire
def test_a_full_disk_ends_a_run_with_3_and_the_same_command_completes_it(
    start: Start, disk: Disk, tmp_path: Path
) -> None:
    job = disk.place / "job"
    with DemoServer(many_pictures(tmp_path, 200)) as server:
        command = ("run", server.url, "-o", job, "-w", 1, "--disk-wait", 0)
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


@pytest.mark.fire
def test_a_full_disk_of_a_downloader_does_not_affect_its_master(start: Start, disk: Disk, tmp_path: Path) -> None:
    job, machine = tmp_path / "job", disk.place / "machine"
    with DemoServer(many_pictures(tmp_path, 200)) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        full = start("full", "download", job / "join", "-o", machine, "--disk-wait", 0)
        assert full.ends() == 3
        (line,) = full.said.splitlines()
        assert line.startswith(f"crawler: can't use {machine}") and "the disk is full: free some space" in line
        disk.resize("20m")
        again = start("again", "download", job / "join", "-o", machine)
        assert (again.ends(), master.ends()) == (0, 0), again.said
    check_whole(job, machine, number=200)


@pytest.mark.fire
def test_a_master_with_a_full_disk_continues_after_a_restart(start: Start, disk: Disk, tmp_path: Path) -> None:
    job, machine = disk.place / "job", tmp_path / "machine"
    with DemoServer(many_pictures(tmp_path, 300)) as server:
        command, downloads = (
            ("harvest", server.url, "-o", job, "--disk-wait", 0),
            ("download", job / "join", "-o", machine),
        )
        master = start("master", *command)
        wait_until(lambda: (job / "join").exists(), "a join file")
        helper = start("machine", *downloads)
        assert master.ends() == 3
        assert master.said.splitlines()[-1].startswith("crawler: ") and "Traceback" not in master.said
        helper.kill()  # it may have been informed of the full disk, or wait for its master
        disk.resize("20m")
        master, helper = start("again", *command), start("machine again", *downloads)
        assert (master.ends(), helper.ends()) == (0, 0), master.said + helper.said
        assert sum(1 for hit in server.requests if hit.path == "/") == 1
    check_whole(job, machine, number=300)


def check_uncharged(server: DemoServer, job: Path, *, threads: int) -> None:
    """Check that every picture has one attempt, and that no more were fetched again than were in progress."""
    assert {row.attempts for row in manifest_of(job)} == {1}
    fetched = Counter(hit.path for hit in server.requests if hit.path.endswith(".png"))
    assert max(fetched.values()) <= 3 and fetched.total() - len(fetched) <= 2 * threads


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.fire)])
def test_a_run_pauses_while_its_disk_is_full_and_then_continues(
    start: Start, disk: Disk, tmp_path: Path, workers: int
) -> None:
    job = disk.place / "job"
    with DemoServer(many_pictures(tmp_path, 200)) as server:
        run = start("run", "run", server.url, "-o", job, "-w", workers, "-t", 8)
        wait_until(lambda: "paused: disk full" in run.said, "a pause")
        status = start("status", "status", job)
        assert status.ends() == 0 and "paused: disk full" in status.results[0]
        disk.resize("20m")
        assert run.ends() == 0, run.said
        check_uncharged(server, job, threads=8)
    paused, going_on = (line for line in run.said.splitlines() if line.startswith("crawler: "))
    assert f"({job}, 0.0 MB free); resumes by itself once some space is free, or ends after 600 s" in paused
    assert going_on.startswith(f"crawler: resumed: {job} accepts data again, ")
    check_whole(job, job, number=200)


@pytest.mark.fire
@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_stays_full_ends_a_run_with_3(start: Start, disk: Disk, tmp_path: Path, workers: int) -> None:
    job = disk.place / "job"
    with DemoServer(many_pictures(tmp_path, 200)) as server:
        command = ("run", server.url, "-o", job, "-w", workers, "-t", 8, "--disk-wait", 3)
        full = start("full", *command)
        assert full.ends() == 3
        pause, end = full.said.splitlines()
        assert pause.startswith("crawler: paused: disk full") and "or ends after 3 s" in pause
        assert end.startswith("crawler: ") and "free some" in end and "same command again" in end
        disk.resize("20m")
        assert start("again", *command).ends() == 0
    assert {row.attempts for row in manifest_of(job)} == {1}
    check_whole(job, job, number=200)


@pytest.mark.fire
def test_a_downloader_with_a_full_disk_waits_while_the_others_continue(
    start: Start, disk: Disk, tmp_path: Path
) -> None:
    job, machine, other = tmp_path / "job", disk.place / "machine", tmp_path / "other"
    with DemoServer(many_pictures(tmp_path, 200)) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        disk.resize("100k")
        full = start("full", "download", job / "join", "-o", machine, "-t", 8)
        wait_until(lambda: "paused: disk full" in full.said, "a pause")
        # The second downloader takes all remaining pictures, and the first one waits for its disk until the end.
        # Until then the first one may save what fits: removed temporary files leave room for a few pictures.
        second = start("second", "download", job / "join", "-o", other)
        assert (second.ends(), master.ends()) == (0, 0), second.said
        assert len(list((machine / "images").rglob("*.png"))) <= 100_000 // 4096
        disk.resize("20m")
        assert full.ends() == 0, full.said
        check_uncharged(server, job, threads=8)
    assert "paused" not in master.said
    check_whole(job, machine, other, number=200)


@pytest.mark.fire
def test_a_run_whose_only_downloader_waits_does_not_end(start: Start, disk: Disk, tmp_path: Path) -> None:
    job, machine = tmp_path / "job", disk.place / "machine"
    with DemoServer(many_pictures(tmp_path, 200)) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        disk.resize("100k")
        full = start("full", "download", job / "join", "-o", machine, "-t", 8)
        wait_until(lambda: "paused: disk full" in full.said, "a pause")
        wait_until(lambda: stats_of(job).leased == 0, "the release of all leases")
        disk.resize("20m")
        assert (full.ends(), master.ends()) == (0, 0), full.said
        check_uncharged(server, job, threads=8)
    check_whole(job, machine, number=200)


@pytest.mark.fire
def test_a_master_with_a_full_disk_keeps_its_downloaders_waiting(start: Start, disk: Disk, tmp_path: Path) -> None:
    job, machine = disk.place / "job", tmp_path / "machine"
    with DemoServer(many_pictures(tmp_path, 300)) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        helper = start("machine", "download", job / "join", "-o", machine, "-t", 8)
        wait_until(lambda: "paused: disk full" in master.said, "a pause")
        disk.resize("20m")
        assert (master.ends(), helper.ends()) == (0, 0), master.said + helper.said
        assert sum(1 for hit in server.requests if hit.path == "/") == 1
        assert sum(1 for hit in server.requests if hit.path.endswith(".png")) == 300  # a downloader keeps its files
    assert {row.attempts for row in manifest_of(job)} == {1}
    check_whole(job, machine, number=300)


@pytest.mark.fire
def test_ctrl_c_ends_a_pause(start: Start, disk: Disk, tmp_path: Path) -> None:
    job = disk.place / "job"
    with DemoServer(many_pictures(tmp_path, 200)) as server:
        command = ("run", server.url, "-o", job, "-w", 1)
        run = start("run", *command)
        wait_until(lambda: "paused: disk full" in run.said, "a pause")
        run.interrupt()
        assert run.ends(20.0) == 130, run.said
        assert "Traceback" not in run.said and "Continue with:" in run.said
        disk.resize("20m")
        assert start("again", *command).ends() == 0
    check_whole(job, job, number=200)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no ulimit")
@pytest.mark.parametrize("command", ["run", pytest.param("download", marks=pytest.mark.fire)])
def test_a_lack_of_file_descriptors_reduces_the_parallel_downloads(start: Start, tmp_path: Path, command: str) -> None:
    job = tmp_path / "job"
    few = ("sh", "-c", 'ulimit -n 32; exec "$@"', "sh")
    slow = {f"/{number:04}.png": {"delay": 0.2} for number in range(40)}  # so that all threads work at once
    with DemoServer(many_pictures(tmp_path, 200), slow) as server:
        about = ("-t", 32, "--disk-wait", 60)
        if command == "run":
            ends = [start("run", "run", server.url, "-o", job, "-w", 0, "--per-host", 32, *about, prefix=few)]
        else:
            ends = [start("master", "harvest", server.url, "-o", job, "--per-host", 32)]
            wait_until(lambda: (job / "join").exists(), "a join file")
            ends += [start("machine", "download", job / "join", "-o", tmp_path / "machine", *about, prefix=few)]
        assert [each.ends() for each in ends] == [0] * len(ends), ends[-1].said
    assert "paused: too many open files" in ends[-1].said
    rows = manifest_of(job)
    assert len(rows) == 200 and {(row.status, row.attempts) for row in rows} == {("success", 1)}


def test_a_crawl_on_a_full_disk_is_not_taken_for_a_running_one(start: Start, disk: Disk, tmp_path: Path) -> None:
    job = disk.place / "job"
    job.mkdir()
    SqliteFrontier(job / "frontier.sqlite").close()
    disk.fill()
    status = start("status", "status", job)
    assert status.ends() == 0, status.said
    assert status.results[0].startswith(f"{job}: finished; ")
