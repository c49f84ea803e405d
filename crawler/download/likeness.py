"""Which of many pictures look nearly the same, by their perceptual hashes; pure, and far from comparing each to each.

Two are near where at most `MAX_FORMS` bits of their forms differ, no part's colour by more than `MAX_COLOR`, and both
together by no more than `MAX_BOTH`. The index: forms are eight words of 16 bits, so of two that differ in 15 bits at
most, some word differs in one bit or none (multi-index hashing, Norouzi, Punjani and Fleet, 2012). A picture is
compared to those that have one of its words, or one next to it: with random forms to 2,000 of a million. 200,000 of
them take a minute, and 300 bytes each.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

#: Bytes of a hash, and of the forms in it (`crawler.download.phash`).
HASH_BYTES, _FORM_BYTES = 64, 16
_WORDS, _WORD_BITS = 8, 16
#: Bits of 128, steps of 255, and both together: what a cut has shifted differs in fine forms or in large colours,
#: another picture of the same layout in both. Of 500 drawn pictures (``tests/download/test_likeness.py``) these find
#: 99.4 % of those that were halved or compressed to quality 50 (the rest are plain), 96.6 % of those that lost 2 % of
#: each side, and no false pair among 2,936. Without the third number half a percent more of the cut ones is found, but
#: on the bundled web, too, six pairs that only have one layout.
MAX_FORMS, MAX_COLOR, MAX_BOTH = 15, 22, 25

assert MAX_FORMS < 2 * _WORDS  # noqa: S101  # else a word may differ in two bits, and the index misses it

#: What a word is changed by: by nothing, or in one bit.
_FLIPS = (0, *(1 << bit for bit in range(_WORD_BITS)))
#: Pictures between two words about progress.
_PAGE = 1_000


def is_near(one: bytes, other: bytes) -> bool:
    """Whether two hashes are those of pictures that look nearly the same."""
    forms = _forms(one, other)
    return forms <= MAX_FORMS and _are_colors_near(one[_FORM_BYTES:], other[_FORM_BYTES:], forms)


def leaders(hashes: Sequence[bytes], on_progress: Callable[[int], None]) -> "array[int]":
    """For each picture the place of the one that stands for it: itself, or the first one that is near.

    The earlier stands for the later, so the best come first. Nobody is near by way of another: each is near to the one
    that stands for it.
    """
    index = Index(hashes)
    stands = array("I", range(len(hashes)))
    for place in range(len(hashes)):
        if stands[place] == place:
            for other in index.near(place):
                if other > place and stands[other] == other:
                    stands[other] = place
        if place % _PAGE == 0:
            on_progress(place)
    return stands


class Index:
    """Finds those that are near among these hashes, each of `HASH_BYTES` bytes."""

    def __init__(self, hashes: Sequence[bytes]) -> None:
        self._forms = [int.from_bytes(whole[:_FORM_BYTES], "big") for whole in hashes]
        self._colors = b"".join(whole[_FORM_BYTES:] for whole in hashes)
        self._words = [_Word(self._forms, number * _WORD_BITS) for number in range(_WORDS)]

    def near(self, place: int) -> list[int]:
        """Places of those that are near to the one in a place, in their order; itself is among them."""
        forms, known = self._forms[place], self._forms
        others = set[int]().union(*(some for word in self._words for some in word.like(forms)))
        found = [(other, bits) for other in others if (bits := (known[other] ^ forms).bit_count()) <= MAX_FORMS]
        colors = self._colors_of(place)
        return sorted(other for other, bits in found if _are_colors_near(colors, self._colors_of(other), bits))

    def _colors_of(self, place: int) -> bytes:
        length = HASH_BYTES - _FORM_BYTES
        return self._colors[place * length : (place + 1) * length]


class _Word:
    """Places by one word of their forms: those of each value, one after the other."""

    def __init__(self, forms: Sequence[int], shift: int) -> None:
        self._shift = shift
        values = array("H", ((form >> shift) & 0xFFFF for form in forms))
        counts = [0] * (2**_WORD_BITS + 1)
        for value in values:
            counts[value + 1] += 1
        self._starts = array("I", accumulate(counts))
        self._places = array("I", sorted(range(len(values)), key=values.__getitem__))

    def like(self, forms: int) -> Iterator["array[int]"]:
        """Places whose word is that of ``forms``, or differs from it in one bit."""
        value, starts = (forms >> self._shift) & 0xFFFF, self._starts
        for flip in _FLIPS:
            start, end = starts[value ^ flip], starts[(value ^ flip) + 1]
            if start != end:
                yield self._places[start:end]


def _forms(one: bytes, other: bytes) -> int:
    """Bits of form in which two hashes differ."""
    return (int.from_bytes(one[:_FORM_BYTES], "big") ^ int.from_bytes(other[:_FORM_BYTES], "big")).bit_count()


def _are_colors_near(one: bytes, other: bytes, forms: int) -> bool:
    """Whether colours are near enough where so many bits of form differ."""
    most = min(MAX_COLOR, MAX_BOTH - forms)
    return all(-most <= here - there <= most for here, there in zip(one, other, strict=True))
