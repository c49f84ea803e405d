"""What a document names → the requests that follow from it: scope, patterns, traps, one candidate of each picture.

A page leads to pictures, to other pages, and to its parts: style sheets, frames, feeds. A part is a request like any
other, but stands where its page stands: at the same depth, whatever the depth may be at most.
"""

import logging
from collections.abc import Callable, Collection, Iterable

from msgspec import Struct, structs

from crawler.harvest.extensions import IMAGE_EXTENSIONS, extension
from crawler.harvest.feeds import FeedImage
from crawler.harvest.filters import Filter
from crawler.harvest.page import Image, Page
from crawler.harvest.scope import FULL_SIZE, Policy, Scope, choose, counts_as, in_scope
from crawler.harvest.traps import TrapWatch, find_trap
from crawler.model import Request
from crawler.urls import canonicalize, page_key, without_session

_log = logging.getLogger(__name__)

#: `Request.source` of the parts of a page.
SHEET, FRAME, FEED, SITEMAP = "sheet", "frame", "feed", "sitemap"
#: Parts of parts of parts that are followed, such as style sheets that import each other.
MAX_NESTING = 4
#: Words taken from a page for each of its pictures.
_WORDS = ("alt", "title", "caption", "link_text", "heading", "license")

#: Extensions of files that hold neither links nor pictures for us; images are requests of their own kind.
_NO_PAGES = IMAGE_EXTENSIONS | {
    *("7z", "aac", "apk", "atom", "avi", "bin", "bz2", "css", "csv", "deb", "dmg", "doc", "docx", "eot", "eps"),
    *("epub", "exe", "flac", "flv", "gz", "ics", "iso", "jar", "js", "json", "m4a", "m4v", "mid", "mjs", "mkv"),
    *("mobi", "mov", "mp3", "mp4", "mpeg", "mpg", "msi", "odp", "ods", "odt", "ogg", "ogv", "otf", "pdf", "pps"),
    *("ppt", "pptx", "ps", "psd", "rar", "rpm", "rss", "rtf", "swf", "tar", "tgz", "torrent", "ttf", "txt", "wav"),
    *("webm", "webmanifest", "wma", "wmv", "woff", "woff2", "xls", "xlsx", "xml", "xz", "zip"),
}


def seed_request(url: str, source: str) -> Request:
    """The request for a page that the user names."""
    key = page_key(url)
    return Request(url=key, target="" if key == url else url, seed=url, source=source)


class Rules(Struct, frozen=True, kw_only=True):
    """Which of the finds are wanted."""

    scope: Scope = "host"
    #: Links between a seed and the farthest page; None: no limit.
    max_depth: int | None = None
    candidates: Policy = "largest"
    pages: Filter = Filter()
    images: Filter = Filter()


class Place(Struct, frozen=True, kw_only=True):
    """Where finds are made."""

    request: Request
    #: Where it was fetched in the end, canonical.
    url: str

    @property
    def seed(self) -> str:
        """The seed that scope is measured against; a seed that was redirected begins the crawl where it led."""
        return self.url if self.request.is_seed else self.request.seed

    @property
    def page_url(self) -> str:
        """The page that its pictures are shown on: that of a style sheet is the one that names the sheet."""
        return self.request.referrer if self.request.source == SHEET else self.url


class Finds:
    """Makes requests of what documents name.

    Args:
        rules: what is wanted.
        year: the present year; dates far from it are a trap.
    """

    def __init__(self, rules: Rules, year: Callable[[], int]) -> None:
        self._rules = rules
        self._year = year
        self._watch = TrapWatch()

    def trap_of(self, request: Request) -> str:
        """Name of the trap that a page was found to be in after it was queued; empty: none."""
        return "" if request.is_seed or request.nesting else self._watch.verdict(request.url)

    def belongs(self, request: Request, target: str) -> bool:
        """Whether a redirect stays in the crawl; a seed may lead anywhere, and a style sheet may lie anywhere."""
        return request.is_seed or request.source == SHEET or self._in_scope(request.source, request.seed, target)

    def note(self, place: Place, images: Collection[Request], links: Collection[Request]) -> None:
        """Learn from what a page has brought whether its like are a trap."""
        if place.request.nesting:
            return
        trap = self._watch.note(place.request.url, [image.url for image in images], [link.url for link in links])
        if trap:
            _log.warning("action=trap name=%s url=%s: its like are left alone from now on", trap, place.url)

    def images(self, place: Place, page: Page) -> tuple[Request, ...]:
        """The wanted pictures, each once."""
        found: dict[str, Request] = {}
        named = [image for image in page.images if _is_named(image)]
        for image in choose(named, self._rules.candidates):
            picture = self._picture(place, image.url, place.page_url)
            if picture is not None and picture.url not in found:
                found[picture.url] = structs.replace(
                    picture,
                    fallback=_fallback(image, named) if image.rank >= FULL_SIZE else "",
                    page_title=page.title,
                    language=page.language,
                    source=image.source,
                    declared_width=image.declared_width or 0,
                    declared_height=image.declared_height or 0,
                    **{name: getattr(image, name) for name in _WORDS},
                )
        return tuple(found.values())

    def feed_images(self, place: Place, images: Iterable[FeedImage]) -> tuple[Request, ...]:
        """The wanted pictures of a feed or a sitemap, which says on which page of the site each is."""
        found: dict[str, Request] = {}
        for image in images:
            page_url = _canonical(image.page_url) or place.url
            picture = self._picture(place, image.url, page_url)
            if picture is not None and self._in_scope("", place.seed, page_url):
                words = {"title": image.title, "caption": image.caption, "license": image.license}
                found.setdefault(picture.url, structs.replace(picture, source=image.source, **words))
        return tuple(found.values())

    def links(self, place: Place, page: Page) -> tuple[Request, ...]:
        """The pages that it links to, and the one that it says it is a copy of."""
        pages = {image.url for image in page.images if image.rank < 0 and image.source == "a"}  # about a picture
        hrefs = [href for href in page.links if href not in page.nofollow and (href in pages or is_walkable(href))]
        own = page_key(place.url)
        original = counts_as(place.url, _canonical(page.canonical) or "") if page.canonical else own
        if original != own:  # it is walked as what it is a copy of; what leads to further copies only is not
            path = own.partition("?")[0]
            hrefs = [original, *(href for href in hrefs if (_canonical(href) or "").partition("?")[0] != path)]
        return self.pages(place, hrefs)

    def pages(self, place: Place, hrefs: Iterable[str]) -> tuple[Request, ...]:
        """Those of the pages that may be walked, one step deeper."""
        depth = place.request.depth + 1
        if self._rules.max_depth is not None and depth > self._rules.max_depth:
            return ()
        found: dict[str, Request] = {}
        taken = {place.request.url, page_key(place.url)}
        for url in map(_canonical, hrefs):
            key = page_key(url) if url else ""
            if url and key not in taken and self._is_page(place, key, url):
                found[key] = _follow(place, url, key=key, source="a", depth=depth, referrer=place.url)
                taken.add(key)
        return tuple(found.values())

    def named(self, place: Place, source: str, hrefs: Iterable[str]) -> tuple[Request, ...]:
        """Parts of one kind: style sheets, which may lie anywhere, or frames, feeds and sitemaps of the site's own."""
        nesting = place.request.nesting + 1
        if nesting > MAX_NESTING:
            return ()
        found: dict[str, Request] = {}
        for url in filter(None, map(_canonical, hrefs)):
            is_ours = source == SHEET or self._in_scope(source, place.seed, url)
            if is_ours and url != place.url and self._rules.pages.admits(url):
                part = _follow(place, url, source=source, depth=place.request.depth, referrer=place.page_url)
                found[url] = structs.replace(part, nesting=nesting)
        return tuple(found.values())

    def _in_scope(self, source: str, seed: str, url: str) -> bool:
        """Whether it belongs to the crawl; what a page shows in a frame does even where only one page is walked."""
        scope = "host" if self._rules.scope == "page" and source == FRAME else self._rules.scope
        return in_scope(scope, seed, url)

    def _is_page(self, place: Place, key: str, url: str) -> bool:
        """Whether it may be walked."""
        if not self._in_scope("", place.seed, url) or not self._rules.pages.admits(url):
            return False
        trap = find_trap(key, year=self._year()) or self._watch.verdict(key)
        if trap:
            _log.info("action=trap name=%s url=%s", trap, url)
        return not trap

    def _picture(self, place: Place, href: str, page_url: str) -> Request | None:
        """The request for a picture; None where it is not wanted. Session ids are no part of its identity."""
        url = _canonical(href)
        if url is None or not self._rules.images.admits(url):
            return None
        bare = without_session(url)
        found = _follow(place, url, key=bare, source="", depth=place.request.depth, referrer=page_url)
        return structs.replace(found, kind="image")


def is_walkable(href: str) -> bool:
    """Whether a link may lead to a page, as far as its extension tells."""
    return extension(href) not in _NO_PAGES


def _is_named(image: Image) -> bool:
    """Whether it is a picture: no spacer, no page about a picture, no name of something else."""
    is_page = image.rank < 0 and (image.source == "a" or extension(image.url) not in IMAGE_EXTENSIONS)
    return not (image.is_pixel or is_page)


def _fallback(image: Image, named: Iterable[Image]) -> str:
    """The best of the thumbnails of a picture, for the case that their link leads nowhere."""
    thumbnails = [other for other in named if other.group == image.group and other.rank < FULL_SIZE]
    return next((_canonical(best.url) or "" for best in choose(thumbnails)), "")


def _follow(place: Place, url: str, *, source: str, depth: int, referrer: str, key: str = "") -> Request:
    return Request(
        url=key or url,
        target="" if key in ("", url) else url,
        depth=depth,
        priority=place.request.priority,
        seed=place.seed,
        referrer=referrer,
        source=source,
    )


def _canonical(url: str) -> str | None:
    try:
        return canonicalize(url)
    except ValueError:
        return None
