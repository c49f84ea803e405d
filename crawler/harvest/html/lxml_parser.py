"""HTML parser that passes lxml's events straight on, with limits that apply during parsing, not after it.

A page may be 10 MiB of ``<b>``. Without limits, that is a tree of several gigabytes, and a parser that searches a stack
of a million open elements at every end tag. Text beyond the limits is read by `crawler.harvest.html.flat_scan`.
"""

import re
from collections import Counter

from lxml import etree

from crawler.harvest.html import flat_scan
from crawler.harvest.html.visitor import MAX_DEPTH, MAX_ELEMENTS, Attributes, Visitor, shorten

_BODY = re.compile(r"<body(\s[^>]*+)", re.IGNORECASE)
#: Characters between two checks of the limits.
_PIECE = 65_536


def feed(text: str, visitor: Visitor) -> bool:
    """Parse ``text`` with lxml and report it to ``visitor``. Return whether a limit cut something off."""
    if flat_scan.is_needed(text):
        flat_scan.feed(text, visitor)
        return True
    shortened = shorten(text)
    if "<" not in shortened:
        return False
    first = next(filter(_has_background, _BODY.finditer(shortened)), None)
    if first is None:
        cut, rest = _parse(shortened, visitor)
    else:
        recorder = _Recorder()
        position = first.end()
        cut, rest = _parse(shortened[:position] + _BODY.sub(_replace_body, shortened[position:]), recorder)
        if recorder.body is not None and recorder.body.keys() & {"background", "style"}:
            recorder.replay(visitor)
        else:  # lxml has dropped that body, too
            cut, rest = _parse(_BODY.sub(_replace_body, shortened), visitor)
    rest += text[len(shortened) :]
    if rest:
        flat_scan.feed(rest, visitor)
    return cut or len(shortened) < len(text)


def _has_background(body: re.Match[str]) -> bool:
    return "background" in body[1].lower()


def _replace_body(body: re.Match[str]) -> str:
    """Return another element in place of a later ``<body>``: lxml drops it, but browsers apply its attributes."""
    return f"<late-body{body[1]}" if _has_background(body) else body[0]


def _parse(markup: str, visitor: Visitor) -> tuple[bool, str]:
    """Report ``markup`` to ``visitor``. Return whether a limit cut something off, and the text that was not read."""
    target = _Target(visitor)
    parser = etree.HTMLParser(target=target)
    start, rest = 0, ""
    try:
        while start < len(markup):
            end = _tag_before(markup, start, start + _PIECE)
            parser.feed(markup[start:end])
            if target.is_full:
                target.cut, rest = True, markup[end:]
                break
            start = end
        parser.close()
    except (UnicodeError, etree.LxmlError):  # keep the part that was read
        target.cut = True
    target.leave_all()
    return target.cut, rest


def _tag_before(markup: str, start: int, end: int) -> int:
    """Return where to cut without splitting a tag: before the last tag that begins, or else at ``end``."""
    if end >= len(markup):
        return len(markup)
    position = markup.rfind("<", start + 1, end)
    return position if position > 0 else end


class _Target:
    """Receiver of lxml's events: leaves each element that it enters, and starts anew after `MAX_ELEMENTS` elements."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._enter, self._text, self._leave = visitor.enter, visitor.text, visitor.leave
        self._open: list[str] = []
        self._counts: Counter[str] = Counter()
        self._elements = 0
        self.cut = False

    @property
    def is_full(self) -> bool:
        """Whether to stop parsing."""
        return self.cut or len(self._open) >= MAX_DEPTH

    def start(self, name: str, attributes: Attributes) -> None:
        """Enter an element."""
        self._elements += 1
        if self._elements > MAX_ELEMENTS and not self.cut:
            self.cut = True
            self.leave_all()
        if not self._visitor.full:
            self._open.append(name)
            self._counts[name] += 1
            self._enter(name, attributes)

    def end(self, name: str) -> None:
        """Leave the last element of that name, and those in it. An end tag without an element changes nothing."""
        if not self._counts[name]:
            return
        last = ""
        while last != name:
            last = self._open.pop()
            self._counts[last] -= 1
            self._leave()

    def data(self, text: str) -> None:
        """Pass text on."""
        if not self._visitor.full:
            self._text(text)

    def close(self) -> None:
        """Do nothing: lxml calls it at the end."""

    def leave_all(self) -> None:
        """Leave all open elements."""
        for _ in self._open:
            self._leave()
        self._open.clear()
        self._counts.clear()


class _Recorder:
    """A visitor that keeps the events, for a page whose body may have to be read in another way."""

    full = False

    def __init__(self) -> None:
        #: The attributes of the first body, once there is one.
        self.body: Attributes | None = None
        #: Name and attributes of an element, a text, or None for the end of an element.
        self._events: list[tuple[str, Attributes] | str | None] = []

    def enter(self, name: str, attributes: Attributes) -> None:
        """Record the start of an element."""
        if name == "body" and self.body is None:
            self.body = attributes
        self._events.append((name, attributes))

    def text(self, data: str) -> None:
        """Record text."""
        self._events.append(data)

    def leave(self) -> None:
        """Record the end of an element."""
        self._events.append(None)

    def replay(self, visitor: Visitor) -> None:
        """Report the events, as far as the visitor needs them."""
        target = _Target(visitor)
        names: list[str] = []
        for event in self._events:
            if event is None:
                target.end(names.pop())
            elif isinstance(event, str):
                target.data(event)
            else:
                names.append(event[0])
                target.start(*event)
        target.leave_all()
