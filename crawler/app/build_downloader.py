"""The parts of a downloader: its fetchers, its handlers and its worker, as the settings say; and its machine."""

import logging
import platform
import re
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from crawler.app.config import CrawlConfig
from crawler.download.downloader import Downloader
from crawler.download.naming import NameTemplate
from crawler.frontier.base import Frontier
from crawler.handler import Handler
from crawler.model import Kind, WorkerInfo
from crawler.net.address_guard import Guard
from crawler.net.cookies import Cookies
from crawler.net.event_loop import MOST_SOCKETS, EventLoop
from crawler.net.fetcher import TransferLimits
from crawler.net.requests_fetcher import RequestsFetcher
from crawler.robots.robots_txt import RobotsHandler
from crawler.store.full_disk_pause import DiskPause
from crawler.store.result_store import ResultStore
from crawler.version import __version__
from crawler.worker.loop_runner import LoopRunner
from crawler.worker.runner import Desk, Runner, ThreadRunner
from crawler.worker.worker import Worker, WorkerSettings

_log = logging.getLogger(__name__)


class _Abortable(Protocol):
    """A fetcher, as a worker uses it besides its handlers."""

    def abort(self) -> None: ...
    def relieve(self) -> None: ...


def worker_settings(config: CrawlConfig, *, threads: int) -> WorkerSettings:
    """Return the settings of a worker."""
    return WorkerSettings(
        threads=threads,
        lease=config.queue.lease,
        request=config.fetch.total_timeout,
        patience=config.crawl.patience,
    )


def transfer_limits(config: CrawlConfig) -> TransferLimits:
    """Return the timeouts of the settings; a request ends within half a lease."""
    fetch = config.fetch
    return TransferLimits(
        connect=fetch.connect_timeout,
        first_byte=fetch.first_byte_timeout,
        total=min(fetch.total_timeout, config.queue.lease / 2),
        min_speed=fetch.min_speed,
        window=fetch.speed_window,
    )


def build_fetcher(config: CrawlConfig, guard: Guard) -> RequestsFetcher:
    """Return a fetcher of pages and robots.txt. Raises `ConfigError`."""
    return RequestsFetcher(
        transfer_limits(config),
        config.politeness.agent,
        contact=config.politeness.contact,
        guard=guard,
        proxy=config.machine.proxy,
        cookies=Cookies(Path(config.machine.cookies) if config.machine.cookies else None),
    )


def build_downloader(
    name: str,
    frontier: Frontier,
    config: CrawlConfig,
    results: ResultStore,
    guard: Guard,
    disk: DiskPause | None = None,
    *,
    asks_robots: bool = True,
    in_loop: bool = False,
) -> tuple[Worker, Callable[[], None]]:
    """Return a worker that saves in ``results``, and the function that closes it.

    Args:
        disk: waits for the disk of the results.
        asks_robots: whether the worker requests robots.txt, too.
        in_loop: whether the images are fetched in an event loop, if the settings allow it.
    """
    fetcher = build_fetcher(config, guard)
    downloader = _image_handler(config, fetcher, results)
    handlers: dict[Kind, Handler] = {"image": downloader}
    if asks_robots:
        handlers["robots"] = RobotsHandler(fetcher, config.politeness.agent, tdm=config.politeness.tdmrep)
    fetchers: list[_Abortable] = [fetcher]
    closed: list[Callable[[], None]] = [fetcher.close, downloader.close]
    runner: Callable[[Desk], Runner] = ThreadRunner
    connections = config.machine.connections
    if in_loop and config.fetch.http == "curl" and find_spec("pycurl"):
        from crawler.net.curl_fetcher import CurlFetcher  # libcurl, which the master does not need

        if connections > MOST_SOCKETS:
            connections = MOST_SOCKETS
            _log.warning("this system allows %d connections in each process; for more, use more processes", connections)
        loop = EventLoop()
        curl = CurlFetcher(loop, transfer_limits(config), fetcher.headers, proxy=config.machine.proxy, guard=guard)
        fetchers.append(curl)
        closed += [curl.close, loop.close]
        runner = partial(
            LoopRunner,
            loop=loop,
            fetcher=curl,
            open_image=downloader.open,
            opens_in_pool=not results.store.is_buffered,
        )
    worker = Worker(
        *(name, frontier, handlers, worker_settings(config, threads=connections)),
        store=results,
        disk=disk,
        abort=lambda: _for_each([each.abort for each in fetchers]),
        relieve=lambda: _for_each([each.relieve for each in fetchers]),
        runner=runner,
    )
    return worker, lambda: _for_each(closed)


def _image_handler(config: CrawlConfig, fetcher: RequestsFetcher, results: ResultStore) -> Downloader:
    download = config.download
    return Downloader(
        fetcher,
        results.store,
        naming=NameTemplate(download.name),
        types=frozenset(download.types) or None,
        max_bytes=download.max_bytes,
        min_size=download.min_size,
        max_aspect=download.max_aspect,
        animated=download.animated,
        verify=download.verify,
        with_phash=download.near != "off",
        agent=config.politeness.agent,
    )


def _for_each(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


def about_this_machine() -> WorkerInfo:
    """Return what a downloader sends about its machine when it joins."""
    system = " ".join(part for part in (platform.system(), platform.release().partition("-")[0]) if part)
    python = platform.python_version()
    release, system, python = (re.sub(r"[^ -~]", "?", fact)[:64] for fact in (__version__, system, python))
    return WorkerInfo(release=release, system=system, python=python, wall=time.time(), life=secrets.token_hex(8))
