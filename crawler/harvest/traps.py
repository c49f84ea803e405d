"""Detection of crawler traps: sites with endless pages and nothing new.

`find_trap` checks a single URL before it is requested. `TrapWatch` checks a kind of URL by the results of its pages.
Both return the name of the trap, for the log. The request ends with the reason ``trap``:

``too-long``           longer than the URL of any real page
``too-deep``           too many path segments
``repeated-segments``  a relative link that leads deeper and deeper: ``/a/b/a/b/a/b``
``calendar``           only dates in the far past or future; or dated pages without new results
``facets``             combined filters; or pages with several parameters without new results
``session``            pages named by tokens without new results, such as session ids that `page_key` does not know
``barren``             any other kind of page, or part of a site, with many pages in a row without new results

Known sessions and trackers are not traps: `crawler.urls.page_key` maps all their spellings to one page.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Collection
from functools import lru_cache
from itertools import pairwise
from threading import Lock
from urllib.parse import parse_qsl

#: Longest URL of a page: the limit of Internet Explorer, which sites still respect.
MAX_PAGE_URL = 2_083
#: Most path segments; Heritrix has the same limit.
_MAX_SEGMENTS = 20
#: Most consecutive copies of a run of segments, and most copies of one segment anywhere in a path.
MAX_RUN, MAX_SAME = 2, 3
#: Most parameters of a page, and most with the same name (``f[0]``, ``f[1]``, … are one): old CGI forms have ten.
MAX_PARAMETERS, MAX_OF_ONE_NAME = 12, 3
#: Range of real dates, from the first printed pictures to announced conferences: a year, and years from now.
FIRST_YEAR, YEARS_AHEAD = 1_500, 2

#: A kind is retired after so many pages in a row without a new image or a new page of another kind: few if the URL
#: looks like a trap, many otherwise, as a forum may have long text before an image. The count is exact for pages
#: already read. Each other thread may still finish one page that it is fetching.
_BARREN_PAGES = {"calendar": 100, "session": 100, "facets": 500, "barren": 500}
#: The same for a directory of a host with everything in it, without counting links: mazes generate random names.
_BARREN_SECTION = 5_000
#: Most kinds that are counted at a time, most that stay retired, and half of the most URLs that are remembered.
MAX_WATCHED, MAX_RETIRED, MAX_KNOWN = 4_096, 4_096, 100_000

_YEARS = frozenset({"y", "yr", "year", "jahr", "annee", "ano", "anno"})
_MONTHS = frozenset({"m", "mo", "mon", "month", "monat", "mois", "mes", "mese"})
_ISO_DATE = re.compile(r"([0-9]{4,5})-(?:0[1-9]|1[0-2])(?:-[0-3][0-9])?(?:[T.].*)?")
_PLAIN_DATE = re.compile(r"([0-9]{4})(?:0[1-9]|1[0-2])(?:[0-3][0-9])?")
_DATE_NAME = re.compile(r"date|datum|fecha|day|week|month|monat", re.IGNORECASE)
_CALENDAR = re.compile(r"calend|kalend|agenda|event|schedule|termin", re.IGNORECASE)
_INDEX = re.compile(r"(?:\[|%5B)[^\[\]%]*(?:\]|%5D)", re.IGNORECASE)
#: A machine-made path segment. Words with a year or a number between them are not tokens.
_TOKEN = re.compile(r"(?=[^0-9]*[0-9])(?:[0-9A-Fa-f-]{16,}|[0-9A-Za-z]{16,})")
_DIGITS = re.compile(r"[0-9]+")
#: Results remembered of a function of a page's URL: most links of a page are on many pages. No URL of a page is longer
#: than `MAX_PAGE_URL`, so the memory is bounded.
_REMEMBERED = 4_096


def find_trap(url: str, *, year: int) -> str:
    """Return the name of the trap that a page's ``url`` leads into, or ""; ``year`` is the current year.

    Never raises, and takes linear time.
    """
    return "too-long" if len(url) > MAX_PAGE_URL else _find_trap(url, year)


@lru_cache(maxsize=_REMEMBERED)
def _find_trap(url: str, year: int) -> str:
    path, query = _split(url)
    segments = _segments(path)
    if len(segments) > _MAX_SEGMENTS:
        return "too-deep"
    if _is_repeated(segments):
        return "repeated-segments"
    parameters = parse_qsl(query, keep_blank_values=True)
    names = Counter(_INDEX.sub("[]", name) for name, _ in parameters)
    if len(parameters) > MAX_PARAMETERS or max(names.values(), default=0) > MAX_OF_ONE_NAME:
        return "facets"
    years = _years(segments, parameters)  # a single extreme date may mean "until further notice"
    return "calendar" if years and all(not FIRST_YEAR <= date <= year + YEARS_AHEAD for date in years) else ""


class TrapWatch:
    """Record of the recent results of each kind of page, and of the kinds that are retired (no longer crawled).

    A kind is all pages of a host whose URLs differ only in numbers, tokens and parameter values. Memory is bounded and
    lasts as long as the process. The same pages in the same order give the same verdicts. Thread-safe.
    """

    def __init__(self) -> None:
        #: Kind or section → pages in a row without new results, in order of last use.
        self._barren: OrderedDict[str, int] = OrderedDict()
        self._retired: OrderedDict[str, str] = OrderedDict()
        self._seen: set[int] = set()
        self._seen_before: set[int] = set()
        self._lock = Lock()

    def verdict(self, url: str) -> str:
        """Return the name of the trap that this page belongs to, or ""."""
        with self._lock:
            return self._retired.get(kind_of(url)) or self._retired.get(_section(url), "")

    def note(self, url: str, images: Collection[str], links: Collection[str]) -> str:
        """Record the results of the page at ``url``. Return the name of the trap that this page reveals, or ""."""
        kind, section = kind_of(url), _section(url)
        trap = _looks_like(url, kind)
        with self._lock:
            new_images = [image for image in images if self._is_new(image)]
            new_links = [link for link in links if self._is_new(link)]
            leads_on = any(self._leads_on(link, kind) for link in new_links)
            revealed = self._count(kind, _BARREN_PAGES[trap], trap, is_fruitful=bool(new_images) or leads_on)
            return revealed or self._count(section, _BARREN_SECTION, "barren", is_fruitful=bool(new_images))

    def _leads_on(self, link: str, kind: str) -> bool:
        """Return whether a link goes to another kind than its page's, and that kind is not retired."""
        link_kind = kind_of(link)
        return link_kind != kind and link_kind not in self._retired and _section(link) not in self._retired

    def _count(self, key: str, limit: int, trap: str, *, is_fruitful: bool) -> str:
        if key in self._retired:
            return ""
        self._barren[key] = 0 if is_fruitful else self._barren.get(key, 0) + 1
        self._barren.move_to_end(key)
        if self._barren[key] >= limit:
            del self._barren[key]
            self._retired[key] = trap
            if len(self._retired) > MAX_RETIRED:
                self._retired.popitem(last=False)
            return trap
        if len(self._barren) > MAX_WATCHED:
            self._barren.popitem(last=False)
        return ""

    def _is_new(self, url: str) -> bool:
        """Return whether a URL is new, and remember it. There are two generations; the older one is dropped."""
        mark = hash(url)
        is_new = mark not in self._seen and mark not in self._seen_before
        self._seen.add(mark)
        if len(self._seen) >= MAX_KNOWN:
            self._seen, self._seen_before = set(), self._seen
        return is_new


@lru_cache(maxsize=_REMEMBERED)
def kind_of(url: str) -> str:
    """Return the pattern that a page's URL shares with similar pages: ``a.example/photo/0?id&page``.

    Numbers become 0, tokens ``*``, and parameters their names. More than two parameters become ``*``, because filters
    occur in any combination.
    """
    path, query = _split(url)
    names = sorted({_INDEX.sub("[]", part.partition("=")[0]) for part in query.split("&") if part})
    parameters = f"?{'&'.join(names) if len(names) <= 2 else '*'}" if names else ""
    shape = "/".join("*" if _TOKEN.fullmatch(part) else _DIGITS.sub("0", part) for part in path.split("/"))
    return f"{_host(url)}{shape}{parameters}"


@lru_cache(maxsize=_REMEMBERED)
def _section(url: str) -> str:
    """Return the section of a page: the first directory of its path, or the host if it is in none."""
    first, slash, _ = _split(url)[0][1:].partition("/")
    return f"{_host(url)}/{first}/**" if slash else f"{_host(url)}/**"


def _looks_like(url: str, kind: str) -> str:
    """Return the trap that a page's URL suggests if the page has no new results."""
    path, query = _split(url)
    if _years(_segments(path), parse_qsl(query, keep_blank_values=True)):
        return "calendar"
    if kind.endswith("?*"):
        return "facets"
    return "session" if "/*" in kind else "barren"


def _is_repeated(segments: list[str]) -> bool:
    """Return whether segments repeat. Numbers may: ``/11/11/11`` can be a date or a map tile."""
    words = Counter(segment for segment in segments if not segment.isdigit())
    if max(words.values(), default=0) > MAX_SAME:
        return True
    times = MAX_RUN + 1
    for size in range(1, len(segments) // times + 1):
        for start in range(len(segments) - times * size + 1):
            run = segments[start : start + size]
            if segments[start : start + times * size] == run * times and not all(map(str.isdigit, run)):
                return True
    return False


def _years(segments: list[str], parameters: list[tuple[str, str]]) -> list[int]:
    """Return the years of all dates in a URL. Numbers that may have another meaning are ignored."""
    dates = [_ISO_DATE.fullmatch(segment) for segment in segments]
    dates += [_ISO_DATE.fullmatch(value) for _, value in parameters]
    dates += [_PLAIN_DATE.fullmatch(value) for name, value in parameters if _DATE_NAME.search(name)]
    years = [match[1] for match in dates if match]
    named = {name.lower(): value for name, value in parameters}
    if any(_is_month(named[name]) for name in _MONTHS & named.keys()):
        years += [named[name] for name in _YEARS & named.keys()]
    if any(map(_CALENDAR.search, segments)):
        years += [segment for segment, after in pairwise(segments) if len(after) == 2 and _is_month(after)]
    return [int(year) for year in years if len(year) in (4, 5) and year.isascii() and year.isdigit()]


def _is_month(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= 12


def _segments(path: str) -> list[str]:
    inner = path.removeprefix("/").removesuffix("/")
    return inner.split("/") if inner else []


def _split(url: str) -> tuple[str, str]:
    """Return the path and query of a canonical URL."""
    base, _, query = url.partition("?")
    return "/" + base.partition("://")[2].partition("/")[2], query


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
