"""The common parts of all formats: the header and the structure of an image, as plain data."""

from msgspec import Struct

from crawler.errors import InvalidImage

#: Largest number of parts of a file: segments, chunks, blocks, boxes. More of them only cost time.
MAX_PARTS = 65_536
#: Formats whose file name extension differs from their name.
_EXTENSIONS = {"jpeg": "jpg"}


class ImageHeader(Struct, frozen=True, kw_only=True):
    """The properties of an image that may be incomplete."""

    #: Lower-case name: jpeg, png, gif, webp, avif, bmp, tiff, ico.
    format: str
    #: Pixels; 0: unknown, or not yet known.
    width: int = 0
    height: int = 0
    #: Whether it has several frames; None: not yet known.
    animated: bool | None = False


class Outline(Struct, frozen=True, kw_only=True):
    """The structure of a file, as its container describes it."""

    #: Lower-case name: jpeg, png, gif, webp, avif, bmp, tiff, ico.
    format: str
    #: Pixels of the largest canvas in it; 0: only the decoder can determine it.
    pixels: int = 0
    #: Number of images in it; 0: only the decoder can determine it.
    frames: int = 1
    #: Bytes that a decoder must keep at once, in addition to its output; 0: few.
    kept: int = 0
    #: The bytes that a decoder needs.
    picture: bytes
    #: Width, height and number of components of a JPEG with scans and one frame header.
    frame: tuple[int, int, int] | None = None


def too_many(name: str) -> InvalidImage:
    """Return the error of a file with more than `MAX_PARTS` parts."""
    return InvalidImage("decompression-limit", f"{name} with more than {MAX_PARTS} parts")


def extension_of(image_format: str) -> str:
    """Return the file name extension of a format, without a dot."""
    return _EXTENSIONS.get(image_format, image_format)
