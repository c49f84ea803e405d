"""Addresses under which other machines may reach this machine, from the standard library alone.

No single method works on every system, so the results of several are combined: the source addresses of the routes to
some typical networks (a UDP socket is connected, and nothing is sent), the IPv4 address of each interface (POSIX), the
list of IPv6 addresses that Linux keeps, and the addresses of this machine's name (all of them, on Windows).
"""

import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: Most addresses that are returned: a downloader tries them one after the other.
_MOST = 8
#: Addresses in typical networks: for the internet, addresses that no machine has (RFC 5737, RFC 3849); private ones.
_ROUTES = ("192.0.2.1", "10.255.255.254", "192.168.255.254", "172.31.255.254", "2001:db8::1")
#: ``SIOCGIFADDR`` of Linux, and of macOS and the BSDs.
_GET_ADDRESS = 0x8915 if sys.platform == "linux" else 0xC0206921


def own_addresses(*, ipv6: bool) -> tuple[str, ...]:
    """Return addresses of this machine without loopback and link-local ones, the one of the default route first."""
    addresses: dict[str, None] = {}
    for candidate in (*_by_route(), *_by_interface(), *_by_linux(), *_by_name()):
        with suppress(ValueError):
            address = ipaddress.ip_address(candidate)
            is_usable = not (address.is_loopback or address.is_link_local or address.is_unspecified)
            if is_usable and (ipv6 or address.version == 4):
                addresses[str(address)] = None
    return tuple(addresses)[:_MOST]


def _by_route() -> Iterator[str]:
    for target in _ROUTES:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            yield probe.getsockname()[0]


def _by_interface() -> Iterator[str]:
    if sys.platform == "win32":
        return
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # the interface has no IPv4 address
                answer = fcntl.ioctl(probe, _GET_ADDRESS, struct.pack("256s", name.encode()[:15]))
                yield socket.inet_ntoa(answer[20:24])


def _by_linux() -> Iterator[str]:
    with suppress(OSError, ValueError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            yield str(ipaddress.IPv6Address(int(line.split()[0], 16)))


def _by_name() -> Iterator[str]:
    with suppress(OSError, UnicodeError):
        for *_, address in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM):
            yield str(address[0])
