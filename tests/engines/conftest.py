"""A served queue on loopback, and the join data that open it."""

from collections.abc import Callable, Iterator

import pytest

from crawler.engines.join import JoinFile, new_key
from crawler.engines.manager import QueueManager
from crawler.engines.server import Limits, Server
from crawler.engines.wire import Address, format_address
from tests.engines.fake_frontier import FakeFrontier

#: Makes and starts a server for a frontier; every one is stopped at the end of the test.
Serve = Callable[..., Server]

KEY = new_key()


def join_for(address: Address, key: str = KEY) -> JoinFile:
    return JoinFile(crawl="test", addresses=(format_address(address),), key=key)


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(frontier: FakeFrontier, address: Address | None = None, **limits: float) -> Server:
        key = join_for(("127.0.0.1", 1)).authkey
        server = QueueManager(address, key, frontier=frontier).get_server(limits=Limits(**limits))  # type: ignore[arg-type]
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def frontier() -> FakeFrontier:
    return FakeFrontier([f"http://a.test/{n}.jpg" for n in range(5)])
