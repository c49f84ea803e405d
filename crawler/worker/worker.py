"""The worker: leases turns, handles requests, flushes files and reports outcomes, for pages and images alike.

The caller's thread asks for turns, a `Committer` reports outcomes (it flushes a file before it reports the success),
and one thread renews the leases and reports ended turns. A `Runner` carries out the turns, with threads or in an event
loop: each turn one request at a time, at the pace that the frontier has set for the host.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from msgspec import Struct, structs

from crawler.errors import CrawlerError, DiskError, NetworkError, NoHandles, RequestFailed
from crawler.frontier.base import Frontier
from crawler.handler import Handler, failure
from crawler.model import GrantState, Kind, Outcome, Request
from crawler.store.full_disk_pause import DiskPause
from crawler.store.result_store import ResultStore
from crawler.worker.committer import Committer
from crawler.worker.dns_breaker import DnsBreaker
from crawler.worker.held_turns import NAP, HeldTurn, HeldTurns
from crawler.worker.patient_calls import PatientFrontier, PatientStore
from crawler.worker.runner import Desk, Runner, ThreadRunner
from crawler.worker.turn import wants_rest
from crawler.worker.turn_maintenance import maintain_turns

_log = logging.getLogger(__name__)

#: Seconds that one lease call waits for work; short, so that the worker reacts to a stop soon.
_POLL = 1.0
#: Turns that a worker asks for before it has an outcome.
_FIRST_TURNS = 4
#: Most requests of one lease call.
_MOST_REQUESTS = 256
#: Requests held from which on a lease call asks for few: each renewal names all of them.
_MANY_HELD = 2_048
#: Unreported outcomes at which a worker asks for no more: its disk is slower than its downloads.
_MOST_UNREPORTED = 1_024
#: Seconds for which a busy host that names no time is avoided, until the frontier has decided.
_AVOID_SECONDS = 1.0


class WorkerSettings(Struct, frozen=True, kw_only=True):
    """Settings of one worker; times in seconds."""

    threads: int = 16
    #: Requests per lease call; more if many turns are free.
    batch: int = 16
    lease: float = 120.0
    #: Longest duration of one request. No request starts when less than this is left of the lease.
    request: float = 60.0
    #: Longest wait of a worker that has never reached a name server.
    patience: float = 60.0

    @property
    def renewal(self) -> float:
        """Seconds between two renewals of the leases."""
        return self.lease / 4

    @property
    def margin(self) -> float:
        """Seconds of a lease that must be left to start a request."""
        return min(self.request, self.lease / 2)


class WorkerProgress(Struct, frozen=True, kw_only=True):
    """Counts of a worker since its start."""

    #: Image URLs by verdict of the frontier.
    saved: int = 0
    duplicates: int = 0
    failed: int = 0
    #: Image URLs that a refresh has found unchanged. No other count includes them.
    unchanged: int = 0
    #: Bytes received, and requests held.
    received: int = 0
    leases: int = 0
    #: Problem of the disk, such as ``disk full``, or empty.
    trouble: str = ""


class Worker:
    """Worker that processes requests of a frontier until the frontier is drained or the worker is stopped.

    Args:
        name: name of the worker, the same after a restart.
        frontier: source of the requests.
        handlers: handler of each kind; the worker asks for no other kinds.
        settings: threads and times.
        store: makes outcomes durable before they are reported; None if there is nothing to make durable.
        disk: waits while the disk is unavailable; None: the first disk error ends the worker.
        abort: cuts all connections in use; called from any thread.
        relieve: closes idle connections; called from any thread.
        runner: returns the runner of this worker, which carries out its turns.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        frontier: Frontier,
        handlers: Mapping[Kind, Handler],
        settings: WorkerSettings,
        *,
        store: ResultStore | None = None,
        disk: DiskPause | None = None,
        abort: Callable[[], None] | None = None,
        relieve: Callable[[], None] | None = None,
        runner: Callable[[Desk], Runner] = ThreadRunner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._handlers, self._settings = handlers, settings
        self._cut, self._relieve, self.clock = abort or (lambda: None), relieve or (lambda: None), clock
        self._stopping = threading.Event()
        self._over = threading.Event()
        #: Set when the caller asks the worker to stop, not when it ends by itself.
        self._stop_requested = threading.Event()
        self._disk = disk or DiskPause()
        self._store = PatientStore(store, self._disk)
        self._frontier = PatientFrontier(name, frontier, self._over)
        #: The turns of this worker.
        self.turns = HeldTurns(settings.lease, settings.margin, clock)
        self._committer = Committer(self._frontier, self._store, self.turns, self._give_back)
        #: Lock of the fields below, and announcement of changes.
        self._changed = self.turns.changed
        #: Turns below which the worker asks for more; reduced when file descriptors run out.
        self._max_turns = settings.threads
        self._dns_breaker = DnsBreaker(settings.patience, clock)
        self._new_runner = runner
        self._error: CrawlerError | None = None
        self._received = 0
        #: Turns that this worker asks for, one more for each outcome: a worker that starts a moment before the others
        #: leaves them work.
        self._appetite = _FIRST_TURNS

    # public interface ---------------------------------------------------------------------------------------------

    def run(self) -> GrantState:
        """Work until the frontier answers ``drained`` or ``draining``, or until `stop` is called; return that state.

        After `stop` the state is ``draining``.

        Raises:
            CrawlerError: the disk, the master or the key failed. Finished outcomes are reported first, if the frontier
                answers.
        """
        committer = self.thread("commit", lambda: self._committer.run(self._over, self._stop_requested))
        interval = self._settings.renewal
        maintainer = self.thread(
            "maintain", lambda: maintain_turns(self._frontier, self.turns, interval, self._over, self._cut)
        )
        for thread in (committer, maintainer):
            thread.start()
        runner = self._new_runner(self)
        state: GrantState = "draining"
        try:
            state = self._ask(runner)
        except CrawlerError as error:
            self._fail(error)
        finally:
            self._stopping.set()
            runner.close()
            self._over.set()
            self.turns.wake()
            maintainer.join()
            committer.join()
        if self._error is not None:
            raise self._error
        return state

    def stop(self) -> None:
        """Ask the worker to finish the requests in progress and to give back the others."""
        self._stop_requested.set()
        self._stopping.set()

    def abort(self) -> None:
        """Stop, and cut the requests in progress."""
        self.stop()
        self._cut()

    @property
    def progress(self) -> WorkerProgress:
        counts = self._committer.counts
        return WorkerProgress(
            saved=counts["success"],
            duplicates=counts["duplicate"],
            failed=counts["failed"],
            unchanged=counts["unchanged"],
            received=self._received,
            leases=self.turns.open_count,
            trouble=self._disk.trouble,
        )

    @property
    def capacity(self) -> int:
        """Requests that may be in progress at a time."""
        return self._max_turns

    # asking for work ----------------------------------------------------------------------------------------------

    def _ask(self, runner: Runner) -> GrantState:
        """Lease turns whenever the runner has room; return the last state."""
        settings = self._settings
        while not self._stopping.is_set():
            with self._changed:
                if not self._changed.wait_for(self._has_room, NAP):
                    continue
            asked_at = self.clock()
            grant = self._frontier.lease(tuple(self._handlers), self._limit(), settings.lease, _POLL)
            self.turns.note_answer(asked_at)
            if grant.state in ("drained", "draining"):
                return grant.state
            for turn in grant.turns:
                runner.start(self.turns.add(turn, asked_at))
        return "draining"

    def _has_room(self) -> bool:
        """Return whether to ask for more turns."""
        is_idle = self.turns.busy < min(self._max_turns, self._appetite)
        return is_idle and self.turns.events.qsize() < _MOST_UNREPORTED

    def _limit(self) -> int:
        """Return how many requests to lease. With 0, the frontier reports only its state.

        It is 0 while the disk is unavailable. While the name servers are silent it is 1 now and then, and 0 otherwise.

        Raises:
            DiskError: the disk was unavailable for too long.
        """
        if self._disk.look():
            return 0
        if self._dns_breaker.is_cut_off:
            return 1 if self._dns_breaker.may_try else 0
        with self._changed:
            free = min(self._max_turns, self._appetite) - self.turns.busy
        if self.turns.open_count > _MANY_HELD:
            return self._settings.batch
        return min(_MOST_REQUESTS, self._settings.batch * max(1, free // 4))

    # what the runner calls ----------------------------------------------------------------------------------------

    def may_start(self, held: HeldTurn, at: float) -> bool | None:
        """Return whether a request may start now, as pace, lease and last answer allow; None: that is not yet certain.

        False: the turn is over.
        """
        if self._stopping.is_set() or held.is_over or self._disk.is_on:
            return False
        return self.turns.begin(held, at)

    def attempt(self, request: Request) -> Outcome:
        """Return the outcome of a request from its handler; this may take long."""
        return self.guarded(request, lambda: self._handlers[request.kind].handle(request))

    def guarded(self, request: Request, act: Callable[[], Outcome]) -> Outcome:
        """Return the outcome of ``act``, which handles a request, or the outcome for its exception."""
        try:
            return act()
        except CrawlerError as error:
            return failure(request, error) if isinstance(error, RequestFailed) else self._give_back(error)
        except Exception:  # noqa: BLE001  # one bad page or picture must not affect the others
            _log.info("action=handle url=%s", request.location, exc_info=True)
            return failure(request, RequestFailed("internal"))

    def take(self, held: HeldTurn, outcome: Outcome) -> bool:
        """Take the outcome of a lease; return whether the remaining requests still belong to the turn."""
        asks_for_pause = wants_rest(outcome)
        if asks_for_pause:
            seconds = min(outcome.host_wait or _AVOID_SECONDS, self._settings.patience + _AVOID_SECONDS)
            self.turns.avoid(held.turn.host, seconds, outcome.token)
        self._finish(held, outcome)
        if asks_for_pause or outcome.down:
            self.turns.urgent.set()  # after the outcome is among the events
        with self._changed:
            return held.settle(outcome)

    def end(self, held: HeldTurn) -> None:
        """Take the end of a turn: its last response is complete."""
        self._spare_descriptors()
        self.turns.end(held)

    def thread(self, name: str, task: Callable[[], None]) -> threading.Thread:
        """Return a thread for a task. Its first error stops the worker, and `run` raises it."""

        def guard() -> None:
            try:
                task()
            except CrawlerError as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001  # a thread that ends silently would hang the crawl
                _log.info("action=worker name=%s", self.name, exc_info=True)
                self._fail(CrawlerError(f"internal error in {self.name}: {type(error).__name__}: {error}"))

        return threading.Thread(target=guard, name=f"{self.name}-{name}", daemon=True)

    # outcomes and local faults ------------------------------------------------------------------------------------

    def _finish(self, held: HeldTurn, outcome: Outcome) -> None:
        try:
            with self._changed:
                outcome = self._dns_breaker.judge(outcome, held.turn.host)
        except NetworkError as error:
            outcome = self._give_back(error, outcome.token)
        if outcome.record is not None and not outcome.record.fetched_at:
            outcome = structs.replace(outcome, record=structs.replace(outcome.record, fetched_at=time.time()))
        with self._changed:
            self._received += outcome.received
            self._appetite += 1
            if self._appetite <= self._max_turns:
                self._changed.notify_all()
        try:
            self._store.note(outcome)
        except DiskError as error:
            outcome = self._give_back(error, outcome.token)
        self.turns.events.put(outcome)

    def _give_back(self, error: CrawlerError, token: str = "") -> Outcome:
        """Handle a local fault, which is never the request's; return an outcome that releases the request uncharged."""
        is_disk = isinstance(error, DiskError)
        if not (isinstance(error, DiskError) and self._disk.begin(error)):
            self._fail(error)
        elif isinstance(error, NoHandles):
            with self._changed:
                self._max_turns = max(1, min(self._max_turns, self.turns.busy // 2))
            self._spare_descriptors()
        return Outcome(status="released", token=token, down="disk" if is_disk else "")

    def _spare_descriptors(self) -> None:
        """Close idle connections if file descriptors have run out before."""
        if self._max_turns < self._settings.threads:
            self._relieve()

    def _fail(self, error: CrawlerError) -> None:
        """Stop with an error, which `run` raises."""
        with self._changed:
            self._error = self._error or error
            self._stopping.set()
            self._changed.notify_all()
