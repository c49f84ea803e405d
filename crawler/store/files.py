"""Access to the files in a store's directory, which may contain anything else in their place.

At an image's path there may be a directory, a link, a pipe or a device. Opening it would fail, read a file outside the
store, or block forever. So only a regular file is opened; anything else is moved aside, never deleted.
"""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from crawler.errors import DiskTrouble

#: Folder of a store's images; it may be a link to a folder on another disk.
PICTURES = "images"
#: Folder beside it, for things that were at an image's path and are not the image that the path names.
DAMAGED = "damaged"


class NoFile(FileNotFoundError):
    """The error for a path at which there is something other than a regular file."""


def is_file(path: str | Path) -> bool:
    """Return whether there is a regular file, not a link to one. Raise OSError if that can't be determined."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def open_file(path: str) -> BufferedReader:
    """Open a file for reading; the caller closes it.

    Raises:
        NoFile: it is not a regular file.
        FileNotFoundError: there is nothing at the path.
        OSError: the disk reports an error.
    """
    try:
        mode = os.lstat(path).st_mode
    except NotADirectoryError as error:  # a file where its folder should be
        raise FileNotFoundError(*error.args) from error
    if not stat.S_ISREG(mode):
        raise NoFile(errno.ENOENT, "not a regular file", path)
    return open(path, "rb")  # the caller closes it


def holds(path: str, data: bytes) -> bool:
    """Return whether the file exists with exactly this content. Raise like `open_file`, except for a missing file."""
    try:
        with open_file(path) as file:
            return os.fstat(file.fileno()).st_size == len(data) and file.read() == data
    except NoFile:
        raise
    except FileNotFoundError:
        return False


def move_aside(path: Path, folder: Path, is_wanted: Callable[[int], bool] = stat.S_ISREG) -> Path | None:
    """Move anything but a wanted file at ``path`` into a folder, or rename it if the folder is on another disk.

    Return its new path, or None if nothing had to be moved.

    Args:
        path: the file's path.
        folder: the folder to move it to.
        is_wanted: returns whether something with this mode may stay.

    Raises:
        OSError: the disk reports an error.
    """
    with suppress(FileNotFoundError, NotADirectoryError):  # nothing there, or another process was faster
        if not is_wanted(path.lstat().st_mode):
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{path.name}.{secrets.token_hex(4)}"
            for target in (folder / name, path.with_name(f"{name}.damaged")):  # the second, if on another disk
                try:
                    return path.rename(target)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
    return None


def ready_folder(root: str, key: str) -> tuple[str, int]:
    """Create the folder of a file in a store if it is missing. Return the folder and the number of its device.

    A link at the path of a folder leads out of the store, so it is moved to `DAMAGED`, and so is a file. Only the first
    folder, which contains all images, may be a link. The disk is asked for each image, because another program may
    replace, remove or unmount a folder at any time. The first folder needs no call of its own if there is a second.

    Raises:
        DiskTrouble: the first folder is a link without a target.
        OSError: the disk reports an error.
    """
    names = key.split("/")[:-1]
    folder, device = root, None
    for depth, name in enumerate(names):
        folder = os.path.join(folder, name)
        if depth or len(names) == 1:
            device = _device_of_folder(folder, os.lstat if depth else os.stat)
            if device is None:
                device = _make_folder(Path(folder), Path(root))
    return folder, _make_folder(Path(root), Path(root)) if device is None else device


def leads_out(root: Path, key: str) -> bool:
    """Return whether a folder of a file in a store is a link out of it, or is missing."""
    folders = list((root / key).relative_to(root).parents)[:-2]  # without the first one and the root
    return any(_device_of_folder(str(root / folder), os.lstat) is None for folder in folders)


def _device_of_folder(folder: str, read_status: Callable[[str], os.stat_result]) -> int | None:
    """Return the number of a folder's device, or None if there is no folder."""
    try:
        status = read_status(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev if stat.S_ISDIR(status.st_mode) else None


def _make_folder(folder: Path, root: Path) -> int:
    """Create a folder and its parents; return the number of its device."""
    if root / PICTURES in (folder, folder.parent):
        need_pictures(root)
    if folder.parent not in (root, root.parent):
        move_aside(folder, root / DAMAGED, stat.S_ISDIR)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.stat().st_dev


def need_pictures(root: Path) -> None:
    """Raise `DiskTrouble` if the images' folder is a link without a target: the images exist on an unmounted disk."""
    pictures = root / PICTURES
    if pictures.is_symlink() and not pictures.is_dir():
        raise DiskTrouble(f"can't use {pictures}: its link has no target: mount that disk, or remove the link")


def folders_in(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk the store like `os.walk`, which follows no links, except the link to the images, which come last."""
    for directory, folders, names in os.walk(root):
        if directory == str(root) and PICTURES in folders:
            folders.remove(PICTURES)
        yield directory, folders, names
    yield from os.walk(root / PICTURES)
