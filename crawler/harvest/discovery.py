"""Creation of requests from the content of a document: applies scope, patterns, trap detection and candidate choice.

A page leads to images, to other pages, and to its parts: style sheets, frames, feeds. A part is a request like any
other, but it has the same depth as its page, so a depth limit does not exclude it.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Any

from msgspec import Struct, structs

from crawler.harvest.extensions import IMAGE_EXTENSIONS, extension
from crawler.harvest.feeds_sitemaps import Feed, FeedImage
from crawler.harvest.page import Image, Page
from crawler.harvest.scope import FULL_SIZE, CandidateChoice, Scope, choose, counts_as, in_scope
from crawler.harvest.traps import MAX_PAGE_URL, TrapWatch, find_trap
from crawler.harvest.url_patterns import UrlFilter
from crawler.model import ReferrerPolicy, Request
from crawler.urls import canonical_form, canonicalize, page_key, without_session

_log = logging.getLogger(__name__)

#: `Request.source` of the parts of a page.
SHEET, FRAME, FEED, SITEMAP = "sheet", "frame", "feed", "sitemap"
#: Deepest nesting of parts that is followed, such as style sheets that import each other.
_MAX_NESTING = 4
#: Links whose identity is remembered.
_REMEMBERED = 4_096
#: Most characters of a URL that the log shows.
_SHOWN = 200
#: Metadata taken from a page for each of its images, and their empty values.
_WORDS: dict[str, str | int] = {
    **dict.fromkeys(("source", "alt", "title", "caption", "link_text", "heading", "license"), ""),
    **dict.fromkeys(("declared_width", "declared_height"), 0),
}
#: Sources that the page does not display: the markup of a displayed image describes it better.
_UNSEEN = frozenset(
    {
        *("og:image", "twitter:image", "meta", "preload", "json-ld", "image_src", "icon", "apple-touch-icon"),
        *("apple-touch-icon-precomposed", "mask-icon", "fluid-icon", "itemprop"),
    }
)

#: Extensions of files without links or images to extract. Images are requests of another kind.
_NO_PAGES = IMAGE_EXTENSIONS | {
    *("7z", "aac", "apk", "avi", "bin", "bz2", "css", "csv", "deb", "dmg", "doc", "docx", "eot", "eps"),
    *("epub", "exe", "flac", "flv", "gz", "ics", "iso", "jar", "js", "json", "m4a", "m4v", "mid", "mjs", "mkv"),
    *("mobi", "mov", "mp3", "mp4", "mpeg", "mpg", "msi", "odp", "ods", "odt", "ogg", "ogv", "otf", "pdf", "pps"),
    *("ppt", "pptx", "ps", "psd", "rar", "rpm", "rtf", "swf", "tar", "tgz", "torrent", "ttf", "txt", "wav"),
    *("webm", "webmanifest", "wma", "wmv", "woff", "woff2", "xls", "xlsx", "xz", "zip"),
}


def seed_request(url: str, source: str) -> Request:
    """Return the request for a page that the user names."""
    key = page_key(url)
    return Request(url=key, target="" if key == url else url, seed=url, source=source)


class DiscoveryRules(Struct, frozen=True, kw_only=True):
    """Rules that select the requests to create."""

    scope: Scope = "host"
    #: Most links between a seed and a page; None: no limit.
    max_depth: int | None = None
    candidates: CandidateChoice = "largest"
    pages: UrlFilter = UrlFilter()
    images: UrlFilter = UrlFilter()


class PageContext(Struct, frozen=True, kw_only=True):
    """Context of a document: its request, its URL and its referrer policies."""

    request: Request
    #: URL after redirects, canonical.
    url: str
    #: Referrer policy of the document, and of its elements by the canonical URL of a page or part.
    referrer_policy: ReferrerPolicy = ""
    referrer_policies: dict[str, ReferrerPolicy] = {}

    @property
    def seed(self) -> str:
        """The seed that defines the scope. If a seed was redirected, that is the target of the redirect."""
        return self.url if self.request.is_seed else self.request.seed

    @property
    def page_url(self) -> str:
        """The page that shows the document's images. For a style sheet, that is the page that names the sheet."""
        return self.request.referrer if self.request.source == SHEET else self.url

    def policy_for(self, url: str) -> ReferrerPolicy:
        """Return the referrer policy of a reference to ``url``."""
        return self.referrer_policies.get(url) or self.referrer_policy


class Discovery:
    """Factory of requests from the content of documents.

    Args:
        rules: which requests are wanted.
        year: returns the current year. Dates far from it are a trap.
    """

    def __init__(self, rules: DiscoveryRules, year: Callable[[], int]) -> None:
        self._rules = rules
        self._year = year
        self._trap_watch = TrapWatch()

    def trap_of(self, request: Request) -> str:
        """Return the name of the trap that a queued page has since been found to be in, or "" if none."""
        return "" if request.is_seed or request.kind == "part" else self._trap_watch.verdict(request.url)

    def belongs(self, request: Request, target: str) -> bool:
        """Return whether a redirect stays in the crawl. A seed may redirect anywhere; a style sheet may be anywhere."""
        is_ours = request.source == SHEET or self._in_scope(request.source, request.seed, target)
        return request.is_seed or (is_ours and self._rules.pages.spares(target))

    def itself(self, request: Request, url: str) -> tuple[Request, ...]:
        """Return the request for an image that was fetched as a page because of its URL, or () if it is not wanted."""
        if not self._rules.images.admits(url):
            return ()
        source = "seed" if request.is_seed else "link"
        own = {"target": "", "hops": 0, "nesting": 0, "fallback": ""}
        return (structs.replace(request, url=url, kind="image", source=source, **own),)

    def note(self, context: PageContext, requests: Collection[Request]) -> None:
        """Record the requests found on a page, to detect traps among similar pages."""
        if context.request.kind == "part":
            return
        images, links = ([request.url for request in requests if request.kind == kind] for kind in ("image", "page"))
        trap = self._trap_watch.note(context.request.url, images, links)
        if trap:
            _log.warning("crawler trap (%s) at %s: similar pages are skipped from now on", trap, context.url)

    def images(self, context: PageContext, page: Page) -> tuple[Request, ...]:
        """Return the requests for the wanted images of a page, each once."""
        requests: dict[str, Request] = {}
        named = [image for image in page.images if _is_named(image)]
        shown = sorted(named, key=lambda image: image.source in _UNSEEN)
        words = _words_by_url(shown)
        groups: dict[int, list[Image]] = {}
        for image in named:
            groups.setdefault(image.group, []).append(image)
        for image in choose(named, self._rules.candidates):
            identity = self._identity(image.url)
            if identity is not None and identity[0] not in requests:
                fields = words[image.url]
                fields["page_title"], fields["language"] = page.title, page.language
                fields["fallback"] = self._fallback(groups[image.group]) if image.rank >= FULL_SIZE else ""
                fields["referrer_policy"] = image.referrer_policy or context.referrer_policy
                requests[identity[0]] = _picture(context, identity, context.page_url, fields)
        return tuple(requests.values())

    def feed_images(self, context: PageContext, images: Iterable[FeedImage]) -> tuple[Request, ...]:
        """Return the requests for the wanted images of a feed or sitemap, which names the page of each image."""
        requests: dict[str, Request] = {}
        for image in images:
            page_url = _canonical(image.page_url) or context.url
            identity = self._identity(image.url)
            is_ours = self._in_scope("", context.seed, page_url)
            if identity is not None and is_ours and (not image.page_url or self._rules.pages.admits(page_url)):
                fields = {name: getattr(image, name) for name in ("source", "title", "caption", "license")}
                fields["referrer_policy"] = context.policy_for(identity[1])
                requests.setdefault(identity[0], _picture(context, identity, page_url, fields))
        return tuple(requests.values())

    def links(self, context: PageContext, page: Page) -> tuple[Request, ...]:
        """Return the requests for the pages that a page links to, and for its canonical page."""
        pages = {image.url for image in page.images if image.rank < 0 and image.source == "a"}  # pages about an image
        hrefs = [href for href in page.links if href not in page.nofollow and (href in pages or is_walkable(href))]
        own = page_key(context.url)
        original = counts_as(context.url, _canonical(page.canonical) or "") if page.canonical else own
        is_copy = original != own and not context.request.is_seed
        if is_copy and self._is_wanted(context, original) and not self._trap(original, self._year()):
            # The original is crawled. Links to further copies of it are not.
            hrefs = [original, *(href for href in hrefs if not _is_copy(href, own, original))]
        return self.pages(context, hrefs)

    def pages(self, context: PageContext, hrefs: Iterable[str]) -> tuple[Request, ...]:
        """Return the requests for those pages that may be crawled, one level deeper."""
        depth = context.request.depth + 1
        if self._rules.max_depth is not None and depth > self._rules.max_depth:
            return ()
        requests: dict[str, Request] = {}
        taken = {context.request.url, page_key(context.url)}
        traps: dict[str, str] = {}
        year = self._year()
        for url, key in filter(None, map(_page_identity, hrefs)):
            if key in taken or not self._is_wanted(context, url):
                continue
            taken.add(key)
            trap = self._trap(key, year)
            if trap:
                traps.setdefault(trap, url)
            else:
                requests[key] = _follow(context, url, key=key, source="a", depth=depth, referrer=context.url)
        for trap, url in traps.items():
            _log.info("action=trap name=%s url=%s page=%s", trap, url[:_SHOWN], context.url[:_SHOWN])
        return tuple(requests.values())

    def named(self, context: PageContext, source: str, hrefs: Iterable[str]) -> tuple[Request, ...]:
        """Return the requests for parts of one kind: style sheets anywhere, or the site's frames, feeds or sitemaps."""
        nesting = context.request.nesting + 1
        if nesting > _MAX_NESTING:
            return ()
        requests: dict[str, Request] = {}
        for url in filter(None, map(_canonical, hrefs)):
            is_ours = source == SHEET or self._in_scope(source, context.seed, url)
            if is_ours and url != context.url and self._rules.pages.spares(url):
                part = _follow(context, url, source=source, depth=context.request.depth, referrer=context.page_url)
                requests[url] = structs.replace(part, kind="part", nesting=nesting)
        return tuple(requests.values())

    def _fallback(self, group: Iterable[Image]) -> str:
        """Return the URL of the best thumbnail of a group, for the case that the thumbnail's link is broken, or ""."""
        thumbnails = [image for image in group if image.rank < FULL_SIZE]
        url = next((_canonical(best.url) or "" for best in choose(thumbnails)), "")
        return without_session(url, surely=True) if url and self._rules.images.admits(url) else ""

    def _in_scope(self, source: str, seed: str, url: str) -> bool:
        """Return whether a URL is in scope. Frames and sitemaps of the host are, even if the scope is smaller."""
        scope = self._rules.scope
        if (source == FRAME and scope == "page") or (source == SITEMAP and scope == "path"):
            scope = "host"
        return in_scope(scope, seed, url)

    def _is_wanted(self, context: PageContext, url: str) -> bool:
        return self._in_scope("", context.seed, url) and self._rules.pages.admits(url)

    def _trap(self, key: str, year: int) -> str:
        """Return the name of the trap that a page is in, or "" if none is known."""
        return find_trap(key, year=year) or self._trap_watch.verdict(key)

    def _identity(self, href: str) -> tuple[str, str] | None:
        """Return the identity and the URL of an image, or None if it is not wanted. Session ids do not identify it.

        ``href`` is the URL of an `Image`, which `resolve` has returned.
        """
        try:
            url = canonical_form(href)
        except ValueError:
            return None
        return (without_session(url, surely=True), url) if self._rules.images.admits(url) else None


def context_of(request: Request, url: str, document: Page | Feed, header: ReferrerPolicy) -> PageContext:
    """Return the context of a document with the final URL ``url`` and the ``Referrer-Policy`` of its ``header``.

    Images of a style sheet have its page as their referrer, and so the page's policy applies.
    """
    if request.source == SHEET:
        return PageContext(request=request, url=url, referrer_policy=request.referrer_policy)
    if not isinstance(document, Page):
        return PageContext(request=request, url=url, referrer_policy=header)
    policies = {key: policy for named, policy in document.referrer_policies.items() if (key := _canonical(named))}
    own = document.referrer_policy or header
    return PageContext(request=request, url=url, referrer_policy=own, referrer_policies=policies)


def is_walkable(href: str) -> bool:
    """Return whether a link may lead to a page, judging by its extension."""
    return extension(href) not in _NO_PAGES


def _words_by_url(images: Iterable[Image]) -> dict[str, dict[str, Any]]:
    """Return the metadata of each image by URL. Each field is the first value that is not empty, in the given order."""
    metadata: dict[str, dict[str, Any]] = {}
    for image in images:
        fields = metadata.setdefault(image.url, _WORDS)
        metadata[image.url] = {name: fields[name] or getattr(image, name) or empty for name, empty in _WORDS.items()}
    return metadata


def _is_named(image: Image) -> bool:
    """Return whether it is an image: not a spacer, a page about an image, or an identifier of something else."""
    is_page = image.rank < 0 and (image.source == "a" or extension(image.url) not in IMAGE_EXTENSIONS)
    return not (image.is_pixel or is_page)


def _is_copy(href: str, own: str, original: str) -> bool:
    """Return whether a link leads to a copy of ``original``, as the page ``own`` is one.

    A copy has the page's own path, or differs from the original only by parameters that the page adds as well.
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


def _follow(context: PageContext, url: str, *, source: str, depth: int, referrer: str, key: str = "") -> Request:
    return Request(
        url=key or url,
        target="" if key in ("", url) else url,
        depth=depth,
        priority=context.request.priority,
        seed=context.seed,
        referrer=referrer,
        referrer_policy=context.policy_for(url),
        source=source,
    )


def _picture(context: PageContext, identity: tuple[str, str], page_url: str, fields: dict[str, Any]) -> Request:
    """Return the request for an image with these ``fields``."""
    bare, url = identity
    request = context.request
    return Request(
        url=bare,
        kind="image",
        target="" if bare == url else url,
        depth=request.depth,
        priority=request.priority,
        seed=context.seed,
        referrer=page_url,
        columns=request.columns,
        **fields,
    )


def _page_identity(href: str) -> tuple[str, str] | None:
    """Return the canonical URL and the key of a page, or None if ``href`` has none. Long ones have no key."""
    return _short_page_identity(href) if len(href) <= MAX_PAGE_URL else _long_page_identity(href)


def _long_page_identity(href: str) -> tuple[str, str] | None:
    url = _canonical(href)
    return None if url is None else (url, page_key(url) if len(url) <= MAX_PAGE_URL else url)


#: Most links of a page are on many pages.
_short_page_identity = lru_cache(maxsize=_REMEMBERED)(_long_page_identity)


def _canonical(url: str) -> str | None:
    try:
        return canonicalize(url)
    except ValueError:
        return None
