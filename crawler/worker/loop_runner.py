"""A runner with an event loop: one thread carries out hundreds of turns, and fetches their images with libcurl.

Four kinds of work may take long, and leave the loop for a pool of threads: robots.txt, large or risky images, a store
that waits for its disk, and responses that libcurl does not read.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Protocol

from crawler.errors import CrawlerError, RequestFailed, UnreadableHead
from crawler.model import Outcome, Request
from crawler.net.event_loop import EventLoop, Threads
from crawler.net.fetcher import Receiver
from crawler.worker.held_turns import HeldTurn
from crawler.worker.runner import Desk
from crawler.worker.turn import Steps, turn_steps

#: Bytes of images in memory above which no fetch starts: those that arrive, and those that wait in the pool.
_MOST_BYTES = 256 * 2**20
#: Most threads of the pool.
_MAX_THREADS = 32


class HeavyReceiver(Receiver, Protocol):
    """A receiver that knows whether its last step may take long."""

    @property
    def is_heavy(self) -> bool:
        """Whether `finish` takes more than a millisecond or two."""
        ...

    @property
    def size(self) -> int:
        """Bytes that the receiver holds."""
        ...


class LoopFetcher(Protocol):
    """Interface of a fetcher that runs in the event loop: `crawler.net.curl_fetcher.CurlFetcher`."""

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies that have come for the fetches in progress."""
        ...

    def start(self, request: Request, receiver: Receiver, done: Callable[[CrawlerError | None], None]) -> None:
        """Fetch; call ``done`` in the loop at the end, with None or with what ended the fetch."""
        ...


@dataclass(eq=False, slots=True)
class _Job:
    """A turn that is carried out, and the image that is requested again through its handler."""

    held: HeldTurn
    steps: Steps
    by_handler: Request | None = None
    #: Bytes of its image that is in the pool.
    pooled: int = 0


class LoopRunner:
    """A runner whose turns share one thread. All methods but `start` and `close` run in it.

    Args:
        desk: the worker.
        loop: the event loop, which this object runs; the caller closes it.
        fetcher: fetches images in the loop; the caller closes it.
        open_image: returns the receiver of an image.
        opens_in_pool: whether ``open_image`` may take long for an image that was fetched before, because it asks a
            store on another machine.
    """

    def __init__(
        self,
        desk: Desk,
        loop: EventLoop,
        fetcher: LoopFetcher,
        open_image: Callable[[Request], HeavyReceiver],
        *,
        opens_in_pool: bool = False,
    ) -> None:
        self._desk, self._loop, self._fetcher, self._open_image = desk, loop, fetcher, open_image
        self._opens_in_pool = opens_in_pool
        self._pool = Threads(min(_MAX_THREADS, desk.capacity), desk.name)
        self._jobs = 0
        self._in_progress = 0
        #: Bytes of images in the pool.
        self._pooled = 0
        #: Turns that may start a request as soon as another one has ended, with the time of their start.
        self._waiting: deque[tuple[_Job, float]] = deque()
        self._is_closing = False
        self._thread = desk.thread("loop", loop.run)
        self._thread.start()

    def start(self, held: HeldTurn) -> None:
        self._loop.call(partial(self._open, held))

    def close(self) -> None:
        def end() -> None:
            self._is_closing = True
            self._end_if_idle()

        self._loop.call(end)
        self._thread.join()
        self._pool.close(wait=True)

    def _open(self, held: HeldTurn) -> None:
        self._jobs += 1
        self._advance(_Job(held, turn_steps(held.turn, self._desk.clock)), None)

    def _advance(self, job: _Job, answer: bool | Outcome | None) -> None:
        """Give the turn the answer to its last step, and carry out the next steps up to one that takes time."""
        try:
            while isinstance(step := job.steps.send(answer), Outcome):
                answer = None
                if not self._desk.take(job.held, step):
                    job.steps.close()
        except StopIteration:
            self._end(job)
            return
        if isinstance(step, Request):
            self._attempt(job, step)
        else:
            self._ask(job, step)

    def _ask(self, job: _Job, at: float) -> None:
        """Start the next request of a turn once it may start and there is room, or end the turn."""
        may_start = self._desk.may_start(job.held, at)
        if may_start and self._fetcher.held_bytes + self._pooled > _MOST_BYTES:
            may_start = None
        if may_start is None:
            nap = self._desk.turns.nap(at)
            self._loop.call_at(self._loop.clock() + nap, partial(self._ask, job, at))
        elif may_start and self._in_progress >= self._desk.capacity:
            self._waiting.append((job, at))
        else:
            self._advance(job, may_start)

    def _attempt(self, job: _Job, request: Request) -> None:
        self._in_progress += 1
        if request.kind != "image" or request is job.by_handler:
            self._in_pool(job, partial(self._desk.attempt, request))
            return
        if self._opens_in_pool and request.prior is not None:
            self._pool.submit(partial(self._open_then_start, job, request))
        else:
            self._open_then_start(job, request)

    def _open_then_start(self, job: _Job, request: Request) -> None:
        """Open the receiver of an image, in any thread; then start the fetch in the loop."""
        try:
            image = self._open_image(request)
        except Exception as error:  # noqa: BLE001  # one bad picture must not affect the others
            self._in_loop(partial(self._answer, job, self._desk.guarded(request, partial(_raise, error))))
            return
        self._in_loop(partial(self._fetcher.start, request, image, partial(self._fetched, job, request, image)))

    def _in_loop(self, act: Callable[[], None]) -> None:
        if threading.current_thread() is self._thread:
            act()
        else:
            self._loop.call(act)

    def _fetched(self, job: _Job, request: Request, image: HeavyReceiver, error: CrawlerError | None) -> None:
        if isinstance(error, UnreadableHead):
            # One more request, at the pace of the turn, by the handler, which reads the head as browsers do.
            job.by_handler = request
            self._answer(job, Outcome(status="moved", successor=request))
            return
        conclude = partial(self._desk.guarded, request, partial(_conclude, image, error))
        if error is None and image.is_heavy:
            job.pooled = image.size
            self._pooled += job.pooled
            self._in_pool(job, conclude)
        else:
            self._answer(job, conclude())

    def _in_pool(self, job: _Job, act: Callable[[], Outcome]) -> None:
        def run() -> None:
            try:
                outcome = act()
            except Exception as error:  # noqa: BLE001  # raised again in the loop, which ends the worker
                self._loop.call(partial(_raise, error))
            else:
                self._loop.call(partial(self._answer, job, outcome))

        self._pool.submit(run)

    def _answer(self, job: _Job, outcome: Outcome) -> None:
        """Take the outcome of a request, which leaves room for another one."""
        self._in_progress -= 1
        self._pooled -= job.pooled
        job.pooled = 0
        if self._waiting:
            self._loop.call(self._ask_waiting)
        self._advance(job, outcome)

    def _ask_waiting(self) -> None:
        """Ask the waiting turns while there is room; those that are over by now leave it to the others."""
        while self._waiting and self._in_progress < self._desk.capacity:
            self._ask(*self._waiting.popleft())

    def _end(self, job: _Job) -> None:
        self._desk.end(job.held)
        self._jobs -= 1
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._is_closing and not self._jobs:
            self._loop.stop()


def _conclude(image: Receiver, error: CrawlerError | None) -> Outcome:
    """Return the outcome of an image whose fetch has ended. Raise what is not the request's fault."""
    if error is None:
        return image.finish()
    if isinstance(error, RequestFailed):
        return image.fail(error)
    raise error


def _raise(error: Exception) -> NoReturn:
    raise error
