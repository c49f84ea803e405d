"""The frontier on SQLite: the ledger on disk, the schedule in memory, the leases between them.

Works on a file or, with no path, in memory; the second is what tests and small scripts use, not a different
implementation.
"""

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from crawler.errors import AccessError
from crawler.frontier.base import PROTOCOL
from crawler.frontier.journal import Journal
from crawler.frontier.judge import Effect, Judge, first_verdict
from crawler.frontier.leases import Leases, OpenTurn, soonest_loss
from crawler.frontier.ledger import DONE, FAILED, WAITING, Entry, Ledger
from crawler.frontier.politeness import Policy
from crawler.frontier.schedule import Schedule, Share
from crawler.frontier.tally import Tally
from crawler.model import (
    FrontierStats,
    Grant,
    GrantState,
    ImageRecord,
    Kind,
    Lease,
    Outcome,
    Request,
    Turn,
    Verdict,
    WorkerStats,
)
from crawler.urls import origin

_log = logging.getLogger(__name__)

#: A waiting `lease` looks again at least this often, seconds.
_LONGEST_NAP = 1.0
#: Kinds in the order in which one call for work is served.
_SERVED: tuple[Kind, ...] = ("robots", "list", "page", "image")


class SqliteFrontier:
    """See `crawler.frontier.base.Frontier` for the promises.

    Args:
        path: the database file, with ``leases.log`` beside it; None: in memory.
        policy: pace and bounds.
        settings: what `hello` tells every worker.
        clock: monotonic seconds.
        wall: seconds since the epoch.
        dice: numbers in [0, 1).
    """

    def __init__(
        self,
        path: Path | None = None,
        policy: Policy | None = None,
        *,
        settings: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy or Policy()
        self._settings = settings or {}
        self._clock, self._wall = clock, wall
        self._changed = threading.Condition(threading.RLock())
        self._ledger = Ledger(path)
        self._tally = Tally(self._ledger)
        self._schedule = Schedule(self._policy)
        journal = Journal(path.with_name("leases.log") if path else None)
        self._leases = Leases(journal, self._ledger.secret)
        self._judge = Judge(self._policy, self._ledger, self._schedule, self._tally, wall=wall, dice=dice)
        #: Worker → clock time of its last call, and requests it has settled.
        self._seen: dict[str, float] = {}
        self._settled: dict[str, int] = {}
        #: Workers whose last call for work was answered with the end.
        self._told: set[str] = set()
        self._draining = False
        self._restore(journal)

    # the eight methods --------------------------------------------------------------------------------------------

    def hello(self, worker: str, protocol: int) -> dict[str, Any]:
        if protocol != PROTOCOL:
            side = "worker" if protocol < PROTOCOL else "master"
            raise AccessError(f"{worker} speaks protocol {protocol}, the master {PROTOCOL}: upgrade the {side}")
        with self._changed:
            now = self._note(worker)
            for turn in self._leases.of(worker):
                self._lose(turn, now)
            self._changed.notify_all()
        return dict(self._settings)

    def put(self, requests: Sequence[Request]) -> int:
        with self._changed:
            with self._ledger.transaction():
                entries = self._ledger.add(requests)
            self._enlist(entries)
        return len(entries)

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        with self._changed:
            deadline = self._clock() + wait
            self._told.discard(worker)
            while True:
                now = self._note(worker)
                self._expire(now)
                turns = [] if self._draining else self._grant(worker, kinds, limit, seconds)
                state = "work" if turns else self._state(now, at_end=self._fail_parked)
                next_at = self._next_event(kinds, now)
                if state in ("draining", "drained"):
                    self._told.add(worker)
                if state != "wait" or now >= deadline:
                    return Grant(turns=tuple(turns), state=state, retry_in=max(0.0, next_at - now))
                self._changed.wait(min(deadline - now, max(0.001, next_at - now)))

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> tuple[str, ...]:
        with self._changed:
            now = self._note(worker)
            self._expire(now)
            lost = []
            for token in tokens:
                _, turn = self._leases.check(worker, token)
                if turn is None:
                    lost.append(token)
                else:
                    turn.until, turn.seconds = now + seconds, seconds
        return tuple(lost)

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        with self._changed:
            now = self._note(worker)
            verdicts = self._settle(worker, outcomes, now) if outcomes else ()
            for turn in [self._leases.turns.get(name) for name in ended_turns]:
                if turn is not None and turn.worker == worker:
                    self._end(turn, now)
            self._changed.notify_all()
        return verdicts

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        with self._changed:
            return self._ledger.records(after, limit)

    def stats(self) -> FrontierStats:
        with self._changed:
            now = self._clock()
            tally, leased = self._tally, self._leases.leased
            waiting_hosts = [host for host in self._schedule.hosts.values() if host.key and host.has_waiting]
            alone = waiting_hosts[0] if len(waiting_hosts) == 1 else None
            return FrontierStats(
                state=self._state(now),
                discovered=tally.discovered("image"),
                waiting=tally.states["image", WAITING] - leased("image"),
                leased=leased("image"),
                success=tally.saved(),
                duplicate=tally.duplicates,
                failed=tally.states["image", FAILED],
                pages_waiting=tally.states["page", WAITING] - leased("page"),
                pages_leased=leased("page"),
                pages_done=tally.states["page", DONE],
                pages_failed=tally.states["page", FAILED],
                seeds=tally.seeds.total(),
                seeds_failed=tally.seeds[FAILED],
                lists_open=tally.states["list", WAITING],
                reasons=tally.reasons("image"),
                page_reasons=tally.reasons("page"),
                robots_reasons=tally.reasons("robots"),
                bytes=tally.bytes,
                hosts=sum(1 for key in self._schedule.hosts if key),
                hosts_waiting=len(waiting_hosts),
                limiting_host=alone.key if alone else "",
                limiting_gap=self._schedule.gap(alone) if alone else 0.0,
                bad_lines=tally.bad_lines,
                workers=tuple(self._worker_stats(now)),
            )

    def close(self) -> None:
        with self._changed:
            self._draining = True
            self._leases.close()
            self._ledger.close()
            self._changed.notify_all()

    # for the master only ------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Hand out nothing more; workers are told to finish what they hold."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    # leasing ------------------------------------------------------------------------------------------------------

    def _grant(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float) -> list[Turn]:
        now = self._clock()
        turns: list[Turn] = []
        for kind in _SERVED:
            room = min(limit, self._budget(kind)) if kind in kinds else 0
            for share in self._schedule.take(kind, room, now):
                opened = self._lend(worker, share, seconds, now)
                turns += opened
                limit -= sum(len(turn.leases) for turn in opened)
        if self._schedule.unruled:
            self._want_rules()
        return turns

    def _lend(self, worker: str, share: Share, seconds: float, now: float) -> list[Turn]:
        """The share as a turn of the worker; none where all of it turned out to be settled already."""
        found = self._ledger.get(share.rows)
        entries = {row: found[row] for row in share.rows if self._is_free(found.get(row))}
        suspect = next((row for row in entries if row in self._leases.losses), None)
        if suspect is not None:
            # What was lost before is tried alone, so that its neighbours are not lost with it again.
            for row in reversed([row for row in entries if row != suspect]):
                self._judge.queue(entries.pop(row), returned=True)
        if not entries:
            self._schedule.cancel(share.host)
            return []
        turn = self._leases.open(worker, share.host, entries, seconds=seconds, now=now)
        leases = tuple(
            Lease(
                request=entry.request,
                token=self._leases.token(row, turn),
                deliveries=self._leases.losses.get(row, 0) + 1,
            )
            for row, entry in entries.items()
        )
        rules = self._rules(leases) if share.kind in ("page", "image") else {}
        return [Turn(id=turn.id, host=share.host.key, gap=share.gap, robots=rules, leases=leases)]

    def _is_free(self, entry: Entry | None) -> bool:
        return entry is not None and entry.state == WAITING and entry.row not in self._leases.holder

    def _rules(self, leases: Iterable[Lease]) -> dict[str, str]:
        """Origin → robots text, for the origins of these leases that have one."""
        if not self._policy.robots:
            return {}
        names = {origin(lease.request.location) for lease in leases}
        known = ((name, self._schedule.origin(name).rules) for name in names)
        return {name: rules.text for name, rules in known if rules and rules.text}

    def _budget(self, kind: Kind) -> int:
        """Requests of a kind that may still be handed out; at most 0: none."""
        images, pages = self._policy.max_images, self._policy.max_pages
        room = 2**31
        if images is not None and kind in ("image", "page"):
            left = images - self._tally.saved()
            room = left - self._leases.leased("image") if kind == "image" or left <= 0 else room
        if pages is not None and kind == "page":
            visited = self._tally.states["page", DONE] + self._tally.states["page", FAILED]
            room = min(room, pages - visited - self._leases.leased("page"))
        return room

    def _want_rules(self) -> None:
        """Put a request for robots.txt in front of every origin whose rules are not known."""
        wanted = [Request(url=f"{place.name}/robots.txt", kind="robots") for place in self._schedule.unruled]
        self._schedule.unruled.clear()
        with self._ledger.transaction():
            entries = self._ledger.add(wanted)
            settled = [entry for entry in map(self._ledger.find, wanted) if entry and entry.state != WAITING]
            for entry in settled:
                self._ledger.requeue(entry.row, _anew(entry.request), attempts=0)
        for entry in settled:
            self._tally.reopen(entry)
            entries.append(Entry(entry.row, _anew(entry.request), WAITING, 0, ""))
        self._enlist(entries)

    def _state(self, now: float, *, at_end: Callable[[Sequence[Kind], float], None] | None = None) -> GrantState:
        """What there is to do for anybody, leasing apart; ``at_end`` is called where only parked requests are left."""
        if self._draining:
            return "draining"
        if self._leases.holder:
            return "wait"
        kinds = [kind for kind in _SERVED if self._budget(kind) > 0]
        soonest = self._schedule.soonest(kinds, now)
        if soonest <= now + self._policy.patience or (at_end is None and soonest < math.inf):
            return "wait"
        if at_end is not None:
            at_end(kinds, now)
        return "drained"

    def _fail_parked(self, kinds: Sequence[Kind], now: float) -> None:
        """The crawl is over but for what it can't wait for: that ends as failed, and may be retried one day."""
        reasons = dict(self._schedule.parked(kinds, now + self._policy.patience))
        if reasons:
            entries = [entry for entry in self._ledger.get(list(reasons)).values() if entry.state == WAITING]
            self._finish_all([(entry, reasons[entry.row] or entry.reason) for entry in entries])

    def _next_event(self, kinds: Sequence[Kind], now: float) -> float:
        ahead = self._schedule.next_ready([kind for kind in kinds if self._budget(kind) > 0], now)
        return min(ahead, soonest_loss(self._leases.turns.values()), now + _LONGEST_NAP)

    # losing -------------------------------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        for turn in [turn for turn in self._leases.turns.values() if turn.until <= now]:
            _log.info("action=expire worker=%s host=%s leases=%d", turn.worker, turn.host.key, len(turn.entries))
            self._lose(turn, now)

    def _lose(self, turn: OpenTurn, now: float) -> None:
        """A turn's worker is gone: host and rows are free again, and rows lost too often end as poison."""
        entries = self._leases.lose(turn)
        poison = [entry for entry in entries if self._leases.losses[entry.row] >= self._policy.max_losses]
        for entry in entries:
            if entry not in poison:
                self._judge.queue(entry, returned=True)
        self._end(turn, now)
        self._finish_all([(entry, "poison") for entry in poison])
        self._leases.let_go([entry.row for entry in poison])

    def _end(self, turn: OpenTurn, now: float) -> None:
        if not turn.ended:
            self._schedule.release(turn.host, now)
        self._leases.end(turn)

    def _finish_all(self, endings: Sequence[tuple[Entry, str]]) -> None:
        """Fail requests for reasons of the frontier's own."""
        if not endings:
            return
        with self._ledger.transaction():
            effects = [
                effect
                for entry, reason in endings
                for effect in self._judge.finish(entry, reason, Outcome(status="done"), "", self._clock())
            ]
        for effect in effects:
            effect()

    # settling -----------------------------------------------------------------------------------------------------

    def _settle(self, worker: str, outcomes: Sequence[Outcome], now: float) -> tuple[Verdict, ...]:
        verdicts: list[Verdict] = []
        judged: dict[int, tuple[Entry, Outcome]] = {}
        for outcome in outcomes:
            row, turn = self._leases.check(worker, outcome.token)
            entry = turn.entries[row] if turn else self._ledger.get([row]).get(row)
            verdict = first_verdict(entry, outcome, is_held=turn is not None, is_judged=row in judged)
            if entry is not None and verdict == "accepted":
                judged[row] = (entry, outcome)
            verdicts.append(verdict)
        effects: list[Effect] = []
        with self._ledger.transaction():
            added = self._ledger.add([new for _, outcome in judged.values() for new in outcome.discovered])
            for entry, outcome in judged.values():
                effects += self._judge.apply(entry, outcome, worker, now)
        self._leases.let_go(judged)
        for effect in effects:
            effect()
        self._enlist(added)
        self._settled[worker] = self._settled.get(worker, 0) + len(judged)
        return tuple(verdicts)

    # memory -------------------------------------------------------------------------------------------------------

    def _restore(self, journal: Journal) -> None:
        """Take up where an earlier life of this crawl stopped."""
        now, wall = self._clock(), self._wall()
        for name, rules, until in self._ledger.rules():
            self._schedule.set_rules(self._schedule.origin(name), rules, now + until - wall)
        turns, self._leases.losses = journal.replay()
        held: set[int] = set()
        for note in turns:
            entries = {row: e for row, e in self._ledger.get(note.rows).items() if e.state == WAITING}
            self._leases.resume(note, self._schedule.reserve(note.host), entries, now)
            held |= entries.keys()
        for waiting in self._ledger.waiting():
            place = self._schedule.origin(waiting.origin)
            if waiting.row not in held:
                at = now + waiting.not_before - wall if waiting.not_before else now
                self._schedule.restore(place, waiting.kind, waiting.row, waiting.priority, at, now)
        self._leases.close()

    def _enlist(self, entries: Iterable[Entry]) -> None:
        """Count and queue requests that are new, or wait anew."""
        for entry in entries:
            self._tally.add(entry.request)
            self._judge.queue(entry)
        self._changed.notify_all()

    def _note(self, worker: str) -> float:
        """The time now, at which this worker was heard of."""
        self._seen[worker] = now = self._clock()
        return now

    def _worker_stats(self, now: float) -> Iterable[WorkerStats]:
        for name, seen in self._seen.items():
            leases = sum(len(turn.entries) for turn in self._leases.of(name))
            yield WorkerStats(
                name=name,
                leases=leases,
                settled=self._settled.get(name, 0),
                silent=max(0.0, now - seen),
                is_told=name in self._told and not leases,
            )


def _anew(request: Request) -> Request:
    return msgspec.structs.replace(request, target="", hops=0)
