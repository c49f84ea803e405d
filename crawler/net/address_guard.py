"""Guard against connections to addresses that are not public: the user's own networks, this machine itself.

Each connection looks up the addresses of its host once, vets every one, and connects to a vetted address. It does not
connect to the name, as the next look-up may return another address. So the source of the host (a page, a redirect or
robots.txt) and its spelling do not matter. A proxy looks up names by itself: with a proxy, the guard vets only hosts
that are written as an address, and the proxy must vet names.
"""

import errno
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import msgspec
from msgspec import Struct
from urllib3.util.connection import allowed_gai_family

from crawler.errors import TOO_MANY_FILES, MessageError, NoHandles, RequestFailed
from crawler.net.special_addresses import BLOCKED_PORTS, LOOPBACK, METADATA, PRIVATE, Address, objection_to
from crawler.urls import host_and_port, is_loopback

_log = logging.getLogger(__name__)

#: Kinds of addresses that a seed exempts by a name. For a metadata service as a seed, the user must write its address.
_BY_NAME = frozenset({LOOPBACK, PRIVATE})
#: Addresses of ``localhost``; the resolver is not asked (RFC 6761 §6.3).
_LOCALHOST = ("127.0.0.1", "::1")
_OTHER_PORT = "a port of another protocol"
_NO_HANDLES = (errno.EMFILE, errno.ENFILE)
#: Most exemptions of one crawl.
_MAX_EXEMPT = 10_000
#: Names that are looked up at the same time.
_PARALLEL_LOOKUPS = 16
#: Most refused hosts that are logged, each once.
_MAX_LOGGED = 1_000
#: Error codes for a name that does not exist or has no address; the last one is Windows' WSANO_DATA.
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), 11_004}


class NoNameServer(socket.gaierror):
    """No name server responds, for this name or another: this machine is probably offline.

    The error code `socket.EAI_AGAIN` alone does not show this: a domain with broken name servers causes it, too.
    """


class Exemption(Struct, frozen=True, kw_only=True):
    """A private host of a seed: as the seed spells it, with the addresses that it has at the start of the crawl."""

    host: str
    port: int
    addresses: tuple[str, ...]

    def __post_init__(self) -> None:
        for address in self.addresses:
            ipaddress.ip_address(address)  # raises ValueError if another machine sent an invalid address


class Guard:
    """A policy for the addresses of connections, which also opens the connections. Thread-safe.

    Args:
        exempt: private hosts that are permitted.
        allow_private: permit every address except those of metadata services.
    """

    def __init__(self, exempt: Iterable[Exemption] = (), *, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        self._exempt: dict[tuple[str, int], Exemption] = {}
        self._exempt_addresses: dict[tuple[str, int], frozenset[Address]] = {}
        self._lock = threading.Lock()
        self._logged: set[tuple[str, int]] = set()
        #: The last name that was resolved.
        self._last_resolved = ""
        self.exempt(exempt)

    @classmethod
    def for_crawl(cls, settings: Mapping[str, Any]) -> Self:
        """Return the guard of a worker on the master's machine: the greeting permits the private hosts of seeds."""
        return cls(exemptions_in(settings))

    def exempt(self, hosts: Iterable[Exemption]) -> bool:
        """Permit these hosts from now on. Return whether one of them was not permitted before."""
        is_changed = False
        with self._lock:
            for exemption in hosts:
                key = exemption.host, exemption.port
                if self._exempt.get(key) == exemption:
                    continue
                if key not in self._exempt and len(self._exempt) >= _MAX_EXEMPT:
                    _log.warning(
                        "only %d seeds with private addresses are permitted; for more, use --allow-private", _MAX_EXEMPT
                    )
                    break
                self._exempt[key] = exemption
                self._exempt_addresses[key] = frozenset(map(ipaddress.ip_address, exemption.addresses))
                is_changed = True
        return is_changed

    @property
    def exemptions(self) -> tuple[Exemption, ...]:
        """All permitted private hosts."""
        with self._lock:
            return tuple(self._exempt.values())

    def objection(self, host: str, port: int, address: str) -> str:
        """Return why a connection to ``host`` at ``address`` is not permitted, or "" if it is."""
        objection = objection_to(address)
        if not objection or (self._allow_private and objection != METADATA):
            return ""
        if "%" in address:
            return objection
        parsed = ipaddress.ip_address(address)
        if parsed in self._exempt_addresses.get((host, port), ()):
            return ""
        # The name localhost can't be redirected: it is only another spelling of its address.
        if is_loopback(host) and parsed in self._exempt_addresses.get((str(parsed), port), ()):
            return ""
        return objection

    def vet(self, host: str, port: int) -> None:
        """Refuse a host that is private by its spelling, without a look-up: the only check possible before a proxy.

        Raises:
            RequestFailed: ``blocked-address``.
        """
        if port in BLOCKED_PORTS:
            raise self._refused(host, port, _OTHER_PORT)
        address = host if _is_address(host) else _LOCALHOST[0] if is_loopback(host) else ""
        objection = self.objection(host, port, address) if address else ""
        if objection:
            raise self._refused(host, port, objection)

    def connect(
        self, host: str, port: int, seconds: float | None, options: Sequence[tuple[Any, ...]] = ()
    ) -> socket.socket:
        """Return a connection to the first address of ``host`` that is permitted and accepts it.

        Args:
            host: name, or address without brackets.
            port: TCP port.
            seconds: timeout for all attempts together; None: the timeout of the operating system.
            options: arguments of `socket.socket.setsockopt`.

        Raises:
            RequestFailed: ``blocked-address``.
            OSError: no address accepts the connection; `socket.gaierror` if the name has no address.
            NoHandles: this process is out of file descriptors, which is not the host's fault.
        """
        return _connect(self.look_up(host, port), seconds, options)

    def look_up(self, host: str, port: int) -> list[Any]:
        """Return the permitted addresses of ``host``, as entries of `socket.getaddrinfo`.

        Raises:
            RequestFailed: ``blocked-address``.
            socket.gaierror: the name has no address, or no name server responds.
        """
        if port in BLOCKED_PORTS:
            raise self._refused(host, port, _OTHER_PORT)
        infos = self._resolve(host, port)
        objections = [self.objection(host, port, str(info[4][0])) for info in infos]
        permitted = [info for info, objection in zip(infos, objections, strict=True) if not objection]
        if not permitted:
            raise self._refused(host, port, next(iter(objections), "a name without addresses"))
        return permitted

    def _resolve(self, host: str, port: int) -> list[Any]:
        try:
            infos = socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in _NO_SUCH_NAME or self._is_resolver_up(host):
                raise
            raise NoNameServer(*error.args) from error
        if not _is_address(host) and not is_loopback(host):
            self._last_resolved = host
        return infos

    def _is_resolver_up(self, host: str) -> bool:
        """Check whether name servers respond for the last resolved name; if so, the failure concerns ``host`` only."""
        name = self._last_resolved
        if name in ("", host):
            return False
        try:
            socket.getaddrinfo(name, 80, allowed_gai_family(), socket.SOCK_STREAM)
        except socket.gaierror as error:
            return error.errno in _NO_SUCH_NAME
        return True

    def _refused(self, host: str, port: int, objection: str) -> RequestFailed:
        """Log the refusal of a host once, and return the error."""
        with self._lock:
            is_first = not self._logged
            is_new = (host, port) not in self._logged and len(self._logged) < _MAX_LOGGED
            if is_new:
                self._logged.add((host, port))
        if is_new:
            level = logging.WARNING if is_first else logging.INFO
            advice = "" if objection in (_OTHER_PORT, METADATA) else " (--allow-private permits it)"
            _log.log(level, "refused to connect to %s, port %d, which is %s%s", host, port, objection, advice)
        return RequestFailed("blocked-address", f"{host}:{port} is {objection}")


def exemptions_in(settings: Mapping[str, Any]) -> tuple[Exemption, ...]:
    """Return the exemptions in a master's greeting.

    Raises:
        MessageError: the exemptions are not valid.
    """
    try:
        return msgspec.convert(settings.get("exempt", ()), tuple[Exemption, ...])
    except msgspec.ValidationError as error:
        raise MessageError(f"the master sent an invalid list of seeds with private addresses: {error}") from error


def exemptions(seeds: Iterable[str], *, look_up: bool) -> list[Exemption]:
    """Return the exemptions for the seeds' private hosts: exactly host and port, at the addresses found now.

    A name with public addresses now is not exempt later, as its addresses may change. Without ``look_up``, only
    addresses and ``localhost`` count, and no resolver is asked.
    """
    hosts: dict[tuple[str, int], tuple[str, ...]] = {}
    names = []
    for host, port in dict.fromkeys(map(host_and_port, seeds)):
        if is_loopback(host) and not _is_address(host):
            hosts |= {(host, port): _LOCALHOST, **{(address, port): (address,) for address in _LOCALHOST}}
        elif not _is_address(host):
            names.append((host, port))
        elif objection_to(host):
            hosts[host, port] = (host,)
    if look_up:
        with ThreadPoolExecutor(_PARALLEL_LOOKUPS) as pool:
            hosts |= zip(names, pool.map(_private_addresses, names), strict=True)
    return [Exemption(host=host, port=port, addresses=ours) for (host, port), ours in hosts.items() if ours]


def _private_addresses(endpoint: tuple[str, int]) -> tuple[str, ...]:
    """Return the addresses of a name if all of them are private, else ()."""
    try:
        infos = socket.getaddrinfo(*endpoint, allowed_gai_family(), socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # the worker that connects to the host gets this error, too
        return ()
    addresses = tuple(dict.fromkeys(str(info[4][0]) for info in infos))
    is_private = all("%" not in address and objection_to(address) in _BY_NAME for address in addresses)
    return addresses if is_private else ()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _connect(infos: Sequence[Any], seconds: float | None, options: Sequence[tuple[Any, ...]]) -> socket.socket:
    """Return a connection to the first address that accepts it; each has an equal share of the remaining time."""
    deadline = None if seconds is None else time.monotonic() + seconds
    failure: OSError | None = None
    for number, (family, kind, protocol, _, address) in enumerate(infos):
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            for option in options:
                sock.setsockopt(*option)
            if deadline is not None:
                sock.settimeout(max(0.001, (deadline - time.monotonic()) / (len(infos) - number)))
            sock.connect(address)
        except OSError as error:
            failure = error
            if sock is not None:
                sock.close()
            if error.errno in _NO_HANDLES:
                raise NoHandles(TOO_MANY_FILES) from error
        else:
            sock.settimeout(seconds)
            return sock
    raise failure or OSError("the host has no IP address to connect to")
