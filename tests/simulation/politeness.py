"""Politeness as the hosts see it: all checks use the logs of the hosts and not the view of master and workers."""

from collections import defaultdict
from dataclasses import dataclass

from crawler.frontier.politeness import Policy, rules_lifetime
from crawler.model import Outcome, Request, RobotsRules, Turn
from crawler.urls import host_key, origin
from tests.simulation.loop import Loop
from tests.simulation.web import Web

#: Maximum delay between the sending of a request and its arrival at the host, seconds.
_WAY = 0.05
#: Tolerance of a host's Retry-After, seconds.
_SLACK = 1.0


@dataclass(eq=False)
class Visit:
    """One request as its host sees it."""

    worker: str
    life: int
    turn: Turn
    request: Request
    #: Whether its worker was stopped between the decision to send it and the sending.
    is_late: bool
    begun: float
    is_over: bool = False


class HostLogs:
    """The logs of all hosts.

    Every method that finds a violation raises AssertionError.
    """

    def __init__(self, loop: Loop, policy: Policy, web: Web) -> None:
        self._loop, self._policy, self._web = loop, policy, web
        self._open: dict[str, list[Visit]] = defaultdict(list)
        self._last: dict[str, Visit] = {}
        #: Turn → time of its lease.
        self._lent: dict[str, float] = {}
        #: Host → the longest gap that it had in any turn.
        self._gaps: dict[str, float] = {}
        #: Origin → seconds between two requests that it asks for, as far as the master knows, and the time of that
        #: knowledge.
        self._delays: dict[str, tuple[float, float]] = {}
        #: Origin → the time at which the master learned its rules, and the time at which they expire.
        self._rules: dict[str, tuple[float, float]] = {}
        #: (host, worker or master) → time until which it must leave the host alone, and time from which leased turns
        #: count.
        self._shut: dict[tuple[str, str], tuple[float, float]] = {}
        #: Host → URLs that reported overload there; and the hosts without a good response since.
        self._complainers: dict[str, set[str]] = defaultdict(set)
        self._complaining: set[str] = set()
        #: Time until which a worker may not know that it has lost its turns.
        self.excused_until = 0.0
        #: Whether stored times of the master have lost their meaning.
        self.clock_was_set = False
        self._late: dict[tuple[str, int, str], int] = {}

    # knowledge of master and workers ----------------------------------------------------------------------------------

    def lends(self, turn: Turn) -> None:
        self._lent[turn.id] = self._loop.now
        self._gaps[turn.host] = max(turn.gap, self._gaps.get(turn.host, 0.0))

    def accepts(self, request: Request, outcome: Outcome) -> None:
        """Note that the master has learned what the outcome says about its host."""
        now = self._loop.now
        if outcome.host_wait is not None and self._applies_to_host(request, outcome.host_wait):
            self._close(host_key(request.location), "master", outcome.host_wait)
        elif outcome.host_wait is not None:  # the worker that reported it follows the master's decision
            host = host_key(request.location)
            self._shut = {key: at for key, at in self._shut.items() if key[0] != host or key[1] == "master"}
        self._note_complaint(request, outcome)
        rules = outcome.robots
        if rules is not None and outcome.status == "done":
            self._delays[origin(request.url)] = (rules.crawl_delay or 0.0, now)
            self._believe(request.url, rules)

    def may_have_accepted(self, request: Request, outcome: Outcome) -> None:
        """Note that the master may have learned it or not."""
        self._note_complaint(request, outcome)
        self._complaining.discard(host_key(request.location))
        if outcome.robots is not None and outcome.status == "done":
            self._delays.pop(origin(request.url), None)
            self._believe(request.url, outcome.robots)

    def _applies_to_host(self, request: Request, wait: float) -> bool:
        """Return whether the whole host must be left alone, independent of the master's other knowledge.

        A wait that a URL asks for again may be for that URL only. The same holds for a wait beyond the patience while
        no other URL reports overload.
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
        """Note that this life of a worker has received a response."""
        if outcome.host_wait is not None:
            self._close(host_key(request.location), f"{worker} {life}", outcome.host_wait)

    def _close(self, host: str, who: str, seconds: float) -> None:
        until, since = self._shut.get((host, who), (0.0, self._loop.now))
        since = since if until > self._loop.now else self._loop.now
        self._shut[host, who] = max(until, self._loop.now + seconds), since

    # visits -----------------------------------------------------------------------------------------------------------

    def begin(self, visit: Visit) -> None:
        """Check and note a request that reaches its host."""
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
        """Note that the request is answered, or cut."""
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
            delay = 0.0  # some current turns may have begun before it was known
        gap = max(self._policy.delay or 0.0, delay if self._policy.robots else 0.0)
        most = 1 if gap else self._policy.per_host or 1
        if len(self._open[host]) >= most:
            others = ", ".join(f"{other.worker} since {other.begun:.3f}" for other in self._open[host])
            raise AssertionError(f"{visit.worker} visits {host}, where there are {others} already")
        if last is not None and self._loop.now - last.begun < gap - _WAY:
            passed = self._loop.now - last.begun
            raise AssertionError(f"{visit.worker} visits {host} {passed:.3f} after {last.worker}, {gap=}")

    def _check_waits(self, visit: Visit, host: str) -> None:
        until, since = self._shut.get((host, f"{visit.worker} {visit.life}"), (0.0, 0.0))
        if (
            self._loop.now < until - _SLACK and self._loop.now > since + _WAY
        ):  # otherwise the request was already on its way
            raise AssertionError(f"{visit.worker} visits {host}, which told it to stay away until {until:.3f}")
        until, since = self._shut.get((host, "master"), (0.0, 0.0))
        if self._loop.now < until - _SLACK and self._lent[visit.turn.id] > since and not self.clock_was_set:
            raise AssertionError(f"{visit.worker} visits {host}, which the master is to shut until {until:.3f}")

    @property
    def late_requests(self) -> int:
        return sum(self._late.values())

    def late(self, visit: Visit, stop: int) -> None:
        """Allow one late request of a host for each pause of a worker."""
        key = visit.worker, stop, visit.turn.id
        self._late[key] = self._late.get(key, 0) + 1
        if self._late[key] > 1:
            raise AssertionError(f"{visit.worker} sends more than one late request in {visit.turn.host}")
