"""Phrases that several outputs share: counts of a crawl, numbers with nouns, rates, times and lists."""

from collections.abc import Sequence

from crawler.cli.worker_text import describe_silence
from crawler.stats import FrontierStats

MB = 1_000_000
#: Maximum number of texts in a list, and of characters of each.
_MAX_LISTED, _MAX_TEXT = 3, 200


def describe_counts(stats: FrontierStats) -> str:
    """Return the counts in one line."""
    visited = stats.pages_done + stats.pages_failed
    pages_found = visited + stats.pages_waiting + stats.pages_leased
    silence = describe_silence(stats)
    return (
        f"pages {visited}/{pages_found}, images {stats.success + stats.duplicate + stats.failed}/{stats.discovered}: "
        f"{stats.success} saved, {stats.duplicate} duplicate, {stats.failed} failed, {stats.leased} in progress, "
        f"{stats.waiting} waiting; {hosts_text(stats)}{limit_text(stats)}{f'; {silence}' if silence else ''}"
        f"{f'; refresh: {describe_changes(stats)}' if stats.refreshes else ''}{trouble_text(stats.trouble)}"
    )


def describe_changes(stats: FrontierStats) -> str:
    """Return the counts of the last refresh, or "" if there was none."""
    if not stats.refreshes:
        return ""
    return ", ".join(f"{stats.changes.get(change, 0)} {change}" for change in ("unchanged", "changed", "gone", "new"))


def clock_time(seconds: float) -> str:
    """Return ``mm:ss``, or ``h:mm:ss`` from one hour up."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def hosts_text(stats: FrontierStats) -> str:
    return f"hosts {stats.hosts}{f', {stats.hosts_down} down' if stats.hosts_down else ''}"


def trouble_text(reason: str) -> str:
    """Return why the disk has paused the crawl, or "" if it has not."""
    return f"; paused: {reason}" if reason else ""


def limit_text(stats: FrontierStats) -> str:
    if not stats.limiting_host or stats.limiting_gap <= 0:
        return ""
    gap = f"{stats.limiting_gap:.2g}" if stats.limiting_gap < 10 else f"{stats.limiting_gap:.0f}"
    return f"; {stats.limiting_host}: one request every {gap} s (your own site? --delay 0 --per-host 8)"


def rates(images: float, size: float) -> str:
    return f"{images:.1f} img/s, {size / MB:.1f} MB/s"


def count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def listed(texts: Sequence[str]) -> str:
    """Join the first few texts, and the number of the others."""
    more = [f"{len(texts) - _MAX_LISTED} more"] if len(texts) > _MAX_LISTED else []
    *first, last = [*(text[:_MAX_TEXT] for text in texts[:_MAX_LISTED]), *more]
    return f"{', '.join(first)} and {last}" if first else last
