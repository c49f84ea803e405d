"""What a crawl begins with: seeds as people type them, and lists of URLs in files."""

import difflib
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from crawler.errors import ConfigError
from crawler.harvest.finds import seed_request
from crawler.harvest.lists import check_list
from crawler.model import Request
from crawler.storage import disk_faults, write_file
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


def list_files(names: tuple[str, ...], output: Path) -> tuple[Path, ...]:
    """List files; standard input is kept in the crawl's directory first, so that a restart can go on reading."""
    return tuple(_spooled(output) if name == "-" else Path(name) for name in names)


def _spooled(output: Path) -> Path:
    """Standard input as a file named by its content, so that the same input again is the same list."""
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        while sys.stdin and (piece := sys.stdin.buffer.read(65_536)):
            digest.update(piece)
            yield piece

    draft = output / "stdin.txt"
    write_file(draft, pieces(), sync=True)
    with disk_faults(draft):
        return draft.replace(output / f"stdin-{digest.hexdigest()[:16]}.txt")
