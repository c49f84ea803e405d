"""Parser of the ``srcset`` attribute by the WHATWG algorithm, which does not simply split at commas.

Source: https://html.spec.whatwg.org/multipage/images.html#parse-a-srcset-attribute. Like browsers, the parser drops a
candidate with an invalid descriptor. It never raises.
"""

import math
import re

from msgspec import Struct

#: Most candidates taken from one attribute; real ones have a dozen.
MAX_CANDIDATES = 1_000

#: ASCII whitespace of the HTML standard; Python's ``\s`` and ``str.split`` include more characters.
_SPACE = " \t\n\f\r"
_URL = re.compile(rf"[{_SPACE},]*+([^{_SPACE}]*+)")
#: Text up to the next comma outside of parentheses; possessive, so that hostile text takes linear time.
_DESCRIPTORS = re.compile(r"((?:[^(,]++|\([^)]*+\)?)*+),?")
#: Widths of more than ten digits are not pixels, and `int` refuses thousands of digits.
_WHOLE = re.compile(r"0*([1-9][0-9]{0,9})")
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class Candidate(Struct, frozen=True):
    """A candidate of a ``srcset``. The URL is as written, not resolved."""

    url: str
    #: Pixels, from a ``w`` descriptor.
    width: int | None = None
    #: Pixels of the image per pixel of the page, from an ``x`` descriptor.
    density: float | None = None


def parse_srcset(text: str) -> tuple[Candidate, ...]:
    """Return the candidates of a ``srcset`` or ``imagesrcset`` attribute, in order, at most `MAX_CANDIDATES`."""
    candidates: list[Candidate] = []
    position = 0
    while len(candidates) < MAX_CANDIDATES and (match := _URL.match(text, position)) and match[1]:
        position = match.end()
        url = match[1].rstrip(",")
        descriptors = ""
        if url == match[1]:
            rest = _DESCRIPTORS.match(text, position)
            assert rest is not None  # noqa: S101  # the pattern matches the empty string
            descriptors, position = rest[1], rest.end()
        candidate = _describe(url, descriptors)
        if candidate is not None:
            candidates.append(candidate)
    return tuple(candidates)


def _describe(url: str, descriptors: str) -> Candidate | None:
    """Return the candidate for ``url`` and ``descriptors``, or None if a descriptor is invalid."""
    width: int | None = None
    height: int | None = None
    density: float | None = None
    for descriptor in descriptors.strip(_SPACE).translate(_SPACES).split(" ") if descriptors else ():
        if not descriptor:
            continue
        number, unit = descriptor[:-1], descriptor[-1]
        if unit == "w" and width is None and density is None:
            width = _whole(number)
            valid = width is not None
        elif unit == "h" and height is None and density is None:
            height = _whole(number)
            valid = height is not None
        elif unit == "x" and width is None and height is None and density is None:
            density = _number(number)
            valid = density is not None
        else:
            valid = False
        if not valid:
            return None
    return Candidate(url, width, density) if height is None or width is not None else None


_SPACES = str.maketrans(dict.fromkeys(_SPACE, " "))


def _whole(text: str) -> int | None:
    """Return a valid integer above zero, or None."""
    match = _WHOLE.fullmatch(text)
    return int(match[1]) if match else None


def _number(text: str) -> float | None:
    """Return a valid floating-point number that is finite and not negative, or None."""
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if 0 <= value < math.inf else None
