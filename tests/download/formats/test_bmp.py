import struct
import time

import pytest

from crawler.download.formats.detect import read_header
from crawler.download.verify import inspect_image
from crawler.errors import InvalidImage
from tests.download.pictures import picture

END = b"\0\1"


def packed(
    runs: bytes, *, width: int = 4, height: int = 3, bits: int = 8, packing: int = 1, palette: int = 256
) -> bytes:
    start = 54 + 4 * palette
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, len(runs), 0, 0, palette, 0)
    colours = b"".join(bytes([index % 256, 0, 255, 0]) for index in range(palette))
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + head + colours + runs


def reason_for(data: bytes, *, decode: bool = True) -> str:
    with pytest.raises(InvalidImage) as caught:
        inspect_image(data, decode=decode)
    return caught.value.reason


@pytest.mark.parametrize(
    "runs",
    [
        b"\4\1\0\0" * 3 + END,
        b"\4\1\0\0" * 3,  # without an end code, but with every row
        b"\4\1" + END,  # the rest has the first colour
        b"\4\1\0\2\0\2\4\1" + END,
        b"\0\4abcd\0\0\0\3abc\0" + b"\xff\1" * 9 + END,  # more pixels than a row has
    ],
    ids=["whole", "no-end", "early-end", "jump", "literal"],
)
def test_packed_pixels_are_checked_and_truncation_is_detected(runs: bytes) -> None:
    assert inspect_image(packed(runs)).width == 4
    whole = len(runs) - len(END) * runs.endswith(b"\0\0" + END)
    for cut in range(1, whole):
        for decode in (True, False):
            assert reason_for(packed(runs[:cut]), decode=decode) == "truncated", cut


@pytest.mark.parametrize("pixels", range(3, 256))
def test_literal_pixels_are_padded_to_words(pixels: int) -> None:
    for bits, packing in ((8, 1), (4, 2)):
        size = -(-pixels * bits // 16) * 2
        literal = bytes([0, pixels]) + b"\0\1" * (size // 2)
        data = packed(literal + END, width=pixels, bits=bits, packing=packing)
        assert inspect_image(data).height == 3
        assert reason_for(data[:-2]) == "truncated"


@pytest.mark.parametrize(
    "data",
    [
        packed((b"\1\1" * 3_200 + b"\0\0") * 2_500 + END, width=3_200, height=2_500),
        packed((b"\2\1" * 3_200 + b"\0\0") * 2_500 + END, width=6_400, height=2_500, bits=4, packing=2),
        packed(b"\1\1\0\0" * 7_000 + END, width=7_000, height=7_000),
    ],
    ids=["short-runs", "4-bits", "left-out"],
)
def test_packed_pixels_cost_no_more_than_their_bytes(data: bytes) -> None:
    started = time.process_time()
    assert inspect_image(data, with_phash=True).phash == ""  # too many to unpack for that little
    assert time.process_time() - started < 0.5


def test_a_flood_of_empty_rows_is_refused() -> None:
    assert reason_for(packed(b"\0\0" * 70_000 + END, width=5, height=80_000)) == "decompression-limit"


def test_few_packed_pixels_are_checked() -> None:
    rows = b"".join(bytes([8, 40 * index, 8, 255, 0, 0]) for index in range(6))
    assert inspect_image(packed(rows + END, width=16, height=6), with_phash=True).phash


@pytest.mark.parametrize(("bits", "packing"), [(4, 1), (8, 2), (24, 1)])
def test_pixels_with_an_impossible_packing_are_corrupt(bits: int, packing: int) -> None:
    assert reason_for(packed(b"\4\1\0\0" * 3 + END, bits=bits, packing=packing)) == "corrupt"


@pytest.mark.parametrize(("width", "height"), [(0, 3), (4, 0), (-4, 3)])
def test_a_bitmap_without_a_size_is_corrupt(width: int, height: int) -> None:
    data = packed(END, width=width, height=height)
    assert reason_for(data) == "corrupt"
    with pytest.raises(InvalidImage, match="corrupt"):
        read_header(data)


@pytest.mark.parametrize(
    "data",
    [
        packed(bytes(99), bits=2, packing=0, palette=4),
        packed(bytes(99), bits=8, packing=0, palette=300),
        packed(bytes(99), bits=24, packing=4),
        packed(bytes(99), bits=16, packing=6, palette=0),
    ],
    ids=["2-bits", "300-colours", "rle24", "alpha-masks"],
)
def test_formats_unknown_to_our_decoder_are_not_corrupt(data: bytes) -> None:
    assert reason_for(data) == "unsupported-format"


def test_a_bitmap_with_a_short_header_is_not_read_beyond_it() -> None:
    data = picture("BMP", width=64)
    head = struct.pack("<IHHI", len(data), 0, 0, 30) + struct.pack("<IiiHH", 16, 64, 47, 1, 24)
    assert reason_for(b"BM" + head + b"\1\0\0\0" + data[58:]) == "unsupported-format"
