"""The fetcher for many downloads at a time: libcurl's multi interface (``pycurl``) in an event loop.

One thread serves hundreds of connections, so a picture costs a fraction of the CPU time of a thread with requests.
libcurl does TLS, connections, proxies and framing. This module keeps the promises of `RequestsFetcher`: it vets each
address, follows no redirects, enforces deadlines, speed and sizes, and resumes large bodies. It never takes settings
from the environment.
"""

import itertools
import logging
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from typing import Any
from urllib.parse import unquote, urlsplit

import pycurl
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from crawler.errors import CrawlerError, RequestFailed
from crawler.model import Request
from crawler.net.address_guard import Guard
from crawler.net.curl_transfer import Done, Transfer, Waits
from crawler.net.event_loop import EventLoop, Threads
from crawler.net.exchange import classify
from crawler.net.fetcher import Receiver, TransferLimits
from crawler.net.request_headers import RequestHeaders
from crawler.urls import host_and_port

_log = logging.getLogger(__name__)

#: Most seconds between two checks of the deadlines.
_CHECK_SECONDS = 0.25
#: Seconds for which the addresses of a name are used for new connections, and the most names kept.
_NAME_SECONDS, _MAX_NAMES = 60.0, 10_000
#: ``CURLOPT_SUPPRESS_CONNECT_HEADERS``, for which pycurl has no name.
_SUPPRESS_CONNECT_HEADERS = 265
#: Names that are looked up at a time.
_THREADS = 64
#: Bytes of one read.
_BUFFER = 65_536


class CurlFetcher:
    """A fetcher that runs in an event loop. Its methods are called in the loop's thread, except `abort` and `relieve`.

    Args:
        loop: the event loop.
        limits: timeouts and minimum speed of each request.
        headers: headers of the requests.
        proxy: URL of an http or https proxy for all requests, with user and password if the proxy requires them.
        guard: decides which addresses are permitted.
        ca_bundle: path of the trusted certificates.
    """

    def __init__(
        self,
        loop: EventLoop,
        limits: TransferLimits | None = None,
        headers: RequestHeaders | None = None,
        *,
        proxy: str = "",
        guard: Guard | None = None,
        ca_bundle: str = DEFAULT_CA_BUNDLE_PATH,
    ) -> None:
        self._loop = loop
        #: Threads that look up names and decompress bodies.
        self._pool = Threads(_THREADS, "fetch")
        self.limits = limits = limits or TransferLimits()
        self.headers = headers or RequestHeaders()
        self._guard = guard or Guard()
        self._proxy = proxy
        self._options = dict(_options(limits, proxy, ca_bundle))
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_alarm)
        loop.on_alarm = partial(self._act, pycurl.SOCKET_TIMEOUT, 0)
        #: Bytes of bodies that have come for the transfers in progress; the caller may start no others meanwhile.
        self.held_bytes = 0
        self._idle: list[Transfer] = []
        self._active: dict[pycurl.Curl, Transfer] = {}
        #: Host and port → its addresses as libcurl reads them, and until when they are used.
        self._names: dict[tuple[str, int], tuple[str, float]] = {}
        #: Number of a look-up in progress → its transfer.
        self._lookups: dict[int, Transfer] = {}
        self._count = itertools.count()
        self._check_seconds = min(_CHECK_SECONDS, limits.first_byte / 4, limits.total / 4)
        self._is_checking = False
        #: Whether idle connections are closed soon, because file descriptors have run out before.
        self._is_relieved = False

    def start(self, request: Request, receiver: Receiver, done: Done) -> None:
        """Fetch ``request.location``: give the response to ``receiver``, and call ``done`` in the loop at the end.

        ``done`` gets None if the response is complete, or the error that ended it: a `RequestFailed`, which may be an
        `UnreadableHead`, or `NoHandles`.
        """
        transfer = self._idle.pop() if self._idle else self._new_transfer()
        transfer.open(request, receiver, done, self._loop.clock())
        try:
            transfer.prepare()
            host, port = host_and_port(request.location)
            if self._proxy:
                self._guard.vet(host, port)
        except RequestFailed as error:
            self._loop.call(partial(self.finish, transfer, error))
            return
        known = self._names.get((host, port))
        if self._proxy:
            self.perform(transfer)
        elif known is not None and known[1] > self._loop.clock():
            self._connect(transfer, known[0])
        else:
            lookup = next(self._count)
            self._lookups[lookup] = transfer
            self._pool.submit(partial(self._look_up, lookup, host, port))

    def abort(self) -> None:
        """Abort all fetches in progress; they end with ``cancelled``. Any thread may call this."""

        def cut() -> None:
            error = RequestFailed("cancelled", "the crawler aborted the transfer")
            for transfer in list(self._active.values()):
                transfer.error = error
                self._stop(transfer)
            for lookup in list(self._lookups):
                self.finish(self._lookups.pop(lookup), error)

        self._loop.call(cut)

    def relieve(self) -> None:
        """Close idle connections at the next requests, to free file descriptors. Any thread may call this."""
        self._is_relieved = True

    def close(self) -> None:
        """Close all connections; the loop has ended."""
        self._pool.close(wait=False)
        for transfer in self._active.values():
            self._multi.remove_handle(transfer.easy)
        for transfer in (*self._active.values(), *self._idle, *self._lookups.values()):
            transfer.discard()
        self._active.clear()
        self._idle.clear()
        self._multi.close()

    # what transfers call ------------------------------------------------------------------------------------------

    def perform(self, transfer: Transfer) -> None:
        """Let libcurl carry out the request that was set in the transfer's handle."""
        self._active[transfer.easy] = transfer
        transfer.waits = Waits(self.limits, self._loop.clock())  # the look-up of the name is no wait for the host
        if self._is_relieved:  # each new request closes those that are older
            transfer.easy.setopt(pycurl.MAXAGE_CONN, 1)
        self._multi.add_handle(transfer.easy)
        if not self._is_checking:
            self._is_checking = True
            self._loop.call_at(self._loop.clock() + self._check_seconds, self._check)

    def finish(self, transfer: Transfer, error: CrawlerError | None) -> None:
        """Report the end of a transfer, whose handle is free for the next request."""
        done = transfer.release()
        self._idle.append(transfer)
        done(error)

    def objection(self, host: str, port: int, address: str) -> str:
        """Return why a connection is not permitted, or "". The user's own proxy may have any address."""
        return "" if self._proxy else self._guard.objection(host, port, address)

    def in_background(self, act: Callable[[], None], then: Callable[[CrawlerError | None], None]) -> None:
        """Call ``act`` in another thread, and then ``then`` in the loop, with the `RequestFailed` that it raised."""

        def run() -> None:
            error: RequestFailed | None = None
            try:
                act()
            except RequestFailed as failure:
                error = failure
            except Exception as failure:  # noqa: BLE001  # one bad response must not affect the others
                _log.info("action=fetch", exc_info=True)
                error = RequestFailed("internal", type(failure).__name__)
            self._loop.call(lambda: then(error))

        self._pool.submit(run)

    # names --------------------------------------------------------------------------------------------------------

    def _look_up(self, lookup: int, host: str, port: int) -> None:
        """Look up a name in a thread of the pool, then continue in the loop."""
        error: CrawlerError | None = None
        addresses = ""
        try:
            infos = self._guard.look_up(host, port)
            addresses = ",".join(_bracketed(str(info[4][0])) for info in infos)
        except CrawlerError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001  # the request must end, also after a fault of ours
            error = classify(failure)
        self._loop.call(partial(self._take_name, lookup, host, port, addresses, error))

    def _take_name(self, lookup: int, host: str, port: int, addresses: str, error: CrawlerError | None) -> None:
        transfer = self._lookups.pop(lookup, None)
        if transfer is None:  # aborted meanwhile
            return
        if error is not None:
            self.finish(transfer, error)
            return
        if len(self._names) >= _MAX_NAMES:
            del self._names[next(iter(self._names))]
        resolved = f"+{_bracketed(host)}:{port}:{addresses}"
        self._names[host, port] = resolved, self._loop.clock() + _NAME_SECONDS
        self._connect(transfer, resolved)

    def _connect(self, transfer: Transfer, resolved: str) -> None:
        transfer.easy.setopt(pycurl.RESOLVE, [resolved])
        self.perform(transfer)

    # libcurl ------------------------------------------------------------------------------------------------------

    def _new_transfer(self) -> Transfer:
        return Transfer(self, self._options, has_proxy=bool(self._proxy), clock=self._loop.clock)

    def _watch(self, what: int, fd: int, multi: Any, data: Any) -> None:
        """Watch a socket as libcurl asks. Its numbers for reading and writing are those of `selectors`."""
        if what == pycurl.POLL_REMOVE:
            self._loop.unwatch(fd)
        else:
            self._loop.watch(fd, what, self._act)

    def _set_alarm(self, milliseconds: int) -> None:
        """Set the time at which libcurl wants to be called; a negative one: not at all."""
        self._loop.alarm_at = inf if milliseconds < 0 else self._loop.clock() + milliseconds / 1000

    def _act(self, fd: int, events: int) -> None:
        """Let libcurl work, then finish the transfers that have ended."""
        self._multi.socket_action(fd, events)
        remaining = 1
        while remaining:
            remaining, complete, failed = self._multi.info_read()
            ended = [(easy, pycurl.E_OK, "") for easy in complete] + failed
            for easy, code, text in ended:
                transfer = self._active.pop(easy)
                self._multi.remove_handle(easy)
                transfer.end(code, text)

    def _stop(self, transfer: Transfer) -> None:
        """End a transfer and close its connection."""
        del self._active[transfer.easy]
        self._multi.remove_handle(transfer.easy)
        self.finish(transfer, transfer.error)

    def _check(self) -> None:
        """Stop the transfers whose time is over."""
        now = self._loop.clock()
        for transfer in list(self._active.values()):
            if transfer.is_overdue(now):
                self._stop(transfer)
        self._is_checking = bool(self._active)
        if self._is_checking:
            self._loop.call_at(now + self._check_seconds, self._check)


def _bracketed(address: str) -> str:
    """Return an address as libcurl reads it in its list of names."""
    return f"[{address}]" if ":" in address else address


def _options(limits: TransferLimits, proxy: str, ca_bundle: str) -> Iterator[tuple[int, Any]]:
    """Yield the options of libcurl that are the same for every request. It reads nothing from the environment."""
    yield pycurl.NOSIGNAL, 1
    yield pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1
    yield pycurl.PATH_AS_IS, 1
    yield pycurl.BUFFERSIZE, _BUFFER
    yield pycurl.CONNECTTIMEOUT_MS, int(1000 * min(limits.connect, limits.total)) + 1
    yield pycurl.CAINFO, ca_bundle
    yield _SUPPRESS_CONNECT_HEADERS, 1
    parts = urlsplit(proxy)
    yield pycurl.PROXY, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if proxy else ""
    yield pycurl.NOPROXY, ""
    if parts.username is not None:
        yield pycurl.PROXYAUTH, pycurl.HTTPAUTH_BASIC
        yield pycurl.PROXYUSERNAME, unquote(parts.username)
        yield pycurl.PROXYPASSWORD, unquote(parts.password or "")
    if parts.scheme == "https":
        yield pycurl.PROXY_CAINFO, ca_bundle
