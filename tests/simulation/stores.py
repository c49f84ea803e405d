"""A worker's store in memory, which knows what a power cut would leave of it."""

from io import BufferedReader, BytesIO
from pathlib import Path

from crawler.storage import LocalStore


class _Blob(BytesIO):
    """Bytes to be read like a file."""


class SimulatedStore(LocalStore):
    """Pictures in two dictionaries; the directory is for the worker's notes and records, which are real files.

    Args:
        name: 16 hex digits.
    """

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root)
        self.__dict__["id"] = name
        self._fresh: dict[str, bytes] = {}
        #: What was flushed.
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

    def flush(self) -> None:
        self.durable |= self._fresh
        self._fresh.clear()

    def lose_power(self) -> None:
        """What was not flushed is gone."""
        self._fresh.clear()
