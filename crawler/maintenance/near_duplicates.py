"""Search for near-duplicates at the end of a crawl: mark them in the records, or keep only the best file of a group.

The search compares the perceptual hashes in the records of all stores, and opens no image file. It starts afresh each
time, so a later picture may become the best of its group, and work left undone by a kill is completed.
"""

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from crawler.download.phash_compare import leaders
from crawler.frontier.ledger.history import has_file
from crawler.frontier.offline.edit_records import RecordEdit
from crawler.maintenance.picture_files import check_file
from crawler.maintenance.stopped_crawl import stopped_crawl
from crawler.maintenance.temporary_tables import temporary_database
from crawler.model import ImageRecord
from crawler.paths import hash_in, is_picture
from crawler.stats import NearDuplicates
from crawler.store.local import LocalStore

_log = logging.getLogger(__name__)

#: Limit for the pixel column of SQLite: the width and height that a worker reports may be of any size.
_MAX_PIXELS = 2**62


class SearchStopped(Exception):
    """The search was stopped on request, and has changed nothing."""


class _Best(NamedTuple):
    """The best picture of a group."""

    url: str
    store: str
    path: str
    sha256: str


def find_near(directory: Path, *, keeps_best: bool, is_stopped: Callable[[], bool]) -> NearDuplicates:
    """Find near-duplicates in a finished crawl, and mark them in its records and its manifest.

    With ``keeps_best``, delete the file of a near-duplicate if both it and the best of its group are in the crawl's own
    directory, and the best file is proven to be intact. The record becomes a duplicate. A picture keeps its file while
    it waits in a refresh, and if another record names the file or named it before a refresh. The search may be killed
    at any time, and repeated.

    Raises:
        DiskError: a file can't be read or written, or another process is at work in the directory.
        SearchStopped: ``is_stopped`` returned true. Nothing was changed.
    """

    def check(_: int) -> None:
        if is_stopped():
            raise SearchStopped

    with stopped_crawl(directory) as crawl, crawl.records() as edit, closing(_Pictures(edit)) as pictures:
        pictures.compare(check)
        store = LocalStore(directory)
        work = _Work(pictures, store if keeps_best else None)
        if edit.change(work.revised, crawl.manifest.cut):
            crawl.manifest.rewrite(edit.records)
        pictures.drop(work.dropped)
        _remove_files(edit, pictures, store)
        edit.end()
        return _count(edit, pictures, work)


class _Pictures:
    """The pictures that are kept, each with the best of its group, in a temporary file of SQLite."""

    def __init__(self, edit: RecordEdit) -> None:
        self._db = temporary_database(
            "CREATE TABLE picture (sha256 TEXT PRIMARY KEY, number INTEGER, pixels INTEGER, bytes INTEGER, phash TEXT,"
            " url TEXT, store TEXT, path TEXT, best TEXT NOT NULL DEFAULT '') WITHOUT ROWID",
            "CREATE TABLE held (hash TEXT PRIMARY KEY) WITHOUT ROWID",
            "CREATE TABLE marked (sha256 TEXT PRIMARY KEY, near TEXT NOT NULL) WITHOUT ROWID",
        )
        for number, record in edit.all():
            if record.status == "success":
                pixels = min(record.width * record.height, _MAX_PIXELS)
                content = record.sha256, number, pixels, record.bytes, record.phash
                row = *content, record.url, record.store, record.path
                self._db.execute("INSERT OR IGNORE INTO picture VALUES (?,?,?,?,?,?,?,?,'')", row)
            elif record.status == "failed" and has_file(record):  # its site no longer delivers it, or not now
                self._hold(record.path)
        self._db.execute("CREATE INDEX path ON picture (path)")
        self._db.execute("CREATE INDEX number ON picture (number)")
        for path in edit.past():
            self._hold(path)
        for number in edit.waiting():
            for (path,) in self._db.execute("SELECT path FROM picture WHERE number = ?", (number,)).fetchall():
                self._hold(path)

    def _hold(self, path: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO held VALUES (?)", (hash_in(path),))

    def is_held(self, path: str) -> bool:
        """Return whether a record other than that of the first copy needs the file."""
        return self._has("SELECT EXISTS (SELECT 1 FROM held WHERE hash = ?)", hash_in(path))

    def is_kept(self, path: str) -> bool:
        """Return whether a picture with the bytes of that file is kept, under this or another name."""
        return self._has("SELECT EXISTS (SELECT 1 FROM picture WHERE sha256 BETWEEN ?1 AND ?1 || 'g')", hash_in(path))

    def _has(self, query: str, value: str) -> bool:
        return bool(self._db.execute(query, (value,)).fetchone()[0])

    def content_of(self, record: ImageRecord) -> str:
        """Return the SHA-256 of the file that a record names, or an empty text if no kept picture has that file."""
        if not record.is_dropped:
            return record.sha256
        query = "SELECT sha256 FROM picture WHERE path = ? AND store = ?"
        row = self._db.execute(query, (record.path, record.store)).fetchone()
        return str(row[0]) if row else ""

    def compare(self, on_progress: Callable[[int], None]) -> None:
        """Find the best picture of each group: most pixels, then most bytes, then the first."""
        ordered = "FROM picture WHERE phash != '' ORDER BY pixels DESC, bytes DESC, number"
        hashes = [bytes.fromhex(phash) for (phash,) in self._db.execute(f"SELECT phash {ordered}")]
        best_indices: array[int] = leaders(hashes, on_progress)
        del hashes
        names = [bytes.fromhex(name) for (name,) in self._db.execute(f"SELECT sha256 {ordered}")]
        self._db.executemany(
            "UPDATE picture SET best = ? WHERE sha256 = ?",
            ((names[best].hex(), names[index].hex()) for index, best in enumerate(best_indices) if index != best),
        )

    def best_of(self, sha256: str) -> _Best | None:
        """Return the best of the group of a picture, or None if it is the best itself or is not kept."""
        query = (
            "SELECT url, store, path, sha256 FROM picture WHERE sha256 = (SELECT best FROM picture WHERE sha256 = ?)"
        )
        row = self._db.execute(query, (sha256,)).fetchone()
        return _Best(*row) if row else None

    def url_of(self, sha256: str) -> str:
        """Return the URL of a picture, or an empty text if it is not kept."""
        row = self._db.execute("SELECT url FROM picture WHERE sha256 = ?", (sha256,)).fetchone()
        return str(row[0]) if row else ""

    def mark(self, marks: Iterator[tuple[str, str]]) -> tuple[int, int]:
        """Count pairs of SHA-256 and URL of the best picture. Return the number of pictures and of groups."""
        self._db.executemany("INSERT OR IGNORE INTO marked VALUES (?,?)", marks)
        pictures, groups = self._db.execute("SELECT COUNT(*), COUNT(DISTINCT near) FROM marked").fetchone()
        return int(pictures), int(groups)

    def drop(self, contents: Iterable[str]) -> None:
        """Remove pictures that are no longer kept, by SHA-256."""
        self._db.executemany("DELETE FROM picture WHERE sha256 = ?", ((sha256,) for sha256 in contents))

    def close(self) -> None:
        self._db.close()


class _Work:
    """The revision of records: which picture is near to which, and which is dropped.

    Args:
        pictures: the pictures that are kept.
        store: the store whose files are deleted unless they are the best of their group; None keeps all files.
    """

    def __init__(self, pictures: _Pictures, store: LocalStore | None) -> None:
        self._pictures, self._store = pictures, store
        self._home = store.known_id if store else None
        self._is_safe: dict[str, bool] = {}
        #: SHA-256 → bytes of the file, for dropped pictures; and the SHA-256s of pictures that can't be dropped.
        self.dropped: dict[str, int] = {}
        self.elsewhere: set[str] = set()

    def revised(self, record: ImageRecord) -> ImageRecord:
        """Return the revised record."""
        if record.status == "failed":
            return record
        content = self._pictures.content_of(record)
        if not content:  # dropped earlier for a picture that its site no longer has: that file stays
            return record
        best = self._pictures.best_of(content)
        if best is None:  # the file is the best of its group, or alone; a dropped picture is near to it
            return structs.replace(record, near=self._pictures.url_of(content) if record.is_dropped else "")
        if self._store is None or not self._may_drop(record, best, content):
            return structs.replace(record, near=best.url)
        if record.status == "success":
            self.dropped[content] = record.bytes
        return structs.replace(record, status="duplicate", store=best.store, path=best.path, near=best.url)

    def _may_drop(self, record: ImageRecord, best: _Best, content: str) -> bool:
        """Return whether a record's file may be dropped, which is final.

        Both files must be here, the best one must be intact, and no other record may need the dropped one.
        """
        assert self._store is not None  # noqa: S101  # called only if files are deleted
        if best.path not in self._is_safe:
            self._is_safe[best.path] = (
                best.store == self._home and check_file(self._store, best.path, best.sha256) == "whole"
            )
        if not record.is_dropped and self._pictures.is_held(record.path):
            return False
        is_sound = record.is_dropped or is_picture(record.path, record.sha256)
        if is_sound and record.store == self._home and self._is_safe[best.path]:
            return True
        self.elsewhere.add(content)
        return False


def _remove_files(edit: RecordEdit, pictures: _Pictures, store: LocalStore) -> None:
    """Delete dropped files, also those of an earlier search that was killed, unless they are in use again."""
    for path in sorted(edit.left):
        if pictures.is_held(path) or pictures.is_kept(path):
            continue
        _log.info("action=drop path=%s", path)
        store.remove(path)
    edit.forget_left()


def _count(edit: RecordEdit, pictures: _Pictures, work: _Work) -> NearDuplicates:
    number, groups = pictures.mark((record.sha256, record.near) for _, record in edit.all() if record.near)
    return NearDuplicates(
        pictures=number,
        groups=groups,
        dropped=len(work.dropped),
        freed=sum(work.dropped.values()),
        elsewhere=len(work.elsewhere),
    )
