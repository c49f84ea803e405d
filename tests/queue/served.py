"""A frontier as workers see it: served by a queue manager on loopback, reached through a `RemoteFrontier`."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from crawler.frontier.base import Frontier
from crawler.queue.client import RemoteFrontier
from crawler.queue.join_file import JoinFile, new_key
from crawler.queue.manager import QueueManager
from crawler.queue.wire import format_address


@contextmanager
def served(frontier: Frontier) -> Iterator[RemoteFrontier]:
    """Serve ``frontier`` until the end of the block, without a file on disk."""
    key = new_key()
    authkey = JoinFile(crawl="test", addresses=(), key=key).authkey
    server = QueueManager(authkey=authkey, frontier=frontier).get_server()
    address = format_address(server.start())
    try:
        with closing(RemoteFrontier(JoinFile(crawl="test", addresses=(address,), key=key), wait=5.0)) as remote:
            yield remote
    finally:
        server.stop()
