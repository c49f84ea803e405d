"""Reads input lists: files that name URLs, worked off chunk by chunk like any other request."""

import gzip
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.request import url2pathname

from msgspec import structs

from crawler.errors import ConfigError, RequestFailed
from crawler.harvest.columns import find_columns, read_item
from crawler.harvest.finds import seed_request
from crawler.harvest.rows import Row, read_rows
from crawler.model import Kind, Outcome, Request, failure
from crawler.urls import canonicalize

logger = logging.getLogger(__name__)

#: Rows and bytes of one chunk, which is put into the frontier in one transaction.
MAX_LINES = 1_000
MAX_BYTES = 2**20
#: Bad lines of one list that are logged; the others are counted.
MAX_LOGGED = 100


class _Place(NamedTuple):
    """Where the last chunk of a list ended."""

    offset: int
    #: The next row, and those behind it.
    row: Row
    rows: Iterator[Row]
    #: Bad lines so far.
    bad: int


class ListReader:
    """Handler of ``list`` requests, whose URL is the ``file://`` URI of the file; `crawler.harvest.rows` reads it.

    A row that names no absolute http(s) URL is counted in `Outcome.rejected` and logged with its line. Between two
    chunks the file stays open, so that a list is read once; a chunk asked for out of order is found by reading on from
    the beginning.

    Args:
        on_seeds: told the URLs of the pages of each chunk, before anybody else hears of them.
    """

    def __init__(self, on_seeds: Callable[[Sequence[str]], None] | None = None) -> None:
        self._on_seeds = on_seeds
        self._places: dict[str, _Place] = {}

    def handle(self, request: Request) -> Outcome:
        """One chunk from ``request.offset`` on: ``moved`` to the next one, ``done`` at the end of the file.

        Raises:
            ConfigError: the file holds no column of URLs, or its format needs something installed.
        """
        place = self._places.pop(request.url, None)
        chunk = _Chunk(request)
        try:
            if place is None or place.offset != request.offset:
                rows = read_rows(_path(request.url), request.entries, request.offset)
                place = _Place(request.offset, next(rows, _END), rows, bad=0)
            place = chunk.read(place)
        except (OSError, EOFError, ValueError, zlib.error) as error:  # ValueError: a NUL in the path too
            failed = failure(request, RequestFailed("lost-file"))
            logger.warning("%s can't be read: %s", request.url, error)
            return structs.replace(failed, discovered=tuple(chunk.found), rejected=chunk.rejected)
        if self._on_seeds is not None and request.entries == "page":
            self._on_seeds([found.location for found in chunk.found])
        if place.row is _END:
            return chunk.outcome(None)
        self._places[request.url] = place
        return chunk.outcome(place.offset)


#: Stands behind the last row.
_END = Row(0, 0)


def check_list(path: Path, entries: Kind) -> None:
    """See whether a list can be read, as far as its beginning shows.

    Raises:
        ConfigError: it can't; the message says what to do.
        OSError: nor can the file.
    """
    try:
        with closing(read_rows(path, entries)) as rows:
            next(rows, None)
    except (gzip.BadGzipFile, EOFError, ValueError, zlib.error) as error:
        raise ConfigError(f"can't read the list {path}: {error}") from error


class _Chunk:
    """What one chunk brings."""

    def __init__(self, request: Request) -> None:
        self.found: list[Request] = []
        self.rejected = 0
        self._request = request

    def read(self, place: _Place) -> _Place:
        """Read on from a place, up to the next one."""
        request, (offset, row, rows, bad) = self._request, place
        limit = offset + MAX_BYTES
        for _ in range(MAX_LINES):
            if row is _END or offset >= limit:
                break
            try:
                if row.fault:
                    raise ValueError(row.fault)
                if row.values:
                    self.found.append(_request_of(row, request))
            except ValueError as error:
                bad += 1
                self.rejected += 1
                _log(request.url, row.line, error, bad)
            offset, row = row.end, next(rows, _END)
        return _Place(offset, row, rows, bad)

    def outcome(self, offset: int | None) -> Outcome:
        """``moved`` to an offset; None: done."""
        return Outcome(
            status="done" if offset is None else "moved",
            discovered=tuple(self.found),
            successor=None if offset is None else structs.replace(self._request, offset=offset),
            rejected=self.rejected,
        )


def _request_of(row: Row, request: Request) -> Request:
    """The request that a row asks for; `ValueError` where it names no URL."""
    columns = find_columns(row.names, request.entries)
    if columns is None:
        raise ValueError("no URL under any name that is known")
    item = read_item(columns, row.values)
    if "\ufffd" in item.url:
        raise ValueError(f"not UTF-8: {item.url[:200]!r}")
    url = canonicalize(item.url)
    found = seed_request(url, "list") if request.entries == "page" else Request(url=url, kind="image", source="list")
    return structs.replace(
        found,
        priority=request.priority,
        alt=item.alt,
        title=item.title,
        caption=item.caption,
        columns=item.columns,
    )


def _log(url: str, line: int, error: ValueError, bad: int) -> None:
    if bad <= MAX_LOGGED:
        logger.info("%s:%d: %s", _path(url), line, error)
    if bad == MAX_LOGGED:
        logger.info("%s: further bad lines are counted only", _path(url))


def _path(url: str) -> Path:
    """The file that a list's URL names; behind the question mark stands which state of it."""
    return Path(url2pathname(url.removeprefix("file:").partition("?")[0]))
