"""Where the bytes go: a file is there whole under its final name, or not at all.

`BlobStore` is the seam, `LocalStore` a directory. A blob is written to a temporary file beside its place and
renamed, so that a process killed at any instant leaves a whole file or a ``.part`` that the next start removes.
"""

import errno
import json
import logging
import os
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache, partial
from io import BufferedReader
from math import inf
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from crawler.entries import DAMAGED, PICTURES, NoFile, folders_in, holds, is_file, move_aside, need_pictures, open_file
from crawler.errors import ConfigError, DiskError, DiskTrouble, NoHandles
from crawler.paths import hash_in, is_safe
from crawler.sync import is_spoilt, sync_directories, sync_files

__all__ = [
    "BlobStore",
    "Durability",
    "LocalStore",
    "disk_faults",
    "is_part",
    "parse_store_id",
    "probe",
    "store_id",
    "store_json",
    "write_file",
]

#: What survives a power cut: nothing for sure; what was there at the last flush; the same, and no file has its name
#: before it is whole on the disk; each file and its name at once. A killed process loses nothing with any of them.
Durability = Literal["none", "batch", "file", "strict"]

_log = logging.getLogger(__name__)

#: Final name, process and, where the system tells it, the process's start, a number of its own.
_PART = re.compile(r"\..+?\.(\d+)(?:-(\d+))?\.[0-9a-f]{8}\.part")
#: Seconds by which a file's time may lag behind the clock.
_CLOCK_TICK = 1.0
_STORE_ID = re.compile(r"[0-9a-f]{16}")
#: Seconds after which a temporary file belongs to nobody, even where we can't ask whether its writer lives.
_PART_LIFETIME = 3_600.0
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NEW_FILE |= getattr(os, "O_BINARY", 0)
#: Windows refuses to replace a file that a virus scanner or a viewer has open; a moment later it does.
_REPLACE_ATTEMPTS = 10 if os.name == "nt" else 1

_ADVICE = {
    "ENOSPC": "the disk is full: free some space, then start the same command again",
    "EDQUOT": "the disk quota is used up: free some space, then start the same command again",
    "EROFS": "the disk is read-only: choose another directory with -o",
    "EACCES": "no permission: change the owner or choose another directory with -o",
    "EPERM": "no permission: change the owner or choose another directory with -o",
    "EEXIST": "a file is in its place: choose another directory with -o",
    "ENOTDIR": "a file is in its place: choose another directory with -o",
    "EIO": "the disk reports errors: check it before going on",
    "EMFILE": "too many open files: raise `ulimit -n` or use fewer threads with -t",
    "ENFILE": "too many open files on this machine: close other programs or use fewer threads with -t",
}


#: What passes: when somebody frees space or mends the disk, or when fewer things are done at a time.
_PASSING: dict[str, type[DiskTrouble]] = {
    **dict.fromkeys(("ENOSPC", "EDQUOT", "EROFS", "EIO", "ENXIO", "ENODEV", "ESTALE"), DiskTrouble),
    **dict.fromkeys(("EMFILE", "ENFILE"), NoHandles),
}
#: Bytes that a disk must take for us to believe that it takes something.
_PROBE = bytes(65_536)


class BlobStore(Protocol):
    """Keeps bytes under keys, which are relative paths such as ``images/ab/<sha256>.jpg`` (`crawler.paths.is_safe`).

    Any method may be called from any thread and raises `DiskError` when the store refuses, ValueError for a key
    that would not be a safe file name everywhere.
    """

    @property
    def id(self) -> str:
        """16 hex digits that name this store for ever."""
        ...

    def put(self, key: str, data: bytes) -> bool:
        """Keep ``data`` under ``key``; False where just that was there already."""
        ...

    def exists(self, key: str) -> bool:
        """Whether something is kept under ``key``."""
        ...

    def open(self, key: str) -> BinaryIO:
        """The bytes to read; FileNotFoundError where there are none. The caller closes it."""
        ...

    def remove(self, key: str) -> None:
        """Forget what is under ``key``, if anything is."""
        ...

    def flush(self) -> None:
        """Return when every put before it survives a power cut (as far as the store's durability says)."""
        ...


class LocalStore:
    """A directory as `BlobStore`; made on the first put. It belongs to the processes of one machine."""

    def __init__(self, root: str | Path, durability: Durability = "batch") -> None:
        self.root = Path(root)
        self._durability = durability
        self._opened = time.time()
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        #: Files not known to be on the disk → whether this store wrote them.
        self._pending: dict[Path, bool] = {}

    @cached_property
    def id(self) -> str:
        """The id in ``store.json``, which is made where it is missing.

        Raises:
            ConfigError: the file is damaged.
            DiskError: it can't be read or written.
        """
        path = self._mark
        with disk_faults(path):
            if not path.exists():
                self._make(secrets.token_hex(8))
            return parse_store_id(path.read_bytes(), str(path))

    @property
    def known_id(self) -> str | None:
        """The id, if this is a store already; raises `ConfigError` where it is damaged."""
        return store_id(self.root)

    def name(self, key: str) -> str:
        """Where that is, for people."""
        return str(self.root / key)

    def restore(self) -> None:
        """Write ``store.json`` again where somebody has removed it; nobody would know whose pictures these are."""
        if not self._mark.exists():
            _log.warning("%s was gone; written again", self._mark)
            with disk_faults(self._mark):
                self._make(self.id)

    def _make(self, name: str) -> None:
        write_file(self._mark, [store_json(name)], sync=True, place=_claim)
        os.utime(self._mark, (0, 0))  # nothing was flushed yet

    def put(self, key: str, data: bytes) -> bool:
        """Keep ``data`` under ``key``; a file of other content is replaced, so a damaged one heals."""
        path = self._path(key)
        with disk_faults(path):
            try:
                new = not holds(path, data)
            except NoFile:
                new = True
                self.move_aside(key)
            if new:
                need_pictures(self.root)
                write_file(path, [data], sync=self._durability in ("file", "strict"))
            if self._durability == "strict":
                sync_directories(path.parent, self.root)
        with self._lock:
            self._pending[path] = new or self._pending.get(path, False)
        return new

    def exists(self, key: str) -> bool:
        """Whether a file is there under ``key``, whatever is in it."""
        path = self._path(key)
        with disk_faults(path):
            return is_file(path)

    def open(self, key: str) -> BufferedReader:
        """The file to read; `NoFile` where something else is in its place."""
        path = self._path(key)
        with disk_faults(path, FileNotFoundError):
            return open_file(path)

    def move_aside(self, key: str) -> bool:
        """Move what is in the place of ``key`` and is no file to `DAMAGED`; whether there was such a thing."""
        path = self._path(key)
        with disk_faults(path):
            place = move_aside(path, self.root / DAMAGED)
        if place is not None:
            _log.warning("%s was no file; moved to %s", path, place)
        return place is not None

    def are_two(self, key: str, other: str) -> bool:
        """Whether there are files under both keys that are not one: file systems that fold case take some for one."""
        one, two = self._path(key), self._path(other)
        with disk_faults(one):
            try:
                return not one.samefile(two)
            except FileNotFoundError:
                return False

    def remove(self, key: str) -> None:
        """Forget what is under ``key``; nothing happens where there is nothing."""
        path = self._path(key)
        with self._flushing, disk_faults(path):  # a flush under way must still find it
            with self._lock:
                self._pending.pop(path, None)
            if is_file(path):
                _patiently(partial(path.unlink, missing_ok=True))

    def flush(self) -> None:
        """Sync what was put since the last flush.

        After a failed sync nobody knows which of the files are whole, and asking again would not tell (the kernel
        forgets): those written here are removed, to be fetched again.
        """
        with self._flushing:
            with self._lock:
                pending, self._pending = self._pending, {}
            if not pending:
                return
            began = time.time()
            try:
                with disk_faults(self.root):
                    if self._durability in ("batch", "file"):
                        sync_files(pending, self.root)
                    if self._mark.exists():
                        os.utime(self._mark, (began, began))
            except DiskError:
                for path, ours in pending.items():
                    if ours:
                        with suppress(OSError):
                            path.unlink()
                raise

    def clear_parts(self) -> int:
        """Remove what killed writers left behind; returns how many files. Call it on start.

        A power cut may leave a file its name without its bytes. So what a store of ours has in its ``images/`` and was
        written after the last flush is hashed. Whatever else is in the directory is none of our business.
        """
        count = 0
        with disk_faults(self.root):
            since = self._mark.stat().st_mtime - _CLOCK_TICK if self._mark.exists() else inf
            for directory, _, names in folders_in(self.root):
                is_ours = Path(directory).relative_to(self.root).parts[:1] == (PICTURES,)
                for name in names:
                    path = Path(directory, name)
                    is_part = name.endswith(".part") and _abandoned(path, self._opened)
                    digits = hash_in(name) if is_ours else ""
                    if is_part or (digits and is_spoilt(path, digits, since)):
                        path.unlink(missing_ok=True)
                        count += 1
        if count:
            _log.info("action=clear-parts removed=%d place=%s", count, self.root)
        return count

    @property
    def _mark(self) -> Path:
        """``store.json``, whose time of change is that of the last flush: what is older was on the disk then."""
        return self.root / "store.json"

    def _path(self, key: str) -> Path:
        if not is_safe(key):
            raise ValueError(f"no safe key: {key[:200]!r}")
        return self.root.joinpath(*key.split("/"))


def write_file(
    path: Path,
    chunks: Iterable[bytes],
    *,
    sync: bool,
    place: Callable[[Path, Path], None] | None = None,
) -> None:
    """Write a file so that ``path`` holds all of it or what it held before; missing directories are made.

    Args:
        path: final name.
        chunks: the content.
        sync: whether the content is on the disk before it has its name.
        place: gives the finished file its name, if not by replacing.

    Raises:
        DiskError: the disk refuses; nothing is left behind.
    """
    part = _part_for(path)
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(part, _NEW_FILE, 0o600), "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            part.chmod(0o644)
            (place or _replace)(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


def probe(directory: Path) -> None:
    """Write a little to the disk of a directory, wait for it to be there, and take it away; raises `DiskError`."""
    part = _part_for(directory / "probe")
    with disk_faults(directory):
        try:
            with os.fdopen(os.open(part, _NEW_FILE, 0o600), "wb") as file:
                file.write(_PROBE)
                file.flush()
                os.fsync(file.fileno())
        finally:
            part.unlink(missing_ok=True)


def _part_for(path: Path) -> Path:
    """The name of a temporary file beside ``path``, which nobody else has."""
    return path.with_name(f".{path.name}.{_me(os.getpid())}.{secrets.token_hex(4)}.part")


@contextmanager
def disk_faults(path: Path, *passing: type[OSError]) -> Iterator[None]:
    """Turn any OSError about ``path``, but those of the classes ``passing``, into a `DiskError` with advice.

    What may pass by itself becomes a `DiskTrouble`, lack of handles a `NoHandles`.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, passing):
            raise
        name = errno.errorcode.get(error.errno or 0, "")
        advice = _ADVICE.get(name) or error.strerror or type(error).__name__
        raise _PASSING.get(name, DiskError)(f"can't use {path}: {advice}") from error


def _replace(part: Path, path: Path) -> None:
    _patiently(partial(part.replace, path))


def _patiently(act: Callable[[], object]) -> None:
    """Do what another program may prevent for a moment."""
    for attempt in range(1, _REPLACE_ATTEMPTS + 1):
        try:
            act()
            return
        except PermissionError:
            if attempt == _REPLACE_ATTEMPTS:
                raise
        time.sleep(random.uniform(0.01, 0.05 * attempt))  # noqa: S311  # jitter, no secret


def _claim(part: Path, path: Path) -> None:
    """Give ``part`` the name ``path``; where a sibling process was faster, what it wrote holds."""
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        _replace(part, path)
        return
    part.unlink()


def store_id(directory: Path) -> str | None:
    """Id of the store in a directory; None where there is none.

    Raises:
        ConfigError: its ``store.json`` is damaged.
    """
    path = directory / "store.json"
    return parse_store_id(path.read_bytes(), str(path)) if path.exists() else None


def store_json(name: str) -> bytes:
    """The content of ``store.json`` for a store of that id."""
    return (json.dumps({"v": 1, "id": name}) + "\n").encode()


def parse_store_id(content: bytes, where: str) -> str:
    """The id that a ``store.json`` says; raises `ConfigError` where it is damaged."""
    try:
        known = json.loads(content)
        if known["v"] == 1 and _STORE_ID.fullmatch(known["id"]):
            return str(known["id"])
    except (ValueError, LookupError, TypeError):
        pass
    raise ConfigError(f"{where} is damaged: restore it, or delete it to give this store a new id")


def _abandoned(part: Path, opened: float) -> bool:
    """Whether the writer of a temporary file is gone: an earlier life of ours, a dead process, or an hour ago."""
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
    if began is not None and (now := _start_of(writer)):
        return began != now  # not so: somebody else has the number of a process that is dead
    return writer == os.getpid() or not _may_live(writer)


def is_part(name: str) -> bool:
    """Whether a file of that name is one that nobody has finished writing."""
    return _PART.fullmatch(name) is not None


@lru_cache(maxsize=1)  # by number, because a fork is another process
def _me(process: int) -> str:
    """This process, in the names of its temporary files."""
    start = _start_of(process)
    return f"{process}-{start}" if start else str(process)


def _start_of(process: int) -> str:
    """When a process began, in ticks of the kernel's since the machine did; empty where that can't be known."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
        start = text.rpartition(")")[2].split()[19]  # field 22 of proc(5); the second one may hold anything
    except (OSError, IndexError):  # no such process, or no Linux
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
