"""Small generated pictures in which every byte counts: noise compresses badly."""

import struct
import zlib
from collections.abc import Callable
from functools import cache, partial
from hashlib import shake_128
from io import BytesIO
from typing import Any

from PIL import Image


@cache
def noise(width: int = 61, height: int = 47, mode: str = "RGB", seed: bytes = b"") -> Image.Image:
    """Return the same noise every time."""
    return Image.frombytes("L", (width, height), shake_128(seed).digest(width * height)).convert(mode)


def picture(kind: str, width: int = 61, height: int = 47, mode: str = "RGB", **options: Any) -> bytes:
    """Return a picture as Pillow writes it."""
    buffer = BytesIO()
    noise(width, height, mode).save(buffer, kind, **options)
    return buffer.getvalue()


def animation(kind: str, **options: Any) -> bytes:
    """Return an animation of three different frames."""
    frames = [noise(seed=b"second"), noise(seed=b"third")]
    return picture(kind, save_all=True, append_images=frames, **options)


def pages() -> bytes:
    """Return a TIFF of three pages without the zeros that pad its last one."""
    return animation("TIFF").rstrip(b"\0")


#: Name → maker, for every common type and compression.
MAKERS: dict[str, Callable[[], bytes]] = {
    "jpeg": partial(picture, "JPEG"),
    "jpeg-progressive": partial(picture, "JPEG", progressive=True),
    "jpeg-restarts": partial(picture, "JPEG", restart_marker_rows=1),
    "jpeg-grey": partial(picture, "JPEG", mode="L"),
    "jpeg-cmyk": partial(picture, "JPEG", mode="CMYK"),
    "jpeg-exif": partial(picture, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff", comment=b"hello"),
    "png": partial(picture, "PNG"),
    "png-palette": partial(picture, "PNG", mode="P"),
    "png-animated": partial(animation, "PNG"),
    "gif": partial(picture, "GIF"),
    "gif-animated": partial(animation, "GIF"),
    "webp": partial(picture, "WEBP"),
    "webp-lossless": partial(picture, "WEBP", lossless=True),
    "webp-animated": partial(animation, "WEBP"),
    "avif": partial(picture, "AVIF"),
    "avif-animated": partial(animation, "AVIF"),
    "bmp": partial(picture, "BMP", width=64),
    "tiff": partial(picture, "TIFF"),
    "tiff-lzw": partial(picture, "TIFF", compression="tiff_lzw"),
    "tiff-pages": pages,
    "ico": partial(picture, "ICO"),
    "ico-bmp": partial(picture, "ICO", bitmap_format="bmp"),
}


def large(kind: str, side: int, mode: str = "RGB", **options: Any) -> bytes:
    """Return a square picture of few bytes and many pixels, whose content varies."""
    buffer = BytesIO()
    noise(side // 100, side // 100, mode).resize((side, side), Image.Resampling.NEAREST).save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND")


def png_header(width: int, height: int) -> bytes:
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def riff_chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def webp_of(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_canvas(flags: int, width: int = 61, height: int = 47) -> bytes:
    """Return the chunk VP8X."""
    return riff_chunk(b"VP8X", struct.pack("<IHBHB", flags, width - 1, 0, height - 1, 0))
