"""Where log lines go: warnings to standard error, everything of note into the crawl's ``crawl.log``."""

import logging
import re
import sys
from pathlib import Path

#: What could steer a terminal or reorder its text: C0, C1, line separators, bidirectional controls.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


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
            # Indented, because a message in it may look like the beginning of another line.
            traceback = self.formatException(record.exc_info).split("\n")
            line += "".join(f"\n    {printable(text)}" for text in traceback)
        return line

    def _fmt_only(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        return self.formatMessage(record)


class _BesideBars(logging.Handler):
    """Warnings on standard error, between the bars where there are some."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001  # as every handler of `logging` does: a closed terminal stops no worker
            self.handleError(record)


def set_up(output: Path | None, *, quiet: bool, verbose: bool, debug: bool) -> None:
    """Warnings on standard error, and everything of note in ``crawl.log`` of the crawl's directory.

    A second call replaces what the first one set up. Raises `DiskError` where ``crawl.log`` can't be written.
    """
    from crawler.storage import disk_faults

    root = logging.getLogger("crawler")
    for old in [handler for handler in root.handlers if isinstance(handler.formatter, _OneLine)]:
        root.removeHandler(old)
        old.close()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    screen = _BesideBars(
        logging.DEBUG if debug else logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    )
    screen.setFormatter(_OneLine("crawler: %(message)s", tracebacks=debug))
    root.addHandler(screen)
    if output is not None and output.is_dir():
        with disk_faults(output / "crawl.log"):
            file = logging.FileHandler(output / "crawl.log", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s %(message)s", tracebacks=True))
        root.addHandler(file)
