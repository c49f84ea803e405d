"""Which pages belong to the crawl, and which of the pictures found are wanted. Pure: names decide, not the network."""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, urlsplit

from crawler.harvest.page import Image
from crawler.urls import host_key, page_key

if TYPE_CHECKING:
    from tldextract import TLDExtract

#: ``page``: the seed alone; ``path``: what lies in its directory; ``host``: its host; ``domain``: all hosts of
#: its registered domain; ``any``: the whole web.
Scope = Literal["page", "path", "host", "domain", "any"]
#: ``largest``: the best candidate of each picture; ``first``: the first one; ``all``: every candidate.
Policy = Literal["largest", "first", "all"]

#: `Image.rank` of what a thumbnail links to.
FULL_SIZE = 3
#: Names of files that only keep a place until the picture is there.
_PLACEHOLDERS = frozenset(
    {
        *("1x1", "blank", "empty", "gray", "grey", "lazy", "lazyload", "loader", "loading", "pixel"),
        *("placeholder", "px", "spacer", "spinner", "transparent", "trans"),
    }
)


def in_scope(scope: Scope, seed: str, url: str) -> bool:
    """Whether the page ``url`` belongs to the crawl that began at ``seed``; both are canonical URLs.

    ``http`` and ``https``, and a host with and without ``www.``, count as the same host.
    """
    if scope == "any" or url == seed:
        return True
    if scope == "page":
        return False
    if scope == "domain":
        return _domain(seed) == _domain(url)
    if _host(seed) != _host(url):
        return False
    return scope == "host" or urlsplit(url).path.startswith(_directory(seed))


def counts_as(url: str, canonical: str) -> str:
    """The `page_key` of the page that ``url`` says it is a copy of (``rel=canonical``), or else its own.

    Both are canonical URLs; an empty ``canonical`` says nothing. A page may only speak of its own host. Templates name
    the home page, or the first page of a list, on pages of their own right, too: so the root of a host has no copies
    below it, and what looks like an id (a path segment or parameter with a digit) must be in the other URL as well.
    """
    own, other = page_key(url), page_key(canonical)
    if not canonical or host_key(own) != host_key(other):
        return own
    mine, its = urlsplit(own), urlsplit(other)
    is_root_below = its.path == "/" and not its.query and mine.path != "/"
    return own if is_root_below or not _ids(mine) <= _ids(its) else other


def choose(images: Iterable[Image], policy: Policy = "largest") -> tuple[Image, ...]:
    """The wanted candidates of each picture, pictures in document order.

    ``largest`` takes what a thumbnail links to, else goes by width, then by density, then prefers what is lazily loaded
    to what stands there meanwhile, then the first. A placeholder is left out where its picture has any other candidate;
    alone, it is what the page shows.
    """
    pictures: dict[int, list[Image]] = {}
    for image in images:
        pictures.setdefault(image.group, []).append(image)
    chosen: list[Image] = []
    for candidates in pictures.values():
        wanted = [image for image in candidates if not _is_placeholder(image.url)] or candidates
        if policy == "largest":
            chosen.append(max(wanted, key=_size))
        else:
            chosen.extend(wanted if policy == "all" else wanted[:1])
    return tuple(chosen)


def _ids(parts: SplitResult) -> set[str]:
    words = re.split("[/&]", f"{parts.path}&{parts.query}")
    return {word for word in words if any(map(str.isdigit, word))}


def _size(image: Image) -> tuple[bool, int, float, int]:
    """What `max` goes by; of equals it takes the first. A candidate without descriptor has density 1 (WHATWG)."""
    density = 1.0 if image.density is None else image.density
    return image.rank >= FULL_SIZE, image.width or 0, density, image.rank


def _is_placeholder(url: str) -> bool:
    name = urlsplit(url).path.rpartition("/")[2]
    return name.partition(".")[0].lower() in _PLACEHOLDERS


@lru_cache(maxsize=4_096)
def _host(url: str) -> str:
    return host_key(url).removeprefix("www.")


def _directory(url: str) -> str:
    """Path up to its last slash."""
    return urlsplit(url).path.rpartition("/")[0] + "/"


@lru_cache(maxsize=4_096)
def _domain(url: str) -> str:
    """Registered domain; the host itself where there is none: an address, ``localhost``, a public suffix."""
    parts = _suffixes().extract_str(url)
    if parts.domain and parts.suffix:
        return f"{parts.domain}.{parts.suffix}"
    if parts.subdomain and not parts.suffix:  # an unknown top-level domain counts as a suffix (publicsuffix.org/list)
        return f"{parts.subdomain.rpartition('.')[2]}.{parts.domain}"
    return _host(url)


@cache
def _suffixes() -> "TLDExtract":
    """The bundled Public Suffix List, with its private part: two users of one hoster are two domains."""
    from tldextract import TLDExtract  # slow to load, and most crawls never ask

    return TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)
