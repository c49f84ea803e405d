import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crawler.download.formats import detect
from crawler.download.formats.detect import outline
from crawler.errors import InvalidImage
from tests.download.pictures import MAKERS, picture, png_chunk, png_header, png_of, riff_chunk, webp_of

ICO_ENTRY = struct.Struct("<BBBBHHII")


def reason_for(data: bytes) -> str:
    with pytest.raises(InvalidImage) as caught:
        outline(data)
    return caught.value.reason


def gif_frame(width: int, height: int) -> bytes:
    return b"," + struct.pack("<4HB", 0, 0, width, height, 0) + b"\2" + b"\2\x4c\1" + b"\0"


def gif(*blocks: bytes, width: int = 1, height: int = 1) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"".join(blocks)


@pytest.mark.parametrize("name", MAKERS)
def test_the_type_is_detected_from_the_content(name: str) -> None:
    assert outline(MAKERS[name]()).format == name.split("-")[0]


@pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive", "png", "gif", "webp", "webp-lossless", "webp-animated"])
def test_the_canvas_size_is_read_before_any_decoder_runs(name: str) -> None:
    assert outline(MAKERS[name]()).pixels == 61 * 47


def test_metadata_of_a_jpeg_is_skipped() -> None:
    found = outline(MAKERS["jpeg-exif"]())
    assert b"Exif" not in found.picture
    assert b"hello" not in found.picture
    assert b"JFIF" in found.picture


def test_metadata_of_a_png_is_skipped() -> None:
    data = png_of(png_header(1, 1), png_chunk(b"tEXt", b"a\0b"), png_chunk(b"IDAT", b"x"))
    assert b"tEXt" not in outline(data).picture
    assert b"IDAT" in outline(data).picture


def test_a_wrong_checksum_of_metadata_is_ignored() -> None:
    broken = png_chunk(b"tEXt", b"a\0b")[:-1] + b"?"
    assert outline(png_of(png_header(1, 1), broken)).format == "png"


def test_a_wrong_checksum_of_pixels_is_corrupt() -> None:
    broken = png_chunk(b"IDAT", b"x")[:-1] + b"?"
    assert reason_for(png_of(png_header(1, 1), broken)) == "corrupt"


def test_binary_chunk_names_are_corrupt() -> None:
    assert reason_for(png_of(png_header(1, 1), png_chunk(b"\1\2\3\4"))) == "corrupt"


def test_gif_without_trailer_is_truncated() -> None:
    assert reason_for(gif(gif_frame(1, 1))) == "truncated"
    assert outline(gif(gif_frame(1, 1), b";")).frames == 1


def test_gif_frame_larger_than_its_screen_counts_as_canvas() -> None:
    assert outline(gif(gif_frame(1, 1), gif_frame(3000, 2000), b";")).pixels == 6_000_000


def test_gif_ends_at_the_first_unknown_block() -> None:
    assert outline(gif(gif_frame(1, 1), b"\0garbage")).frames == 1


def test_end_marker_inside_a_jpeg_segment_is_not_the_end() -> None:
    data = picture("JPEG", comment=b"thumbnail \xff\xd8 \xff\xd9 ")
    assert outline(data).pixels == 61 * 47
    assert reason_for(data[:-2]) == "truncated"


def test_junk_between_jpeg_segments_is_skipped_up_to_a_limit() -> None:
    data = picture("JPEG")
    assert outline(data[:2] + b"\xff\xe0\0\2" + b"\0" * 60 + data[2:]).pixels == 61 * 47
    assert reason_for(data[:2] + b"\xff\xe0\0\2" + b"\0" * 70_000 + data[2:]) == "corrupt"


def test_webp_size_counts_from_its_header() -> None:
    data = picture("WEBP")
    assert reason_for(data[:4] + struct.pack("<I", len(data) + 1) + data[8:]) == "truncated"


def test_webp_chunk_of_odd_length_has_a_padding() -> None:
    odd = riff_chunk(b"ABCD", b"odd")
    pixels = picture("WEBP")[12:]
    assert outline(webp_of(pixels, odd)).format == "webp"
    assert reason_for(webp_of(pixels, odd[:-1])) == "truncated"


def test_webp_without_a_picture_is_corrupt() -> None:
    assert reason_for(b"RIFF" + struct.pack("<I", 12) + b"WEBPABCD\0\0\0\0") == "corrupt"


def test_avif_box_behind_the_end_is_truncated() -> None:
    data = picture("AVIF")
    assert reason_for(data[:-1]) == "truncated"
    assert outline(data + b"tail").format == "avif"


@pytest.mark.parametrize(("length", "reason"), [(5, "corrupt"), (1 << 30, "truncated")])
def test_avif_box_of_impossible_length_is_refused(length: int, reason: str) -> None:
    assert reason_for(b"\0\0\0\x14ftypavif\0\0\0\0avif" + struct.pack(">I", length) + b"mdat") == reason


def test_avif_box_may_reach_to_the_end() -> None:
    assert outline(b"\0\0\0\x14ftypavif\0\0\0\0avif\0\0\0\0mdat...").frames == 0


def test_avif_box_may_have_a_long_length() -> None:
    long_box = b"\0\0\0\1mdat" + struct.pack(">Q", 20) + b"...."
    assert outline(b"\0\0\0\x14ftypavif\0\0\0\0avif" + long_box).format == "avif"
    assert reason_for(b"\0\0\0\x14ftypavif\0\0\0\0avif" + long_box[:-1]) == "truncated"


def test_only_the_graphic_control_of_the_first_frame_precedes_it_in_the_decoder_s_input() -> None:
    control, comment, text = b"!\xf9\4\1\0\0\0\0", b"!\xfe\5hello\0", b"!\xff\3app\2xy\0"
    found = outline(gif(comment, control, text, gif_frame(1, 1), b";"))
    assert found.picture == gif(control, gif_frame(1, 1), b";")


def test_sub_blocks_of_a_gif_are_counted_over_the_whole_file() -> None:
    half = b"!\xfe" + b"\1x" * 600_000 + b"\0"
    assert outline(gif(half, gif_frame(1, 1), b";")).frames == 1
    assert reason_for(gif(half, half, gif_frame(1, 1), b";")) == "decompression-limit"


def test_icon_size_is_that_of_its_content_and_not_of_its_directory() -> None:
    inner = png_of(png_header(9000, 8000))
    data = b"\0\0\1\0\1\0" + ICO_ENTRY.pack(16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    assert outline(data).pixels == 72_000_000


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xe0\0\2" + b"\xff\xe0\0\2" * 70_000,
        png_of(png_header(1, 1), png_chunk(b"IDAT") * 70_000),
        gif(b"!\xfe\0" * 70_000, b";"),
        b"RIFF" + struct.pack("<I", 4 + 8 * 70_000) + b"WEBP" + b"ANMF\0\0\0\0" * 70_000,
        b"\0\0\0\x14ftypavif\0\0\0\0avif" + b"\0\0\0\x08free" * 70_000,
    ],
    ids=["jpeg", "png", "gif", "webp", "avif"],
)
def test_too_many_parts_are_refused(data: bytes) -> None:
    assert reason_for(data) == "decompression-limit"


def test_a_jpeg_with_too_many_scans_is_refused() -> None:
    data = picture("JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert outline(data[:-2] + last * 80 + b"\xff\xd9").format == "jpeg"
    assert reason_for(data[:-2] + last * 100 + b"\xff\xd9") == "decompression-limit"


def test_a_larger_jpeg_may_have_fewer_scans() -> None:
    data = picture("JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    size = data.index(b"\xff\xc2") + 5
    huge = data[:size] + struct.pack(">HH", 7000, 7000) + data[size + 4 :]
    assert outline(huge).pixels == 49_000_000
    assert reason_for(huge[:-2] + last * 80 + b"\xff\xd9") == "decompression-limit"


HEADS = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF\0\0\0\0WEBP",
    b"\0\0\0\x14ftypavif",
    b"BM",
    b"\0\0\1\0",
]


@given(st.sampled_from(HEADS), st.binary(max_size=200))
@example(b"\xff\xd8", b"\xff" * 200_000)
def test_any_bytes_give_an_outline_or_a_reason(head: bytes, rest: bytes) -> None:
    try:
        assert outline(head + rest).format in detect._FORMATS
    except InvalidImage as error:
        assert error.reason
