"""Stores that are no directories: a bucket of S3, or whatever else fsspec has a URL for.

What an object store promises is enough for `BlobStore`: an object is there whole or not at all, and once a PUT is
answered it survives. It knows no locks, so a place belongs to one crawl, whose name lies there.
"""

import io
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from crawler.errors import ConfigError, CrawlerError, DiskError
from crawler.paths import is_safe
from crawler.storage import Durability, LocalStore, parse_store_id, store_json

#: A URL without user, password or query: a place has no secrets in its name.
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^@?#\s\x00-\x1f\x7f]+")
#: Errors of what fsspec stands on → what to do. Nothing else of an error is shown: it may hold secrets.
_ADVICE = {
    "PermissionError": "no permission: check the credentials of this box",
    "NoCredentialsError": "no credentials: give this box some, as the provider of the store says",
    "FileNotFoundError": "there is no such bucket: make it, or check the URL",
    "EndpointConnectionError": "nobody answers: check the network and the address of the service",
    "ConnectionRefusedError": "nobody answers: check the network and the address of the service",
}
#: Object that names the crawl to which a place belongs.
_CRAWL = ".crawl"


class FsspecStore:
    """A place that a URL such as ``s3://bucket/prefix`` names, as `BlobStore`.

    Credentials come from where the provider's own tools look for them (S3: ``AWS_*``, ``~/.aws``), never from the URL.

    Raises:
        ConfigError: the URL can't be, or what reads it is not installed.
    """

    def __init__(self, url: str) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        self._fs, self._root = _open_file_system(self.url)

    @cached_property
    def id(self) -> str:
        """The id in ``store.json``, which is made where it is missing.

        Raises:
            ConfigError: it is damaged.
            DiskError: it can't be read or written.
        """
        self._write_once("store.json", store_json(secrets.token_hex(8)))
        return parse_store_id(self._read(f"{self._root}/store.json"), f"{self.url}/store.json")

    @property
    def known_id(self) -> str | None:
        """The id, if this is a store already."""
        try:
            return parse_store_id(self._read(f"{self._root}/store.json"), f"{self.url}/store.json")
        except FileNotFoundError:
            return None

    def restore(self) -> None:
        """Write ``store.json`` again where somebody has removed it."""
        self._write_once("store.json", store_json(self.id))

    def claim(self, crawl: str) -> None:
        """Have this place belong to the crawl of that name; raises `ConfigError` if it is another one's."""
        self._write_once(_CRAWL, crawl.encode())
        if self._read(f"{self._root}/{_CRAWL}") != crawl.encode():
            raise ConfigError(f"{self.url} has the pictures of another crawl: choose another --store")

    def put(self, key: str, data: bytes) -> bool:
        """Keep ``data`` under ``key``; an object of other content is replaced."""
        place = self._place(key)
        with self._faults():
            if self._fs.exists(place) and self._fs.size(place) == len(data) and self._fs.cat_file(place) == data:
                return False
            self._fs.pipe_file(place, data)
        return True

    def exists(self, key: str) -> bool:
        """Whether an object is there under ``key``."""
        place = self._place(key)
        with self._faults():
            return bool(self._fs.exists(place))

    def open(self, key: str) -> io.BytesIO:
        """The object, read at once: pictures have a size that fits."""
        return io.BytesIO(self._read(self._place(key)))

    def are_two(self, key: str, other: str) -> bool:
        """Whether there are objects under both keys, and they are not one."""
        return key != other and self.exists(key) and self.exists(other)

    def remove(self, key: str) -> None:
        """Forget what is under ``key``; nothing happens where there is nothing."""
        place = self._place(key)
        with self._faults(FileNotFoundError):
            if self._fs.exists(place):
                self._fs.rm_file(place)

    def flush(self) -> None:
        """Nothing is left to do: what was put was kept before `put` returned."""

    def keys(self) -> Iterator[str]:
        """The keys of all objects in ``images/``."""
        with self._faults():
            found = self._fs.find(f"{self._root}/images")
        for place in found:
            yield str(place).removeprefix(f"{self._root}/")

    def name(self, key: str) -> str:
        """Where that is, for people."""
        return f"{self.url}/{key}"

    def _place(self, key: str) -> str:
        if not is_safe(key):
            raise ValueError(f"no safe key: {key[:200]!r}")
        return f"{self._root}/{key}"

    def _read(self, place: str) -> bytes:
        with self._faults(FileNotFoundError):
            return bytes(self._fs.cat_file(place))

    def _write_once(self, name: str, data: bytes) -> None:
        """Write an object unless it is there; of several at once, one is first, where the service knows how."""
        place = f"{self._root}/{name}"
        with self._faults():
            if self._fs.exists(place):
                return
            try:
                self._fs.pipe_file(place, data, mode="create")
            except FileExistsError:
                return

    @contextmanager
    def _faults(self, *passing: type[OSError]) -> Iterator[None]:
        """Turn whatever the file system raises, but those classes, into a `DiskError` without any secret in it."""
        try:
            yield
        except Exception as error:  # every service has errors of its own, of no common class
            if isinstance(error, (CrawlerError, *passing)):
                raise
            name = type(error).__name__
            advice = _ADVICE.get(name, f"{name}: check the URL, the network and the credentials of this box")
            raise DiskError(f"can't use {self.url}: {advice}") from None


#: What a shelf puts pictures on.
Store = LocalStore | FsspecStore


def store_at(place: str | Path, durability: Durability = "batch") -> Store:
    """The store in a directory, or at a URL.

    Raises:
        ConfigError: the URL can't be, or what reads it is not installed.
    """
    return FsspecStore(str(place)) if is_url(place) else LocalStore(place, durability)


def is_url(place: str | Path) -> bool:
    """Whether a place is named by a URL, not by a path."""
    return isinstance(place, str) and "://" in place


def check_url(url: str) -> None:
    """Refuse what is no URL of a store; raises `ConfigError`, which does not show it: there may be a password in it."""
    if not _URL.fullmatch(url):
        raise ConfigError("store must be a URL without password or query, such as s3://bucket/prefix")
    if url.startswith(("file:", "local:")):  # it would be neither atomic nor durable
        raise ConfigError("store: a directory is named by its path, and is what -o is for, not a file:// URL")


def _open_file_system(url: str) -> tuple[Any, str]:
    scheme = url.partition(":")[0]
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ConfigError(f"{scheme}:// needs an extra: pip install imgcrawler[cloud]") from error
    try:
        # Listings that are remembered would hide what other boxes do.
        fs, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        package = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}.get(scheme, "imgcrawler[cloud]")
        raise ConfigError(f"{scheme}:// is not installed: pip install {package}") from error
    except ValueError as error:
        raise ConfigError(f"store: nothing is known that reads {scheme}://") from error
    return fs, str(root).rstrip("/")
