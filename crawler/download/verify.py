"""Verification of an image's bytes: its type, its size, and whether all of it decodes.

The bytes alone determine the type, never a file name or an HTTP header. The canvas size is read before anything is
decoded, so that a small file can't make the decoder allocate gigabytes. Then the first image is decoded completely,
and the container is followed to its end (`crawler.download.formats.detect`), so that every cut is detected. The
pixels are used only for a perceptual hash; without one, a decoder that can discard them does.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from io import BytesIO

from msgspec import Struct
from PIL import (
    AvifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageFile,
    MpoImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from crawler.download.formats import detect
from crawler.download.formats.base import MAX_PARTS, Outline, extension_of
from crawler.download.formats.bmp import bmp_packing, is_run_length
from crawler.download.formats.png import check_rows, is_interlaced
from crawler.download.native_decoders import check_memory, find_avif, find_webp
from crawler.download.phash_compute import SIDE, perceptual_hash
from crawler.errors import InvalidImage

#: Default for the largest canvas, in pixels.
MAX_PIXELS = 50_000_000

#: Formats whose headers only Pillow reads; it may issue warnings about them.
_WITH_WARNINGS = frozenset({"avif", "ico", "tiff"})
#: Canvases with more pixels are decoded one at a time: one in each thread would fill the memory.
_LARGE = 8_000_000
#: Largest canvas of a WebP or an AVIF, in pixels, that is decoded again for its perceptual hash: Pillow keeps up to
#: 16 bytes per pixel, and the decoder process may use 288 MB (`crawler.download.decoder_child`). With a file of
#: 18 MB, twelve megapixels need 240 MB, and sixteen are too many.
_MAX_LOOKED_AT = 12_500_000
_NATIVE_FORMATS = frozenset({"webp", "avif"})
#: Formats whose decoders may run in this process, and the largest number of bytes that they may keep there.
_TRUSTED, _MAX_IN_PROCESS = frozenset({"jpeg", "png", "gif"}), 32 * 2**20
#: A rare colour, band by band.
_MARK = (91, 17, 203, 5)

#: Formats that contain bitmaps, and the beginnings of Pillow's errors for bitmaps that only other programs can read.
_BITMAPS, _PILLOW_UNSUPPORTED = frozenset({"bmp", "ico"}), ("unsupported bmp", "invalid palette size")
#: Largest sum of pixels and bytes of a run-length BMP that Pillow may unpack; a million takes half a second.
_MAX_UNPACKED = 2_000_000

#: The decoders that `Image.preinit` does not load. Pillow would load them, and forty others, with the first images. If
#: file descriptors were lacking then, those images would count as corrupt.
_PLUGINS = (AvifImagePlugin, IcoImagePlugin, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin)
Image.preinit()

_one_large = threading.Lock()
_warnings_lock = threading.Lock()
_find_webp, _find_avif = cache(find_webp), cache(find_avif)


class ImageInfo(Struct, frozen=True):
    """The properties of a verified image."""

    #: Lower-case name: jpeg, png, gif, webp, avif, bmp, tiff, ico.
    format: str
    #: Pixels.
    width: int
    height: int
    #: Frames of an animation; 1 for a still.
    frames: int
    #: Perceptual hash (`crawler.download.phash_compute`); empty: not requested, or the image is plain or too large.
    phash: str = ""

    @property
    def extension(self) -> str:
        """File name extension by content, without a dot."""
        return extension_of(self.format)


class _ScaledJpeg(ImageFile.ImageFile):
    """A JPEG in shades of grey, at an eighth of its size if it is large enough. Every byte is entropy-decoded.

    Its size is known, so nothing of it is read before it is decoded: `Image.open` reads all segments in Python, which
    takes as long as the decoder itself.
    """

    format = "JPEG"

    def __init__(self, data: bytes, width: int, height: int) -> None:
        self._canvas = width, height
        super().__init__(BytesIO(data))

    def _open(self) -> None:
        width, height = self._canvas
        scale = next(scale for scale in (8, 4, 2, 1) if scale <= max(1, min(width, height)))
        self._size, self._mode = (-(-width // scale), -(-height // scale)), "L"
        self.decoderconfig = (scale, 0)
        self.tile = [ImageFile._Tile("jpeg", (0, 0, *self._size), 0, ("L", ""))]


def inspect_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, decode: bool = True, with_phash: bool = False
) -> ImageInfo:
    """Verify that ``data`` is one complete image of a type that browsers show, and return its properties.

    Of an animation the first frame is decoded, of a WebP most frames; for the others only their presence is checked.

    Args:
        data: the bytes of the file.
        max_pixels: largest canvas in pixels; Pillow's own limit (89 million) applies, too.
        decode: False: check only type, size, and that the container is complete, as far as the format shows it.
        with_phash: whether to compute the perceptual hash; has no effect without ``decode``.

    Raises:
        InvalidImage: ``not-an-image``, ``unsupported-format``, ``truncated``, ``corrupt``, ``pixels-limit`` or
            ``decompression-limit``.
    """
    return prove(examine(data, max_pixels), max_pixels, decode=decode, with_phash=with_phash)


def examine(data: bytes, max_pixels: int) -> Outline:
    """Return the structure of ``data``; check that it is complete and of a permitted size. Raise as `inspect_image`."""
    outline = detect.outline(data)
    check_canvas(outline.pixels, max_pixels)
    return outline


def is_risky(outline: Outline) -> bool:
    """Return whether the image must be decoded in a process that may die.

    Most pages show JPEG, PNG and GIF, which are cheap to decode, and whose decoders are the best tested ones. The
    decoders of WebP and AVIF are large, young, and had exploits (CVE-2023-4863). TIFF is a dozen formats in one; BMP
    and icons are rare, and also have many variants. A large canvas fills the memory in any format.
    """
    return outline.format not in _TRUSTED or _memory_needed(outline) > _MAX_IN_PROCESS


def prove(outline: Outline, max_pixels: int, *, decode: bool = True, with_phash: bool = False) -> ImageInfo:
    """Verify a file whose structure is known; return and raise as `inspect_image` does."""
    try:
        with _without_warnings() if outline.format in _WITH_WARNINGS else nullcontext():
            return _prove(outline, max_pixels, decode=decode, with_phash=with_phash and decode)
    except InvalidImage:
        raise
    except MemoryError as error:
        raise InvalidImage("decompression-limit", f"{outline.format}: out of memory") from error
    except Image.DecompressionBombError as error:
        raise InvalidImage("pixels-limit", str(error)) from error
    except UnidentifiedImageError as error:
        raise InvalidImage("corrupt", f"{outline.format}: invalid header") from error
    except Exception as error:  # hostile bytes make a decoder raise anything; each error means a bad image
        raise InvalidImage(
            _reason_of(error, outline.format), f"{outline.format}: {type(error).__name__}: {error}"[:300]
        ) from error


def _reason_of(error: Exception, name: str) -> str:
    """Return the reason for an error of Pillow."""
    message = str(error).lower()
    if name in _BITMAPS and message.startswith(_PILLOW_UNSUPPORTED):
        return "unsupported-format"
    return "truncated" if "truncated" in message else "corrupt"


def _memory_needed(outline: Outline) -> int:
    """Return the bytes that Pillow needs to decode an image: four per pixel, for a JPEG at an eighth of its size."""
    return outline.kept + 4 * outline.pixels // (64 if outline.format == "jpeg" else 1)


def _prove(outline: Outline, max_pixels: int, *, decode: bool, with_phash: bool) -> ImageInfo:
    webp = _find_webp() if outline.format == "webp" else None
    is_verified = outline.format == "bmp" and is_run_length(bmp_packing(outline.picture, 14))  # by its outline
    if webp or is_verified or not decode:
        header = detect.read_header(outline.picture)
        if header is not None and header.width and outline.frames:
            if webp and decode:
                webp(outline.picture, max_pixels)
            phash = _decode_phash(outline, header.width * header.height) if with_phash else ""
            return ImageInfo(outline.format, header.width, header.height, outline.frames, phash)
    if decode:
        check_memory(outline.format, _memory_needed(outline))
        if not with_phash and outline.frame is not None and outline.frame[2] in (1, 3):
            width, height, _ = outline.frame
            check_canvas(width * height, max_pixels)
            picture = _ScaledJpeg(outline.picture, width, height)
            with _one_large if picture.width * picture.height > _LARGE else nullcontext():
                picture.load()
            return ImageInfo(outline.format, width, height, outline.frames)
    with Image.open(BytesIO(outline.picture), formats=[outline.format.upper()]) as image:
        width, height = image.size
        check_canvas(width * height, max_pixels)
        frames = outline.frames or getattr(image, "n_frames", 1)
        if frames > MAX_PARTS:
            raise InvalidImage("decompression-limit", f"{outline.format} of {frames} frames")
        if decode:
            _load(image, outline, with_phash=with_phash)
        phash = _phash_of(image, outline.format) if with_phash else ""
        if outline.format == "ico":
            width, height = image.size  # the real size, which may differ from the directory's
    return ImageInfo(outline.format, width, height, frames, phash)


def _load(image: ImageFile.ImageFile, outline: Outline, *, with_phash: bool) -> None:
    """Decode the first image completely."""
    avif = _find_avif() if outline.format == "avif" else None
    if outline.format == "jpeg":
        # An eighth of the size, or as much as the hash needs: every byte is still entropy-decoded.
        image.draft(*(("YCbCr", (SIDE, SIDE)) if with_phash else ("L", (1, 1))))
    with _one_large if image.width * image.height > _LARGE else nullcontext():
        if avif:
            avif(outline.picture, image.width, image.height)
        elif outline.format == "png":
            _load_png(image, outline.picture)
        else:
            image.load()


def _load_png(image: ImageFile.ImageFile, picture: bytes) -> None:
    """Decode all rows, and check that none is missing, which Pillow does not report.

    Pillow fills the canvas row by row. So the last row is marked before, and only if the mark is still there afterwards
    are the rows counted, which unpacks them again.
    """
    if is_interlaced(picture):  # the last row is not filled last
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


def _decode_phash(outline: Outline, pixels: int) -> str:
    """Return the hash of an image that was verified without its pixels, or "" if it is too large to decode again."""
    if pixels > _MAX_LOOKED_AT or (outline.format == "bmp" and pixels + len(outline.picture) > _MAX_UNPACKED):
        return ""
    with suppress(Exception), Image.open(BytesIO(outline.picture), formats=[outline.format.upper()]) as image:
        return _phash_of(image, outline.format)
    return ""


def _phash_of(image: Image.Image, name: str) -> str:
    """Return the hash of a verified image, or "" after any error: the image is valid without one."""
    pixels = image.width * image.height
    if name in _NATIVE_FORMATS and pixels > _MAX_LOOKED_AT:
        return ""
    with suppress(Exception), _one_large if pixels > _LARGE else nullcontext():
        image.load()
        return perceptual_hash(image)
    return ""


def check_canvas(pixels: int, max_pixels: int) -> None:
    """Raise `InvalidImage` (``pixels-limit``) for more pixels than ``max_pixels``, or than Pillow decodes."""
    limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    if pixels > limit:
        raise InvalidImage("pixels-limit", f"{pixels} pixels, {limit} allowed")


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings, which the user would see, and which ``-W error`` would turn into exceptions.

    Warning filters belong to the process, so one thread at a time enters this, and only for the rare formats.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
