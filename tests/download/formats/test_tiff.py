import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crawler.download.formats.tiff import count_pages
from crawler.errors import InvalidImage
from tests.download.pictures import MAKERS, noise

LIMIT = 1_000


def big_endian_page(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    fields = b"".join(struct.pack(">HHII", *entry) for entry in entries)
    return struct.pack(">H", len(entries)) + fields + struct.pack(">I", following)


def reason_for(data: bytes) -> str:
    with pytest.raises(InvalidImage) as caught:
        count_pages(data, LIMIT)
    return caught.value.reason


@pytest.mark.parametrize(("name", "pages"), [("tiff", 1), ("tiff-lzw", 1), ("tiff-pages", 3)])
def test_pages_are_counted(name: str, pages: int) -> None:
    assert count_pages(MAKERS[name](), LIMIT) == pages


def test_big_tiff_is_read() -> None:
    buffer = BytesIO()
    noise().save(buffer, "TIFF", big_tiff=True)
    data = buffer.getvalue()
    assert data[2] == 43
    assert count_pages(data, LIMIT) == 1
    assert reason_for(data[:-1]) == "truncated"


def test_missing_bytes_of_the_last_page_are_detected() -> None:
    data = MAKERS["tiff-pages"]()
    with Image.open(BytesIO(data)) as image:
        assert image.size == (61, 47)
    assert reason_for(data[:-1]) == "truncated"


def test_the_other_byte_order_is_read() -> None:
    head = b"MM\0*\0\0\0\x08"
    assert count_pages(head + big_endian_page((273, 4, 1, 10), (279, 4, 1, 20)), LIMIT) == 1
    assert reason_for(head + big_endian_page((273, 4, 1, 10), (279, 4, 1, 2000))) == "truncated"


def test_a_cycle_of_pages_ends() -> None:
    assert reason_for(b"MM\0*\0\0\0\x08" + big_endian_page((256, 4, 1, 1), following=8)) == "decompression-limit"


def test_a_flood_of_strips_is_refused_before_reading_them() -> None:
    assert reason_for(b"MM\0*\0\0\0\x08" + big_endian_page((273, 4, 2**32 - 1, 8))) == "decompression-limit"


def test_strips_of_an_odd_type_are_left_to_the_decoder() -> None:
    assert count_pages(b"MM\0*\0\0\0\x08" + big_endian_page((273, 12, 1, 2**31)), LIMIT) == 1


def test_a_file_without_a_directory_has_no_page() -> None:
    assert count_pages(b"II*\0\0\0\0\0", LIMIT) == 0


@given(st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0"]), st.binary())
def test_any_bytes_give_a_number_or_a_known_error(head: bytes, rest: bytes) -> None:
    try:
        assert count_pages(head + rest, LIMIT) <= LIMIT
    except (InvalidImage, struct.error, OverflowError) as error:
        assert str(error)
