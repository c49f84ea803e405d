"""Crawler traps: sites that bring ever more pages and nothing new. One URL often tells; otherwise many pages do.

`find_trap` judges a URL before it is asked for, `TrapWatch` a kind of URL by what its pages have brought. Both give the
name of the trap, for the log; the request ends with the reason ``trap``:

``too-long``           longer than any page's URL that is meant to be read
``too-deep``           too many path segments
``repeated-segments``  a relative link that leads ever deeper: ``/a/b/a/b/a/b``
``calendar``           dates that nobody has entered anything for; or dated pages that brought nothing
``facets``             filters upon filters; or pages with several parameters that brought nothing
``session``            pages named by tokens that brought nothing, such as session ids that `page_key` does not know
``barren``             any other kind of page, or part of a site, that went on and on and brought nothing

Sessions and trackers that are known need no verdict: `crawler.urls.page_key` takes all their spellings for one page.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Collection
from itertools import pairwise
from threading import Lock
from urllib.parse import parse_qsl

#: Longest URL of a page: what Internet Explorer could open, which sites have kept to ever since.
MAX_PAGE_URL = 2_083
#: Most path segments; Heritrix, too, stops at 20.
MAX_SEGMENTS = 20
#: Most copies of a run of segments one behind the other, and of one segment anywhere in a path.
MAX_RUN, MAX_SAME = 2, 3
#: Most parameters of a page, and most of one name (``f[0]``, ``f[1]``, … are one): old CGI forms have ten.
MAX_PARAMETERS, MAX_OF_ONE_NAME = 12, 3
#: Dates from the first printed pictures to the conferences announced last; in years, and years from now.
FIRST_YEAR, YEARS_AHEAD = 1_500, 2

#: Pages in a row of one kind without any new picture, nor any new page of another kind, that end the kind: few where
#: the URL looks like a trap, many otherwise, since a forum may have a lot to say before it shows something.
BARREN_PAGES = {"calendar": 100, "session": 100, "facets": 500, "barren": 500}
#: The same for a directory of a host and everything in it, whatever it links to: mazes make names at random.
BARREN_SECTION = 5_000
#: Most kinds that are watched at a time and that stay retired, and half of the most URLs that are known to be old.
MAX_WATCHED, MAX_RETIRED, MAX_KNOWN = 4_096, 4_096, 100_000

_YEARS = frozenset({"y", "yr", "year", "jahr", "annee", "ano", "anno"})
_MONTHS = frozenset({"m", "mo", "mon", "month", "monat", "mois", "mes", "mese"})
_ISO_DATE = re.compile(r"([0-9]{4,5})-(?:0[1-9]|1[0-2])(?:-[0-3][0-9])?(?:[T.].*)?")
_PLAIN_DATE = re.compile(r"([0-9]{4})(?:0[1-9]|1[0-2])(?:[0-3][0-9])?")
_DATE_NAME = re.compile(r"date|datum|fecha|day|week|month|monat", re.IGNORECASE)
_CALENDAR = re.compile(r"calend|kalend|agenda|event|schedule|termin", re.IGNORECASE)
_INDEX = re.compile(r"(?:\[|%5B)[^\[\]%]*(?:\]|%5D)", re.IGNORECASE)
#: A path segment that no person chose; words with a year or a number among them are no token.
_TOKEN = re.compile(r"(?=[^0-9]*[0-9])(?:[0-9A-Fa-f-]{16,}|[0-9A-Za-z]{16,})")
_DIGITS = re.compile(r"[0-9]+")


def find_trap(url: str, *, year: int) -> str:
    """Name of the trap that a page's ``url`` leads into, or empty; ``year`` is the present one.

    Never raises, and takes linear time.
    """
    if len(url) > MAX_PAGE_URL:
        return "too-long"
    path, query = _split(url)
    segments = _segments(path)
    if len(segments) > MAX_SEGMENTS:
        return "too-deep"
    if _is_repeated(segments):
        return "repeated-segments"
    parameters = parse_qsl(query, keep_blank_values=True)
    names = Counter(_INDEX.sub("[]", name) for name, _ in parameters)
    if len(parameters) > MAX_PARAMETERS or max(names.values(), default=0) > MAX_OF_ONE_NAME:
        return "facets"
    years = _years(segments, parameters)  # one of them may mean "until further notice", not all
    return "calendar" if years and all(not FIRST_YEAR <= each <= year + YEARS_AHEAD for each in years) else ""


class TrapWatch:
    """What each kind of page has brought lately, and which kinds are not walked any more.

    A kind is all pages of a host whose URLs differ in numbers, tokens and the values of parameters only. Its memory is
    bounded and lasts as long as the process; the same pages in the same order give the same verdicts. Thread-safe.
    """

    def __init__(self) -> None:
        #: Kind or section → pages in a row that brought nothing, the one looked at last at the end.
        self._barren: OrderedDict[str, int] = OrderedDict()
        self._retired: OrderedDict[str, str] = OrderedDict()
        self._known: set[int] = set()
        self._known_before: set[int] = set()
        self._lock = Lock()

    def verdict(self, url: str) -> str:
        """Name of the trap that this page belongs to, or empty."""
        with self._lock:
            return self._retired.get(kind_of(url)) or self._retired.get(_section(url), "")

    def note(self, url: str, images: Collection[str], links: Collection[str]) -> str:
        """Take in what the page at ``url`` has brought; the name of a trap if this page gave it away."""
        kind, section = kind_of(url), _section(url)
        trap = _looks_like(url, kind)
        with self._lock:
            new_images = [image for image in images if self._is_new(image)]
            new_links = [link for link in links if self._is_new(link)]
            leads_on = any(self._leads_on(link, kind) for link in new_links)
            given_away = self._count(kind, BARREN_PAGES[trap], trap, is_fruitful=bool(new_images) or leads_on)
            return given_away or self._count(section, BARREN_SECTION, "barren", is_fruitful=bool(new_images))

    def _leads_on(self, link: str, kind: str) -> bool:
        """Whether a link goes to another kind than its page's, and not to one that brought nothing either."""
        its = kind_of(link)
        return its != kind and its not in self._retired and _section(link) not in self._retired

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
        """Whether a URL was not seen lately; it was now. Two generations, of which the older one is forgotten."""
        mark = hash(url)
        is_new = mark not in self._known and mark not in self._known_before
        self._known.add(mark)
        if len(self._known) >= MAX_KNOWN:
            self._known, self._known_before = set(), self._known
        return is_new


def kind_of(url: str) -> str:
    """What a page's URL has in common with its like: ``a.example/photo/0?id&page``.

    Numbers become 0, tokens ``*``; of the parameters only the names are left, and of more than two only that there are
    some, because filters come in any combination.
    """
    path, query = _split(url)
    names = sorted({_INDEX.sub("[]", part.partition("=")[0]) for part in query.split("&") if part})
    asked = f"?{'&'.join(names) if len(names) <= 2 else '*'}" if names else ""
    shape = "/".join("*" if _TOKEN.fullmatch(part) else _DIGITS.sub("0", part) for part in path.split("/"))
    return f"{_host(url)}{shape}{asked}"


def _section(url: str) -> str:
    """The first directory of a host, with what lies in it; the host itself for what lies in none."""
    first, slash, _ = _split(url)[0][1:].partition("/")
    return f"{_host(url)}/{first}/**" if slash else f"{_host(url)}/**"


def _looks_like(url: str, kind: str) -> str:
    """The trap that a page would be in if it brought nothing, going by its URL."""
    path, query = _split(url)
    if _years(_segments(path), parse_qsl(query, keep_blank_values=True)):
        return "calendar"
    if kind.endswith("?*"):
        return "facets"
    return "session" if "/*" in kind else "barren"


def _is_repeated(segments: list[str]) -> bool:
    """Whether segments repeat; ``/11/11/11`` may be a date or a tile of a map."""
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
    """The years of all dates in a URL; numbers that may as well be something else are none."""
    dates = [_ISO_DATE.fullmatch(segment) for segment in segments]
    dates += [_ISO_DATE.fullmatch(value) for _, value in parameters]
    dates += [_PLAIN_DATE.fullmatch(value) for name, value in parameters if _DATE_NAME.search(name)]
    years = [match[1] for match in dates if match]
    named = {name.lower(): value for name, value in parameters}
    if any(_is_month(named[name]) for name in _MONTHS & named.keys()):
        years += [named[name] for name in _YEARS & named.keys()]
    if any(map(_CALENDAR.search, segments)):
        years += [one for one, after in pairwise(segments) if len(after) == 2 and _is_month(after)]
    return [int(each) for each in years if len(each) in (4, 5) and each.isascii() and each.isdigit()]


def _is_month(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= 12


def _segments(path: str) -> list[str]:
    inner = path.removeprefix("/").removesuffix("/")
    return inner.split("/") if inner else []


def _split(url: str) -> tuple[str, str]:
    """Path and query of a canonical URL."""
    place, _, query = url.partition("?")
    return "/" + place.partition("://")[2].partition("/")[2], query


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
