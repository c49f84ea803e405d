"""A flush that fails: afterwards no thread and no process reports a picture whose file may not be on the disk.

Two `LocalStore` objects of one directory share only the disk, like two processes.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from crawler.errors import DiskError
from crawler.model import ImageRecord, Outcome
from crawler.store import disk as syncing
from crawler.store.disk import write_file
from crawler.store.local import LocalStore
from crawler.store.result_store import ResultStore


class Disk:
    """The kernel's part: the next sync fails if ``is_failing``, and ``meanwhile`` is called in the middle of it."""

    def __init__(self) -> None:
        self.is_failing = False
        self.meanwhile: Callable[[], object] = int
        #: Inodes in the order in which `os.fsync` was called for them.
        self.synced: list[int] = []

    def syncfs(self, descriptor: int) -> int:
        meanwhile, self.meanwhile = self.meanwhile, int
        meanwhile()
        if self.is_failing:
            self.is_failing = False
            raise OSError(errno.EIO, "refused")
        return 0

    def fsync(self, descriptor: int) -> None:
        self.synced.append(os.fstat(descriptor).st_ino)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(syncing, "_find_syncfs", lambda: made.syncfs)
    monkeypatch.setattr(os, "fsync", made.fsync)
    return made


def saved(shelf: ResultStore, text: str, url: str = "") -> Outcome:
    """Return the outcome of a picture that a downloader thread has put."""
    data = text.encode()
    digest = sha256(data).hexdigest()
    path = f"images/{digest[:2]}/{digest}.jpg"
    is_new = shelf.store.put(path, data)
    record = ImageRecord(url=f"http://a.test/{url or text}", status="success", sha256=digest, path=path)
    return Outcome(status="done", token=url or text, record=record, stored=is_new)


def place_of(shelf: ResultStore, outcome: Outcome) -> Path:
    assert isinstance(shelf.store, LocalStore) and outcome.record is not None
    return shelf.store.root / outcome.record.path


def inode(shelf: ResultStore, outcome: Outcome) -> int:
    return place_of(shelf, outcome).stat().st_ino


def refuse(shelf: ResultStore, *outcomes: Outcome) -> None:
    with pytest.raises(DiskError):
        shelf.keep(outcomes)


def test_a_file_that_another_thread_put_before_the_failed_flush_is_not_reported(tmp_path: Path, disk: Disk) -> None:
    shelf = ResultStore(LocalStore(tmp_path))
    one, other = saved(shelf, "one"), saved(shelf, "other")
    disk.is_failing = True
    refuse(shelf, one)
    refuse(shelf, other)
    before = inode(shelf, other)
    shelf.keep([saved(shelf, "other")])
    assert inode(shelf, other) != before, "pages marked as clean by a failed sync prove nothing"


def test_a_file_that_another_thread_puts_during_the_failed_flush_is_not_reported(tmp_path: Path, disk: Disk) -> None:
    shelf = ResultStore(LocalStore(tmp_path))
    one, others = saved(shelf, "one"), []
    disk.is_failing, disk.meanwhile = True, lambda: others.append(saved(shelf, "other"))
    refuse(shelf, one)
    refuse(shelf, *others)
    shelf.keep([saved(shelf, "other")])


def test_a_file_being_written_during_a_failed_flush_is_not_reported(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = ResultStore(LocalStore(tmp_path))
    one = saved(shelf, "one")

    assert shelf.store.id  # made before writing becomes slow

    def write(path: Path, chunks: Iterable[bytes], **more: Any) -> None:
        def slowly() -> Iterator[bytes]:
            yield from chunks
            refuse(shelf, one)  # in another thread, before the file has its final name

        write_file(path, slowly(), **more)

    disk.is_failing = True
    with monkeypatch.context() as slow:
        slow.setattr("crawler.store.local.write_file", write)
        other = saved(shelf, "other")
    refuse(shelf, other)
    shelf.keep([saved(shelf, "other")])


def test_a_second_url_of_the_same_picture_is_not_reported_either(tmp_path: Path, disk: Disk) -> None:
    shelf = ResultStore(LocalStore(tmp_path))
    first, second = saved(shelf, "same"), saved(shelf, "same", "copy")
    disk.is_failing = True
    refuse(shelf, first)
    refuse(shelf, second)
    shelf.keep([saved(shelf, "same", "copy")])
    shelf.keep([first])  # its file was written again for the other one


def test_a_file_that_may_be_lost_counts_as_missing_for_a_revalidation(tmp_path: Path, disk: Disk) -> None:
    shelf = ResultStore(LocalStore(tmp_path))
    one = saved(shelf, "one")
    assert one.record is not None and shelf.store.exists(one.record.path)
    disk.is_failing = True
    refuse(shelf, one)
    assert not shelf.store.exists(one.record.path)
    shelf.keep([saved(shelf, "one")])
    assert shelf.store.exists(one.record.path)


def test_a_record_without_a_new_file_needs_no_flush(tmp_path: Path, disk: Disk) -> None:
    shelf = ResultStore(LocalStore(tmp_path))
    one = saved(shelf, "one")
    shelf.keep([one])
    ResultStore(LocalStore(tmp_path)).keep([one])  # in its next life the server reports it as unchanged


def test_files_flushed_before_a_failed_flush_stay_reported(tmp_path: Path, disk: Disk) -> None:
    shelf = ResultStore(LocalStore(tmp_path))
    old = saved(shelf, "old")
    shelf.keep([old])
    again, new = saved(shelf, "old", "copy"), saved(shelf, "new")
    before = inode(shelf, old)
    disk.is_failing = True
    refuse(shelf, new)
    shelf.keep([again])
    assert inode(shelf, old) == before


def test_a_failed_flush_removes_no_file_of_another_process(tmp_path: Path, disk: Disk) -> None:
    one, other = ResultStore(LocalStore(tmp_path)), ResultStore(LocalStore(tmp_path))
    first, second = saved(one, "same"), saved(other, "same", "copy")
    disk.is_failing = True
    refuse(one, first)
    other.keep([second])
    assert place_of(other, second).read_bytes() == b"same"


def test_a_file_of_another_process_is_rewritten_before_it_is_reported(tmp_path: Path, disk: Disk) -> None:
    one, other = ResultStore(LocalStore(tmp_path)), ResultStore(LocalStore(tmp_path))
    first = saved(one, "same")
    before = inode(one, first)
    second = saved(other, "same", "copy")
    assert not second.stored and inode(one, first) != before
    assert inode(one, first) in disk.synced, "the replacing file must be synced first"


def test_of_two_processes_that_save_a_picture_at_once_the_second_syncs_before_it_replaces(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = ResultStore(LocalStore(tmp_path)), ResultStore(LocalStore(tmp_path))
    monkeypatch.setattr("crawler.store.local.holds", lambda *_: False)  # both check before either has written
    first = saved(one, "same")
    assert disk.synced == []
    second = saved(other, "same")
    assert first.stored and second.stored and disk.synced == [inode(one, first)]


def test_the_descriptor_of_a_flush_is_older_than_the_first_file(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check against Linux, which reports a failed write-back once to each descriptor open then, and to no later one."""
    opened: list[int] = []
    used: list[int] = []
    plain = os.open

    def spy(*values: object, **more: object) -> int:
        descriptor = plain(*values, **more)  # type: ignore[arg-type]
        opened.append(descriptor)
        return descriptor

    shelf = ResultStore(LocalStore(tmp_path))
    assert shelf.store.id
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(os, "open", spy)

    def syncfs(descriptor: int) -> int:
        used.append(descriptor)
        return 0

    monkeypatch.setattr(syncing, "_find_syncfs", lambda: syncfs)
    outcome = saved(shelf, "one")
    before = list(opened)
    shelf.keep([outcome])
    assert opened == before and used == before[:1]
    shelf.keep([saved(shelf, "two")])
    assert used == before[:1] * 2
