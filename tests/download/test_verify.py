import contextlib
import struct
import warnings
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from PIL import ImageFile

from crawler.download.formats.base import Outline
from crawler.download.verify import examine, inspect_image, prove
from crawler.errors import InvalidImage
from tests.download.pictures import MAKERS, picture, png_chunk, png_header, png_of

ANIMATED = ["png-animated", "gif-animated", "webp-animated", "avif-animated", "tiff-pages"]


def reason_for(data: bytes, max_pixels: int = 50_000_000) -> str:
    with pytest.raises(InvalidImage) as caught:
        inspect_image(data, max_pixels=max_pixels)
    assert not caught.value.retryable
    return caught.value.reason


@pytest.mark.parametrize("name", MAKERS)
def test_a_whole_picture_is_accepted_with_its_type(name: str) -> None:
    info = inspect_image(MAKERS[name]())
    assert info.format == name.split("-")[0]
    assert info.extension == info.format.replace("jpeg", "jpg")


@pytest.mark.parametrize("name", [name for name in MAKERS if not name.startswith(("bmp", "ico"))])
def test_the_size_is_that_of_the_picture(name: str) -> None:
    info = inspect_image(MAKERS[name]())
    assert (info.width, info.height) == (61, 47)


@pytest.mark.parametrize("name", MAKERS)
def test_frames_of_an_animation_are_counted(name: str) -> None:
    assert inspect_image(MAKERS[name]()).frames == (3 if name in ANIMATED else 1)


@pytest.mark.parametrize("name", MAKERS)
def test_truncation_anywhere_is_detected(name: str) -> None:
    data = MAKERS[name]()
    cuts = {*range(64), *range(64, len(data), len(data) // 60), *range(len(data) - 64, len(data))}
    reasons = [reason_for(data[:cut]) for cut in sorted(cuts)]
    assert set(reasons) <= {"truncated", "corrupt", "not-an-image", "unsupported-format"}
    assert reasons.count("truncated") > len(reasons) * 0.4


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "bmp"])
def test_bytes_behind_the_end_are_ignored(name: str) -> None:
    data = MAKERS[name]()
    assert inspect_image(data + b"<!-- served by a proxy -->" * 9) == inspect_image(data)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xff", b"<!DOCTYPE html><html><svg></svg></html>", b"<?xml version='1.0'?><html><svg/></html>"),
        *(b'{"error": 403}', b"BMW is a car maker", b"%PDF-1.7\n", b"\x1f\x8b\x08\0", bytes(5000), b"GIF80a"),
    ],
)
def test_other_content_is_not_an_image(data: bytes) -> None:
    assert reason_for(data) == "not-an-image"


@pytest.mark.parametrize(
    "data",
    [
        *(b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xef\xbb\xbf\n<?xml version='1.0'?><!-- x --><SVG >"),
        *(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\2\0\1\0", b"8BPS\0\1"),
        b"qoif0000",
    ],
)
def test_unsupported_kinds_of_pictures_are_reported_as_such(data: bytes) -> None:
    assert reason_for(data) == "unsupported-format"


def test_a_jpeg_of_twelve_bits_is_unsupported() -> None:
    data = picture("JPEG")
    precision = data.index(b"\xff\xc0") + 4
    assert reason_for(data[:precision] + b"\x0c" + data[precision + 1 :]) == "unsupported-format"


@pytest.mark.parametrize("process", [0xC3, 0xC5, 0xC9, 0xCA, 0xCF], ids=hex)
def test_a_jpeg_of_a_process_that_browsers_lack_is_unsupported(process: int) -> None:
    """With another marker, the decoder would read Huffman codes as arithmetic ones, and accept any."""
    data = picture("JPEG").replace(b"\xff\xc0", b"\xff" + bytes([process]), 1)
    assert reason_for(data) == "unsupported-format"


@pytest.mark.parametrize("name", MAKERS)
def test_a_canvas_above_the_limit_is_refused(name: str) -> None:
    info = inspect_image(data := MAKERS[name]())
    pixels = info.width * info.height
    assert inspect_image(data, max_pixels=2 * pixels) == info
    assert reason_for(data, max_pixels=pixels - 1) == "pixels-limit"


def test_a_decompression_bomb_is_refused_by_its_header_alone() -> None:
    assert reason_for(png_of(png_header(60_000, 60_000))) == "pixels-limit"


def test_the_limit_never_exceeds_that_of_the_decoder() -> None:
    assert reason_for(png_of(png_header(10_000, 10_000)), max_pixels=10**12) == "pixels-limit"


def test_an_unfinished_stream_in_a_well_formed_file_is_detected() -> None:
    rows = zlib.compress(picture("BMP")[: (1 + 3 * 8) * 8])
    assert reason_for(png_of(png_header(8, 8), png_chunk(b"IDAT", rows[: len(rows) // 2]))) == "corrupt"


def test_changed_pixels_of_a_png_are_detected() -> None:
    data = bytearray(picture("PNG"))
    data[len(data) // 2] ^= 1
    assert reason_for(bytes(data)) == "corrupt"


def test_claimed_frames_that_do_not_exist_cost_nothing() -> None:
    control = png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    rows = zlib.compress(bytes((1 + 3 * 8) * 8))
    assert inspect_image(png_of(png_header(8, 8), control, png_chunk(b"IDAT", rows))).frames == 1


@pytest.mark.parametrize("frames", [70_000, 2_500_000, 2**31])
def test_a_track_of_billions_of_frames_costs_nothing(frames: int) -> None:
    data = bytearray(MAKERS["avif-animated"]())
    sizes, runs, times = (data.index(name) + 4 for name in (b"stsz", b"stsc", b"stts"))
    data[sizes + 4 : sizes + 12] = struct.pack(">II", 1, frames)  # the same number of samples, of one byte each …
    data[runs + 12 : runs + 16] = data[times + 8 : times + 12] = struct.pack(">I", frames)  # … in one run
    assert reason_for(bytes(data)) in ("corrupt", "decompression-limit", "truncated")


def test_an_animation_of_too_many_frames_is_refused() -> None:
    frame = b",\0\0\0\0\1\0\1\0\0\2\2\x4c\1\0"
    screen = b"GIF89a\1\0\1\0\0\0\0"
    assert inspect_image(screen + frame * 1_000 + b";").frames == 1_000
    assert reason_for(screen + frame * 66_000 + b";") == "decompression-limit"


def test_hostile_metadata_is_never_read() -> None:
    bomb = b"Comment\0\0" + zlib.compress(bytes(80 * 2**20))
    rows = zlib.compress(bytes((1 + 3 * 8) * 8))
    data = png_of(png_header(8, 8), png_chunk(b"zTXt", bomb), png_chunk(b"IDAT", rows))
    assert inspect_image(data).width == 8


def test_warnings_of_the_decoder_are_suppressed() -> None:
    data = picture("TIFF").replace(b"\x00\x01\x04\x00\x01\x00", b"\x00\x01\x04\x00\x02\x00", 1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with contextlib.suppress(InvalidImage):
            inspect_image(data)
    assert seen == []


def test_verdicts_do_not_depend_on_a_lenient_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for name in ("jpeg", "png", "gif", "webp", "avif"):
        data = MAKERS[name]()
        assert reason_for(data[: len(data) * 2 // 3]) == "truncated", name


@pytest.mark.parametrize("name", MAKERS)
@settings(deadline=None)  # lenient decoders accept it
@given(data=st.data())
def test_any_damage_gives_a_verdict(name: str, data: st.DataObject) -> None:
    damaged = bytearray(MAKERS[name]())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert inspect_image(bytes(damaged), max_pixels=1_000_000).width > 0
    except InvalidImage as error:
        assert error.reason


def verdict_on(outline: Outline) -> str:
    """Return the reason for which a file of this structure is refused, or "" if it is accepted."""
    try:
        prove(outline, 1_000_000)
    except InvalidImage as error:
        return error.reason
    return ""


@pytest.mark.parametrize("name", [name for name in MAKERS if name.startswith("jpeg")])
@settings(deadline=None)
@given(data=st.data())
def test_a_jpeg_is_judged_without_its_header_as_with_it(name: str, data: st.DataObject) -> None:
    """Pillow alone reads the header of a JPEG before it decodes; what it refuses there, the decoder may accept."""
    damaged = bytearray(MAKERS[name]())
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        outline = examine(bytes(damaged), 1_000_000)
    except InvalidImage:
        return
    quick, slow = verdict_on(outline), verdict_on(structs.replace(outline, frame=None))
    assert quick == slow or {quick, slow} == {"truncated", "corrupt"} or (quick, slow) == ("", "corrupt")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (3, 2), (7, 8), (8, 8), (9, 17), (640, 1)])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_of_any_size_is_accepted(width: int, height: int, mode: str) -> None:
    info = inspect_image(picture("JPEG", width, height, mode=mode))
    assert (info.width, info.height, info.frames) == (width, height, 1)
