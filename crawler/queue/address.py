"""Address of a master: host and port, how to write and read them, and whether they are on this machine."""

import socket

from crawler.errors import ConfigError
from crawler.urls import is_loopback

#: Host and port; the host may be a name, an IPv4 or an IPv6 address.
Address = tuple[str, int]


def require_loopback(address: Address) -> None:
    """Refuse an address of another machine: without TLS a relay could read the traffic and pose as the master.

    Raises:
        ConfigError: ``address`` is on another machine.
    """
    if not is_loopback(address[0]):
        raise ConfigError(
            f"{format_address(address)} is the address of another machine, and the join file has no certificate;"
            " to connect to another machine, start the master with --listen HOST:PORT and copy its join file again"
        )


def is_own(host: str) -> bool:
    """Return whether a host is this machine: a route to it then starts at the host's own address. Send nothing."""
    if is_loopback(host):
        return True
    try:
        family, kind, protocol, _, destination = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(destination)
            return bool(probe.getsockname()[0] == probe.getpeername()[0])
    except OSError:
        return False


def format_address(address: Address) -> str:
    """Return ``host:port``, with brackets around an IPv6 host."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str, *, lowest_port: int = 1) -> Address:
    """Return host and port of ``host:port`` or ``[ipv6]:port``. A server allows port 0, which selects a free port.

    Raises:
        ConfigError: ``text`` has neither form.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and lowest_port <= int(port) < 65_536
    if not is_port or not bare or (":" in bare and bare == host):
        raise ConfigError(f"{text[:200]!r} is not an address; write HOST:PORT, or [IPV6]:PORT")
    return bare, int(port)
