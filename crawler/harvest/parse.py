"""A page's HTML in, every image and link that it names out. Pure: no network, no clock, and no exception.

One walk over the page collects what `crawler.harvest.sources` knows; URLs are resolved afterwards, since the
``<base>`` that decides about them may stand anywhere.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Literal

from crawler.errors import ConfigError
from crawler.harvest import xhtml
from crawler.harvest.charset import decode, encode_query
from crawler.harvest.found import Found
from crawler.harvest.links import link_header, refresh_target
from crawler.harvest.page import Image, Page
from crawler.harvest.stream import Visitor
from crawler.harvest.walk import Walk
from crawler.harvest.xhtml import XML_TYPES
from crawler.urls import MAX_URL_LENGTH, resolve

#: ``lxml``: BeautifulSoup on lxml; ``lexbor``: selectolax, which builds the tree that browsers build, much faster.
Parser = Literal["lxml", "lexbor"]

#: URLs taken from one page, images, links and the rest together; the images first.
MAX_URLS = 20_000
#: Characters of all of them together: a long ``<base>`` before each of many short references would fill disk and log.
MAX_URL_BYTES = 8 * 2**20
#: Documents in ``srcdoc`` attributes, those in each other included, that are read of one page.
_MAX_DOCUMENTS = 20


def extract(
    html: bytes | str,
    url: str,
    content_type: str | None = None,
    *,
    parser: Parser = "lxml",
    lazy: Collection[str] = (),
    link: str = "",
    refresh: str = "",
) -> Page:
    """Everything that the page at ``url`` names, in document order, as absolute http(s) URLs.

    Args:
        html: the body, as it came or already decoded.
        url: where it was fetched; relative URLs are resolved against it, or against the page's ``<base>``.
        content_type: the HTTP header, for its charset.
        parser: what reads HTML. XHTML is read by an XML parser, to which ``<script/>`` is over.
        lazy: attributes in which the site's scripts find pictures, besides those that are known.
        link: the HTTP header ``Link``.
        refresh: the HTTP header ``Refresh``, which leads to another page as ``<meta http-equiv=refresh>`` does.

    No bytes make it raise; `Page.truncated` tells when one of the limits cut something off.

    Raises:
        ConfigError: the parser is not installed, or there is none of that name.
    """
    is_xml = (content_type or "").partition(";")[0].strip().lower() in XML_TYPES
    feed = xhtml.feed if is_xml else _feeder(parser)
    text, codec = decode(html, content_type)
    walk = Walk(MAX_URLS, lazy)
    own = resolve(None, url) or url
    for attributes in link_header(link):
        walk.link(attributes | {"href": resolve(own, attributes["href"]) or ""})
    if (leads_to := refresh_target(refresh)) and (target := resolve(own, leads_to)):
        walk.links[target] = False
    cut = feed(text, walk)
    cut |= _walk_documents(_feeder(parser), walk)
    return _page(walk, _Resolver(own, walk.base, codec), cut=cut or walk.cut)


def _feeder(parser: Parser) -> Callable[[str, Visitor], bool]:
    """The function that tells a visitor of a page. Each parser is loaded when it is first asked for."""
    if parser == "lxml":
        from crawler.harvest.tree import feed

        return feed
    if parser != "lexbor":
        raise ConfigError(f"parser {parser!r}: there are 'lxml' and 'lexbor'")
    try:
        from crawler.harvest.lexbor import feed as fast
    except ImportError as error:
        raise ConfigError("parser 'lexbor' is an extra: pip install imgcrawler[fast]") from error
    return fast


def _walk_documents(feed: Callable[[str, Visitor], bool], walk: Walk) -> bool:
    """Walk the documents found in attributes; whether anything of them was cut off."""
    cut = False
    walk.framed = True
    for _ in range(_MAX_DOCUMENTS):
        if not walk.documents:
            return cut
        cut |= feed(walk.documents.pop(0), walk)
    return cut or bool(walk.documents)


def _page(walk: Walk, resolver: "_Resolver", *, cut: bool) -> Page:
    """What a walk found, resolved; pictures first, in case there is too much."""
    images = tuple(_images(walk, resolver))
    resolver.room -= len({image.url for image in images})
    sheets, frames, feeds = (resolver.each(each) for each in (walk.sheets, walk.frames, walk.feeds))
    links = resolver.each(walk.links)
    followed = {resolver(href) for href, nofollow in walk.links.items() if not nofollow}
    return Page(
        images=images,
        links=links,
        nofollow=frozenset(links) - followed,
        sheets=sheets,
        frames=frames,
        feeds=feeds,
        canonical=(walk.canonical and resolver(walk.canonical)) or "",
        base=resolver.base,
        title=walk.words.of(walk.title),
        language=walk.language,
        directives=frozenset(walk.directives),
        referrer_policy=walk.referrer_policy,
        referrer_policies={url: policy for href, policy in walk.referrer_policies.items() if (url := resolver(href))},
        truncated=cut or walk.full or resolver.is_full,
    )


class _Resolver:
    """Resolves each reference once, as a document of this base and encoding does."""

    def __init__(self, own: str, base: str | None, codec: str) -> None:
        href = resolve(own, base) if base is not None and len(base) <= MAX_URL_LENGTH else None
        self.base = href if href is not None and len(href) <= MAX_URL_LENGTH else own
        self._codec = codec
        self._known: dict[str, str | None] = {}
        #: URLs that are still taken, and characters of them.
        self.room, self._characters = MAX_URLS, MAX_URL_BYTES

    @property
    def is_full(self) -> bool:
        """Whether the URLs of this page were too many, or too much together."""
        return self.room < 0 or self._characters < 0

    def __call__(self, reference: str) -> str | None:
        """Absolute http(s) URL, None where it is none or too long to be one that is followed."""
        if reference not in self._known:
            self._known[reference] = self._resolve(reference)
        return self._known[reference]

    def each(self, references: Collection[str]) -> tuple[str, ...]:
        """Those of ``references`` that can be followed, each once, as long as there is room."""
        urls = tuple(dict.fromkeys(url for reference in references if (url := self(reference))))
        taken = urls[: max(0, self.room)]
        self.room -= len(urls)
        return taken

    def _resolve(self, reference: str) -> str | None:
        # The bound comes first: a long base before each of many short references would fill the memory.
        if len(reference) > MAX_URL_LENGTH or self._characters < 0:
            return None
        href = resolve(self.base, encode_query(reference, self._codec))
        self._characters -= len(href or "")
        return href if href is not None and len(href) <= MAX_URL_LENGTH else None


def _images(walk: Walk, resolver: _Resolver) -> Iterator[Image]:
    """The images of a walk, resolved, with the words around them; a ``<source>`` has those of its ``<img>``."""
    alts = {found.group: found.alt for found in reversed(walk.found) if found.alt}
    titles = {found.group: found.title for found in reversed(walk.found) if found.title}
    policies = {found.group: found.referrer_policy for found in reversed(walk.found) if found.referrer_policy}
    for found in walk.found:
        url = resolver(found.reference.url)
        if url is None:
            continue
        place = found.place
        is_source = found.reference.source == "picture"
        yield Image(
            url=url,
            source=found.reference.source,
            group=found.group,
            alt=found.alt or alts.get(found.group, ""),
            title=found.title or titles.get(found.group, ""),
            caption=found.caption or walk.words.of(walk.captions.get(place.figure)),
            link_text=walk.words.of(place.link),
            heading=walk.words.of(found.heading),
            license=_license(walk, resolver, found) if walk.licenses or found.license else "",
            width=found.reference.width,
            density=found.reference.density,
            declared_width=found.size[0],
            declared_height=found.size[1],
            rank=found.reference.rank,
            referrer_policy=found.referrer_policy or (policies.get(found.group, "") if is_source else ""),
        )


def _license(walk: Walk, resolver: _Resolver, found: Found) -> str:
    """Address of the licence nearest to an image; linked data may give a name instead."""
    if found.license:
        return resolver(found.license) or found.license if "/" in found.license else found.license
    around = (found.place.figure, found.place.item)
    href = next((walk.licenses[number] for number in around if number and number in walk.licenses), None)
    href = href or walk.licenses.get(0)
    return (href and resolver(href)) or ""
