"""A disk that reports an error to one of two downloaders of a directory: no picture is lost."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from crawler.demo.server import DemoServer
from crawler.errors import DiskError
from crawler.store.local import LocalStore
from tests.support.needs import need
from tests.support.processes import Command, commands, downloaders, many_pictures, wait_until

Start = Callable[..., Command]

#: Number of pictures, and of further URLs of the same ones.
PICTURES, COPIES = 40, 20
NAMES = [f"{number:04}.png" for number in range(PICTURES + COPIES)]
#: Crawls that wait for their pictures in parallel.
AT_ONCE = 4
#: Maximum duration of a command, seconds; far above what is ever needed.
SECONDS = 600.0
#: A downloader that flushes every one or two pictures, so that a small crawl has as many flushes as a large one.
EAGER = (
    "from crawler.worker import committer; committer._FLUSH_FILES = 1; from crawler.cli.commands import main; main()"
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    need("strace", is_there=shutil.which("strace") is not None, reason="strace is not installed")
    with commands(tmp_path) as starter:
        yield starter


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Write a page with all the pictures."""
    made = many_pictures(tmp_path, PICTURES)
    for name, same in zip(NAMES[PICTURES:], NAMES, strict=False):
        (made / "a" / name).hardlink_to(made / "a" / same)
    (made / "a" / "index.html").write_text("".join(f'<img src="{name}">' for name in NAMES))
    return made


def crawl(start: Start, server: DemoServer, job: Path, error: str, number: int) -> int:
    """Crawl with two downloaders, one of which has its n-th syncs refused; return the number of refused calls.

    strace counts the calls of each kind and thread.
    """
    log, name = job.with_suffix(".strace"), job.name
    inject = f"inject=syncfs,fsync:error={error}:when={number}"
    strace = ("strace", "-f", "--seccomp-bpf", "-o", str(log), "-e", "trace=syncfs,fsync", "-e", inject)
    server.hold("/robots.txt")
    master = start(f"{name}-master", "harvest", server.url, "-o", job, "-q")
    wait_until((job / "join").exists, "a join file")
    machine = ("download", job / "join", "-o", job, "-q", "-t")
    victim = start(f"{name}-victim", *machine, 3, script=EAGER, prefix=strace)
    other = start(f"{name}-other", *machine, 1, script=EAGER)
    wait_until(lambda: len(downloaders(job)) == 2 - (victim.process.poll() is not None), "both at work")
    server.release("/robots.txt")
    assert master.ends(SECONDS) == 0, master.said
    assert other.ends(SECONDS) == 0, other.said
    victim.ends(SECONDS)
    return log.read_text().count("(INJECTED)")


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT"])
@pytest.mark.parametrize(
    "numbers",
    [pytest.param((1, 2, 3, 5, 8, 13), marks=pytest.mark.fire), pytest.param(range(1, 21), marks=pytest.mark.long)],
    ids=["some", "all"],
)
def test_every_picture_is_whole_after_a_refused_sync_and_a_retry(
    start: Start, site: Path, tmp_path: Path, error: str, numbers: Sequence[int]
) -> None:
    def check(number: int) -> int:
        """Return the number of refused calls."""
        job = tmp_path / f"{error}-{number}"
        with DemoServer(site, {f"/{name}": {"delay": 0.1} for name in NAMES}) as server:
            refused = crawl(start, server, job, error, number)
            retry = start(f"{job.name}-retry", "retry", job)
            assert retry.ends(SECONDS) == 0, (number, retry.said)
        verify = start(f"{job.name}-verify", "verify", job)
        assert verify.ends(SECONDS) == 0, (number, verify.said)
        assert f"{PICTURES} files intact, 0 missing, 0 damaged, 0 foreign" in verify.said, (number, verify.said)
        return refused

    with ThreadPoolExecutor(AT_ONCE) as pool:
        refused = list(pool.map(check, numbers))
    sys.stdout.write(f"{error}: refused calls by number {refused}\n")
    assert sum(map(bool, refused)) >= len(numbers) // 4


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@contextmanager
def thin_disk(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Mount a disk that is larger than its 24 MB of backing; yield its path, and a file that uses 16 MB of it."""
    behind, place, image = folder / "behind", folder / "place", folder / "behind" / "disk"
    behind.mkdir()
    place.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=40m", "none", behind)
        with image.open("wb") as file:
            file.truncate(128 * 2**20)
        make = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", str(image)]
        subprocess.run(make, check=True, capture_output=True)
        (behind / "ballast").write_bytes(bytes(16 * 2**20))
        mount("-o", "loop", image, place)
    except (OSError, subprocess.CalledProcessError):
        subprocess.run(["umount", "-l", str(behind)], check=False, capture_output=True)
        need("power", is_there=False, reason="mounting a disk needs root and a Linux with loop devices")
    try:
        yield place, behind / "ballast"
    finally:
        for each in (place, behind):
            subprocess.run(["umount", "-l", str(each)], check=False)


@pytest.mark.fire
def test_a_failed_write_back_is_reported_to_each_of_two_stores_of_a_directory(tmp_path: Path) -> None:
    """Use two stores with separate descriptors, as in two processes: Linux reports the error once to each."""
    with thin_disk(tmp_path) as (place, ballast):
        one, other = LocalStore(place / "store"), LocalStore(place / "store")
        one.put("images/first.png", b"first")
        other.put("images/second.png", b"second")
        for number in range(5):
            one.put(f"images/{number}.png", bytes([number]) * (6 * 2**20))
        with pytest.raises(DiskError):
            other.flush()
        ballast.unlink()  # from now on the disk accepts everything
        with pytest.raises(DiskError):
            one.flush()
        one.put("images/first.png", b"first")
        one.flush(["images/first.png"])
