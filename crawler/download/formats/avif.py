"""Header and structure of an AVIF (ISO/IEC 14496-12, ISO/IEC 23008-12)."""

import struct
from collections.abc import Iterator

from crawler.download.formats.base import MAX_PARTS, ImageHeader, Outline, too_many
from crawler.errors import InvalidImage

_AVIF_BOXES = frozenset({b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip"})


def read_header(data: bytes) -> ImageHeader:
    """Read an AVIF: the size is a property of the primary item; animations have it elsewhere, in their tracks."""
    if data[8:12] == b"avis":
        return ImageHeader(format="avif", animated=True)
    meta = next((box for kind, box in _boxes(data, 0, len(data)) if kind == b"meta"), None)
    if meta is None:
        return ImageHeader(format="avif", animated=None)
    inside = dict(_boxes(data, meta.start + 4, meta.stop))
    primary = inside[b"pitm"].start
    wanted = struct.unpack_from(">I" if data[primary] else ">H", data, primary + 4)[0]
    properties = dict(_boxes(data, inside[b"iprp"].start, inside[b"iprp"].stop))
    sizes = list(_boxes(data, properties[b"ipco"].start, properties[b"ipco"].stop))
    for index in _associated(data, properties[b"ipma"].start, wanted):
        kind, box = sizes[index - 1]
        if index and kind == b"ispe":
            width, height = struct.unpack_from(">II", data, box.start + 4)
            return ImageHeader(format="avif", width=width, height=height)
    return ImageHeader(format="avif")


def read_outline(data: bytes) -> Outline:
    """Follow the top-level boxes; decoders ignore the bytes after the last known box."""
    at = 0
    for _ in range(MAX_PARTS):
        kind = data[at + 4 : at + 8]
        if kind not in _AVIF_BOXES:
            return Outline(format="avif", frames=0, picture=data)
        length = int.from_bytes(data[at : at + 4], "big")
        if length == 0:  # to the end of the file
            return Outline(format="avif", frames=0, picture=data)
        if length == 1:
            length = struct.unpack_from(">Q", data, at + 8)[0]
        if length < 8:
            raise InvalidImage("corrupt", f"AVIF with a box {kind!r} of {length} bytes")
        at += length
        if at > len(data):
            raise InvalidImage("truncated", f"AVIF ends within its box {kind!r}")
    raise too_many("AVIF")


def _boxes(data: bytes, at: int, stop: int) -> Iterator[tuple[bytes, range]]:
    """Yield type and content range of each complete box (ISO/IEC 14496-12, section 4.2)."""
    while at + 8 <= stop:
        length, start = int.from_bytes(data[at : at + 4], "big"), at + 8
        if length == 1:
            length, start = struct.unpack_from(">Q", data, start)[0], at + 16
        if length < start - at or at + length > stop:
            return
        yield data[at + 4 : at + 8], range(start, at + length)
        at += length


def _associated(data: bytes, at: int, wanted: int) -> list[int]:
    """Return the property numbers of an item, from 1, out of the box ``ipma`` whose content begins at ``at``."""
    version, is_wide = data[at], data[at + 3] & 1
    item, index = (">I" if version else ">H"), (">H" if is_wide else ">B")
    number, at = struct.unpack_from(">I", data, at + 4)[0], at + 8
    for _ in range(min(number, len(data))):
        item_id, count = struct.unpack_from(item, data, at)[0], data[at + struct.calcsize(item)]
        at += struct.calcsize(item) + 1
        step = struct.calcsize(index)
        if item_id == wanted:
            mask = 0x7FFF if is_wide else 0x7F
            return [struct.unpack_from(index, data, at + step * n)[0] & mask for n in range(count)]
        at += count * step
    return []
