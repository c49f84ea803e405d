"""Rules of the whole suite: no network but loopback, new processes by spawn, a small web to crawl."""

import functools
import ipaddress
import multiprocessing
import os
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Generator, Iterator
from typing import Any

import hypothesis
import pytest

from crawler.demo.server import DemoServer
from crawler.net.address_guard import Guard
from tests.support.hosts import OURS

#: Audit events (https://docs.python.org/3/library/audit_events.html) whose second argument is a destination address …
_CONNECTIONS = frozenset({"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"})
#: … and those whose first argument is a name or an address to resolve.
_LOOKUPS = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"})


def pytest_configure(config: pytest.Config) -> None:
    sys.addaudithook(_forbid_network)
    multiprocessing.set_start_method("spawn", force=True)  # as Windows and macOS do, so that their faults show here too
    # New processes start from compiled modules; compiling them each time is most of the CPU time of a start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if sys.version_info < (3, 12) and config.pluginmanager.hasplugin("_cov"):
        _start_threads_one_by_one()
    # No deadline: slowness on a busy machine is not a failure. CI runs more examples with
    # --hypothesis-profile=thorough.
    hypothesis.settings.register_profile("thorough", deadline=None)
    hypothesis.settings.register_profile("quick", deadline=None, max_examples=20)
    hypothesis.settings.load_profile("quick")


def _start_threads_one_by_one() -> None:
    """Let each new thread install the trace function of coverage before the next one starts.

    While one thread installs it, CPython 3.11 refuses it to another, which then ends before its target runs: about two
    of a thousand threads that start at the same time, and a crawl that waits for such a thread never ends.
    """
    start, lock = threading.Thread.start, threading.Lock()

    def start_alone(thread: threading.Thread) -> None:
        is_traced, run = threading.Event(), thread.run

        def traced_run() -> None:
            is_traced.set()
            run()

        thread.run = traced_run  # type: ignore[method-assign]
        with lock:
            start(thread)
            is_traced.wait()

    threading.Thread.start = start_alone  # type: ignore[assignment, method-assign]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish() -> Generator[None, object, object]:
    """Run the other hooks after the last test, show their errors as warnings, and let the summary follow.

    pytest removes temporary folders of former runs there. Its warnings would be errors, and these would skip the
    summary.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        try:
            return (yield)
        except Exception as error:  # noqa: BLE001  # any error: the results of the tests matter more
            warnings.warn(f"the test tools failed after the last test: {error!r}", pytest.PytestWarning, stacklevel=1)
            traceback.clear_frames(error.__traceback__)  # report resources that the hooks left open, too
            return None


def _forbid_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail the test on any connection that would leave this machine.

    The check is below every mock, so mocked calls are not affected. `pytest.fail` does not raise an `Exception`, so
    code under test can't mistake it for an unresponsive host.
    """
    if event in _CONNECTIONS:
        sock, address = arguments[:2]
        if address is None or sock.family == getattr(socket, "AF_UNIX", None):
            return
        host = address[0]
    elif event in _LOOKUPS:
        host = arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0]
        if not host:  # no name is looked up
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


@pytest.fixture(params=[1, pytest.param(16, marks=pytest.mark.fire)], ids=["short", "long"])
def scale(request: pytest.FixtureRequest) -> int:
    """Scale the length of hostile texts: short ones show quadratic cost in Python, long ones all quadratic cost."""
    length: int = request.param
    return length


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fetchers of this test visit this machine, unless the test gives them a guard of their own."""
    monkeypatch.setattr("crawler.net.requests_fetcher.Guard", functools.partial(Guard, allow_private=True))


@pytest.fixture
def site() -> Iterator[DemoServer]:
    """Serve the bundled web for one test."""
    with DemoServer() as server:
        yield server
