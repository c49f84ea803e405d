"""The worker: lease, handle, flush, complete, for pages and images alike.

One thread of each kind surrounds the threads that do the work: the caller's own asks for turns, one commits outcomes
(a file is flushed before its success is told), one keeps the leases alive. Each turn is worked off by one thread, a
request at a time, at the pace that the frontier has set for its host.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct, structs

from crawler.errors import CrawlerError, DiskError, NetworkError, NoHandles, RequestFailed
from crawler.frontier.base import Frontier
from crawler.keeper import Keeper, Keeping
from crawler.model import GrantState, Kind, Outcome, Request, Verdict, failure
from crawler.pause import DiskPause, Patient
from crawler.reach import Reach
from crawler.turn import Ended, Held, Shunned, wants_rest, work_off

_log = logging.getLogger(__name__)

#: Seconds of one call for work; short, so that a stop is heard soon.
_POLL = 1.0
#: Files that are flushed together, and the seconds that the first of them waits at most.
_FLUSH_FILES = 100
_FLUSH_SECONDS = 2.0
#: A busy host that names no time is left alone for so many seconds, until the frontier has decided.
_SHUN_SECONDS = 1.0
#: Seconds between two looks at what is held, and two renewals while a host may have visitors beside us.
_LISTEN = 0.5
#: Threads that are neither asked nor working look up so often, seconds.
_NAP = 0.25


class Handler(Protocol):
    """Turns one request into its outcome; harvester, downloader, robots and lists alike."""

    def handle(self, request: Request) -> Outcome:
        """Never raises for what the network does; raises `crawler.errors.DiskError` for the local disk."""
        ...


class WorkerSettings(Struct, frozen=True, kw_only=True):
    """How one worker works; times in seconds."""

    threads: int = 16
    #: Requests asked for at a time.
    batch: int = 16
    lease: float = 120.0
    #: Longest that one request takes. Nothing is begun when less than this is left of the lease.
    request: float = 60.0
    #: Longest that a box waits which never reached a name server.
    patience: float = 60.0

    @property
    def renewal(self) -> float:
        """Seconds between two renewals of the leases."""
        return self.lease / 4

    @property
    def margin(self) -> float:
        """Seconds of a lease that must be left to begin a request."""
        return min(self.request, self.lease / 2)


class WorkerProgress(Struct, frozen=True, kw_only=True):
    """What a worker has done since it started."""

    #: Image URLs by what became of them, as the frontier has decided.
    saved: int = 0
    duplicates: int = 0
    failed: int = 0
    #: Those that a refresh has found to be as they were, which are in no other number.
    unchanged: int = 0
    #: Bytes received, requests held.
    received: int = 0
    leases: int = 0
    #: What is wrong with its disk, such as ``disk full``; empty: nothing.
    trouble: str = ""


class Worker:
    """Works for a frontier until it is drained, or until it is told to stop.

    Args:
        name: the worker's name, the same in its next life.
        frontier: where work comes from.
        handlers: what to do with each kind; other kinds are not asked for.
        settings: threads and times.
        keeper: keeps outcomes before they are told; None where there is nothing to keep.
        disk: waits while the disk refuses; None: the first refusal is the end.
        abort: cuts all connections under way, callable from any thread.
        relieve: lets go of connections that nobody uses, callable from any thread.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        frontier: Frontier,
        handlers: Mapping[Kind, Handler],
        settings: WorkerSettings,
        *,
        keeper: Keeper | None = None,
        disk: DiskPause | None = None,
        abort: Callable[[], None] | None = None,
        relieve: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._handlers, self._settings = handlers, settings
        self._abort, self._relieve, self._clock = abort, relieve, clock
        self._stopping = threading.Event()
        self._over = threading.Event()
        #: Set when somebody wants it to stop, not when it ends by itself.
        self._told = threading.Event()
        self._frontier = Patient(frontier, self._over)
        self._disk = disk or DiskPause()
        self._keeper = Keeping(keeper, self._disk)
        #: Turns at a time; fewer, where there are no handles for more.
        self._width = settings.threads
        self._changed = threading.Condition()
        self._held: dict[str, Held] = {}
        self._shunned = Shunned()
        self._reach = Reach(settings.patience, clock)
        self._busy = 0
        self._todo: queue.SimpleQueue[Held | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Outcome | Ended] = queue.SimpleQueue()
        self._error: CrawlerError | None = None
        self._progress = WorkerProgress()

    # from outside -------------------------------------------------------------------------------------------------

    def run(self) -> GrantState:
        """Work until the frontier says ``drained`` or ``draining``, or `stop` is called (``draining`` then, too).

        Raises:
            CrawlerError: the disk, the master or the key gave out; all that was finished before is told first, if
                anybody listens.
        """
        committer = threading.Thread(
            target=self._guard, args=(self._commit_all,), name=f"{self.name}-commit", daemon=True
        )
        keeper = threading.Thread(target=self._guard, args=(self._keep_leases,), name=f"{self.name}-keep", daemon=True)
        crew = [
            threading.Thread(target=self._guard, args=(self._work,), name=f"{self.name}-{n}", daemon=True)
            for n in range(self._settings.threads)
        ]
        for thread in (committer, keeper, *crew):
            thread.start()
        state: GrantState = "draining"
        try:
            state = self._ask()
        except CrawlerError as error:
            self._fail(error)
        finally:
            self._stopping.set()
            for _ in crew:
                self._todo.put(None)
            for thread in crew:
                thread.join()
            self._over.set()
            committer.join()
        if self._error is not None:
            raise self._error
        return state

    def stop(self) -> None:
        """Finish the requests under way, give the others back."""
        self._told.set()
        self._stopping.set()

    def abort(self) -> None:
        """Stop, and cut what is under way."""
        self.stop()
        if self._abort is not None:
            self._abort()

    @property
    def progress(self) -> WorkerProgress:
        with self._changed:
            leases = sum(len(held.open) for held in self._held.values())
            return structs.replace(self._progress, leases=leases, trouble=self._disk.trouble)

    # asking for work ----------------------------------------------------------------------------------------------

    def _ask(self) -> GrantState:
        """Lease whenever a thread is idle."""
        settings = self._settings
        while not self._stopping.is_set():
            with self._changed:
                if not self._changed.wait_for(lambda: self._busy < self._width or self._stopping.is_set(), _NAP):
                    continue
            asked_at = self._clock()
            grant = self._frontier.lease(self.name, tuple(self._handlers), self._limit(), settings.lease, _POLL)
            if grant.state in ("drained", "draining"):
                return grant.state
            for turn in grant.turns:
                held = Held(turn, asked_at + settings.lease, {lease.token for lease in turn.leases})
                with self._changed:
                    held.is_over = self._shunned.has_ended(turn, asked_at)
                    self._held[turn.id] = held
                    self._busy += 1
                self._todo.put(held)
        return "draining"

    def _limit(self) -> int:
        """Requests to ask for; where this box is cut off one now and then, and else only how things stand.

        Raises:
            DiskError: the disk has refused for too long.
        """
        if self._disk.look():
            return 0
        if self._reach.is_cut_off:
            return 1 if self._reach.may_try else 0
        return self._settings.batch

    # working a turn off -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (held := self._todo.get()) is not None:
            try:
                self._work_off(held)
            finally:
                self._save_handles()
                self._finished.put(Ended(held.turn.id))
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def _work_off(self, held: Held) -> None:
        for outcome in work_off(
            held.turn, self._attempt, may_start=lambda at: self._may_start(held, at), clock=self._clock
        ):
            if wants_rest(outcome):
                seconds = min(outcome.host_wait or _SHUN_SECONDS, self._settings.patience + _SHUN_SECONDS)
                self._shun(held.turn.host, seconds, outcome.token)
            self._finish(held, outcome)
            with self._changed:
                if not held.settle(outcome):
                    return

    def _shun(self, host: str, seconds: float, token: str = "") -> None:
        """A host asks all of us to stay away: end its other turns, and those lent before the frontier hears of it."""
        with self._changed:
            self._shunned.add(host, self._clock() + seconds, token)
            for held in self._held.values():
                held.is_over |= held.turn.host == host

    def _may_start(self, held: Held, at: float) -> bool:
        """Wait for the pace, and for a lease with time enough left; False where this turn is over for us."""
        while not (self._stopping.is_set() or held.is_over or self._disk.is_on):
            with self._changed:
                now = self._clock()
                if now >= at and held.until - now > self._settings.margin:
                    return held.begin(now)
                if now >= held.until:
                    return False
                self._changed.wait(min(_NAP, max(0.0, at - now) or _NAP))
        return False

    def _attempt(self, request: Request) -> Outcome:
        try:
            return self._handlers[request.kind].handle(request)
        except CrawlerError as error:
            return failure(request, error) if isinstance(error, RequestFailed) else self._given_back(error)
        except Exception:  # noqa: BLE001  # one bad page or picture must never cost more than itself
            _log.info("action=handle url=%s", request.location, exc_info=True)
            return failure(request, RequestFailed("internal"))

    # committing ---------------------------------------------------------------------------------------------------

    def _finish(self, held: Held, outcome: Outcome) -> None:
        try:
            with self._changed:
                outcome = self._reach.judge(outcome, held.turn.host)
        except NetworkError as error:
            outcome = self._given_back(error, outcome.token)
        if outcome.record is not None and not outcome.record.fetched_at:
            outcome = structs.replace(outcome, record=structs.replace(outcome.record, fetched_at=time.time()))
        self._finished.put(self._noted(outcome))
        with self._changed:
            received = self._progress.received + outcome.received
            self._progress = structs.replace(self._progress, received=received)

    def _noted(self, outcome: Outcome) -> Outcome:
        """The outcome, noted; where the disk refuses, its request goes back uncharged."""
        try:
            self._keeper.note(outcome)
        except DiskError as error:
            return self._given_back(error, outcome.token)
        return outcome

    def _given_back(self, error: CrawlerError, token: str = "") -> Outcome:
        """The outcome of what met a local fault: whatever it is, the request is not to blame."""
        is_disk = isinstance(error, DiskError)
        if not (isinstance(error, DiskError) and self._disk.begin(error)):
            self._fail(error)
        elif isinstance(error, NoHandles):
            with self._changed:
                self._width = max(1, min(self._width, self._busy // 2))
            self._save_handles()
        return Outcome(status="released", token=token, down="disk" if is_disk else "")

    def _save_handles(self) -> None:
        """Where there are too few of them, no thread keeps a connection for later."""
        if self._relieve is not None and self._width < self._settings.threads:
            self._relieve()

    def _credit(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> None:
        """Count what the frontier has decided, and leave to it what it knows now."""
        of = Counter(it.change if it.change == "unchanged" else it.status for it in verdicts if it.state == "accepted")
        with self._changed:
            self._shunned.told(outcomes, self._clock())
            now = self._progress
            self._progress = structs.replace(
                now,
                saved=now.saved + of["success"],
                duplicates=now.duplicates + of["duplicate"],
                failed=now.failed + of["failed"],
                unchanged=now.unchanged + of["unchanged"],
            )

    def _commit_all(self) -> None:
        """Tell what has no file at once, and what has one after a flush that it shares with others."""
        waiting: list[Outcome] = []
        since = 0.0
        while True:
            last_call = self._over.is_set()
            fresh = self._collect()
            ended = [event.turn for event in fresh if isinstance(event, Ended)]
            outcomes = [event for event in fresh if isinstance(event, Outcome)]
            files = [outcome for outcome in outcomes if _has_file(outcome)]
            since = self._clock() if files and not waiting else since
            waiting += files
            late = len(waiting) >= _FLUSH_FILES or self._clock() - since >= _FLUSH_SECONDS
            # What a host has answered before it complained is told before the complaint.
            if waiting and (late or last_call or any(map(wants_rest, outcomes)) or self._is_idle()):
                self._tell(waiting, [])
                waiting = []
            self._tell([outcome for outcome in outcomes if not _has_file(outcome)], ended)
            self._keeper.go_on()
            if last_call and not fresh:
                self._keeper.finish(self._told)
                return

    def _kept(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The outcomes, once they are durable; where the disk refuses, the requests go back uncharged."""
        try:
            self._keeper.keep(outcomes)
        except DiskError as error:
            return [self._given_back(error, outcome.token) for outcome in outcomes]
        return outcomes

    def _collect(self) -> list[Outcome | Ended]:
        """What has come since the last look; waits a moment for the first of it."""
        events: list[Outcome | Ended] = []
        try:
            events.append(self._finished.get(timeout=0.02 if self._over.is_set() else _NAP))
            while len(events) < _FLUSH_FILES:
                events.append(self._finished.get_nowait())
        except queue.Empty:
            pass
        return events

    def _is_idle(self) -> bool:
        with self._changed:
            return self._busy == 0 and self._finished.empty()

    def _tell(self, outcomes: list[Outcome], ended: list[str]) -> None:
        if not outcomes and not ended:
            return
        outcomes = self._kept(outcomes)
        told = {outcome.token for outcome in outcomes}
        with self._changed:  # before they are told: a renewal that overtakes us must not take them for lost
            for held in self._held.values():
                held.open -= told
        verdicts = self._frontier.complete(self.name, outcomes, ended)
        self._credit(outcomes, verdicts)
        self._keeper.settle(outcomes, verdicts)
        with self._changed:
            for name in [name for name, held in self._held.items() if not held.open]:
                del self._held[name]

    # keeping the leases -------------------------------------------------------------------------------------------

    def _keep_leases(self) -> None:
        """Renew all leases in time; cut what is under way when one could not be kept."""
        asked_at = self._clock()
        while not self._over.wait(min(_LISTEN, self._settings.renewal)):
            self._share_out()
            with self._changed:
                tokens = {token: held for held in self._held.values() for token in held.open}
            if not tokens or self._clock() < asked_at + self._renewal():
                continue
            asked_at = self._clock()
            renewal = self._frontier.extend(self.name, tuple(tokens), self._settings.lease)
            lost = set(renewal.lost)
            for host in renewal.quiet:
                self._shun(host, 0.0)  # it knows what it lends from now on
            with self._changed:
                gone = [held for token, held in tokens.items() if token in lost and token in held.open]
                for held in tokens.values():
                    held.until = asked_at + self._settings.lease
                for held in gone:
                    held.is_over = True
                if gone and self._abort is not None:
                    self._abort()
                self._changed.notify_all()

    def _share_out(self) -> None:
        """Give back what waits behind a slow request and may be begun by others meanwhile."""
        with self._changed:  # they are there before the turn's thread, and then perhaps the worker, ends
            for outcome in [each for held in self._held.values() for each in held.share_out(self._clock())]:
                self._finished.put(outcome)

    def _renewal(self) -> float:
        """Seconds until the next renewal: soon, where others visit our hosts too and may hear of a wait before us."""
        with self._changed:
            is_shared = any(not held.turn.gap and held.open and not held.is_over for held in self._held.values())
        return min(_LISTEN, self._settings.renewal) if is_shared else self._settings.renewal

    # when something gives out -------------------------------------------------------------------------------------

    def _guard(self, task: Callable[[], None]) -> None:
        """Run a thread's task; the first error stops the worker and is raised by `run`."""
        try:
            task()
        except CrawlerError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  # a thread that dies in silence would hang the crawl
            _log.info("action=worker name=%s", self.name, exc_info=True)
            self._fail(CrawlerError(f"internal error in {self.name}: {type(error).__name__}: {error}"))

    def _fail(self, error: CrawlerError) -> None:
        with self._changed:
            self._error = self._error or error
            self._stopping.set()
            self._changed.notify_all()


def _has_file(outcome: Outcome) -> bool:
    return outcome.record is not None and bool(outcome.record.path)
