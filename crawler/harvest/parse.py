"""A page's HTML in, every image and link that it names out. Pure: no network, no clock, and no exception.

One walk over the tree collects what `crawler.harvest.sources` knows; URLs are resolved afterwards, since the
``<base>`` that decides about them may stand anywhere.
"""

from itertools import count, islice
from typing import NamedTuple

from bs4 import BeautifulSoup, Tag
from bs4.element import NavigableString, PreformattedString

from crawler.harvest.charset import decode, encode_query
from crawler.harvest.directives import parse_directives
from crawler.harvest.page import Image, Page
from crawler.harvest.sources import SOURCES, Reference, of_lazy_attributes, text_of, words_of
from crawler.harvest.tree import parse
from crawler.urls import MAX_URL_LENGTH, resolve

#: URLs taken from one page, images and links together.
MAX_URLS = 20_000
#: Characters kept of an alt text, a title, a caption.
MAX_TEXT = 1_000
#: Nodes of one element that are searched for its text.
_MAX_TEXT_NODES = 1_000
#: Most robots directives kept; they are a handful.
_MAX_DIRECTIVES = 100


def extract(html: bytes | str, url: str, content_type: str | None = None) -> Page:
    """Everything that the page at ``url`` names, in document order, as absolute http(s) URLs.

    Args:
        html: the body, as it came or already decoded.
        url: where it was fetched; relative URLs are resolved against it, or against the page's ``<base>``.
        content_type: the HTTP header, for its charset.

    Never raises, whatever the bytes are; `Page.truncated` tells when one of the limits cut something off.
    """
    text, codec = decode(html, content_type)
    soup, cut = parse(text)
    walk = _Walk()
    walk.over(soup)
    resolver = _Resolver(url, walk.base, codec)
    links = dict.fromkeys(link for href, _ in walk.links if (link := resolver(href)))
    followed = {resolver(href) for href, nofollow in walk.links if not nofollow}
    return Page(
        images=tuple(_images(walk, resolver)),
        links=tuple(links),
        nofollow=frozenset(links.keys() - followed),
        base=resolver.base,
        title=walk.title,
        directives=frozenset(walk.directives),
        truncated=cut or walk.full,
    )


class _Place(NamedTuple):
    """The innermost picture and figure around an element, by number; 0: none."""

    picture: int = 0
    figure: int = 0


class _Found(NamedTuple):
    """A reference and where it stands."""

    reference: Reference
    group: int
    figure: int
    alt: str
    title: str


class _Walk:
    """What one walk over a tree finds, with URLs as they are written."""

    def __init__(self) -> None:
        self.base: str | None = None
        self.title = ""
        self.found: list[_Found] = []
        #: References, and whether they are ``rel=nofollow``.
        self.links: list[tuple[str, bool]] = []
        self.captions: dict[int, str] = {}
        self.directives: set[str] = set()
        self.full = False
        self._places: dict[int, _Place] = {}
        #: (element or picture, part) → number of the group.
        self._groups: dict[tuple[int, int], int] = {}
        self._numbers = count()
        self._has_title = False

    def over(self, soup: BeautifulSoup) -> None:
        """Look at every element, in document order, until `MAX_URLS` are found."""
        for node in soup.descendants:
            if isinstance(node, Tag):
                self._look(node)
                if len(self.found) + len(self.links) > MAX_URLS:
                    self._cut()
                    return

    def _look(self, tag: Tag) -> None:
        place = self._place(tag)
        match tag.name:
            case "title" if not self._has_title and (tag.parent is None or tag.parent.name != "svg"):
                self._has_title, self.title = True, _text(tag)
            case "figcaption" if place.figure not in self.captions:
                self.captions[place.figure] = _text(tag)
            case "base" if self.base is None and tag.has_attr("href"):
                self.base = text_of(tag, "href")
            case "meta" if len(self.directives) < _MAX_DIRECTIVES:
                self.directives |= parse_directives(text_of(tag, "name"), text_of(tag, "content"))
            case "a" | "area" if tag.has_attr("href"):
                self.links.append((text_of(tag, "href"), "nofollow" in words_of(tag, "rel")))
        if tag.attrs:
            self._collect(tag, place)

    def _place(self, tag: Tag) -> _Place:
        """Where ``tag`` stands, remembered for what stands in it."""
        place = self._places.get(id(tag.parent), _Place())
        if tag.name == "picture":
            place = place._replace(picture=id(tag))
        elif tag.name == "figure":
            place = place._replace(figure=id(tag))
        if place != (0, 0):
            self._places[id(tag)] = place
        return place

    def _collect(self, tag: Tag, place: _Place) -> None:
        """Ask every function that knows the element for the images it names."""
        rule = SOURCES.get(tag.name)
        references = [*rule(tag)] if rule else []
        references += of_lazy_attributes(tag)
        if not references:
            return
        alt, title = _collapse(text_of(tag, "alt")), _collapse(text_of(tag, "title"))
        element = place.picture if tag.name in ("img", "source") and place.picture else id(tag)
        for reference in references:
            key = element, reference.part
            if key not in self._groups:
                self._groups[key] = next(self._numbers)
            self.found.append(_Found(reference, self._groups[key], place.figure, alt, title))
        if tag.name == "img":  # completes its <picture>; should another follow, the end tag was forgotten
            self._groups.pop((element, 0), None)

    def _cut(self) -> None:
        self.full = True
        excess = len(self.found) + len(self.links) - MAX_URLS
        del self.found[max(0, len(self.found) - excess) :]
        del self.links[MAX_URLS - len(self.found) :]


class _Resolver:
    """Resolves each reference once, as a document of this base and encoding does."""

    def __init__(self, url: str, base: str | None, codec: str) -> None:
        own = resolve(None, url) or url
        href = resolve(own, base) if base is not None and len(base) <= MAX_URL_LENGTH else None
        self.base = href if href is not None and len(href) <= MAX_URL_LENGTH else own
        self._codec = codec
        self._known: dict[str, str | None] = {}

    def __call__(self, reference: str) -> str | None:
        """Absolute http(s) URL, None where it is none or too long to be one that is followed."""
        if reference not in self._known:
            self._known[reference] = self._resolve(reference)
        return self._known[reference]

    def _resolve(self, reference: str) -> str | None:
        # The bound comes first: a long base before each of many short references would fill the memory.
        if len(reference) > MAX_URL_LENGTH:
            return None
        href = resolve(self.base, encode_query(reference, self._codec))
        return href if href is not None and len(href) <= MAX_URL_LENGTH else None


def _images(walk: _Walk, resolver: _Resolver) -> list[Image]:
    """The images of a walk, resolved, with the words around them; a ``<source>`` has those of its ``<img>``."""
    images = []
    alts = {found.group: found.alt for found in reversed(walk.found) if found.alt}
    titles = {found.group: found.title for found in reversed(walk.found) if found.title}
    for reference, group, figure, alt, title in walk.found:
        url = resolver(reference.url)
        if url is None:
            continue
        image = Image(
            url=url,
            source=reference.source,
            group=group,
            alt=alt or alts.get(group, ""),
            title=title or titles.get(group, ""),
            caption=walk.captions.get(figure, "") if figure else "",
            width=reference.width,
            density=reference.density,
            rank=reference.rank,
        )
        images.append(image)
    return images


def _text(tag: Tag) -> str:
    """The words in an element, without comments, up to `MAX_TEXT` characters."""
    parts: list[str] = []
    room = MAX_TEXT
    for node in islice(tag.descendants, _MAX_TEXT_NODES):
        if isinstance(node, NavigableString) and not isinstance(node, PreformattedString):
            parts.append(_collapse(node, keep_ends=True))
            room -= len(parts[-1])
            if room < 0:
                break
    return _collapse("".join(parts))


def _collapse(text: str, *, keep_ends: bool = False) -> str:
    """``text`` with its white space collapsed, up to `MAX_TEXT` characters."""
    text = text[: 10 * MAX_TEXT]
    words = " ".join(text.split())[:MAX_TEXT]
    if keep_ends:
        return f"{' ' * text[:1].isspace()}{words}{' ' * text[-1:].isspace()}"
    return words.rstrip()
