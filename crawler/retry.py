"""What `crawler retry` and ``--refresh`` ask for again: reasons as people name them, and what came of that in words."""

import difflib
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from crawler.errors import ConfigError
from crawler.frontier.again import PutBack, put_back
from crawler.frontier.renewal import renew
from crawler.frontier.soundness import telling_damage
from crawler.manifest import ManifestWriter
from crawler.model import REASONS

#: Reasons that may have passed: of the network, of a busy or broken host, of our own boxes.
PASSING = frozenset(
    {
        *("timeout", "too-slow", "dns", "connect", "tls", "truncated"),
        *("http-408", "http-425", "http-429", "http-5xx"),
        *("robots-unreachable", "rate-limited", "host-down"),
        *("poison", "disk", "lost-file", "cancelled", "internal"),
    }
)
#: Reasons that hold until the site, its content or the settings are others.
LASTING = frozenset(
    {
        *("too-large", "too-small", "filtered", "decompression-limit", "not-an-image", "unsupported-format"),
        *("corrupt", "pixels-limit", "robots", "opted-out", "blocked-address", "bad-url", "unsupported-scheme"),
        *("redirect-limit", "trap", "pin-mismatch", "hook"),
    }
)

_HTTP = re.compile(r"http-[1-9](?:[0-9]{2}|xx)")
_NOUNS = {"page": "page", "image": "image", "part": "page part"}
#: Hosts that are named at most.
_MAX_HOSTS = 3


def named(texts: Iterable[str]) -> frozenset[str]:
    """The reasons that ``--only`` names, separated by commas: of the closed set, ``http-<code>`` or ``http-<digit>xx``.

    Raises:
        ConfigError: one of them is no reason, or there are none.
    """
    words = [word.strip().lower() for text in texts for word in text.split(",")]
    reasons = frozenset(word for word in words if word)
    for word in sorted(reasons):
        if word not in REASONS and not _HTTP.fullmatch(word):
            raise ConfigError(f"--only: {word!r} is no reason{_guess(word)}")
    if not reasons:
        raise ConfigError("--only names no reason")
    return reasons


def among(reasons: frozenset[str]) -> Callable[[str], bool]:
    """Whether a reason is one of these, or of a class of them."""
    return lambda reason: reason in reasons or (reason.startswith("http-") and f"{reason[:6]}xx" in reasons)


def put_back_in(directory: Path, reasons: frozenset[str], *, patience: float, say: Callable[[str], None]) -> PutBack:
    """Put back what has failed for these reasons in a crawl that nobody works at; with none, for `PASSING` ones.

    Whatever is killed meanwhile, records and manifest agree: the manifest is cut to what stays before anything goes,
    and is to be written anew afterwards.

    Raises:
        DiskError: the disk refuses, or what it holds is damaged.
    """
    path, cut = directory / "frontier.sqlite", ManifestWriter(directory).cut
    with telling_damage(path, is_opening=True):
        found = put_back(path, among(reasons or PASSING), patience=patience, wall=time.time(), before=cut)
    for line in describe(found, reasons):
        say(line)
    return found


def renew_in(directory: Path, *, say: Callable[[str], None]) -> None:
    """Begin a refresh of a crawl that nobody works at, or go on with it. Raises as `put_back_in` does."""
    path = directory / "frontier.sqlite"
    with telling_damage(path, is_opening=True):
        found = renew(path)
    if found.goes_on:
        say(f"Refresh {found.number} goes on: nothing of it is asked again.")
        return
    parts = [_count(number, _NOUNS[kind]) for kind, number in found.requests.items()]
    say(f"Refresh {found.number}: {', '.join(parts) or 'nothing'} to ask for again.")


def describe(found: PutBack, only: frozenset[str]) -> list[str]:
    """What was put back, and what was not; ``only`` are the reasons that the user has named, if any."""
    kinds: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (kind, reason), number in found.requests.items():
        kinds[kind][reason] = number
    parts = [f"{_count(sum(reasons.values()), kind)} ({_counts(reasons)})" for kind, reasons in kinds.items()]
    lines = [f"Put back: {', '.join(parts)}."]
    if not parts:
        meant = " or ".join(sorted(only)) if only else "a reason that may have passed"
        what = "nothing that may be visited now" if found.left else "nothing"
        lines = [f"Nothing to put back: {what} has failed for {meant}."]
    for host, (number, seconds) in list(found.left.items())[:_MAX_HOSTS]:
        lines.append(
            f"Left failed: {number} at {host}, which is to be left alone for {math.ceil(seconds)} s more;"
            f" --patience {math.ceil(seconds) + 1} waits."
        )
    if len(found.left) > _MAX_HOSTS:
        lines.append(f"Left failed: likewise what is at {len(found.left) - _MAX_HOSTS} more hosts.")
    if found.others and (not only or not parts):
        lines.append(f"Left failed: {_counts(found.others)}; --only names what to try all the same.")
    return lines


def _guess(word: str) -> str:
    """What may have been meant."""
    known = [*REASONS, *(f"http-{n}xx" for n in (3, 4, 5))]
    code = re.search(r"[1-9](?:[0-9]{2}|xx)", word)
    near = [f"http-{code[0]}"] if code else difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return f". Did you mean {' or '.join(map(repr, near))}?"
    return f" (known: {', '.join(sorted(REASONS))}, http-CODE such as http-404, http-4xx, http-5xx)"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _counts(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {number}" for reason, number in reasons.items())
