"""Orders to a running master: a file in its directory, so only those can give them who may write there.

Workers have no way to pause or stop a crawl: the queue offers them no such method.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from crawler.crawl import is_running
from crawler.errors import ConfigError, CrawlerError
from crawler.storage import disk_faults, write_file

#: Name of the file in the crawl's directory.
ORDER_FILE = "order.json"
#: Longest order that is read, bytes.
_MAX_BYTES = 4_096
#: Seconds between two looks whether an order was taken.
_LOOK = 0.1


class Order(Struct, frozen=True, kw_only=True):
    """What a master is told to do; with ``worker``, it concerns that downloader only."""

    word: Literal["stop", "pause", "resume"]
    worker: str = ""


def give(directory: Path, order: Order, *, patience: float = 10.0) -> None:
    """Leave an order, and return when the master has taken it.

    Raises:
        ConfigError: no crawl is running in the directory.
        CrawlerError: the master did not take it within ``patience`` seconds.
    """
    if not is_running(directory):
        raise ConfigError(f"no crawl is running in {directory}")
    path = directory / ORDER_FILE
    write_file(path, [msgspec.json.encode(order)], sync=False)
    deadline = time.monotonic() + patience
    while path.exists():
        if time.monotonic() > deadline:
            with suppress(OSError):
                path.unlink()
            raise CrawlerError(f"the master of {directory} did not answer within {patience:g} s")
        time.sleep(_LOOK)


def take(directory: Path) -> Order | None:
    """The order that was left for the master of a directory, if any; it is gone afterwards."""
    path = directory / ORDER_FILE
    try:
        with disk_faults(path, FileNotFoundError), path.open("rb") as file:
            data = file.read(_MAX_BYTES)
        with suppress(OSError):
            path.unlink()
        return msgspec.json.decode(data, type=Order)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def wait_for_end(directory: Path, *, on_look: Callable[[], None] | None = None) -> None:
    """Return when no master is at work in a directory."""
    while is_running(directory):
        if on_look is not None:
            on_look()
        time.sleep(_LOOK)
