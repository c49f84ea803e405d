"""Header and structure of a JPEG (ITU-T T.81)."""

import re
import struct
from collections.abc import Iterator

from crawler.download.formats.base import MAX_PARTS, ImageHeader, Outline, too_many
from crawler.download.formats.mpf import MPF_MAGIC, check_pictures
from crawler.errors import InvalidImage

#: Largest number of scans of a JPEG, and of pixels over all scans. Encoders use about ten scans. With each scan a
#: decoder processes the whole canvas again, at up to 0.6 s for a thousand million pixels.
_MAX_SCANS, _MAX_SCANNED = 100, 1_500_000_000
#: Largest number of bytes between two JPEG segments that belong to neither.
_MAX_JUNK = 65_536
#: A marker in a JPEG, except a stuffed zero, a fill byte or a restart marker.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_END, JPEG_SCAN = 0xD9, 0xDA
_JPEG_ALONE = frozenset({0x01, 0xD8})  # markers without a length
_JPEG_PROGRESSIVE = 0xC2
#: Lossless and hierarchical processes, and those with arithmetic coding: browsers show none of them.
_JPEG_OTHER_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2}) | _JPEG_OTHER_FRAMES
_JPEG_INDEX = 0xE2
_JPEG_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})


def read_header(data: bytes) -> ImageHeader:
    """Return the header, from the beginning of a file."""
    for code, start, _ in _jpeg_segments(data):
        if code in _JPEG_FRAMES:
            width, height = _jpeg_size(code, data, start)
            return ImageHeader(format="jpeg", width=width, height=height)
        if code == JPEG_SCAN:
            break
    return ImageHeader(format="jpeg")


def read_outline(data: bytes) -> Outline:
    """Follow the segments. The size comes before the first scan; all data after that belongs to the image."""
    kept, scans, pixels, samples, is_progressive = [data[:2]], 0, 0, 0, False
    index, end = None, 2
    sizes: list[tuple[int, int, int]] = []
    for code, start, end in _jpeg_segments(data):
        if code in _JPEG_FRAMES:
            width, height = _jpeg_size(code, data, start)
            pixels = max(pixels, width * height)
            samples = max(samples, _jpeg_samples(data, start, width * height))
            sizes.append((width, height, data[start + 9]))
            is_progressive |= code == _JPEG_PROGRESSIVE
        scans += code == JPEG_SCAN
        if scans > _MAX_SCANS or (scans > 1 and scans * pixels > _MAX_SCANNED):
            raise InvalidImage("decompression-limit", f"JPEG of {scans} scans over {pixels} pixels")
        if code == JPEG_SCAN and scans == 1:
            kept.append(data[start:])
        elif not scans and code not in _JPEG_METADATA:
            kept.append(data[start:end])
        elif code == _JPEG_INDEX and data.startswith(MPF_MAGIC, start + 4):
            index = index or (start + 4 + len(MPF_MAGIC), end)
    if index:  # after the header of the last scan, only the end marker looks like one
        check_pictures(data, *index, first_end=data.index(b"\xff\xd9", end) + 2)
    memory = 2 * samples if is_progressive or scans > 1 else 0  # each scan changes all samples again
    frame = sizes[0] if len(sizes) == 1 and scans else None
    return Outline(format="jpeg", pixels=pixels, kept=memory, picture=b"".join(kept), frame=frame)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment up to the end marker; skip the entropy-coded bytes in between."""
    at, in_header = 2, True
    for _ in range(MAX_PARTS):
        match = _JPEG_MARKER.search(data, at)
        if match is None:
            raise InvalidImage("truncated", "JPEG without its end marker")
        start, code = match.start(), data[match.start() + 1]
        if code == _JPEG_END:
            return
        if in_header and start - at > _MAX_JUNK:
            raise InvalidImage("corrupt", "JPEG with junk between its segments")
        at = start + 2
        if code not in _JPEG_ALONE:
            at += struct.unpack_from(">H", data, at)[0]
            yield code, start, at
        in_header = in_header and code != JPEG_SCAN
    raise too_many("JPEG")


def _jpeg_size(code: int, data: bytes, start: int) -> tuple[int, int]:
    """Return width and height from the frame header whose marker is at ``start``.

    Raises:
        InvalidImage: ``unsupported-format``, for processes and depths that browsers don't show.
        struct.error: the header is incomplete.
    """
    precision, height, width = struct.unpack_from(">BHH", data, start + 4)
    if code in _JPEG_OTHER_FRAMES or precision != 8:
        raise InvalidImage("unsupported-format", f"JPEG process {code:02X} with {precision} bits")
    return width, height


def _jpeg_samples(data: bytes, start: int, pixels: int) -> int:
    """Return the number of samples of all components, according to their sampling factors."""
    number = data[start + 9]
    factors = [data[start + 11 + 3 * index] for index in range(number)]
    areas = [(factor >> 4) * (factor & 15) for factor in factors]
    return pixels * sum(areas) // max([1, *areas])
