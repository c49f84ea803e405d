"""Where a master is: host and port, and whether that is this machine."""

from crawler.errors import ConfigError
from crawler.urls import is_loopback

#: Host and port; the host may be a name, an IPv4 or an IPv6 address.
Address = tuple[str, int]


def require_loopback(address: Address) -> None:
    """Let nobody speak to another machine without TLS: what is in between could read along and pose as the master.

    Raises:
        ConfigError: ``address`` is another machine's.
    """
    if not is_loopback(address[0]):
        raise ConfigError(
            f"{format_address(address)} is another machine, and the join file has no certificate;"
            " start the master with --listen HOST:PORT and copy its join file again"
        )


def format_address(address: Address) -> str:
    """``host:port``, with brackets around an IPv6 host."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str, *, lowest_port: int = 1) -> Address:
    """Host and port of ``host:port`` or ``[ipv6]:port``; a server may take port 0, which is any that is free.

    Raises:
        ConfigError: it is neither.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and lowest_port <= int(port) < 65_536
    if not is_port or not bare or (":" in bare and bare == host):
        raise ConfigError(f"{text[:200]!r} is no address; write HOST:PORT, or [IPV6]:PORT")
    return bare, int(port)
