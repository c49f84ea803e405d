"""Turns: which requests a worker gets, and what becomes of those whose worker is gone."""

import logging
from collections.abc import Collection, Sequence
from math import inf

from crawler.errors import DiskError
from crawler.frontier.budget import Budget
from crawler.frontier.counters import Counters
from crawler.frontier.host_scheduler import HostScheduler, TurnShare
from crawler.frontier.leases import Leases, OpenTurn
from crawler.frontier.ledger.history import with_prior
from crawler.frontier.ledger.ledger import Ledger
from crawler.frontier.ledger.rows import WAITING, Entry
from crawler.frontier.politeness import Policy
from crawler.frontier.read_ahead import ReadAhead
from crawler.frontier.verdicts import OutcomeApplier, without_redirects
from crawler.model import GrantState, Kind, Lease, Outcome, PriorFetch, Request, RobotsRules, Turn

_log = logging.getLogger(__name__)

#: Kinds in the order in which one call for work is served.
_SERVED: tuple[Kind, ...] = ("robots", "list", "part", "page", "image")


class Dispatcher:
    """Leases requests to workers in turns, and takes them back. The frontier calls it under its lock."""

    def __init__(
        self,
        policy: Policy,
        ledger: Ledger,
        scheduler: HostScheduler,
        counters: Counters,
        budget: Budget,
        leases: Leases,
        applier: OutcomeApplier,
    ) -> None:
        self._policy, self._ledger, self._scheduler, self._counters = policy, ledger, scheduler, counters
        self._budget, self._leases, self._applier = budget, leases, applier
        self._read_ahead = ReadAhead(scheduler, counters, budget, leases, policy.patience)

    # leasing ------------------------------------------------------------------------------------------------------

    def grant(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, now: float) -> list[Turn]:
        """Return turns for a worker. All disk access that can fail happens before anything is leased."""
        self._put_robots_requests()
        shares: list[TurnShare] = []
        for kind in _SERVED:
            number = min(limit, self._leasable(kind, now)) if kind in kinds else 0
            opened = self._scheduler.start_turns(kind, number, now)
            limit -= sum(len(share.rows) for share in opened)
            shares += opened
        if not shares:
            return []
        try:
            entries = self._ledger.requests.get([row for share in shares for row in share.rows])
            prior = self._ledger.history.prior_fetches(entries.values())
            rules = self._ledger.origins.rules_of({name for share in shares for name in self._scheduler.ruled(share)})
        except DiskError:
            for share in shares:
                self._scheduler.undo(share)
            raise
        turns = (self._lease_share(worker, share, entries, prior, rules, seconds, now) for share in shares)
        return [turn for turn in turns if turn is not None]

    def _leasable(self, kind: Kind, now: float) -> int:
        """Return how many requests of a kind may be leased now."""
        return 0 if self._read_ahead.holds(kind, now) else self._budget.room(kind)

    def _lease_share(
        self,
        worker: str,
        share: TurnShare,
        entries: dict[int, Entry],
        prior: dict[int, PriorFetch],
        rules: dict[str, RobotsRules],
        seconds: float,
        now: float,
    ) -> Turn | None:
        """Lease a share to a worker as a turn; return None if all of its requests are settled already."""
        share.lend()
        waiting = (entries[row] for row in share.rows if row in entries and entries[row].state == WAITING)
        free = {entry.row: entry for entry in waiting if entry.row not in self._leases.holder}
        suspect = next((row for row in free if row in self._leases.losses), None)
        if suspect is not None:
            # A request that was lost before gets a turn of its own, so that others are not lost with it again.
            for row in [row for row in free if row != suspect]:
                self._applier.queue(free.pop(row), returned=True)
        if not free:
            self._scheduler.cancel(share.host)
            return None
        turn = self._leases.open(worker, share.host, free, seconds=seconds, now=now)
        losses = self._leases.losses
        leases = tuple(
            Lease(
                request=with_prior(entry.request, prior.get(row)),
                token=self._leases.token(row, turn),
                deliveries=losses.get(row, 0) + 1,
            )
            for row, entry in free.items()
        )
        return Turn(
            id=turn.id,
            host=share.host.key,
            gap=share.gap,
            least_gap=share.host.crawl_delay,
            robots={name: rules[name].text for name in self._scheduler.ruled(share) if name in rules},
            leases=leases,
        )

    def _put_robots_requests(self) -> None:
        """Put a request for robots.txt for every origin that needs one."""
        unruled, table = self._scheduler.unruled, self._ledger.requests
        if not unruled:
            return
        requests = [Request(url=f"{origin.name}/robots.txt", kind="robots") for origin in unruled]
        with self._ledger.transaction():
            added = table.add(requests)
            new = {entry.request.url for entry in added}
            known = [table.find(request) for request in requests if request.url not in new]
            settled = [entry for entry in known if entry and entry.state != WAITING]
            requeued = [table.redirect(entry, without_redirects(entry.request)) for entry in settled]
            for entry in requeued:
                table.requeue(entry.row, attempts=0)
        unruled.clear()
        for entry in settled:
            self._counters.add(entry.request.kind, entry.request.is_seed, -1, entry.state, entry.reason)
        self._applier.enlist(added + requeued)

    def next_event(self, kinds: Collection[Kind], now: float) -> float:
        """Return the clock time at which a host is ready for a request of these kinds, or a lease is lost."""
        open_kinds = [kind for kind in kinds if self._leasable(kind, now) > 0]
        next_ready = self._scheduler.next_ready(open_kinds, now) if open_kinds else inf
        return min(next_ready, self._leases.soonest_loss)

    # the end of the crawl -----------------------------------------------------------------------------------------

    def state(self, now: float, *, fail_parked: bool = False) -> GrantState:
        """Return the state for a worker that gets no turn; if asked, fail parked requests once only they are left."""
        if self._leases.holder:
            return "wait"
        kinds, until = [kind for kind in _SERVED if self._budget.room(kind) > 0], now + self._policy.patience
        soonest = self._scheduler.soonest(kinds, now)
        if soonest <= until or (not fail_parked and soonest < inf):
            return "wait"
        if fail_parked:
            self._fail_parked(kinds, now)
            if self._scheduler.soonest(kinds, now) <= until:  # fallback requests were queued
                return "wait"
        return "drained"

    def _fail_parked(self, kinds: Sequence[Kind], now: float) -> None:
        """Fail the requests that wait longer than the patience, at the end of the crawl; the user may retry them."""
        reasons = self._scheduler.parked(kinds, now + self._policy.patience)
        if reasons:
            entries = [entry for entry in self._ledger.requests.get(list(reasons)).values() if entry.state == WAITING]
            endings = [(entry, reasons[entry.row] or entry.reason or "internal") for entry in entries]
            self._fail(endings, now, parked=reasons)
            self._leases.let_go(self._leases.losses.keys() & reasons.keys())  # a requeued request starts without losses

    # lost leases --------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """End the turns whose leases have expired."""
        for turn in self._leases.expired(now):
            _log.info("action=expire worker=%s host=%s leases=%d", turn.worker, turn.host.key, len(turn.entries))
            self.lose(turn, now)

    def lose(self, turn: OpenTurn, now: float) -> None:
        """End a turn whose worker is gone: free its host and rows; rows lost too often end as ``poison``."""
        losses = {row: self._leases.charge(turn, row) for row in turn.entries}
        poison = [entry for row, entry in turn.entries.items() if losses[row] >= self._policy.max_losses]
        self._fail([(entry, "poison") for entry in poison], now)
        self._leases.let_go([entry.row for entry in poison])
        for entry in self._leases.lose(turn):
            self._applier.queue(entry)  # behind the others: it may be the cause, and they must not be lost with it
        self.end([turn], now)

    def end(self, turns: Sequence[OpenTurn], now: float) -> None:
        """Free the hosts of turns that have ended."""
        for turn in turns:
            if not turn.is_ended:
                self._scheduler.release(turn.host, now)
        self._leases.end(turns)

    def _fail(self, endings: Sequence[tuple[Entry, str]], now: float, *, parked: Collection[int] = ()) -> None:
        """Fail requests by the frontier's own decision; remove ``parked`` rows from the schedule."""
        if not endings and not parked:
            return
        with self._ledger.transaction():
            done = Outcome(status="done")
            rulings = [self._applier.finish(entry, reason, done, "", now) for entry, reason in endings]
            added = self._ledger.requests.add(ruling.instead for ruling in rulings if ruling.instead)
        if parked:
            self._scheduler.drop(parked)
        self._applier.conclude(rulings)
        self._applier.enlist(added)
