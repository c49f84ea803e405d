"""The fetcher that goes to the network: requests' adapter on urllib3's pools, one set of connections a thread.

The adapter is used without a `requests.Session`: no cookies, no environment, no netrc, no redirects by
construction, and less than half of the CPU. `requests.adapters.HTTPAdapter.send` stays as it is, which is also where
``responses`` mocks it.
"""

import contextlib
import functools
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPResponse
from typing import Any
from urllib.parse import unquote
from weakref import WeakSet

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager
from urllib3 import HTTPResponse as RawResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util import Timeout, make_headers, parse_url

from crawler import __version__
from crawler.answer import Answer
from crawler.body import NetworkBody
from crawler.cookies import Cookies
from crawler.errors import RequestFailed
from crawler.exchange import NETWORK_ERRORS, Exchange, classify
from crawler.fetcher import Conditions, Limits, Response
from crawler.guard import Guard
from crawler.model import Request
from crawler.referrer import referrer_for
from crawler.urls import host_and_port

#: How a fetcher introduces itself where nobody says otherwise.
USER_AGENT = f"imgcrawler/{__version__}"

#: Origins per thread with an idle connection; a turn works on one host, so few come back before they are forgotten.
_IDLE_ORIGINS = 4
_EMAIL = re.compile(r"[!-?A-~]{1,64}@[A-Za-z0-9.-]{1,255}")


class Transport(HTTPAdapter):
    """The connections of one thread. Set ``exchange`` before each `send`."""

    exchange: Exchange

    def __init__(self, tls: ssl.SSLContext, guard: Guard, proxy: ProxyManager | None = None) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._tls = tls
        self._proxy = proxy
        self.guard = guard
        self._pools: dict[str, HTTPConnectionPool] = {}

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> HTTPConnectionPool:
        """The pool of the request's origin; the one least recently used makes room for a new one."""
        url = request.url or ""
        origin = url[: url.index("/", 8)]
        pool = self._pools.pop(origin, None) or self._new_pool(origin)
        self._pools[origin] = pool
        if len(self._pools) > _IDLE_ORIGINS:
            self._pools.pop(next(iter(self._pools))).close()
        return pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the TLS context of all pools verifies, and it is loaded once instead of for every connection."""

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """The URL from its path on, spelled as we remember it; all of it where a proxy is to fetch it."""
        url = request.url or ""
        return url if self._proxy and url.startswith("http:") else url[url.index("/", 8) :]

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """The answer as it came, without requests' search for cookies and for an encoding."""
        response = requests.Response()
        response.status_code = resp.status
        response.headers = resp.headers
        response.raw = resp
        response.url = req.url or ""
        response.request = req
        return response

    def relieve(self) -> None:
        """Close the idle connections, in any thread; the next request makes its own."""
        for pool in tuple(self._pools.values()):
            if pool.pool is not None:
                with contextlib.suppress(queue.Empty):
                    if (idle := pool.pool.get_nowait()) is not None:
                        idle.close()

    def close(self) -> None:
        """Close the idle connections, for good."""
        while self._pools:
            self._pools.popitem()[1].close()
        super().close()

    def _new_pool(self, origin: str) -> HTTPConnectionPool:
        parts, options = parse_url(origin), dict[str, Any]()
        if self._proxy is not None and self._proxy.proxy is not None:
            options = {
                key: self._proxy.connection_pool_kw[key] for key in ("_proxy", "_proxy_headers", "_proxy_config")
            }
            if parts.scheme == "http":  # which a proxy fetches itself; to https it opens a tunnel
                parts = self._proxy.proxy
        host, is_secure = parts.host or "", parts.scheme == "https"
        pool = (
            HTTPSConnectionPool(host, parts.port, maxsize=1, ssl_context=self._tls, **options)
            if is_secure
            else HTTPConnectionPool(host, parts.port, maxsize=1, **options)
        )
        kind = _SecureConnection if is_secure else _Connection
        pool.ConnectionCls = functools.partial(kind, self)  # type: ignore[assignment]  # called like a class
        return pool


class _Connection(HTTPConnection):
    """A connection whose answers are read through the exchange under way."""

    def __init__(self, transport: Transport, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._transport = transport
        self._is_new = True
        self.response_class = self._answer  # type: ignore[assignment]  # called like a class

    def connect(self) -> None:
        self._is_new = True
        super().connect()

    def _new_conn(self) -> socket.socket:
        """A connection that the guard permits; the name stays that of the host, for ``Host``, SNI and certificate.

        The user's own proxy may be anywhere; what can be seen of the addresses behind it was vetted before.

        Raises:
            RequestFailed: ``blocked-address``; else what urllib3 raises.
        """
        if self.proxy is not None:
            return super()._new_conn()
        seconds = Timeout.resolve_default_timeout(self.timeout)
        try:
            return self._transport.guard.connect(self._dns_host, self.port, seconds, self.socket_options or ())
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"{self.host} did not answer within {seconds} s") from error
        except OSError as error:
            raise NewConnectionError(self, f"no connection: {error}") from error

    def _tunnel(self) -> None:
        """Ask a proxy to connect us: an exchange of its own, before the one under way."""
        self.response_class = HTTPResponse
        try:
            super()._tunnel()  # http.client's own, which urllib3 calls too
        finally:
            self.response_class = self._answer  # type: ignore[assignment]

    def _answer(self, sock: socket.socket, *args: Any, **kwargs: Any) -> Answer:
        exchange = self._transport.exchange
        exchange.was_kept = exchange.is_reusing = not self._is_new
        self._is_new = False
        return Answer(exchange, sock, *args, **kwargs)


class _SecureConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


class RequestsFetcher:
    """Fetches over the network with requests: connections kept alive per thread; no proxies of the environment,
    no redirects followed, no failure tried again; a large body that breaks off is gone on with. Any thread may call it.

    Args:
        limits: times and speed that hold for each request; default: those of `Limits`.
        user_agent: the ``User-Agent`` header.
        contact: goes into the ``From`` header where it is an e-mail address (RFC 9110 §10.1.2).
        proxy: URL of a proxy through which everything goes, with its user and password if it wants them; http or https.
        cookies: the user's; default: none.
        tls: decides which certificates are trusted; default: the bundle of requests.
        guard: decides which addresses may be connected to; default: public ones.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        user_agent: str = USER_AGENT,
        *,
        contact: str = "",
        proxy: str = "",
        cookies: Cookies | None = None,
        tls: ssl.SSLContext | None = None,
        guard: Guard | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits = limits or Limits()
        self._timeout = (min(limits.connect, limits.total), limits.first_byte)
        self._headers = {"User-Agent": user_agent}
        if _EMAIL.fullmatch(contact):
            self._headers["From"] = contact
        self._tls = tls or ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
        self._guard = guard or Guard()
        self._proxy = _through(proxy, self._tls) if proxy else None
        self._clock = clock
        self._cookies = cookies or Cookies()
        self._local = threading.local()
        self._lock = threading.Lock()
        self._transports: WeakSet[Transport] = WeakSet()  # those of ended threads go by themselves
        self._running: set[Exchange] = set()

    def fetch(self, request: Request, conditions: Conditions) -> Response:
        """Ask for ``request.location`` and return when the headers are in; raises as `Fetcher.fetch` says."""
        url = request.location
        if not url.startswith(("http://", "https://")):
            raise RequestFailed("unsupported-scheme", f"no http(s) URL: {url[:200]!r}")
        headers = self._headers | _negotiation(request, conditions)
        cookie = self._cookies.header(request)
        if cookie:
            headers["Cookie"] = cookie
        started = self._clock()

        def send(further: Mapping[str, str]) -> tuple[RawResponse, Exchange]:
            return self._send(url, {**headers, **further}, started, conditions.max_bytes)

        raw, exchange = send(_validators(conditions))
        response = Response(
            url,
            raw.status,
            headers=raw.headers,
            body=NetworkBody(raw, exchange, send, self._running.discard),
            conditions=conditions,
            started=started,
            clock=self._clock,
        )
        self._cookies.learn(request, response)
        return response

    def abort(self) -> None:
        """Cut all that is in flight: it ends soon with ``cancelled``. Later fetches are not concerned."""
        for exchange in self._running.copy():
            exchange.cut()

    def relieve(self) -> None:
        """Let go of idle connections for now, as there are no handles left."""
        with self._lock:
            for transport in self._transports:
                transport.relieve()

    def close(self) -> None:
        """Close idle connections; those in use close with their responses."""
        with self._lock:
            for transport in self._transports:
                transport.close()

    def _send(self, url: str, headers: dict[str, str], started: float, max_bytes: int) -> tuple[RawResponse, Exchange]:
        """The answer, once its headers are in, and what it is read through."""
        exchange = Exchange(self._limits, self._clock, started, max_bytes=max_bytes)
        try:
            return self._exchange(exchange, url, headers), exchange
        except RequestFailed as error:
            # An idle server may close a connection just before it is used again (RFC 9112 §9.3.1), and what is no HTTP
            # may be the rest of an answer before, for which this one must not pay.
            is_left_over = exchange.was_kept and not error.retryable
            if error.reason != "connect" or not (exchange.is_reusing or is_left_over):
                raise
            exchange = Exchange(self._limits, self._clock, started, max_bytes=max_bytes)
            return self._exchange(exchange, url, headers), exchange

    def _exchange(self, exchange: Exchange, url: str, headers: dict[str, str]) -> RawResponse:
        prepared = requests.PreparedRequest()  # by hand: prepare() would spell the URL in its own way
        prepared.method = "GET"
        prepared.url = url
        prepared.headers = CaseInsensitiveDict(headers)
        transport = self._transport()
        if self._proxy is not None:
            self._guard.vet(*host_and_port(url))
        transport.exchange = exchange
        self._running.add(exchange)
        try:
            raw: RawResponse = transport.send(prepared, stream=True, timeout=self._timeout).raw
        except NETWORK_ERRORS as error:
            self._running.discard(exchange)
            raise classify(error) from error
        except BaseException:
            self._running.discard(exchange)
            raise
        return raw

    def _transport(self) -> Transport:
        """This thread's connections."""
        transport: Transport | None = getattr(self._local, "transport", None)
        if transport is None:
            transport = self._local.transport = Transport(self._tls, self._guard, self._proxy)
            with self._lock:
                self._transports.add(transport)
        return transport


def _through(proxy: str, tls: ssl.SSLContext) -> ProxyManager:
    """What urllib3 wants to know of a proxy. Its user and password go to it alone, never with what is tunnelled."""
    parts = parse_url(proxy)
    headers = make_headers(proxy_basic_auth=unquote(parts.auth)) if parts.auth else None
    return ProxyManager(parts._replace(auth=None).url, proxy_headers=headers, proxy_ssl_context=tls)


def _negotiation(request: Request, conditions: Conditions) -> dict[str, str]:
    """The headers that differ from request to request."""
    image = conditions.accept.startswith("image/")
    headers = {"Accept": conditions.accept, "Accept-Encoding": "identity" if image else "gzip, deflate"}
    referrer = referrer_for(request.referrer, request.location, request.referrer_policy)
    return headers | {"Referer": referrer} if referrer else headers


def _validators(conditions: Conditions) -> dict[str, str]:
    """Headers of a conditional request (RFC 9110 §13.1); one for the rest of a body that broke off has its own."""
    headers = {"If-None-Match": conditions.etag, "If-Modified-Since": conditions.last_modified}
    return {name: value for name, value in headers.items() if value}
