"""The structure of a TIFF: directories, one per page, that point anywhere in the file, and to one another.

Sources: TIFF 6.0, section 2; the BigTIFF design (64-bit offsets and counts) of libtiff.
"""

import struct
from operator import add

from msgspec import Struct

from crawler.download.formats.base import MAX_PARTS, ImageHeader, Outline
from crawler.errors import InvalidImage

#: Tags of offsets → tags of lengths: strips, tiles.
_PIECES = {273: 279, 324: 325}
_PIECE_TAGS = frozenset({*_PIECES, *_PIECES.values()})
#: Tags that describe a page. Orientations from 5 swap width and height; without the tag a strip has all rows.
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLES, _STRIP_ROWS = 256, 257, 258, 274, 277, 278
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_PAGE_TAGS = frozenset({_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLES, _STRIP_ROWS, _TILE_WIDTH, _TILE_HEIGHT})
_ON_ITS_SIDE, _ALL_ROWS, _MAX_SAMPLES = 5, 2**32 - 1, 16
#: Field types of these tags: SHORT, LONG, LONG8.
_NUMBERS = {3: "H", 4: "I", 16: "Q"}


class _Layout(Struct, frozen=True, kw_only=True):
    """The `struct` formats of a TIFF, with their byte order."""

    #: Position of the offset of the first directory.
    first: int
    offset: str
    count: str
    #: One entry: tag, field type, number of values, values or their offset.
    entry: str
    order: str


def count_pages(data: bytes, max_parts: int) -> int:
    """Check that all strips and tiles of each page are present, and return the number of pages.

    Raises:
        InvalidImage: ``truncated``; ``decompression-limit`` for more than ``max_parts`` entries and strips.
        struct.error, OverflowError: a directory is outside the file.
    """
    layout = _layout(data)
    at = struct.unpack_from(layout.offset, data, layout.first)[0]
    pages = parts = 0
    while at:
        count = struct.unpack_from(layout.count, data, at)[0]
        at += struct.calcsize(layout.count)
        parts = _bounded(parts + 1 + count, max_parts)
        end = at + count * struct.calcsize(layout.entry)
        pieces: dict[int, tuple[int, ...]] = {}
        for tag, kind, number, value in struct.iter_unpack(layout.entry, data[at:end]):
            if tag in _PIECE_TAGS:
                parts = _bounded(parts + number, max_parts)
                pieces[tag] = _values(data, layout, kind, number, value)
        for offsets, lengths in _PIECES.items():
            if max(map(add, pieces.get(offsets, ()), pieces.get(lengths, ())), default=0) > len(data):
                raise InvalidImage("truncated", f"TIFF ends within page {pages + 1}")
        at = struct.unpack_from(layout.offset, data, end)[0]
        pages += 1
    return pages


def _piece_bytes(tags: dict[int, int]) -> int:
    """Return the decompressed bytes of a strip or tile of a page with these tags, which a decoder keeps at once."""
    width = tags.get(_TILE_WIDTH) or tags.get(_WIDTH, 0)
    rows = tags.get(_TILE_HEIGHT) or min(tags.get(_STRIP_ROWS, _ALL_ROWS), tags.get(_HEIGHT, 0))
    return width * rows * tags.get(_SAMPLES, 1) * tags.get(_BITS, 1) // 8


def _first_page(data: bytes) -> dict[int, int]:
    """Return the tags that describe the first page, with their first values."""
    layout = _layout(data)
    at = struct.unpack_from(layout.offset, data, layout.first)[0]
    count = struct.unpack_from(layout.count, data, at)[0]
    at += struct.calcsize(layout.count)
    end = at + count * struct.calcsize(layout.entry)
    if end > len(data):
        raise struct.error("the directory ends outside the file")
    tags: dict[int, int] = {}
    for tag, kind, number, value in struct.iter_unpack(layout.entry, data[at:end]):
        if tag in _PAGE_TAGS and 0 < number <= _MAX_SAMPLES:
            tags.update((tag, first) for first in _values(data, layout, kind, number, value)[:1])
    return tags


def _layout(data: bytes) -> _Layout:
    order = "<" if data.startswith(b"I") else ">"
    if b"+" in data[2:4]:
        return _Layout(first=8, offset=order + "Q", count=order + "Q", entry=order + "HHQ8s", order=order)
    return _Layout(first=4, offset=order + "I", count=order + "H", entry=order + "HHI4s", order=order)


def _bounded(parts: int, limit: int) -> int:
    if parts > limit:
        raise InvalidImage("decompression-limit", f"TIFF with more than {limit} parts")
    return parts


def _values(data: bytes, layout: _Layout, kind: int, number: int, field: bytes) -> tuple[int, ...]:
    """Return the numbers of an entry: from its own field if they fit, otherwise from the offset in it."""
    if kind not in _NUMBERS:
        return ()
    numbers = f"{layout.order}{number}{_NUMBERS[kind]}"
    if struct.calcsize(numbers) <= len(field):
        return struct.unpack_from(numbers, field)
    return struct.unpack_from(numbers, data, struct.unpack(layout.offset, field)[0])


def read_header(data: bytes) -> ImageHeader:
    """Return the header, from the beginning of a file; a size is 0 if its tag is missing.

    Raises:
        struct.error, OverflowError: the first directory is outside ``data``.
    """
    tags = _first_page(data)
    width, height = (tags.get(tag, 0) for tag in (_WIDTH, _HEIGHT))
    if tags.get(_ORIENTATION, 0) >= _ON_ITS_SIDE:
        width, height = height, width
    return ImageHeader(format="tiff", width=width, height=height)


def read_outline(data: bytes) -> Outline:
    """Return the structure of a complete file."""
    frames, tags = count_pages(data, MAX_PARTS), _first_page(data)
    pixels = tags.get(_WIDTH, 0) * tags.get(_HEIGHT, 0)
    return Outline(format="tiff", pixels=pixels, frames=frames, kept=_piece_bytes(tags), picture=data)
