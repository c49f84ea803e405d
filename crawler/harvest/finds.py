"""What a document names → the requests that follow from it: scope, patterns, traps, one candidate of each picture.

A page leads to pictures, to other pages, and to its parts: style sheets, frames, feeds. A part is a request like any
other, but stands where its page stands: at the same depth, whatever the depth may be at most.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

from msgspec import Struct, structs

from crawler.harvest.extensions import IMAGE_EXTENSIONS, extension
from crawler.harvest.feeds import Feed, FeedImage
from crawler.harvest.filters import Filter
from crawler.harvest.page import Image, Page
from crawler.harvest.scope import FULL_SIZE, Policy, Scope, choose, counts_as, in_scope
from crawler.harvest.traps import MAX_PAGE_URL, TrapWatch, find_trap
from crawler.model import ReferrerPolicy, Request
from crawler.urls import canonicalize, page_key, without_session

_log = logging.getLogger(__name__)

#: `Request.source` of the parts of a page.
SHEET, FRAME, FEED, SITEMAP = "sheet", "frame", "feed", "sitemap"
#: Parts of parts of parts that are followed, such as style sheets that import each other.
MAX_NESTING = 4
#: Characters of a URL that the log shows.
_SHOWN = 200
#: Words taken from a page for each of its pictures.
_WORDS = (
    *("source", "alt", "title", "caption", "link_text", "heading", "license"),
    *("declared_width", "declared_height"),
)
#: Sources that nobody sees on the page: what is shown knows better what a picture is about.
_UNSEEN = frozenset(
    {
        *("og:image", "twitter:image", "meta", "preload", "json-ld", "image_src", "icon", "apple-touch-icon"),
        *("apple-touch-icon-precomposed", "mask-icon", "fluid-icon", "itemprop"),
    }
)

#: Extensions of files that hold neither links nor pictures for us; images are requests of their own kind.
_NO_PAGES = IMAGE_EXTENSIONS | {
    *("7z", "aac", "apk", "avi", "bin", "bz2", "css", "csv", "deb", "dmg", "doc", "docx", "eot", "eps"),
    *("epub", "exe", "flac", "flv", "gz", "ics", "iso", "jar", "js", "json", "m4a", "m4v", "mid", "mjs", "mkv"),
    *("mobi", "mov", "mp3", "mp4", "mpeg", "mpg", "msi", "odp", "ods", "odt", "ogg", "ogv", "otf", "pdf", "pps"),
    *("ppt", "pptx", "ps", "psd", "rar", "rpm", "rtf", "swf", "tar", "tgz", "torrent", "ttf", "txt", "wav"),
    *("webm", "webmanifest", "wma", "wmv", "woff", "woff2", "xls", "xlsx", "xz", "zip"),
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
    #: What it says about ``Referer``, and what its elements say about pages and parts, by canonical URL.
    referrer_policy: ReferrerPolicy = ""
    referrer_policies: dict[str, ReferrerPolicy] = {}

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
        return "" if request.is_seed or request.kind == "part" else self._watch.verdict(request.url)

    def belongs(self, request: Request, target: str) -> bool:
        """Whether a redirect stays in the crawl; a seed may lead anywhere, and a style sheet may lie anywhere."""
        is_ours = request.source == SHEET or self._in_scope(request.source, request.seed, target)
        return request.is_seed or (is_ours and self._rules.pages.spares(target))

    def itself(self, request: Request, url: str) -> tuple[Request, ...]:
        """The request for a picture that was taken for a page, because its URL does not tell; empty: not wanted."""
        if not self._rules.images.admits(url):
            return ()
        source = "seed" if request.is_seed else "link"
        return (structs.replace(request, url=url, kind="image", target="", hops=0, nesting=0, source=source),)

    def note(self, place: Place, found: Collection[Request]) -> None:
        """Learn from what a page has brought whether its like are a trap."""
        if place.request.kind == "part":
            return
        images, links = ([each.url for each in found if each.kind == kind] for kind in ("image", "page"))
        trap = self._watch.note(place.request.url, images, links)
        if trap:
            _log.warning("action=trap name=%s url=%s: its like are left alone from now on", trap, place.url)

    def images(self, place: Place, page: Page) -> tuple[Request, ...]:
        """The wanted pictures, each once."""
        found: dict[str, Request] = {}
        named = [image for image in page.images if _is_named(image)]
        shown = sorted(named, key=lambda image: image.source in _UNSEEN)
        words = _words_by_url(shown)
        for image in choose(named, self._rules.candidates):
            picture = self._picture(place, image.url, place.page_url)
            if picture is not None and picture.url not in found:
                best = self._fallback(image, named) if image.rank >= FULL_SIZE else ""
                about = {"page_title": page.title, "language": page.language, "fallback": best}
                about["referrer_policy"] = image.referrer_policy or place.referrer_policy
                found[picture.url] = structs.replace(picture, **about, **words[image.url])
        return tuple(found.values())

    def feed_images(self, place: Place, images: Iterable[FeedImage]) -> tuple[Request, ...]:
        """The wanted pictures of a feed or a sitemap, which says on which page of the site each is."""
        found: dict[str, Request] = {}
        for image in images:
            page_url = _canonical(image.page_url) or place.url
            picture = self._picture(place, image.url, page_url)
            is_ours = self._in_scope("", place.seed, page_url)
            if picture is not None and is_ours and (not image.page_url or self._rules.pages.admits(page_url)):
                words = {"title": image.title, "caption": image.caption, "license": image.license}
                found.setdefault(picture.url, structs.replace(picture, source=image.source, **words))
        return tuple(found.values())

    def links(self, place: Place, page: Page) -> tuple[Request, ...]:
        """The pages that it links to, and the one that it says it is a copy of."""
        pages = {image.url for image in page.images if image.rank < 0 and image.source == "a"}  # about a picture
        hrefs = [href for href in page.links if href not in page.nofollow and (href in pages or is_walkable(href))]
        own = page_key(place.url)
        original = counts_as(place.url, _canonical(page.canonical) or "") if page.canonical else own
        if original != own and not place.request.is_seed and self._is_page(place, original, original):
            # It is walked as what it is a copy of; what leads to further copies of that is not.
            hrefs = [original, *(href for href in hrefs if not _is_copy(href, own, original))]
        return self.pages(place, hrefs)

    def pages(self, place: Place, hrefs: Iterable[str]) -> tuple[Request, ...]:
        """Those of the pages that may be walked, one step deeper."""
        depth = place.request.depth + 1
        if self._rules.max_depth is not None and depth > self._rules.max_depth:
            return ()
        found: dict[str, Request] = {}
        taken = {place.request.url, page_key(place.url)}
        traps: dict[str, str] = {}
        for url in filter(None, map(_canonical, hrefs)):
            key = page_key(url) if len(url) <= MAX_PAGE_URL else url
            if key in taken or not self._is_wanted(place, url):
                continue
            taken.add(key)
            trap = self._trap(key)
            if trap:
                traps.setdefault(trap, url)
            else:
                found[key] = _follow(place, url, key=key, source="a", depth=depth, referrer=place.url)
        for trap, url in traps.items():
            _log.info("action=trap name=%s url=%s page=%s", trap, url[:_SHOWN], place.url[:_SHOWN])
        return tuple(found.values())

    def named(self, place: Place, source: str, hrefs: Iterable[str]) -> tuple[Request, ...]:
        """Parts of one kind: style sheets, which may lie anywhere, or frames, feeds and sitemaps of the site's own."""
        nesting = place.request.nesting + 1
        if nesting > MAX_NESTING:
            return ()
        found: dict[str, Request] = {}
        for url in filter(None, map(_canonical, hrefs)):
            is_ours = source == SHEET or self._in_scope(source, place.seed, url)
            if is_ours and url != place.url and self._rules.pages.spares(url):
                part = _follow(place, url, source=source, depth=place.request.depth, referrer=place.page_url)
                found[url] = structs.replace(part, kind="part", nesting=nesting)
        return tuple(found.values())

    def _fallback(self, image: Image, named: Iterable[Image]) -> str:
        """The best of the thumbnails of a picture, for the case that their link leads nowhere."""
        thumbnails = [other for other in named if other.group == image.group and other.rank < FULL_SIZE]
        url = next((_canonical(best.url) or "" for best in choose(thumbnails)), "")
        return without_session(url, surely=True) if url and self._rules.images.admits(url) else ""

    def _in_scope(self, source: str, seed: str, url: str) -> bool:
        """Whether it belongs to the crawl; parts do even where pages are only walked near the seed."""
        scope = self._rules.scope
        if (source == FRAME and scope == "page") or (source == SITEMAP and scope == "path"):
            scope = "host"
        return in_scope(scope, seed, url)

    def _is_wanted(self, place: Place, url: str) -> bool:
        return self._in_scope("", place.seed, url) and self._rules.pages.admits(url)

    def _trap(self, key: str) -> str:
        """Name of the trap that a page is known to be in; empty: none."""
        return find_trap(key, year=self._year()) or self._watch.verdict(key)

    def _is_page(self, place: Place, key: str, url: str) -> bool:
        """Whether it may be walked."""
        return self._is_wanted(place, url) and not self._trap(key)

    def _picture(self, place: Place, href: str, page_url: str) -> Request | None:
        """The request for a picture; None where it is not wanted. Session ids are no part of its identity."""
        url = _canonical(href)
        if url is None or not self._rules.images.admits(url):
            return None
        bare = without_session(url, surely=True)
        found = _follow(place, url, key=bare, source="", depth=place.request.depth, referrer=page_url)
        return structs.replace(found, kind="image", columns=place.request.columns)


def place_of(request: Request, url: str, document: Page | Feed, header: ReferrerPolicy) -> Place:
    """The place that a document is, fetched in the end at ``url`` with a ``Referrer-Policy`` in its header.

    A style sheet's pictures are told of its page, and so by the page's policy.
    """
    if request.source == SHEET:
        return Place(request=request, url=url, referrer_policy=request.referrer_policy)
    if not isinstance(document, Page):
        return Place(request=request, url=url, referrer_policy=header)
    policies = {key: policy for named, policy in document.referrer_policies.items() if (key := _canonical(named))}
    own = document.referrer_policy or header
    return Place(request=request, url=url, referrer_policy=own, referrer_policies=policies)


def is_walkable(href: str) -> bool:
    """Whether a link may lead to a page, as far as its extension tells."""
    return extension(href) not in _NO_PAGES


def _words_by_url(images: Iterable[Image]) -> dict[str, dict[str, Any]]:
    """What is known of each picture, field by field from the first place that tells; the places in their order."""
    found: dict[str, dict[str, Any]] = {}
    for image in images:
        known = found.setdefault(image.url, {})
        for name in _WORDS:
            if not known.get(name):
                known[name] = getattr(image, name) or (0 if name.startswith("declared") else "")
    return found


def _is_named(image: Image) -> bool:
    """Whether it is a picture: no spacer, no page about a picture, no name of something else."""
    is_page = image.rank < 0 and (image.source == "a" or extension(image.url) not in IMAGE_EXTENSIONS)
    return not (image.is_pixel or is_page)


def _is_copy(href: str, own: str, original: str) -> bool:
    """Whether a link leads to a copy of ``original`` such as the page itself.

    It has the page's path, or differs from the original only by parameters by which the page does, too.
    """
    url = _canonical(href)
    if url is None:
        return False
    extra = _names(own) - _names(original)
    path, _, query = page_key(url).partition("?")
    if path == own.partition("?")[0] != original.partition("?")[0]:
        return True
    rest = "&".join(part for part in query.split("&") if part and part.partition("=")[0] not in extra)
    return (f"{path}?{rest}" if rest else path) == original


def _names(key: str) -> set[str]:
    return {part.partition("=")[0] for part in key.partition("?")[2].split("&")}


def _follow(place: Place, url: str, *, source: str, depth: int, referrer: str, key: str = "") -> Request:
    return Request(
        url=key or url,
        target="" if key in ("", url) else url,
        depth=depth,
        priority=place.request.priority,
        seed=place.seed,
        referrer=referrer,
        referrer_policy=place.referrer_policies.get(url) or place.referrer_policy,
        source=source,
    )


def _canonical(url: str) -> str | None:
    try:
        return canonicalize(url)
    except ValueError:
        return None
