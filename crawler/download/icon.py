"""The structure of an icon or a cursor: a directory, and the PNGs and bitmaps it points to.

Sources: GRPICONDIR and CURSORDIR in the Windows reference; WHATWG MIME Sniffing, section 6.1.
"""

import struct

from crawler.download.bitmap import ICON_HEADER_SIZES, bmp_packing, is_run_length
from crawler.download.png import PNG_MAGIC
from crawler.errors import InvalidImage

_MAGIC = b"\0\0\1\0"
#: Width, height (0: 256), colours, zero, planes, bits of a pixel, bytes, offset; a cursor has its hot spot instead of
#: planes and bits.
_ENTRY = struct.Struct("<BBBBHHII")
_DIRECTORY = 6  # bytes before its first entry
_PNG_BITS = 32


def is_cursor(data: bytes) -> bool:
    """Whether ``data``, which begins like a cursor and like a TGA, has a directory and its first picture behind it."""
    number, offset = int.from_bytes(data[4:6], "little"), int.from_bytes(data[18:22], "little")
    return number > 0 and data[9:10] == b"\0" and offset >= _DIRECTORY + _ENTRY.size * number


def shown_image(data: bytes) -> tuple[int, bytes]:
    """Pixels of the picture that is shown, and an icon of it alone; all others must be there.

    Shown is the largest by the directory, and the deepest of those; entries that lead to no picture are passed over,
    as browsers do. How deep it is the directory may not know; it is written anew.

    Raises:
        InvalidImage: ``truncated``, ``corrupt`` or ``unsupported-format``.
        struct.error: it ends in its directory.
    """
    best = 0, 0, 0, 0, 0
    for index in range(struct.unpack_from("<H", data, 4)[0]):
        width, height, _, _, _, _, length, offset = _ENTRY.unpack_from(data, _DIRECTORY + _ENTRY.size * index)
        if offset + length > len(data):
            raise InvalidImage("truncated", f"ICO ends in its image {index + 1}")
        pixels, bits = _measure(data[offset : offset + 24])
        if pixels:
            best = max(best, ((width or 256) * (height or 256), bits, pixels, offset, length))
    _, bits, pixels, offset, length = best
    if not pixels:
        raise InvalidImage("corrupt", "ICO without a picture")
    if not data.startswith(PNG_MAGIC, offset) and is_run_length(bmp_packing(data, offset)):
        raise InvalidImage("unsupported-format", "ICO packed by run length")
    directory = _MAGIC + b"\1\0" + _ENTRY.pack(0, 0, 0, 0, 1, bits, length, _DIRECTORY + _ENTRY.size)
    return pixels, directory + data[offset:]


def _measure(head: bytes) -> tuple[int, int]:
    """Pixels and bits of a pixel of what begins with ``head``; none where that is no picture."""
    if head.startswith(PNG_MAGIC) and len(head) == 24:
        width, height = struct.unpack_from(">II", head, 16)
        return width * height, _PNG_BITS
    size, width, height, _, bits = struct.unpack("<IiiHH", head[:16].ljust(16, b"\0"))
    return (max(width, 0) * abs(height), bits) if size in ICON_HEADER_SIZES else (0, 0)
