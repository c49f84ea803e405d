"""Walk over a page that follows the context of its elements: which picture, figure or link they are inside of."""

from collections.abc import Callable, Collection, Mapping

from msgspec import Struct, structs

from crawler.harvest.html.image_collector import ElementContext, ImageCollector
from crawler.harvest.html.page_facts import READERS, PageFacts
from crawler.harvest.html.sources import SOURCES
from crawler.harvest.html.text_spans import TextSpans
from crawler.harvest.html.visitor import Attributes
from crawler.model import ReferrerPolicy
from crawler.net.referrer import element_policy

#: Common attributes that never name an image.
_IRRELEVANT = frozenset(
    {"class", "dir", "for", "id", "name", "onclick", "rel", "role", "target", "tabindex", "type", "value"}
)
#: Elements that separate words.
_BREAKS = frozenset({"br", "dd", "div", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "li", "p", "td", "th", "tr"})


class _Open(Struct, frozen=True):
    """State to restore at the end of an element, and the text span to close."""

    context: ElementContext
    span: int | None = None
    is_section: bool = False
    heading: int | None = None
    is_opaque: bool = False
    #: Reads the content of an opaque element.
    reads: Callable[[str], None] | None = None


class Walk:
    """A `crawler.harvest.html.visitor.Visitor` that collects the images and the facts of a page.

    Args:
        limit: most images that are collected, and most other references. A repeated reference counts once.
        lazy: more attributes in which scripts keep image URLs, besides `LAZY_ATTRIBUTES`.
    """

    def __init__(self, limit: int, lazy: Collection[str] = ()) -> None:
        self.images = ImageCollector(limit, lazy)
        self.facts = PageFacts(limit)
        self.words = TextSpans()
        #: Documents from ``srcdoc`` attributes, to walk after this one.
        self.documents: list[str] = []
        self.title: int | None = None
        #: Whether the page has more images than the limit.
        self.full = False
        #: Figure → text span of its caption.
        self.captions: dict[int, int] = {}
        self._context = ElementContext()
        self._heading: int | None = None
        self._names: list[str] = []
        self._opened: list[_Open | None] = []
        self._opaque: list[str] | None = None

    def enter(self, name: str, attributes: Attributes) -> None:
        """Read the start of an element."""
        self._names.append(name)
        if self._opaque is not None:
            self._opened.append(None)
            return
        if self.words.open and name in _BREAKS:
            self.words.add(" ")
        context, opened = self._context, None
        if name in READERS:
            READERS[name](self.facts, attributes, context)
        if name in _OPENERS:
            opened = _OPENERS[name](self, attributes)
        if not attributes:
            self._opened.append(opened)
            return
        if "itemscope" in attributes:
            about_image = "imageobject" in attributes.get("itemtype", "").lower()
            self._context = structs.replace(self._context, item=next(self.images.elements), about_image=about_image)
            opened = opened or _Open(context)
        self._opened.append(opened)
        if policy := element_policy(attributes):
            self.facts.referrer_policies.setdefault(attributes.get("href") or attributes.get("src", ""), policy)
        self._collect(name, attributes, policy)

    def text(self, data: str) -> None:
        """Add text to the open spans, or to the opaque element."""
        if self._opaque is not None:
            self._opaque.append(data)
        elif self.words.open:
            self.words.add(data)

    def leave(self) -> None:
        """Restore the state from before the element."""
        name = self._names.pop()
        if self.words.open and name in _BREAKS:
            self.words.add(" ")
        opened = self._opened.pop()
        if opened is None:
            return
        if opened.is_opaque:
            text, self._opaque = "".join(self._opaque or ()), None
            if opened.reads and self.images.fits(text):
                opened.reads(text)
                self.full = self.images.full
        self._context = opened.context
        if opened.span is not None:
            self.words.end(opened.span)
        if opened.is_section:
            self._heading = opened.heading

    def link(self, attributes: Attributes) -> None:
        """Read an entry of a ``Link`` header."""
        self.facts.read_link(attributes, self._context)
        self._collect("link", attributes, element_policy(attributes))

    def _collect(self, name: str, attributes: Attributes, policy: ReferrerPolicy) -> None:
        if name in SOURCES or self._context.drawn or not attributes.keys() <= _IRRELEVANT:
            if "itemprop" in attributes:
                self.facts.read_property(attributes, self._context)
            self.images.collect(name, attributes, self._context, self._heading, policy)
            self.full = self.images.full

    # --- elements that set the context of others

    def _anchor(self, attributes: Attributes) -> _Open | None:
        if "href" not in attributes:
            return None
        opened = self._open_span()
        self._context = structs.replace(self._context, link=opened.span)
        return opened

    def _open_heading(self, _: Attributes) -> _Open:
        opened = self._open_span()
        self._heading = opened.span
        return opened

    def _figcaption(self, _: Attributes) -> _Open | None:
        figure = self._context.figure
        if not figure or figure in self.captions:
            return None
        opened = self._open_span()
        self.captions[figure] = opened.span or 0
        return opened

    def _template(self, attributes: Attributes) -> _Open:
        return self._open_context(inert=self._context.inert or "shadowrootmode" not in attributes)

    def _title(self, _: Attributes) -> _Open | None:
        if self.title is not None or self._context.drawn or not self.facts.is_of_page(self._context):
            return None
        opened = self._open_span()
        self.title = opened.span
        return opened

    def _script(self, attributes: Attributes) -> _Open:
        kind = attributes.get("type", "").partition(";")[0].strip().lower()
        return self._open_opaque(self.images.read_linked_data if kind == "application/ld+json" else None)

    def _iframe(self, attributes: Attributes) -> _Open:
        document = attributes.get("srcdoc", "")
        if not document:
            self.facts.read_frame(attributes, self._context)
        elif self.images.fits(document):
            self.documents.append(document)
        return self._open_opaque()

    def _open_context(self, **fields: int) -> _Open:
        opened = _Open(self._context)
        self._context = structs.replace(self._context, **fields)
        return opened

    def _open_span(self) -> _Open:
        return _Open(self._context, span=self.words.begin())

    def _open_opaque(self, reads: Callable[[str], None] | None = None) -> _Open:
        self._opaque = []
        return _Open(self._context, is_opaque=True, reads=reads)

    def _read_sheet(self, text: str) -> None:
        for url in self.images.read_sheet(text, self._context, self._heading):
            self.facts.add(self.facts.sheets, url, self._context)


#: Element → method that sets the context of its content.
_OPENERS: Mapping[str, Callable[[Walk, Attributes], _Open | None]] = {
    "a": Walk._anchor,
    "figcaption": Walk._figcaption,
    "figure": lambda walk, _: walk._open_context(figure=next(walk.images.elements)),
    "iframe": Walk._iframe,
    "noscript": lambda walk, _: walk._open_context(spare=True),
    "picture": lambda walk, _: walk._open_context(picture=next(walk.images.elements)),
    "script": Walk._script,
    "style": lambda walk, _: walk._open_opaque(walk._read_sheet),
    "svg": lambda walk, _: walk._open_context(drawn=True),
    "template": Walk._template,
    "title": Walk._title,
    **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), Walk._open_heading),
    **dict.fromkeys(
        ("article", "aside", "nav", "section"),
        lambda walk, _: _Open(walk._context, is_section=True, heading=walk._heading),
    ),
    **dict.fromkeys(("noembed", "noframes", "plaintext", "xmp"), lambda walk, _: walk._open_opaque()),
}
