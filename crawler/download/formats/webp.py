"""Header and structure of a WebP (WebP container specification)."""

import struct
from collections.abc import Iterator

from crawler.download.formats.base import MAX_PARTS, ImageHeader, Outline, too_many
from crawler.errors import InvalidImage

_WEBP_ANIMATED = 0x02
_WEBP_COLOURS = frozenset({b"VP8 ", b"VP8L"})
_WEBP_PICTURE = _WEBP_COLOURS | {b"ALPH"}


def read_header(data: bytes) -> ImageHeader:
    """Return the header, from the beginning of a file."""
    width, height = _webp_size(data)
    return ImageHeader(format="webp", width=width, height=height, animated=_is_webp_animation(data))


def read_outline(data: bytes) -> Outline:
    """Follow the RIFF chunks; the canvas is in the first (VP8X, VP8L or VP8)."""
    stop = 8 + struct.unpack_from("<I", data, 4)[0]
    if stop > len(data):
        raise InvalidImage("truncated", f"WebP of {stop} bytes, {len(data)} present")
    frames = sum(kind == b"ANMF" for kind, _, _ in _webp_chunks(data, 12, stop))
    width, height = _webp_size(data)
    frames = max(1, frames) if _is_webp_animation(data) else 1
    return Outline(format="webp", pixels=width * height, frames=frames, picture=data[:stop])


def _webp_chunks(data: bytes, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk, with header and padding; ignore less than a header at the end."""
    for _ in range(MAX_PARTS):
        if at + 8 > stop:
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        if end > stop:
            raise InvalidImage("truncated", f"WebP ends within its chunk {kind!r}")
        yield kind, at, end
        at = end
    raise too_many("WebP")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the canvas, from the first 30 bytes.

    Raises:
        InvalidImage: ``corrupt``.
        struct.error: there are fewer bytes.
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


def _is_webp_animation(data: bytes) -> bool:
    """Return whether the first chunk declares an animation; otherwise, frames are ignored."""
    return data[12:16] == b"VP8X" and bool(data[20] & _WEBP_ANIMATED)


def webp_frames(data: bytes) -> Iterator[tuple[range, int, int]]:
    """Yield the range of the chunks that a decoder needs, width and height, of a still or of each frame.

    Raises:
        InvalidImage: ``corrupt``: no frame, a frame without an image or not inside the canvas; ``truncated``.
        struct.error: a chunk is outside the file.
    """
    width, height = _webp_size(data)
    if not _is_webp_animation(data):
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
    """Return the range from the alpha chunk, if any, to the end of the colour chunk.

    With more bytes after it, a decoder that lacks data would continue with those.
    """
    start = stop
    for kind, begin, end in _webp_chunks(data, at, stop):
        if kind in _WEBP_PICTURE:
            start = min(start, begin)
        if kind in _WEBP_COLOURS:
            return range(start, end)
    raise InvalidImage("corrupt", "WebP without an image")
