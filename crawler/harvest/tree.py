"""HTML text to a BeautifulSoup tree, with limits that hold while parsing, not after it.

A page may be 10 MiB of ``<b>``: unlimited, that is a tree of several gigabytes, and a parser that searches a
stack of a million open elements at every end tag. What stands behind the limits is left to `crawler.harvest.flat`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from bs4 import BeautifulSoup, Tag
from bs4.builder import LXMLTreeBuilder  # type: ignore[attr-defined]  # there at run time
from bs4.element import NavigableString, PageElement, PreformattedString, ProcessingInstruction
from lxml import etree

from crawler.harvest import flat
from crawler.harvest.stream import MAX_DEPTH, MAX_ELEMENTS, Attributes, Visitor, shorten

_BODY = re.compile(r"<body(\s[^>]*+)", re.IGNORECASE)
#: Characters between two looks at the limits.
_PIECE = 65_536


def feed(text: str, visitor: Visitor) -> bool:
    """Tell ``visitor`` what lxml makes of ``text``, and the caller whether a limit cut something off."""
    if flat.is_needed(text):
        flat.feed(text, visitor)
        return True
    soup = _parse(text)
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
    _tell_late(soup, visitor)
    if soup.rest:
        flat.feed(soup.rest, visitor)
    return soup.cut


def parse(text: str) -> tuple[BeautifulSoup, bool]:
    """The tree of ``text``, and whether a limit cut something off. Never raises, whatever the text is."""
    soup = _parse(text)
    return soup, soup.cut


def _parse(text: str) -> "_Soup":
    shortened = shorten(text)
    if "<" not in shortened:  # BeautifulSoup would take it for a file name, and warn
        empty = _soup("")
        empty.cut = False
        return empty
    first = next(filter(_paints, _BODY.finditer(shortened)), None)
    position = first.end() if first else len(shortened)
    soup = _soup(shortened[:position] + _BODY.sub(_late, shortened[position:]))
    if first and not (soup.body and soup.body.attrs.keys() & {"background", "style"}):
        soup = _soup(_BODY.sub(_late, shortened))
    if len(shortened) < len(text):
        soup.cut = True
        soup.rest += text[len(shortened) :]
    return soup


def _paints(body: re.Match[str]) -> bool:
    return "background" in body[1].lower()


def _late(body: re.Match[str]) -> str:
    """An element of its own for a ``<body>``: where one is open, lxml drops it, while browsers heed its attributes."""
    return f"<late-body{body[1]}" if _paints(body) else body[0]


def _soup(text: str) -> "_Soup":
    return _Soup(text, builder=_Builder(multi_valued_attributes=None))


def _tell_late(soup: "_Soup", visitor: Visitor) -> None:
    """Tell of the elements that came too late for the tree."""
    names: list[str] = []
    for late in soup.late:
        if late.kind == "element" and not visitor.full:
            names.append(late.data)
            visitor.enter(late.data, late.attributes)
        elif late.kind == "text" and late.data and not visitor.full:
            visitor.text(late.data)
        elif late.kind == "end" and late.data in names:
            while names.pop() != late.data:
                visitor.leave()
            visitor.leave()
    for _ in names:
        visitor.leave()


class _Late(NamedTuple):
    """What a parser tells: an element, a text, or the end of the element of that name."""

    kind: Literal["element", "text", "end"]
    data: str
    attributes: Attributes = {}


class _Soup(BeautifulSoup):
    """A BeautifulSoup that takes no more elements than `MAX_ELEMENTS`."""

    cut = False
    _elements = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: What came when there were too many elements, up to the end of the piece.
        self.late: list[_Late] = []
        #: Text that was not read any more.
        self.rest = ""
        super().__init__(*args, **kwargs)

    def handle_starttag(
        self, name: str, namespace: Any, nsprefix: Any, attrs: Mapping[Any, str], *args: Any, **kwargs: Any
    ) -> Tag | None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            self.cut = True
            self.late.append(_Late("element", name, dict(attrs)))
            return None
        return super().handle_starttag(name, namespace, nsprefix, attrs, *args, **kwargs)

    def handle_endtag(self, name: str, nsprefix: Any = None) -> None:
        if self.cut:
            self.late.append(_Late("end", name))
        else:
            super().handle_endtag(name, nsprefix)

    def handle_data(self, data: str) -> None:
        if self.cut:
            self.late.append(_Late("text", data))
        else:
            super().handle_data(data)

    def endData(self, containerClass: Any = None) -> None:  # noqa: N802, N803  # named by BeautifulSoup
        if self.cut and containerClass is not None and self.late and self.late[-1].kind == "text":
            self.late.pop()  # was a comment, or its like
        super().endData(containerClass)

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
            start = 0
            while start < len(markup):
                end = _tag_before(markup, start, start + _PIECE)
                self.parser.feed(markup[start:end])
                if soup.full:
                    soup.cut = True
                    soup.rest = markup[end:]
                    break
                start = end
            self.parser.close()
        except (ValueError, LookupError, etree.LxmlError):  # what was read up to here is worth having
            soup.cut = True


def _tag_before(markup: str, start: int, end: int) -> int:
    """Where to cut, so that no tag is: before the last one that begins, else at ``end``."""
    if end >= len(markup):
        return len(markup)
    position = markup.rfind("<", start + 1, end)
    return position if position > 0 else end
