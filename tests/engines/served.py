"""A frontier as workers see it: served by a queue manager on loopback, reached through a `RemoteFrontier`."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from crawler.engines.client import RemoteFrontier
from crawler.engines.join import JoinFile, new_key
from crawler.engines.manager import QueueManager
from crawler.engines.wire import format_address
from crawler.frontier.base import Frontier


@contextmanager
def served(frontier: Frontier) -> Iterator[RemoteFrontier]:
    """Serve ``frontier`` until the end of the block; nothing is written to disk."""
    key = new_key()
    authkey = JoinFile(crawl="test", addresses=(), key=key).authkey
    server = QueueManager(authkey=authkey, frontier=frontier).get_server()
    address = format_address(server.start())
    try:
        with closing(RemoteFrontier(JoinFile(crawl="test", addresses=(address,), key=key), wait=5.0)) as remote:
            yield remote
    finally:
        server.stop()
