"""One worker with a real frontier in memory: pace, redirects, robots, leases, flushes, faults."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from msgspec import structs

from crawler.errors import ConfigError, CrawlerError, DiskError, NetworkError, RequestFailed
from crawler.frontier.base import PROTOCOL, SILENCE
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.handler import Handler, failure
from crawler.model import Grant, Kind, Outcome, Request, RobotsRules, Verdict, describe
from crawler.store.result_store import ResultStore
from crawler.worker import dns_breaker, held_turns, turn
from crawler.worker.worker import Worker, WorkerSettings
from tests.frontier.fakes import image, images, page, saved
from tests.support.processes import wait_until

EAGER = Policy(robots=False, delay=0.0, per_host=4, patience=0.5)
FAST = WorkerSettings(threads=2, lease=2.0, request=0.5)


class Handle:
    """A handler made of a function; it records the URLs and their start times."""

    def __init__(self, answer: Callable[[Request], Outcome]) -> None:
        self._answer = answer
        self.seen: list[str] = []
        self.starts: list[float] = []

    def handle(self, request: Request) -> Outcome:
        self.seen.append(request.location)
        self.starts.append(time.monotonic())
        return self._answer(request)


class Shelf(ResultStore):
    """A result store that records its calls, and fails on demand."""

    def __init__(self, error: CrawlerError | None = None) -> None:
        self.noted: list[Outcome] = []
        self.kept: list[Outcome] = []
        self.settled: list[Verdict] = []
        self._error = error

    def note(self, outcome: Outcome) -> None:
        self.noted.append(outcome)

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        assert set(map(id, outcomes)) <= set(map(id, self.noted))
        self.kept += outcomes
        if outcomes and self._error is not None:
            raise self._error

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], *, worker: str = "") -> None:
        assert len(outcomes) == len(verdicts)
        self.settled += verdicts


def good(request: Request) -> Outcome:
    return Outcome(status="done", record=saved(request) if request.kind == "image" else None)


def worker(frontier: SqliteFrontier, handler: Handler, kind: Kind = "image", **options: object) -> Worker:
    settings = options.pop("settings", FAST)
    assert isinstance(settings, WorkerSettings)
    return Worker("w1", frontier, {kind: handler}, settings, **options)  # type: ignore[arg-type]


@pytest.fixture
def frontier() -> Iterator[SqliteFrontier]:
    made = SqliteFrontier(None, EAGER)
    yield made
    made.close()


@contextmanager
def running(worker: Worker) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield thread
    finally:
        worker.abort()
        thread.join(20)
        assert not thread.is_alive()


def test_a_worker_works_until_the_crawl_is_over(frontier: SqliteFrontier) -> None:
    frontier.put(images(50))
    handler = Handle(good)
    assert worker(frontier, handler).run() == "drained"
    assert len(handler.seen) == len(set(handler.seen)) == 50
    assert frontier.stats().success == 50


def test_a_worker_that_is_done_does_not_wait_for_events(
    frontier: SqliteFrontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("committer.NAP", "turn_maintenance._CHECK_SECONDS"):
        monkeypatch.setattr(f"crawler.worker.{name}", threading.TIMEOUT_MAX)
    settings = WorkerSettings(threads=2, lease=1_000_000.0, request=0.5)
    frontier.put(images(3))
    with running(worker(frontier, Handle(good), settings=settings)) as thread:
        thread.join(20)
        assert not thread.is_alive()
    assert frontier.stats().success == 3


def test_a_success_is_reported_only_after_its_flush(frontier: SqliteFrontier) -> None:
    frontier.put(images(3))
    told_too_soon: list[int] = []

    class Watching(Shelf):
        def keep(self, outcomes: Sequence[Outcome]) -> None:
            told_too_soon.append(frontier.stats().success - len(self.kept))
            super().keep(outcomes)

    shelf = Watching()
    worker(frontier, Handle(good), store=shelf).run()
    assert max(told_too_soon) == 0
    assert [verdict.status for verdict in shelf.settled] == ["success"] * 3


def test_a_host_without_a_gap_is_free_before_the_files_of_its_turn_are_durable() -> None:
    """The second turn is leased while the flush of the first one's file takes long."""
    is_second = threading.Event()

    class Slow(Shelf):
        def keep(self, outcomes: Sequence[Outcome]) -> None:
            super().keep(outcomes)
            if outcomes:
                assert is_second.wait(20)

    def answer(request: Request) -> Outcome:
        if request.url.endswith("/1.jpg"):
            is_second.set()
        return good(request)

    frontier = SqliteFrontier(None, Policy(robots=False, delay=0.0, per_host=1, patience=0.5))
    frontier.put(images(2))
    settings = WorkerSettings(threads=2, batch=1)
    assert worker(frontier, Handle(answer), settings=settings, store=Slow()).run() == "drained"
    assert frontier.stats().success == 2


def test_the_first_request_waits_for_the_crawl_delay_that_robots_txt_names() -> None:
    frontier = SqliteFrontier(None, Policy(delay=0.0, per_host=4, patience=0.5))
    frontier.put(images(1))
    rules = Outcome(status="done", robots=RobotsRules(crawl_delay=0.5))
    handler = Handle(lambda request: rules if request.kind == "robots" else good(request))
    assert Worker("w1", frontier, {"robots": handler, "image": handler}, FAST).run() == "drained"
    assert len(handler.starts) == 2 and handler.starts[1] - handler.starts[0] >= 0.5


def test_a_host_that_asked_for_a_pause_is_not_free_before_the_frontier_knows_of_it() -> None:
    """While the report of the 503 is late, the frontier grants no other turn of the host."""
    leased: list[int] = []
    frontier = SqliteFrontier(None, Policy(robots=False, delay=0.0, per_host=1, patience=0.5))

    class Slow(Shelf):
        def keep(self, outcomes: Sequence[Outcome]) -> None:
            if outcomes and not leased:
                time.sleep(0.2)
                leased.append(frontier.stats().leased)

    busy = Outcome(status="retry", reason="http-503", retry_in=100.0, host_wait=100.0, overloaded=True)
    frontier.put(images(5))
    settings = WorkerSettings(threads=2, batch=1)
    worker(frontier, Handle(lambda request: busy), settings=settings, store=Slow()).run()
    assert leased == [1]


def test_a_host_that_is_down_is_not_free_before_the_frontier_knows_of_it() -> None:
    """The report of the first miss comes late, and no second request starts before it."""
    is_reported = threading.Event()

    class Slow(Shelf):
        def keep(self, outcomes: Sequence[Outcome]) -> None:
            if outcomes and not is_reported.is_set():
                time.sleep(0.5)
                is_reported.set()

    def answer(request: Request) -> Outcome:
        early.append(not is_reported.is_set())
        return failure(request, RequestFailed("connect", retryable=True, down="host"))

    early: list[bool] = []
    frontier = SqliteFrontier(None, Policy(robots=False, delay=0.0, per_host=1, patience=0.5))
    frontier.put(images(5))
    settings = WorkerSettings(threads=2, batch=1)
    worker(frontier, Handle(answer), settings=settings, store=Slow()).run()
    assert early.count(True) == 1


def test_a_worker_whose_disk_is_slower_than_its_downloads_leaves_work_to_others(
    frontier: SqliteFrontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawler.worker.worker._MOST_UNREPORTED", 20)
    is_free = threading.Event()

    class Slow(Shelf):
        def keep(self, outcomes: Sequence[Outcome]) -> None:
            assert is_free.wait(20)

    frontier.put(images(500))
    settings = WorkerSettings(threads=4, batch=4)
    slow = worker(frontier, Handle(good), settings=settings, store=Slow())
    with running(slow):
        wait_until(lambda: slow.turns.events.qsize() >= 20 and not slow.turns.busy, "all that was leased is handled")
        leased = frontier.stats().leased
        is_free.set()
        assert leased < 100
        wait_until(lambda: frontier.stats().success == 500, "all are reported")


def test_a_worker_with_many_free_turns_asks_for_more_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    frontier = SqliteFrontier(None, EAGER)
    lease = frontier.lease

    def noting(name: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        limits.append(limit)
        return lease(name, kinds, limit, seconds, wait)

    monkeypatch.setattr(frontier, "lease", noting)
    frontier.put(images(200))
    assert worker(frontier, Handle(good), settings=WorkerSettings(threads=32, batch=2)).run() == "drained"
    assert limits[0] == 2 and max(limits) > 8


def test_a_worker_that_holds_many_requests_asks_for_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of hosts without a gap are as long as a lease call permits: of 40 such hosts, not all requests are held."""
    monkeypatch.setattr("crawler.worker.worker._MANY_HELD", 100)
    monkeypatch.setattr("crawler.worker.worker._FIRST_TURNS", 40)
    is_free = threading.Event()

    def answer(request: Request) -> Outcome:
        assert is_free.wait(20)
        return good(request)

    frontier = SqliteFrontier(None, Policy(robots=False, delay=0.0, patience=0.5))
    frontier.put(
        [Request(url=f"http://h{host}.example/{n}.jpg", kind="image") for host in range(40) for n in range(50)]
    )
    settings = WorkerSettings(threads=40, batch=4)
    with running(worker(frontier, Handle(answer), settings=settings)) as thread:
        wait_until(lambda: frontier.stats().leased >= 100 + 30 * 4, "many requests are leased")
        time.sleep(0.2)
        leased = frontier.stats().leased
        is_free.set()
        assert leased <= 100 + 40 + 40 * 4
        thread.join(20)
    assert frontier.stats().success == 2_000


def test_the_pace_of_a_turn_is_kept() -> None:
    frontier = SqliteFrontier(None, Policy(robots=False, delay=0.1))
    frontier.put(images(8))
    handler = Handle(good)
    worker(frontier, handler).run()
    gaps = [later - earlier for earlier, later in pairwise(handler.starts)]
    assert len(gaps) == 7 and min(gaps) >= 0.049
    frontier.close()


def test_a_redirect_within_the_origin_stays_in_the_turn(frontier: SqliteFrontier) -> None:
    frontier.put([image("http://a.example/old")])

    def answer(request: Request) -> Outcome:
        if request.hops:
            return good(request)
        successor = Request(url=request.url, kind="image", target="http://a.example/new", hops=1)
        return Outcome(status="moved", successor=successor)

    handler = Handle(answer)
    worker(frontier, handler).run()
    assert handler.seen == ["http://a.example/old", "http://a.example/new"]
    assert frontier.stats().success == 1


def test_the_rules_of_the_turn_are_obeyed_after_a_redirect_too() -> None:
    frontier = SqliteFrontier(None, Policy(delay=0.0, patience=0.5))
    frontier.put([image("http://a.example/secret/1.jpg"), image("http://a.example/open")])

    def answer(request: Request) -> Outcome:
        if request.kind == "robots":
            return Outcome(status="done", robots=RobotsRules(text="User-agent: *\nDisallow: /secret/"))
        successor = Request(url=request.url, kind="image", target="http://a.example/secret/2.jpg", hops=1)
        return Outcome(status="moved", successor=successor)

    handler = Handle(answer)
    Worker("w1", frontier, {"image": handler, "robots": handler}, FAST).run()
    assert handler.seen == ["http://a.example/robots.txt", "http://a.example/open"]
    assert frontier.stats().reasons == {"robots": 2}
    frontier.close()


def test_a_busy_host_ends_the_turn_and_the_rest_is_released_uncharged() -> None:
    frontier = SqliteFrontier(None, Policy(robots=False, delay=0.0, per_host=1, patience=5))
    frontier.put(images(5))
    busy = RequestFailed("http-429", retryable=True, overloaded=True, host_wait=0.3, http_status=429)
    answers = iter([busy])

    def answer(request: Request) -> Outcome:
        error = next(answers, None)
        return good(request) if error is None else failure(request, error)

    handler = Handle(answer)
    worker(frontier, handler).run()
    assert handler.starts[1] - handler.starts[0] >= 0.3
    assert [record.attempts for _, record in frontier.records(0, 10)].count(1) == 4
    frontier.close()


def test_an_exception_of_one_picture_costs_only_that_picture(frontier: SqliteFrontier) -> None:
    frontier.put(images(3))

    def answer(request: Request) -> Outcome:
        if request.url.endswith("/1.jpg"):
            raise ZeroDivisionError
        return good(request)

    worker(frontier, Handle(answer)).run()
    assert (frontier.stats().success, frontier.stats().reasons) == (2, {"internal": 1})


def test_a_full_disk_stops_the_worker_and_charges_no_attempt(frontier: SqliteFrontier) -> None:
    frontier.put(images(3))

    def answer(request: Request) -> Outcome:
        raise DiskError("no space")

    with pytest.raises(DiskError):
        worker(frontier, Handle(answer)).run()
    assert frontier.stats().waiting == 3
    worker(frontier, Handle(good)).run()
    assert [record.attempts for _, record in frontier.records(0, 10)] == [1, 1, 1]


def test_an_outcome_without_a_flush_is_not_reported(frontier: SqliteFrontier) -> None:
    frontier.put(images(2))
    with pytest.raises(DiskError):
        worker(frontier, Handle(good), store=Shelf(DiskError("no space"))).run()
    assert (frontier.stats().success, frontier.stats().waiting) == (0, 2)


def test_stop_finishes_current_requests_and_releases_the_rest(frontier: SqliteFrontier) -> None:
    frontier.put(images(40))
    begun, go_on = threading.Event(), threading.Event()

    def answer(request: Request) -> Outcome:
        begun.set()
        go_on.wait(10)
        return good(request)

    crew = worker(frontier, Handle(answer))
    with running(crew) as thread:
        assert begun.wait(10)
        crew.stop()
        go_on.set()
        thread.join(10)
        assert not thread.is_alive()
    stats = frontier.stats()
    assert 1 <= stats.success <= 2 and stats.waiting == 40 - stats.success and not stats.leased


def test_a_cancelled_request_is_released(frontier: SqliteFrontier) -> None:
    frontier.put(images(1))
    cut = threading.Event()

    def answer(request: Request) -> Outcome:
        cut.wait(10)
        return failure(request, RequestFailed("cancelled"))

    crew = worker(frontier, Handle(answer), abort=cut.set)
    with running(crew):
        pass
    assert (frontier.stats().waiting, frontier.stats().failed) == (1, 0)


def test_leases_are_renewed_while_the_work_takes_longer(frontier: SqliteFrontier) -> None:
    frontier.put(images(1))
    go_on = threading.Event()

    def answer(request: Request) -> Outcome:
        go_on.wait(10)
        return good(request)

    crew = worker(frontier, Handle(answer), settings=WorkerSettings(threads=1, lease=0.4, request=0.1))
    with running(crew) as thread:
        threading.Timer(1.2, go_on.set).start()
        thread.join(10)
    assert [record.attempts for _, record in frontier.records(0, 10)] == [1]
    assert frontier.stats().success == 1


def test_connections_are_cut_when_a_lease_was_lost(frontier: SqliteFrontier) -> None:
    frontier.put(images(1))
    begun, cut = threading.Event(), threading.Event()

    def answer(request: Request) -> Outcome:
        begun.set()
        cut.wait(10)
        return failure(request, RequestFailed("cancelled"))

    crew = worker(frontier, Handle(answer), abort=cut.set, settings=WorkerSettings(threads=1, lease=0.4, request=0.1))
    with running(crew):
        assert begun.wait(10)
        frontier.hello("w1", PROTOCOL)  # another life of the same worker
        assert cut.wait(10)


def test_no_request_is_started_while_the_frontier_is_silent(frontier: SqliteFrontier) -> None:
    """Consider the worker's connection, which may be closed; its host may be leased to others by now."""
    frontier.put(images(5))
    now = [0.0]
    asked, back = threading.Event(), threading.Event()
    back.set()

    class Away:
        def __getattr__(self, name: str) -> Any:
            if not back.is_set():
                asked.set()
                back.wait(60)
            return getattr(frontier, name)

    def answer(request: Request) -> Outcome:
        if not asked.is_set():
            back.clear()
            now[0] += SILENCE + 1  # within the lease
        assert back.is_set() or request.url.endswith("/0.jpg")
        return good(request)

    crew = Worker("w1", Away(), {"image": Handle(answer)}, WorkerSettings(threads=1), clock=lambda: now[0])
    with running(crew) as thread:
        assert asked.wait(60)
        back.set()
        thread.join(60)
    assert frontier.stats().success == 5


def test_an_error_of_the_frontier_ends_the_worker(frontier: SqliteFrontier) -> None:
    frontier.put([page()])

    def answer(request: Request) -> Outcome:
        raise ConfigError("a local fault")

    with pytest.raises(ConfigError):
        worker(frontier, Handle(answer), "page").run()
    assert frontier.stats().pages_waiting == 1


def test_progress_counts_the_finished_requests(frontier: SqliteFrontier) -> None:
    frontier.put([*images(2), image("http://a.example/bad")])

    def answer(request: Request) -> Outcome:
        if request.url.endswith("bad"):
            return Outcome(status="done", reason="http-404", record=describe(request, reason="http-404"), received=7)
        return good(request)

    crew = worker(frontier, Handle(answer))
    crew.run()
    progress = crew.progress
    assert (progress.saved, progress.failed, progress.received, progress.leases) == (2, 1, 7, 0)


def test_a_busy_host_ends_all_its_turns_in_this_worker(frontier: SqliteFrontier) -> None:
    frontier.put(images(40))
    barrier = threading.Barrier(2, timeout=10)
    asked_after: list[str] = []
    busy = RequestFailed("http-503", retryable=True, overloaded=True, host_wait=30.0, http_status=503)
    told = threading.Event()

    def answer(request: Request) -> Outcome:
        if told.is_set():
            asked_after.append(request.url)
            return good(request)
        first = barrier.wait() == 0
        if first:
            told.set()
            return failure(request, busy)
        told.wait(10)
        return good(request)

    crew = worker(frontier, Handle(answer))
    assert crew.run() == "drained"  # requests that wait for longer than the patience fail
    assert len(asked_after) <= 1 and frontier.stats().reasons == {"rate-limited": 40 - frontier.stats().success}


def test_requests_behind_a_slow_one_are_started_by_other_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "TURN_SECONDS", 0.2)
    monkeypatch.setattr(held_turns, "TURN_SECONDS", 0.2)
    frontier = SqliteFrontier(None, structs.replace(EAGER, per_host=2))
    frontier.put(images(10))
    others = threading.Semaphore(0)

    def answer(request: Request) -> Outcome:
        if request.url.endswith("/0.jpg"):
            assert all(others.acquire(timeout=10) for _ in range(9))
        else:
            others.release()
        return good(request)

    handler = Handle(answer)
    worker(frontier, handler, settings=WorkerSettings(threads=2)).run()
    assert (len(handler.seen), frontier.stats().success) == (10, 10)
    assert [record.attempts for _, record in frontier.records(0, 20)] == [1] * 10
    frontier.close()


def test_a_url_with_a_long_wait_of_its_own_delays_no_other() -> None:
    frontier = SqliteFrontier(None, structs.replace(EAGER, patience=5.0), dice=lambda: 0.0)
    frontier.put(images(40))
    busy = RequestFailed("http-429", retryable=True, overloaded=True, host_wait=3_600.0, http_status=429)
    asked: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(frontier, name)

        def lease(self, *args: object) -> object:
            asked.append(1)
            return frontier.lease(*args)  # type: ignore[arg-type]

    handler = Handle(lambda request: failure(request, busy) if request.url.endswith("/7.jpg") else good(request))
    Worker("w1", Counting(), {"image": handler}, FAST).run()  # type: ignore[arg-type]
    assert (frontier.stats().success, frontier.stats().reasons) == (39, {"rate-limited": 1})
    assert len(asked) < 60
    frontier.close()


def test_earlier_successes_of_a_host_are_reported_before_its_overload() -> None:
    frontier = SqliteFrontier(None, structs.replace(EAGER, per_host=1, patience=5.0), dice=lambda: 0.0)
    frontier.put(images(12))
    busy = RequestFailed("http-429", retryable=True, overloaded=True, host_wait=3_600.0, http_status=429)

    def answer(request: Request) -> Outcome:
        odd = request.url.endswith(("/3.jpg", "/7.jpg"))
        return failure(request, busy) if odd else structs.replace(good(request), latency=0.01)

    Worker("w1", frontier, {"image": Handle(answer)}, FAST).run()
    assert (frontier.stats().success, frontier.stats().reasons) == (10, {"rate-limited": 2})
    frontier.close()


def test_a_renewal_that_overtakes_a_result_cancels_nothing(frontier: SqliteFrontier) -> None:
    cuts: list[str] = []

    class Slow:
        """A frontier whose responses to `complete` take some time."""

        def __getattr__(self, name: str) -> object:
            return getattr(frontier, name)

        def complete(self, *args: object) -> object:
            verdicts = frontier.complete(*args)  # type: ignore[arg-type]
            threading.Event().wait(0.3)  # the response is on its way while the leases are renewed
            return verdicts

    frontier.put(images(6))
    settings = WorkerSettings(threads=1, batch=1, lease=0.4, request=0.1)
    crew = Worker("w1", Slow(), {"image": Handle(good)}, settings, abort=lambda: cuts.append("cut"))  # type: ignore[arg-type]
    crew.run()
    assert (cuts, frontier.stats().success) == ([], 6)


def test_a_wait_reported_by_another_worker_ends_our_turns_too() -> None:
    """Use a host without a gap, which has other visitors: they learn of the wait within a moment."""
    frontier = SqliteFrontier(None, Policy(robots=False, delay=0.0, per_host=2, patience=1_000.0))
    frontier.put(images(200))
    go_on = threading.Event()

    def slowly(request: Request) -> Outcome:
        go_on.wait(0.05)
        return good(request)

    handler = Handle(slowly)
    with running(worker(frontier, handler, settings=structs.replace(FAST, threads=1, batch=100))):
        wait_until(lambda: len(handler.seen) > 2, "work")
        grant = frontier.lease("w2", ["image"], 1, 60.0, 5.0)
        [held] = [lease for turn in grant.turns for lease in turn.leases]
        busy = Outcome(status="retry", token=held.token, reason="http-429", overloaded=True, host_wait=300.0)
        frontier.complete("w2", [busy], [turn.id for turn in grant.turns])
        told = time.monotonic()
        wait_until(lambda: frontier.stats().leased == 0, "the release of the rest")
        assert max(handler.starts) < told + 1.0
        assert frontier.stats().waiting > 90
    go_on.set()
    frontier.close()


# --- a machine without name servers


class Names:
    """Name servers that can be silent."""

    def __init__(self) -> None:
        self.is_silent = True

    def answer(self, request: Request) -> Outcome:
        if self.is_silent:
            return failure(request, RequestFailed("dns", retryable=True, down="resolver"))
        return structs.replace(good(request), latency=0.01)


def test_a_silent_name_server_makes_no_url_fail(
    frontier: SqliteFrontier, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_breaker, "_PAUSE", 0.01)
    monkeypatch.setattr(dns_breaker, "_LONGEST_PAUSE", 0.02)
    names = Names()
    frontier.put([image(f"http://{n}.example/") for n in range(12)])
    handler = Handle(names.answer)
    with running(worker(frontier, handler)) as thread:
        wait_until(lambda: len(handler.seen) > 20, "failed attempts")
        assert (frontier.stats().failed, frontier.stats().discovered) == (0, 12)
        names.is_silent = False
        thread.join(20)
    assert (frontier.stats().failed, frontier.stats().success) == (0, 12)
    told = [record.message for record in caplog.records if "name server" in record.message]
    assert len(told) == 2 and "no name server answers" in told[0] and "answer again" in told[1]


def test_a_machine_that_never_reached_a_name_server_gives_up_and_no_request_fails(frontier: SqliteFrontier) -> None:
    frontier.put(images(4))
    impatient = structs.replace(FAST, patience=0.0)
    with pytest.raises(NetworkError, match="no name server answers this machine"):
        worker(frontier, Handle(Names().answer), settings=impatient).run()
    stats = frontier.stats()
    assert (stats.failed, stats.waiting, stats.leased) == (0, 4, 0)


def test_a_machine_without_name_servers_still_learns_of_the_end(frontier: SqliteFrontier) -> None:
    frontier.put([image(f"http://{n}.example/") for n in range(3)])
    handler = Handle(Names().answer)
    with running(worker(frontier, handler)) as thread:
        wait_until(lambda: len(handler.seen) >= 3, "failed attempts")
        frontier.drain()
        thread.join(5)
        assert not thread.is_alive()
    assert frontier.stats().failed == 0


def test_requests_without_lookups_continue_beside_a_silent_name_server(frontier: SqliteFrontier) -> None:
    names = Names()

    def answer(request: Request) -> Outcome:
        is_named = request.url.startswith("http://broken")
        return names.answer(request) if is_named else structs.replace(good(request), latency=0.01)

    frontier.put([image("http://broken.example/"), *images(60)])
    with running(worker(frontier, Handle(answer))):
        wait_until(lambda: frontier.stats().success == 60, "all available pictures")
    assert frontier.stats().failed == 0


def test_names_that_do_not_exist_are_no_outage(frontier: SqliteFrontier) -> None:
    frontier.put([image(f"http://{n}.example/") for n in range(12)])
    gone = RequestFailed("dns", down="host")
    assert worker(frontier, Handle(lambda request: failure(request, gone))).run() == "drained"
    assert frontier.stats().reasons == {"dns": 12}
