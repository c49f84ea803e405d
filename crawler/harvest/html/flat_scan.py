"""Tag-by-tag reader for the part of a page that exceeds the tree limits: finding images needs no tree.

Such markup is hostile or badly generated, but browsers still show its images. The reader makes one pass in linear
time. Of the open elements it remembers only a few: those that change the meaning of the elements inside them.

Source of the rules: https://html.spec.whatwg.org/multipage/parsing.html#tokenization.
"""

import re
from html import unescape
from itertools import islice

from crawler.harvest.html.visitor import Visitor

#: Most tags and comments that are read, and most characters of a tag's name, as each match scans the whole name.
_MAX_LOOKS = 500_000
_MAX_NAME = 60
#: Elements whose content is text, not markup.
TEXTS = frozenset({"script", "style", "textarea", "title", "iframe", "noembed", "noframes", "xmp"})
#: Elements that change the meaning of their content, and how many of them may be open.
FRAMES = frozenset({"a", "figcaption", "figure", "noscript", "picture", "svg", "template"})
_MAX_OPEN = 50

_NAMES, _ENDS = "|".join(sorted(FRAMES | TEXTS)), "|".join(sorted(FRAMES))
#: Markup that is read: elements with these names, and all others that have attributes. Possessive, as are all patterns
#: below, so that no character is read twice.
_MARKUP = re.compile(
    rf"""<(?: (?P<start> (?:{_NAMES})(?=[\s/>]) | [a-z][^\s/>]{{0,{_MAX_NAME}}}+(?=[\s/]) )
        | /(?P<end>{_ENDS})(?=[\s/>]) | !-- )""",
    re.IGNORECASE | re.VERBOSE,
)
_ATTRIBUTE = re.compile(
    r"""[\s/]*+ ([^\s/>][^\s/>=]*+) (?: \s*+ = \s*+ (?: "([^"]*+)"?+ | '([^']*+)'?+ | ([^\s>]*+) ) )?+""", re.X
)
_TAG = re.compile(r"<[^<>]*+>")
_TAG_END = re.compile(r"[^>]*+>?+")
_COMMENT_END = re.compile(r"--!?>")
#: Character references in attributes. A named one without a semicolon counts only if no name character follows.
_REFERENCE = re.compile(r"&(?:\#[0-9]++;?+|\#[xX][0-9a-fA-F]++;?+|[A-Za-z][A-Za-z0-9]*+(?:;|(?![=A-Za-z0-9])))")
#: Most attributes of one element that are kept.
_MAX_ATTRIBUTES = 1_000
#: A long tag. A parser uses 300 bytes per attribute, which limits their number. It does not read an attribute of ten
#: million characters, but reads its content as further attributes, which limits the length.
_LONG_TAG = re.compile(r"<[a-zA-Z][^<>]{65536,}+")
_TOO_MANY, _TOO_LONG = 20_000, 9_000_000


def feed(text: str, visitor: Visitor) -> bool:
    """Report the elements with attributes in ``text`` to ``visitor``. Return whether a limit cut something off."""
    return _Reader(text, visitor).read()


def is_needed(text: str) -> bool:
    """Return whether ``text`` has a tag for which a tree parser would need too much memory."""
    for tag in _LONG_TAG.finditer(text):
        attributes = _ATTRIBUTE.finditer(tag[0], 1)
        if len(tag[0]) > _TOO_LONG or sum(1 for _ in islice(attributes, _TOO_MANY)) == _TOO_MANY:
            return True
    return False


class _Reader:
    def __init__(self, text: str, visitor: Visitor) -> None:
        self._text, self._visitor = text, visitor
        self._open: list[str] = []
        self._read_count = 0
        #: Names of text elements without an end tag in the rest: searching for each one would take quadratic time.
        self._unclosed: set[str] = set()

    def read(self) -> bool:
        """Read the whole text. Return whether a limit stopped the reader early."""
        position = 0
        is_over = False
        while not self._visitor.full and (markup := _MARKUP.search(self._text, position)):
            self._read_count += 1
            is_over = self._read_count > _MAX_LOOKS
            if is_over:
                break
            if self._open and markup.start() > position:
                self._visitor.text(unescape(_TAG.sub(" ", self._text[position : markup.start()])))
            position = self._skip(markup)
        for _ in self._open:
            self._visitor.leave()
        return is_over

    def _skip(self, markup: re.Match[str]) -> int:
        """Report the element, end tag or comment at ``markup``. Return the position after it."""
        if markup["start"]:
            return self._start(markup["start"].lower(), markup.end())
        if markup["end"]:
            self._end(markup["end"].lower())
            return self._after_tag(markup.end())
        end = _COMMENT_END.search(self._text, markup.end() - 2)  # <!--> is a complete comment
        return end.end() if end else len(self._text)

    def _start(self, name: str, position: int) -> int:
        attributes: dict[str, str] = {}
        while match := _ATTRIBUTE.match(self._text, position):
            position = match.end()
            if len(attributes) < _MAX_ATTRIBUTES:
                value = match[2] or match[3] or match[4] or ""
                if "&" in value:
                    value = _REFERENCE.sub(lambda reference: unescape(reference[0]), value)
                attributes.setdefault(match[1].lower(), value)
        position = self._after_tag(position)
        is_closed = self._text.endswith("/>", 0, position)
        if name in TEXTS:
            return self._text_element(name, attributes, position)
        if name == "a":
            self._end(name)  # links do not nest
        if name in FRAMES and len(self._open) < _MAX_OPEN and not (is_closed and name == "svg"):
            self._open.append(name)
            self._visitor.enter(name, attributes)
        elif attributes:
            self._visitor.enter(name, attributes)
            self._visitor.leave()
        return position

    def _text_element(self, name: str, attributes: dict[str, str], position: int) -> int:
        """Read a text element up to its end tag. Without an end tag, treat the element as empty."""
        if name in self._unclosed:
            return position
        end = re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE).search(self._text, position)
        if end is None:
            self._unclosed.add(name)
            return position
        self._visitor.enter(name, attributes)
        if end.start() > position:
            self._visitor.text(self._text[position : end.start()])
        self._visitor.leave()
        return self._after_tag(end.end())

    def _end(self, name: str) -> None:
        if name in self._open:
            while self._open.pop() != name:
                self._visitor.leave()
            self._visitor.leave()

    def _after_tag(self, position: int) -> int:
        end = _TAG_END.match(self._text, position)
        return end.end() if end else position
