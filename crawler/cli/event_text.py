"""The sentences for the events of a crawl."""

import math
import shlex
from collections import defaultdict
from functools import singledispatch

from crawler.app.events import (
    CrawlResumed,
    CrawlStopping,
    Event,
    FailuresRequeued,
    OrderTaken,
    PinsLoaded,
    PinsRemoved,
    QueueListening,
    RefreshStarted,
    SourcesAdded,
    WorkerJoined,
)
from crawler.cli.text import count, listed
from crawler.cli.worker_text import introduce
from crawler.queue.wire import format_address, parse_address
from crawler.text import printable
from crawler.urls import is_loopback

_NOUNS = {"page": "page", "image": "image", "part": "page part"}
_ORDERS = {"stop": "Stop requested.", "pause": "Paused.", "resume": "Resumed."}
#: Most hosts that are named in a message.
_MAX_HOSTS = 3


@singledispatch
def describe_event(event: Event) -> list[str]:
    """Return the lines for an event."""
    raise TypeError(f"no sentence for {type(event).__name__}")


@describe_event.register
def _resumed(event: CrawlResumed) -> list[str]:
    counts = f"{event.saved} saved, {event.failed} failed, {event.waiting} waiting"
    return [f"Resuming {str(event.directory)!r}: {counts}."]


@describe_event.register
def _added(event: SourcesAdded) -> list[str]:
    crawl = f"the crawl of {event.first} in {event.directory}"
    return [printable(f"Adding {listed(event.added)} to {crawl}. To crawl them separately, use another -o.")]


@describe_event.register
def _refresh_started(event: RefreshStarted) -> list[str]:
    refresh = event.result
    if refresh.goes_on:
        return [f"Refresh {refresh.number} continues where it stopped."]
    parts = [count(number, _NOUNS[kind]) for kind, number in refresh.requests.items()]
    return [f"Refresh {refresh.number}: {', '.join(parts) or 'nothing'} queued again."]


@describe_event.register
def _pins_loaded(event: PinsLoaded) -> list[str]:
    skipped = f"; skipped {event.skipped} without a valid url and sha256" if event.skipped else ""
    return [f"Pinned: {count(event.pins, 'picture')} from {event.file}{skipped}."]


@describe_event.register
def _pins_removed(event: PinsRemoved) -> list[str]:
    return ["Pins removed: pictures are no longer compared with a manifest."]


@describe_event.register
def _joined(event: WorkerJoined) -> list[str]:
    return [introduce(event.worker)]


@describe_event.register
def _order_taken(event: OrderTaken) -> list[str]:
    order = event.order
    return [f"{order.worker} will finish its work and stop." if order.worker else _ORDERS[order.what]]


@describe_event.register
def _stopping(event: CrawlStopping) -> list[str]:
    return ["Stopping: finishing downloads in progress (Ctrl-C again aborts)"]


@describe_event.register
def _listening(event: QueueListening) -> list[str]:
    """Return how to start downloaders, here and, if other machines can connect, there."""
    address, join = format_address(event.address), event.join
    lines = [
        f"Queue on {address}. Start downloaders with:",
        f"    crawler download {shlex.quote(str(join))} -o pictures",
    ]
    if not is_loopback(event.address[0]):
        host = parse_address(event.advertised)[0]
        host = f"[{host}]" if ":" in host else host
        lines += [
            "On another machine, with a copy of that file, which contains the key:",
            f"    scp {host}:{shlex.quote(str(join.resolve()))} join",
            "    crawler download join -o pictures",
        ]
    return [*lines, "Waiting for the first downloader."]


@describe_event.register
def _requeued(event: FailuresRequeued) -> list[str]:
    """Describe the requests that were requeued, and those that were not."""
    found, only = event.result, event.reasons
    kinds: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (kind, reason), number in found.requests.items():
        kinds[kind][reason] = number
    parts = [f"{count(sum(reasons.values()), kind)} ({_counts(reasons)})" for kind, reasons in kinds.items()]
    lines = [f"Queued again: {', '.join(parts)}."]
    if not parts:
        meant = " or ".join(sorted(only)) if only else "a temporary reason"
        which = "no request that may be repeated now" if found.left else "no request"
        lines = [f"Nothing to retry: {which} has failed for {meant}."]
    for host, (number, seconds) in list(found.left.items())[:_MAX_HOSTS]:
        lines.append(
            f"Not retried: {number} at {host}, which asked for a pause of {math.ceil(seconds)} more seconds;"
            f" --patience {math.ceil(seconds) + 1} waits for it."
        )
    if len(found.left) > _MAX_HOSTS:
        rest = len(found.left) - _MAX_HOSTS
        lines.append(f"Not retried either: requests at {rest} more such host{'s' if rest > 1 else ''}.")
    if found.others and (not only or not parts):
        lines.append(f"Not retried: {_counts(found.others)}; to retry them, name their reasons with --only.")
    return lines


def _counts(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {number}" for reason, number in reasons.items())
