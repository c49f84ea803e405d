import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.download.formats.base import ImageHeader
from crawler.download.formats.detect import _FORMATS, read_header
from crawler.download.image_filter import as_header
from crawler.download.verify import inspect_image
from crawler.errors import InvalidImage
from tests.download.pictures import MAKERS, animation, picture, png_chunk, png_header, png_of

#: Formats with the directory behind the pixels, or with none that is useful.
LATE = {"tiff", "tiff-lzw", "tiff-pages", "ico", "ico-bmp", "avif-animated"}


def known(data: bytes) -> ImageHeader:
    header = read_header(data)
    assert header is not None
    return header


@pytest.mark.parametrize("name", MAKERS)
def test_the_beginning_never_contradicts_the_whole_file(name: str) -> None:
    data = MAKERS[name]()
    whole = as_header(inspect_image(data))
    for cut in range(len(data) + 1):
        header = read_header(data[:cut])
        if header is not None:
            assert header.format == whole.format
            assert (header.width, header.height) in ((0, 0), (whole.width, whole.height))
            assert header.animated in (None, whole.animated)


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in LATE])
def test_a_kilobyte_is_enough_for_the_size(name: str) -> None:
    data = MAKERS[name]()
    header, whole = known(data[:1024]), inspect_image(data)
    assert (header.width, header.height) == (whole.width, whole.height)


@pytest.mark.parametrize("name", ["png-animated", "webp-animated", "avif-animated"])
def test_most_animations_are_recognised_at_once(name: str) -> None:
    assert known(MAKERS[name]()[:1024]).animated is True


def test_a_gif_is_an_animation_once_its_second_frame_has_begun() -> None:
    data = animation("GIF", duration=100)
    second = data.index(b"!\xf9", data.index(b"!\xf9") + 1)
    assert known(data[:second]).animated is None
    assert known(data[:-1]).animated is True
    assert known(picture("GIF")).animated is False


def test_the_size_behind_long_metadata_is_found_later() -> None:
    data = picture("JPEG")
    padded = data[:2] + b"\xff\xe1\xff\xff" + bytes(65_533) + data[2:]
    assert known(padded[:65_000]) == ImageHeader(format="jpeg", animated=None)
    assert known(padded[:66_000]).width == 61


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (30, 20)), (6, (20, 30))])
def test_a_tiff_may_begin_with_its_directory(order: str, orientation: int, size: tuple[int, int]) -> None:
    entries = [(256, 4, 1, 30), (257, 4, 1, 20), (274, 4, 1, orientation)]
    directory = struct.pack(order + "H", 3) + b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + directory
    header = known(data + bytes(20))
    assert (header.width, header.height) == size


def test_an_impossible_number_of_frames_is_not_an_animation() -> None:
    control = png_chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0))
    assert known(png_of(png_header(8, 8), control, png_chunk(b"IDAT", b"x"))).animated is False


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"<!DOCTYPE html>", "not-an-image"), (b"<svg>", "unsupported-format"), (b"qoif", "unsupported-format")],
)
def test_other_content_is_rejected_after_some_kilobytes(data: bytes, reason: str) -> None:
    assert read_header(data.ljust(4_095)) is None
    with pytest.raises(InvalidImage, match=reason):
        read_header(data.ljust(4_096))


def test_brands_of_a_container_are_read_before_the_decision() -> None:
    box = struct.pack(">I", 8_000) + b"ftypmif1\0\0\0\0" + b"miaf" * 1_990
    assert read_header(box[:5_000]) is None
    assert known(box[:-4] + b"avif" + bytes(40)).format == "avif"


@given(st.sampled_from([data()[:200] for data in MAKERS.values()]), st.integers(0, 200), st.binary(max_size=300))
def test_any_bytes_give_a_header_or_a_reason(start: bytes, cut: int, rest: bytes) -> None:
    try:
        header = read_header(start[:cut] + rest)
        assert header is None or header.format in _FORMATS
    except InvalidImage as error:
        assert error.reason
