import ctypes
import struct
import sys
from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.download import native_decoders, verify
from crawler.download.formats.detect import outline
from crawler.download.formats.webp import webp_frames
from crawler.download.verify import inspect_image
from crawler.errors import InvalidImage
from tests.download.pictures import MAKERS, large, noise, picture, riff_chunk, webp_canvas, webp_of

LEAN = ["webp", "webp-lossless", "webp-animated", "avif", "avif-animated"]


def reason_for(data: bytes) -> str:
    try:
        inspect_image(data)
    except InvalidImage as error:
        return error.reason
    return ""


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Pillow decode everything."""
    monkeypatch.setattr(verify, "_find_webp", lambda: None)
    monkeypatch.setattr(verify, "_find_avif", lambda: None)


@pytest.mark.skipif(sys.platform == "win32", reason="the functions of the libraries can't be found on this system")
def test_the_libraries_can_be_called() -> None:
    assert native_decoders.find_webp() is not None
    assert native_decoders.find_avif() is not None


@pytest.mark.parametrize("name", LEAN)
def test_pillow_gives_the_same_verdicts(name: str, plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = inspect_image(MAKERS[name]())
    monkeypatch.undo()
    assert inspect_image(MAKERS[name]()) == theirs


@pytest.mark.parametrize("find", [native_decoders.find_webp, native_decoders.find_avif])
def test_without_a_library_pillow_decodes(find: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert find() is None  # type: ignore[operator]


def test_a_library_of_unknown_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_decoders, "_AVIF_DEFAULTS", [1, *native_decoders._AVIF_DEFAULTS[1:]])
    monkeypatch.setattr(native_decoders, "_WEBP_ABI", 0x7F00)
    assert native_decoders.find_avif() is None
    assert native_decoders.find_webp() is None


def test_a_demuxer_of_unknown_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_decoders, "_WEBP_DEMUX_ABI", 0x7F00)
    assert native_decoders.find_webp() is None


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 7), (63, 65)])
@pytest.mark.parametrize("lossless", [True, False])
def test_any_size_is_decoded(size: tuple[int, int], lossless: bool) -> None:
    info = inspect_image(picture("WEBP", *size, mode="RGBA", lossless=lossless))
    assert (info.width, info.height) == size


def test_a_picture_with_alpha_is_decoded_with_it() -> None:
    image = noise(64, 64).copy()
    image.putalpha(noise(64, 64, "L", b"alpha"))
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=80)
    data = buffer.getvalue()
    assert inspect_image(data).format == "webp"
    start = data.index(b"ALPH") + 8
    assert reason_for(data[:start] + b"\xff" * 40 + data[start + 40 :]) == "corrupt"


def test_webp_pixels_that_end_early_in_a_complete_container_are_detected() -> None:
    data = picture("WEBP", lossless=True)
    body = data[20 : 20 + (len(data) - 20) // 2 // 2 * 2]
    inner = b"VP8L" + struct.pack("<I", len(body)) + body
    assert reason_for(b"RIFF" + struct.pack("<I", 4 + len(inner)) + b"WEBP" + inner) in ("truncated", "corrupt")


def still(pixels: bytes) -> bytes:
    return webp_of(webp_canvas(0x08), pixels, riff_chunk(b"EXIF", noise().tobytes()))


def plain_still(pixels: bytes) -> bytes:
    return webp_of(pixels, riff_chunk(b"ABCD", noise().tobytes()))


def frame(pixels: bytes) -> bytes:
    inside = struct.pack("<6xHBHBI", 60, 0, 46, 0, 80) + pixels + riff_chunk(b"ABCD", noise().tobytes())
    return webp_of(webp_canvas(0x02), riff_chunk(b"ANIM", bytes(6)), riff_chunk(b"ANMF", inside))


@pytest.mark.parametrize("around", [still, plain_still, frame])
@pytest.mark.parametrize("lossless", [True, False])
def test_truncated_pixels_are_not_completed_from_later_chunks(around: Callable[[bytes], bytes], lossless: bool) -> None:
    data = picture("WEBP", lossless=lossless)
    kind, pixels = data[12:16], data[20 : 20 + struct.unpack_from("<I", data, 16)[0]]
    assert reason_for(around(riff_chunk(kind, pixels))) == ""
    cuts = [around(riff_chunk(kind, pixels[:cut])) for cut in range(0, len(pixels) - 3, 50)]  # encoders add a few bytes
    assert {reason_for(cut) for cut in cuts} <= {"truncated", "corrupt"}


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"ANIM", b"XNIM"), (b"VP8X\n\0\0\0\2", b"VP8X\n\0\0\0\x42")],
    ids=["no-loop", "unknown-flag"],
)
def test_a_container_that_no_library_opens_is_corrupt(old: bytes, new: bytes) -> None:
    assert reason_for(MAKERS["webp-animated"]().replace(old, new, 1)) == "corrupt"


def test_a_frame_outside_its_canvas_is_corrupt() -> None:
    data = bytearray(MAKERS["webp-animated"]())
    frame = data.index(b"ANMF") + 8
    data[frame : frame + 3] = b"\xff\0\0"
    assert reason_for(bytes(data)) == "corrupt"


def test_a_frame_whose_size_differs_from_its_header_is_corrupt() -> None:
    data = bytearray(MAKERS["webp-animated"]())
    height = data.rindex(b"\x9d\x01\x2a") + 5
    data[height + 1] = 1  # 256 rows more
    assert reason_for(bytes(data)) == "corrupt"


def test_an_animation_without_a_frame_is_corrupt() -> None:
    data = MAKERS["webp-animated"]().replace(b"ANMF", b"XXXX")
    assert reason_for(data) == "corrupt"


def test_the_only_frame_of_a_still_must_cover_its_canvas() -> None:
    data = picture("WEBP")
    assert list(webp_frames(data)) == [(range(12, len(data)), 61, 47)]


def test_later_frames_of_an_animation_are_decoded_up_to_the_pixel_limit() -> None:
    data = MAKERS["webp-animated"]()
    last = data.rindex(b"VP8") + 18  # behind its header, which libraries read when they open the file
    damaged = data[:last] + b"\xff" * (len(data) - last)
    assert reason_for(damaged) != ""
    assert inspect_image(damaged, max_pixels=2 * 61 * 47).frames == 3


@pytest.mark.parametrize("name", LEAN)
@settings(deadline=None)  # lenient decoders accept it
@given(data=st.data())
def test_damage_behind_the_header_gets_the_verdict_of_pillow(name: str, data: st.DataObject) -> None:
    damaged = bytearray(MAKERS[name]())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(len(damaged) // 2, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    ours = reason_for(bytes(damaged))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "_find_webp", lambda: None)
        patch.setattr(verify, "_find_avif", lambda: None)
        theirs = reason_for(bytes(damaged))
    assert ours or not theirs


@pytest.mark.parametrize(
    ("kind", "side", "options"),
    [
        pytest.param("JPEG", 6_300, {"progressive": True, "subsampling": 0}, marks=pytest.mark.fire),
        ("JPEG", 5_400, {"progressive": True, "mode": "CMYK"}),
    ],
)
def test_a_picture_that_needs_too_much_memory_is_refused(kind: str, side: int, options: dict[str, object]) -> None:
    assert reason_for(large(kind, side, **options)) == "pixels-limit"  # type: ignore[arg-type]


def test_a_progressive_jpeg_with_subsampling_is_accepted() -> None:
    found = outline(large("JPEG", 6_300, progressive=True))
    assert found.kept == 2 * 6_300**2 * 3 // 2
    assert outline(large("JPEG", 800)).kept == 0


def test_deep_colours_of_a_large_canvas_are_refused() -> None:
    with pytest.raises(InvalidImage, match="pixels-limit"):
        native_decoders.check_memory("avif", native_decoders.MAX_DECODED + 1)
