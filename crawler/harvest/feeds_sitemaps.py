"""Parser of feeds and sitemaps: extracts images, pages and further sitemaps. Pure; no bytes raise an exception.

Sources: https://www.rssboard.org/rss-specification, RFC 4287 (Atom), https://www.rssboard.org/media-rss,
https://www.sitemaps.org/protocol.html and https://developers.google.com/search/docs/crawling-indexing/sitemaps/image-sitemaps.
"""

import html
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from lxml import etree
from msgspec import Struct

from crawler.harvest.extensions import IMAGE_EXTENSIONS, extension
from crawler.harvest.xml_repair import decoded, repaired
from crawler.urls import MAX_URL_LENGTH, resolve

_FeedKind = Literal["rss", "atom", "sitemap", "sitemapindex"]

#: Most URLs of each kind: the limit of a sitemap.
MAX_URLS = 50_000
#: Most elements read of one file, and of one entry in it: a sitemap's entry may have a thousand images.
MAX_ELEMENTS, MAX_ENTRY_ELEMENTS = 1_000_000, 10_000
#: Most entries read of one file, together with the elements next to them.
_MAX_ENTRIES = 2 * MAX_URLS
#: Most pieces of HTML taken from one file, most characters of each, and of all together.
MAX_FRAGMENTS, MAX_FRAGMENT, MAX_HTML = 1_000, 2**19, 10 * 2**20
#: Most characters without the start or end of an element: a tag of many attributes takes thirty times its length.
_MAX_SILENCE = 2**20
#: Most characters of a tag with its namespace.
_MAX_TAG = 1_000
#: Most characters kept of a title, a caption or a licence.
_MAX_WORDS = 1_000
_KINDS: dict[str, _FeedKind] = {
    "rss": "rss",
    "rdf": "rss",
    "feed": "atom",
    "urlset": "sitemap",
    "sitemapindex": "sitemapindex",
}
_BASE = "{http://www.w3.org/XML/1998/namespace}base"
_ATOM = "www.w3.org/2005/atom"
#: Namespace, as normalised by `_namespace` → its prefix here.
_PREFIXES = {
    _ATOM: "",
    "purl.org/rss/1.0": "",
    "my.netscape.com/rdf/simple/0.9": "",
    "channel.netscape.com/rdf/simple/0.9": "",
    "purl.org/rss/1.0/modules/content": "content:",
    "search.yahoo.com/mrss": "media:",
    "www.itunes.com/dtds/podcast-1.0.dtd": "itunes:",
    "www.google.com/schemas/sitemap-image/1.1": "image:",
}
_ENTRIES = frozenset({"item", "entry", "url"})
#: Entries that often lack an end tag; the parser then reads each following entry as a child of the previous one.
_NESTED = frozenset({"item", "entry"})
#: Elements that may name an image.
_PICTURES = frozenset(
    {
        *("enclosure", "media:content", "media:thumbnail", "itunes:image", "link", "content"),
        *("image:image", "image", "icon", "logo"),
    }
)
#: Elements that describe an entry or an image, and those that contain its URL.
_FIELDS = frozenset(
    {
        *("title", "media:title", "media:description", "media:license", "loc", "url"),
        *("image:loc", "image:title", "image:caption", "image:license"),
    }
)
_HTML = frozenset({"description", "content:encoded", "content", "summary"})
_HTML_TYPES = frozenset({"", "html", "xhtml", "text/html", "application/xhtml+xml"})
#: Element → its name in `FeedImage.source`, if it differs.
_SOURCES = {"link": "enclosure", "image:image": "image:loc"}
#: Exceptions that may end the reading early.
_FAULTS = (ValueError, LookupError, zlib.error, etree.LxmlError)


class FeedImage(Struct, frozen=True, kw_only=True):
    """An image that a feed or sitemap names."""

    url: str
    #: The page that shows it, or empty if none is named.
    page_url: str = ""
    title: str = ""
    caption: str = ""
    #: Name or URL of the licence.
    license: str = ""
    #: The element that names it, such as ``enclosure`` or ``media:content``.
    source: str


class Fragment(Struct, frozen=True):
    """A piece of HTML in a feed, and its base URL."""

    html: str
    url: str


class Feed(Struct, frozen=True, kw_only=True):
    """The content of a feed or sitemap, in order. All URLs are absolute http(s) URLs, each once."""

    kind: _FeedKind
    images: tuple[FeedImage, ...] = ()
    pages: tuple[str, ...] = ()
    sitemaps: tuple[str, ...] = ()
    fragments: tuple[Fragment, ...] = ()
    #: Whether a limit on size, or an error in the file, cut something off.
    truncated: bool = False


def read_xml(data: bytes, url: str, content_type: str = "") -> Feed | None:
    """Return the content of the feed or sitemap at ``url``, or None if it is neither.

    Args:
        data: the body. A sitemap may be compressed with gzip, or plain text with a URL in each line.
        url: the URL of the file; relative URLs are resolved against it.
        content_type: the HTTP header, for its type and its charset.
    """
    if content_type.lstrip().lower().startswith("text/plain") and b"<" not in data[:1_000]:
        return _lines(data, url, content_type)
    reader = _Reader(url)
    parser = etree.XMLPullParser(
        events=("start", "end"),
        recover=True,
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        for text in repaired(decoded(data, content_type)):
            parser.feed(text)
            reader.read(parser.read_events(), len(text))
            if reader.done:
                break
        else:
            reader.end()
    except _FAULTS:  # keep the part that was read
        reader.truncated = True
    return reader.feed()


def _lines(data: bytes, url: str, content_type: str) -> Feed | None:
    """Return the content of a sitemap in plain text, which has one URL per line, or None if it has other text."""
    try:
        lines = "".join(decoded(data, content_type)).split(maxsplit=MAX_URLS)
    except _FAULTS:
        return None
    if not lines or not all(line.startswith(("http://", "https://")) for line in lines[:MAX_URLS]):
        return None
    pages = dict.fromkeys(page for line in lines[:MAX_URLS] if (page := _resolved(url, line)))
    return Feed(kind="sitemap", pages=tuple(pages), truncated=len(lines) > MAX_URLS)


@lru_cache(maxsize=1_024)
def _name(tag: str, own: str) -> str:
    """Return the lower-case name of an element with the prefix of its namespace; ``own`` is the file's namespace.

    Raises:
        ValueError: the tag is so long that reading it again for each element would take too long.
    """
    if len(tag) > _MAX_TAG:
        raise ValueError(f"a tag of {len(tag)} characters")
    uri, brace, local = tag.rpartition("}")
    namespace = _namespace(uri[1:])
    prefix = "" if not brace or namespace == own else _PREFIXES.get(namespace, "other:")
    return f"{prefix}{local}".lower()


def _namespace(uri: str) -> str:
    """Return a namespace in normalised form, as feeds spell them in many ways."""
    return uri.strip().lower().removeprefix("http://").removeprefix("https://").rstrip("/#")


class _Reader:
    """Reader of one file. Reads each entry as soon as it ends, then drops its elements."""

    def __init__(self, url: str) -> None:
        self.done = self.truncated = False
        self._url = url
        self._kind: _FeedKind | None = None
        self._own = self._base = self._home = ""
        self._depth = self._elements = self._last = self._entries = self._silence = 0
        self._rows = 1  # depth of the entries
        self._open: Any = None  # the current entry
        self._remaining = MAX_HTML
        self._images: dict[str, FeedImage] = {}
        self._pages: dict[str, None] = {}
        self._sitemaps: dict[str, None] = {}
        self._fragments: dict[Fragment, None] = {}

    def feed(self) -> Feed | None:
        if self._kind is None:
            return None
        return Feed(
            kind=self._kind,
            images=tuple(self._images.values()),
            pages=tuple(self._pages),
            sitemaps=tuple(self._sitemaps),
            fragments=tuple(self._fragments),
            truncated=self.truncated,
        )

    def read(self, events: Iterable[tuple[str, Any]], length: int) -> None:
        """Process the parser's events of ``length`` more characters, and read every entry that has ended."""
        self._silence += length
        for event, element in events:
            self._silence = 0
            if event == "start":
                self._start(element)
            else:
                self._depth -= 1
                if self._depth == self._rows or element is self._open:
                    self._end(element)
            if self.done:
                return
        if self._silence > _MAX_SILENCE:
            self._stop()

    def end(self) -> None:
        """Read the entry that is still open at the end of the file."""
        if self._open is not None:
            self._row(self._open)

    def _start(self, element: Any) -> None:
        if self._depth < self._rows:
            self._enter(element)
        elif self._name(element) in _NESTED:
            self.end()
            self._open = element
        self._depth += 1
        self._elements += 1
        if self._elements > MAX_ELEMENTS or self._elements - self._last > MAX_ENTRY_ELEMENTS:
            self._stop()

    def _end(self, element: Any) -> None:
        self._row(element)
        self._open = None
        self._last = self._elements
        self._entries += 1
        if self._entries == _MAX_ENTRIES:
            self._stop()
        element.clear(keep_tail=True)
        while element.getprevious() is not None:
            del element.getparent()[0]

    def _enter(self, element: Any) -> None:
        """Read the start of the file, or of the channel in it."""
        if self._depth == 0:
            uri, _, local = element.tag.rpartition("}")
            self._own = _namespace(uri[1:])
            self._kind = _KINDS.get(local.lower())
            self._rows = 2 if local.lower() == "rss" else 1
            self.done = self._kind is None
        self._base = _resolved(self._base or self._url, element.get(_BASE, "")) or self._base

    def _stop(self) -> None:
        self.done = self.truncated = True

    def _row(self, row: Any) -> None:
        """Read an entry, or one of the elements next to it."""
        name = self._name(row)
        children = [(self._name(child), child) for child in row.iterchildren("*")]
        stated = _resolved(self._base or self._url, row.get(_BASE, "")) or self._base
        base = stated or self._url
        if name == "sitemap":
            self._add(self._sitemaps, _page(children, base), None)
            return
        if name in _ENTRIES:
            page = _page(children, base)
            self._add(self._pages, page, None)
            for child_name, child in children:
                if child_name in _HTML:
                    self._html(child, stated or page or self._url)
        else:
            self._home = self._home or _page([(name, row)] if name == "link" else children, base)
            page = self._home
        words: _Words | None = None
        for element in row.iter("*"):
            element_name = self._name(element)
            if element_name in _NESTED and element is not row:
                break
            if element_name in _PICTURES:
                words = words or _words_of(_fields(children))
                self._picture(element, base, page, words)

    def _html(self, element: Any, url: str) -> None:
        """Collect the HTML in an element of an entry."""
        markup = _markup(element) if element.get("type", "").strip().lower() in _HTML_TYPES else ""
        if "<" not in markup:
            return
        self._remaining -= len(markup)
        if len(markup) > MAX_FRAGMENT or len(self._fragments) == MAX_FRAGMENTS or self._remaining < 0:
            self.truncated = True
            return
        self._fragments[Fragment(markup, _resolved(url, element.get(_BASE, "")) or url)] = None

    def _picture(self, element: Any, base: str, page: str, words: "_Words") -> None:
        """Collect the image that an element names; ``words`` are those of its entry."""
        name = self._name(element)
        fields = _fields((self._name(child), child) for child in element.iterchildren("*"))
        url = _resolved(base, _reference(name, element, fields))
        if not url or url in self._images:
            return
        own = _words_of(fields)
        image = FeedImage(
            url=url,
            page_url=page,
            title=own.title or words.title,
            caption=own.caption,
            license=own.license or words.license,
            source=_SOURCES.get(name, name),
        )
        self._add(self._images, url, image)

    def _add(self, kept: dict[str, Any], url: str, value: Any) -> None:
        if url and url not in kept:
            if len(kept) == MAX_URLS:
                self._stop()
            else:
                kept[url] = value

    def _name(self, element: Any) -> str:
        return _name(element.tag, self._own)


def _page(children: Iterable[tuple[str, Any]], base: str) -> str:
    """Return the page of an entry, or "" if it names none."""
    permalink = ""
    for name, child in children:
        match name:
            case "link" if child.get("rel", "alternate").strip().lower() == "alternate":
                if url := _resolved(base, child.get("href") or _text(child)):
                    return url
            case "loc":
                return _resolved(base, _text(child))
            case "guid" if child.get("isPermaLink", "true").strip().lower() == "true":
                permalink = text if (text := _text(child)).startswith(("http://", "https://")) else ""
    return _resolved(base, permalink)


def _fields(children: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the elements that describe an entry or an image by name, the first of each."""
    fields: dict[str, Any] = {}
    for name, child in children:
        if name in _FIELDS:
            fields.setdefault(name, child)
    return fields


class _Words(NamedTuple):
    title: str
    caption: str
    license: str


def _words_of(fields: dict[str, Any]) -> _Words:
    return _Words(
        title=_first(fields, "image:title", "media:title", "title"),
        caption=_first(fields, "image:caption", "media:description"),
        license=_first(fields, "image:license", "media:license"),
    )


def _reference(name: str, element: Any, fields: dict[str, Any]) -> str:
    """Return the image URL that an element names, as written, or "" if it names none."""
    match name:
        case "enclosure" | "media:content" if _is_image(element, "url"):
            return str(element.get("url"))
        case "link" if element.get("rel", "").strip().lower() == "enclosure" and _is_image(element, "href"):
            return str(element.get("href"))
        case "content" if _is_image(element, "src"):
            return str(element.get("src"))
        case "media:thumbnail":
            return str(element.get("url", ""))
        case "itunes:image":
            return str(element.get("href", ""))
        case "image:image":
            return _text(fields.get("image:loc"))
        case "image":
            return _text(fields.get("url", element))
        case "icon" | "logo":
            return _text(element)
    return ""


def _is_image(element: Any, attribute: str) -> bool:
    """Return whether the file that an element names is an image."""
    medium, media_type = element.get("medium", "").strip().lower(), element.get("type", "").strip().lower()
    if medium == "image" or media_type.startswith("image/"):
        return attribute in element.attrib
    is_other = medium or media_type.partition("/")[0] in ("audio", "video", "text")
    return not is_other and extension(_address(element.get(attribute, ""))) in IMAGE_EXTENSIONS


def _first(fields: dict[str, Any], *names: str) -> str:
    """Return the text of the first field that has any, in one line."""
    for name in names:
        element = fields.get(name)
        if element is not None and (words := _words(element.text or element.get("href") or "")):
            return words
    return ""


def _words(text: str) -> str:
    return " ".join(html.unescape(text[: 4 * _MAX_WORDS]).split())[:_MAX_WORDS]


def _text(element: Any) -> str:
    return "" if element is None else (element.text or "").strip()


def _markup(element: Any) -> str:
    """Return the HTML in an element, which may be written as text or as elements."""
    if next(element.iterchildren("*"), None) is None:
        return element.text or ""
    parts: list[str] = []
    for event, child in etree.iterwalk(element, events=("start", "end")):
        name = child.tag.rpartition("}")[2]
        if event == "end":
            parts.append(f"</{name}>{html.escape(child.tail or '')}")
        elif name in _NESTED:
            break
        else:
            attributes = (f' {key.rpartition("}")[2]}="{html.escape(value)}"' for key, value in child.items())
            parts.append(f"<{name}{''.join(attributes)}>{html.escape(child.text or '')}")
    return "".join(parts)


def _resolved(base: str, reference: str) -> str:
    """Return the absolute URL, or "" if ``reference`` has none."""
    reference = _address(reference) if reference else ""
    url = resolve(base, reference) if 0 < len(reference) <= MAX_URL_LENGTH else None
    return url if url is not None and len(url) <= MAX_URL_LENGTH else ""


def _address(reference: str) -> str:
    """Return a URL without escapes: some feeds escape it twice, and `repaired` does not recognise CDATA sections."""
    return reference.strip().replace("&#38;", "&").replace("&amp;", "&")
