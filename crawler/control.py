"""Orders to a running master: a file in its directory, so only those can give them who may write there.

Workers have no way to pause or stop a crawl: the queue offers them no such method.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from crawler.errors import CrawlerError
from crawler.storage import disk_faults, write_file


class Order(Struct, frozen=True, kw_only=True):
    """``stop`` drains the crawl, as Ctrl-C does; ``pause`` hands out nothing until ``resume``."""

    what: Literal["stop", "pause", "resume"]
    #: Name of the one downloader that is to stop; empty: the whole crawl.
    worker: str = ""


_FILE = "order.json"
#: Longest order that is read, bytes, and seconds between two looks whether it was taken.
_MAX_BYTES = 256
_LOOK = 0.05


def give(directory: Path, order: Order, *, patience: float = 10.0) -> None:
    """Leave an order for the master that is at work in a directory, and return when it was taken.

    Raises:
        CrawlerError: nobody took it within ``patience`` seconds.
    """
    path = directory / _FILE
    write_file(path, [msgspec.json.encode(order)], sync=False)
    deadline = time.monotonic() + patience
    while path.exists():
        if time.monotonic() > deadline:
            with suppress(OSError):
                path.unlink()
            raise CrawlerError(f"the master of {directory} did not take the order within {patience:g} s")
        time.sleep(_LOOK)


def take(directory: Path) -> Order | None:
    """The order that was left in a directory, if any; it is gone afterwards."""
    path = directory / _FILE
    try:
        with disk_faults(path, FileNotFoundError):
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES)
            path.unlink()
        return msgspec.json.decode(data, type=Order)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
