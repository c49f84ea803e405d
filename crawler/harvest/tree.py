"""HTML text to a BeautifulSoup tree, with limits that hold while parsing, not after it.

A page may be 10 MiB of ``<b>``: unlimited, that is a tree of several gigabytes, and a parser that searches a
stack of a million open elements at every end tag.
"""

from collections.abc import Iterable
from typing import Any

from bs4 import BeautifulSoup, Tag
from bs4.builder import LXMLTreeBuilder  # type: ignore[attr-defined]  # there at run time
from bs4.element import ProcessingInstruction
from lxml import etree

#: Elements of one page that are looked at.
MAX_ELEMENTS = 50_000
#: ``<`` signs of one page that are looked at: start tags, end tags, comments and those in scripts.
MAX_MARKUP = 4 * MAX_ELEMENTS
#: Open elements at which a page counts as hostile; browsers stop nesting at 512.
MAX_DEPTH = 3_000
#: Characters between two looks at the limits.
_PIECE = 65_536


def parse(text: str) -> tuple[BeautifulSoup, bool]:
    """The tree of ``text``, and whether a limit cut something off. Never raises, whatever the text is."""
    shortened = _shorten(text.replace("\0", "\ufffd"))
    if "<" not in shortened:  # BeautifulSoup would take it for a file name, and warn
        return BeautifulSoup("", "lxml"), False
    soup = _Soup(shortened, builder=_Builder())
    return soup, soup.cut or len(shortened) < len(text)


def _shorten(text: str) -> str:
    """``text`` up to its ``<`` number `MAX_MARKUP`."""
    if text.count("<") <= MAX_MARKUP:
        return text
    position = -1
    for _ in range(MAX_MARKUP + 1):
        position = text.index("<", position + 1)
    return text[:position]


class _Soup(BeautifulSoup):
    """A BeautifulSoup that takes no more elements than `MAX_ELEMENTS`."""

    cut = False
    _elements = 0

    def handle_starttag(self, *args: Any, **kwargs: Any) -> Tag | None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            self.cut = True
            return None
        return super().handle_starttag(*args, **kwargs)

    @property
    def full(self) -> bool:
        """Whether to stop parsing."""
        return self.cut or len(self.tagStack) > MAX_DEPTH


class _Builder(LXMLTreeBuilder):  # type: ignore[misc]
    """lxml's builder fed with text in pieces: no guesses at the encoding, no warning about XML."""

    def prepare_markup(self, markup: Any, *_: Any, **__: Any) -> Iterable[tuple[Any, None, None, bool]]:
        self.processing_instruction_class = ProcessingInstruction
        yield markup, None, None, False

    def feed(self, markup: Any) -> None:
        soup: Any = self.soup
        try:
            self.parser = self.parser_for(None)
            for start in range(0, len(markup), _PIECE):
                self.parser.feed(markup[start : start + _PIECE])
                if soup.full:
                    soup.cut = True
                    break
            self.parser.close()
        except (ValueError, LookupError, etree.LxmlError):  # what was read up to here is worth having
            soup.cut = True
