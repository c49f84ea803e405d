"""``--dry-run``: walks the pages as a crawl would, and lists the pictures that it would fetch. Nothing is written."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct, structs

from crawler.config import CrawlConfig
from crawler.engines.local import ThreadEngine
from crawler.errors import ConfigError
from crawler.frontier.base import PROTOCOL
from crawler.frontier.sqlite import SqliteFrontier
from crawler.guard import Guard, exemptions
from crawler.model import FrontierStats, Outcome, Request, Verdict
from crawler.policy import policy
from crawler.seeds import Source
from crawler.urls import host_key
from crawler.view import Summary, View
from crawler.walker import build_harvester

#: Seconds between two looks at how things stand.
_TICK = 0.25


class Preview(Struct, frozen=True, kw_only=True):
    """What a crawl would fetch."""

    #: Each picture once, in the order of discovery.
    images: tuple[Request, ...]
    stats: FrontierStats
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """As of a crawl: 0 done; 4 no seed could be reached; 8 a seed failed or nothing was found; 130 interrupted."""
        return self._summary.exit_code

    @property
    def complaint(self) -> str:
        """Why the exit code is not 0, in one line; empty where nothing is to be said."""
        return self._summary.complaint.replace("no image was saved", "no image was found")

    @property
    def _summary(self) -> Summary:
        stats = structs.replace(self.stats, success=len(self.images))
        return Summary(stats=stats, output=Path(), elapsed=0.0, interrupted=self.interrupted)


class DryRun:
    """A crawl in memory that never downloads.

    Args:
        config: all settings.
        view: whoever looks on.
    """

    def __init__(self, config: CrawlConfig, view: View) -> None:
        self._config = config
        self._view = view
        self._frontier = _Listing(config)
        self._is_interrupted = False

    def run(self, source: Source) -> Preview:
        """Walk to the end, or until interrupted, or until as many pictures are found as were asked for."""
        requests = source.requests()
        if not requests:
            raise ConfigError("nothing to do: name a URL, -i FILE or --images FILE")
        frontier, most = self._frontier, self._config.crawl.max_images
        seeds = [request.location for request in requests if request.is_seed]
        guard = Guard(exemptions(seeds, look_up=True), allow_private=self._config.box.allow_private)
        with ExitStack() as stack:
            stack.callback(frontier.close)
            frontier.put(requests)
            frontier.hello("harvester", PROTOCOL)
            worker, fetcher = build_harvester(
                "harvester", frontier, self._config, guard, lambda urls: _exempt(guard, urls)
            )
            stack.callback(fetcher.close)
            engine = ThreadEngine(worker)
            engine.start()
            while not engine.wait(_TICK):
                self._view.update(structs.replace(frontier.stats(), discovered=len(frontier.images)))
                if most is not None and len(frontier.images) >= most:
                    frontier.drain()
            images = tuple(frontier.images.values())[:most]
            return Preview(images=images, stats=frontier.stats(), interrupted=self._is_interrupted)

    def interrupt(self) -> None:
        """Finish what is under way and stop. Callable from a signal handler."""
        self._is_interrupted = True
        self._frontier.drain()


def _exempt(guard: Guard, urls: Sequence[str]) -> None:
    guard.exempt(exemptions(urls, look_up=False))


class _Listing(SqliteFrontier):
    """A frontier in memory that puts pictures on a list instead of into its queue."""

    def __init__(self, config: CrawlConfig) -> None:
        super().__init__(None, structs.replace(policy(config), max_images=None))
        self.images: dict[str, Request] = {}

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        for outcome in outcomes:
            for request in outcome.discovered:
                if request.kind == "image":
                    self.images.setdefault(request.url, request)
        rest = [
            structs.replace(outcome, discovered=tuple(new for new in outcome.discovered if new.kind != "image"))
            for outcome in outcomes
        ]
        return super().complete(worker, rest, ended_turns)


def count_by_host(images: Sequence[Request]) -> dict[str, Counter[str]]:
    """Host → source → number of pictures, the host with the most first."""
    found: dict[str, Counter[str]] = {}
    for image in images:
        found.setdefault(host_key(image.location), Counter())[image.source] += 1
    return dict(sorted(found.items(), key=lambda item: -item[1].total()))
