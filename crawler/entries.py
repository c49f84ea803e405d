"""What lies in a store's directory: files, and what somebody has put there that is none.

A picture's place may have a directory in it, a link, a pipe or a device. Whoever opened that would fail, read what is
somebody else's, or wait for ever. So nothing but a regular file is opened, and the rest is moved aside, never deleted.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from crawler.errors import DiskTrouble

#: Folder of a store's pictures; it may be a link to one on another disk.
PICTURES = "images"
#: Folder beside it, for what was in a picture's place and is not what its name says.
DAMAGED = "damaged"


class NoFile(FileNotFoundError):
    """There is no file, but something else in its place."""


def is_file(path: Path) -> bool:
    """Whether a file is there, not a link to one. Raises OSError where nobody can tell."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def open_file(path: Path) -> BufferedReader:
    """The file to read; the caller closes it.

    Raises:
        NoFile: it is something else.
        FileNotFoundError: there is nothing.
        OSError: the disk refuses.
    """
    try:
        mode = path.lstat().st_mode
    except NotADirectoryError as error:  # a file where its folder should be
        raise FileNotFoundError(*error.args) from error
    if not stat.S_ISREG(mode):
        raise NoFile(errno.ENOENT, "no regular file", str(path))
    return path.open("rb")


def holds(path: Path, data: bytes) -> bool:
    """Whether the file is there with just this content; raises as `open_file` does, but for what is missing."""
    try:
        with open_file(path) as file:
            return os.fstat(file.fileno()).st_size == len(data) and file.read() == data
    except NoFile:
        raise
    except FileNotFoundError:
        return False


def move_aside(path: Path, folder: Path) -> Path | None:
    """Move what is in a file's place and is none into a folder, or give it another name where that is on another disk.

    Returns where it is then; None: nothing is in the way.

    Raises:
        OSError: the disk refuses.
    """
    with suppress(FileNotFoundError, NotADirectoryError):  # nothing there, or somebody was faster
        if not stat.S_ISREG(path.lstat().st_mode):
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{path.name}.{secrets.token_hex(4)}"
            for place in (folder / name, path.with_name(f"{name}.damaged")):  # beside it, where that is another disk
                try:
                    return path.rename(place)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
    return None


def need_pictures(root: Path) -> None:
    """Raise `DiskTrouble` where the pictures are a link that leads nowhere: they are not lost, their disk is away."""
    pictures = root / PICTURES
    if pictures.is_symlink() and not pictures.is_dir():
        raise DiskTrouble(f"can't use {pictures}: it leads to what is not there: mount that disk, or remove the link")


def folders_in(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, which enters no links, but for that of the pictures; they come last."""
    for directory, folders, names in os.walk(root):
        if directory == str(root) and PICTURES in folders:
            folders.remove(PICTURES)
        yield directory, folders, names
    yield from os.walk(root / PICTURES)
