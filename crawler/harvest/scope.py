"""Scope of a crawl, and choice among the candidates of an image. Pure: decides by URL, without the network."""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, urlsplit

from crawler.harvest.page import Image
from crawler.urls import host_key, page_key

if TYPE_CHECKING:
    from tldextract import TLDExtract

#: ``page``: only the seed; ``path``: the pages in its directory; ``host``: its host; ``domain``: all hosts of its
#: registered domain; ``any``: the whole web.
Scope = Literal["page", "path", "host", "domain", "any"]
#: ``largest``: the best candidate of each image; ``first``: the first one; ``all``: every candidate.
CandidateChoice = Literal["largest", "first", "all"]

#: `Image.rank` of an image that a thumbnail links to.
FULL_SIZE = 3
#: Names of placeholder files, shown until the image is loaded.
_PLACEHOLDERS = frozenset(
    {
        *("1x1", "blank", "empty", "gray", "grey", "lazy", "lazyload", "loader", "loading", "pixel"),
        *("placeholder", "px", "spacer", "spinner", "transparent", "trans"),
    }
)


def in_scope(scope: Scope, seed: str, url: str) -> bool:
    """Return whether the page ``url`` belongs to the crawl that began at ``seed``; both are canonical URLs.

    A host is the same with ``http`` and ``https``, and with and without ``www.``.
    """
    if scope == "any" or url == seed:
        return True
    if scope == "page":
        return False
    if scope == "domain":
        return _domain(seed) == _domain(url)
    if _host(seed) != _host(url):
        return False
    return scope == "host" or urlsplit(url).path.startswith(urlsplit(seed).path.rpartition("/")[0] + "/")


def counts_as(url: str, canonical: str) -> str:
    """Return the `page_key` of the page that ``url`` declares as its original (``rel=canonical``), or else its own.

    Both are canonical URLs; ``canonical`` may be empty. An original on another host is ignored. Some templates declare
    the home page, or the first page of a list, on pages that are not copies of it. Therefore the root of a host has no
    copies, and each id of ``url`` (a path segment or parameter with a digit) must also be in ``canonical``.
    """
    own, other = page_key(url), page_key(canonical)
    if not canonical or host_key(own) != host_key(other):
        return own
    own_parts, other_parts = urlsplit(own), urlsplit(other)
    is_root = other_parts.path == "/" and not other_parts.query and own_parts.path != "/"
    return own if is_root or not _ids(own_parts) <= _ids(other_parts) else other


def choose(images: Iterable[Image], choice: CandidateChoice = "largest") -> tuple[Image, ...]:
    """Return the wanted candidates of each image, in document order of the images.

    ``largest`` takes the image that a thumbnail links to, or else compares the width, then the density, then prefers a
    lazily loaded image to the one shown before it, then the first. A placeholder is left out if its image has any other
    candidate. A placeholder alone is the image that the page shows.
    """
    pictures: dict[int, list[Image]] = {}
    for image in images:
        pictures.setdefault(image.group, []).append(image)
    chosen: list[Image] = []
    for candidates in pictures.values():
        if len(candidates) == 1:
            chosen += candidates
            continue
        wanted = [image for image in candidates if not _is_placeholder(image.url)] or candidates
        if choice == "largest":
            chosen.append(max(wanted, key=_size))
        else:
            chosen.extend(wanted if choice == "all" else wanted[:1])
    return tuple(chosen)


def _ids(parts: SplitResult) -> set[str]:
    words = re.split("[/&]", f"{parts.path}&{parts.query}")
    return {word for word in words if any(map(str.isdigit, word))}


def _size(image: Image) -> tuple[bool, int, float, int]:
    """Return a key for `max`, which takes the first of equals. Without a descriptor, the density is 1 (WHATWG)."""
    density = 1.0 if image.density is None else image.density
    return image.rank >= FULL_SIZE, image.width or 0, density, image.rank


def _is_placeholder(url: str) -> bool:
    path = url.partition("#")[0].partition("?")[0]
    return path[path.rfind("/") + 1 :].partition(".")[0].lower() in _PLACEHOLDERS


@lru_cache(maxsize=4_096)
def _host(url: str) -> str:
    return host_key(url).removeprefix("www.")


@lru_cache(maxsize=4_096)
def _domain(url: str) -> str:
    """Return the registered domain, or the host if it has none: an IP address, ``localhost``, a public suffix."""
    parts = _suffixes().extract_str(url)
    if parts.domain and parts.suffix:
        return f"{parts.domain}.{parts.suffix}"
    if parts.subdomain and not parts.suffix:  # an unknown top-level domain counts as a suffix (publicsuffix.org/list)
        return f"{parts.subdomain.rpartition('.')[2]}.{parts.domain}"
    return _host(url)


@cache
def _suffixes() -> "TLDExtract":
    """Return the bundled Public Suffix List with its private part: two customers of one hoster are two domains."""
    from tldextract import TLDExtract  # slow to import, and most crawls do not need it

    return TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)
