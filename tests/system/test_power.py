"""Power cuts: every picture acknowledged before the cut is intact after it, and no file is corrupt."""

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from crawler.store.base import Durability
from tests.support.needs import need
from tests.support.saver import Left, Task, look_at, prepare

#: Number of cuts of each kind.
CUTS = 10
#: Pictures in a crawl; more than are saved before the cut.
PICTURES = 5_000
#: Bytes of the disk.
SIZE = 256 * 2**20
#: EXT4_IOC_SHUTDOWN, and its flag for dropping even the journal's buffers (EXT4_GOING_FLAGS_NOLOGFLUSH).
_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, struct.pack("I", 2)


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[None]:
    """Mount the disk in an image."""
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def make_disk(image: Path, place: Path) -> None:
    """Make a new disk, or skip the test."""
    place.mkdir(exist_ok=True)
    image.unlink(missing_ok=True)
    try:
        with image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
        with mounted(image, place):
            pass
    except (OSError, subprocess.CalledProcessError):
        need("power", is_there=False, reason="mounting a disk needs root and a Linux with ext4 and loop devices")


def cut_power(place: Path) -> None:
    """Stop all writes to the disk from this instant, in any order in which they are pending."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, _NO_LOG_FLUSH)
    finally:
        os.close(descriptor)


def work_until_the_cut(task: Task, place: Path, seconds: float) -> list[str]:
    """Run a saver for a while, and cut the power; return the pictures acknowledged before that."""
    script = (
        "import sys, msgspec; from tests.support.saver import Task, save;"
        " save(msgspec.json.decode(sys.argv[1], type=Task, dec_hook=lambda kind, value: kind(value)))"
    )
    command = [sys.executable, "-c", script, msgspec.json.encode(task, enc_hook=str).decode()]
    saver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30.0
        while not (task.acks.exists() and task.acks.stat().st_size):
            assert time.monotonic() < deadline and saver.poll() is None, "no picture was ever acknowledged"
            time.sleep(0.01)  # between two checks of another process, which sends no event
        time.sleep(seconds)  # the time of the cut, which is random
        assert saver.poll() is None, "too few pictures for the speed of this disk"
        told = task.acks.read_text()
        cut_power(place)
    finally:
        with suppress(ProcessLookupError):
            saver.send_signal(signal.SIGKILL)
        saver.wait(30)
    return told[: told.rfind("\n") + 1].splitlines()


def cut(folder: Path, durability: Durability, seconds: float, *, is_apart: bool) -> Left:
    """Run one crawl on a new disk, or only its store there (``is_apart``), and cut the power; return the remains."""
    image, after, place = folder / "disk", folder / "after", folder / "place"
    make_disk(image, place)
    acks = folder / "acks"
    acks.unlink(missing_ok=True)
    shutil.rmtree(folder / "job", ignore_errors=True)
    store = place / "store" if is_apart else None
    job = folder / "job" if is_apart else place / "job"
    task = Task(job=job, acks=acks, number=PICTURES, durability=durability, batch=16, store=store)
    with mounted(image, place):
        prepare(task)
        if store is not None:
            store.mkdir()
        subprocess.run(["sync", "-f", str(place)], check=True)  # the crawl began long ago
        told = work_until_the_cut(task, place, seconds)
        subprocess.run(["cp", "--sparse=always", str(image), str(after)], check=True)
    subprocess.run(["fsck.ext4", "-p", str(after)], check=False, capture_output=True)
    with mounted(after, place):
        return look_at(task, told)


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("is_apart", [False, True], ids=["crawl", "store"])
@pytest.mark.parametrize("durability", ["none", "batch", "file", "strict"])
def test_pictures_acknowledged_before_a_power_cut_are_intact_after_it(
    tmp_path: Path, durability: Durability, is_apart: bool
) -> None:
    dice = random.Random(f"{durability} {is_apart}")  # noqa: S311  # repeatable times
    found = []
    for _ in range(CUTS):
        left = cut(tmp_path, durability, dice.uniform(0.05, 1.0), is_apart=is_apart)
        found.append(left)
        if durability != "none":
            assert left.is_good, left
        if durability in ("file", "strict"):
            assert not left.spoilt
    told, lost = sum(left.told for left in found), sum(left.lost for left in found)
    spoilt = sum(left.spoilt for left in found)
    what = "a store" if is_apart else "a crawl"
    cuts = f"{what}, {durability}: {CUTS} cuts, {told} pictures told before"
    sys.stdout.write(f"{cuts}, {lost} of them lost, {spoilt} names without their bytes\n")
    assert told >= 16 * CUTS
