"""What an image's own structure says, read without any decoder: its type, its canvas, whether its end is there.

A decoder is content with the pixels it gets; a file is whole only if its container says so too. Each walker here
follows one container to its last byte, in time linear in its length and with a cap on its parts, and leaves out
the metadata (Exif, colour profiles, texts), which no verdict about the picture needs and every parser of which is
one more door for hostile bytes.

Sources: ITU-T T.81 (JPEG), the PNG and GIF89a specifications, the WebP container specification, ISO/IEC 14496-12.
"""

import re
import struct
from collections.abc import Callable, Iterator

from msgspec import Struct

from crawler.download.bitmap import HEADER_SIZES, check_bmp
from crawler.download.icon import is_cursor, shown_image
from crawler.download.mpf import MPF_MAGIC, check_pictures
from crawler.download.png import PNG_MAGIC, strip_png
from crawler.download.tiff import count_pages, page_size, piece_bytes
from crawler.errors import InvalidImage

#: Parts that one file may have: segments, chunks, blocks, boxes. More of them only cost time.
MAX_PARTS = 65_536
#: Passes over a JPEG's pixels, and pixels that all of them go over; encoders need about ten passes, and each costs a
#: decoder the whole canvas again, at up to 0.6 s for a thousand million pixels.
_MAX_SCANS, _MAX_SCANNED = 100, 1_500_000_000
#: Bytes between two JPEG segments that belong to neither.
_MAX_JUNK = 65_536

_MAGIC = {
    b"\xff\xd8\xff": "jpeg",
    PNG_MAGIC: "png",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"\0\0\1\0": "ico",
}
#: A cursor is an icon with a hot spot, and both are image/x-icon (WHATWG MIME Sniffing); a TGA begins like that, too.
_CURSOR_MAGIC = b"\0\0\2\0"
#: Pictures that browsers don't show, nor Pillow some of them (big-endian BigTIFF), or that are programs (SVG, below).
_FOREIGN_MAGIC = (
    *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\0\0\0\x0cJXL ", b"\xff\x0a"),
    *(_CURSOR_MAGIC, b"MM\0+", b"8BPS", b"qoif", b"DDS ", b"icns", b"v/1\1"),
)
#: Anything in a JPEG that is a marker: not a stuffed zero, a fill byte or a restart.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_END, JPEG_SCAN = 0xD9, 0xDA
_JPEG_ALONE = frozenset({0x01, 0xD8})  # markers without a length
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xCA})
_JPEG_OTHER_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF})
JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA}) | _JPEG_OTHER_FRAMES
_JPEG_INDEX = 0xE2
_JPEG_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
GIF_EXTENSION, GIF_IMAGE = b"!,"
_GIF_CONTROL = b"!\xf9\4"
#: Sub-blocks of a GIF over all its blocks; with the usual 255 bytes each that is 267 MB.
_MAX_SUB_BLOCKS = 2**20
_WEBP_ANIMATED = 0x02
_WEBP_COLOURS = frozenset({b"VP8 ", b"VP8L"})
_WEBP_PICTURE = _WEBP_COLOURS | {b"ALPH"}
_AVIF_BOXES = frozenset({b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip"})


class Outline(Struct, frozen=True, kw_only=True):
    """A file as its container describes it."""

    #: Lower-case name: jpeg, png, gif, webp, avif, bmp, tiff, ico.
    format: str
    #: Pixels of the largest canvas it asks for; 0: only the decoder can tell.
    pixels: int = 0
    #: Pictures in it; 0: only the decoder can tell.
    frames: int = 1
    #: Bytes that a decoder must keep of it at a time, besides what it gives; 0: little.
    kept: int = 0
    #: The bytes that a decoder needs.
    picture: bytes


def outline(data: bytes) -> Outline:
    """Follow the container of ``data`` from the first byte to the last one that belongs to it.

    Raises:
        InvalidImage: ``not-an-image``, ``unsupported-format``, ``truncated``, ``corrupt`` or
            ``decompression-limit``.
    """
    name = sniff(data)
    try:
        return _WALKERS[name](data)
    except (IndexError, OverflowError, struct.error) as error:
        raise InvalidImage("truncated", f"{name} ends in the middle of a part") from error


def sniff(data: bytes) -> str:
    """The type by the first bytes, whatever name or header came with them.

    Raises:
        InvalidImage: ``not-an-image`` or ``unsupported-format``.
    """
    for magic, name in _MAGIC.items():
        if data.startswith(magic):
            return name
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in HEADER_SIZES:
        return "bmp"
    if data.startswith(_CURSOR_MAGIC) and is_cursor(data):
        return "ico"
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
    return InvalidImage("decompression-limit", f"{name} of more than {MAX_PARTS} parts")


def _jpeg(data: bytes) -> Outline:
    """What comes before the first scan says the size; from there on all of it is picture."""
    kept, scans, pixels, samples, is_whole = [data[:2]], 0, 0, 0, False
    index, end = None, 2
    for code, start, end in jpeg_segments(data):
        if code in JPEG_FRAMES:
            width, height = jpeg_size(code, data, start)
            pixels = max(pixels, width * height)
            samples = max(samples, _jpeg_samples(data, start, width * height))
            is_whole |= code in _JPEG_PROGRESSIVE
        scans += code == JPEG_SCAN
        if scans > _MAX_SCANS or (scans > 1 and scans * pixels > _MAX_SCANNED):
            raise InvalidImage("decompression-limit", f"JPEG of {scans} scans over {pixels} pixels")
        if code == JPEG_SCAN and scans == 1:
            kept.append(data[start:])
        elif not scans and code not in _JPEG_METADATA:
            kept.append(data[start:end])
        elif code == _JPEG_INDEX and data.startswith(MPF_MAGIC, start + 4):
            index = index or (start + 4 + len(MPF_MAGIC), end)
    if index:  # behind the last scan's header nothing but the end marker looks like one
        check_pictures(data, *index, first_end=data.index(b"\xff\xd9", end) + 2)
    memory = 2 * samples if is_whole or scans > 1 else 0  # each scan goes over all of it again
    return Outline(format="jpeg", pixels=pixels, kept=memory, picture=b"".join(kept))


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the end marker, over the entropy-coded bytes in between."""
    at, in_header = 2, True
    for _ in range(MAX_PARTS):
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
        in_header = in_header and code != JPEG_SCAN
    raise _too_many("JPEG")


def jpeg_size(code: int, data: bytes, start: int) -> tuple[int, int]:
    """Width and height by the frame header whose marker is at ``start``.

    Raises:
        InvalidImage: ``unsupported-format``, for processes and depths that browsers don't show.
        struct.error: it is not all there.
    """
    precision, height, width = struct.unpack_from(">BHH", data, start + 4)
    if code in _JPEG_OTHER_FRAMES or precision != 8:
        raise InvalidImage("unsupported-format", f"JPEG process {code:02X} with {precision} bits")
    return width, height


def _jpeg_samples(data: bytes, start: int, pixels: int) -> int:
    """Samples of all components, each with as many as its factors say."""
    number = data[start + 9]
    factors = [data[start + 11 + 3 * index] for index in range(number)]
    areas = [(factor >> 4) * (factor & 15) for factor in factors]
    return pixels * sum(areas) // max([1, *areas])


def _png(data: bytes) -> Outline:
    """Chunk by chunk to IEND; the header, which is the first one, says the size."""
    picture, frames = strip_png(data, MAX_PARTS)
    width, height = struct.unpack_from(">II", picture, 16)
    return Outline(format="png", pixels=width * height, frames=frames, picture=picture)


def _gif(data: bytes) -> Outline:
    """Block by block to the trailer; the decoder gets no block before the first frame but what controls that."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    head, control, first = data[: 13 + gif_palette(flags)], b"", len(data)
    frames, pixels = 0, width * height
    for kind, start in gif_blocks(data):
        if kind == GIF_IMAGE:
            left, top, inner_width, inner_height = struct.unpack_from("<4H", data, start + 1)
            pixels = max(pixels, max(width, left + inner_width) * max(height, top + inner_height))
            first = min(first, start)
            frames += 1
        elif not frames and data.startswith(_GIF_CONTROL, start):
            control = data[start : start + 7] + b"\0"
    return Outline(format="gif", pixels=pixels, frames=max(1, frames), picture=head + control + data[first:])


def gif_blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Kind and start of each block up to the trailer; whatever else comes between two ends a GIF, as for browsers.

    Each is told of before its end is looked for.

    Raises:
        InvalidImage: ``decompression-limit``.
        IndexError: the trailer is not there.
    """
    at, left = 13 + gif_palette(data[10]), _MAX_SUB_BLOCKS
    for _ in range(MAX_PARTS):
        kind, start = data[at], at
        if kind not in (GIF_EXTENSION, GIF_IMAGE):
            return
        at += 2 if kind == GIF_EXTENSION else 11 + gif_palette(data[at + 9])
        yield kind, start
        while size := data[at]:
            at += size + 1
            left -= 1
            if not left:
                raise InvalidImage("decompression-limit", f"GIF of more than {_MAX_SUB_BLOCKS} sub-blocks")
        at += 1
    raise _too_many("GIF")


def gif_palette(flags: int) -> int:
    """Bytes of the colour table that ``flags`` announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> Outline:
    """RIFF chunk by chunk; the canvas is in the first (VP8X, VP8L or VP8)."""
    stop = 8 + struct.unpack_from("<I", data, 4)[0]
    if stop > len(data):
        raise InvalidImage("truncated", f"WebP of {stop} bytes, {len(data)} are there")
    frames = sum(kind == b"ANMF" for kind, _, _ in _webp_chunks(data, 12, stop))
    width, height = webp_size(data)
    frames = max(1, frames) if is_webp_animation(data) else 1
    return Outline(format="webp", pixels=width * height, frames=frames, picture=data[:stop])


def _webp_chunks(data: bytes, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, beginning and end of each chunk, with header and padding; less than a header at the end is none."""
    for _ in range(MAX_PARTS):
        if at + 8 > stop:
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        if end > stop:
            raise InvalidImage("truncated", f"WebP ends in its chunk {kind!r}")
        yield kind, at, end
        at = end
    raise _too_many("WebP")


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas, by the first 30 bytes.

    Raises:
        InvalidImage: ``corrupt``.
        struct.error: there are less.
    """
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise InvalidImage("corrupt", f"WebP begins with chunk {kind!r}")


def is_webp_animation(data: bytes) -> bool:
    """Whether its first chunk says so; where it does not, frames are ignored."""
    return data[12:16] == b"VP8X" and bool(data[20] & _WEBP_ANIMATED)


def webp_frames(data: bytes) -> Iterator[tuple[range, int, int]]:
    """Where a still, or each frame of an animation, has the chunks that a decoder needs; its width and height.

    Raises:
        InvalidImage: ``corrupt``: no frame, one without a picture or outside the canvas; ``truncated``.
        struct.error: a chunk lies outside the file.
    """
    width, height = webp_size(data)
    if not is_webp_animation(data):
        yield _webp_picture(data, 12, len(data)), width, height
        return
    frames = 0
    for kind, at, end in _webp_chunks(data, 12, len(data)):
        if kind == b"ANMF":
            left, top, right, bottom = (int.from_bytes(data[n : n + 3], "little") for n in range(at + 8, at + 20, 3))
            if 2 * left + right >= width or 2 * top + bottom >= height:
                raise InvalidImage("corrupt", "WebP with a frame outside its canvas")
            yield _webp_picture(data, at + 24, end), right + 1, bottom + 1
            frames += 1
    if not frames:
        raise InvalidImage("corrupt", "WebP animation without a frame")


def _webp_picture(data: bytes, at: int, stop: int) -> range:
    """From the alpha, if there is any, to the end of the colours; a decoder that lacks some would read on behind it."""
    start = stop
    for kind, begin, end in _webp_chunks(data, at, stop):
        if kind in _WEBP_PICTURE:
            start = min(start, begin)
        if kind in _WEBP_COLOURS:
            return range(start, end)
    raise InvalidImage("corrupt", "WebP without a picture")


def _avif(data: bytes) -> Outline:
    """Top-level box by box; bytes after the last one we know are a tail that readers ignore."""
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
            raise InvalidImage("truncated", f"AVIF ends in its box {kind!r}")
    raise _too_many("AVIF")


def _bmp(data: bytes) -> Outline:
    return Outline(format="bmp", pixels=check_bmp(data), picture=data)


def _tiff(data: bytes) -> Outline:
    frames = count_pages(data, MAX_PARTS)
    width, height = page_size(data)
    return Outline(format="tiff", pixels=width * height, frames=frames, kept=piece_bytes(data), picture=data)


def _ico(data: bytes) -> Outline:
    pixels, shown = shown_image(data)
    return Outline(format="ico", pixels=pixels, picture=shown)


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
