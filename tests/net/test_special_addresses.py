"""Addresses and ports that are not public."""

import ipaddress

import pytest

from crawler.net.special_addresses import BLOCKED_PORTS, LINK_LOCAL, LOOPBACK, METADATA, PRIVATE, Address, objection_to
from crawler.urls import canonicalize, host_and_port
from tests.support import spellings

PUBLIC = (
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.216.34", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
    *("168.63.129.15", "168.63.129.17", "191.255.255.255", "192.0.1.0", "192.167.255.255", "192.169.0.0"),
    *("192.88.98.255", "192.88.100.0", "198.17.255.255", "198.20.0.0", "223.255.255.255"),
    *("2000::1", "2001:200::1", "2001:4860:4860::8888", "2003::1", "2606:4700:4700::1111", "2a00:1450::1"),
    *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8"),
)


def literals() -> list[str]:
    """Return the addresses among the spellings, as a URL parser reads them."""
    hosts = [host_and_port(canonicalize(f"http://{host}/"))[0] for host in spellings.LOOPBACK + spellings.NEARBY]
    return sorted({host for host in hosts if not host.rstrip(".").endswith("localhost")})


@pytest.mark.parametrize("address", literals())
def test_no_spelling_hides_a_private_address(address: str) -> None:
    assert objection_to(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_accepted_up_to_the_edges_of_private_ranges(address: str) -> None:
    assert objection_to(address) == ""


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1", LOOPBACK),
        ("::1", LOOPBACK),
        ("::ffff:127.0.0.1", LOOPBACK),
        ("64:ff9b::10.0.0.1", PRIVATE),
        ("100.64.0.1", PRIVATE),
        ("fd00::1", PRIVATE),
        ("fe80::1", LINK_LOCAL),
        ("fe80::1%eth0", LINK_LOCAL),
        ("2606:4700::1%eth0", LINK_LOCAL),
        ("169.254.1.1", LINK_LOCAL),
        ("169.254.169.254", METADATA),
        ("168.63.129.16", METADATA),
        ("100.100.100.200", METADATA),
        ("fd00:ec2::254", METADATA),
        ("::ffff:169.254.169.254", METADATA),
    ],
)
def test_the_objection_names_the_kind_of_address(address: str, what: str) -> None:
    assert objection_to(address) == what


def test_every_address_that_python_calls_private_is_refused() -> None:
    starts: list[Address] = [ipaddress.IPv4Address(number << 16) for number in range(2**16)]
    starts += [ipaddress.IPv6Address(number << 112) for number in range(2**16)]
    assert [each for each in starts if not each.is_global and not objection_to(str(each))] == []


def test_a_name_is_not_an_address() -> None:
    with pytest.raises(ValueError, match="localhost"):
        objection_to("localhost")


def test_ports_of_other_protocols_are_blocked_and_those_of_the_web_are_not() -> None:
    assert {0, 22, 25, 53, 110, 143, 389, 6667, 10080} <= BLOCKED_PORTS
    assert not {80, 443, 3000, 5000, 8000, 8080, 8443, 8888} & BLOCKED_PORTS
    assert len(BLOCKED_PORTS) == 83
