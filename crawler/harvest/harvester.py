"""Turns a document into more requests: the pictures it names, its parts, and the pages it links to."""

import logging
import time
from collections.abc import Callable, Collection, Iterator

from msgspec import structs

from crawler.consent import NO_IMAGES, NO_LINKS, header_directives, objection, together
from crawler.errors import RequestFailed
from crawler.fetcher import Conditions, Fetcher, Response, redirected, revalidating
from crawler.harvest.charset import content_type_of
from crawler.harvest.css import decode_sheet, read_sheet
from crawler.harvest.feeds import Feed, read_xml
from crawler.harvest.finds import FEED, FRAME, SHEET, SITEMAP, Finds, Place, Rules, is_walkable, place_of
from crawler.harvest.page import Image, Page
from crawler.harvest.parse import Parser, extract
from crawler.known import Known
from crawler.model import Outcome, Request, failure
from crawler.referrer import header_policy
from crawler.urls import canonicalize, resolve

logger = logging.getLogger(__name__)

#: Redirects followed from one page.
MAX_REDIRECTS = 20
#: Longest sitemap, after decompression (sitemaps.org).
MAX_SITEMAP_BYTES = 50 * 2**20

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
#: HTML in a feed that is read, in characters and in ``<`` signs: together as much as of a page.
_MAX_HTML, _MAX_MARKUP = 2 * 2**20, 100_000
#: What is asked for the search index's sake means pages, not what they are made of.
_NO_IMAGES_OF_PARTS = NO_IMAGES - {"noindex"}
#: Bytes at the beginning of XML that is no feed in which it may say that it is a page.
_PROLOGUE = 2_048


class Harvester:
    """Handler of ``page`` and ``part`` requests.

    Args:
        fetcher: brings the documents.
        rules: which of the finds are wanted.
        max_page_bytes: longest page, after decompression.
        parser: what reads the HTML.
        lazy: attributes in which sites of this crawl keep pictures, besides those that are known.
        agent: our name in directives that address one crawler; of a whole ``User-Agent`` the product counts.
        clock: seconds since the epoch, for ``unavailable_after`` and for dates in URLs.

    Raises:
        ConfigError: the parser is not installed.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        rules: Rules | None = None,
        *,
        max_page_bytes: int = 10 * 2**20,
        parser: Parser = "lxml",
        lazy: Collection[str] = (),
        agent: str = "imgcrawler",
        clock: Callable[[], float] = time.time,
    ) -> None:
        extract("", "http://localhost/", parser=parser)
        self._fetcher = fetcher
        self._finds = Finds(rules or Rules(), lambda: time.gmtime(max(0.0, clock())).tm_year)
        self._parser, self._lazy = parser, lazy
        self._agent = agent
        self._clock = clock
        self._conditions = Conditions(accept=_ACCEPT, max_bytes=max_page_bytes)
        self._of_sitemaps = Conditions(accept=_ACCEPT, max_bytes=max(max_page_bytes, MAX_SITEMAP_BYTES))

    def handle(self, request: Request) -> Outcome:
        """Fetch one document and report what it names; a failure is an outcome too, never an exception."""
        trap = self._finds.trap_of(request)
        if trap:
            return Outcome(status="done", reason="trap")
        conditions = self._of_sitemaps if request.source == SITEMAP else self._conditions
        try:
            with self._fetcher.fetch(request, revalidating(conditions, request)) as response:
                try:
                    outcome = self._answer(request, response)
                except RequestFailed as error:
                    outcome = failure(request, error)
                return structs.replace(outcome, latency=response.elapsed, received=response.received)
        except RequestFailed as error:
            return failure(request, error)

    def _answer(self, request: Request, response: Response) -> Outcome:
        if response.location is not None:
            moved = redirected(request, response, limit=MAX_REDIRECTS)
            left = moved.successor is not None and not self._finds.belongs(request, moved.successor.target)
            return Outcome(status="done", reason="filtered") if left else moved
        if response.is_unchanged:  # what it names was put when it was read
            return Outcome(status="done", seen=_seen(response, request.known))
        response.raise_for_status()
        content_type = content_type_of(response.headers.getlist("content-type"))
        media_type = content_type.partition(";")[0]
        if media_type.startswith("image/"):
            return Outcome(status="done", discovered=self._finds.itself(request, canonicalize(response.url)))
        if not _is_readable(request, media_type):
            return Outcome(status="done", reason="unsupported-format")
        data, fault = response.read_what_comes()
        document = self._read(request, response, data, content_type)
        if document is None:
            return Outcome(status="done", reason="unsupported-format")
        if document.truncated or fault is not None:
            logger.warning("document cut short url=%s images=%d", request.url, len(document.images))
        policy = header_policy(response.headers.get("referrer-policy", ""))
        place = place_of(request, canonicalize(response.url), document, policy)
        outcome = self._harvest(place, document, response)
        if fault is None:
            self._finds.note(place, outcome.discovered)
            return outcome
        if fault.retryable or not outcome.discovered:  # what did come is kept, and the rest tried again
            return structs.replace(failure(request, fault), discovered=outcome.discovered)
        return structs.replace(outcome, seen=None)

    def _read(self, request: Request, response: Response, data: bytes, content_type: str) -> Page | Feed | None:
        """The document by its type, and by what it was named as; None where it is of no use."""
        media_type = content_type.partition(";")[0]
        if media_type == "text/css" or request.source == SHEET:
            return _sheet(data, response.url, content_type)
        is_feed = media_type in _FEEDS or request.source in (FEED, SITEMAP)
        is_packed = data[:2] == _GZIP and request.source != SITEMAP  # only sitemaps come so
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

    def _harvest(self, place: Place, document: Page | Feed, response: Response) -> Outcome:
        """The outcome of a document: what it names, as far as neither it nor its server objects."""
        headers = response.headers
        asked = header_directives(headers.getlist("x-robots-tag"), headers.getlist("tdm-reservation"))
        asked = together(asked, document.directives if isinstance(document, Page) else frozenset())
        unwanted = _NO_IMAGES_OF_PARTS if place.request.source in (SHEET, FEED, SITEMAP) else NO_IMAGES
        no_images, no_links = (objection(asked, words, self._agent, self._clock()) for words in (unwanted, NO_LINKS))
        for directive in filter(None, (no_images, no_links)):
            logger.info("action=opt-out url=%s directive=%s", place.url, directive)
        images = () if no_images else self._images(place, document)
        links = () if no_links else self._links(place, document)
        parts = self._parts(place, document, images=not no_images, links=not no_links)
        reason = "opted-out" if no_images else ""
        return Outcome(status="done", reason=reason, discovered=(*images, *parts, *links), seen=_seen(response))

    def _images(self, place: Place, document: Page | Feed) -> tuple[Request, ...]:
        if isinstance(document, Page):
            return self._finds.images(place, document)
        found = self._finds.feed_images(place, document.images)
        for page, url in self._fragments(document):
            found += self._finds.images(structs.replace(place, url=url), page)
        return found

    def _links(self, place: Place, document: Page | Feed) -> tuple[Request, ...]:
        if isinstance(document, Page):
            return self._finds.links(place, document)
        return self._finds.pages(place, filter(is_walkable, document.pages))

    def _parts(self, place: Place, document: Page | Feed, *, images: bool, links: bool) -> tuple[Request, ...]:
        """Without images style sheets are of no use; frames, feeds and sitemaps speak for themselves, if followed."""
        if isinstance(document, Feed):
            return self._finds.named(place, SITEMAP, document.sitemaps) if links else ()
        sheets = self._finds.named(place, SHEET, document.sheets) if images else ()
        if not links:
            return sheets
        return (
            sheets + self._finds.named(place, FRAME, document.frames) + self._finds.named(place, FEED, document.feeds)
        )

    def _fragments(self, feed: Feed) -> Iterator[tuple[Page, str]]:
        """The HTML in a feed's entries; what it links to is on the entry's page too, and left to that."""
        room, markup = _MAX_HTML, _MAX_MARKUP
        for part in feed.fragments:
            room, markup = room - len(part.html), markup - part.html.count("<")
            if room < 0 or markup < 0:
                logger.warning("feed cut short url=%s", part.url)
                return
            yield extract(part.html, part.url, parser=self._parser, lazy=self._lazy), canonicalize(part.url)


def _seen(response: Response, known: Known | None = None) -> Known | None:
    """How to ask for a document the next time; an answer that nothing has changed may leave that as it was."""
    etag, modified = response.validators
    if known is not None:
        etag, modified = etag or known.etag, modified or known.last_modified
    return Known(url=canonicalize(response.url), etag=etag, last_modified=modified) if etag or modified else None


def _is_readable(request: Request, media_type: str) -> bool:
    """Whether it is worth reading: a document by its type, or by what it was named as."""
    if media_type == "text/css" or request.source == SHEET:
        return media_type in _SHEETS
    return media_type in _PAGES or media_type in _FEEDS or request.source in (FEED, SITEMAP)


def _sheet(data: bytes, url: str, content_type: str) -> Page:
    """A style sheet as a page of pictures that imports further sheets."""
    sheet = read_sheet(decode_sheet(data, content_type))
    images = (
        Image(url=found, source="css", group=image.group, density=image.density)
        for image in sheet.images
        if (found := resolve(url, image.url))
    )
    imports = (found for reference in sheet.imports if (found := resolve(url, reference)))
    return Page(images=tuple(images), sheets=tuple(imports), base=url, truncated=sheet.truncated)
