"""Extraction of every image from linked data (JSON-LD). Pure; no text raises an exception.

Source: https://www.w3.org/TR/json-ld11/#embedding-json-ld-in-html-documents and the vocabulary of https://schema.org.
Scripts are read as plain data. Names that a context redefines are not looked up.
"""

import html
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from crawler.harvest.extensions import IMAGE_EXTENSIONS, extension
from crawler.urls import MAX_URL_LENGTH

#: Most characters of a script; a longer one is ignored.
MAX_TEXT = 2**20
#: Deepest nesting of objects and lists; a script that nests deeper is ignored.
MAX_DEPTH = 64
#: Most values of one script that are read.
_MAX_NODES = 20_000
#: Most URLs taken from one script.
MAX_URLS = 2_000
#: Most characters kept of a caption or a licence.
_MAX_WORDS = 1_000

#: Properties whose value is an image, or an object that describes one.
_PICTURES = frozenset({"image", "logo", "photo", "primaryImage", "primaryImageOfPage", "screenshot", "thumbnail"})
_PICTURES |= {"images", "photos", "thumbnailUrl"}
#: Keywords that only wrap a value.
_CONTAINERS = frozenset({"@graph", "@list", "@set", "@value"})
_VOCABULARY = re.compile(r"schema:|https?://(?:www\.)?schema\.org/")
#: Text before the data in a script that is wrapped for old browsers or for XML.
_WRAPPING = re.compile(r"(?:[\s\ufeff]++|//|/\*|\*/|<!--|<!\[CDATA\[)*+")
_STRING = r'"(?:[^"\\]++|\\.)*+"?'
_BRACKET = re.compile(rf"{_STRING}|([\[{{\]}}])", re.DOTALL)
_LAST_COMMA = re.compile(rf"({_STRING})|,(?=\s*+[\]}}])", re.DOTALL)
_ADDRESS = re.compile(r"https?://|\.{0,2}/", re.IGNORECASE)
_PIXELS = re.compile(r"0*([1-9][0-9]{0,5})(?:\.[0-9]+)?\s*(?:px)?", re.IGNORECASE)
#: Not strict: a string may contain line ends.
_DECODER = json.JSONDecoder(strict=False)


def _without_last_commas(text: str) -> str:
    return _LAST_COMMA.sub(r"\1", text)


#: Repairs applied one after the other until the script can be read. Unescaping comes late, as it may change the meaning
#: of text that was never escaped.
_REPAIRS: tuple[Callable[[str], str], ...] = (str, _without_last_commas, html.unescape, _without_last_commas)


class LinkedImage(Struct, frozen=True):
    """An image that linked data names. The URL is as written, not resolved."""

    url: str
    caption: str = ""
    #: Name or URL of the licence.
    license: str = ""
    #: Pixels, as stated.
    width: int | None = None
    height: int | None = None
    #: Whether the URL is the identifier of an image's node: it may lead to the image, or to the page that shows it.
    is_reference: bool = False


def linked_data_images(text: str) -> tuple[LinkedImage, ...]:
    """Return the images named in a ``<script type="application/ld+json">``, each URL once, at most `MAX_URLS`."""
    images: dict[str, LinkedImage] = {}
    for image in _images(_read(text)) if len(text) <= MAX_TEXT else ():
        previous = images.get(image.url)
        if previous is None or previous == LinkedImage(image.url):  # an entry with a description replaces a bare URL
            images[image.url] = image
        if len(images) == MAX_URLS:
            break
    return tuple(images.values())


def _read(text: str) -> Any:
    """Return the data in a script, or None if it cannot be repaired."""
    for repair in _REPAIRS:
        try:
            text = repair(text)
            start = _WRAPPING.match(text)
            assert start is not None  # noqa: S101  # the pattern matches the empty string
            return None if _is_deep(text, start.end()) else _DECODER.raw_decode(text, start.end())[0]
        except ValueError:  # not JSON, or a number too long for Python
            continue
    return None


def _is_deep(text: str, start: int) -> bool:
    """Return whether the value at ``start`` nests deeper than `MAX_DEPTH`. Checked first, as the decoder recurses."""
    depth = 0
    for match in _BRACKET.finditer(text, start):
        if match[1]:
            depth += 1 if match[1] in "[{" else -1
            if not 0 < depth <= MAX_DEPTH:
                return depth > 0
    return False


def _images(data: Any) -> Iterator[LinkedImage]:
    """Yield every image in ``data``, in document order."""
    pending = [(data, False)]  # values, and whether an image is expected in their position
    for _ in range(_MAX_NODES):
        if not pending:
            return
        value, expected = pending.pop()
        if isinstance(value, str):
            if expected and _is_url(value):
                yield LinkedImage(_unescaped(value))
        elif isinstance(value, list):
            pending += ((item, expected) for item in reversed(value))
        elif isinstance(value, dict):
            fields = {_VOCABULARY.sub("", key, count=1): item for key, item in value.items() if key != "@context"}
            yield from _own_images(fields, expected)
            pending += (
                (item, key in _PICTURES or (expected and key in _CONTAINERS)) for key, item in reversed(fields.items())
            )


def _own_images(fields: dict[str, Any], expected: bool) -> Iterator[LinkedImage]:
    """Yield the images that an object itself describes."""
    types = {_VOCABULARY.sub("", name, count=1) for name in _strings(fields.get("@type", fields.get("type")))}
    picture = "ImageObject" in types or (expected and not types)
    content = [url for url in _strings(fields.get("contentUrl")) if picture or _is_file(url)]
    urls = [*content]
    if picture or expected:  # if there is a contentUrl, url may be a page about it
        urls += (url for url in _strings(fields.get("url")) if (picture and not content) or _is_file(url))
        urls = urls or [url for name in ("embedUrl", "@id") for url in _strings(fields.get(name)) if _is_file(url)]
    for url in filter(_is_url, urls):
        yield LinkedImage(
            _unescaped(url),
            caption=next(filter(None, (_words(fields.get(name)) for name in ("caption", "description", "name"))), ""),
            license=_words(fields.get("license")),
            width=_pixels(fields.get("width")),
            height=_pixels(fields.get("height")),
        )
    for name in filter(_is_url, _strings(fields.get("@id")) if expected else ()):
        if name not in urls:
            yield LinkedImage(_unescaped(name), is_reference=True)


def _strings(value: Any) -> Iterator[str]:
    """Yield a string, or the strings of a list."""
    for item in value if isinstance(value, list) else (value,):
        if isinstance(item, str):
            yield item


def _is_file(url: str) -> bool:
    return extension(url) in IMAGE_EXTENSIONS


def _is_url(url: str) -> bool:
    """Return whether a string is a URL, and not a word in its place."""
    url = url.strip()
    return len(url) <= MAX_URL_LENGTH and (_ADDRESS.match(url) is not None or _is_file(url))


def _unescaped(url: str) -> str:
    """Return ``url`` without the escapes of pages that escape linked data as if it were HTML."""
    return url.strip().replace("&amp;", "&")


def _words(value: Any) -> str:
    """Return a value's text in one line: the first item of a list, the name or URL of an object."""
    while isinstance(value, list | dict):
        if isinstance(value, dict):
            value = [value[name] for name in ("@value", "text", "name", "url", "@id") if name in value]
        value = value[0] if value else None
    return " ".join(value[: 10 * _MAX_WORDS].split())[:_MAX_WORDS] if isinstance(value, str) else ""


def _pixels(value: Any) -> int | None:
    """Return a number of pixels from a number, a string or a QuantitativeValue, or None."""
    if isinstance(value, dict):
        value = value.get("value")
    match = _PIXELS.fullmatch(str(value)[:20].strip()) if isinstance(value, str | int | float) else None
    return int(match[1]) if match else None
