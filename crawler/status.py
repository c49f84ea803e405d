"""How things stand in a crawl, for whoever asks from outside."""

from pathlib import Path

from crawler.config import settings_for
from crawler.engines.client import RemoteFrontier
from crawler.engines.join import read_join
from crawler.errors import ConfigError
from crawler.frontier.soundness import telling_damage
from crawler.frontier.sqlite import SqliteFrontier
from crawler.lock import try_to_own
from crawler.model import FrontierStats
from crawler.policy import policy

#: Seconds for which a master that is at work may keep silent.
_PATIENCE = 10.0


def look_at(directory: Path) -> tuple[FrontierStats, bool]:
    """The counts of a crawl, and whether it is running: asked of its master if there is one, else read from its file.

    Raises:
        ConfigError: there is no crawl in the directory.
        DiskError: it can't be read, or has no room for what reading it takes.
        NetworkError: a master is at work, but does not answer.
    """
    path = directory / "frontier.sqlite"
    if not path.exists():
        raise ConfigError(f"{directory} is no crawl: there is no frontier.sqlite in it")
    release = try_to_own(directory)
    if release is None:
        remote = RemoteFrontier(read_join(directory / "join"), wait=_PATIENCE)
        try:
            return remote.stats(), True
        finally:
            remote.close()
    try:
        rules = policy(settings_for(directory, {})[0])
        with telling_damage(path, is_opening=True):
            frontier = SqliteFrontier(path, rules)
        try:
            return frontier.stats(), False
        finally:
            frontier.close()
    finally:
        release()
