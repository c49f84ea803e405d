"""Near-duplicates: similar pictures are found, different ones are not, for pictures with known truth and any hash."""

import time
from collections.abc import Callable, Iterator
from itertools import combinations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crawler.download.phash_compare import HASH_BYTES, MAX_BOTH, MAX_COLOR, MAX_FORMS, HashIndex, leaders
from crawler.download.phash_compute import perceptual_hash
from crawler.download.verify import inspect_image
from tests.download.pictures import MAKERS
from tests.download.scenes import SIZE, cropped, file_of, recompressed, resized, scene

#: A picture as it is, and the usual changes to it.
FORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "original": lambda picture: picture,
    "resized": resized,
    "recompressed": recompressed,
    "cropped": cropped,
}


def is_near(one: bytes, other: bytes) -> bool:
    """Return whether the images of two hashes look nearly the same, without an index."""
    forms = (int.from_bytes(one[:16]) ^ int.from_bytes(other[:16])).bit_count()
    limit = min(MAX_COLOR, MAX_BOTH - forms)
    return forms <= MAX_FORMS and all(abs(a - b) <= limit for a, b in zip(one[16:], other[16:], strict=True))


def hash_of(data: bytes) -> bytes:
    return bytes.fromhex(inspect_image(data, with_phash=True).phash)


def likeness(picture: Image.Image) -> bytes:
    return bytes.fromhex(perceptual_hash(picture))


@pytest.fixture(scope="module", params=[100, pytest.param(500, marks=pytest.mark.fire)])
def originals(request: pytest.FixtureRequest) -> int:
    """Return the number of different pictures."""
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def hashes(originals: int) -> dict[tuple[int, str], bytes]:
    """Return (number of the original, change) → hash, of files in three formats in turn."""
    formats = (("PNG", {"compress_level": 1}), ("JPEG", {"quality": 90}), ("WEBP", {"quality": 90, "method": 0}))
    found = {}
    for number in range(originals):
        picture = scene(number)
        for place, (name, change) in enumerate(FORMS.items()):
            kind, options = formats[(number + place) % len(formats)]
            found[number, name] = hash_of(file_of(change(picture), kind, **options))
    return found


@pytest.mark.parametrize("name", [name for name in FORMS if name != "original"])
def test_a_slightly_changed_picture_is_near(originals: int, hashes: dict[tuple[int, str], bytes], name: str) -> None:
    pairs = [(hashes[number, "original"], hashes[number, name]) for number in range(originals)]
    found = sum(bool(one and other) and is_near(one, other) for one, other in pairs)
    print(f"{name}: {found} of {originals} are found")  # noqa: T201  # shown with -s
    assert found >= 0.95 * originals


def test_at_most_one_pair_of_200_is_a_false_match(originals: int, hashes: dict[tuple[int, str], bytes]) -> None:
    places = [place for place, whole in hashes.items() if whole]
    index = HashIndex([hashes[place] for place in places])
    found = [(places[one], places[other]) for one in range(len(places)) for other in index.near(one) if other > one]
    true = sum(one[0] == other[0] for one, other in found)
    whole = originals * len(list(combinations(FORMS, 2)))
    print(f"{true} of {whole} pairs are found, {len(found) - true} of the {len(found)} found are false")  # noqa: T201
    assert true >= 0.95 * whole
    assert len(found) - true <= 0.005 * len(found)


def test_each_picture_of_a_group_is_near_its_leader(originals: int, hashes: dict[tuple[int, str], bytes]) -> None:
    known = [whole for whole in hashes.values() if whole]
    stands = leaders(known, lambda number: None)
    assert all(best <= place and is_near(known[best], known[place]) for place, best in enumerate(stands))
    assert all(stands[best] == best for best in stands)
    assert originals * 0.95 <= len(set(stands)) <= originals * 1.1


# --- the hash


def test_another_colour_is_another_picture() -> None:
    red, blue = (scene(11).convert("RGB", matrix=matrix) for matrix in (_SWAPPED, _PLAIN))
    assert likeness(red)[:16] != b"" and not is_near(likeness(red), likeness(blue))


_PLAIN = (1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
_SWAPPED = (0, 0, 1.0, 0, 0, 1, 0, 0, 1, 0, 0, 0)


@pytest.mark.parametrize("color", ["white", "black", (17, 99, 201)])
def test_a_plain_background_has_no_hash(color: str) -> None:
    assert perceptual_hash(Image.new("RGB", SIZE, color)) == ""
    assert inspect_image(file_of(Image.new("RGB", (1, 1), color)), with_phash=True).phash == ""


@pytest.mark.parametrize("mode", ["L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_the_colour_mode_does_not_matter(mode: str) -> None:
    grey = scene(1).convert("L")
    assert is_near(likeness(grey.convert(mode)), likeness(grey))


def test_a_black_and_white_picture_has_a_hash() -> None:
    assert len(likeness(scene(1).convert("1"))) == HASH_BYTES


def test_sixteen_bits_give_the_hash_of_eight() -> None:
    grey = scene(1).convert("L")
    deep = Image.frombytes("I;16", grey.size, b"".join(bytes((0, value)) for value in grey.tobytes()))
    assert is_near(likeness(deep), likeness(grey))


def test_transparent_pixels_are_hashed_on_white() -> None:
    picture = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    picture.paste(scene(2).resize((160, 120)), (80, 60))
    on_white = Image.new("RGB", SIZE, "white")
    on_white.paste(scene(2).resize((160, 120)), (80, 60))
    assert is_near(likeness(picture), likeness(on_white))


def test_a_picture_that_pillow_can_not_convert_has_no_hash_and_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("conversion not supported")

    data = file_of(scene(0))
    monkeypatch.setattr("crawler.download.phash_compute._on_white", refuse)
    assert inspect_image(data, with_phash=True).phash == ""


@pytest.mark.parametrize("name", MAKERS)
def test_every_format_has_a_hash_and_gets_the_same_verdict_with_it(name: str) -> None:
    data = MAKERS[name]()
    found = inspect_image(data, with_phash=True)
    assert len(found.phash) == 2 * HASH_BYTES
    plain = inspect_image(data)
    assert (plain.phash, plain.format, plain.width, plain.frames) == ("", found.format, found.width, found.frames)


def test_the_cost_grows_little_with_the_size() -> None:
    large = scene(0).resize((4_000, 3_000))
    started = time.process_time()
    found = likeness(large)
    assert time.process_time() - started < 0.5  # seconds; it takes a fortieth of that
    assert is_near(found, likeness(scene(0)))


# --- the index


def _hash(dice: Random, near_to: bytes | None = None) -> bytes:
    """Draw any hash, or one that differs from another in about as many bits as the limit."""
    if near_to is None:
        return dice.randbytes(HASH_BYTES)
    forms = int.from_bytes(near_to[:16], "big")
    for bit in dice.sample(range(128), dice.choice([0, 2, 3, 4, *range(MAX_FORMS - 3, MAX_FORMS + 4)])):
        forms ^= 1 << bit
    shift = dice.choice([0, 1, MAX_BOTH - MAX_FORMS, MAX_BOTH - MAX_FORMS + 1, MAX_COLOR, MAX_COLOR + 1])
    colors = bytes(min(255, max(0, value + dice.choice([-shift, 0, shift]))) for value in near_to[16:])
    return forms.to_bytes(16, "big") + colors


def _hashes(seed: int, number: int) -> Iterator[bytes]:
    dice, known = Random(seed), list[bytes]()  # noqa: S311
    for _ in range(number):
        known.append(_hash(dice, dice.choice(known) if known and dice.random() < 0.7 else None))
        yield known[-1]


@given(st.integers(0, 2**32), st.integers(0, 60))
def test_the_index_finds_the_same_as_comparing_all_pairs(seed: int, number: int) -> None:
    known = list(_hashes(seed, number))
    index = HashIndex(known)
    near = {(one, other) for one in range(number) for other in index.near(one)}
    assert near == {
        (one, other) for one in range(number) for other in range(number) if is_near(known[one], known[other])
    }


def test_near_pictures_differ_in_at_most_15_bits() -> None:
    forms = b"\0" * 16
    colors = bytes(48)
    for bits, answer in ((MAX_FORMS, True), (MAX_FORMS + 1, False)):
        # Two bits in each word but the last: the hardest to find.
        value = sum(0b11 << 16 * word for word in range(bits // 2)) + (bits % 2 << 112)
        other = value.to_bytes(16, "big") + colors
        assert is_near(forms + colors, other) is answer
        assert (1 in HashIndex([forms + colors, other]).near(0)) is answer


def test_many_hashes_are_compared_in_much_less_time_than_all_pairs() -> None:
    number = 10_000
    known = list(_hashes(1, number))
    started = time.process_time()
    leaders(known, lambda place: None)
    taken = time.process_time() - started
    print(f"{number} pictures in {taken:.1f} s of work")  # noqa: T201
    assert taken < 8.0  # seconds; a tenth of it is usual, and comparing all pairs takes half a minute
