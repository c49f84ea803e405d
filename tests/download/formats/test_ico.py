import struct

import pytest

from crawler.download.formats.detect import outline, sniff
from crawler.download.verify import inspect_image
from crawler.errors import InvalidImage
from tests.download.pictures import picture, png_chunk, png_header, png_of

ENTRY = struct.Struct("<BBBBHHII")


def bitmap(side: int, bits: int = 32, packing: int = 0) -> bytes:
    """Return a bitmap as icons hold it: its height includes the mask."""
    head = struct.pack("<IiiHHIIiiII", 40, side, 2 * side, 1, bits, packing, 0, 0, 0, 0, 0)
    return head + b"\x40\x80\xc0\xff" * (side * side * bits // 32) + bytes(-(-side // 32) * 4 * side)


def icon(*images: tuple[int, bytes], kind: int = 1, planes: int = 1, bits: int = 32) -> bytes:
    directory, behind, at = struct.pack("<HHH", 0, kind, len(images)), b"", 6 + ENTRY.size * len(images)
    for side, image in images:
        directory += ENTRY.pack(side, side, 0, 0, planes, bits, len(image), at + len(behind))
        behind += image
    return directory + behind


def reason_for(data: bytes) -> str:
    with pytest.raises(InvalidImage) as caught:
        inspect_image(data)
    return caught.value.reason


@pytest.mark.parametrize("image", [bitmap(16), bitmap(16, bits=24), picture("PNG", 16, 16)], ids=["32", "24", "png"])
def test_a_cursor_is_read_as_an_icon(image: bytes) -> None:
    data = icon((16, image), kind=2, planes=3, bits=32)  # the depth field of an icon is the hot spot of a cursor
    info = inspect_image(data)
    assert (info.format, info.extension, info.width, info.height) == ("ico", "ico", 16, 16)
    for cut in range(22, len(data), 50):
        assert reason_for(data[:cut]) == "truncated"


def test_a_tga_is_not_a_cursor() -> None:
    tga = b"\0\0\2\0\0\0\0\0" + struct.pack("<HHHHBB", 0, 0, 8, 8, 24, 0) + bytes(8 * 8 * 3)
    assert reason_for(tga) == "unsupported-format"
    assert reason_for(tga[:4] + b"\1" + tga[5:]) == "unsupported-format"  # a colour table that begins at 256


def test_garbage_beside_the_shown_picture_is_accepted() -> None:
    for garbage in (b"\xff" * 300, b"", bitmap(16)[:4] + b"\xff" * 300):
        assert inspect_image(icon((8, garbage), (16, bitmap(16)))).width == 16
        assert inspect_image(icon((16, bitmap(16)), (8, garbage))).width == 16
        assert inspect_image(icon((64, garbage), (16, bitmap(16)))).width == 16


def test_an_icon_of_nothing_but_garbage_is_corrupt() -> None:
    assert reason_for(icon((16, b"\xff" * 300))) == "corrupt"
    assert reason_for(icon() + bytes(99)) == "corrupt"


def test_the_largest_picture_in_the_directory_counts() -> None:
    huge = png_of(png_header(9000, 8000), png_chunk(b"IDAT"))
    assert outline(icon((16, huge), (32, bitmap(32)))).pixels == 32 * 64
    assert reason_for(icon((64, huge), (32, bitmap(32)))) == "pixels-limit"


def test_an_icon_packed_by_run_length_is_unsupported() -> None:
    assert reason_for(icon((16, bitmap(16, bits=8, packing=1)))) == "unsupported-format"


def test_a_big_endian_bigtiff_is_unsupported() -> None:
    with pytest.raises(InvalidImage, match="unsupported-format"):
        sniff(b"MM\0+\0\x08\0\0")
