"""Linked data in, the pictures that it names out. Pure, and no text makes it raise.

Source: https://www.w3.org/TR/json-ld11/#embedding-json-ld-in-html-documents and the vocabulary of https://schema.org.
Scripts are read as data and walked; what a context may rename is not looked up.
"""

import html
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from crawler.harvest.extensions import IMAGE_EXTENSIONS, extension
from crawler.urls import MAX_URL_LENGTH

#: Characters of a script that is read; a longer one is left alone.
MAX_TEXT = 2**20
#: Objects and lists within one another; what nests deeper is left alone.
MAX_DEPTH = 64
#: Values of one script that are looked at.
MAX_NODES = 20_000
#: URLs taken from one script.
MAX_URLS = 2_000
#: Characters kept of a caption or a licence.
_MAX_WORDS = 1_000

#: Properties whose value is a picture, or an object that describes one.
_PICTURES = frozenset({"image", "logo", "photo", "primaryImage", "primaryImageOfPage", "screenshot", "thumbnail"})
_PICTURES |= {"images", "photos", "thumbnailUrl"}
#: Keywords that only wrap a value.
_CONTAINERS = frozenset({"@graph", "@list", "@set", "@value"})
_VOCABULARY = re.compile(r"schema:|https?://(?:www\.)?schema\.org/")
#: What stands before the data where a script is wrapped for old browsers or for XML.
_WRAPPING = re.compile(r"(?:[\s\ufeff]++|//|/\*|\*/|<!--|<!\[CDATA\[)*+")
_STRING = r'"(?:[^"\\]++|\\.)*+"?'
_BRACKET = re.compile(rf"{_STRING}|([\[{{\]}}])", re.DOTALL)
_LAST_COMMA = re.compile(rf"({_STRING})|,(?=\s*+[\]}}])", re.DOTALL)
_ADDRESS = re.compile(r"https?://|\.{0,2}/", re.IGNORECASE)
_PIXELS = re.compile(r"0*([1-9][0-9]{0,5})(?:\.[0-9]+)?\s*(?:px)?", re.IGNORECASE)
#: Not strict: a line may end within a string.
_DECODER = json.JSONDecoder(strict=False)


def _without_last_commas(text: str) -> str:
    return _LAST_COMMA.sub(r"\1", text)


#: What is tried, one on top of the other, until the script can be read. Text that was never escaped may change its
#: meaning when it is unescaped, so that comes late.
_REPAIRS: tuple[Callable[[str], str], ...] = (str, _without_last_commas, html.unescape, _without_last_commas)


class LinkedImage(Struct, frozen=True):
    """A picture that linked data names; the URL is as written, not resolved."""

    url: str
    caption: str = ""
    #: Name or address of the licence.
    license: str = ""
    #: Pixels, as stated.
    width: int | None = None
    height: int | None = None
    source: str = "json-ld"
    #: Whether it is the identifier of a picture's node: it may lead to the picture, or to the page that has it.
    is_reference: bool = False


def linked_data_images(text: str) -> tuple[LinkedImage, ...]:
    """The pictures named in a ``<script type="application/ld+json">``, each URL once, at most `MAX_URLS`."""
    found: dict[str, LinkedImage] = {}
    for image in _images(_read(text)) if len(text) <= MAX_TEXT else ():
        known = found.get(image.url)
        if known is None or known == LinkedImage(image.url):  # what describes the picture is worth more
            found[image.url] = image
        if len(found) == MAX_URLS:
            break
    return tuple(found.values())


def _read(text: str) -> Any:
    """The data in a script, None where it is beyond repair."""
    for repair in _REPAIRS:
        try:
            text = repair(text)
            start = _WRAPPING.match(text)
            assert start is not None  # noqa: S101  # the pattern matches the empty string
            return None if _is_deep(text, start.end()) else _DECODER.raw_decode(text, start.end())[0]
        except ValueError:  # no JSON, or a number too long for Python
            continue
    return None


def _is_deep(text: str, start: int) -> bool:
    """Whether the value at ``start`` nests deeper than `MAX_DEPTH`: asked before the decoder, which recurses."""
    depth = 0
    for match in _BRACKET.finditer(text, start):
        if match[1]:
            depth += 1 if match[1] in "[{" else -1
            if not 0 < depth <= MAX_DEPTH:
                return depth > 0
    return False


def _images(data: Any) -> Iterator[LinkedImage]:
    """Every picture in ``data``, in document order."""
    pending = [(data, False)]  # values, and whether they stand where a picture is expected
    for _ in range(MAX_NODES):
        if not pending:
            return
        value, expected = pending.pop()
        if isinstance(value, str):
            if expected and _is_address(value):
                yield LinkedImage(_unescaped(value))
        elif isinstance(value, list):
            pending += ((each, expected) for each in reversed(value))
        elif isinstance(value, dict):
            fields = {_VOCABULARY.sub("", key, count=1): each for key, each in value.items() if key != "@context"}
            yield from _described(fields, expected)
            pending += (
                (each, key in _PICTURES or (expected and key in _CONTAINERS)) for key, each in reversed(fields.items())
            )


def _described(fields: dict[str, Any], expected: bool) -> Iterator[LinkedImage]:
    """The pictures that an object is about itself."""
    types = {_VOCABULARY.sub("", each, count=1) for each in _strings(fields.get("@type", fields.get("type")))}
    picture = "ImageObject" in types or (expected and not types)
    content = [url for url in _strings(fields.get("contentUrl")) if picture or _is_file(url)]
    urls = [*content]
    if picture or expected:  # beside the file itself, an address may be that of a page about it
        urls += (url for url in _strings(fields.get("url")) if (picture and not content) or _is_file(url))
        urls = urls or [url for name in ("embedUrl", "@id") for url in _strings(fields.get(name)) if _is_file(url)]
    for url in filter(_is_address, urls):
        yield LinkedImage(
            _unescaped(url),
            caption=next(filter(None, (_words(fields.get(name)) for name in ("caption", "description", "name"))), ""),
            license=_words(fields.get("license")),
            width=_pixels(fields.get("width")),
            height=_pixels(fields.get("height")),
        )
    for name in filter(_is_address, _strings(fields.get("@id")) if expected else ()):
        if name not in urls:
            yield LinkedImage(_unescaped(name), is_reference=True)


def _strings(value: Any) -> Iterator[str]:
    """A string, or those of a list."""
    for each in value if isinstance(value, list) else (value,):
        if isinstance(each, str):
            yield each


def _is_file(url: str) -> bool:
    return extension(url) in IMAGE_EXTENSIONS


def _is_address(url: str) -> bool:
    """Whether a string is an address of the web, and not a word that stands where one should."""
    url = url.strip()
    return len(url) <= MAX_URL_LENGTH and (_ADDRESS.match(url) is not None or _is_file(url))


def _unescaped(url: str) -> str:
    """``url`` as meant by pages that escape linked data as if it were HTML."""
    return url.strip().replace("&amp;", "&")


def _words(value: Any) -> str:
    """The words that a value stands for, in one line; the first of a list, the name or address of an object."""
    while isinstance(value, list | dict):
        if isinstance(value, dict):
            value = [value[name] for name in ("@value", "text", "name", "url", "@id") if name in value]
        value = value[0] if value else None
    return " ".join(value[: 10 * _MAX_WORDS].split())[:_MAX_WORDS] if isinstance(value, str) else ""


def _pixels(value: Any) -> int | None:
    """A number of pixels: a number, its text, or a QuantitativeValue."""
    if isinstance(value, dict):
        value = value.get("value")
    match = _PIXELS.fullmatch(str(value)[:20].strip()) if isinstance(value, str | int | float) else None
    return int(match[1]) if match else None
