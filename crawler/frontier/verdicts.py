"""Applies one outcome: its verdict, its writes to the ledger, and the changes in memory after the commit."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter

import msgspec

from crawler.frontier import politeness
from crawler.frontier.budget import Budget
from crawler.frontier.counters import Counters
from crawler.frontier.host_health import HostHealth, is_news, is_own_wait, learn
from crawler.frontier.host_queues import Host
from crawler.frontier.host_scheduler import HostScheduler
from crawler.frontier.ledger.history import is_still_dropped, repeated, with_previous_file
from crawler.frontier.ledger.ledger import Ledger
from crawler.frontier.ledger.request_keys import valid_origin
from crawler.frontier.ledger.rows import WAITING, Entry, encode
from crawler.frontier.politeness import Policy
from crawler.model import (
    FOUND,
    PIN_MISMATCH,
    REASONS,
    ImageRecord,
    Kind,
    Outcome,
    Request,
    RobotsRules,
    Verdict,
    VerdictState,
    describe,
    quarantined,
)
from crawler.urls import host_key, origin

_log = logging.getLogger(__name__)

#: Most redirects of one request, regardless of the worker's report.
_MAX_HOPS = 20
#: Reasons for which the fallback of a picture is not tried: it would be unwanted, too.
_UNWANTED = frozenset({"robots", "opted-out", "filtered", "too-small"})
#: Reasons for which a seed that was given without a scheme is tried by http.
_UNREACHED = frozenset({"connect", "timeout", "too-slow", "tls", "robots-unreachable", "host-down"})
#: Sitemaps taken from one robots.txt; an index among them may name more.
_MAX_SITEMAPS = 100
#: Reasons of a page that was received: its links are followed, even if its pictures are not wanted.
_RECEIVED = ("", "opted-out")
#: Rules of an origin whose robots.txt is unreachable, for an hour.
_UNREACHABLE = RobotsRules(reachable=False, lifetime=3_600.0)

#: Response to a conditional request for an unchanged picture (RFC 9110 §15.4.5).
_NOT_MODIFIED = 304

_description_of = attrgetter(*FOUND)
_HTTP_REASON = re.compile(r"http-[1-9][0-9][0-9]")


@dataclass(slots=True)
class Ruling:
    """Result of applying an outcome; `OutcomeApplier.conclude` updates memory from it after the commit."""

    entry: Entry
    #: The change in memory.
    effect: Callable[[], None] | None = None
    #: Whether the request has its final state, why it failed, and the request that is put instead.
    is_final: bool = False
    reason: str = ""
    instead: Request | None = None
    #: The manifest row that was written.
    record: ImageRecord | None = None


def _queue_of(entry: Entry) -> tuple[str, Kind, int]:
    """Return origin, kind and priority of a request, which choose its place in the queues."""
    return entry.origin, entry.request.kind, entry.request.priority


def verdict_on(entry: Entry | None, outcome: Outcome, *, is_held: bool, is_settled: bool) -> VerdictState:
    """Return the state of an outcome's verdict: the first one wins, and from a lost lease only a final one counts.

    An outcome of a robots.txt from a lost lease never counts: the file is requested repeatedly, so the outcome may
    belong to an earlier request.
    """
    if entry is None:
        return "stale"
    if is_settled or entry.state != WAITING:
        return "duplicate"
    is_usable = outcome.status == "done" and entry.request.kind != "robots"
    return "accepted" if is_held or is_usable else "stale"


def verdict_for(state: VerdictState, record: ImageRecord, *, is_spare: bool) -> Verdict:
    """Return the verdict for the worker whose outcome led to ``record``."""
    is_elsewhere = record.status == "duplicate" or record.change == "unchanged"
    store, path = (record.store, record.path) if is_elsewhere else ("", "")
    return Verdict(
        state=state,
        status=record.status,
        reason=record.reason,
        store=store,
        path=path,
        attempts=record.attempts,
        is_spare=is_spare,
        change=record.change,
    )


def without_redirects(request: Request) -> Request:
    """Return the request as it was before any redirect."""
    return msgspec.structs.replace(request, target="", hops=0, rules=None)


def _sitemaps(origin_name: str, rules: RobotsRules, seed: Request) -> list[Request]:
    """Return the requests for the sitemaps that the rules of an origin name and that lie on its host."""
    robots_url, host = f"{origin_name}/robots.txt", host_key(origin_name).removeprefix("www.")
    requests = (
        Request(url=url, kind="part", nesting=1, seed=seed.seed, referrer=robots_url, source="sitemap")
        for url in rules.sitemaps[:_MAX_SITEMAPS]
    )
    return [r for r in requests if valid_origin(r) and host_key(r.url).removeprefix("www.") == host]


def _fallback_of(request: Request) -> Request | None:
    """Return the http request for a seed without a scheme that was only tried by https; None for any other request.

    Any worker may report a page with a fallback, so the fallback is checked like the target of a redirect.
    """
    if request.kind != "page" or not request.fallback or request.hops:
        return None
    by_http = msgspec.structs.replace(request, target=request.fallback, hops=1)
    return by_http if valid_origin(by_http) is not None else None


class OutcomeApplier:
    """Applier of outcomes. Every method that writes must be called within a transaction of the ledger.

    Args:
        wake: wakes the calls that wait for work.
        wall: seconds since the epoch.
        dice: random numbers in [0, 1).
    """

    def __init__(
        self,
        policy: Policy,
        ledger: Ledger,
        scheduler: HostScheduler,
        counters: Counters,
        budget: Budget,
        *,
        wake: Callable[[], None],
        wall: Callable[[], float],
        dice: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._ledger = ledger
        self._scheduler = scheduler
        self._counters = counters
        self._budget = budget
        self._wake, self._wall, self._dice = wake, wall, dice
        #: Store and SHA-256 of files that a verdict has sent to quarantine.
        self._quarantined: set[tuple[str, str]] = set()
        #: Origins whose sitemaps were put because a seed page was received.
        self._with_sitemaps: set[str] = set()

    def enlist(self, entries: Collection[Entry]) -> None:
        """Count and queue requests that are new or wait again."""
        groups = Counter((entry.request.kind, entry.request.is_seed) for entry in entries)
        for (kind, is_seed), number in groups.items():
            self._counters.add(kind, is_seed, number)
        for (name, kind, priority), alike in groupby(entries, _queue_of):
            self._scheduler.add(self._scheduler.hosts.origin(name), kind, [entry.row for entry in alike], priority)
        self._wake()

    def queue(self, entry: Entry, *, returned: bool = False) -> None:
        """Queue a waiting request in memory; a returned one is served first."""
        request = entry.request
        self._scheduler.add(
            self._scheduler.hosts.origin(entry.origin), request.kind, (entry.row,), request.priority, returned=returned
        )

    def apply(self, entry: Entry, outcome: Outcome, worker: str, now: float) -> Ruling:
        """Write one outcome to the ledger; the caller calls `learn` before."""
        if outcome.status == "done" and self._refers_to_quarantined(outcome):
            return self._retry(entry, Outcome(status="retry", reason="lost-file"), worker, now)
        if outcome.status == "done":
            return self.finish(entry, outcome.reason, outcome, worker, now)
        if outcome.status == "released":
            # Without a connection, it is queued behind the others: they may need another port or another host name.
            return Ruling(entry, partial(self.queue, entry, returned=outcome.down in ("", "disk")))
        if outcome.status == "moved":
            return self._move(entry, outcome, worker, now)
        return self._retry(entry, outcome, worker, now)

    def learn(self, accepted: dict[int, tuple[Entry, Outcome]], now: float) -> dict[Host, HostHealth]:
        """Return the health of the hosts of these outcomes (row → entry and outcome); replace some of the outcomes.

        If its host is down, the outcome of a retried request becomes ``released``. If the server's wait concerns the
        request alone, the host counts as overloaded and only the request is retried after that wait.
        """
        learned: dict[Host, HostHealth] = {}
        for row, (entry, outcome) in accepted.items():
            host = self._scheduler.hosts.origin(entry.origin).host
            before = learned.get(host, host.health)
            if entry.request.kind != "robots" and is_own_wait(before, outcome, row, self._policy.patience):
                wait = outcome.host_wait
                outcome = msgspec.structs.replace(outcome, overloaded=True, host_wait=None, retry_in=wait)
                accepted[row] = entry, outcome
            learned[host] = learn(before, outcome, row, now, self._dice())
            if outcome.down == "host" and outcome.status == "retry" and learned[host].outages:
                accepted[row] = entry, Outcome(status="released", token=outcome.token, down="host")
        return learned

    def save_health(self, learned: dict[Host, HostHealth], now: float) -> None:
        """Write the health of hosts to the ledger."""
        for host, health in learned.items():
            if is_news(host.saved_health, health):
                until = health.blocked_until + self._wall() - now
                saved = msgspec.structs.replace(health, blocked_until=until, missed=())
                self._ledger.origins.save_health(host.key, encode(saved))

    def set_health(self, learned: dict[Host, HostHealth], now: float) -> None:
        """Set the health of hosts in memory, after the commit."""
        for host, health in learned.items():
            if health.outages > host.health.outages:
                seconds = health.blocked_until - now
                _log.warning("the host %s is down: requests to it wait for %.0f s", host.key, seconds)
            if is_news(host.saved_health, health):
                host.saved_health = health
            self._scheduler.set_health(host, health)

    def sitemaps(self, entry: Entry, outcome: Outcome) -> list[Request]:
        """Return sitemap requests (sitemaps.org) if the outcome is a received seed, or the robots.txt of its site.

        Sitemaps of a site are read only after one of its seeds was received: if none is, the site's address is wrong.
        """
        request, rules = entry.request, outcome.robots
        if not self._policy.sitemaps:
            return []
        if request.kind == "robots" and rules is not None and rules.sitemaps:
            seed = self._ledger.requests.seed_at(origin(request.url))
            return _sitemaps(origin(request.url), rules, seed) if seed is not None else []
        if request.is_seed and outcome.status == "done" and outcome.reason in _RECEIVED:
            origins = {origin(request.url), entry.origin} - self._with_sitemaps
            rules_of = self._ledger.origins.rules_of(origins)
            return [sitemap for name, rules in rules_of.items() for sitemap in _sitemaps(name, rules, request)]
        return []

    def _retry(self, entry: Entry, outcome: Outcome, worker: str, now: float) -> Ruling:
        """Queue a request again after a delay, or fail it if that was its last attempt."""
        attempts = entry.attempts + 1
        if attempts >= politeness.attempts_allowed(self._policy, entry.request.kind, outcome.reason):
            return self.finish(entry, outcome.reason or "internal", outcome, worker, now)
        delay = outcome.retry_in
        if delay is None:  # an overloaded host is paused as a whole, so the request needs no delay of its own
            delay = 0.0 if outcome.overloaded else politeness.retry_delay(attempts, self._dice())
        delay = min(delay, politeness.MAX_WAIT)
        reason = "rate-limited" if outcome.overloaded and delay > self._policy.patience else outcome.reason
        self._ledger.requests.requeue(entry.row, attempts, not_before=self._wall() + delay, reason=reason)
        request_origin, request = self._scheduler.hosts.origin(entry.origin), entry.request
        defer = partial(self._scheduler.defer, request_origin, request.kind, entry.row, request.priority, now + delay)
        return Ruling(entry, defer)

    def _move(self, entry: Entry, outcome: Outcome, worker: str, now: float) -> Ruling:
        """Queue a request with its new target or offset; everything else that the worker reports of it is ignored."""
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
        if valid_origin(request) is None:
            return self.finish(entry, "bad-url", outcome, worker, now)
        self._ledger.requests.requeue(entry.row, entry.attempts)
        return Ruling(entry, partial(self.queue, self._ledger.requests.redirect(entry, request), returned=True))

    def finish(self, entry: Entry, reason: str, outcome: Outcome, worker: str, now: float) -> Ruling:
        """Write the final state of a request to the ledger; the ruling updates memory after the commit.

        With an empty worker name it is the frontier's own decision and counts as no attempt.
        """
        if reason in _UNREACHED and (by_http := _fallback_of(entry.request)) is not None:
            return self._fall_back(entry, by_http)
        request, ruling, record_number = entry.request, Ruling(entry, is_final=True), 0
        if reason and reason not in REASONS and not _HTTP_REASON.fullmatch(reason):
            reason = "internal"
        if request.kind == "image":
            record_number = self._write_record(ruling, reason, outcome, worker)
            reason = ruling.reason
        elif request.kind == "robots":
            rules, robots_origin = outcome.robots or _UNREACHABLE, self._scheduler.hosts.origin(origin(request.url))
            lifetime = politeness.rules_lifetime(rules.lifetime, self._scheduler.gap(robots_origin.host))
            self._ledger.origins.save_rules(robots_origin.name, rules, self._wall() + lifetime)
            ruling.effect = partial(self._scheduler.set_rules, robots_origin, rules, now + lifetime)
        elif outcome.seen is not None and not reason:
            self._ledger.history.save_visit(entry.row, outcome.seen)
        self._ledger.requests.settle(entry.row, reason, record_number)
        if reason:
            ruling.reason = reason
            _log.info("action=fail kind=%s url=%s reason=%s", request.kind, request.url, reason)
        if request.kind == "image" and request.fallback and reason and reason not in _UNWANTED:
            ruling.instead = msgspec.structs.replace(without_redirects(request), url=request.fallback, fallback="")
        return ruling

    def _fall_back(self, entry: Entry, request: Request) -> Ruling:
        """Queue a seed without a scheme that is unreachable by https again by http, as if it had been redirected."""
        self._ledger.requests.requeue(entry.row, 0)
        _log.info("no response by https from %s: trying %s", entry.request.url, request.target)
        return Ruling(entry, partial(self.queue, self._ledger.requests.redirect(entry, request), returned=True))

    def conclude(self, rulings: Collection[Ruling]) -> None:
        """Update memory after the commit."""
        for ruling in rulings:
            if ruling.effect is not None:
                ruling.effect()
        final = [ruling for ruling in rulings if ruling.is_final]
        for ruling in final:
            if ruling.entry.request.is_seed and ruling.reason in _RECEIVED:
                self._with_sitemaps |= {origin(ruling.entry.request.url), ruling.entry.origin}
        self._counters.settle([(ruling.entry.request, ruling.reason, ruling.record) for ruling in final])
        self._budget.settle((ruling.entry.origin, ruling.entry.request.kind, 1) for ruling in final)

    def _write_record(self, ruling: Ruling, reason: str, outcome: Outcome, worker: str) -> int:
        """Write the manifest row of an image in place of its previous one; return its number."""
        history, records = self._ledger.history, self._ledger.records
        entry, before = history.before(ruling.entry)
        record, reason = self._checked(entry.request, reason, outcome.record, before)
        is_same = not reason and before is not None and (before.status, before.sha256) == ("success", record.sha256)
        first: tuple[str, str] | None = None
        if before is not None and is_same:
            records.forget_first(before.sha256)
            phash = record.phash or before.phash
            record = msgspec.structs.replace(record, store=before.store, path=before.path, phash=phash)
        elif before is not None and not reason and is_still_dropped(record, before):
            first = before.store, before.path
        else:
            promoted = history.retire(before) if before is not None else None
            if promoted is not None:
                ruling.effect = partial(self._counters.promote, promoted)
            first = records.first_copy(record.sha256) if not reason else None
        record = self._row(entry, reason, record, first, worker)
        if reason == PIN_MISMATCH and outcome.record is not None:
            self._quarantined.add((outcome.record.store, outcome.record.sha256))
        if not reason and record.store not in self._counters.stores:
            records.add_store(record.store, worker)
        if before is not None and is_still_dropped(record, before):
            record = msgspec.structs.replace(record, near=before.near)
        if change := history.change(before, record):
            record = msgspec.structs.replace(record, change=change)
        if before is not None and change in ("changed", "gone"):
            _log.info("%s: %s (the previous file is kept: %s)", change, record.url, before.path)
        ruling.record, ruling.reason = record, reason
        return records.write(entry.row, record, replaced=entry.record)

    def _checked(
        self, request: Request, reason: str, record: ImageRecord | None, before: ImageRecord | None
    ) -> tuple[ImageRecord, str]:
        """Return the worker's record, corrected from the previous one, and why it failed ("" on success)."""
        if record is None:
            record, reason = describe(request), reason or "internal"
        if not reason and record.http_status == _NOT_MODIFIED:
            record = repeated(record, before) if before is not None else with_previous_file(record, None)
            reason = "" if record.sha256 else f"http-{_NOT_MODIFIED}"
        if not reason and not record.sha256:
            reason = "internal"
        is_wrong = not reason and not self._ledger.history.permits(request.url, record.sha256)
        if is_wrong and is_still_dropped(record, before):  # the file belongs to another picture
            return with_previous_file(record, before), PIN_MISMATCH
        if is_wrong:
            return msgspec.structs.replace(record, path=quarantined(record.path)), PIN_MISMATCH
        if reason:
            record = with_previous_file(record, before)
        return record, reason

    def _refers_to_quarantined(self, outcome: Outcome) -> bool:
        """Return whether the outcome relies on an existing file that was sent to quarantine meanwhile."""
        record = outcome.record
        if record is None or outcome.reason or outcome.stored or not self._quarantined:
            return False
        is_moved = (record.store, record.sha256) in self._quarantined and record.http_status != _NOT_MODIFIED
        return is_moved and self._ledger.records.first_copy(record.sha256) is None

    def _row(
        self, entry: Entry, reason: str, record: ImageRecord, first: tuple[str, str] | None, worker: str
    ) -> ImageRecord:
        """Return the manifest row: the worker's measurements, with all other fields from the frontier's own request."""
        request = entry.request
        store, path = first or (record.store, record.path)
        description = _description_of(request)
        changes = {} if _description_of(record) == description else dict(zip(FOUND, description, strict=True))
        return msgspec.structs.replace(
            record,
            **changes,
            url=request.url,
            page_url=request.referrer,
            status="failed" if reason else "duplicate" if first else "success",
            reason=reason,
            store=store,
            path=path,
            near="",
            other_rows=(),
            attempts=entry.attempts + bool(worker),
            worker=worker,
            fetched_at=record.fetched_at or self._wall(),
        )
