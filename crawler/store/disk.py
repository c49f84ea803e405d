"""Atomic writes, flushing of files and directory entries, and errors of the disk as advice to the user.

A file is written to a temporary file beside its final path and then renamed. So a process that is killed at any instant
leaves a complete file, or a ``.part`` file that the next start removes.
"""

import ctypes
import errno
import hashlib
import os
import random
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path

from crawler.errors import TOO_MANY_FILES, DiskError, DiskTrouble, NoHandles

#: Final name, process id, start time of the process if the system provides it, and a random number.
_PART = re.compile(r"\..+?\.(\d+)(?:-(\d+))?\.[0-9a-f]{8}\.part")
#: Seconds after which a temporary file counts as abandoned, even if its writer can't be checked.
_PART_LIFETIME = 3_600.0
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NEW_FILE |= getattr(os, "O_BINARY", 0)
#: Windows refuses to replace a file that a virus scanner or a viewer has open; a moment later it succeeds.
_REPLACE_ATTEMPTS = 10 if os.name == "nt" else 1

_ADVICE = {
    "ENOSPC": "the disk is full: free some space, then run the same command again",
    "EDQUOT": "the disk quota is used up: free some space, then run the same command again",
    "EROFS": "the disk is read-only: choose another directory with -o",
    "EACCES": "no permission: change the owner or choose another directory with -o",
    "EPERM": "no permission: change the owner or choose another directory with -o",
    "EEXIST": "a file is in the way: choose another directory with -o",
    "ENOTDIR": "a file is in the way: choose another directory with -o",
    "EIO": "the disk reports errors: check it before you continue",
    "EMFILE": TOO_MANY_FILES,
    "ENFILE": "too many open files on this machine: close other programs or use fewer connections with -t",
}
#: Names of temporary errors, which end when the user frees space or repairs the disk, or when less work runs.
_TEMPORARY: dict[str, type[DiskTrouble]] = {
    **dict.fromkeys(("ENOSPC", "EDQUOT", "EROFS", "EIO", "ENXIO", "ENODEV", "ESTALE"), DiskTrouble),
    **dict.fromkeys(("EMFILE", "ENFILE"), NoHandles),
}
#: Bytes that are written in one call, unless a chunk is longer.
_BLOCK = 65_536
#: Bytes that a disk must accept in a probe.
_PROBE = bytes(65_536)


def write_file(
    path: str | Path,
    chunks: Iterable[bytes],
    *,
    sync: bool,
    mode: int = 0o666,
    publish: Callable[[str, str], None] | None = None,
) -> None:
    """Write a file so that ``path`` has its new content completely or its old one; create missing directories.

    It runs for each image, so it uses neither path objects nor file objects, which take longer than the disk.

    Args:
        path: final name.
        chunks: the content.
        sync: whether to sync the content before the file gets its name.
        mode: permissions of the file, less those that the user's umask removes.
        publish: gives the finished file its name, instead of a replace; it may keep the temporary name, too.

    Raises:
        DiskError: the disk reports an error; no temporary file is left behind.
    """
    path = os.fspath(path)
    part = _part_for(path)
    with disk_faults(path):
        try:
            descriptor = _create(part, mode)
            try:
                for block in _blocks(chunks):
                    _write(descriptor, block)
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            (publish or _replace)(part, path)
            if publish is not None:
                with suppress(FileNotFoundError):
                    retry_if_locked(os.unlink, part)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise


def _create(part: str, mode: int) -> int:
    """Create a file, and its directory if that is missing; return a descriptor."""
    try:
        return os.open(part, _NEW_FILE, mode)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(part), exist_ok=True)
        return os.open(part, _NEW_FILE, mode)


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Join small chunks, because each block costs a system call. A single chunk is not copied."""
    pending: list[bytes] = []
    size = 0
    for chunk in chunks:
        pending.append(chunk)
        size += len(chunk)
        if size >= _BLOCK:
            yield b"".join(pending)
            pending, size = [], 0
    yield b"".join(pending)


def _write(descriptor: int, data: bytes) -> None:
    """Write all bytes: a disk that is almost full may accept only some of them at first."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def probe(directory: Path) -> None:
    """Write and sync a small file in a directory, and remove it. Raise `DiskError`."""
    part = _part_for(os.path.join(directory, "probe"))
    with disk_faults(directory):
        try:
            with open(part, "xb") as file:
                file.write(_PROBE)
                file.flush()
                os.fsync(file.fileno())
        finally:
            with suppress(OSError):
                os.unlink(part)


def _part_for(path: str) -> str:
    """Return a unique name for a temporary file beside ``path``."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{_process_tag(os.getpid())}.{secrets.token_hex(4)}.part")


@contextmanager
def disk_faults(path: str | Path, *passing: type[OSError]) -> Iterator[None]:
    """Turn any OSError about ``path``, except the classes ``passing``, into a `DiskError` with advice.

    A temporary error becomes a `DiskTrouble`, a lack of file descriptors a `NoHandles`.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, passing):
            raise
        name = errno.errorcode.get(error.errno or 0, "")
        advice = _ADVICE.get(name) or error.strerror or type(error).__name__
        raise _TEMPORARY.get(name, DiskError)(f"can't use {path}: {advice}") from error


def link_or_replace(part: str, path: str, *, is_synced: bool) -> None:
    """Give ``part`` the name ``path``; sync it before it replaces another file."""
    try:
        os.link(part, path)
    except OSError:  # there is another file, or the file system has no hard links
        if not is_synced and os.path.exists(path):
            _fsync(part, os.O_RDWR)  # Windows syncs only descriptors that are open for writing
        _replace(part, path)


def _replace(part: str, path: str) -> None:
    retry_if_locked(os.replace, part, path)


def retry_if_locked(act: Callable[..., object], *paths: str) -> None:
    """Call ``act``; on Windows, retry it while another program has the file open."""
    for attempt in range(1, _REPLACE_ATTEMPTS + 1):
        try:
            act(*paths)
            return
        except PermissionError:
            if attempt == _REPLACE_ATTEMPTS:
                raise
        time.sleep(random.uniform(0.01, 0.05 * attempt))  # noqa: S311  # jitter, not a secret


def link_unless_exists(part: str, path: str) -> None:
    """Give ``part`` the name ``path``, unless another process has already created that file."""
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        _replace(part, path)


def is_abandoned(part: Path, opened: float) -> bool:
    """Return whether the writer of a temporary file is gone.

    Its writer was this process before the store was opened, or is dead, or last wrote more than an hour ago.
    """
    match = _PART.fullmatch(part.name)
    try:
        written = part.stat().st_mtime
    except FileNotFoundError:  # its writer has just finished
        return False
    if match is None or written >= opened:
        return False
    writer, began = int(match[1]), match[2]
    if opened - written > _PART_LIFETIME:
        return True
    if began is not None and (current_start := _start_of(writer)):
        return began != current_start  # different: another process has the number of a dead one
    return writer == os.getpid() or not _may_live(writer)


def is_part(name: str) -> bool:
    """Return whether this is the name of a temporary file."""
    return _PART.fullmatch(name) is not None


@lru_cache(maxsize=1)  # by process id, because a fork is another process
def _process_tag(process: int) -> str:
    """Return the part of a temporary file's name that identifies this process."""
    start = _start_of(process)
    return f"{process}-{start}" if start else str(process)


def _start_of(process: int) -> str:
    """Return the start of a process in kernel ticks since the machine booted, or "" if unknown."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
        start = stat.rpartition(")")[2].split()[19]  # field 22 of proc(5); the second field may contain anything
    except (OSError, IndexError):  # no such process, or not on Linux
        return ""
    return start if start.isdecimal() else ""


def _may_live(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


class FileSystems:
    """The file systems of a store, with one descriptor for each, which is opened before the first write and kept open.

    Linux reports a failed write-back once to each descriptor that was open when the write failed. A descriptor that is
    opened just before the sync misses an error that another process has already received.
    """

    def __init__(self) -> None:
        self._descriptors: dict[int, int] = {}

    def open(self, device: int, folder: str) -> None:
        """Open a descriptor for the device on which ``folder`` is, unless one is open. Raise OSError."""
        if device not in self._descriptors:
            self._descriptors[device] = os.open(folder, os.O_RDONLY)

    def sync(self, devices: Iterable[int]) -> None:
        """Flush everything that was written to these devices. Raise OSError."""
        syncfs = _find_syncfs()
        assert syncfs is not None  # noqa: S101  # the caller checks it
        for device in devices:
            if syncfs(self._descriptors[device]) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))

    def close(self) -> None:
        """Close all descriptors."""
        while self._descriptors:
            with suppress(OSError):
                os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        self.close()


def knows_syncfs() -> bool:
    """Return whether the system can sync a whole file system in one call."""
    return _find_syncfs() is not None


@cache
def _find_syncfs() -> Callable[[int], int] | None:
    """Return Linux's syncfs(2), which flushes one file system in one call and reports its errors, or None."""
    if os.name != "posix":
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


def sync_directories(directory: Path, root: Path) -> None:
    """Flush the entries of ``directory`` and of its parents up to the root; do nothing on Windows. Raise OSError."""
    if os.name == "nt":
        return
    for folder in (directory, *directory.parents):
        _fsync(folder, os.O_RDONLY)
        if folder == root:
            break


def _fsync(path: str | Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_damaged(path: Path, digits: str, since: float) -> bool:
    """Return whether a file was written since that time and its SHA-256 does not begin with ``digits``."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_mtime < since:
            return False
        with path.open("rb") as file:
            return not hashlib.file_digest(file, "sha256").hexdigest().startswith(digits)
    except FileNotFoundError:  # another process has removed it as a surplus copy
        return False
