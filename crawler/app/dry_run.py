"""``--dry-run``: crawl the pages and list the pictures that a crawl would fetch. Nothing is written."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct, structs

from crawler.app.assembly import build_harvester
from crawler.app.config import CrawlConfig, policy
from crawler.app.events import View
from crawler.app.seeds import CrawlInput, places_of_seeds
from crawler.app.summary import Summary
from crawler.engines.local import ThreadEngine
from crawler.errors import ConfigError
from crawler.frontier.base import PROTOCOL
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Outcome, Request, Verdict
from crawler.net.address_guard import Guard, exemptions
from crawler.stats import FrontierStats
from crawler.urls import host_key

#: Seconds between two updates of the view.
_TICK = 0.25


class DryRunResult(Struct, frozen=True, kw_only=True):
    """The pictures that a crawl would fetch, and its counts."""

    #: Each picture once, in the order of discovery.
    images: tuple[Request, ...]
    stats: FrontierStats
    interrupted: bool = False
    #: Messages about the patterns of ``include`` that matched nothing.
    unmatched: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """As for a crawl: 0 done; 4 no seed could be reached; 8 a seed failed or nothing was found; 130 interrupted."""
        return self.summary.exit_code

    @property
    def summary(self) -> Summary:
        """The counts as those of a crawl that has saved these pictures."""
        stats = structs.replace(self.stats, success=len(self.images))
        return Summary(stats=stats, output=Path(), elapsed=0.0, interrupted=self.interrupted)


class DryRun:
    """A crawl in memory that downloads no pictures.

    Args:
        config: all settings.
        view: shows the progress.
    """

    def __init__(self, config: CrawlConfig, view: View) -> None:
        self._config = config
        self._view = view
        self._frontier = _Listing(config)
        self._is_interrupted = False

    def run(self, source: CrawlInput) -> DryRunResult:
        """Crawl to the end, until interrupted, or until ``max_images`` pictures are found."""
        requests = source.requests()
        if not requests:
            raise ConfigError("nothing to do: give a URL, -i FILE or --images FILE")
        frontier, max_images = self._frontier, self._config.crawl.max_images
        exempt = exemptions(places_of_seeds(requests), look_up=True)
        guard = Guard(exempt, allow_private=self._config.machine.allow_private)
        with ExitStack() as stack:
            stack.callback(frontier.close)
            frontier.put(requests)
            frontier.hello("harvester", PROTOCOL)
            worker, close, unmatched = build_harvester(
                "harvester", frontier, self._config, guard, lambda urls: _exempt(guard, urls)
            )
            stack.callback(close)
            engine = ThreadEngine(worker)
            engine.start()
            while not engine.wait(_TICK):
                self._view.update(structs.replace(frontier.stats(), discovered=len(frontier.images)))
                if max_images is not None and len(frontier.images) >= max_images:
                    frontier.drain()
            images = tuple(frontier.images.values())[:max_images]
            return DryRunResult(
                images=images, stats=frontier.stats(), interrupted=self._is_interrupted, unmatched=unmatched()
            )

    def interrupt(self) -> None:
        """Finish the requests in progress and stop. Callable from a signal handler."""
        self._is_interrupted = True
        self._frontier.drain()


def _exempt(guard: Guard, urls: Sequence[str]) -> None:
    guard.exempt(exemptions(urls, look_up=False))


class _Listing(SqliteFrontier):
    """A frontier in memory that collects pictures in a list instead of queueing them."""

    def __init__(self, config: CrawlConfig) -> None:
        super().__init__(None, structs.replace(policy(config), max_images=None))
        self.images: dict[str, Request] = {}

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        for outcome in outcomes:
            for request in outcome.discovered:
                if request.kind == "image":
                    self.images.setdefault(request.url, request)
        without_images = [
            structs.replace(outcome, discovered=tuple(new for new in outcome.discovered if new.kind != "image"))
            for outcome in outcomes
        ]
        return super().complete(worker, without_images, ended_turns)


def count_by_host(images: Sequence[Request]) -> dict[str, Counter[str]]:
    """Return the number of pictures by host and source, the host with the most pictures first."""
    hosts: dict[str, Counter[str]] = {}
    for image in images:
        hosts.setdefault(host_key(image.location), Counter())[image.source] += 1
    return dict(sorted(hosts.items(), key=lambda item: -item[1].total()))
