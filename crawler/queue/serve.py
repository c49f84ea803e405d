"""Start of a crawl's queue server, with its port and its join file."""

import logging
from typing import Protocol

from msgspec import structs

from crawler.errors import ConfigError
from crawler.frontier.base import Frontier
from crawler.queue.join_file import JoinFile, advertised, new_key, read_join, write_join
from crawler.queue.manager import QueueManager
from crawler.queue.server import Server
from crawler.queue.tls import ensure_certificate
from crawler.queue.wire import parse_address
from crawler.store.crawl_directory import CrawlDirectory

_log = logging.getLogger(__name__)


class _ServedFrontier(Frontier, Protocol):
    """A frontier that frees the leases of a worker soon after the worker's last connection has closed."""

    def expect_loss(self, worker: str) -> None:
        """Let the leases of a worker expire soon, unless it calls in time."""
        ...


def serve(frontier: _ServedFrontier, directory: CrawlDirectory, *, listen: str, advertise: str = "") -> Server:
    """Serve a crawl's queue with the key and certificate of its last run, on the same port, and write the join file.

    Args:
        frontier: the crawl's frontier.
        directory: the crawl's directory.
        listen: host and port; port 0 takes the port of the last run, or a free one.
        advertise: an additional host name or address for the join file.

    Raises:
        ConfigError: the address can't be bound.
        DiskError: the join file or the certificate can't be read or written.
    """
    before = read_join(directory.join) if directory.join.exists() else None
    host, port = parse_address(listen, lowest_port=0)
    is_chosen = port != 0
    if not is_chosen and before is not None:
        port = parse_address(before.addresses[0])[1]
    key = before.key if before is not None else new_key()
    # On loopback, too: TLS costs nothing measurable, and no other process can pose as the master.
    tls = ensure_certificate(directory.path)
    join = JoinFile(crawl=directory.path.resolve().name, addresses=(), key=key, cert=tls.pem)

    def bind(port: int) -> Server:
        manager = QueueManager((host, port), join.authkey, frontier=frontier)
        return manager.get_server(tls=tls, on_departure=frontier.expect_loss)

    try:
        server = bind(port)
    except ConfigError:
        if is_chosen or port == 0:
            raise
        _log.warning("port %d of the last run is in use; copy the new join file to the downloaders", port)
        server = bind(0)
    write_join(directory.join, structs.replace(join, addresses=advertised(server.start(), advertise)))
    return server
