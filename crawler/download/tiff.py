"""The structure of a TIFF: directories (one a page) that point anywhere in the file, and to one another.

Sources: TIFF 6.0, section 2; the BigTIFF design (offsets and counts of 64 bits) of libtiff.
"""

import struct
from operator import add

from msgspec import Struct

from crawler.errors import InvalidImage

#: Tags of offsets → tags of lengths: strips, tiles.
_PIECES = {273: 279, 324: 325}
_PIECE_TAGS = frozenset({*_PIECES, *_PIECES.values()})
#: Tags that describe a page. An orientation from 5 on lays it on its side; without a number of rows a strip has all.
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLES, _STRIP_ROWS = 256, 257, 258, 274, 277, 278
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_PAGE_TAGS = frozenset({_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLES, _STRIP_ROWS, _TILE_WIDTH, _TILE_HEIGHT})
_ON_ITS_SIDE, _ALL_ROWS, _MAX_SAMPLES = 5, 2**32 - 1, 16
#: Field types that those tags may have: SHORT, LONG, LONG8.
_NUMBERS = {3: "H", 4: "I", 16: "Q"}


class _Layout(Struct, frozen=True, kw_only=True):
    """Formats of `struct`, with their byte order."""

    #: Where the offset of the first directory stands.
    first: int
    offset: str
    count: str
    #: One entry: tag, field type, number of values, values or their offset.
    entry: str
    order: str


def count_pages(data: bytes, max_parts: int) -> int:
    """Number of pages, after a look whether all strips and tiles of each are there.

    Raises:
        InvalidImage: ``truncated``; ``decompression-limit`` for more than ``max_parts`` entries and strips.
        struct.error, OverflowError: a directory lies outside the file.
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
                raise InvalidImage("truncated", f"TIFF ends in its page {pages + 1}")
        at = struct.unpack_from(layout.offset, data, end)[0]
        pages += 1
    return pages


def page_size(data: bytes) -> tuple[int, int]:
    """Width and height of the first page, as far as it says; 0 where it does not.

    Raises:
        struct.error, OverflowError: its directory lies outside ``data``.
    """
    found = _first_page(data)
    width, height = (found.get(tag, 0) for tag in (_WIDTH, _HEIGHT))
    return (height, width) if found.get(_ORIENTATION, 0) >= _ON_ITS_SIDE else (width, height)


def piece_bytes(data: bytes) -> int:
    """Bytes of a strip or a tile of the first page once it is unpacked, which a decoder does at one go; raises as
    `page_size` does.
    """
    found = _first_page(data)
    width = found.get(_TILE_WIDTH) or found.get(_WIDTH, 0)
    rows = found.get(_TILE_HEIGHT) or min(found.get(_STRIP_ROWS, _ALL_ROWS), found.get(_HEIGHT, 0))
    return width * rows * found.get(_SAMPLES, 1) * found.get(_BITS, 1) // 8


def _first_page(data: bytes) -> dict[int, int]:
    """Tag → first value, of those that describe the first page."""
    layout = _layout(data)
    at = struct.unpack_from(layout.offset, data, layout.first)[0]
    count = struct.unpack_from(layout.count, data, at)[0]
    at += struct.calcsize(layout.count)
    end = at + count * struct.calcsize(layout.entry)
    if end > len(data):
        raise struct.error("the directory ends outside")
    found: dict[int, int] = {}
    for tag, kind, number, value in struct.iter_unpack(layout.entry, data[at:end]):
        if tag in _PAGE_TAGS and 0 < number <= _MAX_SAMPLES:
            found.update((tag, first) for first in _values(data, layout, kind, number, value)[:1])
    return found


def _layout(data: bytes) -> _Layout:
    order = "<" if data.startswith(b"I") else ">"
    if b"+" in data[2:4]:
        return _Layout(first=8, offset=order + "Q", count=order + "Q", entry=order + "HHQ8s", order=order)
    return _Layout(first=4, offset=order + "I", count=order + "H", entry=order + "HHI4s", order=order)


def _bounded(parts: int, limit: int) -> int:
    if parts > limit:
        raise InvalidImage("decompression-limit", f"TIFF of more than {limit} parts")
    return parts


def _values(data: bytes, layout: _Layout, kind: int, number: int, field: bytes) -> tuple[int, ...]:
    """The numbers of an entry: in its own field if they fit, else where that points to."""
    if kind not in _NUMBERS:
        return ()
    numbers = f"{layout.order}{number}{_NUMBERS[kind]}"
    if struct.calcsize(numbers) <= len(field):
        return struct.unpack_from(numbers, field)
    return struct.unpack_from(numbers, data, struct.unpack(layout.offset, field)[0])
