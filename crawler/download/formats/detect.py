"""The type of an image by its first bytes, and the reader of each format. Pure.

A decoder accepts missing data after the pixels; a file is complete only if its container is. Each reader follows one
container to its last byte, in linear time and with a limit on its parts. It leaves out the metadata (Exif, colour
profiles, texts), because verification does not need it, and each of its parsers would be one more attack surface for
hostile bytes.
"""

import struct
from types import ModuleType

from crawler.download.formats import avif, bmp, gif, ico, jpeg, png, tiff, webp
from crawler.download.formats.base import ImageHeader, Outline
from crawler.errors import InvalidImage

_MAGIC = {
    b"\xff\xd8\xff": "jpeg",
    png.PNG_MAGIC: "png",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"\0\0\1\0": "ico",
}
#: A cursor is an icon with a hot spot, and both are image/x-icon (WHATWG MIME Sniffing); a TGA begins like it, too.
_CURSOR_MAGIC = b"\0\0\2\0"
#: Images that browsers don't show, some of them also not Pillow (big-endian BigTIFF). `_is_svg` refuses programs (SVG).
_FOREIGN_MAGIC = (
    *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\0\0\0\x0cJXL ", b"\xff\x0a"),
    *(_CURSOR_MAGIC, b"MM\0+", b"8BPS", b"qoif", b"DDS ", b"icns", b"v/1\1"),
)
#: Bytes with which a type is certain, and with which it is certain that the data is not an image.
_ENOUGH, _ENOUGH_TO_REFUSE = 32, 4_096
#: The module of each format: `read_header` for the beginning of a file, `read_outline` for a complete one.
_FORMATS: dict[str, ModuleType] = {
    "jpeg": jpeg,
    "png": png,
    "gif": gif,
    "webp": webp,
    "avif": avif,
    "bmp": bmp,
    "tiff": tiff,
    "ico": ico,
}


def read_header(data: bytes) -> ImageHeader | None:
    """Return the header of ``data``, the beginning of a file or all of it, or None if the type is not yet known.

    Raises:
        InvalidImage: ``not-an-image``, ``unsupported-format`` or ``corrupt``; no further bytes can change this.
    """
    try:
        name = sniff(data)
    except InvalidImage:
        if len(data) < _ENOUGH_TO_REFUSE or (data[4:8] == b"ftyp" and int.from_bytes(data[:4], "big") > len(data)):
            return None  # further bytes may decide
        raise
    if len(data) < _ENOUGH:
        return None
    try:
        header: ImageHeader = _FORMATS[name].read_header(data)
        return header
    except (IndexError, KeyError, OverflowError, struct.error):  # KeyError: a missing box
        return ImageHeader(format=name, animated=None)
    except InvalidImage as error:
        if error.reason == "truncated":
            return ImageHeader(format=name, animated=None)
        raise


def outline(data: bytes) -> Outline:
    """Follow the container of ``data`` from its first byte to its last, and return its structure.

    Raises:
        InvalidImage: ``not-an-image``, ``unsupported-format``, ``truncated``, ``corrupt`` or
            ``decompression-limit``.
    """
    name = sniff(data)
    try:
        structure: Outline = _FORMATS[name].read_outline(data)
        return structure
    except (IndexError, OverflowError, struct.error) as error:
        raise InvalidImage("truncated", f"{name} ends in the middle of a part") from error


def sniff(data: bytes) -> str:
    """Return the type by the first bytes alone, without a file name or an HTTP header.

    Raises:
        InvalidImage: ``not-an-image`` or ``unsupported-format``.
    """
    for magic, name in _MAGIC.items():
        if data.startswith(magic):
            return name
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in bmp.HEADER_SIZES:
        return "bmp"
    if data.startswith(_CURSOR_MAGIC) and ico.is_cursor(data):
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
