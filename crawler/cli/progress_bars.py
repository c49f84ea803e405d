"""The output of the commands: progress bars or lines, results on standard output, summaries.

Every number comes from `FrontierStats` or the records; this module counts nothing.
"""

import errno
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from threading import RLock
from typing import Any, TextIO

from tqdm import tqdm

from crawler.app.events import Event
from crawler.cli.event_text import describe_event
from crawler.cli.text import clock_time, describe_counts, hosts_text, limit_text, rates, trouble_text
from crawler.cli.worker_text import describe_silence
from crawler.errors import DiskError
from crawler.model import ImageRecord
from crawler.stats import FrontierStats
from crawler.store.manifest import record_line, row_json
from crawler.text import printable
from crawler.worker.worker import WorkerProgress

# tqdm's own lock is shared with all processes that are forked, so one that is killed would stop the others.
tqdm.set_lock(RLock())

#: Seconds between two progress lines if standard error is not a terminal.
_LINE_EVERY = 30.0
#: Formats of a bar before and after its total is known. The time left needs the total.
_GROWING = "{desc} {text}"
_KNOWN = "{desc} {percentage:3.0f}% |{bar:20}| {text}"
#: Seconds for which a notice about a missing master is shown; `DownloadLine.wait` is called more often than that.
_MISSING_FOR = 3.0
#: Seconds over which a rate is measured. Files are flushed, and so reported, in groups.
_WINDOW = 10.0


class Speed:
    """A rate over the last seconds. It starts from the first total, which is not 0 in a resumed crawl."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, float]] = deque()

    def update(self, total: float) -> float:
        """Record the current total and return units per second."""
        now = self._clock()
        self._samples.append((now, total))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        return (total - before) / (now - then) if now > then else 0.0


class _Bar(tqdm):  # type: ignore[type-arg]  # tqdm is generic in what it iterates over; this bar only counts
    """A bar with a text of its own. It is drawn only by `refresh`, never by tqdm's monitor thread."""

    monitor_interval = 0
    text = ""

    @property
    def format_dict(self) -> Any:
        return {**super().format_dict, "text": self.text}

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:
        """Draw the bar. A closed terminal raises OSError, and the lock that log lines need is released."""
        with nullcontext() if nolock else self.get_lock():  # type: ignore[no-untyped-call]
            super().refresh(nolock=True)


class _Display:
    """Bars on a terminal, else one line every 30 seconds, on ``err``. A closed terminal is not an error."""

    def __init__(self, *, quiet: bool, err: TextIO | None, clock: Callable[[], float]) -> None:
        self._err = err or sys.stderr
        self._quiet, self._clock = quiet, clock
        self._has_bars = self._err.isatty() and not quiet
        self._bars: list[_Bar] = []
        self._images, self._bytes = Speed(clock), Speed(clock)
        self._next_line = clock() + _LINE_EVERY

    def say(self, text: str) -> None:
        """Write a line for the user."""
        if not self._quiet:
            with suppress(OSError):
                tqdm.write(text, file=self._err)

    def close(self) -> None:
        """Remove the bars from the terminal."""
        for bar in reversed(self._bars):  # the first bar leaves the cursor at the start of a line
            with suppress(OSError):
                bar.close()
        self._bars = []

    def _open_bars(self, bar_format: str, *names: str) -> None:
        if not self._bars:
            options: dict[str, Any] = {
                "file": self._err,
                "dynamic_ncols": True,
                "leave": False,
                "bar_format": bar_format,
            }
            self._bars = [_Bar(desc=name, position=number, **options) for number, name in enumerate(names)]

    def _is_due(self) -> bool:
        """Return whether it is time for the next line."""
        if self._clock() < self._next_line:
            return False
        self._next_line = self._clock() + _LINE_EVERY
        return True

    def _show(self, text: str) -> None:
        """Draw a bar that is only this text, or write the text as a line if it is time."""
        if self._has_bars:
            with suppress(OSError):
                self._open_bars("{text}", "")
                self._bars[0].text = text
                self._bars[0].refresh()
        elif self._is_due():
            self.say(text)


class Console(_Display):
    """A view that writes results to ``out`` and everything else to ``err``.

    Args:
        quiet: write only results, errors and the summary.
        verbose: write results to a terminal, too.
        as_json: write results as manifest rows instead of record lines.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        as_json: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(quiet=quiet, err=err, clock=clock)
        self._out, self._as_json = out or sys.stdout, as_json
        self._shows_results: bool = verbose or as_json or not self._out.isatty()
        self._started = clock()

    def event(self, event: Event) -> None:
        """Write the sentences for an event."""
        for line in describe_event(event):
            self.say(line)

    def results(self, records: Sequence[ImageRecord]) -> None:
        """Write settled image URLs to standard output; a closed pipe is not an error.

        Raises:
            DiskError: standard output is a file that can't be written.
        """
        if not self._shows_results:
            return
        try:
            # The JSON keeps its meaning, and text of a site can't control the terminal.
            line_of = (lambda record: printable(row_json(record).decode())) if self._as_json else record_line
            if records:
                tqdm.write("\n".join(map(line_of, records)), file=self._out)
            self._out.flush()
        except OSError as error:
            self._shows_results = False
            if error.errno not in (errno.EPIPE, errno.EINVAL):  # a closed pipe: the number depends on the system
                raise DiskError(f"can't write the results to standard output: {error.strerror}") from error

    def update(self, stats: FrontierStats) -> None:
        """Show the current counts."""
        settled = stats.success + stats.duplicate + stats.failed
        rate, speed = self._images.update(settled), self._bytes.update(stats.bytes)
        if self._has_bars:
            try:
                self._draw(stats, settled, rate, speed)
            except OSError:  # the terminal is closed; the crawl continues without it
                self._has_bars = False
                self.close()
        elif not self._quiet and self._is_due():
            self.say(f"{describe_counts(stats)}, {rates(rate, speed)}")

    def _draw(self, stats: FrontierStats, settled: int, rate: float, speed: float) -> None:
        self._open_bars(_GROWING, "pages ", "images")
        pages, images = self._bars
        visited = stats.pages_done + stats.pages_failed
        pages_found = visited + stats.pages_waiting + stats.pages_leased
        is_known = pages_found == visited and not stats.lists_open
        images.n, images.total = settled, stats.discovered if is_known and stats.discovered else None
        images.bar_format = _KNOWN if images.total else _GROWING
        times = clock_time(self._clock() - self._started)
        if images.total and rate:
            times += f"<{clock_time((images.total - settled) / rate)}"
        silence = describe_silence(stats)
        notice = trouble_text(stats.trouble) or (f"; {silence}" if silence else limit_text(stats))
        pages.text = f"{visited}/{pages_found}  {hosts_text(stats)}{notice}"
        counts = f"ok {stats.success}  dup {stats.duplicate}  fail {stats.failed}"
        images.text = f"{settled}/{stats.discovered} [{times}, {rates(rate, speed)}]  {counts}"
        pages.refresh()
        images.refresh()


class DownloadLine(_Display):
    """The status line of a downloader."""

    def __init__(
        self, *, quiet: bool = False, err: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(quiet=quiet, err=err, clock=clock)
        #: Clock time of the last notice about a missing master, clock time at which the wait ends, and the reason.
        self._missing: tuple[float, float, str] | None = None

    def update(self, progress: WorkerProgress) -> None:
        """Show the counts of this downloader, or how long it still waits for its master."""
        rate = self._images.update(progress.saved + progress.duplicates + progress.failed)
        speed = self._bytes.update(progress.received)
        now = self._clock()
        counts = f"ok {progress.saved}  dup {progress.duplicates}  fail {progress.failed}"
        text = f"{counts}  {rates(rate, speed)}  leases {progress.leases}{trouble_text(progress.trouble)}"
        if self._missing and now < self._missing[0] + _MISSING_FOR:
            text = f"no master ({self._missing[2]}); giving up in {max(0.0, self._missing[1] - now):.0f} s"
        self._show(text)

    def wait(self, seconds_left: float, reason: str) -> None:
        """Note that the master is missing; the next `update` shows it. May be called from any thread."""
        now = self._clock()
        self._missing = (now, now + seconds_left, printable(reason))


class VerifyLine(_Display):
    """The progress line of `verify` and `gather`."""

    def __init__(self, *, err: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(quiet=False, err=err, clock=clock)

    def update(self, what: str, number: int) -> None:
        """Show the number of checked items; ``what`` names them."""
        self._show(f"{number} {what} checked")
