"""Interface between parsers and the walk over a page, and limits for every parser."""

from collections.abc import Mapping
from typing import Protocol

#: Attributes of an element by lower-case name; an attribute without a value is the empty string.
Attributes = Mapping[str, str]

#: Most elements of one page that are read.
MAX_ELEMENTS = 50_000
#: Most ``<`` signs of one page that are read: start tags, end tags, comments and those in scripts.
_MAX_MARKUP = 4 * MAX_ELEMENTS
#: Number of open elements from which a page counts as hostile; browsers stop nesting at 512.
MAX_DEPTH = 3_000


class Visitor(Protocol):
    """Receiver of a parser's events. The parser leaves each element that it enters, in the order of a tree."""

    @property
    def full(self) -> bool:
        """Whether the visitor needs no more events."""
        ...

    def enter(self, name: str, attributes: Attributes) -> None:
        """Begin an element; its name is lower-case."""
        ...

    def text(self, data: str) -> None:
        """Receive text, in any number of pieces."""
        ...

    def leave(self) -> None:
        """End the element entered last."""
        ...


def shorten(text: str) -> str:
    """Return ``text`` up to its ``<`` number `_MAX_MARKUP`, with NUL replaced."""
    text = text.replace("\0", "\ufffd")
    if text.count("<") <= _MAX_MARKUP:
        return text
    position = -1
    for _ in range(_MAX_MARKUP + 1):
        position = text.index("<", position + 1)
    return text[:position]
