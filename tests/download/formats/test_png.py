import struct
import zlib

import pytest

from crawler.download.formats.detect import outline, read_header
from crawler.download.verify import inspect_image
from crawler.errors import InvalidImage
from tests.download.pictures import MAKERS, png_chunk, png_of

#: Colour type → depth → bits of a pixel.
BITS = {0: {1: 1, 2: 2, 4: 4, 8: 8, 16: 16}, 2: {8: 24, 16: 48}, 3: {1: 1, 4: 4, 8: 8}, 4: {8: 16}, 6: {8: 32, 16: 64}}
KINDS = [(colour, depth) for colour, depths in BITS.items() for depth in depths]
#: The pass of each pixel, as the specification draws it (section 8.1).
ADAM7 = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]

PALETTE = png_chunk(b"PLTE", bytes(6))
ROWS = png_chunk(b"IDAT", zlib.compress(bytes((1 + 3 * 8) * 8)))
TEXT = png_chunk(b"tEXt", b"a\0b")


def header(
    width: int = 8, height: int = 8, *, depth: int = 8, colour: int = 2, methods: bytes = bytes(3), more: bytes = b""
) -> bytes:
    return png_chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, colour) + methods + more)


def reason_for(data: bytes) -> str:
    with pytest.raises(InvalidImage) as caught:
        inspect_image(data)
    return caught.value.reason


def rows_of(width: int, height: int, bits: int, *, interlaced: bool) -> list[int]:
    """Return the bytes of each row of each pass."""
    rows = []
    for number in "1234567" if interlaced else "*":
        for y in range(height):
            columns = sum(number in ("*", ADAM7[y % 8][x % 8]) for x in range(width))
            if columns:
                rows.append(1 + (columns * bits + 7) // 8)
    return rows


@pytest.mark.parametrize("interlaced", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_no_row_may_be_missing(colour: int, depth: int, *, interlaced: bool) -> None:
    for width, height in ((1, 1), (5, 2), (3, 9), (17, 8)):
        start = header(width, height, depth=depth, colour=colour, methods=bytes([0, 0, interlaced]))
        rows = rows_of(width, height, BITS[colour][depth], interlaced=interlaced)
        for missing in range(min(3, len(rows))):
            pixels = png_chunk(b"IDAT", zlib.compress(bytes(sum(rows[: len(rows) - missing]))))
            if missing:
                assert reason_for(png_of(start, PALETTE, pixels)) == "truncated"
            else:
                assert inspect_image(png_of(start, PALETTE, pixels)).width == width


@pytest.mark.parametrize("last_row", [(0, 0, 0, 0), (91, 17, 203, 5)], ids=["blank", "like the mark"])
def test_the_last_row_may_have_any_content(last_row: tuple[int, ...]) -> None:
    rows = (b"\0" + bytes(range(32))) * 7 + b"\0" + bytes(last_row) * 8
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    assert inspect_image(png_of(header(colour=6), pixels)).height == 8


def test_bytes_behind_the_pixels_cost_nothing() -> None:
    short = png_chunk(b"IDAT", zlib.compress(bytes((1 + 3 * 8) * 7)))
    assert reason_for(png_of(header(), short, png_chunk(b"IDAT", b"x" * 300) * 60_000)) == "truncated"


@pytest.mark.parametrize(
    "chunks",
    [
        (TEXT, header(), ROWS),
        (png_chunk(b"CgBI", bytes(4)), header(), ROWS),
        (header(), header(), ROWS),
        (header(), ROWS, TEXT, ROWS),
        (header(), PALETTE, TEXT, PALETTE, ROWS),
        (header(), ROWS, PALETTE),
        (header(), png_chunk(b"ABCD"), ROWS),
        (header(), PALETTE, png_chunk(b"ABcD"), ROWS),
    ],
)
def test_chunks_must_be_in_order(chunks: tuple[bytes, ...]) -> None:
    assert reason_for(png_of(*chunks)) == "corrupt"


def test_chunks_after_the_pixels_do_not_affect_them() -> None:
    after = TEXT + png_chunk(b"ABCD") + TEXT
    assert inspect_image(png_of(header(), TEXT, PALETTE, TEXT, ROWS, png_chunk(b"IDAT"), after)).width == 8


def test_the_last_chunk_is_not_checked() -> None:
    data = png_of(header(), ROWS)
    assert inspect_image(data[:-4] + b"????").width == 8
    assert reason_for(data[:-1]) == reason_for(data[:-12]) == "truncated"


@pytest.mark.parametrize(
    "start",
    [
        header(more=b"\0"),
        header(depth=4),
        header(colour=5),
        header(methods=b"\1\0\0"),
        header(methods=b"\0\1\0"),
        header(methods=b"\0\0\2"),
    ],
)
def test_a_header_with_unknown_values_is_corrupt(start: bytes) -> None:
    with pytest.raises(InvalidImage, match="corrupt: PNG with an invalid header"):
        outline(png_of(start, ROWS))


@pytest.mark.parametrize("size", [None, 0, 4, 771])
def test_indexed_pixels_need_a_palette(size: int | None) -> None:
    palette = b"" if size is None else png_chunk(b"PLTE", bytes(size))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(9 * 8)))
    assert reason_for(png_of(header(colour=3), palette, pixels)) == "corrupt"
    assert inspect_image(png_of(header(colour=3), PALETTE, pixels)).width == 8


# --- animations


def control(frames: int) -> bytes:
    return png_chunk(b"acTL", struct.pack(">II", frames, 0))


def frame(number: int, width: int = 8, height: int = 8, left: int = 0, top: int = 0) -> bytes:
    return png_chunk(b"fcTL", struct.pack(">5I6x", number, width, height, left, top))


def pixels(number: int) -> bytes:
    return png_chunk(b"fdAT", struct.pack(">I", number) + ROWS[8:-4])


WHOLE = (control(3), frame(0), ROWS, frame(1), pixels(2), pixels(3), frame(4, 3, 2, 5, 6), pixels(5))


def animated(data: bytes) -> bool | None:
    found = read_header(data)
    assert found is not None
    return found.animated


@pytest.mark.parametrize(
    ("chunks", "frames"),
    [
        (WHOLE, 3),
        ((control(1), ROWS, frame(0), pixels(1)), 1),
        ((control(2), *WHOLE[1:]), 2),
        ((control(3), control(9), *WHOLE[1:]), 3),
        (WHOLE[1:], 1),
        ((control(0), *WHOLE[1:]), 1),
        ((control(2**31), *WHOLE[1:]), 1),
        ((*WHOLE[1:], control(3)), 1),
        ((frame(7), ROWS, frame(7), pixels(7)[:-1] + b"?"), 1),
    ],
)
def test_an_animation_is_recognised(chunks: tuple[bytes, ...], frames: int) -> None:
    data = png_of(header(), *chunks)
    assert inspect_image(data).frames == frames
    assert animated(data) is (frames > 1)


@pytest.mark.parametrize("gone", range(1, len(WHOLE)))
def test_no_part_of_an_animation_may_be_missing(gone: int) -> None:
    assert reason_for(png_of(header(), *WHOLE[:gone], *WHOLE[gone + 1 :])) in ("truncated", "corrupt")
    if gone > 2:
        assert reason_for(png_of(header(), *WHOLE[:gone])) == "truncated"


@pytest.mark.parametrize(
    "bad",
    [
        *(frame(4, 3, 2, 6, 6), frame(4, 3, 2, 5, 7), frame(4, 0), frame(4, 2**32 - 1), frame(3), frame(5)),
        *(png_chunk(b"fcTL", struct.pack(">I", 4)), frame(4)[:-1] + b"?", TEXT + frame(4) + frame(5)),
    ],
)
def test_an_invalid_frame_is_corrupt(bad: bytes) -> None:
    assert reason_for(png_of(header(), *WHOLE[:6], bad, WHOLE[7])) == "corrupt"


@pytest.mark.parametrize("kind", [b"acTL", b"fcTL", b"fdAT"])
def test_changed_bytes_of_an_animation_are_detected(kind: bytes) -> None:
    data = bytearray(MAKERS["png-animated"]())
    data[data.rindex(kind) + 11] ^= 1
    assert reason_for(bytes(data)) == "corrupt"
