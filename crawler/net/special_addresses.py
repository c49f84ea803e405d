"""Tables of addresses and ports at which there are no public pictures; pure.

`ipaddress.is_global` is not used: its results differ between releases of Python, and it takes some addresses that wrap
a private one for public. The tables are the IANA registries of special-purpose addresses (RFC 6890), with the
additions of cloud providers.
"""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOPBACK, PRIVATE, LINK_LOCAL, METADATA = "loopback", "private", "link-local", "a metadata service"
_SPECIAL = "reserved"
_DISGUISE = "a tunnel to an IPv4 address"

#: Networks and their descriptions; the first network that contains an address decides.
_IPV4: tuple[tuple[str, str], ...] = (
    ("168.63.129.16/32", METADATA),  # Azure
    ("169.254.169.254/32", METADATA),
    ("100.100.100.200/32", METADATA),  # Alibaba
    ("192.0.0.192/32", METADATA),  # Oracle
    ("0.0.0.0/8", _SPECIAL),  # 0.0.0.0 reaches this machine
    ("10.0.0.0/8", PRIVATE),
    ("100.64.0.0/10", PRIVATE),  # between a provider and its customers (carrier-grade NAT)
    ("127.0.0.0/8", LOOPBACK),
    ("169.254.0.0/16", LINK_LOCAL),  # includes more metadata services
    ("172.16.0.0/12", PRIVATE),
    ("192.0.0.0/24", _SPECIAL),
    ("192.0.2.0/24", _SPECIAL),
    ("192.88.99.0/24", _DISGUISE),  # relays of 6to4
    ("192.168.0.0/16", PRIVATE),
    ("198.18.0.0/15", _SPECIAL),
    ("198.51.100.0/24", _SPECIAL),
    ("203.0.113.0/24", _SPECIAL),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", _SPECIAL),
)
_IPV6: tuple[tuple[str, str], ...] = (
    ("::1/128", LOOPBACK),
    ("fd00:ec2::/32", METADATA),  # Amazon
    ("fd20:ce::254/128", METADATA),  # Google
    ("::/96", _DISGUISE),  # IPv4-compatible
    ("::ffff:0:0:0/96", _DISGUISE),  # IPv4-translated
    ("64:ff9b:1::/48", _DISGUISE),  # NAT64 of a local network
    ("2001::/23", _SPECIAL),  # includes Teredo
    ("2001:db8::/32", _SPECIAL),
    ("2002::/16", _DISGUISE),  # 6to4
    ("3fff::/20", _SPECIAL),
    ("fc00::/7", PRIVATE),
    ("fe80::/10", LINK_LOCAL),
    ("fec0::/10", PRIVATE),  # site-local, deprecated
    ("ff00::/8", "multicast"),
)
_TABLES: dict[int, tuple[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str], ...]] = {
    version: tuple((ipaddress.ip_network(network), description) for network, description in table)
    for version, table in ((4, _IPV4), (6, _IPV6))
}
#: All public addresses assigned so far.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
#: IPv6 addresses that only stand for an IPv4 address: mapped ones, and those with NAT64's well-known prefix, by which
#: networks without IPv4 reach all public IPv4 addresses (RFC 6052). The IPv4 address is vetted.
_WRAPPERS = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))
#: The third 32 bits of an ISATAP address (RFC 5214 §6.1).
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)

#: Ports of other protocols, which browsers block: https://fetch.spec.whatwg.org/#port-blocking
BLOCKED_PORTS = frozenset(
    {
        *(0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104),
        *(109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526),
        *(530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659),
        *(4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080),
    }
)


def objection_to(address: str) -> str:
    """Return the reason why an IP address is not public, in a few words, or "" if it is public.

    Raises:
        ValueError: it is not an address; the caller resolves names first.
    """
    if "%" in address:  # an address with a zone is valid on one link only
        return LINK_LOCAL
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and any(parsed in wrapper for wrapper in _WRAPPERS):
        parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
    for network, description in _TABLES[parsed.version]:
        if parsed in network:
            return description
    if isinstance(parsed, ipaddress.IPv4Address):
        return ""
    if parsed not in _GLOBAL_UNICAST:
        return _SPECIAL
    return _DISGUISE if int(parsed) >> 32 & 0xFFFF_FFFF in _ISATAP else ""
