"""Interface of engines: an engine starts the workers of a crawl in one kind of place, waits for them and stops them."""

from typing import Protocol


class Engine(Protocol):
    """Starter and supervisor of the workers in one kind of place. It does not depend on what they do."""

    def start(self) -> None:
        """Start the workers and return at once."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds``; return True once no worker of this engine is alive.

        Raises:
            CrawlerError: the error that made a worker give up.
        """
        ...

    def stop(self, *, now: bool = False) -> None:
        """Ask the workers to finish the work in progress, or end them ``now``."""
        ...


class RemoteEngine:
    """Engine of workers that users start on other machines: there is nothing to start, to wait for or to stop here."""

    def start(self) -> None:
        pass

    def wait(self, seconds: float) -> bool:
        return True

    def stop(self, *, now: bool = False) -> None:
        pass
