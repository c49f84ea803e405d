"""A `BlobStore` in a bucket of S3, or in any other file system for which fsspec has a URL scheme.

An object store meets the contract of `BlobStore`: an object exists completely or not at all, and it is durable once
the service has answered the PUT. It has no locks, so a URL belongs to one crawl, which is named in an object there.
"""

import io
import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from crawler.errors import ConfigError, CrawlerError, DiskError
from crawler.paths import is_safe
from crawler.store.base import Durability, parse_store_id, store_json
from crawler.store.local import LocalStore

#: A URL without user, password or query, so that no secret is in it.
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^@?#\s\x00-\x1f\x7f]+")
#: Class names of errors from the libraries under fsspec → advice. The text of an error may contain secrets, so it is
#: not shown.
_ADVICE = {
    "PermissionError": "no permission: check the credentials of this machine",
    "NoCredentialsError": "no credentials: set them on this machine, as the provider of the store describes",
    "FileNotFoundError": "the bucket does not exist: create it, or check the URL",
    "EndpointConnectionError": "the service does not answer: check the network and its address",
    "ConnectionRefusedError": "the service does not answer: check the network and its address",
}
#: Name of the object that contains the name of the crawl to which the URL belongs.
_CRAWL = ".crawl"


class FsspecStore:
    """A `BlobStore` at a URL such as ``s3://bucket/prefix``.

    Credentials come from the places where the provider's own tools look for them (S3: ``AWS_*``, ``~/.aws``), never
    from the URL.

    Raises:
        ConfigError: the URL is invalid, or the package for its scheme is not installed.
    """

    def __init__(self, url: str) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        self._fs, self._root = _open_file_system(self.url)

    @cached_property
    def id(self) -> str:
        """The id in ``store.json``, which is created if it is missing.

        Raises:
            ConfigError: ``store.json`` is damaged.
            DiskError: ``store.json`` can't be read or written.
        """
        self._write_once("store.json", store_json(secrets.token_hex(8)))
        return parse_store_id(self._read(f"{self._root}/store.json"), f"{self.url}/store.json")

    @property
    def known_id(self) -> str | None:
        """The id, or None if there is no store yet."""
        try:
            return parse_store_id(self._read(f"{self._root}/store.json"), f"{self.url}/store.json")
        except FileNotFoundError:
            return None

    def restore(self) -> None:
        """Write ``store.json`` again if it was removed."""
        self._write_once("store.json", store_json(self.id))

    def claim(self, crawl: str) -> None:
        """Assign this URL to the crawl with that name. Raise `ConfigError` if it belongs to another crawl."""
        self._write_once(_CRAWL, crawl.encode())
        if self._read(f"{self._root}/{_CRAWL}") != crawl.encode():
            raise ConfigError(f"{self.url} contains the images of another crawl: choose another --store")

    @property
    def is_buffered(self) -> bool:
        return False

    def put(self, key: str, data: bytes) -> bool:
        """Save ``data`` under ``key``; replace an object with other content. Return False if it was there already."""
        path = self._path(key)
        with self._translate_errors():
            if self._fs.exists(path) and self._fs.size(path) == len(data) and self._fs.cat_file(path) == data:
                return False
            self._fs.pipe_file(path, data)
        return True

    def exists(self, key: str) -> bool:
        """Return whether there is an object under ``key``."""
        path = self._path(key)
        with self._translate_errors():
            return bool(self._fs.exists(path))

    def open(self, key: str) -> io.BytesIO:
        """Return the object, read completely: images fit into memory."""
        return io.BytesIO(self._read(self._path(key)))

    def are_two(self, key: str, other: str) -> bool:
        """Return whether there are two different objects under these keys."""
        return key != other and self.exists(key) and self.exists(other)

    def remove(self, key: str) -> None:
        """Remove the object under ``key``, if there is one."""
        path = self._path(key)
        with self._translate_errors(FileNotFoundError):
            if self._fs.exists(path):
                self._fs.rm_file(path)

    def flush(self, keys: Collection[str] = ()) -> None:
        """Do nothing: an object is durable when `put` returns."""

    def keys(self) -> Iterator[str]:
        """Yield the keys of all objects in ``images/``."""
        with self._translate_errors():
            paths = self._fs.find(f"{self._root}/images")
        for path in paths:
            yield str(path).removeprefix(f"{self._root}/")

    def name(self, key: str) -> str:
        """Return the object's URL, to be shown to the user."""
        return f"{self.url}/{key}"

    def _path(self, key: str) -> str:
        if not is_safe(key):
            raise ValueError(f"unsafe key: {key[:200]!r}")
        return f"{self._root}/{key}"

    def _read(self, path: str) -> bytes:
        with self._translate_errors(FileNotFoundError):
            return bytes(self._fs.cat_file(path))

    def _write_once(self, name: str, data: bytes) -> None:
        """Write an object unless it exists. If several callers write at once, the first wins, if the service can."""
        path = f"{self._root}/{name}"
        with self._translate_errors():
            if self._fs.exists(path):
                return
            try:
                self._fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return

    @contextmanager
    def _translate_errors(self, *passing: type[OSError]) -> Iterator[None]:
        """Turn any exception of the file system, except these classes, into a `DiskError` that contains no secret."""
        try:
            yield
        except Exception as error:  # every service has its own errors, without a common class
            if isinstance(error, (CrawlerError, *passing)):
                raise
            name = type(error).__name__
            advice = _ADVICE.get(name, f"{name}: check the URL, the network and the credentials of this machine")
            raise DiskError(f"can't use {self.url}: {advice}") from None


#: The stores into which a `ResultStore` saves images.
Store = LocalStore | FsspecStore


def store_at(location: str | Path, durability: Durability = "batch") -> Store:
    """Return the store in a directory, or at a URL.

    Raises:
        ConfigError: the URL is invalid, or the package for its scheme is not installed.
    """
    return FsspecStore(str(location)) if "://" in str(location) else LocalStore(location, durability)


def check_url(url: str) -> None:
    """Raise `ConfigError` if a URL can't be a store's. The message omits the URL, which may contain a password."""
    if not _URL.fullmatch(url):
        raise ConfigError("store must be a URL without password or query, such as s3://bucket/prefix")
    if url.startswith(("file:", "local:")):  # it would be neither atomic nor durable
        raise ConfigError("store: file:// URLs are not supported: pass the path of a directory to -o")


def _open_file_system(url: str) -> tuple[Any, str]:
    scheme = url.partition(":")[0]
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ConfigError(
            f"store: {scheme}:// needs an extra that is missing: pip install imgcrawler[cloud]"
        ) from error
    try:
        # Cached listings would hide the changes of other machines.
        fs, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        package = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}.get(scheme, "imgcrawler[cloud]")
        raise ConfigError(f"store: {scheme}:// needs a package that is missing: pip install {package}") from error
    except ValueError as error:
        raise ConfigError(
            f"store: unknown URL scheme {scheme}:// (known: s3://, gs://, az:// and others of fsspec)"
        ) from error
    return fs, str(root).rstrip("/")
