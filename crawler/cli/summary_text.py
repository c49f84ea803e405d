"""The summary of a run, and the result of a dry run."""

import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from crawler.app.dry_run import DryRunResult, count_by_host
from crawler.app.summary import Summary
from crawler.cli.text import MB, clock_time, count, describe_changes, listed
from crawler.cli.worker_text import machine_of
from crawler.model import Request
from crawler.stats import FrontierStats, NearDuplicates
from crawler.text import printable
from crawler.urls import host_key


def describe_summary(summary: Summary, command: str = "run") -> str:
    """Return the summary: counts, reasons of failures, files, and the next command."""
    stats, output = summary.stats, summary.output
    lines = [_head(summary)]
    pages_left = stats.pages_waiting + stats.pages_leased
    rows = {
        "refresh": describe_changes(stats),
        "duplicate": str(stats.duplicate) if stats.duplicate else "",
        "near": _describe_near(summary.near) if summary.near else "",
        "failed": _reasons(stats.failed, stats.reasons),
        "pages failed": _reasons(stats.pages_failed, stats.page_reasons),
        "robots.txt": _reasons(sum(stats.robots_reasons.values()), stats.robots_reasons),
        "list rows": _rows(stats),
        "include": "; ".join(summary.unmatched),
        "bad lines": str(stats.bad_lines) if stats.bad_lines else "",
        "skipped": f"{stats.spared / MB:.1f} MB not downloaded (filters)" if stats.spared else "",
        "waiting": f"{count(stats.waiting + stats.leased, 'image')}, {count(pages_left, 'page')}"
        if stats.waiting + stats.leased + pages_left
        else "",
        "files": summary.store or _files(output, stats, command),
        **{path.stem: str(path) for path in (output / "manifest.jsonl", output / "results.txt") if path.exists()},
    }
    lines += [f"  {name:<13} {text}" for name, text in rows.items() if text]
    if summary.before is not None and summary.before.is_finished:
        lines.append(_next_step(summary, command))
    if summary.interrupted:
        store = f" --store {shlex.quote(summary.store)}" if summary.store else ""
        lines.append(f"Continue with:  crawler {command} -o {shlex.quote(str(output))}{store}")
    return "\n".join(lines)


def complaint(summary: Summary) -> str:
    """Return the error line for the exit code, or "" if there is none."""
    stats = summary.stats
    reasons = ", ".join(dict.fromkeys([*stats.page_reasons, *stats.robots_reasons]))
    if summary.interrupted:
        return ""
    if summary.is_unreached:
        tried = f"tried {listed(summary.tried)}; " if summary.tried else ""
        if summary.before is not None and summary.before.is_finished:
            return f"no seed could be reached ({reasons}): `crawler retry` tries them again"
        return f"no seed could be reached ({reasons}): {tried}check the address and the network"
    if stats.seeds_failed:
        return f"{stats.seeds_failed} of {stats.seeds} seeds failed ({reasons}){_advice(stats)}"
    if stats.success + stats.duplicate:
        return ""
    if not stats.seeds + stats.discovered:
        return "nothing to visit: the lists contain no URL"
    return f"no image was saved{_advice(stats)}"


def preview_complaint(found: DryRunResult) -> str:
    """Return the error line of a dry run, or "" if there is none."""
    return complaint(found.summary).replace("no image was saved", "no image was found")


def _advice(stats: FrontierStats) -> str:
    """Return advice for the user if private addresses are the only reason of failure, or an empty string."""
    reasons = {*stats.reasons, *stats.page_reasons}
    return ": private addresses are visited only with --allow-private" if reasons == {"blocked-address"} else ""


def _head(summary: Summary) -> str:
    """Return what this run saved and the total; one number if they are the same."""
    stats, before = summary.stats, summary.before
    where = f"from {count(stats.pages_done, 'page')} on {count(stats.hosts, 'host')}"
    total, size = count(stats.success, "image"), f"({stats.bytes / MB:.1f} MB)"
    if before is not None and before.is_finished:
        when = time.strftime(" on %Y-%m-%d %H:%M", time.localtime(before.finished_at)) if before.finished_at else ""
        return f"Nothing to do: this crawl finished{when}: {total} saved {size} {where}"
    head = f"{'Interrupted after' if summary.interrupted else 'Done in'} {clock_time(summary.elapsed)}"
    if before is None:
        return f"{head}: {total} saved {size} {where}"
    own = f"{count(summary.saved.images, 'image')} saved in this run ({summary.saved.bytes / MB:.1f} MB)"
    return f"{head}: {own}; in total {total} {size} {where}"


def _next_step(summary: Summary, command: str) -> str:
    """Return how to continue a crawl that had nothing to do."""
    stats, limits = summary.stats, ", ".join(summary.limits)
    waiting = {"image": stats.waiting, "page": stats.pages_waiting}
    if limits and any(waiting.values()):
        left = " and ".join(count(number, noun) for noun, number in waiting.items() if number)
        return f"{left} not requested because of the limits ({limits}); to continue, raise them"
    output = shlex.quote(str(summary.output))
    return f"To look for new, changed or removed images:  crawler {command} -o {output} --refresh"


def _describe_near(found: NearDuplicates) -> str:
    """Return the counts of near-duplicates, or "" if there are none."""
    if not found.pictures:
        return ""
    text = f"{count(found.pictures, 'near-duplicate')} in {count(found.groups, 'group')}"
    if found.dropped:
        text += f"; {count(found.dropped, 'file')} removed ({found.freed / MB:.1f} MB)"
    if found.elsewhere:
        text += f"; {found.elsewhere} kept: the file or the best copy is in another store, or damaged"
    return text


def _files(output: Path, stats: FrontierStats, command: str) -> str:
    """Return where the pictures are, or "" if there are none."""
    if (output / "images").is_dir():
        return str(output / "images")
    if command != "harvest":
        return ""
    pictures: Counter[str] = Counter()
    for store in stats.stores:
        pictures[machine_of(store)] += store.pictures
    counts = ", ".join(f"{machine} {number}" for machine, number in pictures.most_common() if number)
    return f"on the downloaders ({counts})" if counts else "on the downloaders"


def _rows(stats: FrontierStats) -> str:
    """Return the counts of list rows, or "" if no list was read."""
    if not stats.list_rows:
        return ""
    cut = f"; {stats.list_cut} truncated (too long)" if stats.list_cut else ""
    urls = count(stats.list_rows - stats.list_repeated, "new URL")
    return f"{stats.list_rows}: {urls}, {stats.list_repeated} repeated{cut}"


def _reasons(total: int, reasons: dict[str, int]) -> str:
    return f"{total}: " + ", ".join(f"{reason} {number}" for reason, number in reasons.items()) if total else ""


def list_preview(images: Sequence[Request], *, as_json: bool) -> Iterator[str]:
    """Yield a line for each picture: host, source and URL, or its request as a JSON object."""
    for image in sorted(images, key=lambda image: (host_key(image.location), image.source)):
        host = host_key(image.location)
        fields = {"host": host, **msgspec.to_builtins(image)}
        plain = f"{host}  {image.source}  {image.location}"
        yield printable(msgspec.json.encode(fields).decode() if as_json else plain)


def describe_preview(found: DryRunResult) -> str:
    """Return the result of `--dry-run`, by host and source."""
    lines = [
        f"{count(len(found.images), 'image')} would be fetched, from {count(found.stats.pages_done, 'page')};"
        " nothing was saved"
    ]
    lines += [f"  --include {reason}" for reason in found.unmatched]
    for host, sources in count_by_host(found.images).items():
        named = ", ".join(f"{source} {number}" for source, number in sources.most_common())
        lines.append(f"  {host:<31} {sources.total()}: {named}")
    return "\n".join(lines)
