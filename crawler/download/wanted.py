"""Which pictures are wanted, as far as their headers tell. Pure."""

from typing import Literal

from msgspec import Struct

from crawler.download.dedup import extension_of
from crawler.download.header import Header
from crawler.download.verify import ImageInfo, check_canvas
from crawler.errors import RequestFailed

#: What is done about animations.
Animations = Literal["keep", "skip", "only"]


class Wanted(Struct, frozen=True, kw_only=True):
    """The filters of a downloader."""

    #: Formats, as `ImageInfo.format` or ``extension`` names them; None: all.
    types: frozenset[str] | None = None
    #: Pixels that the shorter side must have.
    min_size: int = 0
    #: How many times as long as the shorter side the longer one may be; None: any.
    max_aspect: float | None = None
    animated: Animations = "keep"
    #: Largest canvas.
    max_pixels: int

    def check(self, header: Header) -> bool:
        """Whether the header has told all that matters; raises where it has told enough to refuse.

        Raises:
            RequestFailed: ``filtered``, ``too-small`` or ``pixels-limit``.
        """
        names = {header.format, extension_of(header.format)}
        if self.types is not None and not self.types & names:
            raise RequestFailed("filtered", f"type {header.format}")
        if header.animated is not None and self.animated == ("skip" if header.animated else "only"):
            raise RequestFailed("filtered", "an animation" if header.animated else "no animation")
        width, height = header.width, header.height
        if not (width and height):
            return False
        check_canvas(width * height, self.max_pixels)
        if min(width, height) < self.min_size:
            raise RequestFailed("too-small", f"{width}x{height} pixels")
        if self.max_aspect is not None and max(width, height) > self.max_aspect * min(width, height):
            raise RequestFailed("filtered", f"{width}x{height} pixels, more than {self.max_aspect:g} to 1")
        return header.animated is not None or self.animated == "keep"


def as_header(info: ImageInfo) -> Header:
    """What a header would say of a picture that is whole. The pages of a TIFF are no animation."""
    animated = info.frames > 1 and info.format != "tiff"
    return Header(format=info.format, width=info.width, height=info.height, animated=animated)
