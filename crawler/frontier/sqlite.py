"""The frontier on SQLite: the ledger on disk, the schedule and the leases in memory.

The database is a file or, without a path, in memory, for tests and small scripts; the implementation is the same.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from crawler.errors import AccessError
from crawler.frontier.base import DEPARTURE, PROTOCOL
from crawler.frontier.budget import Budget
from crawler.frontier.counters import Counters
from crawler.frontier.group_commit import GroupCommit, PendingCall
from crawler.frontier.host_scheduler import HostScheduler
from crawler.frontier.leases import Leases, turn_of
from crawler.frontier.ledger.lease_log import LeaseLog
from crawler.frontier.ledger.ledger import Ledger
from crawler.frontier.ledger.rows import DONE, FAILED, WAITING
from crawler.frontier.politeness import Policy
from crawler.frontier.recovery import recover
from crawler.frontier.turn_dispatcher import Dispatcher
from crawler.frontier.verdicts import OutcomeApplier
from crawler.frontier.workers import WorkerRegistry
from crawler.model import (
    Grant,
    GrantState,
    ImageRecord,
    Kind,
    Outcome,
    Renewal,
    Request,
    Verdict,
    WorkerInfo,
)
from crawler.stats import FrontierStats

_log = logging.getLogger(__name__)

#: Longest time between two checks of a waiting `lease`, seconds.
_MAX_SLEEP = 1.0
#: Info of a worker that sends none.
_UNKNOWN = WorkerInfo()


class SqliteFrontier:
    """The frontier with its ledger in SQLite; see `crawler.frontier.base.Frontier` for the promises.

    Args:
        path: the database file, with ``leases.log`` in the same directory; None: in memory.
        policy: pace and limits.
        settings: settings that `hello` returns to every worker.
        is_read_only: write nothing; only `stats` and `records` may be called.
        clock: monotonic seconds.
        wall: seconds since the epoch.
        dice: random numbers in [0, 1).
    """

    def __init__(
        self,
        path: Path | None = None,
        policy: Policy | None = None,
        *,
        settings: dict[str, Any] | None = None,
        is_read_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
    ) -> None:
        policy = policy or Policy()
        self._settings = settings or {}
        self._clock, self._wall = clock, wall
        #: Every call holds it. A caller that uses `ledger` directly holds it, too.
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._draining = self._paused = self._closed = False
        self._counters = counters = Counters()
        self._scheduler = scheduler = HostScheduler(policy)
        self._registry = WorkerRegistry()
        self.ledger = ledger = Ledger(path, is_read_only=is_read_only)
        with ExitStack() as stack:
            stack.callback(ledger.close)
            lease_log = LeaseLog(path.with_name("leases.log") if path else None, is_read_only=is_read_only)
            self._leases = leases = Leases(lease_log, ledger.seal)
            leased = leases.by_kind, leases.by_host
            budget = Budget(policy, counters, leased, ledger.requests.settled_by_origin())
            scheduler.room = budget.host_room
            wake = self._changed.notify_all
            self._applier = applier = OutcomeApplier(
                policy, ledger, scheduler, counters, budget, wake=wake, wall=wall, dice=dice
            )
            self._dispatcher = Dispatcher(policy, ledger, scheduler, counters, budget, leases, applier)
            self._commits = GroupCommit(ledger, leases, applier, counters, self._registry, self._dispatcher.end)
            recover(ledger, scheduler, leases, counters, now=clock(), wall=wall())
            stack.pop_all()

    # the eight methods --------------------------------------------------------------------------------------------

    def hello(self, worker: str, protocol: int, about: WorkerInfo = _UNKNOWN) -> dict[str, Any]:
        if protocol != PROTOCOL:
            side = "downloader" if protocol < PROTOCOL else "master"
            versions = f"{worker} uses version {protocol} of the queue's protocol, the master version {PROTOCOL}"
            raise AccessError(f"{versions}: upgrade the {side}")
        with self._changed:
            now = self._clock()
            known = self._registry.heard(worker, now)
            ahead = about.wall - self._wall() if about.wall else 0.0
            if known.begins(about, ahead):
                held = self._leases.of(worker)
                known.superseded = {turn.id for turn in held}
                for turn in held:
                    self._dispatcher.lose(turn, now)
            known.join(about, ahead)
            self._changed.notify_all()
        return dict(self._settings)

    def put(self, requests: Sequence[Request]) -> int:
        with self._changed:
            with self.ledger.transaction():
                entries = self.ledger.requests.add(requests)
            self._applier.enlist(entries)
        return len(entries)

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        with self._changed:
            deadline = self._clock() + wait
            while True:
                now = self._clock()
                known = self._registry.heard(worker, now)
                if not self._closed:
                    self._dispatcher.expire(now)
                is_held = self._draining or self._paused or known.is_leaving
                turns = [] if is_held else self._dispatcher.grant(worker, kinds, limit, seconds, now)
                state: GrantState = "work" if turns else self._state(now, fail_parked=True)
                if state == "wait" and known.is_leaving:
                    state = "draining"
                next_at = min(self._dispatcher.next_event(() if self._paused else kinds, now), now + _MAX_SLEEP)
                if state != "wait" or now >= deadline:
                    known.is_dismissed = state in ("draining", "drained")
                    retry_in = max(0.0, next_at - now)
                    return Grant(turns=tuple(turns), state=state, retry_in=retry_in, is_stranger=not known.is_announced)
                self._changed.wait(min(deadline - now, max(0.001, next_at - now)))

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        with self._changed:
            now = self._clock()
            known = self._registry.heard(worker, now)
            self._dispatcher.expire(now)
            lost, hosts, is_double = [], set(), False
            for token in tokens:
                row, turn = self._leases.check(worker, token)
                if turn is None:
                    lost.append(token)
                    is_double |= row >= 0 and turn_of(token) in known.superseded
                else:
                    self._leases.renew(turn, seconds, now)
                    hosts.add(turn.host)
            quiet = {host.key: host.health.blocked_until - now for host in hosts if host.health.blocked_until > now}
            if is_double:  # the previous process of the worker still runs
                _log.warning(
                    "two running downloaders have the name %s, because their directories have the same store.json:"
                    " stop one of them and delete its store.json",
                    worker,
                )
        return Renewal(lost=tuple(lost), quiet=quiet)

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        call = PendingCall(worker, outcomes, ended_turns)
        self._commits.calls.append(call)
        with self._changed:  # the next thread that gets the lock settles all calls that came meanwhile
            if not call.is_answered:
                self._commits.answer_calls(self._clock())
                self._changed.notify_all()
        return call.answer()

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        with self._changed:
            return self.ledger.records.page(after, limit)

    def stats(self) -> FrontierStats:
        with self._changed:
            now = self._clock()
            counters, totals, leased = self._counters, self._counters.totals, self._leases.by_kind
            hosts = self._scheduler.hosts.counts()
            return FrontierStats(
                state=self._state(now),
                is_paused=self._paused,
                discovered=counters.discovered("image"),
                waiting=counters.states["image", WAITING] - leased["image"],
                leased=leased["image"],
                success=counters.saved(),
                duplicate=counters.duplicates,
                failed=counters.states["image", FAILED],
                pages_waiting=counters.states["page", WAITING] - leased["page"],
                pages_leased=leased["page"],
                pages_done=counters.states["page", DONE],
                pages_failed=counters.states["page", FAILED],
                seeds=counters.seeds.total(),
                seeds_failed=counters.seeds[FAILED],
                lists_open=counters.states["list", WAITING],
                reasons=counters.reasons("image"),
                page_reasons=counters.reasons("page"),
                robots_reasons=counters.reasons("robots"),
                bytes=counters.bytes,
                refreshes=self.ledger.history.refresh.number,
                changes=dict(counters.changes),
                hosts=hosts.known,
                hosts_waiting=hosts.waiting,
                hosts_down=hosts.down,
                limiting_host=hosts.alone.key if hosts.alone else "",
                limiting_gap=self._scheduler.gap(hosts.alone) if hosts.alone else 0.0,
                stores=counters.where(),
                list_rows=totals["list_rows"],
                list_repeated=totals["list_repeated"],
                list_cut=totals["list_cut"],
                bad_lines=totals["bad_lines"],
                spared=totals["spared"],
                workers=self._registry.stats(self._leases, now),
            )

    def close(self) -> None:
        with self._changed:
            if not self._closed:
                self._draining = self._closed = True
                self._leases.close()
                self.ledger.close()
                self._changed.notify_all()

    # for the master only ------------------------------------------------------------------------------------------

    def drain(self, worker: str | None = None) -> None:
        """Stop leasing, for all workers or for one until it joins again; held leases are finished."""
        with self._changed:
            if worker is None:
                self._draining = True
            elif worker in self._registry.known:
                self._registry.known[worker].is_leaving = True
            self._changed.notify_all()

    def expect_loss(self, worker: str) -> None:
        """Let the leases of a worker whose last connection was closed expire soon, unless it calls in time."""
        with self._changed:
            if worker in self._registry.known:
                self._registry.known[worker].is_disconnected = True
            self._leases.shorten(worker, self._clock() + DEPARTURE)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[FrontierStats], bool], seconds: float) -> bool:
        """Wait up to ``seconds`` until calls or departures of workers fulfil a condition; return whether they did."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self.stats()), seconds)

    def pause(self, is_paused: bool) -> None:
        """Stop leasing, or resume it; held leases are finished."""
        with self._changed:
            self._paused = is_paused
            self._changed.notify_all()

    def announce(self, settings: dict[str, Any]) -> None:
        """Add settings to those that `hello` returns; workers that called it are asked to call it again."""
        with self._changed:
            self._settings |= settings
            for known in self._registry.known.values():
                known.is_announced = False

    def relocate(self, numbers: Sequence[int], store: str) -> None:
        """Record that the pictures of these records now lie in ``store``, under the same paths."""
        with self._changed:
            with self.ledger.transaction():
                self.ledger.records.relocate(numbers, store)
            self._counters.set_stores(self.ledger.records.owners(), self.ledger.history.stores())

    # internals ----------------------------------------------------------------------------------------------------

    def _state(self, now: float, *, fail_parked: bool = False) -> GrantState:
        """Return the state for a worker that gets no turn."""
        if self._draining:
            return "draining"
        return "wait" if self._paused else self._dispatcher.state(now, fail_parked=fail_parked)
