"""The user's filters for images, applied to headers. Pure."""

from typing import Literal

from msgspec import Struct

from crawler.download.formats.base import ImageHeader, extension_of
from crawler.download.verify import ImageInfo, check_canvas
from crawler.errors import RequestFailed

#: How animations are treated.
Animations = Literal["keep", "skip", "only"]


class ImageFilter(Struct, frozen=True, kw_only=True):
    """The filters of a downloader."""

    #: Formats, as in `ImageInfo.format` or ``extension``; None: all.
    types: frozenset[str] | None = None
    #: Smallest length of the shorter side in pixels.
    min_size: int = 0
    #: Largest ratio of the longer side to the shorter; None: any.
    max_aspect: float | None = None
    animated: Animations = "keep"
    #: Largest canvas in pixels.
    max_pixels: int

    def check(self, header: ImageHeader) -> bool:
        """Return whether the header contains all that the filters need. Raise if it is enough to refuse the image.

        Raises:
            RequestFailed: ``filtered``, ``too-small`` or ``pixels-limit``.
        """
        names = {header.format, extension_of(header.format)}
        if self.types is not None and not self.types & names:
            raise RequestFailed("filtered", f"type {header.format}")
        if header.animated is not None and self.animated == ("skip" if header.animated else "only"):
            raise RequestFailed("filtered", "an animation" if header.animated else "not an animation")
        width, height = header.width, header.height
        if not (width and height):
            return False
        check_canvas(width * height, self.max_pixels)
        if min(width, height) < self.min_size:
            raise RequestFailed("too-small", f"{width}x{height} pixels")
        if self.max_aspect is not None and max(width, height) > self.max_aspect * min(width, height):
            detail = f"{width}x{height} pixels: the longer side is over {self.max_aspect:g} times the shorter one"
            raise RequestFailed("filtered", detail)
        return header.animated is not None or self.animated == "keep"


def as_header(info: ImageInfo) -> ImageHeader:
    """Return the header of a complete image. The pages of a TIFF are not an animation."""
    animated = info.frames > 1 and info.format != "tiff"
    return ImageHeader(format=info.format, width=info.width, height=info.height, animated=animated)
