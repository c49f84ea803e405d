"""The input of a crawl: seeds as users type them, and files with lists of URLs."""

import difflib
import hashlib
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from msgspec import Struct, structs

from crawler.errors import ConfigError
from crawler.harvest.discovery import seed_request
from crawler.harvest.url_lists.list_handler import check_list
from crawler.model import Request
from crawler.store.disk import disk_faults, write_file
from crawler.urls import canonicalize, resolve

#: A scheme, possibly misspelt. Digits after the colon mean a host with a port.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?!\d)/*")
_HTTP = re.compile(r"https?:", re.IGNORECASE)
#: Text that can only be a file name: a path that begins with dots or at the root, a Windows path, or a name with the
#: extension of a list or a page, which is not a top-level domain (IANA).
_FILE = re.compile(
    r"\.{0,2}[/\\](?!/)|~|[A-Za-z]:\\|[^/?#:]+\.(?:csv|tsv|txt|jsonl?|ndjson|parquet|html?|xml|gz|bz2|xz|zst)\Z",
    re.IGNORECASE,
)


class CrawlInput(Struct, frozen=True, kw_only=True):
    """The seeds and lists that a crawl begins with."""

    #: Page URLs; without a scheme, https is tried first, then http.
    seeds: tuple[str, ...] = ()
    #: Files with a page URL, or an image URL, in each line.
    seed_lists: tuple[Path, ...] = ()
    image_lists: tuple[Path, ...] = ()

    def requests(self) -> list[Request]:
        """Return the first requests of the frontier.

        Raises:
            ConfigError: a seed is not a URL, or a list can't be read.
        """
        pages = [_seed(text.strip()) for text in self.seeds]
        pages += [Request(url=_list_url(path, "pages"), kind="list", entries="page") for path in self.seed_lists]
        return pages + [
            Request(url=_list_url(path, "images"), kind="list", entries="image") for path in self.image_lists
        ]


def _seed(text: str) -> Request:
    """Return the request for a seed as the user typed it."""
    has_scheme = _SCHEME.match(text) is not None
    if not _HTTP.match(text):
        _refuse_file(text)
    url = _seed_url(text if has_scheme else f"https://{text}", text)
    request = seed_request(url, "seed")
    return (
        request if has_scheme else structs.replace(request, fallback=canonicalize(f"http{url.removeprefix('https')}"))
    )


def _refuse_file(text: str) -> None:
    """Raise `ConfigError` if the text is the name of a file, which is not a host name."""
    if os.path.isfile(text):  # noqa: PTH113  # Path.is_file raises an error if the text can't be a path
        name = shlex.quote(text[:200])
        advice = f"if it lists image URLs, use --images {name}; if it lists pages to crawl, use -i {name}"
        raise ConfigError(f"{name} is a file and not a URL: {advice}")
    if _FILE.match(text):
        hint = "to crawl the URLs in a file, use --images FILE or -i FILE"
        raise ConfigError(f"{text[:200]!r} is neither an existing file nor the address of a site; {hint}")


def _seed_url(url: str, text: str) -> str:
    """Return the canonical URL of a seed, or raise `ConfigError`; ``text`` is the input of the user."""
    scheme = _SCHEME.match(text)
    try:
        return canonicalize(url)
    except ValueError as error:
        near = difflib.get_close_matches(scheme[1].lower(), ["https", "http"], n=1) if scheme else []
        better = f"{near[0]}://{text[scheme.end() :]}" if scheme and near else ""
        hint = f" Did you mean {better[:200]!r}?" if better and resolve(None, better) else ""
        raise ConfigError(f"{text[:200]!r} is not an http(s) URL.{hint}") from error


def places_of_seeds(requests: Iterable[Request]) -> Iterator[str]:
    """Yield the URLs at which the seeds are requested."""
    for request in requests:
        if request.is_seed:
            yield request.location
            if request.fallback:
                yield request.fallback


def name_of_source(request: Request) -> str:
    """Return the URL of a seed, or the file name of a list."""
    return unquote(urlsplit(request.url).path).rpartition("/")[2] if request.kind == "list" else request.location


def _list_url(path: Path, entries: str) -> str:
    """Return a URL of a list's path, kind, size and time. A changed file is another list, read from its start."""
    try:
        if not path.is_file():
            raise ConfigError(f"can't read the list {path}: no such file")
        check_list(path, "image" if entries == "images" else "page")
        state = path.stat()
    except OSError as error:
        raise ConfigError(f"can't read the list {path}: {error.strerror}") from error
    return f"{path.resolve().as_uri()}?{entries}&{state.st_size}&{state.st_mtime_ns}"


def list_files(names: tuple[str, ...], output: Path) -> tuple[Path, ...]:
    """Return the paths of lists. Standard input is copied to the crawl's directory first, so a restart can read it."""
    return tuple(_copy_stdin(output) if name == "-" else Path(name) for name in names)


def _copy_stdin(output: Path) -> Path:
    """Copy standard input to a file named by its content, so that the same input is the same list."""
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        while sys.stdin and (piece := sys.stdin.buffer.read(65_536)):
            digest.update(piece)
            yield piece

    draft = output / "stdin.txt"
    write_file(draft, pieces(), sync=True)
    with disk_faults(draft):
        return draft.replace(output / f"stdin-{digest.hexdigest()[:16]}.txt")
