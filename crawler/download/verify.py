"""The verdict on the bytes of an image: which type, how large, and whether all of it decodes.

The type is what the bytes say, never a name or a header. The canvas is read before anything is decoded, so that a
small file can't ask for gigabytes; then the first picture is decoded whole, and the container is followed to its
end (`crawler.download.structure`), so that a file cut anywhere is seen.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO

from msgspec import Struct
from PIL import Image, UnidentifiedImageError

from crawler.download.structure import Outline, outline
from crawler.errors import InvalidImage

#: Default for the largest canvas, in pixels.
MAX_PIXELS = 50_000_000

_EXTENSIONS = {"jpeg": "jpg"}
#: Formats of which only Pillow reads the headers, about which it may issue warnings.
_OUTSPOKEN = frozenset({"avif", "ico", "tiff"})
#: Canvases above so many pixels are decoded one at a time: many threads with one each would fill the memory.
_LARGE = 8_000_000

_one_large = threading.Lock()
_warnings_lock = threading.Lock()


class ImageInfo(Struct, frozen=True, kw_only=True):
    """What is known of an image that proved to be whole."""

    #: Lower-case name: jpeg, png, gif, webp, avif, bmp, tiff, ico.
    format: str
    #: Pixels.
    width: int
    height: int
    #: Pictures of an animation; 1 for a still.
    frames: int
    #: File name extension that fits the bytes, without a dot.
    extension: str


def inspect_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Prove that ``data`` is one whole image of a type that browsers show.

    The first frame of an animation is decoded; of the others it is proven that they are there.

    Args:
        data: the bytes of the file.
        max_pixels: largest canvas; above Pillow's own limit (89 million) that one holds.

    Raises:
        InvalidImage: ``not-an-image``, ``unsupported-format``, ``truncated``, ``corrupt``, ``pixels-limit`` or
            ``decompression-limit``.
    """
    found = outline(data)
    limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    _check_canvas(found.pixels, limit)
    try:
        with _silence() if found.format in _OUTSPOKEN else nullcontext():
            return _decode(found, limit)
    except (InvalidImage, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InvalidImage("pixels-limit", str(error)) from error
    except UnidentifiedImageError as error:
        raise InvalidImage("corrupt", f"{found.format}: its header makes no sense") from error
    except Exception as error:  # hostile bytes make a decoder raise anything; each of it is a verdict
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise InvalidImage(reason, f"{found.format}: {type(error).__name__}: {error}"[:300]) from error


def _decode(found: Outline, limit: int) -> ImageInfo:
    with Image.open(BytesIO(found.picture), formats=[found.format.upper()]) as image:
        width, height = image.size
        _check_canvas(width * height, limit)
        frames = found.frames or getattr(image, "n_frames", 1)
        if found.format == "jpeg":
            image.draft("L", (1, 1))  # an eighth of the size: every byte is still entropy-decoded
        with _one_large if width * height > _LARGE else nullcontext():
            image.load()
        if found.format == "ico":
            width, height = image.size  # the directory's figure gave way to the real one
    extension = _EXTENSIONS.get(found.format, found.format)
    return ImageInfo(format=found.format, width=width, height=height, frames=frames, extension=extension)


def _check_canvas(pixels: int, limit: int) -> None:
    if pixels > limit:
        raise InvalidImage("pixels-limit", f"{pixels} pixels, {limit} allowed")


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Pillow's warnings from people, and from turning into exceptions under ``-W error``.

    Warning filters are the process's, so this is one thread at a time, and only for the rare formats.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
