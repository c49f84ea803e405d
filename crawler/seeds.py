"""What a crawl begins with: seeds as people type them, and lists of URLs in files."""

import difflib
import re
from pathlib import Path

from msgspec import Struct

from crawler.errors import ConfigError
from crawler.harvest.finds import seed_request
from crawler.harvest.lists import check_list
from crawler.model import Request
from crawler.urls import canonicalize, resolve

#: A scheme, well or badly spelt; digits behind the colon make it a host with a port.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?!\d)/*")


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
        pages = [seed_request(url, "seed") for url in map(_seed_url, self.seeds)]
        pages += [Request(url=_list_url(path, "pages"), kind="list", entries="page") for path in self.seed_lists]
        return pages + [
            Request(url=_list_url(path, "images"), kind="list", entries="image") for path in self.image_lists
        ]


def _seed_url(text: str) -> str:
    """A seed as the user typed it → its canonical URL."""
    text = text.strip()
    scheme = _SCHEME.match(text)
    try:
        return canonicalize(text if scheme else f"https://{text}")
    except ValueError as error:
        near = difflib.get_close_matches(scheme[1].lower(), ["https", "http"], n=1) if scheme else []
        better = f"{near[0]}://{text[scheme.end() :]}" if scheme and near else ""
        hint = f" Did you mean {better[:200]!r}?" if better and resolve(None, better) else ""
        raise ConfigError(f"{text[:200]!r} is not an http(s) URL.{hint}") from error


def _list_url(path: Path, entries: str) -> str:
    """Names a list, what its lines are, and its state: a file that has changed is another list, to be read anew."""
    try:
        if not path.is_file():
            raise ConfigError(f"can't read the list {path}: no such file")
        check_list(path, "image" if entries == "images" else "page")
        state = path.stat()
    except OSError as error:
        raise ConfigError(f"can't read the list {path}: {error.strerror}") from error
    return f"{path.resolve().as_uri()}?{entries}&{state.st_size}&{state.st_mtime_ns}"
