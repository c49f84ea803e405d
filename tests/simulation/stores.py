"""A worker's store in memory, with a record of the data that would survive a power cut."""

from collections.abc import Collection
from io import BufferedReader, BytesIO
from pathlib import Path

from crawler.store.local import LocalStore


class _Blob(BytesIO):
    """Bytes with the interface of a file."""


class SimulatedStore(LocalStore):
    """Pictures in two dictionaries; the directory holds the worker's outbox and manifest, which are real files.

    Args:
        name: 16 hex digits.
    """

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root)
        self.__dict__["id"] = name
        self._fresh: dict[str, bytes] = {}
        #: Flushed pictures.
        self.durable: dict[str, bytes] = {}

    def restore(self) -> None:
        pass

    def put(self, key: str, data: bytes) -> bool:
        is_new = not self.exists(key)
        if is_new:
            self._fresh[key] = data
        return is_new

    def exists(self, key: str) -> bool:
        return key in self._fresh or key in self.durable

    def open(self, key: str) -> BufferedReader:
        data = self._fresh.get(key, self.durable.get(key))
        if data is None:
            raise FileNotFoundError(key)
        return BufferedReader(_Blob(data))

    def remove(self, key: str) -> None:
        self._fresh.pop(key, None)
        self.durable.pop(key, None)

    def flush(self, keys: Collection[str] = ()) -> None:
        self.durable |= self._fresh
        self._fresh.clear()

    def lose_power(self) -> None:
        """Drop all unflushed pictures."""
        self._fresh.clear()
