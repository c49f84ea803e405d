"""Where log lines go: warnings to standard error, everything of note into the crawl's ``crawl.log``."""

import logging
import re
import sys
from pathlib import Path

#: What could steer a terminal or reorder its text: C0, C1, line separators, bidirectional controls.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """One line in which nothing can steer a terminal."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", " ".join(text.split("\n")))


class _OneLine(logging.Formatter):
    """Log lines in which remote text can't steer a terminal; tracebacks only where they are wanted."""

    def __init__(self, text: str, *, tracebacks: bool) -> None:
        super().__init__(text)
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        line = printable(self._fmt_only(record))
        if self._tracebacks and record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line

    def _fmt_only(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        return self.formatMessage(record)


class _BesideBars(logging.Handler):
    """Warnings on standard error, between the bars where there are some."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def set_up(output: Path | None, *, quiet: bool, verbose: bool, debug: bool) -> None:
    """Warnings on standard error, and everything of note in ``crawl.log`` of the crawl's directory."""
    root = logging.getLogger("crawler")
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    screen = _BesideBars(
        logging.DEBUG if debug else logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    )
    screen.setFormatter(_OneLine("crawler: %(message)s", tracebacks=debug))
    root.addHandler(screen)
    if output is not None and output.is_dir():
        file = logging.FileHandler(output / "crawl.log", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s %(message)s", tracebacks=True))
        root.addHandler(file)
