"""Workers on this box: threads of the master, or downloader processes that join it over loopback like any other."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from crawler.errors import AccessError, ConfigError, CrawlerError, DiskError, NetworkError, TLSError

_log = logging.getLogger(__name__)

#: A downloader that dies is started again, unless so many die within so many seconds.
_DEATHS = 5
_DEATH_SECONDS = 60.0
#: What the exit code of a downloader means; another one than these and 0 is a death.
_MEANINGS: dict[int, type[CrawlerError]] = {
    kind.code: kind for kind in (ConfigError, DiskError, NetworkError, TLSError, AccessError)
}


class Runnable(Protocol):
    """A worker, or what contains one."""

    name: str

    def run(self) -> object: ...
    def stop(self) -> None: ...
    def abort(self) -> None: ...


class ThreadEngine:
    """One worker in a thread of this process."""

    def __init__(self, worker: Runnable) -> None:
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
    """Downloader processes: ``python -m crawler download`` with the crawl's own join file.

    Each holds a pipe from us as its standard input and ends when that closes, so none survives its master, however
    the master ends. They are shielded from the terminal's Ctrl-C: the master hears it and drains them.

    Args:
        join: the join file.
        store: directory in which they all save.
        count: processes.
        options: further command-line options for each.
        environment: further variables for each; what may be secret stands in no command line.
        popen: what starts a process.
    """

    def __init__(
        self,
        join: Path,
        store: Path,
        *,
        count: int,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        popen: Callable[..., "subprocess.Popen[str]"] = subprocess.Popen,
    ) -> None:
        self._command = [sys.executable, "-m", "crawler", "download", str(join), "-o", str(store), *options]
        self._environment = {**os.environ, **(environment or {})}
        self._count = count
        self._popen = popen
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._last_words: dict[int, str] = {}
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
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
        while self._processes:
            for slot, process in list(self._processes.items()):
                if process.poll() is not None:
                    self._bury(slot, process)
            left = deadline - time.monotonic()
            if not self._processes or left <= 0:
                break
            try:
                next(iter(self._processes.values())).wait(min(left, 0.25))
            except subprocess.TimeoutExpired:
                continue
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
        threading.Thread(target=self._listen, args=(slot, process), daemon=True).start()

    def _listen(self, slot: int, process: "subprocess.Popen[str]") -> None:
        """Pass on what a downloader says, and keep its last words."""
        assert process.stderr is not None  # noqa: S101  # it was opened as a pipe
        for line in process.stderr:
            self._last_words[slot] = line.strip()
            _log.info("action=worker slot=%d %s", slot, line.rstrip())
        process.stderr.close()

    def _bury(self, slot: int, process: "subprocess.Popen[str]") -> None:
        """A downloader has ended: well, for a reason that concerns the crawl, or by accident, then it is replaced."""
        del self._processes[slot]
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        code = process.returncode
        if code == 0 or self._stopping:
            return
        words = self._last_words.get(slot, "").removeprefix("crawler: ")
        if code in _MEANINGS:
            raise _MEANINGS[code](words or f"downloader {slot} ended with exit code {code}")
        self._deaths.append(time.monotonic())
        if len(self._deaths) == _DEATHS and self._deaths[-1] - self._deaths[0] < _DEATH_SECONDS:
            raise CrawlerError(f"downloaders die one after the other (exit code {code}): {words or 'no last words'}")
        _log.warning("action=restart slot=%d code=%d", slot, code)
        self._start(slot)


def _own_group() -> dict[str, int | bool]:
    """How a child is kept out of the terminal's Ctrl-C on this system."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
