"""Engines of workers on this machine: threads of the master, or downloader processes that join it over loopback."""

import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from crawler.engines.base import Process, StartProcess
from crawler.errors import AccessError, ConfigError, CrawlerError, DiskError, NetworkError, TLSError
from crawler.queue.join_file import JoinFile, to_line

_log = logging.getLogger(__name__)

#: A downloader that crashes is restarted, unless this many crash within this many seconds.
_MAX_CRASHES = 5
_CRASH_SECONDS = 60.0
#: Exit code of a downloader → its error. Any other code except 0 is a crash.
_ERRORS: dict[int, type[CrawlerError]] = {
    kind.code: kind for kind in (ConfigError, DiskError, NetworkError, TLSError, AccessError)
}


class _Runnable(Protocol):
    """A worker, or an object that contains one."""

    name: str

    def run(self) -> object: ...
    def stop(self) -> None: ...
    def abort(self) -> None: ...


class ThreadEngine:
    """Engine of one worker in a thread of this process."""

    def __init__(self, worker: _Runnable) -> None:
        self.worker = worker
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=worker.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def stop(self, *, now: bool = False) -> None:
        if now:
            self.worker.abort()
        else:
            self.worker.stop()

    def _run(self) -> None:
        try:
            self.worker.run()
        except Exception as error:  # noqa: BLE001  # raised again by wait(), in the thread that can act on it
            self._error = error


class ProcessEngine:
    """Engine of downloader processes: ``python -m crawler download -``.

    The standard input of each process is a pipe from the master. The process reads the join file from it and ends when
    it closes, so no process outlives the master, however the master ends. The processes do not receive the terminal's
    Ctrl-C: the master receives it and drains them.

    Args:
        join: contents of the join file.
        store: directory in which all processes save.
        count: number of processes.
        options: additional command-line options for each process.
        environment: additional variables for each process; secrets are passed here, not on the command line.
        popen: function that starts a process.
    """

    def __init__(
        self,
        join: JoinFile,
        store: Path,
        *,
        count: int,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        popen: StartProcess = subprocess.Popen,
    ) -> None:
        self._command = [sys.executable, "-m", "crawler", "download", "-", "-o", str(store), *options]
        self._join = to_line(join)
        self._environment = {**os.environ, **(environment or {})}
        self._count = count
        self._popen = popen
        self._processes: dict[int, Process] = {}
        #: The slots whose process has ended.
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._last_lines: dict[int, str] = {}
        self._crashes: deque[float] = deque(maxlen=_MAX_CRASHES)
        self._stopping = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the downloaders that are alive."""
        return [process.pid for process in self._processes.values() if process.poll() is None]

    def start(self) -> None:
        for slot in range(1, self._count + 1):
            self._start(slot)

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        with suppress(queue.Empty):
            while self._processes:
                self._handle_exit(self._ended.get(timeout=max(0.0, deadline - time.monotonic())))
        return not self._processes

    def stop(self, *, now: bool = False) -> None:
        self._stopping = True
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()
            if now:
                process.kill()

    def _start(self, slot: int) -> None:
        process = self._popen(
            [*self._command, "--slot", str(slot)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            env=self._environment,
            **_own_group(),
        )
        self._processes[slot] = process
        with suppress(OSError):  # the process has ended already; `_handle_exit` finds out why
            assert process.stdin is not None  # noqa: S101  # it was opened as a pipe
            process.stdin.write(self._join)
            process.stdin.flush()
        threading.Thread(target=self._follow, args=(slot, process), daemon=True).start()

    def _follow(self, slot: int, process: Process) -> None:
        """Log the output of a downloader, keep its last line, and announce its end."""
        assert process.stderr is not None  # noqa: S101  # it was opened as a pipe
        for line in process.stderr:
            self._last_lines[slot] = line.strip()
            _log.info("action=worker slot=%d %s", slot, line.rstrip())
        process.stderr.close()
        process.wait()
        self._ended.put(slot)

    def _handle_exit(self, slot: int) -> None:
        """Accept a normal end, raise an error that concerns the whole crawl, or restart a downloader that crashed."""
        process = self._processes.pop(slot)
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        code = process.returncode
        if code == 0 or self._stopping:
            return
        last_line = self._last_lines.get(slot, "").removeprefix("crawler: ")
        if code in _ERRORS:
            raise _ERRORS[code](last_line or f"downloader {slot} ended with exit code {code}")
        self._crashes.append(time.monotonic())
        if len(self._crashes) == _MAX_CRASHES and self._crashes[-1] - self._crashes[0] < _CRASH_SECONDS:
            raise CrawlerError(f"downloaders keep crashing (exit code {code}): {last_line or 'no output'}")
        _log.warning("downloader %d ended with exit code %d; starting it again", slot, code)
        self._start(slot)


def _own_group() -> dict[str, int | bool]:
    """Return the `subprocess.Popen` options that keep the terminal's Ctrl-C from a child process."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
