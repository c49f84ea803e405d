"""The structure of an icon or a cursor: a directory, and the PNGs and bitmaps to which it points.

Sources: GRPICONDIR and CURSORDIR in the Windows reference; WHATWG MIME Sniffing, section 6.1.
"""

import struct

from crawler.download.formats.base import ImageHeader, Outline
from crawler.download.formats.bmp import ICON_HEADER_SIZES, bmp_packing, is_run_length
from crawler.download.formats.png import PNG_MAGIC
from crawler.errors import InvalidImage

_MAGIC = b"\0\0\1\0"
#: Width, height (0: 256), colours, zero, planes, bits per pixel, bytes, offset; a cursor has its hot spot in place of
#: planes and bits.
_ENTRY = struct.Struct("<BBBBHHII")
_DIRECTORY = 6  # bytes before its first entry
_PNG_BITS = 32


def is_cursor(data: bytes) -> bool:
    """Return whether ``data``, which begins like a cursor or a TGA, has a directory and its first image after it."""
    number, offset = int.from_bytes(data[4:6], "little"), int.from_bytes(data[18:22], "little")
    return number > 0 and data[9:10] == b"\0" and offset >= _DIRECTORY + _ENTRY.size * number


def read_header(data: bytes) -> ImageHeader:
    """Return no size: an icon's directory does not determine the size of its images, and the file is small."""
    return ImageHeader(format="ico")


def read_outline(data: bytes) -> Outline:
    """Return the structure of an icon with only the image that browsers show; check that all images are present.

    Browsers show the largest image by the directory, and of several the one with most bits per pixel. Like browsers,
    this skips entries that do not point to an image. The directory of the new icon has the real bits per pixel, which
    the original may lack.

    Raises:
        InvalidImage: ``truncated``, ``corrupt`` or ``unsupported-format``.
        struct.error: the file ends within its directory.
    """
    best = 0, 0, 0, 0, 0
    for index in range(struct.unpack_from("<H", data, 4)[0]):
        width, height, _, _, _, _, length, offset = _ENTRY.unpack_from(data, _DIRECTORY + _ENTRY.size * index)
        if offset + length > len(data):
            raise InvalidImage("truncated", f"ICO ends within image {index + 1}")
        pixels, bits = _measure(data[offset : offset + 24])
        if pixels:
            best = max(best, ((width or 256) * (height or 256), bits, pixels, offset, length))
    _, bits, pixels, offset, length = best
    if not pixels:
        raise InvalidImage("corrupt", "ICO without an image")
    if not data.startswith(PNG_MAGIC, offset) and is_run_length(bmp_packing(data, offset)):
        raise InvalidImage("unsupported-format", "ICO with run-length compression")
    directory = _MAGIC + b"\1\0" + _ENTRY.pack(0, 0, 0, 0, 1, bits, length, _DIRECTORY + _ENTRY.size)
    return Outline(format="ico", pixels=pixels, picture=directory + data[offset:])


def _measure(head: bytes) -> tuple[int, int]:
    """Return pixels and bits per pixel of the image that begins with ``head``, or zeros if it is not an image."""
    if head.startswith(PNG_MAGIC) and len(head) == 24:
        width, height = struct.unpack_from(">II", head, 16)
        return width * height, _PNG_BITS
    size, width, height, _, bits = struct.unpack("<IiiHH", head[:16].ljust(16, b"\0"))
    return (max(width, 0) * abs(height), bits) if size in ICON_HEADER_SIZES else (0, 0)
