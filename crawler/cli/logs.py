"""Logging: warnings to standard error, and messages from INFO up to ``crawl.log`` in the crawl's directory."""

import logging
import sys
from pathlib import Path

from crawler.text import printable


class _OneLine(logging.Formatter):
    """Formats log lines so that remote text can't control a terminal; tracebacks are optional."""

    def __init__(self, text: str, *, tracebacks: bool) -> None:
        super().__init__(text)
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        line = printable(self._format_message(record))
        if self._tracebacks and record.exc_info:
            # Indented, because a message in it may look like the start of another log line.
            traceback = self.formatException(record.exc_info).split("\n")
            line += "".join(f"\n    {printable(row)}" for row in traceback)
        return line

    def _format_message(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        return self.formatMessage(record)


class _ScreenHandler(logging.Handler):
    """Writes log lines to standard error without damaging the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001  # as in every handler of `logging`: a closed terminal must not stop a worker
            self.handleError(record)


def set_up(output: Path | None, *, quiet: bool, verbose: bool, debug: bool) -> None:
    """Log warnings to standard error, and messages from INFO up to ``crawl.log`` in the crawl's directory.

    A second call replaces the handlers of the first. Raises `DiskError` if ``crawl.log`` can't be written.
    """
    root = logging.getLogger("crawler")
    for old in [handler for handler in root.handlers if isinstance(handler.formatter, _OneLine)]:
        root.removeHandler(old)
        old.close()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    screen = _ScreenHandler(
        logging.DEBUG if debug else logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    )
    screen.setFormatter(_OneLine("crawler: %(message)s", tracebacks=debug))
    root.addHandler(screen)
    if output is not None and output.is_dir():
        from crawler.store.disk import disk_faults

        with disk_faults(output / "crawl.log"):
            file = logging.FileHandler(output / "crawl.log", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s %(message)s", tracebacks=True))
        root.addHandler(file)
