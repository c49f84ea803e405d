"""The worker's side of the queue: connections that reopen by themselves, and proxies of the master's queues."""

import errno
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from msgspec import structs

from crawler.errors import AccessError, BusyError, CrawlerError, MessageError, NetworkError, TLSError
from crawler.frontier.base import PROTOCOL
from crawler.model import MAX_FOUND, Grant, ImageRecord, Kind, Outcome, Renewal, Request, Verdict, WorkerInfo
from crawler.paths import is_safe
from crawler.queue import protocol, wire
from crawler.queue.address import is_own
from crawler.queue.join_file import JoinFile
from crawler.queue.protocol import RESULTS, TASKS
from crawler.queue.tls import client_context
from crawler.stats import FrontierStats

log = logging.getLogger(__name__)

#: Called while the master does not answer, with the seconds until that is an error, and with the reason.
_OnWait = Callable[[float, str], None]

#: Seconds to wait for a master before its first answer, and after the connection to it was lost.
FIRST_WAIT = 60.0
_WAIT_AFTER_LOSS = 300.0
#: Seconds an answer may take, in addition to those that the call itself asks to wait.
_ANSWER_SECONDS = 30.0

_NO_INFO = WorkerInfo()
_BACKOFF = 0.05  # seconds before the second attempt, doubled up to …
_BACKOFF_MOST = 2.0
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH}
_STOP_CHECK = 0.2  # seconds between two checks of the stop event


class Link:
    """Pool of connections to one master: opened when needed, kept while they work, dropped when in doubt.

    Many threads may use a link; each call has a connection to itself. A call is sent again when its answer was lost,
    because all methods of the frontier are safe to repeat.

    Args:
        addresses: possible addresses of the master; the one that answered last is tried first.
        authkey: proves that this client belongs to the crawl.
        cert: certificate of the master in PEM. With it, the link uses TLS and accepts no other master. Without it, all
            addresses must be on this machine.
        wait: seconds to retry before the first answer.
        wait_after_loss: seconds to retry after that.
        on_wait: called before every pause.
        stop: when set, waiting ends; calls that the master answers still succeed.

    Raises:
        ConfigError: an address is on another machine and there is no certificate, or the certificate is damaged.
    """

    def __init__(
        self,
        addresses: Sequence[wire.Address],
        authkey: bytes,
        *,
        cert: str = "",
        wait: float = FIRST_WAIT,
        wait_after_loss: float = _WAIT_AFTER_LOSS,
        on_wait: _OnWait | None = None,
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
        self._has_connected = False
        #: Whether every connection so far has led to this machine: to a master, or to the end of a tunnel.
        self.is_local = True
        self._lock = threading.Lock()
        self._idle: list[wire.Channel] = []
        self._busy: set[wire.Channel] = set()

    def call(self, ident: str | None, method: str, *arguments: Any, seconds: float = 0.0) -> Any:
        """Call a method of `protocol.SIGNATURES`, which may take ``seconds`` in addition to the usual time.

        Raises:
            NetworkError: the master did not answer within the waiting time, or another program answered.
            TLSError: the peer's certificate is not the one of the join file, or it has none.
            AccessError: the key was refused.
            CrawlerError: the method raised it, or the link was closed.
        """
        frame = protocol.write_call(ident, method, arguments)
        signature = protocol.SIGNATURES[ident][method]
        lost_at, attempts = 0.0, 0
        while True:
            try:
                result = self._attempt(frame, signature, seconds + _ANSWER_SECONDS)
                if isinstance(result, BusyError):
                    raise result
            except (OSError, EOFError, BusyError, NetworkError) as error:
                attempts += 1
                lost_at = lost_at or time.monotonic()
                self._pause(error, lost_at, attempts)
            else:
                if isinstance(result, CrawlerError):
                    raise result
                return result

    def close(self) -> None:
        """Drop every connection; calls in progress in other threads end with an error."""
        self._closed.set()
        with self._lock:
            idle, self._idle = self._idle, []
            for channel in self._busy:
                channel.abort()
        for channel in idle:
            channel.close()

    def _attempt(self, frame: bytes, signature: protocol.Signature, seconds: float) -> Any:
        channel = self._take()
        try:
            channel.allow(seconds)
            channel.send_bytes(frame)
            result = protocol.read_answer(channel.recv_bytes(), signature)
        except BaseException:  # Ctrl-C too: the next call must not receive this call's answer
            self._drop(channel)
            raise
        self._give_back(channel)
        return result

    def _take(self) -> wire.Channel:
        """Return an idle connection that appears to work, or a new one."""
        while True:
            with self._lock:
                channel = self._idle.pop() if self._idle else None
            if channel is None:
                channel = self._dial()
            elif not channel.is_quiet():  # the peer has closed it, or has sent something unrequested
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
        """Connect to the first address that accepts this client.

        Raises:
            CrawlerError: the refusal is final (`_is_final`), or no address can improve on it.
            NetworkError, OSError, EOFError: the fault may be temporary; its cause is the refusal to report in the end.
        """
        temporary: Exception | None = None
        refusal: CrawlerError | None = None
        is_final = may_be_down = False
        for address in tuple(self._addresses):
            if self._closed.is_set():
                break
            try:
                channel = wire.connect(address, self._authkey, self._tls)
            except (OSError, EOFError, NetworkError) as error:
                temporary = temporary or error
                may_be_down |= not isinstance(error, socket.gaierror)  # a name that does not resolve is no master
            except CrawlerError as error:
                refusal = refusal or error
                is_final |= self._is_final(error, address)
                if isinstance(error, AccessError) and self._tls is not None:  # the master itself refused
                    break
            else:
                self._addresses = sorted(self._addresses, key=address.__ne__)
                self._has_connected = True
                self.is_local &= channel.is_local
                return channel
        if refusal is not None and (is_final or not (may_be_down or self._has_connected)):
            raise refusal
        if refusal is not None:
            raise ConnectionRefusedError(f"{_reason(temporary)}; {refusal}" if temporary else str(refusal)) from refusal
        raise temporary or EOFError("closed")

    def _is_final(self, refusal: CrawlerError, address: wire.Address) -> bool:
        """Return whether waiting cannot help, even if the other addresses answer later.

        A refusal after a first success is not taken for the master's: another program may use its address while it is
        down. Under TLS the certificate identifies the master, so a refused key is final. Another certificate at an
        address of this machine is not final if the join file has other addresses: another crawl may use that port here.
        """
        if isinstance(refusal, TLSError):
            return not (self._has_connected or (len(self._addresses) > 1 and is_own(address[0])))
        return self._tls is not None or not self._has_connected

    def _pause(self, error: Exception, lost_at: float, attempts: int) -> None:
        """Wait before the next attempt, or raise the final error."""
        limit = self._wait_after_loss if self._has_connected else self._wait
        left = lost_at + limit - time.monotonic()
        reason = _reason(error)
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
            if self._closed.wait(min(rest, _STOP_CHECK)):
                break

    def _give_up(self, error: Exception, reason: str) -> NoReturn:
        if isinstance(error.__cause__, CrawlerError):
            raise error.__cause__
        if isinstance(error, wire.NoGreeting | NetworkError):
            raise NetworkError(reason) from error
        advice = "is `crawler harvest` running there, is the address right, does a firewall let it through?"
        if isinstance(error, socket.gaierror) or getattr(error, "errno", None) in _UNREACHABLE:
            advice = "check the network of this machine, or give another address with --connect HOST:PORT"
        raise NetworkError(f"no answer from {self._where()}: {reason}; {advice}") from error

    def _where(self) -> str:
        return " or ".join(wire.format_address(address) for address in self._addresses)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class TaskQueueProxy:
    """Proxy of a master's task queue, which leases requests and renews leases. See `crawler.frontier.base.Frontier`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def hello(self, worker: str, protocol: int = PROTOCOL, about: WorkerInfo = _NO_INFO) -> dict[str, Any]:
        """Announce a worker and its machine; return the crawl's settings."""
        try:
            settings = self._link.call(TASKS, "hello", worker, protocol, about)
        except MessageError:  # a master of protocol 1 takes two arguments; it then answers which side to upgrade
            settings = self._link.call(TASKS, "hello", worker, protocol)
        return cast(dict[str, Any], settings)

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        """Lease up to ``limit`` requests (at most 1,000) for ``seconds``; wait up to ``wait`` (at most 20) seconds."""
        limit = min(limit, protocol.MAX_LEASE)
        wait = min(wait, protocol.MAX_WAIT)
        return cast(Grant, self._link.call(TASKS, "lease", worker, tuple(kinds), limit, seconds, wait, seconds=wait))

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        """Renew leases; return the lost ones and the hosts that ask for a pause. Many travel in several messages."""
        lost: list[str] = []
        quiet: dict[str, float] = {}
        for start in range(0, len(tokens), protocol.MAX_BATCH) or [0]:
            portion = tuple(tokens[start : start + protocol.MAX_BATCH])
            renewal = cast(Renewal, self._link.call(TASKS, "extend", worker, portion, seconds))
            lost += renewal.lost
            quiet |= renewal.quiet
        return Renewal(lost=tuple(lost), quiet=quiet)

    def stats(self) -> FrontierStats:
        """Return all counts, read at one instant."""
        return cast(FrontierStats, self._link.call(TASKS, "stats"))


class ResultQueueProxy:
    """Proxy of a master's result queue: a result *is* the acknowledgement of its lease."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def put(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str] = ()) -> tuple[Verdict, ...]:
        """Settle outcomes durably; return one verdict each. Outcomes too long for one message travel in several.

        Halving isolates an outcome that the master refuses to read, or that no message can hold. Its request fails with
        the reason ``internal``; the others are settled unchanged.

        Raises:
            MessageError: the master refuses the failure, too.
        """
        is_short = len(outcomes) <= protocol.MAX_BATCH and protocol.found_in(outcomes) <= MAX_FOUND
        try:
            if is_short or len(outcomes) < 2:
                verdicts = self._link.call(RESULTS, "put", worker, tuple(outcomes), tuple(ended_turns))
                return self._checked(cast(tuple[Verdict, ...], verdicts), len(outcomes))
        except MessageError as error:
            if not outcomes:
                raise
            if len(outcomes) == 1:
                return self._put_failure(worker, outcomes[0], ended_turns, error)
        half = len(outcomes) // 2
        return self.put(worker, outcomes[:half]) + self.put(worker, outcomes[half:], ended_turns)

    def _put_failure(
        self, worker: str, refused: Outcome, ended_turns: Sequence[str], error: MessageError
    ) -> tuple[Verdict, ...]:
        url = "a request" if refused.record is None else refused.record.url
        log.error("the master did not accept the result of %s, and records it as failed (internal): %s", url, error)
        failure = Outcome(status="done", token=refused.token, reason="internal")
        verdicts = self._link.call(RESULTS, "put", worker, (failure,), tuple(ended_turns))
        return self._checked(cast(tuple[Verdict, ...], verdicts), 1)

    @staticmethod
    def _checked(verdicts: tuple[Verdict, ...], number: int) -> tuple[Verdict, ...]:
        if len(verdicts) != number:
            counts = f"the master confirmed {len(verdicts)} results instead of {number}"
            raise MessageError(f"{counts}; install the same release on the master and the downloader")
        return verdicts

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """Return up to ``limit`` records with numbers above ``after``, fetched in portions."""
        records: list[tuple[int, ImageRecord]] = []
        while len(records) < limit:
            portion = self._link.call(RESULTS, "records", after, min(limit - len(records), protocol.MAX_LEASE))
            if not portion:
                break
            records += portion
            after = portion[-1][0]
        return tuple(records)


class RemoteFrontier:
    """Client of a master's frontier, with the methods of `crawler.frontier.base.Frontier`; reconnects by itself.

    Args:
        join: addresses, key and certificate of the master.
        wait: seconds to wait for the master's first answer.
        wait_after_loss: seconds to wait after the connection was lost.
        on_wait: called while waiting, with the seconds left and the reason.
        on_settings: called with the settings of a master that was restarted.
        stop: when set, the client no longer waits for a master that does not answer.

    Raises:
        ConfigError: the join file has no certificate, and an address on another machine.
    """

    def __init__(
        self,
        join: JoinFile,
        *,
        wait: float = FIRST_WAIT,
        wait_after_loss: float = _WAIT_AFTER_LOSS,
        on_wait: _OnWait | None = None,
        on_settings: Callable[[dict[str, Any]], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._announced: tuple[str, WorkerInfo] | None = None
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
        """Whether every connection so far has led to this machine: to a master, or to the end of a tunnel."""
        return self._link.is_local

    def hello(self, worker: str, protocol: int, about: WorkerInfo = _NO_INFO) -> dict[str, Any]:
        settings = self._tasks.hello(worker, protocol, about)
        self._announced = worker, structs.replace(about, stays=True)
        return settings

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        grant = self._tasks.lease(worker, kinds, limit, seconds, wait)
        if grant.is_stranger and self._announced is not None:  # the master was restarted
            settings = self._tasks.hello(self._announced[0], PROTOCOL, self._announced[1])
            if self._on_settings is not None:
                self._on_settings(settings)
        return grant

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        return self._tasks.extend(worker, tokens, seconds)

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        verdicts: tuple[Verdict, ...] = self._results.put(worker, outcomes, ended_turns)
        if not all(is_safe(verdict.path) for verdict in verdicts if verdict.path):
            raise MessageError("the master sent an invalid file path")
        return verdicts

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        return self._results.records(after, limit)

    def stats(self) -> FrontierStats:
        return self._tasks.stats()

    def put(self, requests: Sequence[Request]) -> int:
        """Refuse the call: requests that a worker discovers travel in its outcomes.

        Raises:
            CrawlerError: always.
        """
        raise CrawlerError("only the master may add requests; a worker returns new URLs with its results")

    def close(self) -> None:
        """Disconnect from the master; calls in progress in other threads end with a `CrawlerError`."""
        self._link.close()
