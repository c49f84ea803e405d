"""Signals that end a command early: Ctrl-C, SIGTERM, a closed terminal, and the end of the parent process."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from types import FrameType

from crawler.engines.local import ThreadEngine

_log = logging.getLogger(__name__)


def handle_signals(interrupt: Callable[[], None]) -> None:
    """Call ``interrupt`` on Ctrl-C, on SIGTERM and when the terminal is closed."""

    def handle(number: int, frame: FrameType | None) -> None:
        _log.info("action=interrupt signal=%s", signal.Signals(number).name)
        interrupt()

    hangups = count()

    def hang_up(number: int, frame: FrameType | None) -> None:
        # The terminal and the shell may both send it, the second while this call begins. It counts once.
        if next(hangups) == 0:
            handle(number, frame)

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handle)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:  # nohup ignores it
        signal.signal(hangup, hang_up)


def end_with_parent(engine: ThreadEngine) -> None:
    """Stop when the master that started this process closes its standard input, or dies."""
    while os.read(sys.stdin.fileno(), 1024):  # the lock of sys.stdin.read would crash the interpreter at exit
        pass
    engine.stop()
