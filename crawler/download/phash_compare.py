"""Search for images that look nearly the same, by their perceptual hashes, without comparing every pair. Pure.

Two images are near if at most `MAX_FORMS` bits of their forms differ, no tile's colour by more than `MAX_COLOR`, and
the sum of both is at most `MAX_BOTH`. The index: forms are eight words of 16 bits, so if two differ in at most 15 bits,
some word differs in at most one bit (multi-index hashing, Norouzi, Punjani and Fleet, 2012). An image is compared only
with those that have one of its words, or a word that differs in one bit: with random forms, 2,000 of a million. 200,000
images take a minute, and 300 bytes each.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

#: Bytes of a hash, and of its forms (`crawler.download.phash_compute`).
HASH_BYTES, _FORM_BYTES = 64, 16
_WORDS, _WORD_BITS = 8, 16
#: Largest difference in bits of 128, in steps of 255, and in their sum: a cropped image differs in fine forms or in
#: large colours, another image with the same layout in both. With the 500 drawn images of
#: ``tests/download/test_phash_compare.py``, these values find 99.4 % of those that were halved or compressed to
#: quality 50 (the rest are plain), 96.6 % of those that lost 2 % of each side, and no false pair among 2,936. Without
#: the third value half a percent more of the cropped images is found, but also six pairs of the bundled web that only
#: have the same layout.
MAX_FORMS, MAX_COLOR, MAX_BOTH = 15, 22, 25

assert MAX_FORMS < 2 * _WORDS  # noqa: S101  # otherwise every word may differ in two bits

#: Changes of a word that the index tries: none, or one bit.
_FLIPS = (0, *(1 << bit for bit in range(_WORD_BITS)))
#: Images between two progress reports.
_PAGE = 1_000


def leaders(hashes: Sequence[bytes], on_progress: Callable[[int], None]) -> "array[int]":
    """Return for each image the index of its leader: the image itself, or the first image that is near.

    An earlier image leads a later one, so the caller passes the best first. Nearness is not transitive here: each image
    is near to its leader.
    """
    hash_index = HashIndex(hashes)
    leader_of = array("I", range(len(hashes)))
    for index in range(len(hashes)):
        if leader_of[index] == index:
            for other in hash_index.near(index):
                if other > index and leader_of[other] == other:
                    leader_of[other] = index
        if index % _PAGE == 0:
            on_progress(index)
    return leader_of


class HashIndex:
    """An index that finds near hashes among these, each of `HASH_BYTES` bytes."""

    def __init__(self, hashes: Sequence[bytes]) -> None:
        self._forms = [int.from_bytes(value[:_FORM_BYTES], "big") for value in hashes]
        self._colors = b"".join(value[_FORM_BYTES:] for value in hashes)
        self._words = [_Word(self._forms, number * _WORD_BITS) for number in range(_WORDS)]

    def near(self, index: int) -> list[int]:
        """Return the sorted indexes of the hashes near to the one at ``index``, including that."""
        forms, all_forms = self._forms[index], self._forms
        others = set[int]().union(*(indexes for word in self._words for indexes in word.like(forms)))
        similar = [(other, bits) for other in others if (bits := (all_forms[other] ^ forms).bit_count()) <= MAX_FORMS]
        colors = self._colors_of(index)
        return sorted(other for other, bits in similar if _are_colors_near(colors, self._colors_of(other), bits))

    def _colors_of(self, index: int) -> bytes:
        length = HASH_BYTES - _FORM_BYTES
        return self._colors[index * length : (index + 1) * length]


class _Word:
    """An index by one word of the forms: the indexes of the hashes, grouped by the value of that word."""

    def __init__(self, forms: Sequence[int], shift: int) -> None:
        self._shift = shift
        values = array("H", ((form >> shift) & 0xFFFF for form in forms))
        counts = [0] * (2**_WORD_BITS + 1)
        for value in values:
            counts[value + 1] += 1
        self._starts = array("I", accumulate(counts))
        self._indexes = array("I", sorted(range(len(values)), key=values.__getitem__))

    def like(self, forms: int) -> Iterator["array[int]"]:
        """Yield the indexes of hashes whose word is equal to that of ``forms``, or differs from it in one bit."""
        value, starts = (forms >> self._shift) & 0xFFFF, self._starts
        for flip in _FLIPS:
            start, end = starts[value ^ flip], starts[(value ^ flip) + 1]
            if start != end:
                yield self._indexes[start:end]


def _are_colors_near(one: bytes, other: bytes, forms: int) -> bool:
    """Return whether colours are near enough if ``forms`` bits of form differ."""
    limit = min(MAX_COLOR, MAX_BOTH - forms)
    return all(-limit <= here - there <= limit for here, there in zip(one, other, strict=True))
