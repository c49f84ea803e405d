"""What holds for the whole suite: no network but loopback, new processes by spawn, a small web to crawl."""

import functools
import ipaddress
import multiprocessing
import socket
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from crawler.demo import DemoServer
from crawler.guard import Guard
from tests.hosts import OURS

#: Audit events (https://docs.python.org/3/library/audit_events.html) whose second argument is where data would go …
_JOURNEYS = frozenset({"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"})
#: … and those whose first argument is a name, or an address, about which a resolver would be asked.
_QUESTIONS = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"})


def pytest_configure(config: pytest.Config) -> None:
    sys.addaudithook(_stay_at_home)
    multiprocessing.set_start_method("spawn", force=True)  # what Windows and macOS do, so that faults show here too
    hypothesis.settings.register_profile("suite", deadline=None)  # a busy machine is no failure
    hypothesis.settings.load_profile("suite")


def _stay_at_home(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail whatever would leave this machine; below every mock, so what is mocked is not concerned.

    `pytest.fail` raises no `Exception`, so code under test can't take it for a host that does not answer.
    """
    if event in _JOURNEYS:
        sock, address = arguments[:2]
        if address is None or sock.family == getattr(socket, "AF_UNIX", None):
            return
        host = address[0]
    elif event in _QUESTIONS:
        host = arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0]
        if not host:  # nothing is asked
            return
    else:
        return
    if not _is_here(host):
        pytest.fail(f"{event}: tests must not leave loopback, and {host!r} is elsewhere")


def _is_here(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes | bytearray) else str(host)
    try:
        return ipaddress.ip_address(text).is_loopback or text in OURS
    except ValueError:
        return text.lower() == "localhost"


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetchers of this test may visit this machine, where nobody gave them a guard of their own."""
    monkeypatch.setattr("crawler.transport.Guard", functools.partial(Guard, allow_private=True))


@pytest.fixture
def site() -> Iterator[DemoServer]:
    """The bundled web, served for one test alone."""
    with DemoServer() as server:
        yield server
