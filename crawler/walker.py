"""The worker that walks pages and reads lists; a downloader's box never loads what that takes."""

from collections.abc import Callable, Sequence

from crawler.box import build_fetcher, worker_settings
from crawler.config import CrawlConfig
from crawler.frontier.base import Frontier
from crawler.guard import Guard
from crawler.harvest.filters import build_filters
from crawler.harvest.finds import Rules
from crawler.harvest.harvester import Harvester
from crawler.harvest.lists import ListReader
from crawler.model import Kind
from crawler.pause import DiskPause
from crawler.robots import RobotsHandler
from crawler.transport import RequestsFetcher
from crawler.worker import Handler, Worker

#: Threads that walk pages; hosts set the pace, and parsing is the interpreter's work.
_HARVEST_THREADS = 8


def build_harvester(
    name: str,
    frontier: Frontier,
    config: CrawlConfig,
    guard: Guard,
    on_seeds: Callable[[Sequence[str]], None],
    disk: DiskPause | None = None,
) -> tuple[Worker, RequestsFetcher]:
    """The worker, and the fetcher that its owner closes; ``on_seeds`` is told the URLs of seeds before they are put.

    ``disk`` waits while the disk refuses.
    """
    harvest, agent = config.harvest, config.politeness.agent
    fetcher = build_fetcher(config, guard)
    pages, images = build_filters(harvest.include, harvest.exclude)
    rules = Rules(
        scope=harvest.scope, max_depth=harvest.depth, candidates=harvest.candidates, pages=pages, images=images
    )
    harvester = Harvester(
        fetcher,
        rules,
        max_page_bytes=harvest.max_page_bytes,
        parser=harvest.parser,
        lazy=harvest.lazy,
        agent=agent,
    )
    robots = RobotsHandler(fetcher, agent, tdm=config.politeness.tdmrep)
    lists = ListReader(on_seeds)
    handlers: dict[Kind, Handler] = {"page": harvester, "part": harvester, "robots": robots, "list": lists}
    settings = worker_settings(config, threads=_HARVEST_THREADS)
    worker = Worker(*(name, frontier, handlers, settings), disk=disk, abort=fetcher.abort, relieve=fetcher.relieve)
    return worker, fetcher
