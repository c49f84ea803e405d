"""Turns a page into more requests: the images it names, and the pages it links to."""

import logging
import time
from collections.abc import Callable

from msgspec import structs

from crawler.consent import NO_IMAGES, NO_LINKS, header_directives, objection, together
from crawler.errors import RequestFailed
from crawler.fetcher import Conditions, Fetcher, Response, redirected
from crawler.harvest.page import Page
from crawler.harvest.parse import extract
from crawler.harvest.scope import Policy, Scope, choose, in_scope
from crawler.harvest.sources import IMAGE_EXTENSIONS, extension
from crawler.model import Outcome, Request, failure
from crawler.urls import canonicalize

logger = logging.getLogger(__name__)

#: Redirects followed from one page.
MAX_REDIRECTS = 10

_OPT_OUTS = (NO_IMAGES, NO_LINKS)
_PAGES = frozenset({"", "text/html", "application/xhtml+xml"})
_ACCEPT = "text/html,application/xhtml+xml,image/*;q=0.8,*/*;q=0.5"
#: Extensions of files that hold neither links nor pictures for us; images are requests of their own kind.
_NO_PAGES = IMAGE_EXTENSIONS | {
    *("7z", "aac", "apk", "atom", "avi", "bin", "bz2", "css", "csv", "deb", "dmg", "doc", "docx", "eot", "eps"),
    *("epub", "exe", "flac", "flv", "gz", "ics", "iso", "jar", "js", "json", "m4a", "m4v", "mid", "mjs", "mkv"),
    *("mobi", "mov", "mp3", "mp4", "mpeg", "mpg", "msi", "odp", "ods", "odt", "ogg", "ogv", "otf", "pdf", "pps"),
    *("ppt", "pptx", "ps", "psd", "rar", "rpm", "rss", "rtf", "swf", "tar", "tgz", "torrent", "ttf", "txt", "wav"),
    *("webm", "webmanifest", "wma", "wmv", "woff", "woff2", "xls", "xlsx", "xml", "xz", "zip"),
}


class Harvester:
    """Handler of ``page`` requests.

    Args:
        fetcher: brings the pages.
        scope: which links are followed.
        max_depth: links between a seed and the farthest page; None: no limit.
        max_page_bytes: longest page, after decompression.
        candidates: which of the candidates for one picture are taken.
        agent: our name in directives that address one crawler; of a whole ``User-Agent`` the product counts.
        clock: seconds since the epoch, for ``unavailable_after``.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        scope: Scope = "host",
        max_depth: int | None = None,
        max_page_bytes: int = 10 * 2**20,
        candidates: Policy = "largest",
        agent: str = "imgcrawler",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fetcher = fetcher
        self._scope = scope
        self._max_depth = max_depth
        self._candidates = candidates
        self._agent = agent
        self._clock = clock
        self._conditions = Conditions(accept=_ACCEPT, max_bytes=max_page_bytes)

    def handle(self, request: Request) -> Outcome:
        """Fetch one page and report what it names; a failure is an outcome too, never an exception."""
        try:
            with self._fetcher.fetch(request, self._conditions) as response:
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
            left = moved.successor is not None and not self._belongs(request, moved.successor.target)
            return Outcome(status="done", reason="filtered") if left else moved
        response.raise_for_status()
        content_type = response.headers.get("content-type", "")
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type.startswith("image/"):
            return Outcome(status="done", discovered=_itself(request, response.url))
        if media_type not in _PAGES:
            return Outcome(status="done", reason="unsupported-format")
        page = extract(response.read(), response.url, content_type)
        if page.truncated:
            logger.warning("page cut short url=%s images=%d links=%d", request.url, len(page.images), len(page.links))
        headers = response.headers
        header = header_directives(headers.getlist("x-robots-tag"), headers.getlist("tdm-reservation"))
        page = structs.replace(page, directives=together(header, page.directives))
        return self._harvest(request, page, canonicalize(response.url))

    def _belongs(self, request: Request, target: str) -> bool:
        """Whether a redirect stays in the crawl; a seed may lead anywhere, and the crawl then begins there."""
        return request.depth == 0 or in_scope(self._scope, request.seed, target)

    def _harvest(self, request: Request, page: Page, url: str) -> Outcome:
        """The outcome of the page at ``url``."""
        seed = request.seed if request.depth else url
        opted_out, nofollow = (objection(page.directives, words, self._agent, self._clock()) for words in _OPT_OUTS)
        if opted_out:
            logger.info("action=opt-out url=%s directive=%s", url, opted_out)
        images = () if opted_out else self._images(request, page, referrer=url, seed=seed)
        links = () if nofollow else self._links(request, page, url, seed)
        return Outcome(status="done", reason="opted-out" if opted_out else "", discovered=(*images, *links))

    def _images(self, request: Request, page: Page, *, referrer: str, seed: str) -> tuple[Request, ...]:
        found: dict[str, Request] = {}
        for image in choose(page.images, self._candidates):
            url = _canonical(image.url)
            if url is None or url in found:
                continue
            found[url] = Request(
                url=url,
                kind="image",
                depth=request.depth,
                priority=request.priority,
                seed=seed,
                referrer=referrer,
                source=image.source,
                alt=image.alt,
                title=image.title,
                caption=image.caption,
            )
        return tuple(found.values())

    def _links(self, request: Request, page: Page, referrer: str, seed: str) -> tuple[Request, ...]:
        depth = request.depth + 1
        if self._max_depth is not None and depth > self._max_depth:
            return ()
        hrefs = (link for link in page.links if link not in page.nofollow and extension(link) not in _NO_PAGES)
        urls = dict.fromkeys(url for href in hrefs if (url := _canonical(href)) and url != referrer)
        return tuple(
            Request(url=url, depth=depth, priority=request.priority, seed=seed, referrer=referrer, source="a")
            for url in urls
            if in_scope(self._scope, seed, url)
        )


def _itself(request: Request, url: str) -> tuple[Request, ...]:
    """The request for an image that was taken for a page, because its URL does not tell."""
    source = "link" if request.depth else "seed"
    return (structs.replace(request, url=canonicalize(url), kind="image", target="", hops=0, source=source),)


def _canonical(url: str) -> str | None:
    try:
        return canonicalize(url)
    except ValueError:
        return None
