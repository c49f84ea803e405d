"""The list of pins: image URLs and the SHA-256 that each picture must have, from an earlier crawl's manifest."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from crawler.errors import ConfigError
from crawler.harvest.rows import read_rows
from crawler.master import MasterFrontier
from crawler.urls import canonicalize

_log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def refuse_missing(name: str) -> None:
    """Raise `ConfigError` where a list is named and not there; before a crawl is begun with it."""
    if name and not Path(name).is_file():
        raise ConfigError(f"--pin: there is no file {name}")


def take_pins(frontier: MasterFrontier, name: str) -> str:
    """Have the frontier know the pins of a file; returns what is to be said of it, nothing where it knew them.

    A file that is not there any more, and whose pins are known, is no fault: they hold on.

    Raises:
        ConfigError: it can't be read, or has no pins.
        DiskError: the disk of the crawl refuses.
    """
    if not name:
        if frontier.pins:
            frontier.load_pins((), b"")
            return "No picture is pinned any more."
        return ""
    path, known = Path(name), frontier.pins
    try:
        state = path.stat()
    except OSError as error:
        if known.startswith(f"{name}?".encode()):
            _log.warning("%s can't be read any more; its pins hold on", name)
            return ""
        raise ConfigError(f"--pin: can't read {name}: {error.strerror}") from error
    now = f"{name}?{state.st_size}&{state.st_mtime_ns}".encode()
    if now == known:
        return ""
    counts: Counter[str] = Counter()
    try:
        number = frontier.load_pins(_read(path, counts), now)
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"--pin: can't read {name}: {' '.join(str(error).split())[:200]}") from error
    skipped = f", {counts['bad']} rows that are none" if counts["bad"] else ""
    return f"Pinned: {number} pictures of {name}{skipped}."


def _read(path: Path, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    """URL and SHA-256 of each row that has both; pictures that the earlier crawl has not saved have no pin."""
    for row in read_rows(path, "image"):
        if not row.values and not row.fault:
            continue
        fields = dict(zip(row.names, row.values, strict=False))
        if fields.get("status") == "failed":
            continue
        try:
            url = canonicalize(str(fields.get("url") or ""))
        except ValueError:
            url = ""
        sha256 = str(fields.get("sha256") or "")
        if url and _SHA256.fullmatch(sha256):
            counts["good"] += 1
            yield url, sha256.lower()
        else:
            counts["bad"] += 1
    if not counts["good"]:  # within the transaction, so that the pins of before stay
        raise ConfigError(f"--pin: {path} has no row with a url and a sha256: name a manifest.jsonl")
