import struct

import pytest

from crawler.download.formats.detect import outline
from crawler.errors import InvalidImage
from tests.download.pictures import picture

ORDERS = {"<": b"II*\0", ">": b"MM\0*"}


def index(order: str, *pictures: tuple[int, int]) -> bytes:
    """Return a segment with sizes and offsets; offsets count from its byte 8."""
    entries = b"".join(struct.pack(order + "IIII", 0, size, offset, 0) for size, offset in pictures)
    numbers = struct.pack(order + "HHIIHHII", 0xB001, 4, 1, len(pictures), 0xB002, 7, len(entries), 38)
    inside = b"MPF\0" + ORDERS[order] + struct.pack(order + "IH", 8, 2) + numbers + bytes(4) + entries
    return b"\xff\xe2" + struct.pack(">H", len(inside) + 2) + inside


def several(order: str = "<", padding: bytes = b"", *, claimed: int | None = None) -> tuple[bytes, int]:
    """Return a JPEG of two pictures, and the end of the first one."""
    first, second = picture("JPEG"), picture("JPEG", 30, 20)
    size = len(first) + len(index(order, (0, 0), (0, 0)))
    begins = size + len(padding)
    places = (size if claimed is None else claimed, 0), (len(second), begins - 10)  # 10: marker, length and magic
    return first[:2] + index(order, *places) + first[2:] + padding + second, size


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("padding", [b"", bytes(50)], ids=["close", "padded"])
def test_truncation_in_the_second_picture_is_detected(order: str, padding: bytes) -> None:
    data, first_end = several(order, padding)
    assert outline(data).pixels == 61 * 47
    for cut in (first_end + len(padding) + 1, first_end + 60, len(data) - 1):
        with pytest.raises(InvalidImage, match="truncated"):
            outline(data[:cut])


@pytest.mark.parametrize("claimed", [0, 500, 90_000])
def test_an_index_left_over_from_another_file_is_ignored(claimed: int) -> None:
    data, first_end = several(claimed=claimed)
    assert outline(data[:first_end]).pixels == 61 * 47


def test_an_invalid_index_is_ignored() -> None:
    data, _ = several()
    start = data.index(b"II*\0")
    for at in range(start, start + 38):  # up to the list of pictures
        assert outline(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]).format == "jpeg"
