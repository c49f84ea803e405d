"""The headers of a response."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar, overload

_Default = TypeVar("_Default")


class Headers(Mapping[str, str]):
    """Headers by name; upper and lower case are the same. It is several times faster than urllib3's dictionary.

    Args:
        pairs: names and values in the order of the response. Values of the same name are joined, as in RFC 9110 §5.3.
    """

    __slots__ = ("_values",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        #: Name in lower case → its values.
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._values[name.lower()])

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: str | _Default) -> str | _Default: ...
    def get(self, name: str, /, default: object = None) -> object:
        """Return the value of a name, or ``default``."""
        values = self._values.get(name.lower())
        return default if values is None else ", ".join(values)

    def getlist(self, name: str) -> list[str]:
        """Return all values of a name."""
        return list(self._values.get(name.lower(), ()))

    def replace(self, name: str, *values: str) -> None:
        """Replace all values of a name."""
        if values:
            self._values[name.lower()] = list(values)
        else:
            self._values.pop(name.lower(), None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
