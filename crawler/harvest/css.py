"""Style sheets and style attributes in, every picture that they name out. Pure, and no text makes it raise.

A sheet is first cut into statements, so that tinycss2, which is thorough and slow, reads only those that may
name something. Source: https://drafts.csswg.org/css-syntax-3/ and https://drafts.csswg.org/css-images-4/.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import count, islice
from math import inf
from typing import Any, NamedTuple

import tinycss2  # type: ignore[import-untyped]  # published without type hints
from msgspec import Struct
from tinycss2.bytes import decode_stylesheet_bytes  # type: ignore[import-untyped]

from crawler.harvest.charset import charset_of
from crawler.harvest.extensions import extension

#: Characters of a sheet that are read.
MAX_TEXT = 2 * 2**20
#: URLs taken from one sheet: of pictures, and of other sheets.
MAX_URLS = 5_000
#: Statements of one sheet that are looked at; a sheet of the greatest length has half as many.
_MAX_STATEMENTS = 250_000
#: Characters that tinycss2 reads of one sheet, strings and bare URLs counted as one: each may become an object.
_MAX_READ = 2**18
#: What the reading of one statement costs besides, in characters.
_CALL = 8
#: Brackets of one declaration, and so how deep its functions can nest.
_MAX_BRACKETS = 2_000

#: At-rules whose block names no picture.
_MUTE = frozenset({"font-face"})
#: At-rules after which an ``@import`` still counts.
_PREAMBLE = frozenset({"charset", "layer", "import"})
#: Properties whose URL names code, a shape in a document, or a sound.
_NO_PICTURES = frozenset(
    {
        *("behavior", "-ms-behavior", "-moz-binding", "src", "cue", "cue-before", "cue-after", "play-during"),
        *("filter", "-webkit-filter", "backdrop-filter", "-webkit-backdrop-filter", "clip-path", "-webkit-clip-path"),
        *("fill", "stroke", "marker", "marker-start", "marker-mid", "marker-end", "offset", "offset-path"),
    }
)
#: Files that a custom property may name besides pictures.
_OTHER_FILES = frozenset({"css", "eot", "htc", "js", "mp3", "mp4", "otf", "ttc", "ttf", "webm", "woff", "woff2"})
_IMAGE_SETS = frozenset({"image-set", "-webkit-image-set"})
#: Pixels of the picture to one of the page, for each unit of resolution.
_DENSITIES = {"x": 1.0, "dppx": 1.0, "dpi": 1 / 96, "dpcm": 2.54 / 96}

_STRING = r""" "(?:[^"\\\n]++|\\.)*+"? | '(?:[^'\\\n]++|\\.)*+'? """
_COMMENT = r"/\*(?:[^*]++|\*(?!/))*+(?:\*/)?"
#: The rest of ``url(`` where no quote follows: in it, every other character stands for itself.
_BARE_URL = r"""(?<=[uU][rR][lL]\() \s*+ (?!["']) (?:[^)\\]++|\\.)*+ \)?"""
#: Up to a brace or semicolon that is not part of a string, a comment or a URL. Possessive: linear on any text.
_STATEMENT = re.compile(
    rf"""( (?: [^;{{}}"'(/\\]++ | {_STRING} | {_COMMENT} | / | \( (?:{_BARE_URL})?+ | \\.? )*+ ) ([;{{}}]?)""",
    re.DOTALL | re.VERBOSE,
)
#: What becomes one object, however long it is.
_OPAQUE = re.compile(rf"{_STRING} | {_COMMENT} | {_BARE_URL} | \s+", re.DOTALL | re.VERBOSE)
_KEYWORD = re.compile(rf"(?:\s++|<!--|-->|{_COMMENT})*+@([\w-]++)", re.DOTALL)
#: Without any of these a statement names nothing; a backslash may hide each of them.
_MENTIONS = ("url(", "src(", "image(", "-set(", "@import", "\\")
_SURROGATE = re.compile("[\ud800-\udfff]")


class CssUrl(Struct, frozen=True):
    """A picture that a declaration names; the URL is as written, unescaped, not resolved."""

    url: str
    #: Number of the picture; those with the same one are candidates for the same place.
    group: int
    #: Pixels of the picture to one of the page, from a resolution in ``image-set()``.
    density: float | None = None
    #: Lower-case name of the property.
    property: str = ""


class Sheet(Struct, frozen=True):
    """What a style sheet names, in order; URLs are as written, not resolved."""

    images: tuple[CssUrl, ...] = ()
    #: Other sheets, from ``@import``.
    imports: tuple[str, ...] = ()
    #: Whether a limit on size cut something off.
    truncated: bool = False


def decode_sheet(data: bytes, content_type: str = "") -> str:
    """Text of a style sheet: byte order mark, the header's charset, ``@charset``, UTF-8 (CSS Syntax §3.2)."""
    charset = charset_of(content_type)
    text, _ = decode_stylesheet_bytes(data, charset if charset and charset.isascii() else None)
    return str(text)


def read_sheet(text: str) -> Sheet:
    """The pictures and sheets that a whole style sheet names, at most `MAX_URLS`."""
    reader = _Reader()
    imports: list[str] = []
    depth = muted = 0  # braces that are open, and which of them opened a block without pictures
    opening = True
    for statement, end in reader.statements(text):
        keyword = _keyword(statement) if end == "{" or not depth else ""
        if end == "{":
            depth += 1
            muted = muted or (depth if keyword in _MUTE else 0)
            opening = False
            continue
        if depth and not muted:
            reader.read(statement)
        elif not depth and opening:
            imports += [url] if keyword == "import" and (url := reader.target(statement)) else []
            opening = keyword in _PREAMBLE or not statement.strip()
        if end == "}":
            muted = 0 if muted == depth else muted
            depth = max(depth - 1, 0)
    return Sheet(tuple(reader.images), tuple(imports[:MAX_URLS]), reader.full)


def declaration_images(text: str) -> tuple[CssUrl, ...]:
    """The pictures that a style attribute names, at most `MAX_URLS`."""
    reader = _Reader()
    for statement, _ in reader.statements(text):
        reader.read(statement)
    return tuple(reader.images)


class _Reader:
    """Reads statements one after the other, until a limit is reached."""

    def __init__(self) -> None:
        self.images: list[CssUrl] = []
        self.full = False
        self._numbers = count()
        self._room = _MAX_READ

    def statements(self, text: str) -> Iterator[tuple[str, str]]:
        """Pieces of ``text``, and the brace or semicolon that ends each."""
        if not _mentions(text):
            return
        self.full = len(text) > MAX_TEXT
        text = text[:MAX_TEXT].replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
        position = 0
        for match in islice(_STATEMENT.finditer(text), _MAX_STATEMENTS):
            yield match[1], match[2]
            position = match.end()
            if len(self.images) == MAX_URLS or self._room < 0:
                break
        self.full |= position < len(text)

    def read(self, statement: str) -> None:
        """Take the pictures of a declaration."""
        if "(" not in statement or not self._may_read(statement):
            return
        try:
            declaration = tinycss2.parse_one_declaration(statement, skip_comments=True)
        except ValueError:  # a number too long for Python
            return
        if declaration.type != "declaration":
            return
        name = declaration.lower_name
        if name not in _NO_PICTURES and not name.startswith("_"):  # which no browser reads
            found = _pictures(declaration.value, name, self._numbers)
            self.images += [image for image in found if _is_picture(image.url)]
            self.full |= len(self.images) > MAX_URLS
            del self.images[MAX_URLS:]

    def target(self, statement: str) -> str:
        """The sheet that an ``@import`` names, empty where there is none."""
        if not self._may_read(statement):
            return ""
        try:
            nodes = tinycss2.parse_component_value_list(statement, skip_comments=True)
        except ValueError:
            return ""
        return next((url for node in nodes if (url := _url(node, strings=True))), "")

    def _may_read(self, statement: str) -> bool:
        """Whether a statement may name something, and stays within what is read of a sheet."""
        if not _mentions(statement):
            return False
        plain = _OPAQUE.sub("x", statement)
        self._room -= len(plain) + _CALL
        allowed = self._room >= 0 and plain.count("(") + plain.count("[") <= _MAX_BRACKETS
        self.full |= not allowed
        return allowed


class _Place(NamedTuple):
    """Where a value stands: within which picture, and whether a string is a URL there."""

    group: int | None = None
    density: float | None = None
    strings: bool = False


def _pictures(values: Iterable[Any], name: str, numbers: Iterator[int]) -> Iterator[CssUrl]:
    """The URLs in a property's value. A stack of our own, as text may nest deeper than Python does."""
    pending = [(node, _Place()) for node in reversed([*values])]
    while pending:
        node, place = pending.pop()
        url = _url(node, strings=place.strings)
        if url is None:
            pending += reversed([*_inside(node, place, numbers)])
        elif url:
            yield CssUrl(url, next(numbers) if place.group is None else place.group, place.density, name)


def _url(node: Any, *, strings: bool) -> str | None:
    """The URL that a node is, empty where it is one without a value; None: it is something else."""
    value: str | None = None
    if node.type == "url" or (strings and node.type == "string"):
        value = node.value
    elif node.type == "function" and node.lower_name in ("url", "src"):
        first = next((each for each in node.arguments if each.type != "whitespace"), None)
        value = first.value if first is not None and first.type == "string" else ""
    return None if value is None else _SURROGATE.sub("\ufffd", value)


def _inside(node: Any, place: _Place, numbers: Iterator[int]) -> Iterator[tuple[Any, _Place]]:
    """What a function or a block holds, each with its place."""
    if node.type != "function":
        yield from ((each, place._replace(strings=False)) for each in getattr(node, "content", ()))
        return
    alternatives = node.lower_name in _IMAGE_SETS or node.lower_name == "image"
    place = place._replace(strings=alternatives)
    if alternatives and place.group is None:
        place = place._replace(group=next(numbers))
    if node.lower_name not in _IMAGE_SETS:
        yield from ((each, place) for each in node.arguments)
        return
    for option in _options(node.arguments):
        density = next((density for each in option if (density := _density(each))), None)
        yield from ((each, place._replace(density=density)) for each in option)


def _options(nodes: Iterable[Any]) -> list[list[Any]]:
    """Arguments, split at the commas."""
    options: list[list[Any]] = [[]]
    for node in nodes:
        if node == ",":
            options.append([])
        else:
            options[-1].append(node)
    return options


def _density(node: Any) -> float | None:
    """The density that a resolution states; None: it is no resolution."""
    if node.type != "dimension" or node.lower_unit not in _DENSITIES:
        return None
    density = float(node.value) * _DENSITIES[node.lower_unit]
    return density if 0 < density < inf else None


def _is_picture(url: str) -> bool:
    """Whether a URL may be a picture's: no part of the same document, no file of another kind."""
    return not url.lstrip().startswith("#") and bool(url.strip()) and extension(url) not in _OTHER_FILES


def _mentions(text: str) -> bool:
    text = text.lower()
    return any(mention in text for mention in _MENTIONS)


def _keyword(statement: str) -> str:
    """Lower-case name of the at-rule that a statement begins, empty where it is none."""
    match = _KEYWORD.match(statement)
    return match[1].lower() if match else ""
