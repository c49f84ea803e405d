"""Invariants of a crawl under any faults; every violation raises AssertionError.

The checker sees all calls and results of master and workers. It checks that the counts add up, that final states do not
change, that accepted outcomes are in the records after every restart, that recorded pictures are on the disk, and that
the end is reported only when it is reached.
"""

from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import REASONS, Grant, ImageRecord, Kind, Outcome, Request, Verdict, WorkerInfo
from crawler.urls import host_key, origin
from tests.simulation.loop import Loop
from tests.simulation.politeness import HostLogs
from tests.simulation.stores import SimulatedStore
from tests.simulation.web import Web

#: More than any simulated crawl has.
_ALL = 1_000_000


class Invariants:
    """Checks every call that the master carries out."""

    def __init__(self, loop: Loop, policy: Policy, web: Web, host_logs: HostLogs) -> None:
        self._loop, self._policy, self._web, self.host_logs = loop, policy, web, host_logs
        self.stores: dict[str, SimulatedStore] = {}
        #: Kind and URL of all requests that were certainly found, and of those that certainly have a final state.
        self.known: set[tuple[Kind, str]] = set()
        self.settled: set[tuple[Kind, str]] = set()
        self.records: dict[int, ImageRecord] = {}
        self._urls: dict[str, int] = {}
        #: Token → request, of all leases.
        self._lent: dict[str, Request] = {}
        #: Kind and URL → deliveries that may be lost since the last final verdict, their maximum, and their total.
        self._deliveries: Counter[tuple[Kind, str]] = Counter()
        self._most: Counter[tuple[Kind, str]] = Counter()
        self._all: Counter[tuple[Kind, str]] = Counter()
        #: Workers and the lives that they began.
        self._lives: dict[str, float] = {}
        self._has_ended = False
        self.lease_seconds = 0.0
        self.verdicts: Counter[str] = Counter()

    @property
    def clock_was_set(self) -> bool:
        return self.host_logs.clock_was_set

    @clock_was_set.setter
    def clock_was_set(self, value: bool) -> None:
        self.host_logs.clock_was_set = value

    def forgets_leases(self) -> None:
        """Allow for a master that has lost part of its leases; a worker learns of it when it renews them."""
        self.host_logs.excused_until = self._loop.now + 2 * self.lease_seconds
        self._deliveries = self._all.copy()  # verdicts between them may be lost, too

    def discovers(self, requests: Iterable[Request]) -> None:
        self.known |= {(request.kind, request.url) for request in requests}

    def begins(self, frontier: SqliteFrontier) -> None:
        """Compare the records with those before a restart of the master."""
        found = dict(frontier.records(0, _ALL))
        missing = {number: record for number, record in self.records.items() if found.get(number) != record}
        if missing:
            number, record = next(iter(missing.items()))
            raise AssertionError(f"record {number} of an earlier life is lost or changed: {record}")
        self._read_on(frontier)

    # calls ------------------------------------------------------------------------------------------------------------

    def cut_short(self, method: str, arguments: Any) -> None:
        """Allow for a call during which the master died: it may or may not have been carried out."""
        for outcome in arguments[1] if method == "put" else ():
            self.host_logs.may_have_accepted(self._lent[outcome.token], outcome)

    def after(self, frontier: SqliteFrontier, method: str, arguments: Any, result: Any) -> None:
        """Check a call after it was carried out; ``result`` is None if the disk refused it."""
        if isinstance(result, Grant):
            self._lends(arguments[0], result)
        elif method == "put" and result is not None:
            self._rules(arguments[0], arguments[1], result)
        elif method == "hello" and result is not None and not arguments[2].stays:
            self._check_hello(frontier, arguments[0], arguments[2])
        self._read_on(frontier)
        if not isinstance(result, Grant) or result.state != "wait":
            self._count(frontier)
        if isinstance(result, Grant) and result.state == "drained":
            self._check_end(frontier)

    def _lends(self, worker: str, grant: Grant) -> None:
        if self._has_ended and grant.turns:
            raise AssertionError(f"{worker} is given work after the end was said")
        for turn in grant.turns:
            self.host_logs.lends(turn)
            urls = [lease.request.location for lease in turn.leases]
            self._loop.note(f"lent to {worker}: {self._loop.name(turn.id)} gap={turn.gap:.3f} {' '.join(urls)}")
            for lease in turn.leases:
                key = lease.request.kind, lease.request.url
                self._lent[lease.token] = lease.request
                self._deliveries[key] += 1
                self._all[key] += 1
                self._most[key] = max(self._most[key], self._deliveries[key])
                if key in self.settled and lease.request.kind != "robots":
                    raise AssertionError(f"{key} is lent again after its final verdict")

    def _rules(self, worker: str, outcomes: tuple[Outcome, ...], verdicts: tuple[Verdict, ...]) -> None:
        for outcome, verdict in zip(outcomes, verdicts, strict=True):
            request = self._lent[outcome.token]
            key = request.kind, request.url
            self.verdicts[verdict.state] += 1
            status = f"{outcome.status} {outcome.reason} {verdict.state} {verdict.status or ''}"
            self._loop.note(f"told by {worker}: {request.kind} {request.url} {status}")
            if verdict.state != "accepted":
                continue
            if key in self.settled and request.kind != "robots":
                raise AssertionError(f"{key} has two verdicts")
            self._deliveries[key] = 0 if outcome.status == "done" else self._deliveries[key] - 1
            self.host_logs.accepts(request, outcome)
            self.discovers(outcome.discovered)
            if outcome.status == "done":
                self.settled.add(key)
            if request.kind == "image" and verdict.status is None and outcome.status == "done":
                raise AssertionError(f"{request.url} is settled without a record")

    def _check_hello(self, frontier: SqliteFrontier, worker: str, about: WorkerInfo) -> None:
        self._loop.note(f"hello of {worker}, life {about.life}")
        if about.wall <= self._lives.get(worker, 0.0):
            return  # received twice, or after the next one
        self._lives[worker] = about.wall
        held = sum(each.leases for each in frontier.stats().workers if each.name == worker)
        if held:
            raise AssertionError(f"{worker} begins a life, and its last one still holds {held} requests")

    def _count(self, frontier: SqliteFrontier) -> None:
        stats = frontier.stats()
        states = (stats.waiting, stats.leased, stats.success, stats.duplicate, stats.failed)
        pages = (stats.pages_waiting, stats.pages_leased, stats.pages_done, stats.pages_failed)
        if sum(states) != stats.discovered or min(states + pages) < 0:
            raise AssertionError(f"states do not add up: {states} {pages}, discovered {stats.discovered}")
        final = stats.success + stats.duplicate + stats.failed
        if final != len(self.records) or stats.failed != sum(stats.reasons.values()):
            raise AssertionError(f"{final} images are settled, and there are {len(self.records)} records")

    # records ----------------------------------------------------------------------------------------------------------

    def _read_on(self, frontier: SqliteFrontier) -> None:
        for number, record in frontier.records(max(self.records, default=0), _ALL):
            if record.url in self._urls:
                raise AssertionError(f"two records of {record.url}: {self._urls[record.url]} and {number}")
            self._loop.note(f"record {number}: {record.url} {record.status} {record.reason}")
            self.records[number], self._urls[record.url] = record, number
            self.settled.add(("image", record.url))
            self._check_record(record)

    def _check_record(self, record: ImageRecord) -> None:
        if record.status == "failed":
            self._check_reason(record)
            return
        if record.sha256 != sha256(self._web.contents[record.url]).hexdigest():
            raise AssertionError(f"the bytes of {record.url} are not those of its record")
        is_first = all(
            other.sha256 != record.sha256 or other.status == "failed" or other is record
            for other in self.records.values()
        )
        if (record.status == "success") != is_first:
            raise AssertionError(f"{record.url} is called {record.status}, {is_first=}")
        if is_first and record.path not in self.stores[record.store].durable:
            raise AssertionError(f"{record.path} is called saved, and {record.store} does not have it for sure")

    def _check_reason(self, record: ImageRecord) -> None:
        """Check that a failure has a reason that really occurred."""
        url, reason = record.url, record.reason
        hosts = {host_key(each) for each in (url, record.final_url, *self._places(url))}
        happened = reason in self._web.reasons.get(url, ())
        match reason:
            case "poison":
                crashed = not self._web.crashing.isdisjoint((url, *self._places(url)))
                happened = crashed or self._deliveries["image", url] >= self._policy.max_losses
            case "robots":
                happened = any(map(self._web.is_shut, (url, record.final_url)))
            case "rate-limited":
                happened = any(self._web.hosts[host].overloads for host in hosts)
            case "host-down":
                happened = any("connect" in self._web.host_reasons[host] for host in hosts)
            case "robots-unreachable":
                # the robots.txt of any URL on the way: it was unreachable, or the worker that fetched it was lost
                rules = [f"{origin(each)}/robots.txt" for each in (url, *self._places(url))]
                lost = [self._most["robots", each] >= self._policy.max_losses for each in rules]
                happened = any(lost) or any(self._web.reasons.get(each) for each in rules)
        if not happened or (reason not in REASONS and not reason.startswith("http-")):
            raise AssertionError(f"{url} failed for {reason!r}, which never happened to it")

    def _places(self, url: str) -> list[str]:
        places = []
        while (url := self._web.moves.get(url, "")) and url not in places:
            places.append(url)
        return places

    # the end ----------------------------------------------------------------------------------------------------------

    def _check_end(self, frontier: SqliteFrontier) -> None:
        stats = frontier.stats()
        if stats.waiting or stats.leased or stats.pages_waiting or stats.pages_leased:
            raise AssertionError("the end is said while there is something to do")
        lost = {url for kind, url in self.known if kind == "image"} - self._urls.keys()
        if lost or len(self.records) != stats.discovered:
            raise AssertionError(f"the end is said, and {lost} have no record; {stats.discovered} discovered")
        self._has_ended = True

    def check_all(self, frontier: SqliteFrontier) -> None:
        """Check the result after the end, with a master that reads all files again."""
        self.begins(frontier)
        self._check_end(frontier)
        saved = {record.path: record for record in self.records.values() if record.status != "failed"}
        for path, record in saved.items():
            blob = self.stores[record.store].durable.get(path)
            if blob is None or sha256(blob).hexdigest() != record.sha256:
                raise AssertionError(f"{path} is lost; {record.store} was to have it")
