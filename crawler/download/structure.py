"""What an image's own structure says, read without any decoder: its type, its canvas, whether its end is there.

A decoder is content with the pixels it gets; a file is whole only if its container says so too. Each walker here
follows one container to its last byte, in time linear in its length and with a cap on its parts, and leaves out
the metadata (Exif, colour profiles, texts), which no verdict about the picture needs and every parser of which is
one more door for hostile bytes.

Sources: ITU-T T.81 (JPEG), the PNG and GIF89a specifications, the WebP container specification, ISO/IEC 14496-12.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator

from msgspec import Struct

from crawler.download.tiff import count_pages
from crawler.errors import InvalidImage

#: Parts that one file may have: segments, chunks, blocks, boxes. More of them only cost time.
_MAX_PARTS = 65_536
#: Passes over a JPEG's pixels; encoders need about ten, and each costs a decoder the whole canvas again.
_MAX_SCANS = 50
#: Bytes between two JPEG segments that belong to neither.
_MAX_JUNK = 65_536

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_MAGIC = {
    b"\xff\xd8\xff": "jpeg",
    _PNG_MAGIC: "png",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\0\0\1\0": "ico",
}
#: Pictures that browsers don't show, or that are programs (SVG, below).
_FOREIGN_MAGIC = (
    *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\0\0\0\x0cJXL ", b"\xff\x0a"),
    *(b"\0\0\2\0", b"8BPS", b"qoif", b"DDS ", b"icns", b"v/1\1"),
)
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
#: Anything in a JPEG that is a marker: not a stuffed zero, a fill byte or a restart.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA
_JPEG_ALONE = frozenset({0x01, 0xD8})  # markers without a length
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_JPEG_OTHER_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF})
_JPEG_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_GIF_EXTENSION, _GIF_IMAGE = b"!,"
_AVIF_BOXES = frozenset({b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip"})


class Outline(Struct, frozen=True, kw_only=True):
    """A file as its container describes it."""

    #: Lower-case name: jpeg, png, gif, webp, avif, bmp, tiff, ico.
    format: str
    #: Pixels of the largest canvas it asks for; 0: only the decoder can tell.
    pixels: int = 0
    #: Pictures in it; 0: only the decoder can tell.
    frames: int = 1
    #: The bytes that a decoder needs.
    picture: bytes


def outline(data: bytes) -> Outline:
    """Follow the container of ``data`` from the first byte to the last one that belongs to it.

    Raises:
        InvalidImage: ``not-an-image``, ``unsupported-format``, ``truncated``, ``corrupt`` or
            ``decompression-limit``.
    """
    name = _sniff(data)
    try:
        return _WALKERS[name](data)
    except (IndexError, OverflowError, struct.error) as error:
        raise InvalidImage("truncated", f"{name} ends in the middle of a part") from error


def _sniff(data: bytes) -> str:
    """The type by the first bytes, whatever name or header came with them."""
    for magic, name in _MAGIC.items():
        if data.startswith(magic):
            return name
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    if data[4:8] == b"ftyp":
        brands = data[8 : int.from_bytes(data[:4], "big")]
        if b"avif" in brands or b"avis" in brands:
            return "avif"
        raise InvalidImage("unsupported-format", f"brand {brands[:4]!r}")
    if data.startswith(_FOREIGN_MAGIC) or _is_svg(data):
        raise InvalidImage("unsupported-format", f"begins with {data[:12]!r}")
    raise InvalidImage("not-an-image", f"begins with {data[:24]!r}" if data else "empty")


def _is_svg(data: bytes) -> bool:
    text = data[:4096].lower().removeprefix(b"\xef\xbb\xbf").lstrip()
    opening = text.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--"))
    return opening and b"<svg" in text and b"<html" not in text


def _too_many(name: str) -> InvalidImage:
    return InvalidImage("decompression-limit", f"{name} of more than {_MAX_PARTS} parts")


def _jpeg(data: bytes) -> Outline:
    """What comes before the first scan says the size; from there on all of it is picture."""
    kept, scans, pixels = [data[:2]], 0, 0
    for code, start, end in _jpeg_segments(data):
        if code in _JPEG_FRAMES or code in _JPEG_OTHER_FRAMES:
            pixels = max(pixels, _jpeg_pixels(code, data, start + 4))
        scans += code == _JPEG_SCAN
        if scans > _MAX_SCANS:
            raise InvalidImage("decompression-limit", f"JPEG of more than {_MAX_SCANS} scans")
        if code == _JPEG_SCAN and scans == 1:
            kept.append(data[start:])
        elif not scans and code not in _JPEG_METADATA:
            kept.append(data[start:end])
    return Outline(format="jpeg", pixels=pixels, picture=b"".join(kept))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the end marker, over the entropy-coded bytes in between."""
    at, in_header = 2, True
    for _ in range(_MAX_PARTS):
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            raise InvalidImage("truncated", "JPEG without its end marker")
        start, code = found.start(), data[found.start() + 1]
        if code == _JPEG_END:
            return
        if in_header and start - at > _MAX_JUNK:
            raise InvalidImage("corrupt", "JPEG with junk between its segments")
        at = start + 2
        if code not in _JPEG_ALONE:
            at += struct.unpack_from(">H", data, at)[0]
            yield code, start, at
        in_header = in_header and code != _JPEG_SCAN
    raise _too_many("JPEG")


def _jpeg_pixels(code: int, data: bytes, at: int) -> int:
    """Pixels that a frame header at ``at`` asks for."""
    precision, height, width = struct.unpack_from(">BHH", data, at)
    if code in _JPEG_OTHER_FRAMES or precision != 8:
        raise InvalidImage("unsupported-format", f"JPEG process {code:02X} with {precision} bits")
    return int(width) * int(height)


def _png(data: bytes) -> Outline:
    """Chunk by chunk to IEND, with the check sums of those that a picture can't do without."""
    kept, at, frames, pixels = [_PNG_MAGIC], 8, 0, 0
    for _ in range(_MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if not kind.isalpha():
            raise InvalidImage("corrupt", f"PNG with a chunk named {kind!r}")
        if end > len(data):
            raise InvalidImage("truncated", f"PNG ends in its chunk {kind.decode()}")
        if kind[:1].isupper():
            if zlib.crc32(data[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
                raise InvalidImage("corrupt", f"PNG with a wrong check sum in {kind.decode()}")
            kept.append(data[at:end])
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, at + 8)
            pixels = max(pixels, width * height)
        frames += kind == b"fcTL"
        if kind == b"IEND":
            return Outline(format="png", pixels=pixels, frames=max(1, frames), picture=b"".join(kept))
        at = end
    raise _too_many("PNG")


def _gif(data: bytes) -> Outline:
    """Block by block to the trailer; whatever else comes between two blocks ends a GIF, as it does for browsers."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, frames, pixels = 13 + _gif_palette(flags), 0, width * height
    for _ in range(_MAX_PARTS):
        if data[at] == _GIF_EXTENSION:
            at = _after_sub_blocks(data, at + 2)
        elif data[at] == _GIF_IMAGE:
            left, top, inner_width, inner_height, flags = struct.unpack_from("<4HB", data, at + 1)
            pixels = max(pixels, max(width, left + inner_width) * max(height, top + inner_height))
            at = _after_sub_blocks(data, at + 11 + _gif_palette(flags))
            frames += 1
        else:
            return Outline(format="gif", pixels=pixels, frames=max(1, frames), picture=data)
    raise _too_many("GIF")


def _gif_palette(flags: int) -> int:
    """Bytes of the colour table that ``flags`` announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, at: int) -> int:
    while size := data[at]:
        at += size + 1
    return at + 1


def _webp(data: bytes) -> Outline:
    """RIFF chunk by chunk; the canvas is in the first (VP8X, VP8L or VP8)."""
    stop = 8 + struct.unpack_from("<I", data, 4)[0]
    if stop > len(data):
        raise InvalidImage("truncated", f"WebP of {stop} bytes, {len(data)} are there")
    frames, at = 0, 12
    for _ in range(_MAX_PARTS):
        if at + 8 > stop:
            return Outline(format="webp", pixels=_webp_pixels(data), frames=max(1, frames), picture=data[:stop])
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > stop:
            raise InvalidImage("truncated", f"WebP ends in its chunk {kind!r}")
        frames += kind == b"ANMF"
        at += 8 + length + length % 2
    raise _too_many("WebP")


def _webp_pixels(data: bytes) -> int:
    kind = data[12:16]
    if kind == b"VP8X":
        return (int.from_bytes(data[24:27], "little") + 1) * (int.from_bytes(data[27:30], "little") + 1)
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return int(width & 0x3FFF) * int(height & 0x3FFF)
    raise InvalidImage("corrupt", f"WebP begins with chunk {kind!r}")


def _avif(data: bytes) -> Outline:
    """Top-level box by box; bytes after the last one we know are a tail that readers ignore."""
    at = 0
    for _ in range(_MAX_PARTS):
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
            raise InvalidImage("truncated", f"AVIF ends in its box {kind!r}")
    raise _too_many("AVIF")


def _bmp(data: bytes) -> Outline:
    layout = "<HH" if data[14] == 12 else "<ii"
    width, height = struct.unpack_from(layout, data, 18)
    return Outline(format="bmp", pixels=abs(width * height), picture=data)


def _tiff(data: bytes) -> Outline:
    return Outline(format="tiff", frames=count_pages(data, _MAX_PARTS), picture=data)


def _ico(data: bytes) -> Outline:
    """Entry by entry: each image inside must be there, and may be far larger than the directory says."""
    pixels = 0
    for index in range(struct.unpack_from("<H", data, 4)[0]):
        length, offset = struct.unpack_from("<II", data, 6 + 16 * index + 8)
        if offset + length > len(data):
            raise InvalidImage("truncated", f"ICO ends in its image {index + 1}")
        if data.startswith(_PNG_MAGIC, offset):
            width, height = struct.unpack_from(">II", data, offset + 16)
        else:
            width, height = struct.unpack_from("<ii", data, offset + 4)
        pixels = max(pixels, abs(width * height))
    return Outline(format="ico", pixels=pixels, picture=data)


_WALKERS: dict[str, Callable[[bytes], Outline]] = {
    "jpeg": _jpeg,
    "png": _png,
    "gif": _gif,
    "webp": _webp,
    "avif": _avif,
    "bmp": _bmp,
    "tiff": _tiff,
    "ico": _ico,
}
