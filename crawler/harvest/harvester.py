"""Handler of documents: creates requests for the images, parts and links of a page, style sheet, feed or sitemap."""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from threading import Lock

from msgspec import structs

from crawler.errors import RequestFailed
from crawler.handler import failure, redirected, revalidating
from crawler.harvest.charset import content_type_of
from crawler.harvest.discovery import (
    FEED,
    FRAME,
    SHEET,
    SITEMAP,
    Discovery,
    DiscoveryRules,
    PageContext,
    context_of,
    is_walkable,
)
from crawler.harvest.feeds_sitemaps import Feed, read_xml
from crawler.harvest.html.css import decode_sheet, read_sheet
from crawler.harvest.html.extract import Parser, extract
from crawler.harvest.page import Image, Page
from crawler.model import Outcome, PriorFetch, Request
from crawler.net.fetcher import Conditions, Fetcher, Response
from crawler.net.referrer import header_policy
from crawler.robots.directives import NO_IMAGES, NO_LINKS, header_directives, objection, together
from crawler.urls import canonicalize, resolve

logger = logging.getLogger(__name__)

#: Most redirects followed from one page.
MAX_REDIRECTS = 20
#: Longest sitemap, after decompression (sitemaps.org).
_MAX_SITEMAP_BYTES = 50 * 2**20

_PAGES = frozenset({"", "text/html", "application/xhtml+xml"})
_FEEDS = frozenset(
    {
        *("application/xml", "text/xml", "application/rss+xml", "application/atom+xml", "application/rdf+xml"),
        *("application/gzip", "application/x-gzip"),
    }
)
_ACCEPT = "text/html,application/xhtml+xml,text/css,application/xml;q=0.9,image/*;q=0.8,*/*;q=0.5"
_SHEETS = frozenset({"", "text/css", "text/plain"})
_GZIP = b"\x1f\x8b"
#: Most HTML read of one feed, in characters and in ``<`` signs: in total as much as of a page.
_MAX_HTML, _MAX_MARKUP = 2 * 2**20, 100_000
#: ``noindex`` of a style sheet, feed or sitemap is ignored: it asks search engines not to list that file, and says
#: nothing about the images.
_NO_IMAGES_OF_PARTS = NO_IMAGES - {"noindex"}
#: Bytes at the beginning of XML other than a feed that are searched for ``<html``.
_PROLOGUE = 2_048


class Harvester:
    """Handler of ``page`` and ``part`` requests.

    Args:
        fetcher: fetches the documents.
        rules: which requests are wanted.
        max_page_bytes: longest page, after decompression.
        parser: the HTML parser.
        lazy: more attributes in which sites of this crawl keep image URLs, besides `LAZY_ATTRIBUTES`.
        agent: our name in directives that address one crawler. Of a whole ``User-Agent``, the product token is used.
        clock: seconds since the epoch, for ``unavailable_after`` and for dates in URLs.

    Raises:
        ConfigError: the parser is not installed.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        rules: DiscoveryRules | None = None,
        *,
        max_page_bytes: int = 10 * 2**20,
        parser: Parser = "lxml",
        lazy: Collection[str] = (),
        agent: str = "imgcrawler",
        clock: Callable[[], float] = time.time,
    ) -> None:
        extract("", "http://localhost/", parser=parser)
        self._fetcher = fetcher
        self._discovery = Discovery(rules or DiscoveryRules(), lambda: time.gmtime(max(0.0, clock())).tm_year)
        self._parser, self._lazy = parser, lazy
        self._agent = agent
        # lxml gives the interpreter lock back at each of its events, and threads that pass it to one another with each
        # event take several times as long. As only one of them could run anyway, one document is read at a time.
        self._reading = Lock()
        self._clock = clock
        self._conditions = Conditions(accept=_ACCEPT, max_bytes=max_page_bytes)
        self._sitemap_conditions = Conditions(accept=_ACCEPT, max_bytes=max(max_page_bytes, _MAX_SITEMAP_BYTES))

    def handle(self, request: Request) -> Outcome:
        """Fetch one document and return the outcome with its requests. A failure is an outcome, not an exception."""
        trap = self._discovery.trap_of(request)
        if trap:
            return Outcome(status="done", reason="trap")
        conditions = self._sitemap_conditions if request.source == SITEMAP else self._conditions
        try:
            with self._fetcher.fetch(request, revalidating(conditions, request)) as response:
                try:
                    outcome = self._outcome(request, response)
                except RequestFailed as error:
                    outcome = failure(request, error)
                return structs.replace(outcome, latency=response.elapsed, received=response.received)
        except RequestFailed as error:
            return failure(request, error)

    def _outcome(self, request: Request, response: Response) -> Outcome:
        if response.location is not None:
            moved = redirected(request, response, limit=MAX_REDIRECTS)
            is_outside = moved.successor is not None and not self._discovery.belongs(request, moved.successor.target)
            return Outcome(status="done", reason="filtered") if is_outside else moved
        if response.is_unchanged:  # its requests were added when it was first read
            return Outcome(status="done", seen=_seen(response, request.prior))
        response.raise_for_status()
        content_type = content_type_of(response.headers.getlist("content-type"))
        media_type = content_type.partition(";")[0]
        if media_type.startswith("image/"):
            return Outcome(status="done", discovered=self._discovery.itself(request, canonicalize(response.url)))
        if not _is_readable(request, media_type):
            return Outcome(status="done", reason="unsupported-format")
        data, fault = response.read_what_comes()
        with self._reading:
            outcome = self._outcome_of(request, response, data, content_type, is_cut=fault is not None)
        if fault is None or outcome.reason == "unsupported-format":
            return outcome
        if fault.retryable or not outcome.discovered:  # keep the part that arrived, and retry
            return structs.replace(failure(request, fault), discovered=outcome.discovered)
        return structs.replace(outcome, seen=None)

    def _outcome_of(
        self, request: Request, response: Response, data: bytes, content_type: str, *, is_cut: bool
    ) -> Outcome:
        """Return the outcome of a document with the content ``data``, of which the end is missing if it ``is_cut``."""
        document = self._read(request, response, data, content_type)
        if document is None:
            return Outcome(status="done", reason="unsupported-format")
        if document.truncated or is_cut:
            logger.warning(
                "%s is incomplete: only its beginning was read, with %d images", request.url, len(document.images)
            )
        policy = header_policy(response.headers.get("referrer-policy", ""))
        context = context_of(request, canonicalize(response.url), document, policy)
        outcome = self._harvest(context, document, response)
        if not is_cut:
            self._discovery.note(context, outcome.discovered)
        return outcome

    def _read(self, request: Request, response: Response, data: bytes, content_type: str) -> Page | Feed | None:
        """Return the document, read by its type and by the request's source, or None if it is unsupported."""
        media_type = content_type.partition(";")[0]
        if media_type == "text/css" or request.source == SHEET:
            return _sheet(data, response.url, content_type)
        is_feed = media_type in _FEEDS or request.source in (FEED, SITEMAP)
        is_packed = data[:2] == _GZIP and request.source != SITEMAP  # only sitemaps may be compressed
        feed = read_xml(data, response.url, content_type) if is_feed and not is_packed else None
        if feed is not None:
            return feed
        is_page = media_type in _PAGES or b"<html" in data[:_PROLOGUE].lower()
        return self._page(data, response, content_type) if is_page else None

    def _page(self, data: bytes, response: Response, content_type: str) -> Page:
        link = ", ".join(response.headers.getlist("link"))
        refresh = response.headers.get("refresh", "")
        return extract(
            data, response.url, content_type, parser=self._parser, lazy=self._lazy, link=link, refresh=refresh
        )

    def _harvest(self, context: PageContext, document: Page | Feed, response: Response) -> Outcome:
        """Return the outcome of a document: the requests that neither its directives nor its headers forbid."""
        headers = response.headers
        directives = header_directives(headers.getlist("x-robots-tag"), headers.getlist("tdm-reservation"))
        directives = together(directives, document.directives if isinstance(document, Page) else frozenset())
        image_words = _NO_IMAGES_OF_PARTS if context.request.source in (SHEET, FEED, SITEMAP) else NO_IMAGES
        no_images, no_links = (
            objection(directives, words, self._agent, self._clock()) for words in (image_words, NO_LINKS)
        )
        for directive in filter(None, (no_images, no_links)):
            logger.info("action=opt-out url=%s directive=%s", context.url, directive)
        images = () if no_images else self._images(context, document)
        links = () if no_links else self._links(context, document)
        parts = self._parts(context, document, images=not no_images, links=not no_links)
        reason = "opted-out" if no_images else ""
        return Outcome(status="done", reason=reason, discovered=(*images, *parts, *links), seen=_seen(response))

    def _images(self, context: PageContext, document: Page | Feed) -> tuple[Request, ...]:
        if isinstance(document, Page):
            return self._discovery.images(context, document)
        requests = self._discovery.feed_images(context, document.images)
        for page, url in self._fragments(document):
            requests += self._discovery.images(structs.replace(context, url=url), page)
        return requests

    def _links(self, context: PageContext, document: Page | Feed) -> tuple[Request, ...]:
        if isinstance(document, Page):
            return self._discovery.links(context, document)
        return self._discovery.pages(context, filter(is_walkable, document.pages))

    def _parts(self, context: PageContext, document: Page | Feed, *, images: bool, links: bool) -> tuple[Request, ...]:
        """Return the requests for the document's parts: style sheets if ``images``, and the others if ``links``.

        Frames, feeds and sitemaps have directives of their own.
        """
        if isinstance(document, Feed):
            return self._discovery.named(context, SITEMAP, document.sitemaps) if links else ()
        sheets = self._discovery.named(context, SHEET, document.sheets) if images else ()
        if not links:
            return sheets
        return (
            sheets
            + self._discovery.named(context, FRAME, document.frames)
            + self._discovery.named(context, FEED, document.feeds)
        )

    def _fragments(self, feed: Feed) -> Iterator[tuple[Page, str]]:
        """Yield the HTML in a feed's entries and its URL. Its links are left out, as the entry's page has them, too."""
        characters, markup = _MAX_HTML, _MAX_MARKUP
        for part in feed.fragments:
            characters, markup = characters - len(part.html), markup - part.html.count("<")
            if characters < 0 or markup < 0:
                logger.warning("the feed %s is too long: only its beginning was read", part.url)
                return
            yield extract(part.html, part.url, parser=self._parser, lazy=self._lazy), canonicalize(part.url)


def _seen(response: Response, prior: PriorFetch | None = None) -> PriorFetch | None:
    """Return the validators for the next fetch of a document. A 304 response may leave out those of ``prior``."""
    etag, modified = response.validators
    if prior is not None:
        etag, modified = etag or prior.etag, modified or prior.last_modified
    return PriorFetch(url=canonicalize(response.url), etag=etag, last_modified=modified) if etag or modified else None


def _is_readable(request: Request, media_type: str) -> bool:
    """Return whether a response can be read, by its type or by the request's source."""
    if media_type == "text/css" or request.source == SHEET:
        return media_type in _SHEETS
    return media_type in _PAGES or media_type in _FEEDS or request.source in (FEED, SITEMAP)


def _sheet(data: bytes, url: str, content_type: str) -> Page:
    """Return a style sheet as a page with its images and imported sheets."""
    sheet = read_sheet(decode_sheet(data, content_type))
    images = (
        Image(url=resolved, source="css", group=image.group, density=image.density)
        for image in sheet.images
        if (resolved := resolve(url, image.url))
    )
    imports = (resolved for reference in sheet.imports if (resolved := resolve(url, reference)))
    return Page(images=tuple(images), sheets=tuple(imports), base=url, truncated=sheet.truncated)
