"""Pins: image URLs and the SHA-256 that each picture must have, from the manifest of an earlier crawl."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from crawler.app.events import PinsLoaded, PinsRemoved
from crawler.app.master_frontier import MasterFrontier
from crawler.errors import ConfigError
from crawler.harvest.url_lists.row_readers import read_rows
from crawler.urls import canonicalize

_log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def refuse_missing(name: str) -> None:
    """Raise `ConfigError` if the file of pins does not exist."""
    if name and not Path(name).is_file():
        raise ConfigError(f"--pin: no such file: {name}")


def load_pins(frontier: MasterFrontier, name: str) -> PinsLoaded | PinsRemoved | None:
    """Load the pins of a file into the frontier; return what has changed, or None if they were loaded before.

    If the file can no longer be read, but its pins are loaded, they stay in effect.

    Raises:
        ConfigError: the file can't be read, or has no pins.
        DiskError: the disk of the crawl is unavailable.
    """
    if not name:
        if frontier.pins:
            frontier.load_pins((), b"")
            return PinsRemoved()
        return None
    path, loaded = Path(name), frontier.pins
    try:
        state = path.stat()
    except OSError as error:
        if loaded.startswith(f"{name}?".encode()):
            _log.warning(
                "--pin: can't read %s (%s); pictures are compared with the pins of an earlier run", name, error.strerror
            )
            return None
        raise ConfigError(f"--pin: can't read {name}: {error.strerror}") from error
    version = f"{name}?{state.st_size}&{state.st_mtime_ns}".encode()
    if version == loaded:
        return None
    counts: Counter[str] = Counter()
    try:
        number = frontier.load_pins(_read(path, counts), version)
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"--pin: can't read {name}: {' '.join(str(error).split())[:200]}") from error
    return PinsLoaded(name, number, counts["bad"])


def _read(path: Path, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield URL and SHA-256 of each row that has both; pictures that the earlier crawl did not save have no pin."""
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
    if not counts["good"]:  # raised within the transaction, so that the earlier pins stay
        raise ConfigError(f"--pin: {path} has no row with a url and a sha256; pass a manifest.jsonl")
