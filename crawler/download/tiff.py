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
