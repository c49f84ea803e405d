"""Handler and rules of robots.txt: which URLs are allowed, and the crawl delay (RFC 9309).

Only the lines of a file for our agent are kept (`own_rules`). They are small, so each turn carries them, and a worker
calls `refusal` without a request of its own. This module selects the lines, and protego matches URLs against them.
Choices that the RFC leaves open, and where we are stricter than it requires:

* 2xx: the first MiB is read, up to its last complete line (§2.5 requires 500 KiB). Invalid lines are skipped
  (§2.3.1.5).
* Redirects: five are followed, also to other hosts, and the rules apply to the origin that was requested. After more,
  the file counts as missing, and so it does after any 3xx without a valid target (§2.3.1.2).
* 4xx: the file is missing and everything is allowed, also for 401 and 403 (§2.3.1.3). But 429 means that there is a
  file, available later.
* An address that we refuse to connect to (`crawler.net.address_guard`) has no robots.txt: each of its URLs is refused
  by itself. A redirect to such an address has no valid target.
* 429, 5xx, no response, a broken response: nothing is allowed for an hour, then the file is requested again (§2.3.1.4).
  The RFC permits using an older copy, or no rules after thirty days; we do neither.
* Rules are valid for a day, or for ``Cache-Control: max-age``, but at least an hour (§2.4).
* ``Crawl-delay`` and ``Sitemap``, which are not in the RFC, are read. The longest delay of our group applies, up to
  five minutes. Sitemaps are for every agent, in any position.
"""

import functools
import math
import re
import sys
import time
from collections.abc import Callable, Iterator

from msgspec import Struct, structs
from protego import Protego

from crawler.errors import RequestFailed
from crawler.handler import failure, redirected
from crawler.model import Outcome, Request, RobotsRules
from crawler.net.fetcher import Conditions, Fetcher, Response
from crawler.robots.directives import names, product_tokens
from crawler.robots.tdmrep import PATH as TDM_PATH
from crawler.robots.tdmrep import parse_tdmrep, tdm_allowed
from crawler.urls import canonicalize, origin, resolve

#: Most bytes of a robots.txt that are read; RFC 9309 §2.5 requires at least 500 KiB.
MAX_BYTES = 1024 * 1024
#: Most redirects followed before the file counts as missing (RFC 9309 §2.3.1.2).
MAX_REDIRECTS = 5
#: Longest ``Crawl-delay`` that is obeyed, in seconds.
MAX_CRAWL_DELAY = 300.0
MAX_SITEMAPS = 1_000

_HOUR = 3_600.0
_DAY = 24 * _HOUR
#: Seconds for which the rules of an origin with a refused address are valid; the next worker may be allowed to connect.
_BLOCKED = 60.0
#: No body is refused for its size: we stop reading instead.
_CONDITIONS = Conditions(accept="text/plain, */*;q=0.5", max_bytes=sys.maxsize)
_UNREACHABLE = RobotsRules(reachable=False, lifetime=_HOUR)

#: One record, in the spellings that site owners use and Google's parser accepts. The colon may be missing.
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
    """Return whether a robots.txt allows an agent to visit ``url``, by RFC 9309. Never raises.

    Args:
        body: the file; its first MiB is read.
        user_agent: a whole ``User-Agent`` header, or only the product token.
        url: an absolute URL, or a path.
    """
    return allowed(own_rules(body, user_agent), url)


def own_rules(body: bytes | str, user_agent: str) -> str:
    """Return the smallest robots.txt for all agents that is equivalent to ``body`` for ours; empty: all is allowed."""
    return _read(body, user_agent).text


def allowed(rules: str, url: str) -> bool:
    """Return whether rules made by `own_rules` allow us to visit ``url``."""
    if not rules:
        return True
    path = _ORIGIN.sub("", url, count=1)
    path = path.encode("utf-8", "replace").decode("utf-8")  # lone surrogates
    return bool(_parsed(rules).can_fetch(f"http://host{'' if path.startswith('/') else '/'}{path}", "*"))


def refusal(rules: str, url: str) -> RequestFailed | None:
    """Return the failure if the rules of its origin forbid ``url`` (``robots`` or ``opted-out``), or None."""
    if not allowed(rules, url):
        return RequestFailed("robots", "robots.txt")
    return None if tdm_allowed(rules, url) else RequestFailed("opted-out", "tdmrep.json")


@functools.lru_cache(maxsize=256)
def _parsed(rules: str) -> Protego:
    return Protego.parse(rules)


class RobotsHandler:
    """Handler that fetches the robots.txt of one origin; its outcome carries the rules.

    If the file is missing (4xx, endless redirects), everything is allowed. If it is unreachable (429, 5xx, no
    response), nothing is: the outcome is a retry, with rules that apply if it was the last attempt (RFC 9309 §2.3.1.4).

    With ``tdm``, the request continues with the origin's tdmrep.json and carries the rules along. A failure of that
    file does not change the rules.
    """

    def __init__(
        self, fetcher: Fetcher, user_agent: str, clock: Callable[[], float] = time.monotonic, *, tdm: bool = False
    ) -> None:
        self._tdm = tdm
        self._fetcher = fetcher
        self._user_agent = user_agent
        self._clock = clock

    def handle(self, request: Request) -> Outcome:
        """Return the outcome of a request of kind ``robots``, whose url is the origin's ``/robots.txt``."""
        started = self._clock()
        try:
            with self._fetcher.fetch(request, _CONDITIONS) as response:
                outcome = (
                    self._outcome(request, response) if request.rules is None else _with_tdm_rules(request, response)
                )
                return structs.replace(outcome, latency=response.elapsed, received=response.received)
        except RequestFailed as error:
            outcome = failure(request, error, self._clock() - started)
            if error.reason == "blocked-address" and request.rules is None:
                rules = RobotsRules() if request.hops else RobotsRules(lifetime=_BLOCKED)
                return structs.replace(outcome, reason="", robots=rules)
            if request.rules is not None and error.reason != "cancelled":
                return structs.replace(outcome, status="done", reason="", robots=request.rules)
            return structs.replace(outcome, status="retry", robots=_UNREACHABLE)

    def _outcome(self, request: Request, response: Response) -> Outcome:
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


def _with_tdm_rules(request: Request, response: Response) -> Outcome:
    """Return the outcome with the rules that the request carries and those of the tdmrep.json in the response."""
    moved = _followed(request, response)
    if moved is not None:
        return moved
    response.raise_for_status()
    rules = request.rules or RobotsRules()
    return Outcome(status="done", robots=structs.replace(rules, text=rules.text + parse_tdmrep(_head(response))))


def _followed(request: Request, response: Response) -> Outcome | None:
    """Return the outcome of a redirect, or None if it has no valid target, so that the file counts as missing."""
    try:
        return redirected(request, response, MAX_REDIRECTS) if response.location else None
    except RequestFailed:
        return None


def _head(response: Response) -> bytes:
    """Return a little more of the body than `MAX_BYTES`, so that `_read` knows where to cut it."""
    body = bytearray()
    for piece in response.chunks():
        body += piece
        if len(body) > MAX_BYTES:
            break
    return bytes(body)


def _lifetime(cache_control: str) -> float:
    """Return how long rules are valid, in seconds: a day (RFC 9309 §2.4), or less by ``max-age``, at least an hour."""
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
    """All groups of one audience, joined."""

    rules: list[str] = []
    delays: list[float] = []


class _Reader:
    """Reader that sorts the records of a file into our agent's groups and those of ``*``."""

    def __init__(self, user_agent: str) -> None:
        self.sitemaps: dict[str, None] = {}
        self._tokens = product_tokens(user_agent)
        self._ours: _Group | None = None
        self._all_agents = _Group()
        self._audience: list[_Group] = []
        self._in_rules = False

    def take(self, field: str, value: str) -> None:
        if field == "agent":
            self._start_group(value)
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
        """Return the group to obey: ours, even without rules, or else that of ``*`` (RFC 9309 §2.2.1)."""
        return self._all_agents if self._ours is None else self._ours

    def _start_group(self, value: str) -> None:
        if self._in_rules:  # the first agent after a rule begins the next group (RFC 9309 §2.1)
            self._audience, self._in_rules = [], False
        if names(value) & self._tokens:
            self._ours = self._ours or _Group()
            self._audience.append(self._ours)
        elif value.split()[:1] == ["*"]:
            self._audience.append(self._all_agents)


def _read(body: bytes | str, user_agent: str) -> RobotsRules:
    """Return the rules of the file for our agent. Sitemaps are as written, not resolved."""
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
    """Yield field and value of each valid line. Values are printable ASCII, other characters percent-encoded."""
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
    """Return a ``Crawl-delay`` in seconds, or 0 if it is invalid."""
    try:
        seconds = float(value)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
