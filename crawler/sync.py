"""Bringing files and their names to the disk, so that a power cut spares them."""

import ctypes
import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path


def sync_files(paths: Iterable[Path], root: Path) -> None:
    """Bring files and their names to the disk: by file system where the kernel can, else one by one. Raises OSError."""
    syncfs = _find_syncfs()
    if syncfs is None:
        directories = set()
        for path in paths:
            with suppress(FileNotFoundError):  # another worker of this directory has found it to be a copy too many
                _fsync(path, os.O_RDWR)  # Windows syncs only what is open for writing
                directories.add(path.parent)
        for directory in directories:
            sync_directories(directory, root)
        return
    for directory in {path.parent.stat().st_dev: path.parent for path in paths}.values():
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            if syncfs(descriptor) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
        finally:
            os.close(descriptor)


def _find_syncfs() -> Callable[[int], int] | None:
    """Linux's syncfs(2), which flushes one file system in one call and reports its errors."""
    if os.name != "posix":
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


def sync_directories(directory: Path, root: Path) -> None:
    """Make the names in ``directory`` durable, and its own name up to the root; not on Windows. Raises OSError."""
    if os.name == "nt":
        return
    for place in (directory, *directory.parents):
        _fsync(place, os.O_RDONLY)
        if place == root:
            break


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_spoilt(path: Path, digits: str, since: float) -> bool:
    """Whether a file that was written since then lacks the content that its name says: the first digits of its hash."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_mtime < since:
            return False
        with path.open("rb") as file:
            return not hashlib.file_digest(file, "sha256").hexdigest().startswith(digits)
    except FileNotFoundError:  # whoever saves here has found it to be a copy too many
        return False
