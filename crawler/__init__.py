"""imgcrawler: find every picture of a site, fetch it politely as a fleet, keep it whole and documented.

The names below load their modules when they are first used, so ``import crawler`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crawler.crawl import run as run
    from crawler.download.downloader import Downloader as Downloader
    from crawler.download.verify import inspect_image as inspect_image
    from crawler.engines.manager import QueueManager as QueueManager
    from crawler.errors import CrawlerError as CrawlerError
    from crawler.errors import InvalidImage as InvalidImage
    from crawler.guard import Guard as Guard
    from crawler.harvest.parse import extract as extract
    from crawler.harvest.srcset import parse_srcset as parse_srcset
    from crawler.robots import robots_allowed as robots_allowed
    from crawler.storage import LocalStore as LocalStore
    from crawler.transport import RequestsFetcher as RequestsFetcher
    from crawler.turn import work_off as work_off
    from crawler.urls import canonicalize as canonicalize
    from crawler.urls import resolve as resolve

__version__ = "0.1.0"

_HOMES = {
    "CrawlerError": "errors",
    "Downloader": "download.downloader",
    "Guard": "guard",
    "InvalidImage": "errors",
    "LocalStore": "storage",
    "QueueManager": "engines.manager",
    "RequestsFetcher": "transport",
    "canonicalize": "urls",
    "extract": "harvest.parse",
    "inspect_image": "download.verify",
    "parse_srcset": "harvest.srcset",
    "resolve": "urls",
    "robots_allowed": "robots",
    "run": "crawl",
    "work_off": "turn",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'crawler' has no attribute {name!r}")
    value = getattr(import_module(f"crawler.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
