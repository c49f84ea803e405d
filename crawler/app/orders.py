"""Orders to a running master: a file in its directory, so only users with write access there can give them.

Workers can't pause or stop a crawl: the queue has no such method.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from crawler.errors import CrawlerError
from crawler.store.disk import disk_faults, write_file


class MasterOrder(Struct, frozen=True, kw_only=True):
    """An order: ``stop`` drains the crawl, as Ctrl-C does; after ``pause`` no requests are leased until ``resume``."""

    what: Literal["stop", "pause", "resume"]
    #: Name of the downloader to stop; empty: the whole crawl.
    worker: str = ""


_FILE = "order.json"
#: Maximum bytes of an order, and seconds between two checks whether the master has taken it.
_MAX_BYTES = 256
_LOOK = 0.05


def give_order(directory: Path, order: MasterOrder, *, patience: float = 10.0) -> None:
    """Write an order for the running master of a directory, and return when the master has taken it.

    Raises:
        CrawlerError: the master has not taken it within ``patience`` seconds.
    """
    path = directory / _FILE
    write_file(path, [msgspec.json.encode(order)], sync=False)
    deadline = time.monotonic() + patience
    while path.exists():
        if time.monotonic() > deadline:
            with suppress(OSError):
                path.unlink()
            raise CrawlerError(f"the crawl in {directory} did not respond within {patience:g} s; try again")
        time.sleep(_LOOK)


def take_order(directory: Path) -> MasterOrder | None:
    """Read and delete the order in a directory; return None if there is none, or if it is invalid."""
    path = directory / _FILE
    try:
        with disk_faults(path, FileNotFoundError):
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES)
            path.unlink()
        return msgspec.json.decode(data, type=MasterOrder)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
