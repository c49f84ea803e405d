"""Keeps connections from leading where the public has no business: into our own networks, to our own machine.

Each connection asks once for the addresses of its host, vets every one, and goes to an address that was vetted and not
to the name, whose next answer may be another one. So it does not matter who named the host, a page, a redirect or
robots.txt, nor how it is spelled. A proxy looks up names by itself: with one in between, vetting names is its task, and
ours is what is written as an address.
"""

import errno
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import msgspec
from msgspec import Struct
from urllib3.util.connection import allowed_gai_family

from crawler.addresses import BLOCKED_PORTS, LOOPBACK, METADATA, PRIVATE, Address, objection_to
from crawler.errors import MessageError, NoHandles, RequestFailed
from crawler.urls import host_and_port, is_loopback

_log = logging.getLogger(__name__)

#: What a name may stand for to be exempt by it. Whoever wants a metadata service for a seed has to write its address.
_BY_NAME = frozenset({LOOPBACK, PRIVATE})
#: What ``localhost`` is, whatever a resolver says (RFC 6761 §6.3).
_LOCALHOST = ("127.0.0.1", "::1")
_OTHER_PORT = "a port of another protocol"
_NO_HANDLES = (errno.EMFILE, errno.ENFILE)
#: Exemptions of one crawl.
MAX_EXEMPT = 10_000
#: Names that are looked up at a time.
_LOOK_UPS = 16
#: Refused places that are logged, each once.
_MAX_TOLD = 1_000
#: What name servers answer with: the name, or an address of it, does not exist; the last one is Windows' WSANO_DATA.
NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), 11_004}


class NoNameServer(socket.gaierror):
    """No name server has answered, about this name or another: this box is cut off, as far as can be told.

    The same error of the system's, `socket.EAI_AGAIN`, may also come of a domain whose own servers are broken.
    """


class Exemption(Struct, frozen=True, kw_only=True):
    """A private host that a seed names: as the seed spells it, with the addresses that it had at that time."""

    host: str
    port: int
    addresses: tuple[str, ...]

    def __post_init__(self) -> None:
        for address in self.addresses:
            ipaddress.ip_address(address)  # ValueError: another machine sent what is none


class Guard:
    """Decides where connections may lead, and makes them. May be asked from any thread.

    Args:
        exempt: private hosts that are permitted.
        allow_private: permit every address but those of metadata services.
    """

    def __init__(self, exempt: Iterable[Exemption] = (), *, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        self._exempt: dict[tuple[str, int], Exemption] = {}
        self._places: dict[tuple[str, int], frozenset[Address]] = {}
        self._lock = threading.Lock()
        self._told: set[tuple[str, int]] = set()
        #: The name that name servers knew last.
        self._heard_of = ""
        self.exempt(exempt)

    @classmethod
    def for_crawl(cls, settings: Mapping[str, Any]) -> Self:
        """What a master's greeting permits to workers on its own machine: the private hosts that its seeds name."""
        return cls(told(settings))

    def exempt(self, found: Iterable[Exemption]) -> bool:
        """Permit these from now on; whether that is news."""
        is_news = False
        with self._lock:
            for each in found:
                key = each.host, each.port
                if self._exempt.get(key) == each:
                    continue
                if key not in self._exempt and len(self._exempt) >= MAX_EXEMPT:
                    _log.warning("%d private seeds are exempt; for more, use --allow-private", MAX_EXEMPT)
                    break
                self._exempt[key] = each
                self._places[key] = frozenset(map(ipaddress.ip_address, each.addresses))
                is_news = True
        return is_news

    @property
    def exemptions(self) -> tuple[Exemption, ...]:
        """All that are permitted."""
        with self._lock:
            return tuple(self._exempt.values())

    def objection(self, host: str, port: int, address: str) -> str:
        """Why there must be no connection to ``host`` at an address that it has; empty: there may be one."""
        what = objection_to(address)
        if not what or (self._allow_private and what != METADATA):
            return ""
        if "%" in address:
            return what
        parsed = ipaddress.ip_address(address)
        if parsed in self._places.get((host, port), ()):
            return ""
        # Nobody owns the name localhost: it is another spelling of the address it stands for.
        if is_loopback(host) and parsed in self._places.get((str(parsed), port), ()):
            return ""
        return what

    def vet(self, host: str, port: int) -> None:
        """Refuse what can be seen to be private without asking for its addresses: all that can be said before a proxy.

        Raises:
            RequestFailed: ``blocked-address``.
        """
        if port in BLOCKED_PORTS:
            raise self._refused(host, port, _OTHER_PORT)
        address = host if _is_address(host) else _LOCALHOST[0] if is_loopback(host) else ""
        what = self.objection(host, port, address) if address else ""
        if what:
            raise self._refused(host, port, what)

    def connect(
        self, host: str, port: int, seconds: float | None, options: Sequence[tuple[Any, ...]] = ()
    ) -> socket.socket:
        """A connection to the first address of ``host`` that may be had and answers.

        Args:
            host: name, or address without brackets.
            port: TCP port.
            seconds: time for all attempts together; None: as long as the system tries.
            options: arguments of `socket.socket.setsockopt`.

        Raises:
            RequestFailed: ``blocked-address``.
            OSError: nobody answers; `socket.gaierror`: nor does the name have any address.
            NoHandles: this process can open nothing more, for which no host is to blame.
        """
        if port in BLOCKED_PORTS:
            raise self._refused(host, port, _OTHER_PORT)
        places = self._look_up(host, port)
        objections = [self.objection(host, port, str(place[4][0])) for place in places]
        permitted = [place for place, what in zip(places, objections, strict=True) if not what]
        if not permitted:
            raise self._refused(host, port, next(iter(objections), "nowhere"))
        return _connect(permitted, seconds, options)

    def _look_up(self, host: str, port: int) -> list[Any]:
        try:
            places = socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in NO_SUCH_NAME or self._hears_of_others(host):
                raise
            raise NoNameServer(*error.args) from error
        if not _is_address(host) and not is_loopback(host):
            self._heard_of = host
        return places

    def _hears_of_others(self, host: str) -> bool:
        """Whether name servers answer about another name, the one that they knew last: then it is this one's fault."""
        known = self._heard_of
        if known in ("", host):
            return False
        try:
            socket.getaddrinfo(known, 80, allowed_gai_family(), socket.SOCK_STREAM)
        except socket.gaierror as error:
            return error.errno in NO_SUCH_NAME
        return True

    def _refused(self, host: str, port: int, what: str) -> RequestFailed:
        with self._lock:
            is_first = not self._told
            is_news = (host, port) not in self._told and len(self._told) < _MAX_TOLD
            if is_news:
                self._told.add((host, port))
        if is_news:
            level = logging.WARNING if is_first else logging.INFO
            advice = "" if what in (_OTHER_PORT, METADATA) else " (--allow-private permits it)"
            _log.log(level, "refused to connect to %s, port %d, which is %s%s", host, port, what, advice)
        return RequestFailed("blocked-address", f"{host}:{port} is {what}")


def told(settings: Mapping[str, Any]) -> tuple[Exemption, ...]:
    """The exemptions in a master's greeting.

    Raises:
        MessageError: they are none.
    """
    try:
        return msgspec.convert(settings.get("exempt", ()), tuple[Exemption, ...])
    except msgspec.ValidationError as error:
        raise MessageError(f"what the master says of private seeds can't be understood: {error}") from error


def exemptions(seeds: Iterable[str], *, look_up: bool) -> list[Exemption]:
    """What the URLs of seeds exempt: of private hosts exactly that host and port, at the addresses found now.

    A name with public addresses at this time is not exempt later, when it may have been led elsewhere. With ``look_up``
    false only addresses and ``localhost`` count, and no resolver is asked.
    """
    places = list(dict.fromkeys(map(host_and_port, seeds)))
    if not look_up:
        return list(_exempted(places))
    with ThreadPoolExecutor(_LOOK_UPS) as pool:
        return list(_exempted(places, pool))


def _exempted(places: Sequence[tuple[str, int]], pool: ThreadPoolExecutor | None = None) -> Iterator[Exemption]:
    names = []
    for host, port in places:
        if is_loopback(host) and not _is_address(host):
            yield Exemption(host=host, port=port, addresses=_LOCALHOST)
            for address in _LOCALHOST:
                yield Exemption(host=address, port=port, addresses=(address,))
        elif not _is_address(host):
            names.append((host, port))
        elif objection_to(host):
            yield Exemption(host=host, port=port, addresses=(host,))
    for (host, port), addresses in zip(names, pool.map(_private, names), strict=True) if pool else ():
        if addresses:
            yield Exemption(host=host, port=port, addresses=addresses)


def _private(place: tuple[str, int]) -> tuple[str, ...]:
    """The addresses of a name, if they are all private."""
    try:
        found = socket.getaddrinfo(*place, allowed_gai_family(), socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # whoever wants to connect will hear of it
        return ()
    addresses = tuple(dict.fromkeys(str(each[4][0]) for each in found))
    is_private = all("%" not in address and objection_to(address) in _BY_NAME for address in addresses)
    return addresses if is_private else ()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _connect(places: Sequence[Any], seconds: float | None, options: Sequence[tuple[Any, ...]]) -> socket.socket:
    """A connection to the first that answers; each has its share of the time that is left."""
    deadline = None if seconds is None else time.monotonic() + seconds
    failure: OSError | None = None
    for number, (family, kind, protocol, _, place) in enumerate(places):
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            for option in options:
                sock.setsockopt(*option)
            if deadline is not None:
                sock.settimeout(max(0.001, (deadline - time.monotonic()) / (len(places) - number)))
            sock.connect(place)
        except OSError as error:
            failure = error
            if sock is not None:
                sock.close()
            if error.errno in _NO_HANDLES:
                raise NoHandles("too many open files: raise `ulimit -n` or use fewer threads with -t") from error
        else:
            sock.settimeout(seconds)
            return sock
    raise failure or OSError("there is no address")
