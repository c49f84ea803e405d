"""The directory of a crawl: the names of its files, and the lock that allows one master at a time."""

from collections.abc import Callable
from pathlib import Path

from crawler.errors import ConfigError, DiskError
from crawler.store.disk import disk_faults
from crawler.store.lock import try_to_own

#: Seconds for which `CrawlDirectory.is_running` in another process may hold the lock.
_CHECK_SECONDS = 2.0


class CrawlDirectory:
    """A directory that has a crawl, or is to have one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "frontier.sqlite"
        self.manifest = path / "manifest.jsonl"
        self.settings = path / "crawl.toml"
        self.join = path / "join"

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """Return whether the directory has a crawl."""
        return self.database.exists()

    def create(self) -> None:
        """Create the directory unless it exists. Raise `DiskError`."""
        with disk_faults(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def require(self, advice: str = "") -> None:
        """Raise `ConfigError` with this advice if the directory has no crawl."""
        if not self.exists():
            advice = advice and f"; {advice}"
            raise ConfigError(f"{self} is not a crawl directory: it has no {self.database.name}{advice}")

    def own(self) -> Callable[[], None]:
        """Lock the directory until this process ends, or until the returned function is called.

        Raises:
            DiskError: another process owns the directory, or it can't be written.
        """
        release = try_to_own(self.path, patience=_CHECK_SECONDS)
        if release is None:
            raise DiskError(f"another crawl is running in {self}; see: crawler status {self}")
        return release

    def is_running(self) -> bool:
        """Return whether a master is at work in the directory. Raise `ConfigError` if it has no crawl."""
        self.require()
        release = try_to_own(self.path)
        if release is not None:
            release()
        return release is None
