"""Header and structure of a GIF (GIF89a specification)."""

import struct
from collections.abc import Iterator

from crawler.download.formats.base import MAX_PARTS, ImageHeader, Outline, too_many
from crawler.errors import InvalidImage

GIF_EXTENSION, GIF_IMAGE = b"!,"
_GIF_CONTROL = b"!\xf9\4"
#: Largest number of sub-blocks in all blocks of a GIF; with the usual 255 bytes each that is 267 MB.
_MAX_SUB_BLOCKS = 2**20


def read_header(data: bytes) -> ImageHeader:
    """Read a GIF: the size is that of the screen or of a larger first frame; a second frame may come much later."""
    width, height = struct.unpack_from("<HH", data, 6)
    frames = 0
    try:
        for kind, start in _gif_blocks(data):
            if kind == GIF_IMAGE and frames:
                return ImageHeader(format="gif", width=width, height=height, animated=True)
            if kind == GIF_IMAGE:
                left, top, inner_width, inner_height = struct.unpack_from("<4H", data, start + 1)
                width, height = max(width, left + inner_width), max(height, top + inner_height)
                frames = 1
        return ImageHeader(format="gif", width=width, height=height)
    except (IndexError, struct.error):
        if not frames:
            return ImageHeader(format="gif", animated=None)
    return ImageHeader(format="gif", width=width, height=height, animated=None)


def read_outline(data: bytes) -> Outline:
    """Follow the blocks to the trailer. Before the first frame, the decoder gets only its control block."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    head, control, first = data[: 13 + _gif_palette(flags)], b"", len(data)
    frames, pixels = 0, width * height
    for kind, start in _gif_blocks(data):
        if kind == GIF_IMAGE:
            left, top, inner_width, inner_height = struct.unpack_from("<4H", data, start + 1)
            pixels = max(pixels, max(width, left + inner_width) * max(height, top + inner_height))
            first = min(first, start)
            frames += 1
        elif not frames and data.startswith(_GIF_CONTROL, start):
            control = data[start : start + 7] + b"\0"
    return Outline(format="gif", pixels=pixels, frames=max(1, frames), picture=head + control + data[first:])


def _gif_blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield kind and start of each block up to the trailer, or up to any other byte, which ends a GIF in browsers.

    Each block is yielded before its end is searched.

    Raises:
        InvalidImage: ``decompression-limit``.
        IndexError: the trailer is missing.
    """
    at, left = 13 + _gif_palette(data[10]), _MAX_SUB_BLOCKS
    for _ in range(MAX_PARTS):
        kind, start = data[at], at
        if kind not in (GIF_EXTENSION, GIF_IMAGE):
            return
        at += 2 if kind == GIF_EXTENSION else 11 + _gif_palette(data[at + 9])
        yield kind, start
        while size := data[at]:
            at += size + 1
            left -= 1
            if not left:
                raise InvalidImage("decompression-limit", f"GIF with more than {_MAX_SUB_BLOCKS} sub-blocks")
        at += 1
    raise too_many("GIF")


def _gif_palette(flags: int) -> int:
    """Return the bytes of the colour table that ``flags`` announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
