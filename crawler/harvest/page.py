"""What a page holds, as plain data: the images it names, the pages it links to, what it asks of robots."""

from msgspec import Struct


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
    #: From ``srcset``: pixels, and pixels of the picture to one of the page.
    width: int | None = None
    density: float | None = None
    #: Greater is likelier the picture that is meant: 0 plain, 1 lazily loaded, 2 lazily loaded and named as larger.
    rank: int = 0


class Page(Struct, frozen=True, kw_only=True):
    """Everything found on a page, in document order; policy chooses later."""

    images: tuple[Image, ...] = ()
    #: Absolute http(s) URLs, each once.
    links: tuple[str, ...] = ()
    #: Those of ``links`` that are ``rel=nofollow`` wherever they stand.
    nofollow: frozenset[str] = frozenset()
    #: What relative URLs were resolved against.
    base: str = ""
    title: str = ""
    #: Lower-case robots directives: ``noindex`` for everyone, ``agent:noindex`` for one crawler.
    directives: frozenset[str] = frozenset()
    #: Whether a limit on size cut something off.
    truncated: bool = False
