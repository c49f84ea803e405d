"""Content of a page as plain data: its images, its links and its robots directives."""

from msgspec import Struct

from crawler.model import ReferrerPolicy


class Image(Struct, frozen=True, kw_only=True):
    """An image URL that a page names. Candidates for the same image share a ``group``."""

    url: str
    #: Markup that names it, such as ``img``, ``srcset``, ``og:image`` or the name of a lazy-loading attribute.
    source: str
    #: Number of the image on its page, in document order.
    group: int
    alt: str = ""
    title: str = ""
    caption: str = ""
    #: Text of the enclosing link.
    link_text: str = ""
    #: The previous heading in its section of the page.
    heading: str = ""
    #: URL or name of its licence: that of its figure or item, or else that of the page.
    license: str = ""
    #: From ``srcset``: width in pixels, and pixels of the image per pixel of the page.
    width: int | None = None
    density: float | None = None
    #: Displayed size in pixels of the page, from its attributes.
    declared_width: int | None = None
    declared_height: int | None = None
    #: The greatest rank is most likely the real image: 0 plain, 1 lazily loaded, 2 lazily loaded with a name that says
    #: "larger", 3 target of a thumbnail's link, -1 probably a page about an image: named like it, or its identifier.
    rank: int = 0
    #: Referrer policy of its element; empty: that of the page.
    referrer_policy: ReferrerPolicy = ""

    @property
    def is_pixel(self) -> bool:
        """Whether its declared size is that of a spacer or a tracking pixel."""
        return not self.rank and any(
            size is not None and size <= 1 for size in (self.declared_width, self.declared_height)
        )


class Page(Struct, frozen=True, kw_only=True):
    """Everything found on a page, in document order, before any filter. URLs are absolute http(s) URLs, each once."""

    images: tuple[Image, ...] = ()
    links: tuple[str, ...] = ()
    #: Those of ``links`` that are ``rel=nofollow`` in every occurrence.
    nofollow: frozenset[str] = frozenset()
    #: Style sheets that are linked or imported, documents shown in frames, and news feeds.
    sheets: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()
    #: URL from ``rel=canonical``, or empty.
    canonical: str = ""
    #: URL that relative URLs were resolved against.
    base: str = ""
    title: str = ""
    #: Language tag (BCP 47), as declared.
    language: str = ""
    #: Lower-case robots directives: ``noindex`` for every crawler, ``agent:noindex`` for one.
    directives: frozenset[str] = frozenset()
    #: Referrer policy of the page, and of its elements by the URL that they name.
    referrer_policy: ReferrerPolicy = ""
    referrer_policies: dict[str, ReferrerPolicy] = {}
    #: Whether a limit on size cut something off.
    truncated: bool = False
