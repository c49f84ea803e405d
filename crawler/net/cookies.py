"""Cookies: those that the user provides, and those that a redirect sets for its own chain. No cookie is stored.

Some servers send a picture only to a client that returns the cookie of a redirect to the same URL. So the requests of
a chain of redirects within one origin have the cookies that these set, until the chain ends.
"""

import threading
import warnings
from email.message import Message
from http.cookiejar import CookieJar, DefaultCookiePolicy, LoadError, MozillaCookieJar
from pathlib import Path

import requests
from msgspec import Struct
from requests.cookies import MockRequest, MockResponse, get_cookie_header

from crawler.errors import ConfigError, RequestFailed
from crawler.model import Request
from crawler.net.fetcher import Response
from crawler.urls import origin

#: Most cookies in one response, and most characters of one cookie (RFC 6265 §6.1).
_MAX_COOKIES, _MAX_COOKIE = 20, 4_096
#: Most chains of redirects that are followed at the same time.
_MAX_CHAINS = 1_000
#: Longest ``Cookie`` header; most servers refuse longer ones.
_MAX_HEADER = 8_192


class _Chain(Struct, frozen=True):
    """A chain of redirects: the hops of its next request, the origin, and the cookies collected so far."""

    hops: int
    origin: str
    jar: CookieJar


class Cookies:
    """The ``Cookie`` headers of requests (RFC 6265). Thread-safe.

    Args:
        path: file with the user's cookies, in the format of Netscape and curl; None: no cookies.

    Raises:
        ConfigError: the file can't be read.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._user_jar = _read(path) if path is not None else None
        self._lock = threading.Lock()
        #: Kind and URL of a request → its chain; the oldest are dropped, as some chains are not continued here.
        self._chains: dict[tuple[str, str], _Chain] = {}

    def header(self, request: Request) -> str:
        """Return the ``Cookie`` header of a request, or "" if it has none."""
        jar = self._chain_jar(request) or self._user_jar
        if jar is None:
            return ""
        query = requests.Request(url=request.location)  # only an argument for the jar
        header: str = get_cookie_header(jar, query) or ""  # type: ignore[no-untyped-call]
        return header if len(header) <= _MAX_HEADER else ""

    def learn(self, request: Request, response: Response) -> None:
        """Keep the cookies of a redirect within the origin for the next request; any other response ends the chain."""
        jar = self._chain_jar(request)
        key = request.kind, request.url
        with self._lock:
            self._chains.pop(key, None)
        lines = [line for line in response.headers.getlist("set-cookie") if _is_valid(line)][:_MAX_COOKIES]
        if not lines and jar is None:
            return
        own_origin = origin(response.url)
        if _target_origin(response) != own_origin:
            return
        if jar is None:
            jar = CookieJar(_policy())
            for cookie in self._user_jar or ():
                jar.set_cookie(cookie)
        message = Message()
        for line in lines:
            message["Set-Cookie"] = line
        query = MockRequest(requests.Request(url=response.url))
        jar.extract_cookies(MockResponse(message), query)  # type: ignore[arg-type]  # requests made them for the jar
        with self._lock:
            self._chains[key] = _Chain(request.hops + 1, own_origin, jar)
            if len(self._chains) > _MAX_CHAINS:
                del self._chains[next(iter(self._chains))]

    def _chain_jar(self, request: Request) -> CookieJar | None:
        """Return the cookies of the chain that this request continues, or None if it continues none."""
        chain = self._chains.get((request.kind, request.url))
        if chain is None or chain.hops != request.hops:
            return None
        return chain.jar if chain.origin == origin(request.location) else None


def _is_valid(line: str) -> bool:
    return len(line) <= _MAX_COOKIE and line.isascii() and line.replace("\t", " ").isprintable()


def _target_origin(response: Response) -> str:
    """Return the origin of a redirect's target, or "" if there is no valid target."""
    try:
        return origin(response.location or "")
    except (RequestFailed, ValueError):
        return ""


def _policy() -> DefaultCookiePolicy:
    """Return the policy that sends a cookie without a domain to its host only (RFC 6265 §5.3).

    The default of http.cookiejar is less strict.
    """
    return DefaultCookiePolicy(strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain)


def _read(path: Path) -> CookieJar:
    jar = MozillaCookieJar(str(path), policy=_policy())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on an invalid file, it also prints a traceback
            jar.load(ignore_discard=True, ignore_expires=True)
    except OSError as error:
        if isinstance(error, LoadError):
            raise ConfigError(f"{path} is not a cookie file in Netscape format") from error
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a cookie file in Netscape format") from error
    for cookie in jar:
        cookie.expires = cookie.expires or None  # 0 marks a session cookie
    return jar
