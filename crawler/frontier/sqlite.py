"""The frontier on SQLite: the ledger on disk, the schedule in memory, the leases between them.

Works on a file or, with no path, in memory; the second is what tests and small scripts use, not a different
implementation.
"""

import logging
import math
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from crawler.errors import AccessError, DiskError
from crawler.frontier.base import PROTOCOL
from crawler.frontier.budget import Budget
from crawler.frontier.history import History, asked
from crawler.frontier.journal import Journal
from crawler.frontier.judge import Judge, anew
from crawler.frontier.leases import Leases, OpenTurn, soonest_loss
from crawler.frontier.ledger import DONE, FAILED, WAITING, Entry
from crawler.frontier.politeness import Policy
from crawler.frontier.restart import take_up
from crawler.frontier.roll import Roll
from crawler.frontier.schedule import Schedule, Share
from crawler.frontier.settle import Call, Settler
from crawler.frontier.tally import Tally
from crawler.known import Known
from crawler.model import (
    About,
    FrontierStats,
    Grant,
    GrantState,
    ImageRecord,
    Kind,
    Lease,
    Outcome,
    Renewal,
    Request,
    Turn,
    Verdict,
)

_log = logging.getLogger(__name__)

#: A waiting `lease` looks again at least this often, seconds.
_LONGEST_NAP = 1.0
#: Kinds in the order in which one call for work is served.
_SERVED: tuple[Kind, ...] = ("robots", "list", "part", "page", "image")
#: What is known of a worker that says nothing of its box.
_UNKNOWN = About()


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
        self._ledger = ledger = History(path)
        with ExitStack() as stack:
            stack.callback(ledger.close)
            self._tally = Tally(ledger)
            self._schedule = Schedule(self._policy)
            self._leases = Leases(Journal(path.with_name("leases.log") if path else None), ledger.seal)
            self._budget = Budget(self._policy, ledger, self._tally, self._leases)
            self._schedule.room = self._budget.host_room
            self._judge = Judge(self._policy, ledger, self._schedule, self._tally, self._budget, wall=wall, dice=dice)
            self._roll = Roll()
            self._settler = Settler(ledger, self._leases, self._judge, self._tally, self._roll, self._enlist)
            #: Calls of `complete` that nobody has settled yet.
            self._calls: deque[Call] = deque()
            self._draining = self._paused = self._closed = False
            take_up(ledger, self._schedule, self._leases, self._tally, now=clock(), wall=wall())
            stack.pop_all()

    # the eight methods --------------------------------------------------------------------------------------------

    def hello(self, worker: str, protocol: int, about: About = _UNKNOWN) -> dict[str, Any]:
        if protocol != PROTOCOL:
            side = "worker" if protocol < PROTOCOL else "master"
            raise AccessError(f"{worker} speaks protocol {protocol}, the master {PROTOCOL}: upgrade the {side}")
        with self._changed:
            now = self._note(worker)
            for turn in self._leases.of(worker) if self._roll.begins(worker, about) else ():
                self._lose(turn, now)
            self._roll.join(worker, about, now, clock_ahead=about.wall - self._wall() if about.wall else 0.0)
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
            while True:
                now = self._note(worker)
                turns = self._grant(worker, kinds, limit, seconds)
                state: GrantState = "work" if turns else self._state(now, at_end=self._fail_parked)
                if state == "wait" and self._roll.is_leaving(worker):
                    state = "draining"
                next_at = self._next_event(kinds, now)
                if state != "wait" or now >= deadline:
                    self._roll.answered(worker, state)
                    is_stranger = not self._roll.is_announced(worker)
                    rest = max(0.0, next_at - now)
                    return Grant(turns=tuple(turns), state=state, retry_in=rest, is_stranger=is_stranger)
                self._changed.wait(min(deadline - now, max(0.001, next_at - now)))

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        with self._changed:
            now = self._note(worker)
            self._expire(now)
            lost, hosts = [], set()
            for token in tokens:
                _, turn = self._leases.check(worker, token)
                if turn is None:
                    lost.append(token)
                else:
                    turn.until, turn.seconds = now + seconds, seconds
                    hosts.add(turn.host)
            quiet = {host.key: host.conduct.blocked_until - now for host in hosts if host.conduct.blocked_until > now}
            if lost and self._roll.is_new(worker, now, seconds):
                _log.warning("%s is at work twice: two boxes share a store.json, delete it in one of them", worker)
        return Renewal(lost=tuple(lost), quiet=quiet)

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        call = Call(worker, outcomes, ended_turns)
        self._calls.append(call)
        with self._changed:  # whoever has the lock next settles all that came meanwhile
            if not call.is_answered:
                self._answer_calls()
        return call.answer()

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
                is_paused=self._paused,
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
                refreshes=self._ledger.refresh.number,
                changes=dict(tally.changes),
                hosts=sum(1 for key in self._schedule.hosts if key),
                hosts_waiting=len(waiting_hosts),
                hosts_down=sum(host.conduct.outages > 0 for host in waiting_hosts),
                limiting_host=alone.key if alone else "",
                limiting_gap=self._schedule.gap(alone) if alone else 0.0,
                bad_lines=tally.bad_lines,
                spared=tally.spared,
                stores=tally.where(),
                workers=self._roll.stats(self._leases, now),
            )

    def close(self) -> None:
        with self._changed:
            if not self._closed:
                self._draining = self._closed = True
                self._leases.close()
                self._ledger.close()
                self._changed.notify_all()

    # for the master only ------------------------------------------------------------------------------------------

    def drain(self, worker: str | None = None) -> None:
        """Hand out nothing more, or nothing more to one worker until it joins again; what is held is finished."""
        with self._changed:
            if worker is None:
                self._draining = True
            else:
                self._roll.send_away(worker)
            self._changed.notify_all()

    def pause(self, is_paused: bool) -> None:
        """Hand out nothing for now, or go on; what is under way is finished."""
        with self._changed:
            self._paused = is_paused
            self._changed.notify_all()

    def announce(self, settings: dict[str, Any]) -> None:
        """These are added to what `hello` tells, and whoever works here already is told when it next asks for work."""
        with self._changed:
            self._settings |= settings
            self._roll.greet_anew()

    def relocate(self, numbers: Sequence[int], store: str) -> None:
        """The pictures of these records now lie in ``store``, under the same paths."""
        with self._changed:
            with self._ledger.transaction():
                self._ledger.relocate(numbers, store)
            self._tally.count_stores()

    # leasing ------------------------------------------------------------------------------------------------------

    def _grant(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float) -> list[Turn]:
        """Turns for a worker. All that the disk may refuse is done before anything is lent."""
        now = self._clock()
        if not self._closed:
            self._expire(now)
        if self._draining or self._paused or self._roll.is_leaving(worker):
            return []
        self._want_rules()
        shares: list[Share] = []
        for kind in _SERVED:
            room = min(limit, self._budget.room(kind)) if kind in kinds else 0
            taken = self._schedule.take(kind, room, now)
            limit -= sum(len(share.rows) for share in taken)
            shares += taken
        if not shares:
            return []
        try:
            found = self._ledger.get([row for share in shares for row in share.rows])
            known = self._known(found)
        except DiskError:
            for share in shares:
                self._schedule.undo(share)
            raise
        turns = (self._lend(worker, share, found, known, seconds, now) for share in shares)
        return [turn for turn in turns if turn is not None]

    def _known(self, found: dict[int, Entry]) -> dict[int, Known]:
        """What is known of these requests. A picture with a pin is fetched anew if the bytes known are others."""
        known = self._ledger.known(found.values())
        permits = self._ledger.permits
        return {row: it for row, it in known.items() if not it.sha256 or permits(found[row].request.url, it.sha256)}

    def _lend(
        self,
        worker: str,
        share: Share,
        found: dict[int, Entry],
        known: dict[int, Known],
        seconds: float,
        now: float,
    ) -> Turn | None:
        """The share as a turn of the worker; None where all of it turned out to be settled already."""
        self._schedule.lend(share)
        entries = {row: found[row] for row in share.rows if self._is_free(found.get(row))}
        suspect = next((row for row in entries if row in self._leases.losses), None)
        if suspect is not None:
            # What was lost before is tried alone, so that its neighbours are not lost with it again.
            for row in [row for row in entries if row != suspect]:
                self._judge.queue(entries.pop(row), returned=True)
        if not entries:
            self._schedule.cancel(share.host)
            return None
        turn = self._leases.open(worker, share.host, entries, seconds=seconds, now=now)
        losses = self._leases.losses
        leases = tuple(
            Lease(
                request=asked(entry.request, known.get(row)),
                token=self._leases.token(row, turn),
                deliveries=losses.get(row, 0) + 1,
            )
            for row, entry in entries.items()
        )
        return Turn(
            id=turn.id,
            host=share.host.key,
            gap=share.gap,
            least_gap=share.host.crawl_delay,
            robots=self._schedule.rules(share),
            leases=leases,
        )

    def _is_free(self, entry: Entry | None) -> bool:
        return entry is not None and entry.state == WAITING and entry.row not in self._leases.holder

    def _want_rules(self) -> None:
        """Put a request for robots.txt in front of every origin whose rules are wanted."""
        if not self._schedule.unruled:
            return
        wanted = [Request(url=f"{place.name}/robots.txt", kind="robots") for place in self._schedule.unruled]
        with self._ledger.transaction():
            entries = self._ledger.add(wanted)
            settled = [entry for entry in map(self._ledger.find, wanted) if entry and entry.state != WAITING]
            again = [self._ledger.redirect(entry, anew(entry.request)) for entry in settled]
            for entry in again:
                self._ledger.requeue(entry.row, attempts=0)
        self._schedule.unruled.clear()
        for entry in settled:
            self._tally.reopen(entry)
        self._enlist(entries + again)

    def _state(self, now: float, *, at_end: Callable[[Sequence[Kind], float], None] | None = None) -> GrantState:
        """What there is to do for anybody, leasing apart; ``at_end`` is called where only parked requests are left."""
        if self._draining:
            return "draining"
        if self._paused or self._leases.holder:
            return "wait"
        kinds = [kind for kind in _SERVED if self._budget.room(kind) > 0]
        soonest = self._schedule.soonest(kinds, now)
        if soonest <= now + self._policy.patience or (at_end is None and soonest < math.inf):
            return "wait"
        if at_end is not None:
            at_end(kinds, now)
            if self._schedule.soonest(kinds, now) <= now + self._policy.patience:  # something is asked for instead
                return "wait"
        return "drained"

    def _fail_parked(self, kinds: Sequence[Kind], now: float) -> None:
        """The crawl is over but for what it can't wait for: that ends as failed, and may be retried one day."""
        reasons = self._schedule.parked(kinds, now + self._policy.patience)
        if reasons:
            entries = [entry for entry in self._ledger.get(list(reasons)).values() if entry.state == WAITING]
            self._finish_all([(entry, reasons[entry.row] or entry.reason or "internal") for entry in entries])
            self._leases.let_go(self._leases.losses.keys() & reasons.keys())  # one that is put back begins anew
            self._schedule.drop(reasons)

    def _next_event(self, kinds: Sequence[Kind], now: float) -> float:
        open_kinds = [] if self._paused else [kind for kind in kinds if self._budget.room(kind) > 0]
        ahead = self._schedule.next_ready(open_kinds, now) if open_kinds else math.inf
        return min(ahead, soonest_loss(self._leases.turns.values()), now + _LONGEST_NAP)

    # losing -------------------------------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        for turn in [turn for turn in self._leases.turns.values() if turn.until <= now]:
            _log.info("action=expire worker=%s host=%s leases=%d", turn.worker, turn.host.key, len(turn.entries))
            self._lose(turn, now)

    def _lose(self, turn: OpenTurn, now: float) -> None:
        """A turn's worker is gone: host and rows are free again, and rows lost too often end as poison."""
        charges = {row: self._leases.charge(turn, row) for row in turn.entries}
        poison = [entry for row, entry in turn.entries.items() if charges[row] >= self._policy.max_losses]
        self._finish_all([(entry, "poison") for entry in poison])
        self._leases.let_go([entry.row for entry in poison])
        for entry in self._leases.lose(turn):
            # What may be to blame goes behind the others: whoever dies next does not die of the same again.
            self._judge.queue(entry, returned=not charges[entry.row])
        self._end([turn], now)

    def _end(self, turns: Sequence[OpenTurn], now: float) -> None:
        for turn in turns:
            if not turn.is_ended:
                self._schedule.release(turn.host, now)
        self._leases.end(turns)

    def _finish_all(self, endings: Sequence[tuple[Entry, str]]) -> None:
        """Fail requests for reasons of the frontier's own."""
        if not endings:
            return
        with self._ledger.transaction():
            over = Outcome(status="done")
            rulings = [self._judge.finish(entry, reason, over, "", self._clock()) for entry, reason in endings]
            added = self._ledger.add(ruling.instead for ruling in rulings if ruling.instead)
        self._judge.conclude(rulings)
        self._enlist(added)

    # settling -----------------------------------------------------------------------------------------------------

    def _answer_calls(self) -> None:
        """Settle every call that has come meanwhile, in one transaction."""
        calls, now = list(self._calls), self._clock()
        for call in calls:
            self._roll.heard(call.worker, now)
        try:
            self._settler.settle(calls, now)
        except DiskError as error:
            for call in calls:
                call.error = error
        except Exception:  # noqa: BLE001  # one of them is to blame, and the others are not
            for call in calls:
                self._settle_alone(call, now)
        for call in calls:
            self._calls.popleft()  # only now: if we are interrupted, somebody else settles them
            if call.is_written:
                known = [turn for name in dict.fromkeys(call.ended_turns) if (turn := self._leases.turns.get(name))]
                self._end([turn for turn in known if turn.worker == call.worker], now)
        self._changed.notify_all()

    def _settle_alone(self, call: Call, now: float) -> None:
        try:
            self._settler.settle([call], now)
        except Exception as error:  # noqa: BLE001  # raised by `complete`, in the thread whose call it is
            call.error = error

    # memory -------------------------------------------------------------------------------------------------------

    def _enlist(self, entries: Collection[Entry]) -> None:
        """Count and queue requests that are new, or wait anew."""
        alike = Counter((entry.request.kind, entry.request.is_seed) for entry in entries)
        for (kind, is_seed), number in alike.items():
            self._tally.add(kind, is_seed, number)
        for entry in entries:
            self._judge.queue(entry)
        self._changed.notify_all()

    def _note(self, worker: str) -> float:
        """The time now, at which this worker was heard of."""
        now = self._clock()
        self._roll.heard(worker, now)
        return now
