"""What a page holds, as plain data: the images it names, the pages it links to, what it asks of robots."""

from msgspec import Struct

from crawler.model import ReferrerPolicy


class Image(Struct, frozen=True, kw_only=True):
    """One image URL that a page names. Candidates for the same picture share a ``group``."""

    url: str
    #: Mechanism that names it, such as ``img``, ``srcset``, ``og:image`` or the name of a lazy-loading attribute.
    source: str
    #: Number of the picture on its page, in document order.
    group: int
    alt: str = ""
    title: str = ""
    caption: str = ""
    #: Text of the link around it.
    link_text: str = ""
    #: The heading before it, in its section of the page.
    heading: str = ""
    #: Address or name of its licence: that of its figure or item, else that of the page.
    license: str = ""
    #: From ``srcset``: pixels, and pixels of the picture to one of the page.
    width: int | None = None
    density: float | None = None
    #: Pixels of the page that it is to cover, from its attributes.
    declared_width: int | None = None
    declared_height: int | None = None
    #: Greater is likelier the picture that is meant: 0 plain, 1 lazily loaded, 2 lazily loaded and named as larger,
    #: 3 what a thumbnail links to, -1 likely a page about one: named like a picture, or the identifier of one.
    rank: int = 0
    #: What its element says about ``Referer``; empty: what the page says.
    referrer_policy: ReferrerPolicy = ""

    @property
    def is_pixel(self) -> bool:
        """Whether it is declared to be no picture at all, but a spacer or a counter of visits."""
        return not self.rank and any(
            size is not None and size <= 1 for size in (self.declared_width, self.declared_height)
        )


class Page(Struct, frozen=True, kw_only=True):
    """Everything found on a page, in document order; policy chooses later. URLs are absolute, http(s), each once."""

    images: tuple[Image, ...] = ()
    links: tuple[str, ...] = ()
    #: Those of ``links`` that are ``rel=nofollow`` wherever they stand.
    nofollow: frozenset[str] = frozenset()
    #: Style sheets that are linked or imported, documents shown in frames, feeds of news.
    sheets: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()
    #: The page's own name for itself, empty where it has none.
    canonical: str = ""
    #: What relative URLs were resolved against.
    base: str = ""
    title: str = ""
    #: Language tag (BCP 47), as declared.
    language: str = ""
    #: Lower-case robots directives: ``noindex`` for everyone, ``agent:noindex`` for one crawler.
    directives: frozenset[str] = frozenset()
    #: What the page says about ``Referer``, and what elements say about the pages and parts that they name, by URL.
    referrer_policy: ReferrerPolicy = ""
    referrer_policies: dict[str, ReferrerPolicy] = {}
    #: Whether a limit on size cut something off.
    truncated: bool = False
