"""Extraction of every image from style sheets and style attributes. Pure; no text raises an exception.

A sheet is first cut into statements, so that tinycss2, which is thorough but slow, reads only those that may contain
a URL. Source: https://drafts.csswg.org/css-syntax-3/ and https://drafts.csswg.org/css-images-4/.
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

#: Most characters of a sheet that are read.
MAX_TEXT = 2 * 2**20
#: Most URLs taken from one sheet: of images, and of other sheets.
MAX_URLS = 5_000
#: Most statements read of one sheet; a real sheet of the greatest length has half as many.
_MAX_STATEMENTS = 250_000
#: Most characters that tinycss2 reads of one sheet. Each may become an object; a string or bare URL counts as one.
_MAX_READ = 2**18
#: Extra cost of reading one statement, in characters.
_CALL = 8
#: Most brackets of one declaration, and so the deepest nesting of its functions.
_MAX_BRACKETS = 2_000

#: At-rules whose block names no image.
_WITHOUT_IMAGES = frozenset({"font-face"})
#: At-rules after which an ``@import`` is still valid.
_PREAMBLE = frozenset({"charset", "layer", "import"})
#: Properties whose URL names code, a shape in a document, or a sound.
_NO_PICTURES = frozenset(
    {
        *("behavior", "-ms-behavior", "-moz-binding", "src", "cue", "cue-before", "cue-after", "play-during"),
        *("filter", "-webkit-filter", "backdrop-filter", "-webkit-backdrop-filter", "clip-path", "-webkit-clip-path"),
        *("fill", "stroke", "marker", "marker-start", "marker-mid", "marker-end", "offset", "offset-path"),
    }
)
#: Files other than images that a custom property may name.
_OTHER_FILES = frozenset({"css", "eot", "htc", "js", "mp3", "mp4", "otf", "ttc", "ttf", "webm", "woff", "woff2"})
_IMAGE_SETS = frozenset({"image-set", "-webkit-image-set"})
#: Unit of resolution → pixels of the image per pixel of the page.
_DENSITIES = {"x": 1.0, "dppx": 1.0, "dpi": 1 / 96, "dpcm": 2.54 / 96}

_STRING = r""" "(?:[^"\\\n]++|\\.)*+"? | '(?:[^'\\\n]++|\\.)*+'? """
_COMMENT = r"/\*(?:[^*]++|\*(?!/))*+(?:\*/)?"
#: The rest of ``url(`` without a quote: every other character in it stands for itself.
_BARE_URL = r"""(?<=[uU][rR][lL]\() \s*+ (?!["']) (?:[^)\\]++|\\.)*+ \)?"""
#: Up to a brace or semicolon that is not part of a string, a comment or a URL. Possessive: linear on any text.
_STATEMENT = re.compile(
    rf"""( (?: [^;{{}}"'(/\\]++ | {_STRING} | {_COMMENT} | / | \( (?:{_BARE_URL})?+ | \\.? )*+ ) ([;{{}}]?)""",
    re.DOTALL | re.VERBOSE,
)
#: Text that becomes one object, regardless of its length.
_OPAQUE = re.compile(rf"{_STRING} | {_COMMENT} | {_BARE_URL} | \s+", re.DOTALL | re.VERBOSE)
_KEYWORD = re.compile(rf"(?:\s++|<!--|-->|{_COMMENT})*+@([\w-]++)", re.DOTALL)
#: A statement without any of these names nothing. A backslash may hide each of them.
_MENTIONS = ("url(", "src(", "image(", "-set(", "@import", "\\")
_SURROGATE = re.compile("[\ud800-\udfff]")


class CssUrl(Struct, frozen=True):
    """An image that a declaration names. The URL is as written: unescaped, but not resolved."""

    url: str
    #: Number of the image. URLs with the same number are candidates for one image.
    group: int
    #: Pixels of the image per pixel of the page, from a resolution in ``image-set()``.
    density: float | None = None
    #: Lower-case name of the property.
    property: str = ""


class Sheet(Struct, frozen=True):
    """The URLs that a style sheet names, in order, as written and not resolved."""

    images: tuple[CssUrl, ...] = ()
    #: Other sheets, from ``@import``.
    imports: tuple[str, ...] = ()
    #: Whether a limit on size cut something off.
    truncated: bool = False


def decode_sheet(data: bytes, content_type: str = "") -> str:
    """Return the text of a style sheet.

    The encoding is that of the byte order mark, the header's charset or ``@charset``, or else UTF-8 (CSS Syntax §3.2).
    """
    charset = charset_of(content_type)
    text, _ = decode_stylesheet_bytes(data, charset if charset and charset.isascii() else None)
    return str(text)


def read_sheet(text: str) -> Sheet:
    """Return the images and sheets that a whole style sheet names, at most `MAX_URLS`."""
    reader = _Reader()
    imports: list[str] = []
    depth = muted = 0  # open braces, and the one that opened a block without images
    opening = True
    for statement, end in reader.statements(text):
        keyword = _keyword(statement) if end == "{" or not depth else ""
        if end == "{":
            depth += 1
            muted = muted or (depth if keyword in _WITHOUT_IMAGES else 0)
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
    """Return the images that a style attribute names, at most `MAX_URLS`."""
    reader = _Reader()
    for statement, _ in reader.statements(text):
        reader.read(statement)
    return tuple(reader.images)


class _Reader:
    """Reader of one statement after the other, until a limit is reached."""

    def __init__(self) -> None:
        self.images: list[CssUrl] = []
        self.full = False
        self._numbers = count()
        self._remaining = _MAX_READ

    def statements(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield the statements of ``text``, each with the brace or semicolon that ends it."""
        if not _mentions(text):
            return
        self.full = len(text) > MAX_TEXT
        text = text[:MAX_TEXT].replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
        position = 0
        for match in islice(_STATEMENT.finditer(text), _MAX_STATEMENTS):
            yield match[1], match[2]
            position = match.end()
            if len(self.images) == MAX_URLS or self._remaining < 0:
                break
        self.full |= position < len(text)

    def read(self, statement: str) -> None:
        """Collect the images of a declaration."""
        if "(" not in statement or not self._may_read(statement):
            return
        try:
            declaration = tinycss2.parse_one_declaration(statement, skip_comments=True)
        except ValueError:  # a number too long for Python
            return
        if declaration.type != "declaration":
            return
        name = declaration.lower_name
        if name not in _NO_PICTURES and not name.startswith("_"):  # no browser reads names with "_"
            urls = _pictures(declaration.value, name, self._numbers)
            self.images += [image for image in urls if _is_picture(image.url)]
            self.full |= len(self.images) > MAX_URLS
            del self.images[MAX_URLS:]

    def target(self, statement: str) -> str:
        """Return the sheet that an ``@import`` names, or "" if it names none."""
        if not self._may_read(statement):
            return ""
        try:
            nodes = tinycss2.parse_component_value_list(statement, skip_comments=True)
        except ValueError:
            return ""
        return next((url for node in nodes if (url := _url(node, strings=True))), "")

    def _may_read(self, statement: str) -> bool:
        """Return whether a statement may name something and is within the limits of a sheet."""
        if not _mentions(statement):
            return False
        plain = _OPAQUE.sub("x", statement)
        self._remaining -= len(plain) + _CALL
        allowed = self._remaining >= 0 and plain.count("(") + plain.count("[") <= _MAX_BRACKETS
        self.full |= not allowed
        return allowed


class _ValueContext(NamedTuple):
    """Context of a value: the image that it belongs to, and whether a string is a URL there."""

    group: int | None = None
    density: float | None = None
    strings: bool = False


def _pictures(values: Iterable[Any], name: str, numbers: Iterator[int]) -> Iterator[CssUrl]:
    """Yield the URLs in a property's value. Uses its own stack, because text may nest deeper than Python allows."""
    pending = [(node, _ValueContext()) for node in reversed([*values])]
    while pending:
        node, context = pending.pop()
        url = _url(node, strings=context.strings)
        if url is None:
            pending += reversed([*_children(node, context, numbers)])
        elif url:
            yield CssUrl(url, next(numbers) if context.group is None else context.group, context.density, name)


def _url(node: Any, *, strings: bool) -> str | None:
    """Return the URL of a node, "" if it is a URL without a value, or None if it is not a URL."""
    value: str | None = None
    if node.type == "url" or (strings and node.type == "string"):
        value = node.value
    elif node.type == "function" and node.lower_name in ("url", "src"):
        first = next((argument for argument in node.arguments if argument.type != "whitespace"), None)
        value = first.value if first is not None and first.type == "string" else ""
    return None if value is None else _SURROGATE.sub("\ufffd", value)


def _children(node: Any, context: _ValueContext, numbers: Iterator[int]) -> Iterator[tuple[Any, _ValueContext]]:
    """Yield the content of a function or a block, each node with its context."""
    if node.type != "function":
        yield from ((child, context._replace(strings=False)) for child in getattr(node, "content", ()))
        return
    alternatives = node.lower_name in _IMAGE_SETS or node.lower_name == "image"
    context = context._replace(strings=alternatives)
    if alternatives and context.group is None:
        context = context._replace(group=next(numbers))
    if node.lower_name not in _IMAGE_SETS:
        yield from ((child, context) for child in node.arguments)
        return
    for option in _options(node.arguments):
        density = next((density for child in option if (density := _density(child))), None)
        yield from ((child, context._replace(density=density)) for child in option)


def _options(nodes: Iterable[Any]) -> list[list[Any]]:
    """Split arguments at the commas."""
    options: list[list[Any]] = [[]]
    for node in nodes:
        if node == ",":
            options.append([])
        else:
            options[-1].append(node)
    return options


def _density(node: Any) -> float | None:
    """Return the density of a resolution, or None if the node is not a resolution."""
    if node.type != "dimension" or node.lower_unit not in _DENSITIES:
        return None
    density = float(node.value) * _DENSITIES[node.lower_unit]
    return density if 0 < density < inf else None


def _is_picture(url: str) -> bool:
    """Return whether a URL may be an image: neither a part of the same document nor a file of another kind."""
    return not url.lstrip().startswith("#") and bool(url.strip()) and extension(url) not in _OTHER_FILES


def _mentions(text: str) -> bool:
    text = text.lower()
    return any(mention in text for mention in _MENTIONS)


def _keyword(statement: str) -> str:
    """Return the lower-case name of the at-rule that a statement begins, or "" if it begins none."""
    match = _KEYWORD.match(statement)
    return match[1].lower() if match else ""
