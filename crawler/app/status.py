"""The state of a crawl, from its running master or from its database."""

from pathlib import Path

from crawler.app.config import policy, settings_for
from crawler.errors import DiskError
from crawler.frontier.ledger.integrity import need_readable, telling_damage
from crawler.frontier.sqlite import SqliteFrontier
from crawler.queue.client import RemoteFrontier
from crawler.queue.join_file import read_join
from crawler.stats import FrontierStats
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.lock import try_to_own

#: Seconds to wait for the answer of a running master.
_PATIENCE = 10.0


def look_at(directory: Path) -> tuple[FrontierStats, bool]:
    """Return the counts of a crawl and whether it is running, from its master if that runs, else from its database.

    Raises:
        ConfigError: the directory has no crawl.
        DiskError: the database can't be read.
        NetworkError: a master is running, but does not answer.
    """
    crawl = CrawlDirectory(directory)
    crawl.require()
    need_readable(crawl.database)
    try:
        release = try_to_own(directory)
    except DiskError:  # this user can't write here, so no master of this user is running
        release = _do_nothing
    if release is None:
        remote = RemoteFrontier(read_join(crawl.join), wait=_PATIENCE)
        try:
            return remote.stats(), True
        finally:
            remote.close()
    try:
        rules = policy(settings_for(directory)[0])
        with telling_damage(crawl.database, is_opening=True):
            frontier = SqliteFrontier(crawl.database, rules, is_read_only=True)
        try:
            return frontier.stats(), False
        finally:
            frontier.close()
    finally:
        release()


def _do_nothing() -> None:
    pass
