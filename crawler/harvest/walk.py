"""One walk over a page: what its elements name, and where in the page they do, with URLs as they are written."""

import re
from collections.abc import Callable, Collection, Mapping
from itertools import count
from typing import NamedTuple

from crawler.harvest.css import read_sheet
from crawler.harvest.directives import parse_directives
from crawler.harvest.found import Found, Place
from crawler.harvest.jsonld import linked_data_images
from crawler.harvest.links import refresh_target
from crawler.harvest.sources import (
    LAZY_ATTRIBUTES,
    PICTURES,
    SOURCES,
    SVG_SOURCES,
    Reference,
    of_background,
    of_lazy_attributes,
    of_property,
    of_style,
    words_of,
)
from crawler.harvest.stream import Attributes
from crawler.harvest.words import Words, collapse
from crawler.model import ReferrerPolicy
from crawler.referrer import element_policy, meta_policy

#: Most robots directives kept; they are a handful.
_MAX_DIRECTIVES = 100
#: Characters of style sheets, linked data and framed documents read of one page.
_MAX_INSETS = 4 * 2**20

#: Attributes that most elements have, and that never name an image.
_SILENT = frozenset(
    {"class", "dir", "for", "id", "name", "onclick", "rel", "role", "target", "tabindex", "type", "value"}
)
#: Elements before and after which a word ends.
_BREAKS = frozenset({"br", "dd", "div", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "li", "p", "td", "th", "tr"})
#: Elements whose width and height are those of the picture.
_SIZED = PICTURES | {"amp-video", "embed", "object", "video"}
_PAGE_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_FEED_TYPES = frozenset({"application/rss+xml", "application/atom+xml", "application/rdf+xml"})
_PIXELS = re.compile(r"\s*\+?0*([0-9]{1,9})(?:\.[0-9]*)?\s*(?:px\s*)?", re.IGNORECASE)


class _Open(NamedTuple):
    """What is to be done at the end of an element: what counts again, and which span is closed."""

    place: Place
    span: int | None = None
    is_section: bool = False
    heading: int | None = None
    is_opaque: bool = False
    #: Reads what was opaque.
    reads: Callable[[str], None] | None = None


class Walk:
    """A `crawler.harvest.stream.Visitor` that collects.

    Args:
        limit: pictures that are taken, and as many of all else; what is named again counts as one.
        lazy: attributes in which scripts find pictures, besides those that are known.
    """

    def __init__(self, limit: int, lazy: Collection[str] = ()) -> None:
        #: Whether there are more pictures than are taken, and whether something else was left out.
        self.full = self.cut = False
        #: Whether what follows is a document within the page, which says nothing of the page itself.
        self.framed = False
        self.words = Words()
        self.found: list[Found] = []
        #: References, and whether they are ``rel=nofollow`` wherever they stand.
        self.links: dict[str, bool] = {}
        self.sheets: dict[str, None] = {}
        self.frames: dict[str, None] = {}
        self.feeds: dict[str, None] = {}
        #: Documents that stand in an attribute, to be walked after this one.
        self.documents: list[str] = []
        self.base: str | None = None
        self.canonical: str | None = None
        self.language = ""
        self.title: int | None = None
        #: Figure → words of its caption.
        self.captions: dict[int, int] = {}
        #: Figure or item → reference of its licence; 0: the page.
        self.licenses: dict[int, str] = {}
        self.directives: set[str] = set()
        #: What the page says about ``Referer``, and elements about what they name.
        self.referrer_policy: ReferrerPolicy = ""
        self.referrer_policies: dict[str, ReferrerPolicy] = {}
        self._lazy = LAZY_ATTRIBUTES.union(lazy)
        self._place = Place()
        self._heading: int | None = None
        self._names: list[str] = []
        self._opened: list[_Open | None] = []
        self._opaque: list[str] | None = None
        #: (element or picture, part) → number of the group.
        self._groups: dict[tuple[int, int], int] = {}
        #: Link to a picture → its group, which waits for the thumbnail.
        self._behind: dict[int, int] = {}
        self._numbers = count()
        self._elements = count(1)
        #: References of what was found; when that is much, only new ones are taken.
        self._pictures: set[str] = set()
        self._limit = limit
        self._room = limit  # for references to what is no picture
        self._insets = _MAX_INSETS

    def enter(self, name: str, attributes: Attributes) -> None:
        """Look at an element."""
        self._names.append(name)
        if self._opaque is not None:
            self._opened.append(None)
            return
        if self.words.open and name in _BREAKS:
            self.words.add(" ")
        place = self._place
        opener = _OPENERS.get(name)
        opened = opener(self, attributes) if opener else None
        if "itemscope" in attributes:
            about_image = "imageobject" in attributes.get("itemtype", "").lower()
            self._place = self._place._replace(item=next(self._elements), about_image=about_image)
            opened = opened or _Open(place)
        self._opened.append(opened)
        if attributes:
            if policy := element_policy(attributes):
                self.referrer_policies.setdefault(attributes.get("href") or attributes.get("src", ""), policy)
            self._collect(name, attributes)

    def text(self, data: str) -> None:
        """Keep text for whoever waits for it."""
        if self._opaque is not None:
            self._opaque.append(data)
        else:
            self.words.add(data)

    def leave(self) -> None:
        """Bring back what was true before the element."""
        name = self._names.pop()
        if self.words.open and name in _BREAKS:
            self.words.add(" ")
        opened = self._opened.pop()
        if opened is None:
            return
        if opened.is_opaque:
            text, self._opaque = "".join(self._opaque or ()), None
            if opened.reads and self._affords(text):
                opened.reads(text)
        self._place = opened.place
        if opened.span is not None:
            self.words.end(opened.span)
        if opened.is_section:
            self._heading = opened.heading

    def link(self, attributes: Attributes) -> None:
        """A ``<link>``, wherever it is written."""
        self._link(attributes)
        self._collect("link", attributes)

    # --- elements that change what is around others, or say something of the page

    def _anchor(self, attributes: Attributes) -> _Open | None:
        self._area(attributes)
        if "href" not in attributes:
            return None
        opened = self._span()
        self._place = self._place._replace(link=opened.span)
        return opened

    def _area(self, attributes: Attributes) -> None:
        if "href" in attributes and not self._place.inert:
            relations = words_of(attributes, "rel")
            self._license(attributes["href"], "license" in relations)
            self._lead(attributes["href"], nofollow="nofollow" in relations)

    def _heading_begins(self, _: Attributes) -> _Open:
        opened = self._span()
        self._heading = opened.span
        return opened

    def _section(self, _: Attributes) -> _Open:
        return _Open(self._place, is_section=True, heading=self._heading)

    def _figure(self, _: Attributes) -> _Open:
        return self._enclose(figure=next(self._elements))

    def _figcaption(self, _: Attributes) -> _Open | None:
        figure = self._place.figure
        if not figure or figure in self.captions:
            return None
        opened = self._span()
        self.captions[figure] = opened.span or 0
        return opened

    def _picture(self, _: Attributes) -> _Open:
        return self._enclose(picture=next(self._elements))

    def _svg(self, _: Attributes) -> _Open:
        return self._enclose(drawn=True)

    def _noscript(self, _: Attributes) -> _Open:
        return self._enclose(spare=True)

    def _template(self, attributes: Attributes) -> _Open:
        return self._enclose(inert=self._place.inert or "shadowrootmode" not in attributes)

    def _title(self, _: Attributes) -> _Open | None:
        if self.title is not None or self._place.drawn or not self._is_of_page():
            return None
        opened = self._span()
        self.title = opened.span
        return opened

    def _style(self, _: Attributes) -> _Open:
        return self._hide(self._read_sheet)

    def _script(self, attributes: Attributes) -> _Open:
        kind = attributes.get("type", "").partition(";")[0].strip().lower()
        return self._hide(self._read_linked_data if kind == "application/ld+json" else None)

    def _iframe(self, attributes: Attributes) -> _Open:
        document = attributes.get("srcdoc", "")
        if not document:
            self._frame(attributes)
        elif self._affords(document):
            self.documents.append(document)
        return self._hide(None)

    def _noframes(self, _: Attributes) -> _Open:
        return self._hide(None)

    def _frame(self, attributes: Attributes) -> None:
        self._address(self.frames, attributes.get("src", ""))

    def _object(self, attributes: Attributes) -> None:
        if attributes.get("type", "").strip().lower() in _PAGE_TYPES:
            self._address(self.frames, attributes.get("data", ""))

    def _html(self, attributes: Attributes) -> None:
        self._speaks(attributes.get("lang") or attributes.get("xml:lang", ""))

    def _base(self, attributes: Attributes) -> None:
        is_heeded = self._is_of_page() and not (self._place.drawn or self._place.spare)
        if self.base is None and "href" in attributes and is_heeded:
            self.base = attributes["href"]

    def _meta(self, attributes: Attributes) -> None:
        if not self._is_of_page():
            return
        content = attributes.get("content", "")
        if attributes.get("name", "").strip().lower() == "referrer":
            self.referrer_policy = meta_policy(content) or self.referrer_policy
        if len(self.directives) < _MAX_DIRECTIVES:
            self.directives |= parse_directives(attributes.get("name", ""), content)
        pragma = attributes.get("http-equiv", "").strip().lower()
        if pragma == "refresh" and (target := refresh_target(content)):
            self._lead(target, nofollow=False)
        elif pragma == "content-language":
            self._speaks(content.partition(",")[0])

    def _link(self, attributes: Attributes) -> None:
        relations = words_of(attributes, "rel")
        href = attributes.get("href", "")
        if not relations or not href or self._place.inert:
            return
        kind = attributes.get("type", "").partition(";")[0].strip().lower()
        self._license(href, "license" in relations)
        if "canonical" in relations and self.canonical is None and not self.framed:
            self.canonical = href
        early = attributes.get("as", "").strip().lower() if "preload" in relations else ""
        if "stylesheet" in relations or early == "style":
            self._address(self.sheets, href)
        if "alternate" in relations and kind in _FEED_TYPES:
            self._address(self.feeds, href)

    # --- images

    def _collect(self, name: str, attributes: Attributes) -> None:
        """Ask every function that knows the element for the images it names."""
        if name not in SOURCES and attributes.keys() <= _SILENT and not self._place.drawn:
            return
        references = self._references(name, attributes)
        if not references:
            return
        place = self._place
        alt = collapse(attributes.get("alt") or attributes.get("aria-label", ""))
        title = collapse(attributes.get("title", ""))
        size = (_pixels(attributes, "width"), _pixels(attributes, "height")) if name in _SIZED else (None, None)
        element = place.picture if name in ("img", "source") and place.picture else next(self._elements)
        policy = element_policy(attributes)
        for reference in references:
            group = self._group(name, element, reference.part)
            found = Found(reference, group, place, self._heading, alt, title, size=size, referrer_policy=policy)
            self._take(found)
        if name == "img":  # completes its <picture>; should another follow, the end tag was forgotten
            self._groups.pop((element, 0), None)
        elif name == "a" and references[0].rank == 3 and place.link is not None:
            self._behind[place.link] = self._groups[element, 0]

    def _references(self, name: str, attributes: Attributes) -> list[Reference]:
        """What an element names, by all that it may name images with."""
        rule = SVG_SOURCES.get(name) if self._place.drawn else None
        rule = rule or SOURCES.get(name)
        references = [*rule(attributes)] if rule else []
        if "itemprop" in attributes:
            self._license(
                attributes.get("content") or attributes.get("href", ""), "license" in words_of(attributes, "itemprop")
            )
            known = {reference.url for reference in references}
            properties = of_property(name, attributes, about_image=self._place.about_image)
            references += (reference for reference in properties if reference.url not in known)
        if "style" in attributes and self._affords(attributes["style"]):
            references += of_style(attributes)
        if "background" in attributes:
            references += of_background(name, attributes)
        references += of_lazy_attributes(name, attributes, self._lazy)
        return references

    def _group(self, name: str, element: int, part: int) -> int:
        """Number of the picture that a part of an element is a candidate for."""
        key = element, part
        if key not in self._groups:
            link = self._place.link
            behind = self._behind.pop(link, None) if link is not None and name in PICTURES else None
            self._groups[key] = next(self._numbers) if behind is None else behind
        return self._groups[key]

    def _read_sheet(self, text: str) -> None:
        sheet = read_sheet(text)
        self.cut |= sheet.truncated
        groups: dict[int, int] = {}
        for image in sheet.images:
            group = groups.setdefault(image.group, -1)
            if group < 0:
                group = groups[image.group] = next(self._numbers)
            self._take(Found(Reference(image.url, "css", density=image.density), group, self._place, self._heading))
        for reference in sheet.imports:
            self._address(self.sheets, reference)

    def _read_linked_data(self, text: str) -> None:
        for image in linked_data_images(text):
            reference = Reference(image.url, image.source, rank=-1 if image.is_reference else 0)
            size = image.width, image.height
            caption, license_ = image.caption, image.license
            number = next(self._numbers)
            self._take(Found(reference, number, Place(), None, caption=caption, license=license_, size=size))

    # --- what the methods above have in common

    def _enclose(self, **fields: int) -> _Open:
        opened = _Open(self._place)
        self._place = self._place._replace(**fields)  # type: ignore[arg-type]
        return opened

    def _span(self) -> _Open:
        return _Open(self._place, span=self.words.begin())

    def _hide(self, reads: Callable[[str], None] | None) -> _Open:
        self._opaque = []
        return _Open(self._place, is_opaque=True, reads=reads)

    def _is_of_page(self) -> bool:
        return not (self.framed or self._place.inert)

    def _speaks(self, language: str) -> None:
        if not self.language and self._is_of_page():
            self.language = collapse(language)

    def _license(self, href: str, applies: bool) -> None:
        if applies and href:
            self.licenses.setdefault(self._place.figure or self._place.item, href)

    def _lead(self, href: str, *, nofollow: bool) -> None:
        if href in self.links or self._has_room():
            self.links[href] = nofollow and self.links.get(href, True)

    def _address(self, addresses: dict[str, None], href: str) -> None:
        if href and not self._place.inert and href not in addresses and self._has_room():
            addresses[href] = None

    def _take(self, found: Found) -> None:
        if found.reference.url not in self._pictures:
            self._pictures.add(found.reference.url)
            self.full |= len(self._pictures) > self._limit
        elif len(self.found) >= self._limit:
            self.cut = True
            return
        if not self.full:
            self.found.append(found)

    def _has_room(self) -> bool:
        self._room -= 1
        self.cut |= self._room < 0
        return self._room >= 0

    def _affords(self, inset: str) -> bool:
        self._insets -= len(inset)
        self.cut |= self._insets < 0
        return self._insets >= 0


#: Element → what it changes or says besides naming images.
_OPENERS: Mapping[str, Callable[[Walk, Attributes], _Open | None]] = {
    "a": Walk._anchor,
    "area": Walk._area,
    "base": Walk._base,
    "figcaption": Walk._figcaption,
    "figure": Walk._figure,
    "frame": Walk._frame,
    "html": Walk._html,
    "iframe": Walk._iframe,
    "link": Walk._link,
    "meta": Walk._meta,
    "noscript": Walk._noscript,
    "object": Walk._object,
    "picture": Walk._picture,
    "script": Walk._script,
    "style": Walk._style,
    "svg": Walk._svg,
    "template": Walk._template,
    "title": Walk._title,
    **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), Walk._heading_begins),
    **dict.fromkeys(("article", "aside", "nav", "section"), Walk._section),
    **dict.fromkeys(("noembed", "noframes", "plaintext", "xmp"), Walk._noframes),
}


def _pixels(attributes: Attributes, name: str) -> int | None:
    """A length in pixels (https://html.spec.whatwg.org/#dimension-attributes), None where it is none."""
    value = attributes.get(name)
    match = _PIXELS.fullmatch(value[:20]) if value else None
    return int(match[1]) if match else None
