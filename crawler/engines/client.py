"""The worker's side of the queue: connections that heal themselves, and the frontier at the other end of them."""

import errno
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from msgspec import structs

from crawler.engines import calls, wire
from crawler.engines.calls import RESULTS, TASKS
from crawler.engines.join import JoinFile
from crawler.engines.tls import client_context
from crawler.errors import CrawlerError, MessageError, NetworkError
from crawler.frontier.base import PROTOCOL
from crawler.model import (
    MAX_FOUND,
    About,
    FrontierStats,
    Grant,
    ImageRecord,
    Kind,
    Outcome,
    Renewal,
    Request,
    Verdict,
)
from crawler.paths import is_safe

log = logging.getLogger(__name__)

#: Called while nobody answers: seconds until that is an error, and what is wrong.
OnWait = Callable[[float, str], None]

#: Seconds to wait for a master at first, and after it was lost.
FIRST_WAIT = 60.0
WAIT_AFTER_LOSS = 300.0
#: Seconds an answer may take, beside those that the call itself asks to wait.
ANSWER_SECONDS = 30.0

_SAYS_NOTHING = About()
_BACKOFF = 0.05  # seconds before the second attempt, doubled up to …
_BACKOFF_MOST = 2.0
_NO_WAY = {errno.EHOSTUNREACH, errno.ENETUNREACH}
_LOOK_UP = 0.2  # seconds between two looks at the stop event


class Link:
    """Connections to one master: made when needed, kept while they work, dropped when in doubt.

    May be used by many threads; each call has a connection to itself. Every call may be made twice, when an answer was
    lost: all methods of the frontier are safe to repeat.

    Args:
        addresses: where the master may be; the one that answered last is tried first.
        authkey: proves that we belong to the crawl.
        cert: certificate of the master in PEM: TLS, and no other master is spoken to. Without it all addresses must be
            of this machine.
        wait: seconds to try for, until somebody has answered once.
        wait_after_loss: seconds to try for after that.
        on_wait: told about every pause.
        stop: when set, waiting ends; calls that are answered go through.

    Raises:
        ConfigError: an address of another machine, and no certificate; or a damaged one.
    """

    def __init__(
        self,
        addresses: Sequence[wire.Address],
        authkey: bytes,
        *,
        cert: str = "",
        wait: float = FIRST_WAIT,
        wait_after_loss: float = WAIT_AFTER_LOSS,
        on_wait: OnWait | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._addresses = list(addresses)
        self._authkey = authkey
        self._tls = client_context(cert) if cert else None
        if self._tls is None:
            for address in self._addresses:
                wire.require_loopback(address)
        self._wait = wait
        self._wait_after_loss = wait_after_loss
        self._on_wait = on_wait
        self._stop = stop or threading.Event()
        self._closed = threading.Event()
        self._has_met = False
        #: Whether every connection so far has led to a master on this machine, or to a tunnel's end there.
        self.is_local = True
        self._lock = threading.Lock()
        self._idle: list[wire.Channel] = []
        self._busy: set[wire.Channel] = set()

    def call(self, ident: str | None, method: str, *arguments: Any, seconds: float = 0.0) -> Any:
        """Call a method of `calls.SIGNATURES`, which may take ``seconds`` and the usual time for an answer.

        Raises:
            NetworkError: nobody answered for as long as we may wait, or somebody else did.
            TLSError: whoever answered has another certificate than the one we know, or none.
            AccessError: the key was refused.
            CrawlerError: what the method raised, or the link was closed.
        """
        frame = calls.write_call(ident, method, arguments)
        signature = calls.SIGNATURES[ident][method]
        lost_at, attempts = 0.0, 0
        while True:
            try:
                result = self._attempt(frame, signature, seconds + ANSWER_SECONDS)
            except (OSError, EOFError) as error:
                attempts += 1
                lost_at = lost_at or time.monotonic()
                self._pause(error, lost_at, attempts)
            else:
                if isinstance(result, CrawlerError):
                    raise result
                return result

    def close(self) -> None:
        """Drop every connection; calls under way in other threads end with an error."""
        self._closed.set()
        with self._lock:
            idle, self._idle = self._idle, []
            for channel in self._busy:
                channel.abort()
        for channel in idle:
            channel.close()

    def _attempt(self, frame: bytes, signature: calls.Signature, seconds: float) -> Any:
        channel = self._take()
        try:
            channel.allow(seconds)
            channel.send_bytes(frame)
            result = calls.read_answer(channel.recv_bytes(), signature)
        except BaseException:  # Ctrl-C too: the answer that is still to come must not meet the next call
            self._drop(channel)
            raise
        self._give_back(channel)
        return result

    def _take(self) -> wire.Channel:
        """A connection that works as far as can be seen from here."""
        while True:
            with self._lock:
                channel = self._idle.pop() if self._idle else None
            if channel is None:
                channel = self._dial()
            elif not channel.is_quiet():  # closed meanwhile, or it says something nobody asked for
                channel.close()
                continue
            with self._lock:
                self._busy.add(channel)
            if self._closed.is_set():
                self._drop(channel)
                raise EOFError("closed")
            return channel

    def _give_back(self, channel: wire.Channel) -> None:
        with self._lock:
            self._busy.discard(channel)
            if not self._closed.is_set():
                self._idle.append(channel)
                return
        channel.close()

    def _drop(self, channel: wire.Channel) -> None:
        with self._lock:
            self._busy.discard(channel)
        channel.close()

    def _dial(self) -> wire.Channel:
        """Connect to the first address that lets us in; a passing fault at any outweighs a refusal at another."""
        passing: Exception | None = None
        refusal: CrawlerError | None = None
        for address in tuple(self._addresses):
            if self._closed.is_set():
                break
            try:
                channel = wire.connect(address, self._authkey, self._tls)
            except CrawlerError as error:
                refusal = refusal or error
            except (OSError, EOFError) as error:
                passing = passing or error
            else:
                self._addresses = sorted(self._addresses, key=address.__ne__)
                self._has_met = True
                self.is_local &= channel.is_local
                return channel
        if passing is not None:
            raise passing from refusal  # what is raised in the end, if the fault does not pass
        raise refusal or EOFError("closed")

    def _pause(self, error: Exception, lost_at: float, attempts: int) -> None:
        """Wait before the next attempt, or give up."""
        limit = self._wait_after_loss if self._has_met else self._wait
        left = lost_at + limit - time.monotonic()
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if self._closed.is_set():
            raise CrawlerError(f"the connection to {self._where()} was closed") from error
        if left <= 0 or self._stop.is_set():
            self._give_up(error, reason)
        if attempts == 1:
            log.warning("no answer from %s (%s); trying again for %.0f s", self._where(), reason, left)
        if self._on_wait is not None:
            self._on_wait(left, reason)
        pause = min(_BACKOFF_MOST, _BACKOFF * 2 ** min(attempts, 10)) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
        end = time.monotonic() + min(pause, left)
        while (rest := end - time.monotonic()) > 0 and not self._stop.is_set():
            if self._closed.wait(min(rest, _LOOK_UP)):
                break

    def _give_up(self, error: Exception, reason: str) -> NoReturn:
        if isinstance(error.__cause__, CrawlerError):
            raise error.__cause__
        if isinstance(error, wire.NoGreeting):
            raise NetworkError(reason) from error
        advice = "is `crawler harvest` running there, is the address right, does a firewall let it through?"
        if isinstance(error, socket.gaierror) or getattr(error, "errno", None) in _NO_WAY:
            advice = "check the network of this machine, or give another address with --connect HOST:PORT"
        raise NetworkError(f"no answer from {self._where()}: {reason}; {advice}") from error

    def _where(self) -> str:
        return " or ".join(wire.format_address(address) for address in self._addresses)


class TaskQueueProxy:
    """The task queue of a master: takes leases and renews them. See `crawler.frontier.base.Frontier`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def hello(self, worker: str, protocol: int = PROTOCOL, about: About = _SAYS_NOTHING) -> dict[str, Any]:
        """Announce a worker and its box; returns the crawl's settings."""
        try:
            settings = self._link.call(TASKS, "hello", worker, protocol, about)
        except MessageError:  # a master of protocol 1 takes no third argument; to two it says what is to be upgraded
            settings = self._link.call(TASKS, "hello", worker, protocol)
        return cast(dict[str, Any], settings)

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        """Up to ``limit`` requests (1,000 at most) for ``seconds``; waits ``wait`` seconds for work, 20 at most."""
        limit = min(limit, calls.MAX_LEASE)
        wait = min(wait, calls.MAX_WAIT)
        return cast(Grant, self._link.call(TASKS, "lease", worker, tuple(kinds), limit, seconds, wait, seconds=wait))

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        """Renew leases; tells which are lost, and which hosts are to be left alone."""
        return cast(Renewal, self._link.call(TASKS, "extend", worker, tuple(tokens), seconds))

    def stats(self) -> FrontierStats:
        """All counts, read at one instant."""
        return cast(FrontierStats, self._link.call(TASKS, "stats"))


class ResultQueueProxy:
    """The result queue of a master: a result *is* the acknowledgement of its lease."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def put(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str] = ()) -> tuple[Verdict, ...]:
        """Settle outcomes durably; one verdict each. What is too long for one message travels in several."""
        is_short = len(outcomes) <= calls.MAX_BATCH and calls.found_in(outcomes) <= MAX_FOUND
        try:
            if is_short or len(outcomes) < 2:
                verdicts = self._link.call(RESULTS, "put", worker, tuple(outcomes), tuple(ended_turns))
                return self._checked(cast(tuple[Verdict, ...], verdicts), len(outcomes))
        except wire.FrameTooLarge:
            if len(outcomes) < 2:
                raise
        half = len(outcomes) // 2
        return self.put(worker, outcomes[:half]) + self.put(worker, outcomes[half:], ended_turns)

    @staticmethod
    def _checked(verdicts: tuple[Verdict, ...], number: int) -> tuple[Verdict, ...]:
        if len(verdicts) != number:
            raise MessageError("the master did not answer each outcome")
        return verdicts

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """Up to ``limit`` records with numbers above ``after``, fetched in portions."""
        found: list[tuple[int, ImageRecord]] = []
        while len(found) < limit:
            portion = self._link.call(RESULTS, "records", after, min(limit - len(found), calls.MAX_LEASE))
            if not portion:
                break
            found += portion
            after = portion[-1][0]
        return tuple(found)


class RemoteFrontier:
    """The frontier of a master elsewhere, as `crawler.frontier.base.Frontier`; reconnects by itself.

    Args:
        join: where it is and how to get in.
        wait: seconds to wait for it at first.
        wait_after_loss: seconds to wait after it was lost.
        on_wait: told, while waiting, the seconds left and the reason.
        on_settings: told the settings of a master that was started again.
        stop: when set, no more waiting for a master that does not answer.

    Raises:
        ConfigError: the join file has no certificate, and an address of another machine.
    """

    def __init__(
        self,
        join: JoinFile,
        *,
        wait: float = FIRST_WAIT,
        wait_after_loss: float = WAIT_AFTER_LOSS,
        on_wait: OnWait | None = None,
        on_settings: Callable[[dict[str, Any]], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._announced: tuple[str, About] | None = None
        self._on_settings = on_settings
        addresses = [wire.parse_address(address) for address in join.addresses]
        self._link = Link(
            addresses,
            join.authkey,
            cert=join.cert,
            wait=wait,
            wait_after_loss=wait_after_loss,
            on_wait=on_wait,
            stop=stop,
        )
        self._tasks = TaskQueueProxy(self._link)
        self._results = ResultQueueProxy(self._link)

    @property
    def is_local(self) -> bool:
        """Whether every connection so far has led to this machine: a master here, or a tunnel's end."""
        return self._link.is_local

    def hello(self, worker: str, protocol: int, about: About = _SAYS_NOTHING) -> dict[str, Any]:
        settings = self._tasks.hello(worker, protocol, about)
        self._announced = worker, structs.replace(about, stays=True)
        return settings

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        grant = self._tasks.lease(worker, kinds, limit, seconds, wait)
        if grant.is_stranger and self._announced is not None:  # the master was started again
            settings = self._tasks.hello(self._announced[0], PROTOCOL, self._announced[1])
            if self._on_settings is not None:
                self._on_settings(settings)
        return grant

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        return self._tasks.extend(worker, tokens, seconds)

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        verdicts: tuple[Verdict, ...] = self._results.put(worker, outcomes, ended_turns)
        if not all(is_safe(verdict.path) for verdict in verdicts if verdict.path):
            raise MessageError("the master names a path that no store has")
        return verdicts

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        return self._results.records(after, limit)

    def stats(self) -> FrontierStats:
        return self._tasks.stats()

    def put(self, requests: Sequence[Request]) -> int:
        """Refused: requests found by a worker travel in its outcomes.

        Raises:
            CrawlerError: always.
        """
        raise CrawlerError("only the master puts requests; a worker's discoveries travel in its outcomes")

    def close(self) -> None:
        """Let go of the master; calls under way in other threads end with a `CrawlerError`."""
        self._link.close()
