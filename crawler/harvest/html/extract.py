"""Extraction of every image and link from a page's HTML. Pure: no network, no clock, and no exception.

One walk over the page collects references by the rules of `crawler.harvest.html.sources`. URLs are resolved after the
walk, because the ``<base>`` may stand anywhere.
"""

from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from typing import Literal

from crawler.errors import ConfigError
from crawler.harvest.charset import decode, encode_query
from crawler.harvest.html import xhtml_parser
from crawler.harvest.html.image_collector import ImageCandidate
from crawler.harvest.html.link_header import link_header, refresh_target
from crawler.harvest.html.visitor import Visitor
from crawler.harvest.html.walk import Walk
from crawler.harvest.html.xhtml_parser import XML_TYPES
from crawler.harvest.page import Image, Page
from crawler.urls import MAX_URL_LENGTH, resolve

#: ``lxml``: the events of lxml. ``lexbor``: selectolax, which builds the same tree as browsers, and is faster.
Parser = Literal["lxml", "lexbor"]

#: Most URLs taken from one page: images, links and the rest together. Images come first.
MAX_URLS = 20_000
#: Most characters of these URLs together: a long ``<base>`` with many short references would fill the disk and the log.
_MAX_URL_BYTES = 8 * 2**20
#: Longest reference that is remembered when it was resolved.
_SHORT = 500
#: Most ``srcdoc`` documents read of one page, nested ones included.
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
    """Return everything that the page at ``url`` names, in document order, as absolute http(s) URLs.

    Args:
        html: the body, as bytes or already decoded.
        url: the URL of the page. Relative URLs are resolved against it, or against the page's ``<base>``.
        content_type: the HTTP header, for its charset.
        parser: the HTML parser. XHTML is read by an XML parser, for which ``<script/>`` is a complete element.
        lazy: more attributes in which the site's scripts keep image URLs, besides `LAZY_ATTRIBUTES`.
        link: the HTTP header ``Link``.
        refresh: the HTTP header ``Refresh``, which leads to another page as ``<meta http-equiv=refresh>`` does.

    No input raises an exception. `Page.truncated` says whether a limit cut something off.

    Raises:
        ConfigError: the parser is unknown or not installed.
    """
    is_xml = (content_type or "").partition(";")[0].strip().lower() in XML_TYPES
    feed = xhtml_parser.feed if is_xml else _feeder(parser)
    text, codec = decode(html, content_type)
    walk = Walk(MAX_URLS, lazy)
    own = resolve(None, url) or url
    for attributes in link_header(link):
        walk.link(attributes | {"href": resolve(own, attributes["href"]) or ""})
    if (reference := refresh_target(refresh)) and (target := resolve(own, reference)):
        walk.facts.links[target] = False
    cut = feed(text, walk)
    cut |= _walk_documents(_feeder(parser), walk)
    return _page(walk, _Resolver(own, walk.facts.base, codec), cut=cut)


def _feeder(parser: Parser) -> Callable[[str, Visitor], bool]:
    """Return the ``feed`` function of a parser, which is imported on first use."""
    if parser == "lxml":
        from crawler.harvest.html.lxml_parser import feed

        return feed
    if parser != "lexbor":
        raise ConfigError(f"unknown parser {parser!r} (known: lxml, lexbor)")
    try:
        from crawler.harvest.html.lexbor_parser import feed as fast
    except ImportError as error:
        raise ConfigError("parser 'lexbor' is not installed: pip install imgcrawler[fast]") from error
    return fast


def _walk_documents(feed: Callable[[str, Visitor], bool], walk: Walk) -> bool:
    """Walk the documents found in attributes. Return whether a limit cut something off."""
    cut = False
    walk.facts.framed = True
    for _ in range(_MAX_DOCUMENTS):
        if not walk.documents:
            return cut
        cut |= feed(walk.documents.pop(0), walk)
    return cut or bool(walk.documents)


def _page(walk: Walk, resolver: "_Resolver", *, cut: bool) -> Page:
    """Return the results of a walk with resolved URLs: images first, in case a limit is reached."""
    facts = walk.facts
    images = tuple(_images(walk, resolver))
    resolver.remaining -= len({image.url for image in images})
    sheets, frames, feeds = map(resolver.resolve_all, (facts.sheets, facts.frames, facts.feeds))
    links = resolver.resolve_all(facts.links)
    followed = {resolver(href) for href, nofollow in facts.links.items() if not nofollow}
    return Page(
        images=images,
        links=links,
        nofollow=frozenset(links) - followed,
        sheets=sheets,
        frames=frames,
        feeds=feeds,
        canonical=(facts.canonical and resolver(facts.canonical)) or "",
        base=resolver.base,
        title=walk.words.of(walk.title),
        language=facts.language,
        directives=frozenset(facts.directives),
        referrer_policy=facts.referrer_policy,
        referrer_policies={url: policy for href, policy in facts.referrer_policies.items() if (url := resolver(href))},
        truncated=cut or facts.cut or walk.images.cut or walk.full or resolver.is_full,
    )


class _Resolver:
    """Resolver of references against a document's base URL and encoding. Resolves each reference once."""

    def __init__(self, own: str, base: str | None, codec: str) -> None:
        href = resolve(own, base) if base is not None and len(base) <= MAX_URL_LENGTH else None
        self.base = href if href is not None and len(href) <= MAX_URL_LENGTH else own
        #: The root of the base's host. For a reference with a host, or from the root, it is as good as the base.
        self._root = self.base[: self.base.find("/", 8) + 1] if self.base.startswith(("http://", "https://")) else ""
        self._codec = codec
        self._resolved: dict[str, str | None] = {}
        #: How many more URLs are accepted, and how many more characters of them.
        self.remaining, self._remaining_characters = MAX_URLS, _MAX_URL_BYTES

    @property
    def is_full(self) -> bool:
        """Whether the page has too many URLs, or too many characters of URLs."""
        return self.remaining < 0 or self._remaining_characters < 0

    def __call__(self, reference: str) -> str | None:
        """Return the absolute http(s) URL, or None if the reference has none or it is too long to be followed."""
        if reference not in self._resolved:
            self._resolved[reference] = self._resolve(reference)
        return self._resolved[reference]

    def resolve_all(self, references: Collection[str]) -> tuple[str, ...]:
        """Return the URLs of those ``references`` that can be followed, each once, up to the limit."""
        urls = tuple(dict.fromkeys(url for reference in references if (url := self(reference))))
        taken = urls[: max(0, self.remaining)]
        self.remaining -= len(urls)
        return taken

    def _resolve(self, reference: str) -> str | None:
        # The limit is checked first: a long base with many short references would fill the memory.
        if len(reference) > MAX_URL_LENGTH or self._remaining_characters < 0:
            return None
        written = encode_query(reference, self._codec)
        is_shared = self._root and len(written) <= _SHORT and written.startswith(("/", "http://", "https://"))
        href = _resolve_shared(self._root, written) if is_shared else resolve(self.base, written)
        self._remaining_characters -= len(href or "")
        return href if href is not None and len(href) <= MAX_URL_LENGTH else None


@lru_cache(maxsize=4_096)  # most links of a page are on many pages of the site
def _resolve_shared(root: str, reference: str) -> str | None:
    return resolve(root, reference)


def _images(walk: Walk, resolver: _Resolver) -> Iterator[Image]:
    """Yield the images of a walk, resolved, with the text around them. A ``<source>`` has the text of its ``<img>``."""
    candidates, licenses = walk.images.candidates, walk.facts.licenses
    alts = {image.group: image.alt for image in reversed(candidates) if image.alt}
    titles = {image.group: image.title for image in reversed(candidates) if image.title}
    policies = {image.group: image.referrer_policy for image in reversed(candidates) if image.referrer_policy}
    for image in candidates:
        url = resolver(image.reference.url)
        if url is None:
            continue
        context = image.context
        is_source = image.reference.source == "picture"
        yield Image(
            url=url,
            source=image.reference.source,
            group=image.group,
            alt=image.alt or alts.get(image.group, ""),
            title=image.title or titles.get(image.group, ""),
            caption=image.caption or walk.words.of(walk.captions.get(context.figure)),
            link_text=walk.words.of(context.link),
            heading=walk.words.of(image.heading),
            license=_license(licenses, resolver, image) if licenses or image.license else "",
            width=image.reference.width,
            density=image.reference.density,
            declared_width=image.size[0],
            declared_height=image.size[1],
            rank=image.reference.rank,
            referrer_policy=image.referrer_policy or (policies.get(image.group, "") if is_source else ""),
        )


def _license(licenses: dict[int, str], resolver: _Resolver, image: ImageCandidate) -> str:
    """Return the URL of the licence nearest to an image. Linked data may give a name instead."""
    if image.license:
        return resolver(image.license) or image.license if "/" in image.license else image.license
    numbers = (image.context.figure, image.context.item)
    href = next((licenses[number] for number in numbers if number and number in licenses), None)
    href = href or licenses.get(0)
    return (href and resolver(href)) or ""
