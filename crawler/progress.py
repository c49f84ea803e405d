"""What a person sees while a crawl runs: bars on a terminal, a line now and then elsewhere, results on stdout.

Every number comes from `FrontierStats` or the records; nothing is counted here.
"""

import errno
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TextIO

import msgspec
from tqdm import tqdm

from crawler.audit import Audit, Gathered
from crawler.entries import DAMAGED
from crawler.errors import DiskError
from crawler.fleet import describe_silence, name_store
from crawler.logs import printable
from crawler.manifest import record_line, row_json
from crawler.model import FrontierStats, ImageRecord, Request
from crawler.near import Near
from crawler.preview import Preview, count_by_host
from crawler.repair import Repair
from crawler.urls import host_key
from crawler.view import Summary
from crawler.worker import WorkerProgress

#: Seconds between two lines where there is no terminal.
_LINE_EVERY = 30.0
_MB = 1_000_000
#: A bar before and after its total is known; only then is there a time left to tell.
_GROWING = "{desc} {text}"
_KNOWN = "{desc} {percentage:3.0f}% |{bar:20}| {text}"
#: Seconds for which a word about a missing master holds; the next one comes sooner, if it is still missing.
_MISSING_FOR = 3.0
#: Seconds that a rate looks back; files are flushed, and thus told, in groups.
_WINDOW = 10.0


class Speed:
    """A rate over the last seconds; the first total is where it begins, which is not 0 in a crawl that goes on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, float]] = deque()

    def update(self, total: float) -> float:
        """Take in the total as it is now; returns units per second."""
        now = self._clock()
        self._seen.append((now, total))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        return (total - before) / (now - then) if now > then else 0.0


class _Bar(tqdm):  # type: ignore[type-arg]  # it counts, it does not iterate
    """A bar with words of ours behind it, drawn when we say so and never by a thread of tqdm's."""

    monitor_interval = 0
    text = ""

    @property
    def format_dict(self) -> Any:
        return {**super().format_dict, "text": self.text}

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:
        """Draw it; a terminal that is gone raises OSError, but leaves no lock behind that every log line waits for."""
        with nullcontext() if nolock else self.get_lock():  # type: ignore[no-untyped-call]
            super().refresh(nolock=True)


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
        self._bars: list[_Bar] = []
        self._images, self._bytes = Speed(clock), Speed(clock)
        self._next_line = clock() + _LINE_EVERY
        self._started = clock()

    def say(self, text: str) -> None:
        """A line for people; that nobody reads any more is no error."""
        if not self._quiet:
            _say(text, self._err)

    def results(self, records: Sequence[ImageRecord]) -> None:
        """Settled image URLs, on standard output; a reader that went away is no error.

        Raises:
            DiskError: the file that standard output goes to can't be written.
        """
        if not self._shows_results:
            return
        try:
            for record in records:
                # To JSON it is the same text; to a terminal, what a site wrote is harmless now.
                line = printable(row_json(record).decode()) if self._as_json else record_line(record)
                tqdm.write(line, file=self._out)
            self._out.flush()
        except OSError as error:
            self._shows_results = False
            if error.errno not in (errno.EPIPE, errno.EINVAL):  # which one it is depends on the system
                raise DiskError(f"can't write the results to standard output: {error.strerror}") from error

    def update(self, stats: FrontierStats) -> None:
        """How things stand now."""
        settled = stats.success + stats.duplicate + stats.failed
        rate, speed = self._images.update(settled), self._bytes.update(stats.bytes)
        if self._has_bars:
            try:
                self._draw(stats, settled, rate, speed)
            except OSError:  # the terminal is gone; the crawl goes on without
                self._has_bars = False
                self.close()
        elif not self._quiet and self._clock() >= self._next_line:
            self._next_line = self._clock() + _LINE_EVERY
            self.say(f"{describe_counts(stats)}, {_rates(rate, speed)}")

    def close(self) -> None:
        """Leave the terminal as it was."""
        for bar in reversed(self._bars):  # the first one leaves the cursor where a line begins
            with suppress(OSError):
                bar.close()
        self._bars = []

    def _draw(self, stats: FrontierStats, settled: int, rate: float, speed: float) -> None:
        if not self._bars:
            options: dict[str, Any] = {"file": self._err, "dynamic_ncols": True, "leave": False, "bar_format": _GROWING}
            self._bars = [_Bar(desc="pages ", position=0, **options), _Bar(desc="images", position=1, **options)]
        pages, images = self._bars
        visited = stats.pages_done + stats.pages_failed
        found = visited + stats.pages_waiting + stats.pages_leased
        is_known = found == visited and not stats.lists_open
        images.n, images.total = settled, stats.discovered if is_known and stats.discovered else None
        images.bar_format = _KNOWN if images.total else _GROWING
        times = clock_time(self._clock() - self._started)
        if images.total and rate:
            times += f"<{clock_time((images.total - settled) / rate)}"
        silence = describe_silence(stats)
        rest = _trouble(stats.trouble) or (f"; {silence}" if silence else _limit(stats))
        pages.text = f"{visited}/{found}  {_hosts(stats)}{rest}"
        counts = f"ok {stats.success}  dup {stats.duplicate}  fail {stats.failed}"
        images.text = f"{settled}/{stats.discovered} [{times}, {_rates(rate, speed)}]  {counts}"
        pages.refresh()
        images.refresh()


class DownloadLine:
    """A downloader's one line: on a terminal always the newest, elsewhere now and then."""

    def __init__(
        self, *, quiet: bool = False, err: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._err = err or sys.stderr
        self._quiet, self._clock = quiet, clock
        self._bar: _Bar | None = None
        self._images, self._bytes = Speed(clock), Speed(clock)
        self._next_line = clock() + _LINE_EVERY
        #: Clock time of the last word about a missing master, that at which waiting ends, and what is wrong.
        self._missing: tuple[float, float, str] | None = None
        if self._err.isatty() and not quiet:
            self._bar = _Bar(file=self._err, dynamic_ncols=True, leave=False, bar_format="{text}")

    def update(self, progress: WorkerProgress) -> None:
        """What this downloader has done so far, or how long it still waits for its master."""
        rate = self._images.update(progress.saved + progress.duplicates + progress.failed)
        speed = self._bytes.update(progress.received)
        now = self._clock()
        counts = f"ok {progress.saved}  dup {progress.duplicates}  fail {progress.failed}"
        text = f"{counts}  {_rates(rate, speed)}  leases {progress.leases}{_trouble(progress.trouble)}"
        if self._missing and now < self._missing[0] + _MISSING_FOR:
            text = f"no master ({self._missing[2]}); giving up in {max(0.0, self._missing[1] - now):.0f} s"
        if self._bar is not None:
            self._bar.text = text
            with suppress(OSError):
                self._bar.refresh()
        elif now >= self._next_line:
            self._next_line = now + _LINE_EVERY
            self.say(text)

    def wait(self, seconds_left: float, reason: str) -> None:
        """There is no master for now; shown by the next `update`. May be called from any thread."""
        now = self._clock()
        self._missing = (now, now + seconds_left, printable(reason))

    def say(self, text: str) -> None:
        """A line for people; that nobody reads any more is no error."""
        if not self._quiet:
            _say(text, self._err)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()


def describe_counts(stats: FrontierStats) -> str:
    """The counts in one line."""
    visited = stats.pages_done + stats.pages_failed
    found = visited + stats.pages_waiting + stats.pages_leased
    silence = describe_silence(stats)
    return (
        f"pages {visited}/{found}, images {stats.success + stats.duplicate + stats.failed}/{stats.discovered}: "
        f"{stats.success} saved, {stats.duplicate} duplicate, {stats.failed} failed, {stats.leased} in work, "
        f"{stats.waiting} waiting; {_hosts(stats)}{_limit(stats)}{f'; {silence}' if silence else ''}"
        f"{f'; refresh: {describe_changes(stats)}' if stats.refreshes else ''}{_trouble(stats.trouble)}"
    )


def describe_changes(stats: FrontierStats) -> str:
    """What the last refresh has found so far; empty where there was none."""
    if not stats.refreshes:
        return ""
    return ", ".join(f"{stats.changes.get(change, 0)} {change}" for change in ("unchanged", "changed", "gone", "new"))


def describe_summary(summary: Summary, command: str = "run") -> str:
    """The closing block: what came of it, why not more, where it lies, what to type next."""
    stats, place = summary.stats, summary.output
    head = "Interrupted after" if summary.interrupted else "Done in"
    lines = [
        f"{head} {clock_time(summary.elapsed)}: {_count(stats.success, 'image')} saved ({stats.bytes / _MB:.1f} MB)"
        f" from {_count(stats.pages_done, 'page')} on {_count(stats.hosts, 'host')}"
    ]
    pages_left = stats.pages_waiting + stats.pages_leased
    rows = {
        "refresh": describe_changes(stats),
        "duplicate": str(stats.duplicate) if stats.duplicate else "",
        "near": describe_near(summary.near) if summary.near else "",
        "failed": _reasons(stats.failed, stats.reasons),
        "pages failed": _reasons(stats.pages_failed, stats.page_reasons),
        "robots.txt": _reasons(sum(stats.robots_reasons.values()), stats.robots_reasons),
        "bad lines": str(stats.bad_lines) if stats.bad_lines else "",
        "spared": f"{stats.spared / _MB:.1f} MB not transferred, thanks to filters" if stats.spared else "",
        "waiting": f"{_count(stats.waiting + stats.leased, 'image')}, {_count(pages_left, 'page')}"
        if stats.waiting + stats.leased + pages_left
        else "",
        "files": summary.store or _files(place, command),
        "manifest": str(place / "manifest.jsonl"),
        "results": str(place / "results.txt"),
    }
    lines += [f"  {name:<13} {text}" for name, text in rows.items() if text]
    if summary.interrupted:
        store = f" --store {shlex.quote(summary.store)}" if summary.store else ""
        lines.append(f"Continue with:  crawler {command} -o {shlex.quote(str(place))}{store}")
    return "\n".join(lines)


def describe_near(found: Near) -> str:
    """What looks nearly the same; empty where nothing does."""
    if not found.pictures:
        return ""
    text = f"{_count(found.pictures, 'near-duplicate')} in {_count(found.groups, 'group')}"
    if found.dropped:
        text += f"; {_count(found.dropped, 'file')} removed ({found.freed / _MB:.1f} MB)"
    if found.elsewhere:
        text += f"; {found.elsewhere} kept: not here, or the best of theirs is not here and whole"
    return text


def clock_time(seconds: float) -> str:
    """``mm:ss``, with hours where there are some."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def _hosts(stats: FrontierStats) -> str:
    return f"hosts {stats.hosts}{f', {stats.hosts_down} down' if stats.hosts_down else ''}"


def _trouble(words: str) -> str:
    """What the disk's trouble has led to."""
    return f"; paused: {words}" if words else ""


def _limit(stats: FrontierStats) -> str:
    if not stats.limiting_host or stats.limiting_gap <= 0:
        return ""
    gap = f"{stats.limiting_gap:.2g}" if stats.limiting_gap < 10 else f"{stats.limiting_gap:.0f}"
    return f"; {stats.limiting_host} is asked every {gap} s (your own site? --delay 0 --per-host 8)"


def _files(place: Path, command: str) -> str:
    """Where the pictures are, as far as the master can know."""
    if (place / "images").is_dir():
        return str(place / "images")
    return "where the downloaders save" if command == "harvest" else ""


def _rates(images: float, size: float) -> str:
    return f"{images:.1f} img/s, {size / _MB:.1f} MB/s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _reasons(total: int, reasons: dict[str, int]) -> str:
    return f"{total}: " + ", ".join(f"{reason} {number}" for reason, number in reasons.items()) if total else ""


def _say(text: str, file: TextIO) -> None:
    with suppress(OSError):
        tqdm.write(text, file=file)


def describe_audit(found: Audit) -> str:
    """What `verify` found."""
    elsewhere = sum(store.pictures for store in found.elsewhere)
    lines = [
        f"{found.whole} whole, {found.missing} missing, {found.damaged} damaged, {found.foreign} foreign,"
        f" {elsewhere} elsewhere{f', {found.spare} spare' if found.spare else ''}"
        f"{f', {found.past} from before a refresh' if found.past else ''}"
        f"{f', {found.early} not recorded yet' if found.early else ''}"
    ]
    lines += [f"  {store.pictures} in {name_store(store)}" for store in found.elsewhere]
    lines += [f"  {example}" for example in found.examples]
    number = sum(fault.number for fault in found.faults)
    verdict = _count(number, "fault") if number else "the books agree"
    if found.balance is not None and found.balance.images:
        states = ("waiting", "success", "duplicate", "failed")
        counts = ", ".join(f"{found.balance.images.get(state, 0)} {state}" for state in states)
        running = ", and more to come: it is running" if found.balance.is_running else ""
        lines.append(f"{_count(sum(found.balance.images.values()), 'image URL')}: {counts}{running}; {verdict}")
    elif number or found.balance is not None:
        lines.append(verdict)
    for fault in found.faults:
        lines += [f"  {fault.rule}: {example}" for example in fault.examples]
        if fault.number > len(fault.examples):
            lines.append(f"  {fault.rule}: {fault.number - len(fault.examples)} more")
    return "\n".join(map(printable, lines))


def describe_repair(done: Repair, directory: Path) -> str:
    """What `verify --repair` did, and what to type next."""
    parts = [
        f"{_count(done.put_back, 'image URL')} of {_count(done.lost, 'picture')} put back" if done.lost else "",
        f"{_count(done.healed, 'picture')} taken from another store" if done.healed else "",
        f"{_count(done.moved, 'damaged file')} moved to {DAMAGED}/" if done.moved else "",
        f"{_count(done.removed, 'unfinished file')} removed" if done.removed else "",
    ]
    lines = [f"Repaired: {'; '.join(part for part in parts if part) or 'manifest and results are as the records'}."]
    if done.put_back:
        lines.append(f"Fetch them with:  crawler retry {shlex.quote(str(directory))}")
    return "\n".join(lines)


class VerifyLine:
    """How far `verify` and `gather` have come: on a terminal always the newest line, elsewhere now and then."""

    def __init__(self, *, err: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._err, self._clock = err or sys.stderr, clock
        self._next_line = clock() + _LINE_EVERY
        self._bar = _Bar(file=self._err, leave=False, bar_format="{text}") if self._err.isatty() else None

    def update(self, what: str, number: int) -> None:
        """So many of these were looked at."""
        text = f"{number} {what} looked at"
        if self._bar is not None:
            self._bar.text = text
            with suppress(OSError):
                self._bar.refresh()
        elif self._clock() >= self._next_line:
            self._next_line = self._clock() + _LINE_EVERY
            _say(text, self._err)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()


def describe_gathered(found: Gathered) -> str:
    """What `gather` did."""
    lines = [f"{found.pictures} pictures brought here ({found.bytes / _MB:.1f} MB), {found.missing} not found"]
    return "\n".join(lines + [f"  {store.pictures} still in {name_store(store)}" for store in found.elsewhere])


def list_preview(images: Sequence[Request], *, as_json: bool) -> Iterator[str]:
    """A line for each picture: host, source and URL, or a JSON object with all that is known of it."""
    for image in sorted(images, key=lambda image: (host_key(image.location), image.source)):
        host = host_key(image.location)
        fields = {"host": host, **msgspec.to_builtins(image)}
        plain = f"{host}  {image.source}  {image.location}"
        yield printable(msgspec.json.encode(fields).decode() if as_json else plain)


def describe_preview(found: Preview) -> str:
    """What `--dry-run` found, by host and source."""
    lines = [
        f"{_count(len(found.images), 'image')} would be fetched, from {_count(found.stats.pages_done, 'page')};"
        " nothing was saved"
    ]
    for host, sources in count_by_host(found.images).items():
        named = ", ".join(f"{source} {number}" for source, number in sources.most_common())
        lines.append(f"  {host:<31} {sources.total()}: {named}")
    return "\n".join(lines)
