"""The files of pictures in one or several stores: find a store, compare a file with its hash, copy a file."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from crawler.errors import ConfigError
from crawler.model import ImageRecord
from crawler.paths import is_picture
from crawler.stats import StoreStats
from crawler.store.bucket import Store, store_at
from crawler.store.files import NoFile


def stores_by_id(directories: Iterable[Path | str]) -> dict[str, list[Store]]:
    """Return the stores in these directories by store id. A copied store has the same id as the original."""
    stores: dict[str, list[Store]] = {}
    for directory in directories:
        store = store_at(directory, "file")  # files are flushed, so the next repair finds no half-written ones
        if (store_id := store.known_id) is not None:
            stores.setdefault(store_id, []).append(store)
    return stores


def require_stores(places: Iterable[Path | str]) -> None:
    for place in places:
        if store_at(place).known_id is None:
            raise ConfigError(f"{place} is not a store: it has no store.json")


def best_copy(copies: Sequence[Store], path: str, sha256: str) -> tuple[str, Store]:
    """Return the best state of a picture in copies of a store (see `check_file`), and the copy with that state."""
    states = [(check_file(copy, path, sha256), copy) for copy in copies]
    return min(states, key=lambda pair: ("whole", "damaged", "missing").index(pair[0]))


def check_file(store: Store, path: str, sha256: str) -> str:
    """Return ``whole``, ``missing`` or ``damaged``: compare a picture with its SHA-256, or if empty with its name.

    Raises:
        DiskError: the store can't be read.
    """
    try:
        with store.open(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except NoFile:
        return "damaged"
    except (FileNotFoundError, ValueError):  # ValueError: a path that our stores never write
        return "missing"
    return "whole" if (digest == sha256 if sha256 else is_picture(path, digest)) else "damaged"


def copy_file(source: Store, path: str, target: Store) -> bool:
    """Copy a picture unless the source is missing or damaged, replacing the target. Return whether it was copied."""
    try:
        with source.open(path) as file:
            data = file.read()
    except (FileNotFoundError, ValueError):
        return False
    if not is_picture(path, hashlib.sha256(data).hexdigest()):
        return False
    target.put(path, data)
    return True


def is_named_by_content(store: Store, key: str) -> bool:
    """Return whether a file is intact and has the path of its content, so that a record may follow."""
    try:
        with store.open(key) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (NoFile, ValueError):  # ValueError: a name that our stores never use
        return False
    except FileNotFoundError:  # a worker has just removed it as a spare copy
        return True
    return is_picture(key, digest)


class ElsewhereCount:
    """A count of pictures in stores that were not given."""

    def __init__(self) -> None:
        self._pictures: Counter[str] = Counter()
        self._workers: dict[str, str] = {}

    def add(self, record: ImageRecord) -> None:
        self._pictures[record.store] += 1
        self._workers.setdefault(record.store, record.worker)

    def stores(self) -> tuple[StoreStats, ...]:
        """Return the stores, the one with most pictures first."""
        counts = self._pictures.most_common()
        return tuple(StoreStats(id=store, worker=self._workers[store], pictures=number) for store, number in counts)
