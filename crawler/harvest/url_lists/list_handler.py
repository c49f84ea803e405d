"""Handler of input lists: files of URLs, read in chunks, each of which is a request."""

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
from crawler.handler import failure
from crawler.harvest.discovery import seed_request
from crawler.harvest.url_lists.column_roles import MAX_ROW, find_columns, read_item
from crawler.harvest.url_lists.row_readers import ListLine, read_rows
from crawler.model import Kind, Outcome, Request
from crawler.urls import canonicalize

logger = logging.getLogger(__name__)

#: Most rows and bytes of one chunk, which is added to the frontier in one transaction.
MAX_LINES = 1_000
MAX_BYTES = 2**20
#: Most bad lines of one list that are logged; the others are only counted.
_MAX_LOGGED = 100


class _Position(NamedTuple):
    """Position in a list after its last chunk."""

    offset: int
    #: The next row, and those after it.
    row: ListLine
    rows: Iterator[ListLine]
    #: Bad lines so far.
    bad: int


class ListHandler:
    """Handler of ``list`` requests, whose URL is the ``file://`` URI of the file. `row_readers` reads the file.

    A row without an absolute http(s) URL is counted in `Outcome.rejected` and logged with its line. The file stays open
    between two chunks, so that a list is read only once. To find a chunk that is requested out of order, the file is
    read again from the beginning.

    Args:
        on_seeds: receives the page URLs of each chunk before the outcome is returned.
    """

    def __init__(self, on_seeds: Callable[[Sequence[str]], None] | None = None) -> None:
        self._on_seeds = on_seeds
        self._positions: dict[str, _Position] = {}

    def handle(self, request: Request) -> Outcome:
        """Read one chunk from ``request.offset``. Return ``moved`` to the next one, or ``done`` at the end of the file.

        Raises:
            ConfigError: the file has no column of URLs, or its format needs an optional package.
        """
        position = self._positions.pop(request.url, None)
        chunk = _Chunk(request)
        try:
            if position is None or position.offset != request.offset:
                rows = read_rows(_path(request.url), request.entries, request.offset)
                position = _Position(request.offset, next(rows, _END), rows, bad=0)
            position = chunk.read(position)
        except (OSError, EOFError, ValueError, zlib.error) as error:  # ValueError: a NUL in the path too
            failed = failure(request, RequestFailed("lost-file"))
            logger.warning("can't read the list %s, so its other rows are skipped: %s", _path(request.url), error)
            return structs.replace(
                failed, discovered=tuple(chunk.requests), rejected=chunk.rejected, shortened=chunk.shortened
            )
        if self._on_seeds is not None and request.entries == "page":
            self._on_seeds([seed.location for seed in chunk.requests])
        if position.row is _END:
            return chunk.outcome(None)
        self._positions[request.url] = position
        return chunk.outcome(position.offset)


#: Marks the end of the rows.
_END = ListLine(0, 0)


def check_list(path: Path, entries: Kind) -> None:
    """Check the beginning of a list.

    Raises:
        ConfigError: the list cannot be read; the message says what to do.
        OSError: the file cannot be read.
    """
    try:
        with closing(read_rows(path, entries)) as rows:
            next(rows, None)
    except (gzip.BadGzipFile, EOFError, ValueError, zlib.error) as error:
        raise ConfigError(f"can't read the list {path}: {error}") from error


class _Chunk:
    """The results of one chunk."""

    def __init__(self, request: Request) -> None:
        self.requests: list[Request] = []
        self.rejected = self.shortened = 0
        #: Bytes of the words and columns of the rows so far.
        self._size = 0
        self._request = request

    def read(self, position: _Position) -> _Position:
        """Read one chunk from a position, and return the next position."""
        request, (offset, row, rows, bad) = self._request, position
        limit = offset + MAX_BYTES
        for _ in range(MAX_LINES):
            if row is _END or offset >= limit or self._size >= MAX_BYTES:
                break
            try:
                if row.fault:
                    raise ValueError(row.fault)
                if row.values:
                    self._add_request(row)
            except ValueError as error:
                bad += 1
                self.rejected += 1
                _log(request.url, row.line, error, bad)
            offset, row = row.end, next(rows, _END)
        return _Position(offset, row, rows, bad)

    def outcome(self, offset: int | None) -> Outcome:
        """Return the outcome: ``moved`` to an offset, or ``done`` if it is None."""
        return Outcome(
            status="done" if offset is None else "moved",
            discovered=tuple(self.requests),
            successor=None if offset is None else structs.replace(self._request, offset=offset),
            rejected=self.rejected,
            shortened=self.shortened,
        )

    def _add_request(self, row: ListLine) -> None:
        """Add the request for a row. Raise `ValueError` if it has no URL."""
        request = self._request
        columns = find_columns(row.names, request.entries)
        if columns is None:
            raise ValueError("the row has no field that is known to hold a URL, such as 'url'")
        item = read_item(columns, row.values, MAX_ROW[request.entries])
        if "\ufffd" in item.url:
            raise ValueError(f"not UTF-8: {item.url[:200]!r}")
        url = canonicalize(item.url)
        is_page = request.entries == "page"
        new_request = seed_request(url, "list") if is_page else Request(url=url, kind="image", source="list")
        words = {"alt": item.alt, "title": item.title, "caption": item.caption, "columns": item.columns}
        self.requests.append(structs.replace(new_request, priority=request.priority, **words))
        self.shortened += item.is_cut
        self._size += sum(map(len, words.values()))


def _log(url: str, line: int, error: ValueError, bad: int) -> None:
    if bad <= _MAX_LOGGED:
        logger.info("%s:%d: %s", _path(url), line, error)
    if bad == _MAX_LOGGED:
        logger.info("%s: further bad lines are only counted", _path(url))


def _path(url: str) -> Path:
    """Return the file that a list's URL names. The part after the question mark identifies the file's state."""
    return Path(url2pathname(url.removeprefix("file:").partition("?")[0]))
