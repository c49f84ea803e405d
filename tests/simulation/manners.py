"""What the hosts see: who asks when. Their log is the judge of politeness, whatever master and workers believe."""

from collections import defaultdict
from dataclasses import dataclass

from crawler.frontier.politeness import Policy, rules_lifetime
from crawler.model import Outcome, Request, RobotsRules, Turn
from crawler.urls import host_key, origin
from tests.simulation.loop import Loop
from tests.simulation.web import Web

#: Seconds by which a request may reach its host later than it was sent off.
_WAY = 0.05
#: What a host's Retry-After may be missed by, seconds.
_SLACK = 1.0


@dataclass(eq=False)
class Visit:
    """One request as its host sees it."""

    worker: str
    life: int
    turn: Turn
    request: Request
    #: Whether its worker was stopped between making up its mind and sending it.
    is_late: bool
    begun: float
    is_over: bool = False


class Manners:
    """The logs of all hosts.

    Every method that finds a breach raises AssertionError.
    """

    def __init__(self, loop: Loop, policy: Policy, web: Web) -> None:
        self._loop, self._policy, self._web = loop, policy, web
        self._open: dict[str, list[Visit]] = defaultdict(list)
        self._last: dict[str, Visit] = {}
        #: Turn → when it was lent.
        self._lent: dict[str, float] = {}
        #: Host → the longest gap that it had in any turn.
        self._gaps: dict[str, float] = {}
        #: Origin → seconds between two requests that it asks for, as far as the master knows, and since when.
        self._delays: dict[str, tuple[float, float]] = {}
        #: Origin → when the master learned its rules, and until when they hold.
        self._rules: dict[str, tuple[float, float]] = {}
        #: (host, who) → time until which it is to be left alone; turns lent before that was known don't count.
        self._shut: dict[tuple[str, str], tuple[float, float]] = {}
        #: Host → what has complained there; and the hosts where nothing was answered since.
        self._complainers: dict[str, set[str]] = defaultdict(set)
        self._complaining: set[str] = set()
        #: Time until which a worker may not know that its turns are not its own any more.
        self.excused_until = 0.0
        #: Whether times that the master has kept mean something else now.
        self.clock_was_set = False
        self._late: dict[tuple[str, int, str], int] = {}

    # what is learned ----------------------------------------------------------------------------------------------

    def lends(self, turn: Turn) -> None:
        self._lent[turn.id] = self._loop.now
        self._gaps[turn.host] = max(turn.gap, self._gaps.get(turn.host, 0.0))

    def accepts(self, request: Request, outcome: Outcome) -> None:
        """The master knows by now what the outcome says of its host."""
        now = self._loop.now
        if outcome.host_wait is not None and self._is_everybodys(request, outcome.host_wait):
            self._close(host_key(request.location), "master", outcome.host_wait)
        elif outcome.host_wait is not None:  # whoever has told it goes by what the master makes of it
            host = host_key(request.location)
            self._shut = {key: at for key, at in self._shut.items() if key[0] != host or key[1] == "master"}
        self._note_complaint(request, outcome)
        rules = outcome.robots
        if rules is not None and outcome.status == "done":
            self._delays[origin(request.url)] = (rules.crawl_delay or 0.0, now)
            self._believe(request.url, rules)

    def may_have_accepted(self, request: Request, outcome: Outcome) -> None:
        """The master may know it or not."""
        self._note_complaint(request, outcome)
        self._complaining.discard(host_key(request.location))
        if outcome.robots is not None and outcome.status == "done":
            self._delays.pop(origin(request.url), None)
            self._believe(request.url, outcome.robots)

    def _is_everybodys(self, request: Request, wait: float) -> bool:
        """Whether the whole host must be left alone, whatever else the master knows.

        What a URL asks for again may be its own, and so may what exceeds the patience while nobody else complains.
        """
        host = host_key(request.location)
        is_first = request.url not in self._complainers[host]
        return is_first and (wait <= self._policy.patience or host in self._complaining)

    def _note_complaint(self, request: Request, outcome: Outcome) -> None:
        host = host_key(request.location)
        if outcome.overloaded:
            self._complainers[host].add(request.url)
            self._complaining.add(host)
        elif outcome.latency > 0:
            self._complaining.discard(host)

    def _believe(self, url: str, rules: RobotsRules) -> None:
        lifetime = rules_lifetime(rules.lifetime, self._gaps[host_key(url)])
        self._rules[origin(url)] = (self._loop.now, self._loop.now + lifetime)

    def hears(self, worker: str, life: int, request: Request, outcome: Outcome) -> None:
        """This life of a worker has got an answer."""
        if outcome.host_wait is not None:
            self._close(host_key(request.location), f"{worker} {life}", outcome.host_wait)

    def _close(self, host: str, who: str, seconds: float) -> None:
        until, since = self._shut.get((host, who), (0.0, self._loop.now))
        since = since if until > self._loop.now else self._loop.now
        self._shut[host, who] = max(until, self._loop.now + seconds), since

    # what is seen -------------------------------------------------------------------------------------------------

    def begin(self, visit: Visit) -> None:
        """A request reaches its host."""
        host = host_key(visit.request.location)
        if visit.is_late:
            return
        self._check_rules(visit)
        if self._loop.now >= self.excused_until:
            self._check_pace(visit, host)
            self._check_waits(visit, host)
        self._open[host].append(visit)
        self._last[host] = visit

    def end(self, visit: Visit) -> None:
        """It is answered, or cut."""
        visit.is_over = True
        host = host_key(visit.request.location)
        self._open[host] = [other for other in self._open[host] if other is not visit]

    def _check_rules(self, visit: Visit) -> None:
        if not self._policy.robots or visit.request.kind == "robots":
            return
        url = visit.request.location
        if self._web.is_shut(url):
            raise AssertionError(f"{visit.worker} visits {url}, which robots.txt forbids")
        since, until = self._rules.get(origin(url), (self._loop.now, 0.0))
        lent = self._lent[visit.turn.id]
        if not until or (lent >= until + _SLACK and not self.clock_was_set):
            raise AssertionError(f"{visit.worker} visits {url} without rules: {since:.3f} to {until:.3f}, {lent=:.3f}")

    def _check_pace(self, visit: Visit, host: str) -> None:
        lent, last = self._lent[visit.turn.id], self._last.get(host)
        asked = [(delay, since) for name, (delay, since) in self._delays.items() if host_key(name) == host]
        delay = max((seconds for seconds, since in asked if lent > since), default=0.0)
        if last is not None and self._lent[last.turn.id] <= max((since for _, since in asked), default=0.0):
            delay = 0.0  # some of what is under way may have begun before it was known
        gap = max(0.5 * (self._policy.delay or 0.0), delay if self._policy.robots else 0.0)
        most = 1 if gap else self._policy.per_host or 1
        if len(self._open[host]) >= most:
            others = ", ".join(f"{other.worker} since {other.begun:.3f}" for other in self._open[host])
            raise AssertionError(f"{visit.worker} visits {host}, where there are {others} already")
        if last is not None and self._loop.now - last.begun < gap - _WAY:
            passed = self._loop.now - last.begun
            raise AssertionError(f"{visit.worker} visits {host} {passed:.3f} after {last.worker}, {gap=}")

    def _check_waits(self, visit: Visit, host: str) -> None:
        until, since = self._shut.get((host, f"{visit.worker} {visit.life}"), (0.0, 0.0))
        if self._loop.now < until - _SLACK and self._loop.now > since + _WAY:  # else it was on its way already
            raise AssertionError(f"{visit.worker} visits {host}, which told it to stay away until {until:.3f}")
        until, since = self._shut.get((host, "master"), (0.0, 0.0))
        if self._loop.now < until - _SLACK and self._lent[visit.turn.id] > since and not self.clock_was_set:
            raise AssertionError(f"{visit.worker} visits {host}, which the master is to shut until {until:.3f}")

    @property
    def late_requests(self) -> int:
        return sum(self._late.values())

    def late(self, visit: Visit, stop: int) -> None:
        """One request of a host may be late for each pause of a worker."""
        key = visit.worker, stop, visit.turn.id
        self._late[key] = self._late.get(key, 0) + 1
        if self._late[key] > 1:
            raise AssertionError(f"{visit.worker} sends more than one late request in {visit.turn.host}")
