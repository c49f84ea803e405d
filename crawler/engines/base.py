"""The engine's seam: where the workers of a crawl live. An engine starts them, waits for them, stops them."""

from typing import Protocol


class Engine(Protocol):
    """Workers of one kind of place. What they do is not the engine's business."""

    def start(self) -> None:
        """Bring the workers to life; returns at once."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds``; True once no worker of this engine is alive.

        Raises:
            CrawlerError: what made a worker give up.
        """
        ...

    def stop(self, *, now: bool = False) -> None:
        """Ask the workers to finish what is under way, or end them ``now``."""
        ...


class Elsewhere:
    """Workers that people start on other boxes: there is nothing to start, to wait for or to stop here."""

    def start(self) -> None:
        pass

    def wait(self, seconds: float) -> bool:
        return True

    def stop(self, *, now: bool = False) -> None:
        pass
