"""imgcrawler: find every picture of a site, download it politely with many machines, store it with its metadata.

Each name below imports its module on first use, so ``import crawler`` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crawler.version import __version__ as __version__

if TYPE_CHECKING:
    from crawler.app.config import CrawlConfig as CrawlConfig
    from crawler.app.crawl import Crawl as Crawl
    from crawler.app.crawl import run as run
    from crawler.demo.server import DemoServer as DemoServer
    from crawler.download.downloader import Downloader as Downloader
    from crawler.download.verify import inspect_image as inspect_image
    from crawler.errors import CrawlerError as CrawlerError
    from crawler.errors import InvalidImage as InvalidImage
    from crawler.harvest.html.extract import extract as extract
    from crawler.harvest.html.srcset import parse_srcset as parse_srcset
    from crawler.harvest.soup import soup as soup
    from crawler.model import ImageRecord as ImageRecord
    from crawler.model import Outcome as Outcome
    from crawler.model import Request as Request
    from crawler.net.address_guard import Guard as Guard
    from crawler.net.fetcher import Canned as Canned
    from crawler.net.fetcher import CannedFetcher as CannedFetcher
    from crawler.net.requests_fetcher import RequestsFetcher as RequestsFetcher
    from crawler.queue.manager import QueueManager as QueueManager
    from crawler.robots.robots_txt import robots_allowed as robots_allowed
    from crawler.store.local import LocalStore as LocalStore
    from crawler.store.manifest import read_manifest as read_manifest
    from crawler.urls import canonicalize as canonicalize
    from crawler.urls import resolve as resolve
    from crawler.worker.turn import work_off as work_off


_MODULES = {
    "Canned": "net.fetcher",
    "CannedFetcher": "net.fetcher",
    "Crawl": "app.crawl",
    "CrawlConfig": "app.config",
    "CrawlerError": "errors",
    "DemoServer": "demo.server",
    "Downloader": "download.downloader",
    "Guard": "net.address_guard",
    "ImageRecord": "model",
    "InvalidImage": "errors",
    "LocalStore": "store.local",
    "Outcome": "model",
    "QueueManager": "queue.manager",
    "Request": "model",
    "RequestsFetcher": "net.requests_fetcher",
    "canonicalize": "urls",
    "extract": "harvest.html.extract",
    "inspect_image": "download.verify",
    "parse_srcset": "harvest.html.srcset",
    "read_manifest": "store.manifest",
    "resolve": "urls",
    "robots_allowed": "robots.robots_txt",
    "run": "app.crawl",
    "soup": "harvest.soup",
    "work_off": "worker.turn",
}

__all__ = [*sorted(_MODULES), "__version__"]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'crawler' has no attribute {name!r}")
    value = getattr(import_module(f"crawler.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
