"""Processes that are forked before this one has threads, and that run a command later without importing it again.

A fork copies only the thread that calls it, so a lock that another thread holds would stay locked in the copy. So the
copies are made first, wait, and open nothing. Linux only: system libraries of macOS do not work after a fork.
"""

import gc
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import IO, Any, NoReturn, Self

from crawler.engines.base import Process

#: Runs the command line, without the name of the program, and returns the exit code.
Main = Callable[[Sequence[str]], int]

#: The first message to a spare process: the length of its order in this many hexadecimal digits, and the order.
_DIGITS = 8


class _Spare:
    """A forked process that waits for its order, as a `Process`."""

    def __init__(self, main: Main, prepare: Callable[[], None]) -> None:
        assert sys.platform == "linux"  # noqa: S101  # see `_may_fork`
        order_end, stdin_end = os.pipe()
        stderr_end, error_end = os.pipe()
        self.returncode: int | None = None
        self._lock = threading.Lock()
        self.pid = os.fork()
        if not self.pid:
            _obey(main, prepare, order_end, error_end)
        os.close(order_end)
        os.close(error_end)
        self.stdin: IO[str] | None = os.fdopen(stdin_end, "w", encoding="utf-8")
        self.stderr: IO[str] | None = os.fdopen(stderr_end, encoding="utf-8", errors="backslashreplace")

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                self._reap()
        return self.returncode

    def wait(self) -> None:
        assert sys.platform == "linux"  # noqa: S101  # see `_may_fork`
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # the id stays valid for a `kill` until `poll`
        self.poll()

    def kill(self) -> None:
        assert sys.platform == "linux"  # noqa: S101  # see `_may_fork`
        with self._lock:
            if self.returncode is None:
                os.kill(self.pid, 9)

    def _reap(self) -> None:
        assert sys.platform == "linux"  # noqa: S101  # see `_may_fork`
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # SIGCHLD is ignored, so the system keeps no exit codes
            self.returncode = 0
        else:
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None


class SpareProcesses:
    """Spare processes, of which `popen` makes downloaders. Those that are left end with the context.

    Args:
        count: number of processes.
        main: what a spare process runs. Without it, and where a fork is not safe, there are no spare processes.
        prepare: what a spare process does before it has its order.
    """

    def __init__(self, count: int, main: Main | None, prepare: Callable[[], None] = lambda: None) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # a closed terminal
                stream.flush()  # else each process would write what is buffered
        self._spares: list[_Spare] = []
        if main and count and _may_fork():
            gc.freeze()  # a collection would write to all objects, and so copy the memory that the processes share
            with suppress(OSError):  # too many processes or open files; if that lasts, `popen` reports it
                for _ in range(count):
                    self._spares.append(_Spare(main, prepare))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for spare in self._spares:
            for pipe in filter(None, (spare.stdin, spare.stderr)):
                pipe.close()
        self._spares = []

    def popen(self, command: Sequence[str], *, env: Mapping[str, str], **options: Any) -> Process:
        """Start ``python -m crawler …`` as `subprocess.Popen` does, in a spare process while there is one."""
        if not self._spares:
            return Popen(command, env=env, **options)  # noqa: S603  # our own command
        spare = self._spares.pop(0)
        order = json.dumps([command[3:], dict(env)])
        assert spare.stdin is not None  # noqa: S101  # a spare always has a pipe
        with suppress(OSError):  # the process has ended already; its exit code shows that
            spare.stdin.write(f"{len(order):0{_DIGITS}x}{order}")
            spare.stdin.flush()
        return spare


def _may_fork() -> bool:
    """Return whether this process has one thread, those of libraries included, on a system where a fork is safe."""
    if sys.platform != "linux":
        return False
    try:
        return len(list(Path("/proc/self/task").iterdir())) == 1
    except OSError:
        return False


def _obey(main: Main, prepare: Callable[[], None], order_end: int, error_end: int) -> NoReturn:
    """Run the order that comes from a pipe, and end this process without a return to the code that forked it."""
    assert sys.platform == "linux"  # noqa: S101  # see `_may_fork`
    code = 1
    try:
        os.setsid()  # the terminal's Ctrl-C is for the master
        _replace_streams(order_end, error_end)
        prepare()
        if length := _read(_DIGITS):  # else the master has no work for this process, or has ended
            arguments, environment = json.loads(_read(int(length, 16)))
            os.environ.clear()
            os.environ.update(environment)
            code = main(arguments)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        logging.shutdown()
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _replace_streams(order_end: int, error_end: int) -> None:
    """Use the pipes as standard input and standard error, and close all else that was open in the master."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor, number in ((order_end, 0), (null, 1), (error_end, 2)):
        os.dup2(descriptor, number)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # a pipe that stays open would hide the end of the master
        if int(name) > 2:
            with suppress(OSError):
                os.close(int(name))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # as long as the process
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _read(size: int) -> bytes:
    """Return so many bytes of standard input, or fewer at its end. No byte behind them is read."""
    data = b""
    while len(data) < size and (part := os.read(0, size - len(data))):
        data += part
    return data
