"""What the chunks of a PNG say: which of them are the picture, how many frames it has, whether its rows are all there.

Pure. Source: Portable Network Graphics (PNG) Specification, third edition, which has animations (APNG), too.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from crawler.errors import InvalidImage

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
#: The last chunk: it says nothing, so the one that is there may be damaged.
_END = b"\0\0\0\0IEND\xaeB`\x82"

#: Chunks as letters; others are ``x`` where a picture can't be understood without them, and ``a`` where it can.
_LETTERS = {b"IHDR": "H", b"PLTE": "P", b"IDAT": "D", b"IEND": "E", b"fcTL": "c", b"fdAT": "f"}
#: Orders that a whole file may have (section 5.6). What follows the pixels concerns them no more, whatever it is.
_ORDER = re.compile("H[acf]*+(?:P[acf]*+)?+D*+[acfx]*+E")
#: The same for animations, with only those letters: each frame has pixels, the first one maybe those of the still.
_ANIMATION_ORDER = re.compile("(?:cD)?+D*+(?:cf++)*+")
_NO_ANIMATION = re.compile("[^Dcf]")
#: Frames that an animation may have (section 7.1); one that claims more is shown as a still.
MOST_FRAMES = 2**31 - 1

_PALETTE = 3
#: Colour type → samples of a pixel, and the bits that each of them may have (section 11.2.1).
_COLOURS = {0: (1, {1, 2, 4, 8, 16}), 2: (3, {8, 16}), _PALETTE: (1, {1, 2, 4, 8}), 4: (2, {8, 16}), 6: (4, {8, 16})}
#: Where each pass begins, and its steps: left, top, across, down (section 8.1).
_ONE_PASS = ((0, 0, 1, 1),)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: Bytes that are unpacked at a time: they become a thousand times as many at most.
_PIECE = 1_024


class _Header(NamedTuple):
    """IHDR: its sizes in pixels, the bits of a sample, and numbers of methods."""

    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filtering: int
    interlace: int


class _Chunk(NamedTuple):
    """Where a chunk is, with its length and its check sum."""

    kind: bytes
    start: int
    end: int


def strip_png(data: bytes, most_chunks: int) -> tuple[bytes, int]:
    """The chunks that a decoder needs, header first, and the number of frames that are shown.

    Raises:
        InvalidImage: ``truncated``, ``corrupt``, or ``decompression-limit``: it has more chunks than that.
        struct.error: it ends between two chunks.
    """
    chunks = list(_chunks(data, most_chunks))
    order = "".join(_LETTERS.get(chunk.kind) or ("x" if chunk.kind[:1].isupper() else "a") for chunk in chunks)
    if not _ORDER.fullmatch(order):
        raise InvalidImage("corrupt", "PNG with chunks that are unknown, repeated or out of order")
    needed = [chunk for chunk in chunks if chunk.kind in (b"IHDR", b"PLTE", b"IDAT")]
    for chunk in needed:
        _check_sum(data, chunk)
    header = _read_header(data)
    if header.colour == _PALETTE:
        _check_palette(needed)
    frames = _count_frames(data, header, chunks, _NO_ANIMATION.sub("", order))
    return b"".join([PNG_MAGIC, *(data[chunk.start : chunk.end] for chunk in needed), _END]), frames


def check_rows(picture: bytes) -> None:
    """Prove that a still, as `strip_png` gives it, has all the rows that its header promises.

    Raises:
        InvalidImage: ``truncated``.
        zlib.error: its pixels can't be unpacked.
    """
    missing, inflate = _row_bytes(_read_header(picture)), zlib.decompressobj()
    for piece in _pieces(picture):
        missing -= len(inflate.decompress(piece))
        if missing <= 0:
            return
        if inflate.eof:
            break
    raise InvalidImage("truncated", f"PNG whose pixels end {missing} bytes early")


def is_interlaced(picture: bytes) -> bool:
    """Whether its rows come in several passes; as `strip_png` gives it."""
    return _read_header(picture).interlace == 1


def _chunks(data: bytes, most: int) -> Iterator[_Chunk]:
    """Chunk by chunk to IEND; what stands behind it belongs to nobody."""
    start = len(PNG_MAGIC)
    for _ in range(most):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if not kind.isalpha():
            raise InvalidImage("corrupt", f"PNG with a chunk named {kind!r}")
        if end > len(data):
            raise InvalidImage("truncated", f"PNG ends in its chunk {kind.decode()}")
        yield _Chunk(kind, start, end)
        if kind == b"IEND":
            return
        start = end
    raise InvalidImage("decompression-limit", f"PNG of more than {most} chunks")


def _check_sum(data: bytes, chunk: _Chunk) -> None:
    if zlib.crc32(data[chunk.start + 4 : chunk.end - 4]) != struct.unpack_from(">I", data, chunk.end - 4)[0]:
        raise InvalidImage("corrupt", f"PNG with a wrong check sum in {chunk.kind.decode()}")


def _read_header(data: bytes) -> _Header:
    length, _, *fields = struct.unpack_from(">I4sIIBBBBB", data, len(PNG_MAGIC))
    header = _Header(*fields)
    _, depths = _COLOURS.get(header.colour, (0, ()))
    methods = header.compression, header.filtering, header.interlace
    if length != 13 or header.depth not in depths or methods not in ((0, 0, 0), (0, 0, 1)):
        raise InvalidImage("corrupt", "PNG with a header that makes no sense")
    return header


def _check_palette(needed: list[_Chunk]) -> None:
    """Refuse pixels that are numbers of colours without one to 256 colours, of three bytes each (section 11.2.2)."""
    size = next((chunk.end - chunk.start - 12 for chunk in needed if chunk.kind == b"PLTE"), 0)
    if size % 3 or not 3 <= size <= 768:
        raise InvalidImage("corrupt", f"PNG with a palette of {size} bytes")


def _count_frames(data: bytes, header: _Header, chunks: list[_Chunk], order: str) -> int:
    """Frames of the animation, all of which must be there; what does not begin as one is shown as a still."""
    control = next((chunk for chunk in chunks if chunk.kind in (b"acTL", b"IDAT")), None)
    if control is None or control.kind == b"IDAT":
        return 1
    _check_sum(data, control)
    claimed, moving = struct.unpack_from(">I", data, control.start + 8)[0], order.strip("D")
    if not 0 < claimed <= MOST_FRAMES or not moving:
        return 1
    if order.count("c") < claimed or order.endswith("c"):
        raise InvalidImage("truncated", f"PNG animation of {claimed} frames that are not all there")
    if not _ANIMATION_ORDER.fullmatch(order):
        raise InvalidImage("corrupt", "PNG animation with a frame that has no pixels")
    for number, chunk in enumerate(chunk for chunk in chunks if chunk.kind in (b"fcTL", b"fdAT")):
        _check_sum(data, chunk)
        if struct.unpack_from(">I", data, chunk.start + 8)[0] != number:
            raise InvalidImage("corrupt", f"PNG animation without its part {number}")
        if chunk.kind == b"fcTL":
            _check_frame(data, header, chunk)
    return int(claimed)


def _check_frame(data: bytes, header: _Header, chunk: _Chunk) -> None:
    """Refuse a frame that is empty or outside the canvas (section 11.3.6.2)."""
    width, height, left, top = struct.unpack_from(">4I", data, chunk.start + 12)
    inside = 0 < width <= header.width - left and 0 < height <= header.height - top
    if chunk.end - chunk.start != 12 + 26 or not inside:
        raise InvalidImage("corrupt", "PNG animation with a frame outside its canvas")


def _row_bytes(header: _Header) -> int:
    """Bytes of all rows of all passes when unpacked, each with its filter's number in front (sections 7.2 and 8.1)."""
    bits, total = header.depth * _COLOURS[header.colour][0], 0
    for left, top, across, down in _ADAM7 if header.interlace else _ONE_PASS:
        columns, rows = (header.width - left + across - 1) // across, (header.height - top + down - 1) // down
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _pieces(picture: bytes) -> Iterator[bytes]:
    """The packed pixels, a little at a time."""
    for kind, start, end in _chunks(picture, len(picture)):
        if kind == b"IDAT":
            for at in range(start + 8, end - 4, _PIECE):
                yield picture[at : min(at + _PIECE, end - 4)]
