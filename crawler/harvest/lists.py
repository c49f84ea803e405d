"""Reads input lists: text files with one URL a line, worked off chunk by chunk like any other request."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.request import url2pathname

from msgspec import structs

from crawler.errors import RequestFailed
from crawler.model import Outcome, Request, failure
from crawler.urls import canonicalize

logger = logging.getLogger(__name__)

#: Lines and bytes of one chunk, which is put into the frontier in one transaction.
MAX_LINES = 1_000
MAX_BYTES = 2**20
#: Bytes of a line; more is no URL that is followed.
MAX_LINE = 8_192

_BOM = b"\xef\xbb\xbf"
#: Bytes of a bad line that the log shows.
_SHOWN = 200


class ListReader:
    """Handler of ``list`` requests, whose URL is the ``file://`` URI of a UTF-8 text file.

    Blank lines and lines that begin with ``#`` are skipped; a line that is no absolute http(s) URL is counted in
    `Outcome.rejected` and logged.
    """

    def handle(self, request: Request) -> Outcome:
        """One chunk from ``request.offset`` on: ``moved`` to the next one, ``done`` at the end of the file."""
        try:
            path = request.url.removeprefix("file:").partition("?")[0]  # behind it stands which state of the file
            with Path(url2pathname(path)).open("rb") as file:
                return _chunk(request, file)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            return failure(request, RequestFailed("lost-file", f"{request.url}: {error}"))


def _chunk(request: Request, file: BinaryIO) -> Outcome:
    discovered: list[Request] = []
    rejected = 0
    for offset, line in _lines(file, request.offset):
        text = line.strip()
        if text.startswith(b"#") or not (text or _is_overlong(line)):
            continue
        try:
            url = _url(line)
        except ValueError:
            rejected += 1
            logger.info("no URL in %s at byte %d: %r", request.url, offset, text[:_SHOWN])
            continue
        seed = url if request.entries == "page" else ""
        discovered.append(Request(url=url, kind=request.entries, priority=request.priority, seed=seed, source="list"))
    offset = file.tell()
    successor = structs.replace(request, offset=offset) if file.read(1) else None
    return Outcome(
        status="moved" if successor else "done",
        discovered=tuple(discovered),
        successor=successor,
        rejected=rejected,
    )


def _url(line: bytes) -> str:
    """The canonical URL that a line holds; a `UnicodeDecodeError` is a `ValueError` too."""
    if _is_overlong(line):
        raise ValueError(f"a line of more than {MAX_LINE} bytes")
    return canonicalize(line.decode("utf-8").strip())


def _is_overlong(line: bytes) -> bool:
    """Whether this is only the beginning of a line."""
    return len(line) == MAX_LINE and not line.endswith(b"\n")


def _lines(file: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """The lines of one chunk with their byte offsets; of an overlong line only its beginning.

    A chunk may end in the midst of an overlong line. The next one knows by the byte before its start, and
    skips the rest.
    """
    end = start + MAX_BYTES
    _begin(file, start, end)
    for _ in range(MAX_LINES):
        offset = file.tell()
        line = file.readline(MAX_LINE) if offset < end else b""
        if not line:
            return
        if _is_overlong(line):
            _skip_line(file, end)
        yield offset, line


def _begin(file: BinaryIO, start: int, end: int) -> None:
    """Go to the first line that starts at or after ``start``, past a byte order mark."""
    if start == 0:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        return
    file.seek(start - 1)
    if file.read(1) != b"\n":
        _skip_line(file, end)


def _skip_line(file: BinaryIO, end: int) -> None:
    """Skip to the end of the line, or to ``end``, whichever comes first, in small pieces."""
    while (room := end - file.tell()) > 0:
        piece = file.readline(min(room, 65_536))
        if not piece or piece.endswith(b"\n"):
            return
