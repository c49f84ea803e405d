"""Direct calls of libwebp and libavif, which verify an image without keeping its pixels.

Pillow keeps up to 16 bytes per pixel of a WebP and 11 of an AVIF, most of them copies. For the same check its libraries
need 0 or 4 bytes for a WebP, 1.5 or 3 for an AVIF, and less than half of the time. They are called directly if the
system's loader finds their functions through Pillow's own modules (Linux, macOS) and their version is known; otherwise
the functions here return None, and Pillow decodes the image.

Sources: webp/decode.h (decoder ABI 0x0209), webp/demux.h (demuxer ABI 0x0107), avif/avif.h (libavif 1.x).
"""

import ctypes
import os
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_void_p

from crawler.download.formats.base import MAX_PARTS
from crawler.download.formats.webp import webp_frames
from crawler.errors import InvalidImage

#: Bytes that a decoder may keep of one image; with file and interpreter the process stays below 300 MB.
MAX_DECODED = 224 * 2**20

_WEBP_ABI, _WEBP_DEMUX_ABI = 0x0209, 0x0107
#: The smallest container that the demuxer accepts: a lossless image of one pixel, up to the end of its header.
_WEBP_MINIMAL = b"RIFF\x12\0\0\0WEBPVP8L\5\0\0\0\x2f\0\0\0\0\0"
_WEBP_ENDED_EARLY = frozenset({5, 7})
#: Fields of a new `avifDecoder`; other values mean another version of the library. The last one is its strictness.
_AVIF_DEFAULTS = [0, 1, 0, 0, 0, 0, 0, 16_384 * 16_384, 32_768, 12 * 3_600 * 60, 7]
_AVIF_IGNORES_EXIF, _AVIF_IGNORES_XMP, _AVIF_MAX_FRAMES, _AVIF_STRICTNESS = 5, 6, 9, 10
#: Files without ``pixi`` or with a wrong ``clap`` are common, and browsers show them; only the alpha plane is checked.
_AVIF_STRICT_ALPHA = 4
_AVIF_IMAGE_OFFSET = 48
#: Layout → samples per pixel: 4:4:4, 4:2:2, 4:2:0, grey.
_AVIF_SAMPLES = {1: 3.0, 2: 2.0, 3: 1.5, 4: 1.0}

#: Verifies that the bytes of one image are complete; the other arguments are the width and height of its canvas.
_Prove = Callable[[bytes, int, int], None]
#: Verifies a WebP: its container, its first frame, and further frames up to a total number of pixels.
_ProveWebp = Callable[[bytes, int], None]


class _WebpData(ctypes.Structure):
    """WebPData."""

    _fields_ = [("bytes", c_char_p), ("size", c_size_t)]


class _WebpOptions(ctypes.Structure):
    """WebPDecoderOptions."""

    _fields_ = [
        ("bypass_filtering", c_int),
        ("no_fancy_upsampling", c_int),
        ("use_cropping", c_int),
        ("crop", c_int * 4),  # left, top, width, height
        ("rest", c_int * 12),
    ]


class _WebpBuffer(ctypes.Structure):
    """WebPDecBuffer, with the larger member of its union."""

    _fields_ = [
        ("kind", c_int * 4),
        ("planes", c_void_p * 4),
        ("strides", c_int * 4),
        ("sizes", c_size_t * 4),
        ("rest", c_uint32 * 4),
        ("memory", c_void_p),
    ]


class _WebpConfig(ctypes.Structure):
    """WebPDecoderConfig: features of the image, output buffer, decoding options."""

    _fields_ = [("input", c_int * 10), ("output", _WebpBuffer), ("options", _WebpOptions)]


def find_webp() -> _ProveWebp | None:
    """Return the function that verifies a WebP, or None if libwebp can't be called."""
    if os.name != "posix":  # Pillow's module does not export the functions
        return None
    try:
        from PIL import _webp

        library = ctypes.CDLL(_webp.__file__)
        prove_frame, is_opened = _webp_decoder(library), _webp_demuxer(library)
    except (ImportError, OSError, AttributeError):
        return None
    if prove_frame is None or not is_opened(_WEBP_MINIMAL):
        return None

    def prove(picture: bytes, max_pixels: int) -> None:
        if not is_opened(picture):
            raise InvalidImage("corrupt", "webp: libwebp rejects the container")
        pixels, address = 0, ctypes.cast(c_char_p(picture), c_void_p).value or 0
        for span, width, height in webp_frames(picture):
            pixels += width * height
            if pixels > max_pixels:
                return
            prove_frame(address + span.start, len(span), width, height)  # no copy: a still may be a whole large file

    return prove


def _webp_demuxer(library: "ctypes.CDLL") -> Callable[[bytes], bool]:
    """Return a check whether libwebp accepts a container; with another ABI it accepts none. Raise AttributeError."""
    demux, delete = library.WebPDemuxInternal, library.WebPDemuxDelete
    demux.argtypes, demux.restype = [c_void_p, c_int, c_void_p, c_int], c_void_p
    delete.argtypes, delete.restype = [c_void_p], None

    def is_opened(picture: bytes) -> bool:
        demuxer = demux(ctypes.byref(_WebpData(picture, len(picture))), 0, None, _WEBP_DEMUX_ABI)
        delete(demuxer)
        return bool(demuxer)

    return is_opened


def _webp_decoder(library: "ctypes.CDLL") -> Callable[[int, int, int, int], None] | None:
    """Return the function that verifies a still or a frame by address, length, width and height.

    Return None if the library has another ABI. Raise AttributeError if it lacks a function.
    """
    start, decode, free = library.WebPInitDecoderConfigInternal, library.WebPDecode, library.WebPFreeDecBuffer
    start.argtypes = [c_void_p, c_int]
    decode.argtypes = [c_void_p, c_size_t, c_void_p]
    free.argtypes, free.restype = [c_void_p], None

    def prove(address: int, length: int, width: int, height: int) -> None:
        config = _WebpConfig()
        if not start(ctypes.byref(config), _WEBP_ABI):
            raise InvalidImage("unsupported-format", "webp: this version of libwebp is not supported")
        # All is decoded, but only the last pixels are kept. Smoothing is off: it comes after all steps that can fail.
        config.options.bypass_filtering = config.options.no_fancy_upsampling = config.options.use_cropping = 1
        left, top = (width - 1) & ~1, (height - 1) & ~1
        config.options.crop = (c_int * 4)(left, top, width - left, height - top)
        status = decode(address, length, ctypes.byref(config))
        free(ctypes.byref(config.output))
        if status:
            raise InvalidImage("truncated" if status in _WEBP_ENDED_EARLY else "corrupt", f"webp: status {status}")
        if tuple(config.input[:2]) != (width, height):
            raise InvalidImage("corrupt", f"webp: frame of {config.input[0]}x{config.input[1]} differs from its header")

    return prove if start(ctypes.byref(_WebpConfig()), _WEBP_ABI) else None


def find_avif() -> _Prove | None:
    """Return the function that verifies the first image of an AVIF, or None if libavif can't be called."""
    if os.name != "posix":  # Pillow's module does not export the functions
        return None
    try:
        from PIL import _avif

        library = ctypes.CDLL(_avif.__file__)
        create, destroy, read = library.avifDecoderCreate, library.avifDecoderDestroy, library.avifDecoderSetIOMemory
        parse, advance, name = library.avifDecoderParse, library.avifDecoderNextImage, library.avifResultToString
    except (ImportError, OSError, AttributeError):
        return None
    create.restype, name.restype, destroy.restype = c_void_p, c_char_p, None
    destroy.argtypes = parse.argtypes = advance.argtypes = [c_void_p]
    read.argtypes = [c_void_p, c_char_p, c_size_t]

    def check(result: int) -> None:
        if result:
            message = name(result).decode(errors="replace")
            if message == "Out of memory":
                raise MemoryError
            raise InvalidImage("truncated" if "runcated" in message else "corrupt", f"avif: {message}")

    def prove(data: bytes, width: int, height: int) -> None:
        decoder = _open()
        try:
            check(read(decoder, data, len(data)))
            check(parse(decoder))
            _check_planes(decoder, width * height)
            check(advance(decoder))
        finally:
            destroy(decoder)

    def _open() -> int:
        decoder = create()
        if not decoder:
            raise MemoryError
        settings = _avif_settings(decoder)
        settings[_AVIF_IGNORES_EXIF] = settings[_AVIF_IGNORES_XMP] = 1
        settings[_AVIF_MAX_FRAMES] = MAX_PARTS
        settings[_AVIF_STRICTNESS] = _AVIF_STRICT_ALPHA
        return int(decoder)

    decoder = create()
    if not decoder:
        return None
    is_known = list(_avif_settings(decoder)) == _AVIF_DEFAULTS
    destroy(decoder)
    return prove if is_known else None


def _avif_settings(decoder: int) -> "ctypes.Array[c_uint32]":
    return (c_uint32 * len(_AVIF_DEFAULTS)).from_address(decoder)


def _check_planes(decoder: int, pixels: int) -> None:
    """Refuse deep colours on a large canvas, which need too much memory, before any pixel is decoded."""
    image = c_void_p.from_address(decoder + _AVIF_IMAGE_OFFSET).value
    if not image:
        raise InvalidImage("corrupt", "avif: no image")
    _, _, depth, layout = (c_uint32 * 4).from_address(image)
    check_memory("avif", int(pixels * _AVIF_SAMPLES.get(layout, 3.0) * (2 if depth > 8 else 1)))


def check_memory(what: str, needed: int) -> None:
    """Raise `InvalidImage` (``pixels-limit``) if the ``needed`` bytes of a decoder are above `MAX_DECODED`."""
    if needed > MAX_DECODED:
        raise InvalidImage("pixels-limit", f"{what}: needs {needed >> 20} MB to decode, {MAX_DECODED >> 20} allowed")
