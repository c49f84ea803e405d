"""What one outcome means: its verdict, what it writes to the ledger, and what memory does about it afterwards."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter

import msgspec

from crawler.frontier import politeness
from crawler.frontier.budget import Budget
from crawler.frontier.hosts import Origin
from crawler.frontier.ledger import WAITING, Entry, Ledger, is_sound, place_of
from crawler.frontier.politeness import Policy
from crawler.frontier.schedule import Schedule
from crawler.frontier.tally import Tally
from crawler.model import FOUND, REASONS, ImageRecord, Outcome, Request, RobotsRules, Verdict, VerdictState, describe
from crawler.urls import host_key, origin

_log = logging.getLogger(__name__)

#: Redirects that are gone along with, whatever a worker says.
_MAX_HOPS = 20
#: Reasons for which a picture is not wanted in any size.
_WISHES = frozenset({"robots", "opted-out", "filtered", "too-small"})
#: Sitemaps taken from one robots.txt; an index among them may name more.
_MAX_SITEMAPS = 100
#: What holds for an origin whose robots.txt could not be had, for an hour.
_UNREACHABLE = RobotsRules(reachable=False, lifetime=3_600.0)

_found = attrgetter(*FOUND)
_HTTP_REASON = re.compile(r"http-[1-9][0-9][0-9]")

#: Something to be done in memory once the ledger has committed.
Effect = Callable[[], None]


@dataclass(slots=True)
class Ruling:
    """What came of applying an outcome."""

    #: What memory has to do after the commit.
    effects: list[Effect] = field(default_factory=list)
    #: The manifest row that was written.
    record: ImageRecord | None = None
    #: Whether the request has its final state, and what is asked for instead.
    is_final: bool = False
    instead: Request | None = None


def verdict_on(entry: Entry | None, outcome: Outcome, *, is_held: bool, is_judged: bool) -> VerdictState:
    """The first verdict wins; from a lease that was lost, only a final one is of use."""
    if entry is None:
        return "stale"
    if is_judged or entry.state != WAITING:
        return "duplicate"
    return "accepted" if is_held or outcome.status == "done" else "stale"


def told(state: VerdictState, record: ImageRecord, *, is_spare: bool) -> Verdict:
    """The answer to the worker whose outcome led to ``record``."""
    store, path = (record.store, record.path) if record.status == "duplicate" else ("", "")
    return Verdict(
        state=state,
        status=record.status,
        reason=record.reason,
        store=store,
        path=path,
        attempts=record.attempts,
        is_spare=is_spare,
    )


def anew(request: Request) -> Request:
    """The request as it was before any redirect."""
    return msgspec.structs.replace(request, target="", hops=0, rules=None)


class Judge:
    """Applies outcomes. Every method that writes must be called within a transaction of the ledger.

    Args:
        wall: seconds since the epoch.
        dice: numbers in [0, 1).
    """

    def __init__(
        self,
        policy: Policy,
        ledger: Ledger,
        schedule: Schedule,
        tally: Tally,
        budget: Budget,
        *,
        wall: Callable[[], float],
        dice: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._ledger = ledger
        self._schedule = schedule
        self._tally = tally
        self._budget = budget
        self._wall, self._dice = wall, dice

    def queue(self, entry: Entry, *, returned: bool = False) -> None:
        """Queue a waiting request in memory; a returned one goes first."""
        request = entry.request
        self._schedule.add(self._place(request), request.kind, entry.row, request.priority, returned=returned)

    def apply(self, entry: Entry, outcome: Outcome, worker: str, now: float) -> Ruling:
        """Write one outcome to the ledger."""
        lessons = self._lessons(entry, outcome, now)
        if outcome.status == "done":
            ruling = self.finish(entry, outcome.reason, outcome, worker, now)
        elif outcome.status == "released":
            ruling = Ruling([partial(self.queue, entry, returned=True)])
        elif outcome.status == "moved":
            ruling = self._move(entry, outcome, worker, now)
        else:
            ruling = self._retry(entry, outcome, worker, now)
        ruling.effects[:0] = lessons
        return ruling

    def sitemaps(self, entry: Entry, outcome: Outcome) -> list[Request]:
        """The sitemaps that the robots.txt of a walked site names (sitemaps.org), if this outcome brings it."""
        rules = outcome.robots
        if not self._policy.sitemaps or entry.request.kind != "robots" or rules is None or not rules.sitemaps:
            return []
        seed = self._ledger.seed_at(origin(entry.request.url))
        if seed is None:
            return []
        found = (
            Request(url=url, kind="part", nesting=1, seed=seed.seed, referrer=entry.request.url, source="sitemap")
            for url in rules.sitemaps[:_MAX_SITEMAPS]
        )
        host = host_key(entry.request.url).removeprefix("www.")
        return [each for each in found if is_sound(each) and host_key(each.url).removeprefix("www.") == host]

    def _lessons(self, entry: Entry, outcome: Outcome, now: float) -> list[Effect]:
        """What the outcome teaches about its host."""
        host = self._place(entry.request).host
        if not outcome.overloaded and outcome.host_wait is None:
            return [partial(self._schedule.learn_latency, host, outcome.latency)] if outcome.latency > 0 else []
        # Complaints that arrive while nobody visits are about the visits of before, and count as one.
        level = max(1, host.overloads + (host.blocked_until <= now))
        wait = outcome.host_wait
        seconds = politeness.overload_delay(level, self._dice()) if wait is None else min(wait, politeness.MAX_WAIT)
        self._ledger.save_wait(host.key, self._wall() + seconds)
        return [partial(self._schedule.learn_overload, host, level, now + seconds)]

    def _retry(self, entry: Entry, outcome: Outcome, worker: str, now: float) -> Ruling:
        """Once more, after a while; or the end, where that was the last attempt."""
        attempts = entry.attempts + 1
        if attempts >= politeness.attempts_allowed(self._policy, outcome.reason):
            return self.finish(entry, outcome.reason or "internal", outcome, worker, now)
        delay = outcome.retry_in
        if delay is None:  # a busy host is left alone as a whole; then the request needs no wait of its own
            delay = 0.0 if outcome.overloaded else politeness.retry_delay(attempts, self._dice())
        delay = min(delay, politeness.MAX_WAIT)
        self._ledger.requeue(entry.row, entry.request, attempts, not_before=self._wall() + delay, reason=outcome.reason)
        place, request = self._place(entry.request), entry.request
        return Ruling([partial(self._schedule.defer, place, request.kind, entry.row, request.priority, now + delay)])

    def _move(self, entry: Entry, outcome: Outcome, worker: str, now: float) -> Ruling:
        """The request goes on elsewhere; of what the worker says, only the place is taken over."""
        new, old = outcome.successor, entry.request
        if new is None or (old.kind == "list" and new.offset <= old.offset):
            return self.finish(entry, "internal", outcome, worker, now)
        if old.kind == "list":
            request = msgspec.structs.replace(old, offset=new.offset)
        else:
            rules = new.rules if old.kind == "robots" else None
            request = msgspec.structs.replace(old, target=new.target, hops=max(new.hops, old.hops + 1), rules=rules)
        if request.hops > _MAX_HOPS:
            return self.finish(entry, "redirect-limit", outcome, worker, now)
        if not is_sound(request):
            return self.finish(entry, "bad-url", outcome, worker, now)
        self._ledger.requeue(entry.row, request, entry.attempts)
        return Ruling([partial(self.queue, entry._replace(request=request), returned=True)])

    def finish(self, entry: Entry, reason: str, outcome: Outcome, worker: str, now: float) -> Ruling:
        """The final state of a request, in the ledger now and in memory after the commit.

        With no worker's name it is the frontier's own decision, and no attempt.
        """
        record: ImageRecord | None = None
        effects: list[Effect] = []
        if reason and reason not in REASONS and not _HTTP_REASON.fullmatch(reason):
            reason = "internal"
        if entry.request.kind == "image":
            record = self._record(entry, reason, outcome.record, worker)
            reason = record.reason
            self._ledger.record(entry.row, record)
        elif entry.request.kind == "robots":
            rules, place = outcome.robots or _UNREACHABLE, self._schedule.origin(origin(entry.request.url))
            lifetime = politeness.rules_lifetime(rules.lifetime)
            self._ledger.save_rules(place.name, rules, self._wall() + lifetime)
            effects.append(partial(self._schedule.set_rules, place, rules, now + lifetime))
        self._ledger.settle(entry.row, reason)
        if reason:
            _log.info("action=fail kind=%s url=%s reason=%s", entry.request.kind, entry.request.url, reason)
        effects.append(partial(self._tally.settle, entry.request, reason, record))
        effects.append(partial(self._budget.settle, self._place(entry.request).host, entry.request.kind))
        fallback = entry.request.fallback if reason and reason not in _WISHES else ""
        instead = msgspec.structs.replace(anew(entry.request), url=fallback, fallback="") if fallback else None
        return Ruling(effects, record, is_final=True, instead=instead)

    def _record(self, entry: Entry, reason: str, record: ImageRecord | None, worker: str) -> ImageRecord:
        """The manifest row: what the worker measured, under what the frontier itself knows of the request."""
        request = entry.request
        if record is None or (not reason and not record.sha256):
            record, reason = record or describe(request), reason or "internal"
        first = self._ledger.first_copy(record.sha256, record.store, record.path) if not reason else None
        store, path = first or (record.store, record.path)
        if not reason and store not in self._tally.stores:
            self._ledger.add_store(store, worker)
        return msgspec.structs.replace(
            record,
            **dict(zip(FOUND, _found(request), strict=True)),
            url=request.url,
            page_url=request.referrer,
            status="failed" if reason else "duplicate" if first else "success",
            reason=reason,
            store=store,
            path=path,
            attempts=entry.attempts + bool(worker),
            worker=worker,
            fetched_at=record.fetched_at or self._wall(),
        )

    def _place(self, request: Request) -> Origin:
        return self._schedule.origin(place_of(request))
