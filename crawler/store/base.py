"""The `BlobStore` interface, and the file ``store.json`` that identifies a store."""

import json
import re
from collections.abc import Collection
from typing import BinaryIO, Literal, Protocol

from crawler.errors import ConfigError

#: Guarantee for a power cut. ``none``: nothing is certain to survive. ``batch``: files survive that were saved before
#: the last flush. ``file``: the same, and a file gets its name only when its content is on the disk. ``strict``: each
#: file and its name are durable at once. A killed process loses nothing with any of them.
Durability = Literal["none", "batch", "file", "strict"]

_STORE_ID = re.compile(r"[0-9a-f]{16}")


class BlobStore(Protocol):
    """A store of bytes under keys, which are relative paths such as ``images/ab/<sha256>.jpg``.

    Any thread may call any method. Every method raises `DiskError` if the store reports an error, and ValueError for a
    key that is not a safe file name on every system (`crawler.paths.is_safe`).
    """

    @property
    def id(self) -> str:
        """16 hex digits that identify this store permanently."""
        ...

    @property
    def is_buffered(self) -> bool:
        """Whether `put` returns at once, because it waits for no disk and no network."""
        ...

    def put(self, key: str, data: bytes) -> bool:
        """Save ``data`` under ``key``. Return False if exactly these bytes were there already."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether there is a blob under ``key``."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Open the blob for reading; the caller closes it. Raise FileNotFoundError if there is none."""
        ...

    def remove(self, key: str) -> None:
        """Remove the blob under ``key``, if there is one."""
        ...

    def flush(self, keys: Collection[str] = ()) -> None:
        """Return when every earlier put survives a power cut, as far as the store's durability guarantees it.

        Args:
            keys: the keys that the caller is about to report. `DiskError` if a flush failed since one of them was put.
        """
        ...


def store_json(name: str) -> bytes:
    """Return the content of ``store.json`` for a store with that id."""
    return (json.dumps({"v": 1, "id": name}) + "\n").encode()


def parse_store_id(content: bytes, where: str) -> str:
    """Return the id in the content of a ``store.json``. Raise `ConfigError` if it is damaged."""
    try:
        fields = json.loads(content)
        if fields["v"] == 1 and _STORE_ID.fullmatch(fields["id"]):
            return str(fields["id"])
    except (ValueError, LookupError, TypeError):
        pass
    raise ConfigError(f"{where} is damaged: restore it from a backup, or delete it to give this store a new id")
