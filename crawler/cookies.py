"""Cookies: those that the user gives, and those that a redirect sets for its own chain. None is ever kept.

Some servers send a picture only to those who bring back the cookie of a redirect to the same place. So what redirects
within one origin set is sent along that chain, by the thread that follows it, and is forgotten with it.
"""

import threading
import warnings
from email.message import Message
from http.cookiejar import CookieJar, DefaultCookiePolicy, LoadError, MozillaCookieJar
from pathlib import Path
from urllib import request as urllib

from msgspec import Struct

from crawler.errors import ConfigError, RequestFailed
from crawler.fetcher import Response
from crawler.model import Request
from crawler.urls import origin

#: What one answer may set: cookies, and characters of each (RFC 6265 §6.1).
_MAX_COOKIES, _MAX_COOKIE = 20, 4_096
#: Longest ``Cookie`` header; most servers refuse longer ones.
_MAX_HEADER = 8_192


class _Chain(Struct, frozen=True):
    """Where the chain of redirects that a thread follows is to go on, and what it has collected."""

    kind: str
    url: str
    hops: int
    origin: str
    jar: CookieJar


class Cookies:
    """What is sent to whom (RFC 6265). Any thread may use it, and has chains of its own.

    Args:
        path: the user's cookies, in the format of Netscape and curl; None: there are none.

    Raises:
        ConfigError: the file can't be read.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._own = _read(path) if path is not None else None
        self._local = threading.local()

    def header(self, request: Request) -> str:
        """The ``Cookie`` header of a request; empty: it has none."""
        jar = self._collected(request) or self._own
        if jar is None:
            return ""
        asked = urllib.Request(request.location)  # noqa: S310  # only asked about, never opened
        jar.add_cookie_header(asked)
        header: str = asked.get_header("Cookie") or ""
        return header if len(header) <= _MAX_HEADER else ""

    def learn(self, request: Request, response: Response) -> None:
        """Take what a redirect within the origin sets, for the request that follows it; else the chain ends."""
        jar = self._collected(request)
        self._local.chain = None
        lines = [line for line in response.headers.getlist("set-cookie") if _is_sound(line)][:_MAX_COOKIES]
        if not lines and jar is None:
            return
        here = origin(response.url)
        if _target_origin(response) != here:
            return
        if jar is None:
            jar = _new_jar()
            for cookie in self._own or ():
                jar.set_cookie(cookie)
        asked = urllib.Request(response.url)  # noqa: S310  # only asked about, never opened
        jar.extract_cookies(_Answer(lines), asked)  # type: ignore[arg-type]  # of which only info() is called
        self._local.chain = _Chain(request.kind, request.url, request.hops + 1, here, jar)

    def _collected(self, request: Request) -> CookieJar | None:
        """What the chain has collected that this request goes on with."""
        chain: _Chain | None = getattr(self._local, "chain", None)
        if chain is None or (chain.kind, chain.url, chain.hops) != (request.kind, request.url, request.hops):
            return None
        return chain.jar if chain.origin == origin(request.location) else None


class _Answer:
    """As much of an answer as http.cookiejar looks at."""

    def __init__(self, lines: list[str]) -> None:
        self._headers = Message()
        for line in lines:
            self._headers["Set-Cookie"] = line

    def info(self) -> Message:
        return self._headers


def _is_sound(line: str) -> bool:
    return len(line) <= _MAX_COOKIE and line.isascii() and line.replace("\t", " ").isprintable()


def _target_origin(response: Response) -> str:
    """Origin that a redirect leads to; empty: it leads nowhere."""
    try:
        return origin(response.location or "")
    except (RequestFailed, ValueError):
        return ""


def _policy() -> DefaultCookiePolicy:
    """A cookie without a domain goes to its host alone (RFC 6265 §5.3); by itself http.cookiejar is laxer."""
    return DefaultCookiePolicy(strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain)


def _new_jar() -> CookieJar:
    return CookieJar(_policy())


def _read(path: Path) -> CookieJar:
    jar = MozillaCookieJar(str(path), policy=_policy())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it can't read it prints a traceback, besides its error
            jar.load(ignore_discard=True, ignore_expires=True)
    except OSError as error:
        if isinstance(error, LoadError):
            raise ConfigError(f"{path} is no file of cookies in Netscape's format") from error
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no file of cookies in Netscape's format") from error
    for cookie in jar:
        cookie.expires = cookie.expires or None  # 0 stands for a cookie of the browser's session
    return jar
