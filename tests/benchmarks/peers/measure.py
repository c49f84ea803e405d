"""One run of a command: seconds, CPU and memory of its whole process tree, and the pictures that it has saved."""

import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread, Timer

from msgspec import Struct

#: Seconds between two looks at the memory of the processes: at first, so that short runs are seen, and at most.
_FIRST_LOOK, _LOOK = 0.01, 0.2
#: Seconds that processes left behind may take to end.
_LINGER = 5.0
_PR_SET_CHILD_SUBREAPER = 36


class Usage(Struct, frozen=True):
    """The cost of one run of a command."""

    seconds: float
    #: Seconds of user and system time of the command and of all its descendants.
    cpu: float
    #: The largest sum of the memory of the process tree, in MiB; memory that processes share counts once. Linux only.
    memory: float | None
    #: When it ended, as seconds of `time.time`.
    ended: float
    #: Exit code; None if the time limit was exceeded.
    code: int | None


def adopt_orphans() -> None:
    """Become the parent of daemons that a command leaves behind, so that their CPU is counted. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def measure(command: list[str], folder: Path, environment: dict[str, str], limit: float) -> Usage:
    """Run a command in a folder to its end, or for at most ``limit`` seconds. Its output goes to ``folder``/log."""
    if sys.platform == "win32":
        raise SystemExit("the benchmark needs Linux or macOS: Windows does not count the CPU of a process tree")
    import resource

    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    ours = set(children(os.getpid()))
    before, begin = cpu(), time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        stopped = Event()
        timer = Timer(limit, _stop, (process.pid, stopped))
        timer.start()
        with _MemoryWatch(process.pid) as watch:
            code = process.wait()  # with a timeout, it would notice the end up to 50 ms late
            seconds, ended = time.monotonic() - begin, time.time()
        timer.cancel()
        _reap(set(children(os.getpid())) - ours)
    return Usage(seconds, cpu() - before, watch.peak, ended, None if stopped.is_set() else code)


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    if sys.platform != "linux":
        told = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
        return [int(word) for word in told.stdout.split()]
    found = []
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(word) for word in path.read_text().split()]
    return found


def descendants(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    for child in children(pid):
        yield from descendants(child)


def verified(folder: Path, digests: Collection[bytes]) -> int:
    """Return how many of the pictures with these SHA-256 digests are files in the folder, with exactly their bytes."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found.add(hashlib.file_digest(file, "sha256").digest())
    return len(found.intersection(digests))


def _stop(pid: int, stopped: Event) -> None:
    """Kill a command that takes too long, and its descendants."""
    stopped.set()
    for each in [*descendants(pid)]:
        _kill(each)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)


def _reap(orphans: Collection[int]) -> None:
    """Wait for processes that a command has left behind, and kill those that stay."""
    until = time.monotonic() + _LINGER
    for pid in orphans:
        for each in descendants(pid) if time.monotonic() > until else ():
            _kill(each)
        while not _has_ended(pid):
            if time.monotonic() > until:
                _kill(pid)
            time.sleep(0.02)


def _has_ended(pid: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


class _MemoryWatch:
    """Looks at the memory of a process tree again and again, in a thread; a context manager."""

    def __init__(self, pid: int) -> None:
        self.peak: float | None = None
        self._pid, self._end = pid, Event()
        self._thread = Thread(target=self._watch)

    def __enter__(self) -> "_MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = _FIRST_LOOK
        while sys.platform == "linux" and not self._end.wait(pause):
            pause = min(pause * 1.5, _LOOK)
            if used := sum(map(_memory, descendants(self._pid))):
                self.peak = max(self.peak or 0.0, used)


def _memory(pid: int) -> float:
    """Return the proportional share of memory of a process in MiB, or 0.0 if the system does not tell it."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
