"""What a crawl begins with: seeds as people type them, and lists of URLs in files."""

from pathlib import Path

from msgspec import Struct

from crawler.errors import ConfigError
from crawler.model import Request
from crawler.urls import canonicalize, resolve


class Source(Struct, frozen=True, kw_only=True):
    """What a crawl begins with."""

    #: Page URLs; without a scheme, https is meant.
    seeds: tuple[str, ...] = ()
    #: Files with a page URL, or an image URL, in each line.
    seed_lists: tuple[Path, ...] = ()
    image_lists: tuple[Path, ...] = ()

    def requests(self) -> list[Request]:
        """The first requests of the frontier.

        Raises:
            ConfigError: a seed is no URL, or a list can't be read.
        """
        pages = [Request(url=url, kind="page", seed=url, source="seed") for url in map(_seed_url, self.seeds)]
        pages += [Request(url=_list_url(path), kind="list", entries="page") for path in self.seed_lists]
        return pages + [Request(url=_list_url(path), kind="list", entries="image") for path in self.image_lists]


def _seed_url(text: str) -> str:
    """A seed as the user typed it → its canonical URL."""
    url = text if "://" in text else f"https://{text}"
    try:
        return canonicalize(url)
    except ValueError as error:
        _, _, rest = text.partition("://" if "://" in text else ":/")
        hint = f" Did you mean {'http://' + rest.lstrip('/')!r}?" if rest and resolve(None, f"http://{rest}") else ""
        raise ConfigError(f"{text[:200]!r} is not an http(s) URL.{hint}") from error


def _list_url(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"can't read the list {path}: no such file")
    return path.resolve().as_uri()
