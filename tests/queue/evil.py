"""A pickle that writes a file when it is loaded."""

import pickle
from pathlib import Path


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


def evil_pickle(marker: Path) -> bytes:
    return pickle.dumps(Evil(marker))
