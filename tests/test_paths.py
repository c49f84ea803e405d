"""Paths of picture files that remote workers and masters send."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.paths import MAX_PATH, MAX_SEGMENT, hash_in, is_like_a_picture, is_picture, is_safe

SHA = "2a301c2b4d86434f1091fc8b13b3b8c5f11402525dde37f722bcc04aabe4793d"
SHORT = SHA[:32]


@pytest.mark.parametrize(
    "path",
    [
        f"images/2a/{SHA}.jpg",
        f"images/{SHA}.jpg",
        f"images/{SHORT}.png",
        f"images/example.org/gallery/harbour.{SHORT}.jpg",
        f"images/Boats in the harbour (1)_{SHA}.tiff",
        f"images/日本/été.{SHORT}.webp",
        f"images/x.{'0' * 32}.{SHORT}.jpg",
    ],
)
def test_the_path_of_a_picture_ends_with_its_hash(path: str) -> None:
    assert is_safe(path) and is_picture(path, SHA) and hash_in(path) == SHORT
    assert not is_picture(path, SHA[::-1])


@pytest.mark.parametrize(
    "path",
    [
        "",
        "images/",
        "images/boat.jpg",
        f"elsewhere/{SHA}.jpg",
        f"/images/{SHA}.jpg",
        f"images/../{SHA}.jpg",
        f"images/{SHA}",
        f"images/{SHA}.JPG",
        f"images/{SHA}.jpg.exe.sh",
        f"images/{SHA}.jpg/x",
        f"images/{SHORT}{'0' * 32}.jpg",
        f"images/x{SHORT}.jpg",
        f"images/{SHORT[:31]}.jpg",
        f"images/nul.{SHORT}.jpg",
        f"images/.{SHORT}.jpg",
        f"images/a\u202eb.{SHORT}.jpg",
        f"images/a\\b.{SHORT}.jpg",
        f"images/x.{SHORT}.jpg/y.{SHORT}.jpg",
        f"images/X.{SHORT.upper()}.JPG/y.{SHORT}.jpg",
        f"images/\ufb00{'0' * 30}.jpg/y.{SHORT}.jpg",  # two letters, once its case is folded
        f"images/{'a' * (MAX_SEGMENT + 1)}/{SHORT}.jpg",
        f"images/{'漢' * 67}/{SHORT}.jpg",
        "images/" + "a/" * MAX_PATH + f"{SHORT}.jpg",
    ],
)
def test_any_other_path_is_not_a_picture(path: str) -> None:
    assert not is_picture(path, SHA)


@pytest.mark.parametrize(
    "device", ["CON", "con", "nul.jpg", "nul .jpg", "Aux", "PRN.", "COM0", "com9.x", "LPT¹", "lpt³ .y"]
)
def test_device_names_are_refused(device: str) -> None:
    assert not is_safe(device) and not is_safe(f"{device}/x") and is_safe(f"x{device.rstrip('.')}")


@given(st.text())
def test_a_safe_path_is_printable_and_unambiguous(path: str) -> None:
    if not is_safe(path):
        return
    assert not path.startswith("/") and not set(path) & set('\\:*?"<>|~\0')
    for segment in path.split("/"):
        assert segment not in ("", ".", "..") and segment[-1] not in " ."
        assert not any(unicodedata.category(char) in ("Cc", "Cs", "Co", "Zl", "Zp") for char in segment)
        assert not set(segment) & set(
            "\u00ad\u061c\u180e\u200b\u200d\u200e\u202a\u202e\u2066\u2069\ufe0f\ufeff\U000e0041"
        )


@given(st.text(alphabet="ab0. _-/\\\u202eÄ", max_size=12), st.sampled_from([SHORT, SHA]))
def test_a_folder_may_not_be_named_like_a_picture(folder: str, digits: str) -> None:
    for spelling in (f"{folder}{digits}.jpg", f"{folder}{digits}.jpg".upper()):
        if is_like_a_picture(spelling):
            assert not is_safe(f"{spelling}/x")
