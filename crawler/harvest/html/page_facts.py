"""Collection of the links, the parts, the directives and the other properties of a page, with URLs as written."""

from collections.abc import Callable, Mapping

from crawler.harvest.html.image_collector import ElementContext
from crawler.harvest.html.link_header import refresh_target
from crawler.harvest.html.sources import words_of
from crawler.harvest.html.text_spans import collapse
from crawler.harvest.html.visitor import Attributes
from crawler.model import ReferrerPolicy
from crawler.net.referrer import meta_policy
from crawler.robots.page_directives import parse_directives

#: Most robots directives kept; real pages have a handful.
_MAX_DIRECTIVES = 100
_PAGE_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_FEED_TYPES = frozenset({"application/rss+xml", "application/atom+xml", "application/rdf+xml"})


class PageFacts:
    """The links of one page, its parts, its directives and its other properties.

    Args:
        limit: most links and parts. A repeated reference counts once.
    """

    def __init__(self, limit: int) -> None:
        #: Whether something was left out.
        self.cut = False
        #: Whether the walk is in a framed document, which says nothing about the page itself.
        self.framed = False
        #: Reference → whether all its links are ``rel=nofollow``.
        self.links: dict[str, bool] = {}
        self.sheets: dict[str, None] = {}
        self.frames: dict[str, None] = {}
        self.feeds: dict[str, None] = {}
        self.base: str | None = None
        self.canonical: str | None = None
        self.language = ""
        #: Figure or item → reference of its licence; 0: the page.
        self.licenses: dict[int, str] = {}
        self.directives: set[str] = set()
        #: Referrer policy of the page, and of elements by the reference they name.
        self.referrer_policy: ReferrerPolicy = ""
        self.referrer_policies: dict[str, ReferrerPolicy] = {}
        self._remaining = limit

    def is_of_page(self, context: ElementContext) -> bool:
        """Return whether an element may describe the page."""
        return not (self.framed or context.inert)

    def add(self, references: dict[str, None], href: str, context: ElementContext) -> None:
        """Add a part of the page to ``sheets``, ``frames`` or ``feeds``."""
        if href and not context.inert and href not in references and self._has_capacity():
            references[href] = None

    def read_area(self, attributes: Attributes, context: ElementContext) -> None:
        """Read the link of ``<a>`` or ``<area>``."""
        if "href" in attributes and not context.inert:
            relations = words_of(attributes, "rel")
            self._add_license(attributes["href"], "license" in relations, context)
            self._add_link(attributes["href"], nofollow="nofollow" in relations)

    def read_frame(self, attributes: Attributes, context: ElementContext) -> None:
        """Read a ``<frame>`` or ``<iframe>``."""
        self.add(self.frames, attributes.get("src", ""), context)

    def read_link(self, attributes: Attributes, context: ElementContext) -> None:
        """Read a ``<link>``, or an entry of a ``Link`` header."""
        relations = words_of(attributes, "rel")
        href = attributes.get("href", "")
        if not relations or not href or context.inert:
            return
        kind = attributes.get("type", "").partition(";")[0].strip().lower()
        self._add_license(href, "license" in relations, context)
        if "canonical" in relations and self.canonical is None and not self.framed:
            self.canonical = href
        early = attributes.get("as", "").strip().lower() if "preload" in relations else ""
        if "stylesheet" in relations or early == "style":
            self.add(self.sheets, href, context)
        if "alternate" in relations and kind in _FEED_TYPES:
            self.add(self.feeds, href, context)

    def read_property(self, attributes: Attributes, context: ElementContext) -> None:
        """Read a microdata property, which may be a licence."""
        href = attributes.get("content") or attributes.get("href", "")
        self._add_license(href, "license" in words_of(attributes, "itemprop"), context)

    def _read_object(self, attributes: Attributes, context: ElementContext) -> None:
        if attributes.get("type", "").strip().lower() in _PAGE_TYPES:
            self.add(self.frames, attributes.get("data", ""), context)

    def _read_html(self, attributes: Attributes, context: ElementContext) -> None:
        self._set_language(attributes.get("lang") or attributes.get("xml:lang", ""), context)

    def _read_base(self, attributes: Attributes, context: ElementContext) -> None:
        applies = self.is_of_page(context) and not (context.drawn or context.spare)
        if self.base is None and "href" in attributes and applies:
            self.base = attributes["href"]

    def _read_meta(self, attributes: Attributes, context: ElementContext) -> None:
        if not self.is_of_page(context):
            return
        content = attributes.get("content", "")
        if attributes.get("name", "").strip().lower() == "referrer":
            self.referrer_policy = meta_policy(content) or self.referrer_policy
        if len(self.directives) < _MAX_DIRECTIVES:
            self.directives |= parse_directives(attributes.get("name", ""), content)
        pragma = attributes.get("http-equiv", "").strip().lower()
        if pragma == "refresh" and (target := refresh_target(content)):
            self._add_link(target, nofollow=False)
        elif pragma == "content-language":
            self._set_language(content.partition(",")[0], context)

    def _set_language(self, language: str, context: ElementContext) -> None:
        if not self.language and self.is_of_page(context):
            self.language = collapse(language)

    def _add_license(self, href: str, applies: bool, context: ElementContext) -> None:
        if applies and href:
            self.licenses.setdefault(context.figure or context.item, href)

    def _add_link(self, href: str, *, nofollow: bool) -> None:
        if href in self.links or self._has_capacity():
            self.links[href] = nofollow and self.links.get(href, True)

    def _has_capacity(self) -> bool:
        self._remaining -= 1
        self.cut |= self._remaining < 0
        return self._remaining >= 0


#: Element → method that reads it.
READERS: Mapping[str, Callable[[PageFacts, Attributes, ElementContext], None]] = {
    "a": PageFacts.read_area,
    "area": PageFacts.read_area,
    "base": PageFacts._read_base,
    "frame": PageFacts.read_frame,
    "html": PageFacts._read_html,
    "link": PageFacts.read_link,
    "meta": PageFacts._read_meta,
    "object": PageFacts._read_object,
}
