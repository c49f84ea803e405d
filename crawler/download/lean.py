"""Decoders that are asked for their verdict alone: WebP and AVIF without the pixels that nobody looks at.

Pillow keeps up to 16 bytes a pixel of a WebP and 11 of an AVIF, most of them copies; for the same proof the libraries
that come with it need none or 4, and 1.5 or 3, and less than half of the time. They are called directly where the
loader of the system finds their functions through Pillow's own modules (Linux, macOS) and where they are of a make
that is known; elsewhere these functions are None, and Pillow does it.

Sources: webp/decode.h (decoder ABI 0x0209), webp/demux.h (demuxer ABI 0x0107), avif/avif.h (libavif 1.x).
"""

import ctypes
import os
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_void_p

from crawler.download.structure import MAX_PARTS, webp_frames
from crawler.errors import InvalidImage

#: Bytes that a decoder may keep of one picture; with file and interpreter it stays below 300 MB.
MAX_DECODED = 224 * 2**20

_WEBP_ABI, _WEBP_DEMUX_ABI = 0x0209, 0x0107
#: The least container that readers open: a lossless picture of one pixel, as far as its header.
_WEBP_LEAST = b"RIFF\x12\0\0\0WEBPVP8L\5\0\0\0\x2f\0\0\0\0\0"
_WEBP_ENDED_EARLY = frozenset({5, 7})
#: An `avifDecoder` as it is made, field by field: what differs is of another make. The last one is its strictness.
_AVIF_DEFAULTS = [0, 1, 0, 0, 0, 0, 0, 16_384 * 16_384, 32_768, 12 * 3_600 * 60, 7]
_AVIF_IGNORES_EXIF, _AVIF_IGNORES_XMP, _AVIF_MAX_FRAMES, _AVIF_STRICTNESS = 5, 6, 9, 10
#: Files without ``pixi`` or with a wrong ``clap`` are common, and browsers show them; an alpha plane must fit.
_AVIF_ALPHA_FITS = 4
_AVIF_IMAGE_OFFSET = 48
#: Samples per pixel by layout: 4:4:4, 4:2:2, 4:2:0, grey.
_AVIF_SAMPLES = {1: 3.0, 2: 2.0, 3: 1.5, 4: 1.0}

#: Proves the bytes of one picture whole, whose canvas is so many pixels wide and high.
Prove = Callable[[bytes, int, int], None]
#: Proves a WebP: that readers open its container, its first frame, and of the others as many as fit so many pixels.
ProveWebp = Callable[[bytes, int], None]


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
    """WebPDecBuffer, its union as the larger of its two."""

    _fields_ = [
        ("kind", c_int * 4),
        ("planes", c_void_p * 4),
        ("strides", c_int * 4),
        ("sizes", c_size_t * 4),
        ("rest", c_uint32 * 4),
        ("memory", c_void_p),
    ]


class _WebpConfig(ctypes.Structure):
    """WebPDecoderConfig: what is in the picture, where the pixels go, how they are made."""

    _fields_ = [("input", c_int * 10), ("output", _WebpBuffer), ("options", _WebpOptions)]


def find_webp() -> ProveWebp | None:
    """What proves a WebP; None where libwebp can't be called."""
    if os.name != "posix":  # its functions are hidden within Pillow's module
        return None
    try:
        from PIL import _webp

        library = ctypes.CDLL(_webp.__file__)
        prove_frame, is_opened = _webp_decoder(library), _webp_demuxer(library)
    except (ImportError, OSError, AttributeError):
        return None
    if prove_frame is None or not is_opened(_WEBP_LEAST):
        return None

    def prove(picture: bytes, max_pixels: int) -> None:
        if not is_opened(picture):
            raise InvalidImage("corrupt", "webp: a container that readers don't open")
        pixels, first = 0, ctypes.cast(c_char_p(picture), c_void_p).value or 0
        for place, width, height in webp_frames(picture):
            pixels += width * height
            if pixels > max_pixels:
                return
            prove_frame(first + place.start, len(place), width, height)  # no copy: a still may be all of a large file

    return prove


def _webp_demuxer(library: "ctypes.CDLL") -> Callable[[bytes], bool]:
    """Whether readers open a container; none where the demuxer is of another make. Raises AttributeError."""
    demux, delete = library.WebPDemuxInternal, library.WebPDemuxDelete
    demux.argtypes, demux.restype = [c_void_p, c_int, c_void_p, c_int], c_void_p
    delete.argtypes, delete.restype = [c_void_p], None

    def is_opened(picture: bytes) -> bool:
        demuxer = demux(ctypes.byref(_WebpData(picture, len(picture))), 0, None, _WEBP_DEMUX_ABI)
        delete(demuxer)
        return bool(demuxer)

    return is_opened


def _webp_decoder(library: "ctypes.CDLL") -> Callable[[int, int, int, int], None] | None:
    """What proves a still, or one frame, by its address, length, width and height; None where it is of another make.

    Raises AttributeError.
    """
    start, decode, free = library.WebPInitDecoderConfigInternal, library.WebPDecode, library.WebPFreeDecBuffer
    start.argtypes = [c_void_p, c_int]
    decode.argtypes = [c_void_p, c_size_t, c_void_p]
    free.argtypes, free.restype = [c_void_p], None

    def prove(address: int, length: int, width: int, height: int) -> None:
        config = _WebpConfig()
        if not start(ctypes.byref(config), _WEBP_ABI):
            raise InvalidImage("unsupported-format", "webp: this libwebp is of another make")
        # Of all that is decoded, the last pixels are kept; smoothing comes after everything that can be wrong.
        config.options.bypass_filtering = config.options.no_fancy_upsampling = config.options.use_cropping = 1
        left, top = (width - 1) & ~1, (height - 1) & ~1
        config.options.crop = (c_int * 4)(left, top, width - left, height - top)
        status = decode(address, length, ctypes.byref(config))
        free(ctypes.byref(config.output))
        if status:
            raise InvalidImage("truncated" if status in _WEBP_ENDED_EARLY else "corrupt", f"webp: status {status}")
        if tuple(config.input[:2]) != (width, height):
            raise InvalidImage("corrupt", f"webp: a frame of {config.input[0]}x{config.input[1]}, unlike its header")

    return prove if start(ctypes.byref(_WebpConfig()), _WEBP_ABI) else None


def find_avif() -> Prove | None:
    """What proves the first picture of an AVIF; None where libavif can't be called."""
    if os.name != "posix":  # its functions are hidden within Pillow's module
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
            words = name(result).decode(errors="replace")
            if words == "Out of memory":
                raise MemoryError
            raise InvalidImage("truncated" if "runcated" in words else "corrupt", f"avif: {words}")

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
        settings[_AVIF_STRICTNESS] = _AVIF_ALPHA_FITS
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
    """Refuse, before any pixel is decoded, what takes up too much memory: deep colours of a large canvas."""
    image = c_void_p.from_address(decoder + _AVIF_IMAGE_OFFSET).value
    if not image:
        raise InvalidImage("corrupt", "avif: no picture")
    _, _, depth, layout = (c_uint32 * 4).from_address(image)
    check_memory("avif", int(pixels * _AVIF_SAMPLES.get(layout, 3.0) * (2 if depth > 8 else 1)))


def check_memory(what: str, needed: int) -> None:
    """Refuse a picture of which a decoder keeps ``needed`` bytes; raises `InvalidImage` (``pixels-limit``)."""
    if needed > MAX_DECODED:
        raise InvalidImage("pixels-limit", f"{what}: takes {needed >> 20} MB to decode, {MAX_DECODED >> 20} allowed")
