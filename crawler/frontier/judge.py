"""What one outcome means: its verdict, what it writes to the ledger, and what memory does about it afterwards."""

import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import msgspec

from crawler.frontier import politeness
from crawler.frontier.budget import Budget
from crawler.frontier.conduct import Conduct, is_news, is_own_wait, learn
from crawler.frontier.history import History, is_still_dropped, kept, repeated
from crawler.frontier.hosts import Host
from crawler.frontier.identity import sound_place
from crawler.frontier.ledger import WAITING, Entry
from crawler.frontier.politeness import Policy
from crawler.frontier.schedule import Schedule
from crawler.frontier.tally import Tally
from crawler.known import PIN_MISMATCH, quarantined
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

#: Answer to a request for a picture that is known: it is still the same (RFC 9110 §15.4.5).
_NOT_MODIFIED = 304

_found = attrgetter(*FOUND)
_HTTP_REASON = re.compile(r"http-[1-9][0-9][0-9]")

#: Something to be done in memory once the ledger has committed.
Effect = Callable[[], None]


@dataclass(slots=True)
class Ruling:
    """What came of applying an outcome; `Judge.conclude` has memory know it after the commit."""

    entry: Entry
    #: What memory has to do for a request that goes on.
    effect: Effect | None = None
    #: Whether the request has its final state, why it failed, and what is asked for instead.
    is_final: bool = False
    reason: str = ""
    instead: Request | None = None
    #: The manifest row that was written.
    record: ImageRecord | None = None


def verdict_on(entry: Entry | None, outcome: Outcome, *, is_held: bool, is_judged: bool) -> VerdictState:
    """The first verdict wins; from a lease that was lost, only a final one is of use.

    And not of robots.txt, which is asked for again and again: it may be the answer to an earlier question.
    """
    if entry is None:
        return "stale"
    if is_judged or entry.state != WAITING:
        return "duplicate"
    is_of_use = outcome.status == "done" and entry.request.kind != "robots"
    return "accepted" if is_held or is_of_use else "stale"


def told(state: VerdictState, record: ImageRecord, *, is_spare: bool) -> Verdict:
    """The answer to the worker whose outcome led to ``record``."""
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
        ledger: History,
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
        #: Store and SHA-256 of files that workers were told to put in quarantine.
        self._set_aside: set[tuple[str, str]] = set()

    def queue(self, entry: Entry, *, returned: bool = False) -> None:
        """Queue a waiting request in memory; a returned one goes first."""
        request = entry.request
        self._schedule.add(
            self._schedule.origin(entry.place), request.kind, entry.row, request.priority, returned=returned
        )

    def apply(self, entry: Entry, outcome: Outcome, worker: str, now: float) -> Ruling:
        """Write one outcome to the ledger; `learn` comes before it."""
        if outcome.status == "done" and self._leans_on_quarantine(outcome):
            return self._retry(entry, Outcome(status="retry", reason="lost-file"), worker, now)
        if outcome.status == "done":
            return self.finish(entry, outcome.reason, outcome, worker, now)
        if outcome.status == "released":
            # What found nobody goes behind the others: they may be at another port, or look up another name.
            return Ruling(entry, partial(self.queue, entry, returned=outcome.down in ("", "disk")))
        if outcome.status == "moved":
            return self._move(entry, outcome, worker, now)
        return self._retry(entry, outcome, worker, now)

    def learn(self, judged: dict[int, tuple[Entry, Outcome]], now: float) -> dict[Host, Conduct]:
        """What outcomes, by row, teach about their hosts.

        A request that found its host down is not to blame: in ``judged`` its outcome becomes ``released``. One that
        asks for a wait of its own finds its host busy, and is itself not tried again before.
        """
        known: dict[Host, Conduct] = {}
        for row, (entry, outcome) in judged.items():
            host = self._schedule.origin(entry.place).host
            before = known.get(host, host.conduct)
            if entry.request.kind != "robots" and is_own_wait(before, outcome, row, self._policy.patience):
                wait = outcome.host_wait
                outcome = msgspec.structs.replace(outcome, overloaded=True, host_wait=None, retry_in=wait)
                judged[row] = entry, outcome
            known[host] = learn(before, outcome, row, now, self._dice())
            if outcome.down == "host" and outcome.status == "retry" and known[host].outages:
                judged[row] = entry, Outcome(status="released", token=outcome.token, down="host")
        return known

    def keep(self, known: dict[Host, Conduct], now: float) -> list[Effect]:
        """Write what was learned of hosts."""
        effects: list[Effect] = []
        for host, conduct in known.items():
            if is_news(host.kept, conduct):
                until = conduct.blocked_until + self._wall() - now
                self._ledger.save_conduct(host.key, msgspec.structs.replace(conduct, blocked_until=until, missed=()))
            effects.append(partial(self._change, host, conduct, now))
        return effects

    @staticmethod
    def _change(host: Host, conduct: Conduct, now: float) -> None:
        if conduct.outages > host.conduct.outages:
            seconds = conduct.blocked_until - now
            _log.warning("%s can't be reached: what waits for it waits for %.0f s more", host.key, seconds)
        if is_news(host.kept, conduct):
            host.kept = conduct
        host.conduct = conduct

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
        return [each for each in found if sound_place(each) and host_key(each.url).removeprefix("www.") == host]

    def _retry(self, entry: Entry, outcome: Outcome, worker: str, now: float) -> Ruling:
        """Once more, after a while; or the end, where that was the last attempt."""
        attempts = entry.attempts + 1
        if attempts >= politeness.attempts_allowed(self._policy, entry.request.kind, outcome.reason):
            return self.finish(entry, outcome.reason or "internal", outcome, worker, now)
        delay = outcome.retry_in
        if delay is None:  # a busy host is left alone as a whole; then the request needs no wait of its own
            delay = 0.0 if outcome.overloaded else politeness.retry_delay(attempts, self._dice())
        delay = min(delay, politeness.MAX_WAIT)
        reason = "rate-limited" if outcome.overloaded and delay > self._policy.patience else outcome.reason
        self._ledger.requeue(entry.row, attempts, not_before=self._wall() + delay, reason=reason)
        place, request = self._schedule.origin(entry.place), entry.request
        defer = partial(self._schedule.defer, place, request.kind, entry.row, request.priority, now + delay)
        return Ruling(entry, defer)

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
        if sound_place(request) is None:
            return self.finish(entry, "bad-url", outcome, worker, now)
        self._ledger.requeue(entry.row, entry.attempts)
        return Ruling(entry, partial(self.queue, self._ledger.redirect(entry, request), returned=True))

    def finish(self, entry: Entry, reason: str, outcome: Outcome, worker: str, now: float) -> Ruling:
        """The final state of a request, in the ledger now and in memory after the commit.

        With no worker's name it is the frontier's own decision, and no attempt.
        """
        request, ruling, number = entry.request, Ruling(entry, is_final=True), 0
        if reason and reason not in REASONS and not _HTTP_REASON.fullmatch(reason):
            reason = "internal"
        if request.kind == "image":
            number = self._write_record(ruling, reason, outcome, worker)
            reason = ruling.reason
        elif request.kind == "robots":
            rules, place = outcome.robots or _UNREACHABLE, self._schedule.origin(origin(request.url))
            lifetime = politeness.rules_lifetime(rules.lifetime, self._schedule.gap(place.host))
            self._ledger.save_rules(place.name, rules, self._wall() + lifetime)
            ruling.effect = partial(self._schedule.set_rules, place, rules, now + lifetime)
        elif outcome.seen is not None and not reason:
            self._ledger.saw(entry.row, outcome.seen)
        self._ledger.settle(entry.row, reason, number)
        if reason:
            ruling.reason = reason
            _log.info("action=fail kind=%s url=%s reason=%s", request.kind, request.url, reason)
        if request.fallback and reason and reason not in _WISHES:
            ruling.instead = msgspec.structs.replace(anew(request), url=request.fallback, fallback="")
        return ruling

    def conclude(self, rulings: Collection[Ruling]) -> None:
        """Have memory know what was written."""
        for ruling in rulings:
            if ruling.effect is not None:
                ruling.effect()
        final = [ruling for ruling in rulings if ruling.is_final]
        self._tally.settle([(ruling.entry.request, ruling.reason, ruling.record) for ruling in final])
        for ruling in final if self._budget.is_by_host else ():
            self._budget.settle(self._schedule.origin(ruling.entry.place).host, ruling.entry.request.kind)

    def _write_record(self, ruling: Ruling, reason: str, outcome: Outcome, worker: str) -> int:
        """The manifest row of an image, in place of the one that it had; returns its number."""
        ledger = self._ledger
        entry, before = ledger.before(ruling.entry)
        record, reason = self._measured(entry.request, reason, outcome.record, before)
        is_same = not reason and before is not None and (before.status, before.sha256) == ("success", record.sha256)
        first: tuple[str, str] | None = None
        if before is not None and is_same:
            ledger.renew(before)
            phash = record.phash or before.phash
            record = msgspec.structs.replace(record, store=before.store, path=before.path, phash=phash)
        elif before is not None and not reason and is_still_dropped(record, before):
            first = before.store, before.path
        else:
            promoted = ledger.retire(before) if before is not None else None
            if promoted is not None and not promoted.is_waiting:
                ruling.effect = partial(self._tally.promote, promoted.record)
            first = ledger.first_copy(record.sha256) if not reason else None
        record = self._row(entry, reason, record, first, worker)
        if reason == PIN_MISMATCH and outcome.record is not None:
            self._set_aside.add((outcome.record.store, outcome.record.sha256))
        if not reason and record.store not in self._tally.stores:
            ledger.add_store(record.store, worker)
        if before is not None and is_still_dropped(record, before):
            record = msgspec.structs.replace(record, near=before.near)
        if change := ledger.change(before, record):
            record = msgspec.structs.replace(record, change=change)
        if before is not None and change in ("changed", "gone"):
            _log.info("%s: %s (the file before stays: %s)", change, record.url, before.path)
        ruling.record, ruling.reason = record, reason
        return ledger.record(entry, record)

    def _measured(
        self, request: Request, reason: str, record: ImageRecord | None, before: ImageRecord | None
    ) -> tuple[ImageRecord, str]:
        """What there is to be said of the bytes, and why they are none that count."""
        if record is None:
            record, reason = describe(request), reason or "internal"
        if not reason and record.http_status == _NOT_MODIFIED:
            record = repeated(record, before) if before is not None else kept(record, None)
            reason = "" if record.sha256 else f"http-{_NOT_MODIFIED}"
        if not reason and not record.sha256:
            reason = "internal"
        is_wrong = not reason and not self._ledger.permits(request.url, record.sha256)
        if is_wrong and is_still_dropped(record, before):  # the file is another picture's
            return kept(record, before), PIN_MISMATCH
        if is_wrong:
            return msgspec.structs.replace(record, path=quarantined(record.path)), PIN_MISMATCH
        if reason:
            record = kept(record, before)
        return record, reason

    def _leans_on_quarantine(self, outcome: Outcome) -> bool:
        """Whether a file was found to be there already that a worker was told to put in quarantine meanwhile."""
        record = outcome.record
        if record is None or outcome.reason or outcome.stored or not self._set_aside:
            return False
        is_moved = (record.store, record.sha256) in self._set_aside and record.http_status != _NOT_MODIFIED
        return is_moved and self._ledger.first_copy(record.sha256) is None

    def _row(
        self, entry: Entry, reason: str, record: ImageRecord, first: tuple[str, str] | None, worker: str
    ) -> ImageRecord:
        """The row: what the worker measured, under what the frontier itself knows of the request."""
        request = entry.request
        store, path = first or (record.store, record.path)
        found = _found(request)
        own_words = {} if _found(record) == found else dict(zip(FOUND, found, strict=True))
        return msgspec.structs.replace(
            record,
            **own_words,
            url=request.url,
            page_url=request.referrer,
            status="failed" if reason else "duplicate" if first else "success",
            reason=reason,
            store=store,
            path=path,
            near="",
            attempts=entry.attempts + bool(worker),
            worker=worker,
            fetched_at=record.fetched_at or self._wall(),
        )
