"""What is left of a page whose tree grew too large or too deep, read tag by tag: for pictures no tree is needed.

Such markup is hostile, or made by a program without mercy, and still its pictures are shown. Reading goes on in one
pass, in time that grows with the length alone, and remembers of the elements that are open only a few that say what
others within them mean.

Source of the rules: https://html.spec.whatwg.org/multipage/parsing.html#tokenization.
"""

import re
from html import unescape
from itertools import islice

from crawler.harvest.stream import Visitor

#: Tags and comments that are looked at, and letters of a tag's name: all that follow would be searched for each.
MAX_LOOKS = 500_000
_MAX_NAME = 60
#: Elements whose text is no markup.
TEXTS = frozenset({"script", "style", "textarea", "title", "iframe", "noembed", "noframes", "xmp"})
#: Elements that give a meaning to what is within them, and how many of them may be open.
FRAMES = frozenset({"a", "figcaption", "figure", "noscript", "picture", "svg", "template"})
_MAX_OPEN = 50

_NAMES, _ENDS = "|".join(sorted(FRAMES | TEXTS)), "|".join(sorted(FRAMES))
#: What is looked at: elements of these names, all others with attributes. Possessive, as all below: nothing twice.
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
#: References in attributes: one by name without a semicolon counts only where no name goes on.
_REFERENCE = re.compile(r"&(?:\#[0-9]++;?+|\#[xX][0-9a-fA-F]++;?+|[A-Za-z][A-Za-z0-9]*+(?:;|(?![=A-Za-z0-9])))")
#: Attributes of one element that are kept.
_MAX_ATTRIBUTES = 1_000
#: A long tag; how many attributes it may have for a parser that makes 300 bytes of each; and how long it may be for one
#: that reads no attribute of ten million characters, but takes what stands in it for attributes.
_LONG_TAG = re.compile(r"<[a-zA-Z][^<>]{65536,}+")
_TOO_MANY, _TOO_LONG = 20_000, 9_000_000


def feed(text: str, visitor: Visitor) -> bool:
    """Tell ``visitor`` of the elements with attributes in ``text``; whether a limit cut something off."""
    return _Reader(text, visitor).read()


def is_needed(text: str) -> bool:
    """Whether a tag of ``text`` is more than a parser can read in little memory."""
    for tag in _LONG_TAG.finditer(text):
        attributes = _ATTRIBUTE.finditer(tag[0], 1)
        if len(tag[0]) > _TOO_LONG or sum(1 for _ in islice(attributes, _TOO_MANY)) == _TOO_MANY:
            return True
    return False


class _Reader:
    def __init__(self, text: str, visitor: Visitor) -> None:
        self._text, self._visitor = text, visitor
        self._open: list[str] = []
        self._looks = 0
        #: Elements of text whose end was looked for in vain: a search for each would cost quadratic time.
        self._endless: set[str] = set()

    def read(self) -> bool:
        """Read all of it; whether a limit ended it early."""
        position = 0
        is_over = False
        while not self._visitor.full and (markup := _MARKUP.search(self._text, position)):
            self._looks += 1
            is_over = self._looks > MAX_LOOKS
            if is_over:
                break
            if self._open and markup.start() > position:
                self._visitor.text(unescape(_TAG.sub(" ", self._text[position : markup.start()])))
            position = self._go_past(markup)
        for _ in self._open:
            self._visitor.leave()
        return is_over

    def _go_past(self, markup: re.Match[str]) -> int:
        """Tell of what begins at ``markup``; the position behind it."""
        if markup["start"]:
            return self._start(markup["start"].lower(), markup.end())
        if markup["end"]:
            self._end(markup["end"].lower())
            return self._behind_tag(markup.end())
        end = _COMMENT_END.search(self._text, markup.end() - 2)  # <!--> is a whole one
        return end.end() if end else len(self._text)

    def _start(self, name: str, position: int) -> int:
        attributes: dict[str, str] = {}
        while match := _ATTRIBUTE.match(self._text, position):
            position = match.end()
            if len(attributes) < _MAX_ATTRIBUTES:
                value = match[2] or match[3] or match[4] or ""
                attributes.setdefault(match[1].lower(), _REFERENCE.sub(_character, value) if "&" in value else value)
        position = self._behind_tag(position)
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
        """An element whose end tag is the next thing that is read; without one it is taken for empty."""
        if name in self._endless:
            return position
        end = re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE).search(self._text, position)
        if end is None:
            self._endless.add(name)
            return position
        self._visitor.enter(name, attributes)
        if end.start() > position:
            self._visitor.text(self._text[position : end.start()])
        self._visitor.leave()
        return self._behind_tag(end.end())

    def _end(self, name: str) -> None:
        if name in self._open:
            while self._open.pop() != name:
                self._visitor.leave()
            self._visitor.leave()

    def _behind_tag(self, position: int) -> int:
        end = _TAG_END.match(self._text, position)
        return end.end() if end else position


def _character(reference: re.Match[str]) -> str:
    return unescape(reference[0])
