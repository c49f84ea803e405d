"""What a person sees while a crawl runs: bars on a terminal, a line now and then elsewhere, results on stdout.

Every number comes from `FrontierStats` or the records; nothing is counted here.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import msgspec
from tqdm import tqdm

from crawler.crawl import Summary
from crawler.manifest import record_line
from crawler.model import FrontierStats, ImageRecord
from crawler.worker import WorkerProgress

#: Seconds between two lines where there is no terminal.
_LINE_EVERY = 30.0
_MB = 1_000_000
#: A bar before and after its total is known; only then is there a time left to tell.
_GROWING = "{desc} {n_fmt}/{postfix}"
_KNOWN = "{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{postfix}"


class Speed:
    """A rate that forgets: a total that grows, smoothed over some ten seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at, self._total = clock(), 0.0
        self.per_second = 0.0

    def update(self, total: float) -> float:
        """Take in the total as it is now; returns units per second."""
        now = self._clock()
        passed = now - self._at
        if passed >= 0.2:
            share = min(1.0, passed / 10.0) if self.per_second else 1.0
            self.per_second += share * ((total - self._total) / passed - self.per_second)
            self._at, self._total = now, total
        return self.per_second


class Console:
    """One terminal, or what stands in for it: results on ``out``, everything else on ``err``.

    Args:
        quiet: only results, errors and the summary.
        verbose: results on a terminal, too.
        as_json: results as manifest rows instead of record lines.
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
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._quiet, self._as_json = quiet, as_json
        self._shows_results: bool = verbose or as_json or not self._out.isatty()
        self._has_bars = self._err.isatty() and not quiet
        self._clock = clock
        self._bars: list[tqdm[Any]] = []
        self._images, self._bytes = Speed(clock), Speed(clock)
        self._next_line = clock() + _LINE_EVERY
        self._started = clock()

    def say(self, text: str) -> None:
        """A line for people."""
        if not self._quiet:
            tqdm.write(text, file=self._err)

    def results(self, records: Sequence[ImageRecord]) -> None:
        """Settled image URLs, on standard output; a reader that went away is no error."""
        if not self._shows_results:
            return
        try:
            for record in records:
                line = msgspec.json.encode(record).decode() if self._as_json else record_line(record)
                tqdm.write(line, file=self._out)
            self._out.flush()
        except BrokenPipeError:
            self._shows_results = False

    def update(self, stats: FrontierStats) -> None:
        """How things stand now."""
        settled = stats.success + stats.duplicate + stats.failed
        rate, speed = self._images.update(settled), self._bytes.update(stats.bytes)
        if self._has_bars:
            self._draw(stats, settled, f"{rate:.1f} img/s, {speed / _MB:.1f} MB/s")
        elif not self._quiet and self._clock() >= self._next_line:
            self._next_line = self._clock() + _LINE_EVERY
            self.say(f"{describe_counts(stats)}, {rate:.1f} img/s, {speed / _MB:.1f} MB/s")

    def close(self) -> None:
        """Leave the terminal as it was."""
        for bar in self._bars:
            bar.close()
        self._bars = []

    def _draw(self, stats: FrontierStats, settled: int, rates: str) -> None:
        if not self._bars:
            options: dict[str, Any] = {"file": self._err, "dynamic_ncols": True, "leave": False, "bar_format": _GROWING}
            self._bars = [tqdm(desc="pages ", position=0, **options), tqdm(desc="images", position=1, **options)]
        pages, images = self._bars
        visited = stats.pages_done + stats.pages_failed
        found = visited + stats.pages_waiting + stats.pages_leased
        is_known = found == visited and not stats.lists_open
        pages.n, images.n = visited, settled
        images.total = stats.discovered if is_known and stats.discovered else None
        images.bar_format = _KNOWN if images.total else _GROWING
        elapsed = self._clock() - self._started
        left = elapsed * (stats.discovered - settled) / settled if images.total and settled else None
        times = clock_time(elapsed) + (f"<{clock_time(left)}" if left is not None else "")
        pages.set_postfix_str(f"{found}  hosts {stats.hosts}{_limit(stats)}", refresh=False)
        counts = f"ok {stats.success}  dup {stats.duplicate}  fail {stats.failed}"
        images.set_postfix_str(f"{stats.discovered} [{times}, {rates}]  {counts}", refresh=False)
        pages.refresh()
        images.refresh()


class DownloadLine:
    """A downloader's one line."""

    def __init__(self, *, quiet: bool = False, err: TextIO | None = None) -> None:
        self._err = err or sys.stderr
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._images, self._bytes = Speed(time.monotonic), Speed(time.monotonic)
        if self._err.isatty() and not quiet:
            self._bar = tqdm(file=self._err, dynamic_ncols=True, leave=False, bar_format="{desc}")

    def update(self, progress: WorkerProgress) -> None:
        """What this downloader has done so far."""
        rate = self._images.update(progress.saved + progress.failed)
        speed = self._bytes.update(progress.received)
        if self._bar is not None:
            self._bar.set_description_str(
                f"ok {progress.saved}  fail {progress.failed}  {rate:.1f} img/s  {speed / _MB:.1f} MB/s"
                f"  leases {progress.leases}"
            )

    def wait(self, seconds_left: float, reason: str) -> None:
        """The countdown while there is no master."""
        if self._bar is not None:
            self._bar.set_description_str(f"no master ({reason}); giving up in {seconds_left:.0f} s")

    def say(self, text: str) -> None:
        if not self._quiet:
            tqdm.write(text, file=self._err)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def describe_counts(stats: FrontierStats) -> str:
    """The counts in one line."""
    visited = stats.pages_done + stats.pages_failed
    found = visited + stats.pages_waiting + stats.pages_leased
    return (
        f"pages {visited}/{found}, images {stats.success + stats.duplicate + stats.failed}/{stats.discovered}: "
        f"{stats.success} saved, {stats.duplicate} duplicate, {stats.failed} failed, {stats.leased} in work, "
        f"{stats.waiting} waiting; hosts {stats.hosts}{_limit(stats)}"
    )


def describe_summary(summary: Summary) -> str:
    """The closing block: what came of it, why not more, where it lies, what to type next."""
    stats = summary.stats
    visited = stats.pages_done + stats.pages_failed
    head = "Interrupted after" if summary.interrupted else "Done in"
    lines = [
        f"{head} {clock_time(summary.elapsed)}: {stats.success} images saved ({stats.bytes / _MB:.1f} MB)"
        f" from {visited} pages on {stats.hosts} hosts"
    ]
    rows = {
        "duplicate": str(stats.duplicate) if stats.duplicate else "",
        "failed": _reasons(stats.failed, stats.reasons),
        "pages failed": _reasons(stats.pages_failed, stats.page_reasons),
        "robots.txt": _reasons(sum(stats.robots_reasons.values()), stats.robots_reasons),
        "bad lines": str(stats.bad_lines) if stats.bad_lines else "",
        "waiting": f"{stats.waiting} images, {stats.pages_waiting} pages"
        if stats.waiting + stats.pages_waiting
        else "",
    }
    lines += [f"  {name:<13} {text}" for name, text in rows.items() if text]
    place = summary.output
    lines.append(f"  Files {place / 'images'}   Manifest {place / 'manifest.jsonl'}   Results {place / 'results.txt'}")
    if summary.interrupted:
        lines.append(f"Continue with:  crawler run -o {place}")
    return "\n".join(lines)


def describe_workers(stats: FrontierStats) -> list[str]:
    """A line for each worker."""
    return [
        f"  {worker.name:<32} {worker.leases} leases, {worker.settled} settled, last seen {worker.silent:.0f} s ago"
        for worker in stats.workers
    ]


def clock_time(seconds: float) -> str:
    """``mm:ss``, with hours where there are some."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def _limit(stats: FrontierStats) -> str:
    if not stats.limiting_host or stats.limiting_gap <= 0:
        return ""
    return f"; {stats.limiting_host} is asked every {stats.limiting_gap:g} s (your own site? --delay 0 --per-host 8)"


def _reasons(total: int, reasons: dict[str, int]) -> str:
    return f"{total}: " + ", ".join(f"{reason} {number}" for reason, number in reasons.items()) if total else ""
