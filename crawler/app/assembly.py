"""Builds the engines of a master: the harvester, and its downloaders. A downloader never imports this module."""

from collections.abc import Callable, Sequence

from crawler.app.build_downloader import about_this_machine, build_downloader, build_fetcher, worker_settings
from crawler.app.config import CrawlConfig
from crawler.engines.base import Engine, StartProcess
from crawler.engines.local import ProcessEngine, ThreadEngine
from crawler.frontier.base import PROTOCOL, Frontier
from crawler.handler import Handler
from crawler.harvest.discovery import DiscoveryRules
from crawler.harvest.harvester import Harvester
from crawler.harvest.url_lists.list_handler import ListHandler
from crawler.harvest.url_patterns import build_filters
from crawler.model import Kind
from crawler.net.address_guard import Guard
from crawler.queue.join_file import read_join
from crawler.robots.robots_txt import RobotsHandler
from crawler.store.bucket import FsspecStore, store_at
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.full_disk_pause import DiskPause
from crawler.store.result_store import ResultStore
from crawler.worker.worker import Worker

#: Threads that crawl pages. More do not help: hosts limit the rate, and parsing holds the interpreter.
_HARVEST_THREADS = 8
#: Names of the workers inside the master.
HARVESTER, THREADS = "harvester", "downloader"


def build_harvester(
    name: str,
    frontier: Frontier,
    config: CrawlConfig,
    guard: Guard,
    on_seeds: Callable[[Sequence[str]], None],
    disk: DiskPause | None = None,
) -> tuple[Worker, Callable[[], None], Callable[[], tuple[str, ...]]]:
    """Return the worker, the function that closes its fetcher, and one that returns the patterns without a match.

    ``on_seeds`` gets the URLs of seeds before they are put into the frontier. ``disk`` waits while the disk is
    unavailable.
    """
    harvest, agent = config.harvest, config.politeness.agent
    fetcher = build_fetcher(config, guard)
    pages, images = build_filters(harvest.include, harvest.exclude)
    rules = DiscoveryRules(
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
    lists = ListHandler(on_seeds)
    handlers: dict[Kind, Handler] = {"page": harvester, "part": harvester, "robots": robots, "list": lists}
    settings = worker_settings(config, threads=_HARVEST_THREADS)
    worker = Worker(*(name, frontier, handlers, settings), disk=disk, abort=fetcher.abort, relieve=fetcher.relieve)
    return worker, fetcher.close, lambda: pages.unmatched() + images.unmatched()


def build_harvest(
    frontier: Frontier,
    config: CrawlConfig,
    guard: Guard,
    on_seeds: Callable[[Sequence[str]], None],
    disk: DiskPause | None = None,
) -> tuple[Engine, Callable[[], None], Callable[[], tuple[str, ...]]]:
    """Return the engine of the harvester, in a thread of this process, and the two functions of `build_harvester`."""
    worker, close, unmatched = build_harvester(HARVESTER, frontier, config, guard, on_seeds, disk)
    frontier.hello(HARVESTER, PROTOCOL, about_this_machine())
    return ThreadEngine(worker), close, unmatched


def build_downloads(
    frontier: Frontier,
    config: CrawlConfig,
    guard: Guard,
    disk: DiskPause,
    directory: CrawlDirectory,
    popen: StartProcess,
) -> tuple[Engine, Callable[[], None]]:
    """Return the engine of the master's own downloaders, processes or threads, and the function that closes it."""
    machine = config.machine
    if machine.processes:
        own = {"CRAWLER_PROXY": machine.proxy, "CRAWLER_COOKIES": machine.cookies}
        options = ["-t", str(machine.connections), "--disk-wait", str(machine.disk_wait)]
        options += ["--allow-private"] if machine.allow_private else []
        options += ["--store", machine.store] if machine.store else []
        join = read_join(directory.join)
        engine = ProcessEngine(
            join, directory.path, count=machine.processes, options=options, environment=own, popen=popen
        )
        return engine, _do_nothing
    frontier.hello(THREADS, PROTOCOL, about_this_machine())
    store = store_at(machine.store or directory.path, config.download.durability)
    if isinstance(store, FsspecStore):
        store.claim(read_join(directory.join).mark)
    worker, close = build_downloader(THREADS, frontier, config, ResultStore(store), guard, disk)
    return ThreadEngine(worker), close


def _do_nothing() -> None:
    pass
