"""Commands called in this process, for tests that need no second one."""

import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from crawler.cli.commands import main


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """Return the only line on standard error; fail if there was other output."""
        (line,) = self.err.splitlines()
        assert line.startswith("crawler: ") and not self.out
        return line


#: Arguments, and bytes of standard input → the ended command.
Call = Callable[..., Ended]


@contextmanager
def calls(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Call commands in ``folder`` without the user's environment; undo their changes to the process."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root = logging.getLogger("crawler")
    level = root.level
    monkeypatch.chdir(folder)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    for name in [name for name in os.environ if name.startswith("CRAWLER_")]:
        monkeypatch.delenv(name)

    def call(*arguments: object, given: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "argv", ["crawler", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(int(end.value.code or 0), *capsys.readouterr())

    try:
        yield call
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)
        for printer in list(root.handlers):
            root.removeHandler(printer)
            printer.close()
        root.setLevel(level)
