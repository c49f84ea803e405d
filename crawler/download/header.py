"""What the first bytes of a picture say: its type, its size, whether it is an animation. Pure.

Asked again and again while the bytes come in, so that what nobody wants is given up before the rest of it is
transferred. Nothing here proves anything; what it says is what the whole file would be found to be.

Sources: those of `crawler.download.structure`; ISO/IEC 23008-12 (sizes of the pictures in an AVIF).
"""

import struct
from collections.abc import Callable, Iterator

from msgspec import Struct

from crawler.download.bitmap import bmp_size
from crawler.download.png import MOST_FRAMES
from crawler.download.structure import (
    GIF_IMAGE,
    JPEG_FRAMES,
    JPEG_SCAN,
    gif_blocks,
    is_webp_animation,
    jpeg_segments,
    jpeg_size,
    sniff,
    webp_size,
)
from crawler.download.tiff import page_size
from crawler.errors import InvalidImage

#: Bytes after which a type is known, and after which something is known to be none.
_ENOUGH, _ENOUGH_FOR_NONE = 32, 4_096


class Header(Struct, frozen=True, kw_only=True):
    """What is known of a picture before all of it is there."""

    #: Lower-case name: jpeg, png, gif, webp, avif, bmp, tiff, ico.
    format: str
    #: Pixels; 0: not told, or not yet.
    width: int = 0
    height: int = 0
    #: Whether it has several pictures to be shown one after the other; None: not known yet.
    animated: bool | None = False


def read_header(data: bytes) -> Header | None:
    """What ``data``, the beginning of a file or all of it, says; None: not even the type yet.

    Raises:
        InvalidImage: what it is for sure, however it goes on: ``not-an-image``, ``unsupported-format`` or ``corrupt``.
    """
    try:
        name = sniff(data)
    except InvalidImage:
        if len(data) < _ENOUGH_FOR_NONE or (data[4:8] == b"ftyp" and int.from_bytes(data[:4], "big") > len(data)):
            return None  # what decides it may still come
        raise
    if len(data) < _ENOUGH:
        return None
    try:
        return _READERS[name](data)
    except (IndexError, KeyError, OverflowError, struct.error):  # KeyError: a box that is not there
        return Header(format=name, animated=None)
    except InvalidImage as error:
        if error.reason == "truncated":
            return Header(format=name, animated=None)
        raise


def _jpeg(data: bytes) -> Header:
    for code, start, _ in jpeg_segments(data):
        if code in JPEG_FRAMES:
            width, height = jpeg_size(code, data, start)
            return Header(format="jpeg", width=width, height=height)
        if code == JPEG_SCAN:
            break
    return Header(format="jpeg")


def _png(data: bytes) -> Header:
    """The first chunk has the size; that of animations stands before the first pixels."""
    width, height = struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else (0, 0)
    at, animated = 8, None
    while animated is None and at + 20 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL":
            animated = 1 < struct.unpack_from(">I", data, at + 8)[0] <= MOST_FRAMES
        elif kind in (b"IDAT", b"IEND"):
            animated = False
        at += 12 + length
    return Header(format="png", width=width, height=height, animated=animated)


def _gif(data: bytes) -> Header:
    """Its screen, and the first frame, which may be larger; the second one, if there is any, may be far away."""
    width, height = struct.unpack_from("<HH", data, 6)
    frames = 0
    try:
        for kind, start in gif_blocks(data):
            if kind == GIF_IMAGE and frames:
                return Header(format="gif", width=width, height=height, animated=True)
            if kind == GIF_IMAGE:
                left, top, inner_width, inner_height = struct.unpack_from("<4H", data, start + 1)
                width, height = max(width, left + inner_width), max(height, top + inner_height)
                frames = 1
        return Header(format="gif", width=width, height=height)
    except (IndexError, struct.error):
        if not frames:
            return Header(format="gif", animated=None)
    return Header(format="gif", width=width, height=height, animated=None)


def _webp(data: bytes) -> Header:
    width, height = webp_size(data)
    return Header(format="webp", width=width, height=height, animated=is_webp_animation(data))


def _bmp(data: bytes) -> Header:
    width, height = bmp_size(data)
    return Header(format="bmp", width=width, height=height)


def _tiff(data: bytes) -> Header:
    width, height = page_size(data)
    return Header(format="tiff", width=width, height=height)


def _ico(data: bytes) -> Header:
    """Its directory does not say how large the pictures are, and it is small."""
    return Header(format="ico")


def _avif(data: bytes) -> Header:
    """The size that belongs to the primary picture; tracks of animations have theirs elsewhere."""
    if data[8:12] == b"avis":
        return Header(format="avif", animated=True)
    meta = next((box for kind, box in _boxes(data, 0, len(data)) if kind == b"meta"), None)
    if meta is None:
        return Header(format="avif", animated=None)
    inside = dict(_boxes(data, meta.start + 4, meta.stop))
    primary = inside[b"pitm"].start
    wanted = struct.unpack_from(">I" if data[primary] else ">H", data, primary + 4)[0]
    properties = dict(_boxes(data, inside[b"iprp"].start, inside[b"iprp"].stop))
    sizes = list(_boxes(data, properties[b"ipco"].start, properties[b"ipco"].stop))
    for index in _associated(data, properties[b"ipma"].start, wanted):
        kind, box = sizes[index - 1]
        if index and kind == b"ispe":
            width, height = struct.unpack_from(">II", data, box.start + 4)
            return Header(format="avif", width=width, height=height)
    return Header(format="avif")


def _boxes(data: bytes, at: int, stop: int) -> Iterator[tuple[bytes, range]]:
    """Kind and contents of each box that is all there (ISO/IEC 14496-12, section 4.2)."""
    while at + 8 <= stop:
        length, start = int.from_bytes(data[at : at + 4], "big"), at + 8
        if length == 1:
            length, start = struct.unpack_from(">Q", data, start)[0], at + 16
        if length < start - at or at + length > stop:
            return
        yield data[at + 4 : at + 8], range(start, at + length)
        at += length


def _associated(data: bytes, at: int, wanted: int) -> list[int]:
    """Numbers of the properties of an item, from 1, by the box ``ipma`` whose contents begin at ``at``."""
    version, is_wide = data[at], data[at + 3] & 1
    item, index = (">I" if version else ">H"), (">H" if is_wide else ">B")
    number, at = struct.unpack_from(">I", data, at + 4)[0], at + 8
    for _ in range(min(number, len(data))):
        found, count = struct.unpack_from(item, data, at)[0], data[at + struct.calcsize(item)]
        at += struct.calcsize(item) + 1
        step = struct.calcsize(index)
        if found == wanted:
            mask = 0x7FFF if is_wide else 0x7F
            return [struct.unpack_from(index, data, at + step * n)[0] & mask for n in range(count)]
        at += count * step
    return []


_READERS: dict[str, Callable[[bytes], Header]] = {
    "jpeg": _jpeg,
    "png": _png,
    "gif": _gif,
    "webp": _webp,
    "avif": _avif,
    "bmp": _bmp,
    "tiff": _tiff,
    "ico": _ico,
}
