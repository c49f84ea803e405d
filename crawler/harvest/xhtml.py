"""XHTML text to the same events as HTML: elements are what their namespace says, whatever their prefix.

Browsers read it with an XML parser and stop at its first fault. What is at fault anywhere, or suspicious, is read as
HTML instead, by `crawler.harvest.tree`, which finds at least as much. Pure, and no text makes it raise.
"""

import re
from collections.abc import Iterator, Mapping

from lxml import etree

from crawler.harvest import tree
from crawler.harvest.stream import MAX_ELEMENTS, Attributes, Visitor
from crawler.harvest.xmltext import repaired

#: Media types that browsers read with an XML parser.
XML_TYPES = frozenset({"application/xhtml+xml", "application/xml", "text/xml"})

#: Namespaces whose elements go by their bare names; pages that forget to declare one mean HTML.
_ELEMENTS = frozenset({"", "http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"})
#: Namespaces of attributes → the prefix they have here.
_PREFIXES = {
    "": "",
    "http://www.w3.org/1999/xlink": "xlink:",
    "http://www.w3.org/XML/1998/namespace": "xml:",
}
#: Declarations with which a few characters become many: entities, attributes by default, namespaces of great length.
_SUSPICIOUS = re.compile(r"<!(?:ENTITY|ATTLIST|ELEMENT|NOTATION)|xmlns[^\s=<>]{0,99}\s*=\s*(?:\"[^\"]{200}|'[^']{200})")
#: Characters between two looks at the limits.
_PIECE = 65_536
#: Attributes of one element.
_MAX_ATTRIBUTES = 1_000


def feed(text: str, visitor: Visitor) -> bool:
    """Tell ``visitor`` what an XML parser makes of ``text``, and the caller whether a limit cut something off."""
    events = None if _SUSPICIOUS.search(text) else _read(text.lstrip())
    if events is None:
        return tree.feed(text, visitor)
    depth = 0
    for event in events:
        if event is None:
            visitor.leave()
            depth -= 1
        elif visitor.full:
            break
        elif isinstance(event, str):
            visitor.text(event)
        else:
            visitor.enter(*event)
            depth += 1
    for _ in range(depth):
        visitor.leave()
    return False


#: The beginning of an element, a text, or the end of an element.
_Event = tuple[str, Attributes] | str | None


def _read(text: str) -> list[_Event] | None:
    """What the document consists of; None where it is no XML, or too much."""
    target = _Target()
    parser = etree.XMLParser(
        target=target, resolve_entities=True, load_dtd=False, no_network=True, huge_tree=False, encoding="utf-8"
    )
    try:
        for piece in repaired(_pieces(text)):
            parser.feed(piece.encode())
        parser.close()
    except (ValueError, etree.LxmlError):
        return None
    return target.events


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))


class _Target:
    """Takes what the parser tells."""

    def __init__(self) -> None:
        self.events: list[_Event] = []
        self._elements = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS or len(attributes) > _MAX_ATTRIBUTES:
            raise ValueError("too much for a list")
        namespace, _, name = tag.rpartition("}")
        is_known = namespace[1:] in _ELEMENTS
        self.events.append((name.lower(), _named(attributes)) if is_known else (f"other:{name}", {}))

    def end(self, _: str) -> None:
        self.events.append(None)

    def data(self, text: str) -> None:
        self.events.append(text)

    def close(self) -> None:
        pass


def _named(attributes: Mapping[str, str]) -> Attributes:
    known: dict[str, str] = {}
    for key, value in attributes.items():
        namespace, _, name = key.rpartition("}")
        prefix = _PREFIXES.get(namespace[1:])
        if prefix is not None:
            known.setdefault(f"{prefix}{name}".lower(), value)
    return known
