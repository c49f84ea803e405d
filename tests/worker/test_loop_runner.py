"""The runner with an event loop, with a worker and a fetcher that only record what they are asked."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from crawler.errors import CrawlerError, DiskError, RequestFailed, UnreadableHead
from crawler.model import Lease, Outcome, PriorFetch, Request, Turn
from crawler.net.event_loop import EventLoop
from crawler.net.fetcher import Conditions, Receiver, Response
from crawler.worker.held_turns import HeldTurn, HeldTurns
from crawler.worker.loop_runner import LoopRunner

PATIENCE = 10.0


class Image:
    """A receiver of which tests decide whether it is heavy, and how it ends."""

    conditions = Conditions()
    size = 2**29

    def __init__(self, request: Request, act: Callable[[], Outcome], *, is_heavy: bool = False) -> None:
        self.request, self._act, self.is_heavy = request, act, is_heavy

    def begin(self, response: Response) -> bool:
        return True

    def feed(self, piece: bytes) -> None:
        pass

    def finish(self) -> Outcome:
        return self._act()

    def fail(self, error: RequestFailed) -> Outcome:
        return Outcome(status="done", reason=error.reason)


class Fetches:
    """A fetcher that keeps its fetches until the test ends them."""

    held_bytes = 0

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self.open: dict[str, Callable[[CrawlerError | None], None]] = {}
        self.changed = threading.Condition()

    def start(self, request: Request, receiver: Receiver, done: Callable[[CrawlerError | None], None]) -> None:
        with self.changed:
            self.open[request.url] = done
            self.changed.notify_all()

    def wait_for(self, *urls: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.open.keys() == set(urls), PATIENCE), self.open

    def end(self, url: str, error: CrawlerError | None = None) -> None:
        with self.changed:
            done = self.open.pop(url)
        self._loop.call(lambda: done(error))


class Desk:
    """A worker that allows what the test says, and records outcomes and ends."""

    name = "test"
    clock = staticmethod(time.monotonic)

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.turns = HeldTurns(60.0, 1.0, time.monotonic)
        self.over = False
        self.outcomes: list[Outcome] = []
        self.ended: list[str] = []
        self.handled: list[str] = []
        self.failures: list[Exception] = []
        self.changed = threading.Condition()

    def may_start(self, held: HeldTurn, at: float) -> bool | None:
        return False if self.over else (True if time.monotonic() >= at else None)

    def attempt(self, request: Request) -> Outcome:
        self.handled.append(request.url)
        return Outcome(status="done", reason="http-404")

    def guarded(self, request: Request, act: Callable[[], Outcome]) -> Outcome:
        try:
            return act()
        except DiskError:
            return Outcome(status="released", down="disk")
        except ValueError:
            return Outcome(status="done", reason="internal")

    def take(self, held: HeldTurn, outcome: Outcome) -> bool:
        with self.changed:
            self.outcomes.append(outcome)
            self.changed.notify_all()
        return True

    def end(self, held: HeldTurn) -> None:
        with self.changed:
            self.ended.append(held.turn.id)
            self.changed.notify_all()

    def thread(self, name: str, task: Callable[[], None]) -> threading.Thread:
        def guard() -> None:
            try:
                task()
            except Exception as error:  # noqa: BLE001  # the test looks at it
                self.failures.append(error)

        return threading.Thread(target=guard, daemon=True)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE)


class Bench:
    """A runner with its desk and its fetches."""

    def __init__(self, capacity: int) -> None:
        self.loop = EventLoop()
        self.desk, self.fetches = Desk(capacity), Fetches(self.loop)
        self.is_heavy = False
        self.act: Callable[[], Outcome] = partial(Outcome, status="done")
        #: Set when the store has said whether it has an image that was fetched before.
        self.has_answered = threading.Event()
        self.runner = LoopRunner(self.desk, self.loop, self.fetches, self.open, opens_in_pool=True)

    def open(self, request: Request) -> Image:
        assert request.prior is None or self.has_answered.wait(PATIENCE)
        return Image(request, self.act, is_heavy=self.is_heavy)

    def start(self, name: str, *urls: str, gap: float = 0.0, **fields: object) -> None:
        requests = [Request(url=url, **{"kind": "image", **fields}) for url in urls]  # type: ignore[arg-type]
        leases = tuple(Lease(request=request, token=request.url) for request in requests)
        self.runner.start(HeldTurn(Turn(id=name, host="a.example", gap=gap, leases=leases), 0.0))

    def start_heavy(self) -> threading.Event:
        """Fetch a heavy image, which stays in the pool until the event is set."""
        self.is_heavy, done = True, threading.Event()

        def act() -> Outcome:
            assert done.wait(PATIENCE)
            return Outcome(status="done")

        self.act = act
        self.start("t", "http://a.example/1")
        self.fetches.wait_for("http://a.example/1")
        self.fetches.end("http://a.example/1")
        return done

    def close(self) -> None:
        closer = threading.Thread(target=self.runner.close)
        closer.start()
        closer.join(PATIENCE)
        assert not closer.is_alive(), "the runner does not end"


@pytest.fixture
def make() -> Iterator[Callable[[int], Bench]]:
    made: list[Bench] = []

    def maker(capacity: int) -> Bench:
        made.append(Bench(capacity))
        return made[-1]

    yield maker
    for bench in made:
        bench.desk.over = True
        for url in list(bench.fetches.open):
            bench.fetches.end(url)
        bench.close()
        bench.loop.close()


def test_a_turn_has_one_request_at_a_time_and_ends_after_the_last(make: Callable[[int], Bench]) -> None:
    bench = make(4)
    bench.start("t", "http://a.example/1", "http://a.example/2")
    bench.fetches.wait_for("http://a.example/1")
    bench.fetches.end("http://a.example/1")
    bench.fetches.wait_for("http://a.example/2")
    assert (len(bench.desk.outcomes), bench.desk.ended) == (1, [])
    bench.fetches.end("http://a.example/2")
    bench.desk.wait_for(lambda: bench.desk.ended == ["t"])
    assert [outcome.token for outcome in bench.desk.outcomes] == ["http://a.example/1", "http://a.example/2"]


def test_the_gap_of_a_turn_is_kept(make: Callable[[int], Bench]) -> None:
    bench = make(4)
    bench.start("t", "http://a.example/1", "http://a.example/2", gap=0.2)
    bench.fetches.wait_for("http://a.example/1")
    began = time.monotonic()
    bench.fetches.end("http://a.example/1")
    bench.fetches.wait_for("http://a.example/2")
    assert time.monotonic() - began >= 0.2


def test_no_more_requests_than_the_capacity_are_in_progress(make: Callable[[int], Bench]) -> None:
    bench = make(1)
    for name in ("1", "2", "3"):
        bench.start(name, f"http://a.example/{name}")
    for name in ("1", "2", "3"):
        bench.fetches.wait_for(f"http://a.example/{name}")
        bench.fetches.end(f"http://a.example/{name}")
    bench.desk.wait_for(lambda: len(bench.desk.ended) == 3)


def test_turns_that_wait_for_room_end_when_they_may_no_longer_start(make: Callable[[int], Bench]) -> None:
    bench = make(1)
    for name in ("1", "2", "3", "4"):
        bench.start(name, f"http://a.example/{name}")
    bench.fetches.wait_for("http://a.example/1")
    waiting = threading.Event()
    bench.loop.call(waiting.set)
    assert waiting.wait(PATIENCE)
    bench.desk.over = True
    bench.fetches.end("http://a.example/1")
    bench.desk.wait_for(lambda: len(bench.desk.ended) == 4)
    assert [outcome.status for outcome in bench.desk.outcomes] == ["done", "released", "released", "released"]
    bench.close()


def test_no_request_starts_while_much_memory_is_in_use(make: Callable[[int], Bench]) -> None:
    bench = make(4)
    bench.fetches.held_bytes = 2**30
    bench.start("t", "http://a.example/1")
    reached = threading.Event()
    bench.loop.call(reached.set)
    assert reached.wait(PATIENCE) and not bench.fetches.open
    bench.fetches.held_bytes = 0
    bench.fetches.wait_for("http://a.example/1")


def test_no_request_starts_while_large_images_are_in_the_pool(make: Callable[[int], Bench]) -> None:
    bench = make(4)
    done = bench.start_heavy()
    bench.start("u", "http://a.example/2")
    reached = threading.Event()
    bench.loop.call(reached.set)
    assert reached.wait(PATIENCE) and not bench.fetches.open
    done.set()
    bench.fetches.wait_for("http://a.example/2")


def test_a_store_on_another_machine_does_not_stop_the_loop(make: Callable[[int], Bench]) -> None:
    """An image that was fetched before is looked for in the store when its receiver is opened."""
    bench = make(4)
    bench.start("t", "http://a.example/1", prior=PriorFetch(url="http://a.example/1"))
    bench.start("u", "http://a.example/2")
    bench.fetches.wait_for("http://a.example/2")
    bench.has_answered.set()
    bench.fetches.wait_for("http://a.example/1", "http://a.example/2")


def test_other_requests_are_handled_in_the_pool(make: Callable[[int], Bench]) -> None:
    bench = make(4)
    bench.start("t", "http://a.example/robots.txt", kind="robots")
    bench.desk.wait_for(lambda: bench.desk.ended == ["t"])
    assert bench.desk.handled == ["http://a.example/robots.txt"] and not bench.fetches.open


def test_a_heavy_image_does_not_stop_the_loop(make: Callable[[int], Bench]) -> None:
    bench = make(4)
    done = bench.start_heavy()
    reached = threading.Event()
    bench.loop.call(reached.set)
    assert reached.wait(PATIENCE) and not bench.desk.outcomes
    done.set()
    bench.desk.wait_for(lambda: bench.desk.ended == ["t"])


def test_an_unreadable_head_is_one_more_request_by_the_handler_after_a_gap(make: Callable[[int], Bench]) -> None:
    bench = make(4)
    bench.start("t", "http://a.example/1", gap=0.2)
    bench.fetches.wait_for("http://a.example/1")
    began = time.monotonic()
    bench.fetches.end("http://a.example/1", UnreadableHead("connect"))
    bench.desk.wait_for(lambda: bench.desk.ended == ["t"])
    assert time.monotonic() - began >= 0.2
    assert bench.desk.handled == ["http://a.example/1"]
    assert [outcome.reason for outcome in bench.desk.outcomes] == ["http-404"]


def test_a_failed_fetch_ends_in_the_outcome_of_its_image(make: Callable[[int], Bench]) -> None:
    bench = make(4)
    bench.start("t", "http://a.example/1")
    bench.fetches.wait_for("http://a.example/1")
    bench.fetches.end("http://a.example/1", RequestFailed("timeout"))
    bench.desk.wait_for(lambda: bench.desk.ended == ["t"])
    assert [outcome.reason for outcome in bench.desk.outcomes] == ["timeout"]


@pytest.mark.parametrize("where", ["open", "finish"])
def test_a_disk_error_is_a_local_fault(make: Callable[[int], Bench], where: str) -> None:
    bench = make(4)

    def refuse(*request: Request) -> Outcome:
        raise DiskError("full")

    if where == "open":
        bench.runner._open_image = refuse  # type: ignore[assignment]
    bench.act = refuse
    bench.start("t", "http://a.example/1")
    if where == "finish":
        bench.fetches.wait_for("http://a.example/1")
        bench.fetches.end("http://a.example/1")
    bench.desk.wait_for(lambda: bench.desk.ended == ["t"])
    assert [(outcome.status, outcome.down) for outcome in bench.desk.outcomes] == [("released", "disk")]


def test_a_fault_at_the_opening_of_an_image_concerns_no_other(make: Callable[[int], Bench]) -> None:
    bench = make(4)

    def fail(request: Request) -> Image:
        if request.url == "http://a.example/1":
            raise ValueError("a fault of ours")
        return Image(request, bench.act)

    bench.runner._open_image = fail
    bench.start("t", "http://a.example/1", "http://a.example/2")
    bench.fetches.wait_for("http://a.example/2")
    bench.fetches.end("http://a.example/2")
    bench.desk.wait_for(lambda: bench.desk.ended == ["t"])
    assert [outcome.reason for outcome in bench.desk.outcomes] == ["internal", ""]


def test_an_error_of_a_thread_ends_the_runner(make: Callable[[int], Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(4)

    def fail(request: Request) -> Outcome:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(bench.desk, "attempt", fail)
    bench.start("t", "http://a.example/robots.txt", kind="robots")
    bench.close()
    assert [str(error) for error in bench.desk.failures] == ["a fault of ours"]


def test_an_error_of_the_loop_ends_the_runner(make: Callable[[int], Bench]) -> None:
    bench = make(4)

    def fail() -> None:
        raise ValueError("a fault of ours")

    bench.start("t", "http://a.example/1")
    bench.fetches.wait_for("http://a.example/1")
    bench.loop.call(fail)
    bench.close()
    assert [str(error) for error in bench.desk.failures] == ["a fault of ours"]
