"""A small random web: pages, pictures, and hosts with rules and outages."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from msgspec import structs

from crawler.errors import RequestFailed
from crawler.handler import failure
from crawler.model import Kind, Outcome, Request, RobotsRules
from crawler.urls import host_key, origin

#: Hops that are followed.
_REDIRECTS = 4
_FORBIDDEN = "/private/"
_DOWN = RequestFailed("connect", retryable=True, down="host")


class Reply(NamedTuple):
    """The result of a visit: bytes of a picture, or an outcome that is already known; and its duration."""

    seconds: float
    outcome: Outcome | None = None
    content: bytes = b""


@dataclass
class Origin:
    """One scheme and host."""

    name: str
    rules: RobotsRules
    #: Time until which its robots.txt is unreachable.
    is_silent_until: float = 0.0


@dataclass
class Host:
    """One host with its overloads: begin, end, and the seconds it asks for, or None."""

    key: str
    origins: list[Origin]
    latency: float
    #: Begin and end of the time in which it is unreachable.
    down: tuple[float, float] = (0.0, 0.0)
    overloads: list[tuple[float, float, float | None]] = field(default_factory=list)


class Web:
    """All hosts, pages and pictures.

    Args:
        dice: the source of randomness.
        seconds: the maximum duration of a request.
        is_calm: nothing ever fails.
    """

    def __init__(self, dice: Random, seconds: float, *, is_calm: bool) -> None:
        self._dice, self._seconds, self._is_calm = dice, seconds, is_calm
        self.hosts = {host.key: host for host in map(self._host, range(dice.randint(1, 4)))}
        self.origins = {place.name: place for host in self.hosts.values() for place in host.origins}
        self.contents: dict[str, bytes] = {}
        #: URLs of pictures that crash the process that decodes them.
        self.crashing: set[str] = set()
        #: URL → its redirect target.
        self.moves: dict[str, str] = {}
        #: URL → reasons of the failures to come, the next one last; a permanent one stays.
        self.faults: dict[str, list[str]] = {}
        #: (kind, URL) → number of visits, and the reasons of its failures.
        self.visits: Counter[tuple[Kind, str]] = Counter()
        self.reasons: dict[str, set[str]] = {}
        self.host_reasons: dict[str, set[str]] = {key: set() for key in self.hosts}
        images = [self._image(number) for number in range(dice.randint(4, 40))]
        pages = [f"{self._place()}/page-{number}" for number in range(dice.randint(1, 8))]
        self.seeds = [Request(url=pages[0])]
        self.links: dict[str, tuple[Request, ...]] = dict.fromkeys(pages, ())
        for number, url in enumerate(pages):
            found = [Request(url=each, kind="image", referrer=url, source="img") for each in images if self._is(0.4)]
            beyond = pages[number + 1 : number + 2] + [each for each in pages if self._is(0.2)]
            self.links[url] = (*found, *(Request(url=each, depth=1, referrer=url) for each in beyond))
        for url in (*images, *pages[1:]):
            self._spoil(url)

    def is_shut(self, url: str) -> bool:
        """Return whether robots.txt forbids the URL."""
        return _FORBIDDEN in url and bool(self.origins[origin(url)].rules.text)

    def ask(self, request: Request, now: float) -> Reply:
        """Return the result of a visit that begins now."""
        self.visits[request.kind, request.url] += 1
        host = self.hosts[host_key(request.location)]
        seconds = min(host.latency * self._dice.expovariate(1.0), 0.9 * self._seconds)
        error = self._refusal(request, host, now)
        if error is not None:
            seconds = self._seconds if error.reason == "timeout" else seconds
            self.reasons.setdefault(request.url, set()).add(error.reason)
            self.host_reasons[host.key].add(error.reason)
            outcome = failure(request, error, seconds)
            if request.kind == "robots":
                outcome = structs.replace(outcome, status="retry", robots=RobotsRules(reachable=False, lifetime=3600.0))
            return Reply(seconds, outcome)
        if request.kind == "robots":
            return Reply(seconds, Outcome(status="done", robots=self.origins[origin(request.url)].rules))
        target = self.moves.get(request.location)
        if target is not None:
            successor = structs.replace(request, target=target, hops=request.hops + 1)
            return Reply(seconds, Outcome(status="moved", successor=successor, latency=seconds))
        if request.kind == "image":
            return Reply(seconds, content=self.contents[request.location])
        return Reply(seconds, Outcome(status="done", discovered=self.links[request.url], latency=seconds))

    def _refusal(self, request: Request, host: Host, now: float) -> RequestFailed | None:
        for begin, end, wait in host.overloads:
            if begin <= now < end:
                code = self._dice.choice((429, 503))
                return RequestFailed(f"http-{code}", retryable=True, host_wait=wait, overloaded=True, http_status=code)
        if host.down[0] <= now < host.down[1]:
            return _DOWN
        place = self.origins[origin(request.location)]
        if request.kind == "robots":
            return _DOWN if now < place.is_silent_until else None
        if request.hops >= _REDIRECTS and request.location in self.moves:
            return RequestFailed("redirect-limit")
        faults = self.faults.get(request.location, [])
        if not faults:
            return None
        if faults[-1] == "http-404":
            return RequestFailed("http-404", http_status=404)
        reason = faults.pop()
        return _DOWN if reason == "connect" else RequestFailed(reason, retryable=True)

    # construction -----------------------------------------------------------------------------------------------------

    def _is(self, chance: float) -> bool:
        return self._dice.random() < chance

    def _place(self) -> str:
        return self._dice.choice(list(self.origins))

    def _host(self, number: int) -> Host:
        key = f"h{number}.example"
        schemes = ["http", "https"] if self._is(0.25) else ["http"]
        host = Host(key, [self._origin(f"{scheme}://{key}") for scheme in schemes], self._dice.choice((0.01, 0.1, 0.6)))
        if not self._is_calm and self._is(0.2):
            begin = self._dice.uniform(0.0, 60.0)
            host.down = begin, begin + self._dice.uniform(1.0, 60.0)
        if not self._is_calm and self._is(0.5):
            for _ in range(self._dice.randint(1, 3)):
                begin = self._dice.uniform(0.0, 90.0)
                wait = self._dice.choice((None, 1.0, 7.0, 30.0))
                host.overloads.append((begin, begin + self._dice.uniform(0.5, 20.0), wait))
        return host

    def _origin(self, name: str) -> Origin:
        rules = RobotsRules(
            text=f"User-agent: *\nDisallow: {_FORBIDDEN}\n" if self._is(0.5) else "",
            crawl_delay=self._dice.choice((0.5, 2.0)) if self._is(0.2) else None,
            lifetime=self._dice.choice((60.0, 100.0, 86_400.0)),
        )
        silent = self._dice.uniform(0.0, 10.0) if not self._is_calm and self._is(0.1) else 0.0
        return Origin(name, rules, silent)

    def _image(self, number: int) -> str:
        folder = _FORBIDDEN if self._is(0.1) else "/"
        url = f"{self._place()}{folder}{number}.jpg"
        self.contents[url] = f"picture {self._dice.randint(0, 30)}".encode()
        return url

    def _spoil(self, url: str) -> None:
        """Let a page or picture be moved, even repeatedly; or missing, permanently or for a while."""
        is_page = url in self.links
        for _ in range(self._dice.choice((1, 1, 2, 6)) if self._is(0.15) else 0):
            target = f"{self._place() if self._is(0.5) else origin(url)}/moved-{len(self.moves)}.jpg"
            self.moves[url] = target
            if is_page:
                break
            self.contents[target] = self.contents[url]
            url = target
        if not is_page and not self._is_calm and self._is(0.1):
            self.crashing.add(url)
        if self._is_calm or not self._is(0.25):
            return
        lasting = self._dice.choice((["http-404"], ["timeout"], ["connect"], ["timeout", "connect"], ["connect"] * 6))
        self.faults[url] = list(lasting)


Arrival = Callable[[Reply], None]
