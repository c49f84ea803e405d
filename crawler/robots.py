"""robots.txt: may we, and how slowly (RFC 9309).

Of a file only the lines that concern our agent are kept (`own_rules`); they are small, so they travel with every
turn, and a worker asks `refusal` without a request of its own. Finding those lines is done here; what a line
matches is decided by protego. What the RFC leaves open, and where we ask for less than it grants:

* 2xx: the first MiB counts, to its last whole line (§2.5 asks for 500 KiB); lines that are none are skipped (§2.3.1.5).
* Redirects: five are followed, to other hosts too, and the rules are those of the origin that was asked; then the file
  counts as missing, and so does any 3xx that leads nowhere (§2.3.1.2).
* 4xx: missing, all is allowed, 401 and 403 included (§2.3.1.3). But 429 says that there is a file, to be had later.
* An address that we refuse to connect to (`crawler.guard`) answers nothing: what it has is refused as well, each for
  itself; and a redirect to it leads nowhere.
* 429, 5xx, no answer, a broken answer: nothing is allowed for an hour, then it is asked for again (§2.3.1.4). Neither
  an older copy nor, after thirty days, the absence of rules takes its place, as the RFC would grant.
* Rules hold for a day, or as long as ``Cache-Control: max-age`` says, an hour at least (§2.4).
* ``Crawl-delay`` and ``Sitemap``, which are not of the RFC, are read: the longest delay of our group counts, up to five
  minutes; sitemaps are everybody's, wherever they stand.
"""

import functools
import math
import re
import sys
import time
from collections.abc import Callable, Iterator

from msgspec import Struct, structs
from protego import Protego

from crawler.consent import names, product_tokens
from crawler.errors import RequestFailed
from crawler.fetcher import Conditions, Fetcher, Response, redirected
from crawler.model import Outcome, Request, RobotsRules, failure
from crawler.tdm import PATH as TDM_PATH
from crawler.tdm import parse_tdmrep, tdm_allowed
from crawler.urls import canonicalize, origin, resolve

#: Bytes of a robots.txt that are read; RFC 9309 §2.5 asks for at least 500 KiB.
MAX_BYTES = 1024 * 1024
#: Redirects followed before the file counts as missing (RFC 9309 §2.3.1.2).
MAX_REDIRECTS = 5
#: Longest pause between two requests, in seconds, that a file can ask for.
MAX_CRAWL_DELAY = 300.0
MAX_SITEMAPS = 1_000

_HOUR = 3_600.0
_DAY = 24 * _HOUR
#: Seconds for which an origin counts as one that is refused; the next one to ask may be permitted.
_BLOCKED = 60.0
#: The whole body is never refused for its size: we stop reading instead.
_CONDITIONS = Conditions(accept="text/plain, */*;q=0.5", max_bytes=sys.maxsize)
_UNREACHABLE = RobotsRules(reachable=False, lifetime=_HOUR)

#: One record. The spellings are those that site owners write and Google's parser takes; the colon may be missing.
_RECORD = re.compile(
    rb"(?:(?P<agent>user[ -]?agent)|(?P<allow>allow)|(?P<disallow>disallow|diss?allow|diss?alow|diasllow|disallaw)"
    rb"|(?P<delay>crawl[ -]delay)|(?P<sitemap>site-?maps?))(?:\s*:|\s)(?P<value>.*)",
    re.IGNORECASE | re.DOTALL,
)
_LINE_END = re.compile(rb"\r\n?|\n")
_NOT_PRINTABLE = re.compile(rb"[^ -~]")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


def robots_allowed(body: bytes | str, user_agent: str, url: str) -> bool:
    """Whether a robots.txt lets an agent visit ``url``, by RFC 9309; never raises.

    Args:
        body: the file; its first MiB counts.
        user_agent: a whole ``User-Agent`` header or the product token alone.
        url: absolute, or a path.
    """
    return allowed(own_rules(body, user_agent), url)


def own_rules(body: bytes | str, user_agent: str) -> str:
    """The smallest robots.txt, for all agents, that means what ``body`` means for ours; empty: all is allowed."""
    return _read(body, user_agent).text


def allowed(rules: str, url: str) -> bool:
    """Whether rules made by `own_rules` let us visit ``url``."""
    if not rules:
        return True
    path = _ORIGIN.sub("", url, count=1)
    path = path.encode("utf-8", "replace").decode("utf-8")  # lone surrogates
    return bool(_parsed(rules).can_fetch(f"http://host{'' if path.startswith('/') else '/'}{path}", "*"))


def refusal(rules: str, url: str) -> RequestFailed | None:
    """Why the rules of its origin keep us from ``url``: ``robots`` or ``opted-out``; None: they do not."""
    if not allowed(rules, url):
        return RequestFailed("robots", "robots.txt")
    return None if tdm_allowed(rules, url) else RequestFailed("opted-out", "tdmrep.json")


@functools.lru_cache(maxsize=256)
def _parsed(rules: str) -> Protego:
    return Protego.parse(rules)


class RobotsHandler:
    """Fetches the robots.txt of one origin; its outcome carries the rules.

    Missing (4xx, endless redirects) means that everything is allowed. Unreachable (429, 5xx, no answer) means
    that nothing is: the outcome is a retry, with the rules to go by if it was the last (RFC 9309 §2.3.1.4).

    With ``tdm``, the request then goes on as one for the origin's tdmrep.json, and carries the rules along; whatever
    becomes of that file, the rules hold.
    """

    def __init__(
        self, fetcher: Fetcher, user_agent: str, clock: Callable[[], float] = time.monotonic, *, tdm: bool = False
    ) -> None:
        self._tdm = tdm
        self._fetcher = fetcher
        self._user_agent = user_agent
        self._clock = clock

    def handle(self, request: Request) -> Outcome:
        """The outcome of a request of kind ``robots``, whose url is the origin's ``/robots.txt``."""
        started = self._clock()
        try:
            with self._fetcher.fetch(request, _CONDITIONS) as response:
                outcome = self._judge(request, response) if request.rules is None else _add(request, response)
                return structs.replace(outcome, latency=response.elapsed, received=response.received)
        except RequestFailed as error:
            outcome = failure(request, error, self._clock() - started)
            if error.reason == "blocked-address" and request.rules is None:
                rules = RobotsRules() if request.hops else RobotsRules(lifetime=_BLOCKED)
                return structs.replace(outcome, reason="", robots=rules)
            if request.rules is not None and error.reason != "cancelled":
                return structs.replace(outcome, status="done", reason="", robots=request.rules)
            return structs.replace(outcome, status="retry", robots=_UNREACHABLE)

    def _judge(self, request: Request, response: Response) -> Outcome:
        if response.status == 429 or response.status >= 500:
            response.raise_for_status()
        rules = RobotsRules()
        if 200 <= response.status < 300:
            rules = _read(_head(response), self._user_agent)
        else:
            moved = _followed(request, response)
            if moved is not None:
                return moved
        sitemaps = tuple(_sitemaps(rules.sitemaps, response.url))
        lifetime = _lifetime(response.headers.get("cache-control", ""))
        rules = structs.replace(rules, sitemaps=sitemaps, lifetime=lifetime)
        url = origin(request.url) + TDM_PATH
        if self._tdm and allowed(rules.text, url):
            return Outcome(status="moved", successor=structs.replace(request, target=url, hops=0, rules=rules))
        return Outcome(status="done", robots=rules)


def _add(request: Request, response: Response) -> Outcome:
    """The rules that the request carries, and those of the tdmrep.json that came."""
    moved = _followed(request, response)
    if moved is not None:
        return moved
    response.raise_for_status()
    rules = request.rules or RobotsRules()
    return Outcome(status="done", robots=structs.replace(rules, text=rules.text + parse_tdmrep(_head(response))))


def _followed(request: Request, response: Response) -> Outcome | None:
    """The outcome of a redirect; None where it leads nowhere, so that the file counts as missing."""
    try:
        return redirected(request, response, MAX_REDIRECTS) if response.location else None
    except RequestFailed:
        return None


def _head(response: Response) -> bytes:
    """A little more of the body than is used, so that `_read` sees where to cut."""
    body = bytearray()
    for piece in response.chunks():
        body += piece
        if len(body) > MAX_BYTES:
            break
    return bytes(body)


def _lifetime(cache_control: str) -> float:
    """Seconds for which rules hold: a day (RFC 9309 §2.4), less if the server says so, an hour at least."""
    match = _MAX_AGE.search(cache_control)
    return min(max(float(match[1]), _HOUR), _DAY) if match else _DAY


def _sitemaps(references: tuple[str, ...], base: str) -> Iterator[str]:
    for reference in references:
        url = resolve(base, reference)
        if url is not None:
            try:
                yield canonicalize(url)
            except ValueError:  # longer than a URL may be
                continue


class _Group(Struct):
    """What the groups of one audience say together."""

    rules: list[str] = []
    delays: list[float] = []


class _Reader:
    """Takes the records of a file in order and sorts them into our agent's groups and those of ``*``."""

    def __init__(self, user_agent: str) -> None:
        self.sitemaps: dict[str, None] = {}
        self._tokens = product_tokens(user_agent)
        self._ours: _Group | None = None
        self._everybody = _Group()
        self._audience: list[_Group] = []
        self._in_rules = False

    def take(self, field: str, value: str) -> None:
        if field == "agent":
            self._name(value)
        elif field == "sitemap":
            if len(self.sitemaps) < MAX_SITEMAPS:
                self.sitemaps[value] = None
        elif field == "delay":
            for group in self._audience:
                group.delays.append(_seconds(value))
        else:
            self._in_rules = True
            for group in self._audience:
                group.rules.append(f"{field.title()}: {value}" if value else "")

    def chosen(self) -> _Group:
        """The group to obey: ours, also where it has no rules, else everybody's (RFC 9309 §2.2.1)."""
        return self._everybody if self._ours is None else self._ours

    def _name(self, value: str) -> None:
        if self._in_rules:  # the first agent after a rule begins the next group (RFC 9309 §2.1)
            self._audience, self._in_rules = [], False
        if names(value) & self._tokens:
            self._ours = self._ours or _Group()
            self._audience.append(self._ours)
        elif value.split()[:1] == ["*"]:
            self._audience.append(self._everybody)


def _read(body: bytes | str, user_agent: str) -> RobotsRules:
    """What the file says to our agent; sitemaps as they are written."""
    reader = _Reader(user_agent)
    for field, value in _records(body):
        reader.take(field, value)
    group = reader.chosen()
    rules = [rule for rule in dict.fromkeys(group.rules) if rule]
    delay = min(max(group.delays, default=0.0), MAX_CRAWL_DELAY)
    text = "\n".join(["User-agent: *", *rules, ""]) if rules else ""
    return RobotsRules(
        text=text[: text.rfind("\n", 0, MAX_BYTES) + 1] if len(text) > MAX_BYTES else text,  # escapes make it longer
        crawl_delay=delay or None,
        sitemaps=tuple(reader.sitemaps),
    )


def _records(body: bytes | str) -> Iterator[tuple[str, str]]:
    """Field and value of each line that we understand; values are printable ASCII, the rest percent-encoded."""
    data = body.encode("utf-8", "replace") if isinstance(body, str) else body
    if len(data) > MAX_BYTES:
        data = data[:MAX_BYTES]
        data = data[: max(data.rfind(b"\n"), data.rfind(b"\r")) + 1]
    for line in _LINE_END.split(data.removeprefix(b"\xef\xbb\xbf")):
        match = _RECORD.match(line.partition(b"#")[0].strip())
        if match is not None:
            field = next(name for name, text in match.groupdict().items() if text is not None)
            yield field, _NOT_PRINTABLE.sub(_escape, match["value"].strip()).decode("ascii")


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def _seconds(value: str) -> float:
    """A ``Crawl-delay``; 0 where it is none."""
    try:
        seconds = float(value)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
