"""The fetcher for the network: the adapter of requests with pools of urllib3, one set of connections per thread.

The adapter is used without a `requests.Session`. So by construction there are no cookies, environment variables, netrc
or redirects, and it takes less than half of the CPU time. `requests.adapters.HTTPAdapter.send` is not overridden, so
``responses`` can mock it.
"""

import contextlib
import functools
import queue
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

from crawler.errors import RequestFailed
from crawler.model import Request
from crawler.net.address_guard import Guard
from crawler.net.cookies import Cookies
from crawler.net.exchange import NETWORK_ERRORS, Exchange, classify
from crawler.net.fetcher import Conditions, Response, TransferLimits
from crawler.net.request_headers import CONDITIONAL, USER_AGENT, RequestHeaders, validators
from crawler.net.response_body import NetworkBody
from crawler.net.response_head import ResponseHead
from crawler.urls import host_and_port

#: Origins with an idle connection, per thread. As a turn works on one host, more would rarely be reused.
_IDLE_ORIGINS = 4


class Transport(HTTPAdapter):
    """The connections of one thread. The caller sets ``exchange`` before each `send`."""

    exchange: Exchange

    def __init__(self, tls: Callable[[], ssl.SSLContext], guard: Guard, proxy: ProxyManager | None = None) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._tls = tls
        self._proxy = proxy
        self.guard = guard
        self._pools: dict[str, HTTPConnectionPool] = {}

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> HTTPConnectionPool:
        """Return the pool of the request's origin; a new pool replaces the least recently used one."""
        url = request.url or ""
        origin = url[: url.index("/", 8)]
        pool = self._pools.pop(origin, None) or self._new_pool(origin)
        self._pools[origin] = pool
        if len(self._pools) > _IDLE_ORIGINS:
            self._pools.pop(next(iter(self._pools))).close()
        return pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: the common TLS context verifies, and is loaded once instead of for every connection."""

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """Return the request target in its canonical spelling: from the path on, or the whole URL for a proxy."""
        url = request.url or ""
        return url if self._proxy and url.startswith("http:") else url[url.index("/", 8) :]

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Return the response unchanged, without requests' search for cookies and for an encoding."""
        response = requests.Response()
        response.status_code = resp.status
        response.headers = resp.headers
        response.raw = resp
        response.url = req.url or ""
        response.request = req
        return response

    def relieve(self) -> None:
        """Close the idle connections. Any thread may call this; the next request opens a new connection."""
        for pool in tuple(self._pools.values()):
            if pool.pool is not None:
                with contextlib.suppress(queue.Empty):
                    if (idle := pool.pool.get_nowait()) is not None:
                        idle.close()

    def close(self) -> None:
        """Close the idle connections and the pools."""
        while self._pools:
            self._pools.popitem()[1].close()
        super().close()

    def _new_pool(self, origin: str) -> HTTPConnectionPool:
        parts, options = parse_url(origin), dict[str, Any]()
        if self._proxy is not None and self._proxy.proxy is not None:
            options = {
                key: self._proxy.connection_pool_kw[key] for key in ("_proxy", "_proxy_headers", "_proxy_config")
            }
            if parts.scheme == "http":  # a proxy fetches http URLs itself, and opens a tunnel for https
                parts = self._proxy.proxy
        host, is_secure = parts.host or "", parts.scheme == "https"
        pool = (
            HTTPSConnectionPool(host, parts.port, maxsize=1, ssl_context=self._tls(), **options)
            if is_secure
            else HTTPConnectionPool(host, parts.port, maxsize=1, **options)
        )
        kind = _SecureConnection if is_secure else _Connection
        pool.ConnectionCls = functools.partial(kind, self)  # type: ignore[assignment]  # called like a class
        return pool


class _Connection(HTTPConnection):
    """A connection that reads its responses through the transport's current exchange."""

    def __init__(self, transport: Transport, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._transport = transport
        self._is_new = True
        self.response_class = self._new_response  # type: ignore[assignment]  # called like a class

    def connect(self) -> None:
        self._is_new = True
        super().connect()

    def _new_conn(self) -> socket.socket:
        """Return a socket connected to an address that the guard permits; ``Host``, SNI and certificate use the name.

        The user's own proxy may have any address; the guard has already vetted hosts that are written as an address.

        Raises:
            RequestFailed: ``blocked-address``.
            urllib3.exceptions.HTTPError: there is no connection.
        """
        if self.proxy is not None:
            return super()._new_conn()
        seconds = Timeout.resolve_default_timeout(self.timeout)
        try:
            return self._transport.guard.connect(self._dns_host, self.port, seconds, self.socket_options or ())
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"{self.host} did not accept a connection within {seconds} s") from error
        except OSError as error:
            raise NewConnectionError(self, f"no connection: {error}") from error

    def _tunnel(self) -> None:
        """Open a tunnel through the proxy. Its response is read directly, not through the current exchange."""
        self.response_class = HTTPResponse
        try:
            super()._tunnel()  # of http.client; urllib3 calls it, too
        finally:
            self.response_class = self._new_response  # type: ignore[assignment]

    def _new_response(self, sock: socket.socket, *args: Any, **kwargs: Any) -> ResponseHead:
        exchange = self._transport.exchange
        exchange.was_kept = exchange.is_reusing = not self._is_new
        self._is_new = False
        return ResponseHead(exchange, sock, *args, **kwargs)


class _SecureConnection(_Connection, HTTPSConnection):
    """A `_Connection` over TLS."""


class RequestsFetcher:
    """A fetcher that uses the network through requests. Thread-safe; each thread has its own keep-alive connections.

    It ignores proxies of the environment, follows no redirects and retries no failed requests. It resumes a large body
    that breaks off.

    Args:
        limits: timeouts and minimum speed of each request; default: those of `TransferLimits`.
        user_agent: the ``User-Agent`` header.
        contact: value of the ``From`` header if it is an e-mail address (RFC 9110 §10.1.2).
        proxy: URL of an http or https proxy for all requests, with user and password if the proxy requires them.
        cookies: the user's cookies; default: none.
        tls: context with the trusted certificates; default: the bundle of requests.
        guard: decides which addresses are permitted; default: public ones.
        clock: monotonic clock, in seconds.
    """

    def __init__(
        self,
        limits: TransferLimits | None = None,
        user_agent: str = USER_AGENT,
        *,
        contact: str = "",
        proxy: str = "",
        cookies: Cookies | None = None,
        tls: ssl.SSLContext | None = None,
        guard: Guard | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits = limits or TransferLimits()
        self._timeout = (min(limits.connect, limits.total), limits.first_byte)
        self.headers = RequestHeaders(user_agent, contact, cookies)
        self._lock = threading.Lock()
        self._context = tls
        self._guard = guard or Guard()
        self._proxy = _proxy_manager(proxy, self._tls()) if proxy else None
        self._clock = clock
        self._local = threading.local()
        self._transports: WeakSet[Transport] = WeakSet()  # those of ended threads disappear by themselves
        self._running: set[Exchange] = set()

    def fetch(self, request: Request, conditions: Conditions) -> Response:
        """Return the response to ``request.location`` when its headers are complete; raises as `Fetcher.fetch`."""
        url = request.location
        if not url.startswith(("http://", "https://")):
            raise RequestFailed("unsupported-scheme", f"not an http(s) URL: {url[:200]!r}")
        headers = self.headers.of(request, conditions)
        started = self._clock()

        def send(further: Mapping[str, str]) -> tuple[RawResponse, Exchange]:
            return self._send(url, {**headers, **further}, started, conditions.max_bytes)

        raw, exchange = send(validators(conditions))
        response = Response(
            url,
            raw.status,
            headers=raw.headers,
            body=NetworkBody(raw, exchange, send, self._running.discard),
            conditions=conditions,
            started=started,
            clock=self._clock,
        )
        self.headers.cookies.learn(request, response)
        return response

    def abort(self) -> None:
        """Abort all fetches in progress; they soon end with ``cancelled``. Later fetches are not affected."""
        for exchange in self._running.copy():
            exchange.cut()

    def relieve(self) -> None:
        """Close idle connections to free file descriptors; later fetches open new ones."""
        with self._lock:
            for transport in self._transports:
                transport.relieve()

    def close(self) -> None:
        """Close idle connections; those in use close with their responses."""
        with self._lock:
            for transport in self._transports:
                transport.close()

    def _send(self, url: str, headers: dict[str, str], started: float, max_bytes: int) -> tuple[RawResponse, Exchange]:
        """Send a request. Return the response when its headers are complete, and its exchange."""
        is_conditional = not CONDITIONAL.isdisjoint(headers)

        def new_exchange() -> Exchange:
            return Exchange(self._limits, self._clock, started, max_bytes=max_bytes, is_conditional=is_conditional)

        exchange = new_exchange()
        try:
            return self._exchange(exchange, url, headers), exchange
        except RequestFailed as error:
            # A server may close an idle connection just before it is reused (RFC 9112 §9.3.1). Data that are not HTTP
            # may be the rest of an earlier response, which is not a failure of this request.
            is_leftover = exchange.was_kept and not error.retryable
            if error.reason != "connect" or not (exchange.is_reusing or is_leftover):
                raise
            exchange = new_exchange()
            return self._exchange(exchange, url, headers), exchange

    def _exchange(self, exchange: Exchange, url: str, headers: dict[str, str]) -> RawResponse:
        prepared = requests.PreparedRequest()  # not with prepare(), which changes the spelling of the URL
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

    def _tls(self) -> ssl.SSLContext:
        """Return the TLS context. It takes 20 ms to load, so this waits for the first https connection."""
        with self._lock:
            self._context = self._context or ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
            return self._context

    def _transport(self) -> Transport:
        """Return this thread's connections."""
        transport: Transport | None = getattr(self._local, "transport", None)
        if transport is None:
            transport = self._local.transport = Transport(self._tls, self._guard, self._proxy)
            with self._lock:
                self._transports.add(transport)
        return transport


def _proxy_manager(proxy: str, tls: ssl.SSLContext) -> ProxyManager:
    """Return urllib3's settings for a proxy. User and password go to the proxy only, never through a tunnel."""
    parts = parse_url(proxy)
    headers = make_headers(proxy_basic_auth=unquote(parts.auth)) if parts.auth else None
    return ProxyManager(parts._replace(auth=None).url, proxy_headers=headers, proxy_ssl_context=tls)
