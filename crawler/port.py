"""The queue's port: where a master serves it, and the join file that tells of it."""

import logging
from pathlib import Path

from msgspec import structs

from crawler.config import QueueSettings
from crawler.engines.join import JoinFile, advertised, new_key, read_join, write_join
from crawler.engines.manager import QueueManager
from crawler.engines.server import Server
from crawler.engines.tls import ensure_certificate
from crawler.engines.wire import parse_address
from crawler.errors import ConfigError
from crawler.frontier.base import Frontier
from crawler.urls import is_loopback

_log = logging.getLogger(__name__)


def serve(frontier: Frontier, directory: Path, settings: QueueSettings) -> Server:
    """Serve a crawl's queue where it was served before, with the same key and certificate, and write the join file.

    Raises:
        ConfigError: the address can't be had.
        DiskError: join file or certificate can't be read or written.
    """
    path = directory / "join"
    before = read_join(path) if path.exists() else None
    host, port = parse_address(settings.listen, lowest_port=0)
    is_chosen = port != 0
    if not is_chosen and before is not None:
        port = parse_address(before.addresses[0])[1]
    key = before.key if before is not None else new_key()
    tls = ensure_certificate(directory) if settings.tls == "always" or not is_loopback(host) else None
    join = JoinFile(crawl=directory.resolve().name, addresses=(), key=key, cert=tls.pem if tls else "")
    try:
        server = QueueManager((host, port), join.authkey, frontier=frontier).get_server(tls=tls)
    except ConfigError:
        if is_chosen or port == 0:
            raise
        _log.warning("port %d is taken by now; downloaders need the new join file", port)
        server = QueueManager((host, 0), join.authkey, frontier=frontier).get_server(tls=tls)
    write_join(path, structs.replace(join, addresses=advertised(server.start(), settings.advertise)))
    return server
