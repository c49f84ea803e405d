"""The verdict on the bytes of an image: which type, how large, and whether all of it decodes.

The type is what the bytes say, never a name or a header. The canvas is read before anything is decoded, so that a
small file can't ask for gigabytes; then the first picture is decoded whole, and the container is followed to its
end (`crawler.download.structure`), so that a file cut anywhere is seen. Unless somebody asks what it looks like,
nobody looks at the pixels: a decoder that can do without keeping them does.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from io import BytesIO

from msgspec import Struct
from PIL import Image, ImageFile, UnidentifiedImageError

from crawler.download.bitmap import bmp_packing, is_run_length
from crawler.download.dedup import extension_of
from crawler.download.header import read_header
from crawler.download.lean import check_memory, find_avif, find_webp
from crawler.download.phash import SIDE, perceptual_hash
from crawler.download.png import check_rows, is_interlaced
from crawler.download.structure import MAX_PARTS, Outline, outline
from crawler.errors import InvalidImage

#: Default for the largest canvas, in pixels.
MAX_PIXELS = 50_000_000

#: Formats of which only Pillow reads the headers, about which it may issue warnings.
_OUTSPOKEN = frozenset({"avif", "ico", "tiff"})
#: Canvases above so many pixels are decoded one at a time: many threads with one each would fill the memory.
_LARGE = 8_000_000
#: Largest canvas of a WebP or an AVIF, in pixels, that is decoded once more for what it looks like: Pillow keeps up to
#: 16 bytes of each, and the process that decodes may take up 288 MB (`crawler.download.child`). With a file of 18 MB
#: twelve megapixels take 240 of them, and sixteen are too many.
MAX_LOOKED_AT = 12_500_000
_PROVEN_LEAN = frozenset({"webp", "avif"})
#: Formats with decoders that may work in this process, as long as they keep no more bytes than that.
_TRUSTED, _LIGHT = frozenset({"jpeg", "png", "gif"}), 32 * 2**20
#: A colour that is rare, band by band.
_MARK = (91, 17, 203, 5)

#: Formats that hold bitmaps, and how Pillow begins to say that it can't read one which others can.
_BITMAPS, _BEYOND_PILLOW = frozenset({"bmp", "ico"}), ("unsupported bmp", "invalid palette size")
#: Pixels and bytes of a BMP packed by run length that Pillow may unpack, at half a second for as many millions.
_MAX_UNPACKED = 2_000_000

_one_large = threading.Lock()
_warnings_lock = threading.Lock()
_find_webp, _find_avif = cache(find_webp), cache(find_avif)


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
    #: What it looks like (`crawler.download.phash`); empty: nobody asked, it is a plain ground, or too large to tell.
    phash: str = ""


def load_decoders() -> None:
    """Read the decoders in, which Pillow puts off to the first pictures.

    Where handles are lacking at that moment, those pictures would be called corrupt.
    """
    Image.init()


def inspect_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, decode: bool = True, with_phash: bool = False
) -> ImageInfo:
    """Prove that ``data`` is one whole image of a type that browsers show.

    The first frame of an animation is decoded, of a WebP most of them; of the others it is proven that they are there.

    Args:
        data: the bytes of the file.
        max_pixels: largest canvas; above Pillow's own limit (89 million) that one holds.
        decode: False: be content with type, size, and a container that is whole, where it tells.
        with_phash: whether to tell what it looks like, too; nobody can who does not decode.

    Raises:
        InvalidImage: ``not-an-image``, ``unsupported-format``, ``truncated``, ``corrupt``, ``pixels-limit`` or
            ``decompression-limit``.
    """
    return prove(examine(data, max_pixels), max_pixels, decode=decode, with_phash=with_phash)


def examine(data: bytes, max_pixels: int) -> Outline:
    """The structure of ``data``, whole and of a permitted size as far as it tells; raises as `inspect_image` does."""
    found = outline(data)
    check_canvas(found.pixels, max_pixels)
    return found


def is_risky(found: Outline) -> bool:
    """Whether a decoder should be one that may die of it.

    JPEG, PNG and GIF are what most pages show, cheap to decode, and their decoders the best tested ones. Those of WebP
    and AVIF are large, young, and were broken into (CVE-2023-4863); TIFF is a dozen formats in one; BMP and
    icons are rare, and as many. A large canvas fills the memory, whatever it is.
    """
    return found.format not in _TRUSTED or _needed(found) > _LIGHT


def prove(found: Outline, max_pixels: int, *, decode: bool = True, with_phash: bool = False) -> ImageInfo:
    """What `inspect_image` says, of a file whose structure is known; raises as that does."""
    try:
        with _silence() if found.format in _OUTSPOKEN else nullcontext():
            return _prove(found, max_pixels, decode=decode, with_phash=with_phash and decode)
    except InvalidImage:
        raise
    except MemoryError as error:
        raise InvalidImage("decompression-limit", f"{found.format}: takes more memory than there is") from error
    except Image.DecompressionBombError as error:
        raise InvalidImage("pixels-limit", str(error)) from error
    except UnidentifiedImageError as error:
        raise InvalidImage("corrupt", f"{found.format}: its header makes no sense") from error
    except Exception as error:  # hostile bytes make a decoder raise anything; each of it is a verdict
        raise InvalidImage(
            _reason_of(error, found.format), f"{found.format}: {type(error).__name__}: {error}"[:300]
        ) from error


def _reason_of(error: Exception, name: str) -> str:
    """What an error of Pillow's is called here."""
    words = str(error).lower()
    if name in _BITMAPS and words.startswith(_BEYOND_PILLOW):
        return "unsupported-format"
    return "truncated" if "truncated" in words else "corrupt"


def _needed(found: Outline) -> int:
    """Bytes that Pillow takes up to decode it: four a pixel, but for a JPEG at an eighth of its size."""
    return found.kept + 4 * found.pixels // (64 if found.format == "jpeg" else 1)


def _prove(found: Outline, max_pixels: int, *, decode: bool, with_phash: bool) -> ImageInfo:
    webp = _find_webp() if found.format == "webp" else None
    is_proven = found.format == "bmp" and is_run_length(bmp_packing(found.picture, 14))  # by its outline
    if webp or is_proven or not decode:
        header = read_header(found.picture)
        if header is not None and header.width and found.frames:
            if webp and decode:
                webp(found.picture, max_pixels)
            phash = _look_again(found, header.width * header.height) if with_phash else ""
            return image_info(found.format, header.width, header.height, found.frames, phash)
    if decode:
        check_memory(found.format, _needed(found))
    with Image.open(BytesIO(found.picture), formats=[found.format.upper()]) as image:
        width, height = image.size
        check_canvas(width * height, max_pixels)
        frames = found.frames or getattr(image, "n_frames", 1)
        if frames > MAX_PARTS:
            raise InvalidImage("decompression-limit", f"{found.format} of {frames} frames")
        if decode:
            _load(image, found, with_phash=with_phash)
        phash = _look(image, found.format) if with_phash else ""
        if found.format == "ico":
            width, height = image.size  # the directory's figure gave way to the real one
    return image_info(found.format, width, height, frames, phash)


def _load(image: ImageFile.ImageFile, found: Outline, *, with_phash: bool) -> None:
    """Have all of the first picture decoded."""
    avif = _find_avif() if found.format == "avif" else None
    if found.format == "jpeg":
        # An eighth of the size where that will do: every byte is still entropy-decoded.
        image.draft(*(("YCbCr", (SIDE, SIDE)) if with_phash else ("L", (1, 1))))
    with _one_large if image.width * image.height > _LARGE else nullcontext():
        if avif:
            avif(found.picture, image.width, image.height)
        elif found.format == "png":
            _load_png(image, found.picture)
        else:
            image.load()


def _load_png(image: ImageFile.ImageFile, picture: bytes) -> None:
    """Have all rows decoded, of which Pillow takes as many as there are.

    It fills the canvas row by row. So the last one is marked before, and only where it still looks like that afterwards
    are the rows counted, which means to unpack them again.
    """
    if is_interlaced(picture):  # its last row is not the last one to be filled
        image.load()
        check_rows(picture)
        return
    last_row, bands = (0, image.height - 1, image.width, image.height), len(image.getbands())
    mark = Image.new(image.mode, (image.width, 1), _MARK[:bands] if bands > 1 else _MARK[0])
    image.load_prepare()
    canvas = image.im
    canvas.paste(mark.im, last_row)
    image.load()
    if image.im is not canvas or image.crop(last_row).tobytes() == mark.tobytes():
        check_rows(picture)


def _look_again(found: Outline, pixels: int) -> str:
    """What a picture looks like that was proven without its pixels; empty where it is too large to be decoded again."""
    if pixels > MAX_LOOKED_AT or (found.format == "bmp" and pixels + len(found.picture) > _MAX_UNPACKED):
        return ""
    with suppress(Exception), Image.open(BytesIO(found.picture), formats=[found.format.upper()]) as image:
        return _look(image, found.format)
    return ""


def _look(image: Image.Image, name: str) -> str:
    """What a proven picture looks like. That it can't be told is no reason to refuse it, whatever a decoder raises."""
    pixels = image.width * image.height
    if name in _PROVEN_LEAN and pixels > MAX_LOOKED_AT:
        return ""
    with suppress(Exception), _one_large if pixels > _LARGE else nullcontext():
        image.load()
        return perceptual_hash(image)
    return ""


def image_info(name: str, width: int, height: int, frames: int, phash: str = "") -> ImageInfo:
    """What is known of a picture of the format ``name``."""
    extension = extension_of(name)
    return ImageInfo(format=name, width=width, height=height, frames=frames, extension=extension, phash=phash)


def check_canvas(pixels: int, max_pixels: int) -> None:
    """Refuse a canvas of more pixels than that, or than Pillow decodes; raises `InvalidImage` (``pixels-limit``)."""
    limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
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
