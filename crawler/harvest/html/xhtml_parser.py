"""XHTML parser that reports the same events as the HTML parsers. Elements are identified by namespace, not by prefix.

Browsers read XHTML with an XML parser and stop at the first error. A document with an error, or with suspicious
declarations, is read as HTML by `crawler.harvest.html.lxml_parser`, which finds at least as much. Pure; no text raises
an exception.
"""

import re
from collections.abc import Mapping

from lxml import etree

from crawler.harvest.html import lxml_parser
from crawler.harvest.html.visitor import MAX_ELEMENTS, Attributes, Visitor
from crawler.harvest.xml_repair import repaired

#: Media types that browsers read with an XML parser.
XML_TYPES = frozenset({"application/xhtml+xml", "application/xml", "text/xml"})

#: Namespaces whose elements have no prefix here. A page that declares no namespace means HTML.
_ELEMENTS = frozenset({"", "http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"})
#: Namespace of attributes → their prefix here.
_PREFIXES = {
    "": "",
    "http://www.w3.org/1999/xlink": "xlink:",
    "http://www.w3.org/XML/1998/namespace": "xml:",
}
#: Declarations that expand a few characters to many: entities, default attributes, very long namespaces.
_SUSPICIOUS = re.compile(r"<!(?:ENTITY|ATTLIST|ELEMENT|NOTATION)|xmlns[^\s=<>]{0,99}\s*=\s*(?:\"[^\"]{200}|'[^']{200})")
#: Characters between two checks of the limits.
_PIECE = 65_536
#: Most attributes of one element.
_MAX_ATTRIBUTES = 1_000


def feed(text: str, visitor: Visitor) -> bool:
    """Parse ``text`` as XML and report it to ``visitor``. Return whether a limit cut something off."""
    events = None if _SUSPICIOUS.search(text) else _read(text.lstrip())
    if events is None:
        return lxml_parser.feed(text, visitor)
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
    """Return the events of the document, or None if it is not XML or exceeds a limit."""
    target = _Target()
    parser = etree.XMLParser(
        target=target, resolve_entities=True, load_dtd=False, no_network=True, huge_tree=False, encoding="utf-8"
    )
    try:
        for piece in repaired(text[start : start + _PIECE] for start in range(0, len(text), _PIECE)):
            parser.feed(piece.encode())
        parser.close()
    except (ValueError, etree.LxmlError):
        return None
    return target.events


class _Target:
    """Target of lxml's parser that collects events."""

    def __init__(self) -> None:
        self.events: list[_Event] = []
        self._elements = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS or len(attributes) > _MAX_ATTRIBUTES:
            raise ValueError("too many elements or attributes")
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
    named: dict[str, str] = {}
    for key, value in attributes.items():
        namespace, _, name = key.rpartition("}")
        prefix = _PREFIXES.get(namespace[1:])
        if prefix is not None:
            named.setdefault(f"{prefix}{name}".lower(), value)
    return named
