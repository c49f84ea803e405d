"""`LocalStore`, the `BlobStore` in a directory: atomic writes, and flushes that cover many files at once."""

import itertools
import logging
import os
import secrets
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from functools import cached_property
from io import BufferedReader
from math import inf
from pathlib import Path

from crawler.errors import DiskTrouble
from crawler.paths import hash_in, is_safe
from crawler.store.base import Durability, parse_store_id, store_json
from crawler.store.disk import (
    FileSystems,
    disk_faults,
    is_abandoned,
    is_damaged,
    knows_syncfs,
    link_or_replace,
    link_unless_exists,
    retry_if_locked,
    sync_directories,
    write_file,
)
from crawler.store.files import (
    DAMAGED,
    PICTURES,
    NoFile,
    folders_in,
    holds,
    is_file,
    leads_out,
    move_aside,
    open_file,
    ready_folder,
)

_log = logging.getLogger(__name__)

#: Seconds by which a file's time may lag behind the clock.
_CLOCK_TICK = 1.0
#: Number of keys remembered as synced; other files are rewritten when their image is put again.
_MAX_SYNCED = 16_384


class LocalStore:
    """A `BlobStore` in a directory of one machine, which its processes share. The first put creates the directory.

    The page cache proves nothing about the disk: after a failed sync Linux marks pages as clean that it did not write.
    So an image is reported only if this object wrote its file and then synced it, with no failed sync between the two.
    A file that another process wrote is rewritten. No failure removes a file, and a file replaces another one only when
    it is on the disk: a file that another thread or process has reported stays complete.
    """

    def __init__(self, root: str | Path, durability: Durability = "batch") -> None:
        self.root = Path(root)
        self._place = str(self.root)
        self._durability = durability
        #: Its modification time is that of the last flush: older files were on the disk then.
        self._id_file = self.root / "store.json"
        self._opened = time.time()
        #: Protects all fields below, and the creation and removal of file names.
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._disks = FileSystems()
        #: Keys written since the last flush → the number of the write, and the device.
        self._written: dict[str, tuple[int, int]] = {}
        #: Keys whose file is on the disk, the oldest first; at most `_MAX_SYNCED`.
        self._synced: dict[str, None] = {}
        #: Keys whose file may not be on the disk, because a flush has failed since it was written.
        self._unsynced: set[str] = set()
        self._writes = itertools.count()
        #: Number of failed flushes.
        self._failures = 0

    @cached_property
    def id(self) -> str:
        """The id in ``store.json``, which is created if it is missing.

        Raises:
            ConfigError: ``store.json`` is damaged.
            DiskError: ``store.json`` can't be read or written.
        """
        path = self._id_file
        with disk_faults(path):
            if not path.exists():
                self._write_id(secrets.token_hex(8))
            return parse_store_id(path.read_bytes(), str(path))

    @property
    def known_id(self) -> str | None:
        """The id, or None if there is no store yet. Raises `ConfigError` if ``store.json`` is damaged."""
        path = self._id_file
        return parse_store_id(path.read_bytes(), str(path)) if path.exists() else None

    @property
    def is_buffered(self) -> bool:
        return self._durability == "none" or self._is_batched

    def name(self, key: str) -> str:
        """Return the file's path, to be shown to the user."""
        return str(self.root / key)

    def restore(self) -> None:
        """Write ``store.json`` again if it was removed: without it the store of these images is unknown."""
        if not self._id_file.exists():
            _log.warning("%s was missing and was written again", self._id_file)
            with disk_faults(self._id_file):
                self._write_id(self.id)

    def _write_id(self, name: str) -> None:
        write_file(self._id_file, [store_json(name)], sync=True, publish=link_unless_exists)
        os.utime(self._id_file, (0, 0))  # nothing is flushed yet

    def put(self, key: str, data: bytes) -> bool:
        """Save ``data`` under ``key``; replace a file with other content, which repairs a damaged one."""
        path = self._path(key)
        with disk_faults(path):
            folder, device = ready_folder(self._place, key)
            try:
                new = not holds(path, data)
            except NoFile:
                new = True
                self.move_aside(key)
            with self._lock:
                failures = self._failures
                if self._is_batched:
                    self._disks.open(device, folder)
                if not new and self._durability == "none":
                    self._record_write(key, device, failures)
                is_ours = not new and (key in self._written or key in self._synced)
            if not is_ours:
                self._write(key, data, device, failures, sync=not (new and self._is_batched))
            if self._durability == "strict":
                sync_directories(Path(folder), self.root)
        return new

    def _write(self, key: str, data: bytes, device: int, failures: int, *, sync: bool) -> None:
        """Write a file. The next flush covers it unless the number of failed flushes is above ``failures`` by then."""
        sync = sync and self._durability != "none"

        def publish(part: str, path: str) -> None:
            with self._lock:  # no `remove` comes between the name and its record
                link_or_replace(part, path, is_synced=sync or self._durability == "none")
                self._record_write(key, device, failures)

        write_file(self._path(key), [data], sync=sync, publish=publish)

    def _record_write(self, key: str, device: int, failures: int) -> None:
        self._synced.pop(key, None)
        self._written.pop(key, None)
        if failures == self._failures:
            self._written[key] = (next(self._writes), device)
            self._unsynced.discard(key)
        else:
            self._unsynced.add(key)

    @property
    def _is_batched(self) -> bool:
        """Whether one call syncs many files; otherwise each file is synced before it gets its name."""
        return self._durability == "batch" and knows_syncfs()

    def exists(self, key: str) -> bool:
        """Return whether there is a file under ``key``; a file does not count if its flush failed."""
        path = self._path(key)
        if key in self._unsynced:
            return False
        with disk_faults(path):
            return is_file(path)

    def open(self, key: str) -> BufferedReader:
        """Open the file for reading; the caller closes it. Raise `NoFile` if it is not a regular file."""
        path = self._path(key)
        with disk_faults(path, FileNotFoundError):
            return open_file(path)

    def move_aside(self, key: str) -> bool:
        """Move anything but a regular file at the path of ``key`` to `DAMAGED`. Return whether it was moved."""
        path = self._path(key)
        with disk_faults(path):
            target = None if leads_out(self.root, key) else move_aside(Path(path), self.root / DAMAGED)
        if target is not None:
            _log.warning("%s was not a regular file and was moved to %s", path, target)
        return target is not None

    def are_two(self, key: str, other: str) -> bool:
        """Return whether two different files are under these keys; file systems that fold case may show one file."""
        path, other_path = self._path(key), self._path(other)
        with disk_faults(path):
            try:
                return not os.path.samefile(path, other_path)
            except FileNotFoundError:
                return False

    def remove(self, key: str) -> None:
        """Remove the file under ``key``, if there is one."""
        path = self._path(key)
        with self._lock, disk_faults(path):
            self._written.pop(key, None)  # an unreported put of the same bytes is a surplus copy as well
            self._synced.pop(key, None)
            if is_file(path) and not leads_out(self.root, key):
                with suppress(FileNotFoundError):
                    retry_if_locked(os.unlink, path)

    def flush(self, keys: Collection[str] = ()) -> None:
        """Sync all files put since the last flush; then those of ``keys`` that this object put are on the disk.

        Raises:
            DiskError: one of them may not be on the disk. After a failed sync that applies to each file that was put
                and not yet flushed; the next `put` of its key rewrites it.
        """
        with self._flushing, disk_faults(self.root):
            with self._lock:
                written = dict(self._written)
            if written:
                began = time.time()
                try:
                    self._sync(written)
                    if self._id_file.exists() and not self._failures:  # otherwise the next start checks all files
                        os.utime(self._id_file, (began, began))
                except OSError:
                    with self._lock:
                        self._failures += 1
                        self._unsynced |= self._written.keys()
                        self._written.clear()
                        self._disks.close()
                    raise
                self._record_sync(written)
        with self._lock:
            if not self._unsynced.isdisjoint(keys):
                raise DiskTrouble(f"can't use {self.root}: the disk reported errors while images were saved: check it")

    def _sync(self, written: dict[str, tuple[int, int]]) -> None:
        if self._is_batched:
            self._disks.sync({device for _, device in written.values()})
        elif self._durability in ("batch", "file"):
            for folder in {Path(self._path(key)).parent for key in written}:
                sync_directories(folder, self.root)

    def _record_sync(self, written: dict[str, tuple[int, int]]) -> None:
        """Record these files as synced, except for files that were written again during the sync."""
        with self._lock:
            for key, write in written.items():
                if self._written.get(key) == write:
                    del self._written[key]
                    self._synced[key] = None
            while len(self._synced) > _MAX_SYNCED:
                del self._synced[next(iter(self._synced))]

    def clear_parts(self) -> int:
        """Remove the files that killed writers left behind; return their number. The caller runs it on start.

        A power cut may leave a file name without its bytes. So each image in ``images/`` of a store with a
        ``store.json`` that was written after the last flush is hashed. All other files are left alone.
        """
        count = 0
        with disk_faults(self.root):
            since = self._id_file.stat().st_mtime - _CLOCK_TICK if self._id_file.exists() else inf
            for directory, _, names in folders_in(self.root):
                is_image_folder = Path(directory).relative_to(self.root).parts[:1] == (PICTURES,)
                for name in names:
                    path = Path(directory, name)
                    is_part = name.endswith(".part") and is_abandoned(path, self._opened)
                    digits = hash_in(name) if is_image_folder else ""
                    if is_part or (digits and is_damaged(path, digits, since)):
                        path.unlink(missing_ok=True)
                        count += 1
        if count:
            _log.info("action=clear-parts removed=%d root=%s", count, self.root)
        return count

    def _path(self, key: str) -> str:
        if not is_safe(key):
            raise ValueError(f"unsafe key: {key[:200]!r}")
        return os.path.join(self._place, key.replace("/", os.sep))
