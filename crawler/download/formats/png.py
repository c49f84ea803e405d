"""The chunks of a PNG: those that a decoder needs, the number of frames, and whether all rows are present.

Pure. Source: Portable Network Graphics (PNG) Specification, third edition, which includes animations (APNG).
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from crawler.download.formats.base import MAX_PARTS, ImageHeader, Outline, too_many
from crawler.errors import InvalidImage

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
#: The last chunk. It has no content, so the original one may be damaged.
_END = b"\0\0\0\0IEND\xaeB`\x82"

#: Chunk types as letters; unknown types are ``x`` if they are critical, and ``a`` if they are ancillary.
_LETTERS = {b"IHDR": "H", b"PLTE": "P", b"IDAT": "D", b"IEND": "E", b"fcTL": "c", b"fdAT": "f"}
#: Valid orders of the chunks of a complete file (section 5.6). Chunks after the pixels can't affect them.
_ORDER = re.compile("H[acf]*+(?:P[acf]*+)?+D*+[acfx]*+E")
#: The same for the chunks of an animation: each frame has pixels; the first frame may have those of the still.
_ANIMATION_ORDER = re.compile("(?:cD)?+D*+(?:cf++)*+")
_NO_ANIMATION = re.compile("[^Dcf]")
#: Largest number of frames of an animation (section 7.1); a file that claims more is shown as a still.
_MOST_FRAMES = 2**31 - 1

_PALETTE = 3
#: Colour type → samples per pixel, and the valid numbers of bits per sample (section 11.2.1).
_COLOURS = {0: (1, {1, 2, 4, 8, 16}), 2: (3, {8, 16}), _PALETTE: (1, {1, 2, 4, 8}), 4: (2, {8, 16}), 6: (4, {8, 16})}
#: Start and steps of each pass: left, top, across, down (section 8.1).
_ONE_PASS = ((0, 0, 1, 1),)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: Bytes that are decompressed at a time; they become at most a thousand times as many.
_PIECE = 1_024


class _Header(NamedTuple):
    """IHDR: sizes in pixels, bits per sample, and the numbers of methods."""

    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filtering: int
    interlace: int


class _Chunk(NamedTuple):
    """The type and the range of a chunk, which includes its length and its checksum."""

    kind: bytes
    start: int
    end: int


def read_outline(data: bytes) -> Outline:
    """Follow the chunks to IEND. The decoder gets only those that it needs.

    Raises:
        InvalidImage: ``truncated``, ``corrupt`` or ``decompression-limit``.
        struct.error: the file ends between two chunks.
    """
    chunks = list(_chunks(data))
    order = "".join(_LETTERS.get(chunk.kind) or ("x" if chunk.kind[:1].isupper() else "a") for chunk in chunks)
    if not _ORDER.fullmatch(order):
        raise InvalidImage("corrupt", "PNG with chunks that are unknown, repeated or out of order")
    needed = [chunk for chunk in chunks if chunk.kind in (b"IHDR", b"PLTE", b"IDAT")]
    for chunk in needed:
        _verify_checksum(data, chunk)
    header = _image_header(data)
    if header.colour == _PALETTE:
        _check_palette(needed)
    frames = _count_frames(data, header, chunks, _NO_ANIMATION.sub("", order))
    picture = b"".join([PNG_MAGIC, *(data[chunk.start : chunk.end] for chunk in needed), _END])
    return Outline(format="png", pixels=header.width * header.height, frames=frames, picture=picture)


def check_rows(picture: bytes) -> None:
    """Check that a still, as in `Outline.picture`, has all rows that its header announces.

    Raises:
        InvalidImage: ``truncated``.
        zlib.error: the pixels can't be decompressed.
    """
    missing, inflate = _row_bytes(_image_header(picture)), zlib.decompressobj()
    for piece in _pieces(picture):
        missing -= len(inflate.decompress(piece))
        if missing <= 0:
            return
        if inflate.eof:
            break
    raise InvalidImage("truncated", f"PNG whose pixels end {missing} bytes early")


def is_interlaced(picture: bytes) -> bool:
    """Return whether the rows of a PNG, as in `Outline.picture`, come in several passes."""
    return _image_header(picture).interlace == 1


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield each chunk up to IEND; bytes after it are ignored."""
    start = len(PNG_MAGIC)
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if not kind.isalpha():
            raise InvalidImage("corrupt", f"PNG with a chunk named {kind!r}")
        if end > len(data):
            raise InvalidImage("truncated", f"PNG ends within its chunk {kind.decode()}")
        yield _Chunk(kind, start, end)
        if kind == b"IEND":
            return
        start = end
    raise too_many("PNG")


def _verify_checksum(data: bytes, chunk: _Chunk) -> None:
    if zlib.crc32(data[chunk.start + 4 : chunk.end - 4]) != struct.unpack_from(">I", data, chunk.end - 4)[0]:
        raise InvalidImage("corrupt", f"PNG with a wrong checksum in {chunk.kind.decode()}")


def _image_header(data: bytes) -> _Header:
    length, _, *fields = struct.unpack_from(">I4sIIBBBBB", data, len(PNG_MAGIC))
    header = _Header(*fields)
    _, depths = _COLOURS.get(header.colour, (0, ()))
    methods = header.compression, header.filtering, header.interlace
    if length != 13 or header.depth not in depths or methods not in ((0, 0, 0), (0, 0, 1)):
        raise InvalidImage("corrupt", "PNG with an invalid header")
    return header


def _check_palette(needed: list[_Chunk]) -> None:
    """Refuse an indexed PNG without 1 to 256 palette colours of three bytes each (section 11.2.2)."""
    size = next((chunk.end - chunk.start - 12 for chunk in needed if chunk.kind == b"PLTE"), 0)
    if size % 3 or not 3 <= size <= 768:
        raise InvalidImage("corrupt", f"PNG with a palette of {size} bytes")


def _count_frames(data: bytes, header: _Header, chunks: list[_Chunk], order: str) -> int:
    """Return the number of frames; check that all are present. A file that does not begin as an animation has one."""
    control = next((chunk for chunk in chunks if chunk.kind in (b"acTL", b"IDAT")), None)
    if control is None or control.kind == b"IDAT":
        return 1
    _verify_checksum(data, control)
    claimed, frame_chunks = struct.unpack_from(">I", data, control.start + 8)[0], order.strip("D")
    if not 0 < claimed <= _MOST_FRAMES or not frame_chunks:
        return 1
    if order.count("c") < claimed or order.endswith("c"):
        raise InvalidImage("truncated", f"PNG animation of {claimed} frames with some missing")
    if not _ANIMATION_ORDER.fullmatch(order):
        raise InvalidImage("corrupt", "PNG animation with a frame that has no pixels")
    for number, chunk in enumerate(chunk for chunk in chunks if chunk.kind in (b"fcTL", b"fdAT")):
        _verify_checksum(data, chunk)
        if struct.unpack_from(">I", data, chunk.start + 8)[0] != number:
            raise InvalidImage("corrupt", f"PNG animation without its part {number}")
        if chunk.kind == b"fcTL":
            _check_frame(data, header, chunk)
    return int(claimed)


def _check_frame(data: bytes, header: _Header, chunk: _Chunk) -> None:
    """Refuse a frame that is empty or not inside the canvas (section 11.3.6.2)."""
    width, height, left, top = struct.unpack_from(">4I", data, chunk.start + 12)
    inside = 0 < width <= header.width - left and 0 < height <= header.height - top
    if chunk.end - chunk.start != 12 + 26 or not inside:
        raise InvalidImage("corrupt", "PNG animation with a frame outside its canvas")


def _row_bytes(header: _Header) -> int:
    """Return the decompressed bytes of all rows of all passes, each with its filter byte (sections 7.2 and 8.1)."""
    bits, total = header.depth * _COLOURS[header.colour][0], 0
    for left, top, across, down in _ADAM7 if header.interlace else _ONE_PASS:
        columns, rows = (header.width - left + across - 1) // across, (header.height - top + down - 1) // down
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _pieces(picture: bytes) -> Iterator[bytes]:
    """Yield the compressed pixels in pieces of at most `_PIECE` bytes."""
    for kind, start, end in _chunks(picture):
        if kind == b"IDAT":
            for at in range(start + 8, end - 4, _PIECE):
                yield picture[at : min(at + _PIECE, end - 4)]


def read_header(data: bytes) -> ImageHeader:
    """Read a PNG: the size is in the first chunk, and ``acTL``, the chunk of animations, comes before the pixels."""
    width, height = struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else (0, 0)
    at, animated = 8, None
    while animated is None and at + 20 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL":
            animated = 1 < struct.unpack_from(">I", data, at + 8)[0] <= _MOST_FRAMES
        elif kind in (b"IDAT", b"IEND"):
            animated = False
        at += 12 + length
    return ImageHeader(format="png", width=width, height=height, animated=animated)
