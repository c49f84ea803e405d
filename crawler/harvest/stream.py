"""What a parser tells of a page: elements that open and close, and the text in them; and limits for every parser."""

from collections.abc import Mapping
from typing import Protocol

#: Attributes of an element by lower-case name; an attribute without a value is the empty string.
Attributes = Mapping[str, str]

#: Elements of one page that are looked at.
MAX_ELEMENTS = 50_000
#: ``<`` signs of one page that are looked at: start tags, end tags, comments and those in scripts.
MAX_MARKUP = 4 * MAX_ELEMENTS
#: Open elements at which a page counts as hostile; browsers stop nesting at 512.
MAX_DEPTH = 3_000


class Visitor(Protocol):
    """Who is told. Each element that is entered is left again, in the order of a tree."""

    @property
    def full(self) -> bool:
        """Whether it wants no more."""
        ...

    def enter(self, name: str, attributes: Attributes) -> None:
        """An element begins; its name is lower-case."""
        ...

    def text(self, data: str) -> None:
        """Text stands here, in as many pieces as the parser likes."""
        ...

    def leave(self) -> None:
        """The element entered last ends."""
        ...


def shorten(text: str) -> str:
    """``text`` up to its ``<`` number `MAX_MARKUP`, without NUL."""
    text = text.replace("\0", "\ufffd")
    if text.count("<") <= MAX_MARKUP:
        return text
    position = -1
    for _ in range(MAX_MARKUP + 1):
        position = text.index("<", position + 1)
    return text[:position]
