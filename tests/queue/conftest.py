"""A served queue on loopback, and the join data for it."""

import threading
from collections.abc import Callable, Iterator

import pytest

from crawler.queue.connections import ConnectionLimits
from crawler.queue.join_file import JoinFile, new_key
from crawler.queue.manager import QueueManager
from crawler.queue.server import Server
from crawler.queue.tls import Certificate, client_context, ensure_certificate, server_context
from crawler.queue.wire import Address, Channel, format_address
from tests.queue.fake_frontier import FakeFrontier

#: Makes and starts a server for a frontier; every one is stopped at the end of the test.
Serve = Callable[..., Server]

KEY = new_key()


def join_for(address: Address, key: str = KEY, cert: str = "") -> JoinFile:
    return JoinFile(crawl="test", addresses=(format_address(address),), key=key, cert=cert)


def secure(master: Channel, worker: Channel, certificate: Certificate) -> None:
    """Put TLS on both ends of a connection."""
    context = server_context(certificate)
    shaker = threading.Thread(target=master.secure, args=(context,), kwargs={"server_side": True})
    shaker.start()
    try:
        worker.secure(client_context(certificate.pem))
    finally:
        shaker.join()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return ensure_certificate(tmp_path_factory.mktemp("master"))


@pytest.fixture(params=["plain", "tls"])
def cert(request: pytest.FixtureRequest, certificate: Certificate) -> Certificate | None:
    """Run the test without TLS and with it."""
    return certificate if request.param == "tls" else None


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(
        frontier: FakeFrontier, address: Address | None = None, *, tls: Certificate | None = None, **limits: float
    ) -> Server:
        key = join_for(("127.0.0.1", 1)).authkey
        server = QueueManager(address, key, frontier=frontier).get_server(
            limits=ConnectionLimits(**limits),  # type: ignore[arg-type]
            tls=tls,
        )
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def frontier() -> FakeFrontier:
    return FakeFrontier([f"http://a.test/{n}.jpg" for n in range(5)])
