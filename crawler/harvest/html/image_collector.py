"""Collection of the images that the elements of a page name, with their context and with URLs as written."""

import re
from collections.abc import Collection
from itertools import count

from msgspec import Struct, structs

from crawler.harvest.html.css import read_sheet
from crawler.harvest.html.jsonld import linked_data_images
from crawler.harvest.html.sources import (
    LAZY_ATTRIBUTES,
    PICTURES,
    SOURCES,
    SVG_SOURCES,
    Reference,
    of_background,
    of_lazy_attributes,
    of_property,
    of_style,
)
from crawler.harvest.html.text_spans import collapse
from crawler.harvest.html.visitor import Attributes
from crawler.model import ReferrerPolicy

#: Most characters of style sheets, linked data and framed documents read of one page.
_MAX_INSETS = 4 * 2**20
#: Elements whose width and height are those of the image.
_SIZED = PICTURES | {"amp-video", "embed", "object", "video"}
_PIXELS = re.compile(r"\s*\+?0*([0-9]{1,9})(?:\.[0-9]*)?\s*(?:px\s*)?", re.IGNORECASE)


class ElementContext(Struct, frozen=True, gc=False):
    """Context of an element: the numbers of its innermost picture, figure and item (0: none), and more."""

    picture: int = 0
    figure: int = 0
    item: int = 0
    #: Whether the item is an ImageObject.
    about_image: bool = False
    #: Number of the text span of the enclosing link.
    link: int | None = None
    #: Whether it is inside an SVG drawing, and inside a template, which a browser does not show by itself.
    drawn: bool = False
    inert: bool = False
    #: Whether it is inside ``<noscript>``, which is text to a browser that runs scripts.
    spare: bool = False


class ImageCandidate(Struct, frozen=True, gc=False):
    """An image reference with the text and numbers around it. Candidates for one image share a group."""

    reference: Reference
    group: int
    context: ElementContext
    heading: int | None
    alt: str = ""
    title: str = ""
    caption: str = ""
    license: str = ""
    size: tuple[int | None, int | None] = (None, None)
    referrer_policy: ReferrerPolicy = ""


class ImageCollector:
    """Collector of the images of one page.

    Args:
        limit: most images that are collected. A repeated reference counts once.
        lazy: more attributes in which scripts keep image URLs, besides `LAZY_ATTRIBUTES`.
    """

    def __init__(self, limit: int, lazy: Collection[str] = ()) -> None:
        #: Whether the page has more images than the limit, and whether something else was left out.
        self.full = self.cut = False
        self.candidates: list[ImageCandidate] = []
        #: Numbers of elements.
        self.elements = count(1)
        self._lazy = LAZY_ATTRIBUTES.union(lazy)
        #: (element or ``<picture>``, part) → number of the group.
        self._groups: dict[tuple[int, int], int] = {}
        #: Link to an image → its group, which waits for the thumbnail.
        self._waiting_groups: dict[int, int] = {}
        self._numbers = count()
        #: References of the candidates. Once there are many images, repeated references are dropped.
        self._references: set[str] = set()
        self._limit = limit
        self._remaining_insets = _MAX_INSETS

    def collect(
        self,
        name: str,
        attributes: Attributes,
        context: ElementContext,
        heading: int | None,
        policy: ReferrerPolicy,
    ) -> None:
        """Collect the images that an element names, which is requested by this referrer ``policy``."""
        references = self._references_of(name, attributes, context)
        if not references:
            return
        alt = collapse(attributes.get("alt") or attributes.get("aria-label", ""))
        title = collapse(attributes.get("title", ""))
        size = (_pixels(attributes, "width"), _pixels(attributes, "height")) if name in _SIZED else (None, None)
        element = context.picture if name in ("img", "source") and context.picture else next(self.elements)
        for reference in references:
            group = self._group(name, element, reference.part, context.link)
            self._add(ImageCandidate(reference, group, context, heading, alt, title, size=size, referrer_policy=policy))
        if name == "img":  # completes its <picture>; if another one follows, the end tag is missing
            self._groups.pop((element, 0), None)
        elif name == "a" and references[0].rank == 3 and context.link is not None:
            self._waiting_groups[context.link] = self._groups[element, 0]

    def read_sheet(self, text: str, context: ElementContext, heading: int | None) -> tuple[str, ...]:
        """Collect the images of a ``<style>`` element. Return the other sheets that it imports."""
        sheet = read_sheet(text)
        self.cut |= sheet.truncated
        groups: dict[int, int] = {}
        for image in sheet.images:
            if image.group not in groups:
                groups[image.group] = next(self._numbers)
            reference = Reference(image.url, "css", density=image.density)
            self._add(ImageCandidate(reference, groups[image.group], context, heading))
        return sheet.imports

    def read_linked_data(self, text: str) -> None:
        """Collect the images of a script with linked data."""
        for image in linked_data_images(text):
            reference = Reference(image.url, "json-ld", rank=-1 if image.is_reference else 0)
            candidate = ImageCandidate(reference, next(self._numbers), ElementContext(), None)
            size = image.width, image.height
            self._add(structs.replace(candidate, caption=image.caption, license=image.license, size=size))

    def fits(self, inset: str) -> bool:
        """Count the characters of a style sheet, linked data or a document; return whether they may be read."""
        self._remaining_insets -= len(inset)
        self.cut |= self._remaining_insets < 0
        return self._remaining_insets >= 0

    def _references_of(self, name: str, attributes: Attributes, context: ElementContext) -> list[Reference]:
        """Return the image references of an element, from all of its attributes."""
        rule = SVG_SOURCES.get(name) if context.drawn else None
        rule = rule or SOURCES.get(name)
        references = [*rule(attributes)] if rule else []
        if "itemprop" in attributes:
            urls = {reference.url for reference in references}
            properties = of_property(name, attributes, about_image=context.about_image)
            references += (reference for reference in properties if reference.url not in urls)
        if "style" in attributes and self.fits(attributes["style"]):
            references += of_style(attributes)
        if "background" in attributes:
            references += of_background(name, attributes)
        references += of_lazy_attributes(name, attributes, self._lazy)
        return references

    def _group(self, name: str, element: int, part: int, link: int | None) -> int:
        """Return the number of the group that a part of an element belongs to."""
        key = element, part
        if key not in self._groups:
            waiting = self._waiting_groups.pop(link, None) if link is not None and name in PICTURES else None
            self._groups[key] = next(self._numbers) if waiting is None else waiting
        return self._groups[key]

    def _add(self, candidate: ImageCandidate) -> None:
        if candidate.reference.url not in self._references:
            self._references.add(candidate.reference.url)
            self.full |= len(self._references) > self._limit
        elif len(self.candidates) >= self._limit:
            self.cut = True
            return
        if not self.full:
            self.candidates.append(candidate)


def _pixels(attributes: Attributes, name: str) -> int | None:
    """Return a length in pixels (https://html.spec.whatwg.org/#dimension-attributes), or None if it is invalid."""
    value = attributes.get(name)
    match = _PIXELS.fullmatch(value[:20]) if value else None
    return int(match[1]) if match else None
