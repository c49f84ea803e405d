"""The structure of a BMP, and of the bitmaps that icons and cursors hold.

Sources: BITMAPFILEHEADER, BITMAPINFOHEADER and "Bitmap compression" in the Windows GDI reference.
"""

import re
import struct
from functools import cache

from crawler.errors import InvalidImage

HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
ICON_HEADER_SIZES = HEADER_SIZES - {12, 16}
#: Up to this size a header ends before it says how the pixels are packed: they are not.
_SHORT_HEADER = 16
#: Ways of packing that are none: plain, and with masks of colours.
_PLAIN = frozenset({0, 3, 6})
#: Ways of packing by run length (RLE8, RLE4) → bits of a pixel.
_RUN_LENGTH = {1: 8, 2: 4}
#: What two zero bytes of packed pixels may begin with, and what it means.
_END_OF_ROW, _END = 0, 1
#: Rows and jumps of packed pixels; browsers show no BMP of more rows.
_MAX_JUMPS = 65_536


def check_bmp(data: bytes) -> int:
    """Number of pixels of a BMP, after a look whether all of them are there.

    Raises:
        InvalidImage: ``truncated``, ``corrupt`` or ``decompression-limit``.
        IndexError, struct.error: it ends within its headers or its packed pixels.
    """
    width, height = bmp_size(data)
    start, header = struct.unpack_from("<I", data, 10)[0], data[14]
    bits = struct.unpack_from("<H", data, 24 if header == 12 else 28)[0]
    packing = bmp_packing(data, 14)
    if packing in _PLAIN and start + (width * bits + 31) // 32 * 4 * height > len(data) + 3:  # the last padding
        raise InvalidImage("truncated", f"BMP of {width}x{height} pixels in {len(data)} bytes")
    if packing in _RUN_LENGTH:
        if bits != _RUN_LENGTH[packing]:
            raise InvalidImage("corrupt", f"BMP packed by run length with {bits} bits")
        _follow_runs(data, start, height, bits)
    return width * height


def bmp_size(data: bytes) -> tuple[int, int]:
    """Width and height, by the first 26 bytes.

    Raises:
        InvalidImage: ``corrupt``: there is no such size.
        struct.error: there are less.
    """
    width, height = struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18)
    if width <= 0 or not height:
        raise InvalidImage("corrupt", f"BMP of {width}x{height} pixels")
    return width, abs(height)


def bmp_packing(data: bytes, at: int) -> int:
    """How the pixels of the header at ``at`` are packed; raises `struct.error` where it is not all there."""
    is_short = struct.unpack_from("<I", data, at)[0] <= _SHORT_HEADER
    return 0 if is_short else int(struct.unpack_from("<I", data, at + 16)[0])


def is_run_length(packing: int) -> bool:
    """Whether that is RLE8 or RLE4, which Pillow unpacks in Python, at up to half a second for each megabyte."""
    return packing in _RUN_LENGTH


def _follow_runs(data: bytes, at: int, height: int, bits: int) -> None:
    """From one end of a row, or jump, to the next, up to the end code or the last row.

    Pixels that are left out have the first colour, those beyond a row's end are ignored, as in browsers.
    """
    runs, row = _runs(16 // bits), 0
    for _ in range(_MAX_JUMPS):
        found = runs.match(data, at)
        if found is None:
            raise InvalidImage("truncated", "BMP ends in its packed pixels")
        at, code = found.end(), data[found.end() - 1]
        if code == _END:
            return
        if code == _END_OF_ROW:
            row += 1
        else:
            row, at = row + data[at + 1], at + 2
        if row >= height:
            return
    raise InvalidImage("decompression-limit", f"BMP of more than {_MAX_JUMPS} rows and jumps")


@cache
def _runs(pixels: int) -> re.Pattern[bytes]:
    """All runs up to the next code, where a word has so many pixels; those of different ones are padded to words.

    One match instead of a loop over millions of runs; nothing in it is ever tried twice.
    """
    lengths = ((max(3, last - pixels + 1), min(last, 255), last // pixels * 2) for last in range(4, 257, pixels))
    literal = "|".join(rf"[\x{least:02x}-\x{most:02x}].{{{size}}}" for least, most, size in lengths)
    return re.compile(rf"(?s)(?:[^\0].|\0(?:{literal}))*+\0[\0-\2]".encode("ascii"))
