"""HTML text to a BeautifulSoup tree, with limits that hold while parsing, not after it.

A page may be 10 MiB of ``<b>``: unlimited, that is a tree of several gigabytes, and a parser that searches a
stack of a million open elements at every end tag.
"""

import re
from collections.abc import Iterable
from typing import Any

from bs4 import BeautifulSoup, Tag
from bs4.builder import LXMLTreeBuilder  # type: ignore[attr-defined]  # there at run time
from bs4.element import NavigableString, PageElement, PreformattedString, ProcessingInstruction
from lxml import etree

from crawler.harvest.stream import MAX_DEPTH, MAX_ELEMENTS, Visitor, shorten

_BODY = re.compile(r"<body(\s[^>]*+)", re.IGNORECASE)
#: Characters between two looks at the limits.
_PIECE = 65_536


def feed(text: str, visitor: Visitor) -> bool:
    """Tell ``visitor`` what lxml makes of ``text``, and the caller whether a limit cut something off."""
    soup, cut = parse(text)
    tags: list[Tag] = [soup]
    node: PageElement | None = soup.contents[0] if soup.contents else None
    while node is not None and not visitor.full:
        while tags[-1] is not node.parent:
            tags.pop()
            visitor.leave()
        if isinstance(node, Tag):
            tags.append(node)
            visitor.enter(node.name, node.attrs)  # type: ignore[arg-type]  # the builder makes no lists of words
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString):
            visitor.text(node)
        node = node.next_element
    for _ in tags[1:]:
        visitor.leave()
    return cut


def parse(text: str) -> tuple[BeautifulSoup, bool]:
    """The tree of ``text``, and whether a limit cut something off. Never raises, whatever the text is."""
    shortened = shorten(text)
    if "<" not in shortened:  # BeautifulSoup would take it for a file name, and warn
        return BeautifulSoup("", "lxml"), False
    first = next(filter(_paints, _BODY.finditer(shortened)), None)
    position = first.end() if first else len(shortened)
    soup = _soup(shortened[:position] + _BODY.sub(_late, shortened[position:]))
    if first and not (soup.body and soup.body.attrs.keys() & {"background", "style"}):
        soup = _soup(_BODY.sub(_late, shortened))
    return soup, soup.cut or len(shortened) < len(text)


def _paints(body: re.Match[str]) -> bool:
    return "background" in body[1].lower()


def _late(body: re.Match[str]) -> str:
    """An element of its own for a ``<body>``: where one is open, lxml drops it, while browsers heed its attributes."""
    return f"<late-body{body[1]}" if _paints(body) else body[0]


def _soup(text: str) -> "_Soup":
    return _Soup(text, builder=_Builder(multi_valued_attributes=None))


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
