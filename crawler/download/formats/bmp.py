"""The structure of a BMP, and of the bitmaps in icons and cursors.

Sources: BITMAPFILEHEADER, BITMAPINFOHEADER and "Bitmap compression" in the Windows GDI reference.
"""

import re
import struct
from functools import cache

from crawler.download.formats.base import ImageHeader, Outline
from crawler.errors import InvalidImage

HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
ICON_HEADER_SIZES = HEADER_SIZES - {12, 16}
#: Headers up to this size have no compression field; their pixels are uncompressed.
_SHORT_HEADER = 16
#: Compression methods of uncompressed pixels: plain, and with colour masks.
_PLAIN = frozenset({0, 3, 6})
#: Compression methods by run length (RLE8, RLE4) → bits per pixel.
_RUN_LENGTH = {1: 8, 2: 4}
#: Codes after a zero byte in compressed pixels; code 2 is a jump.
_END_OF_ROW, _END = 0, 1
#: Largest number of rows and jumps of compressed pixels; browsers show no BMP with more rows.
_MAX_JUMPS = 65_536


def read_header(data: bytes) -> ImageHeader:
    """Return the header, from the first 26 bytes of a file.

    Raises:
        InvalidImage: ``corrupt``: the size is invalid.
        struct.error: there are fewer bytes.
    """
    width, height = struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18)
    if width <= 0 or not height:
        raise InvalidImage("corrupt", f"BMP of {width}x{height} pixels")
    return ImageHeader(format="bmp", width=width, height=abs(height))


def read_outline(data: bytes) -> Outline:
    """Return the structure of a complete file; check that all its pixels are present.

    Raises:
        InvalidImage: ``truncated``, ``corrupt`` or ``decompression-limit``.
        IndexError, struct.error: the file ends within its headers or its compressed pixels.
    """
    header = read_header(data)
    width, height = header.width, header.height
    start = struct.unpack_from("<I", data, 10)[0]
    bits = struct.unpack_from("<H", data, 24 if data[14] == 12 else 28)[0]
    packing = bmp_packing(data, 14)
    if packing in _PLAIN and start + (width * bits + 31) // 32 * 4 * height > len(data) + 3:  # the last padding
        raise InvalidImage("truncated", f"BMP of {width}x{height} pixels in {len(data)} bytes")
    if packing in _RUN_LENGTH:
        if bits != _RUN_LENGTH[packing]:
            raise InvalidImage("corrupt", f"BMP with run-length compression of {bits} bits")
        _follow_runs(data, start, height, bits)
    return Outline(format="bmp", pixels=width * height, picture=data)


def bmp_packing(data: bytes, at: int) -> int:
    """Return the compression method in the header at ``at``. Raise `struct.error` if the header is incomplete."""
    is_short = struct.unpack_from("<I", data, at)[0] <= _SHORT_HEADER
    return 0 if is_short else int(struct.unpack_from("<I", data, at + 16)[0])


def is_run_length(packing: int) -> bool:
    """Return whether a method is RLE8 or RLE4, which Pillow decodes in Python, at up to 0.5 s per megabyte."""
    return packing in _RUN_LENGTH


def _follow_runs(data: bytes, at: int, height: int, bits: int) -> None:
    """Follow the compressed pixels from escape code to escape code, up to the end code or the last row.

    Missing pixels have the first colour, and pixels beyond the end of a row are ignored, as in browsers.
    """
    runs, row = _runs(16 // bits), 0
    for _ in range(_MAX_JUMPS):
        match = runs.match(data, at)
        if match is None:
            raise InvalidImage("truncated", "BMP ends within its compressed pixels")
        at, code = match.end(), data[match.end() - 1]
        if code == _END:
            return
        if code == _END_OF_ROW:
            row += 1
        else:
            row, at = row + data[at + 1], at + 2
        if row >= height:
            return
    raise InvalidImage("decompression-limit", f"BMP with more than {_MAX_JUMPS} rows and jumps")


@cache
def _runs(pixels: int) -> re.Pattern[bytes]:
    """Return the pattern of all runs up to the next escape code, where a word has ``pixels`` pixels.

    Literal runs are padded to words. One match replaces a loop over millions of runs; the pattern never backtracks.
    """
    lengths = ((max(3, last - pixels + 1), min(last, 255), last // pixels * 2) for last in range(4, 257, pixels))
    literal = "|".join(rf"[\x{least:02x}-\x{most:02x}].{{{size}}}" for least, most, size in lengths)
    return re.compile(rf"(?s)(?:[^\0].|\0(?:{literal}))*+\0[\0-\2]".encode("ascii"))
