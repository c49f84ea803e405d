"""Pictures that look nearly the same, found when a crawl is over: told in the records, or left with one file.

All stores together are looked at, as the records have it: no file is opened for that. Found anew each time, so that
a picture that came later may be the best of its group, and what a kill has left undone is done.
"""

import logging
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct, structs

from crawler.audit import look
from crawler.download.likeness import leaders
from crawler.frontier.history import has_file
from crawler.frontier.revise import Revision, revising
from crawler.frontier.soundness import telling_damage
from crawler.lock import own
from crawler.manifest import ManifestWriter
from crawler.model import FrontierStats, ImageRecord
from crawler.paths import hash_in, is_picture
from crawler.storage import LocalStore

_log = logging.getLogger(__name__)

#: A column holds no more; what a worker says of a picture may be anything.
_MAX_PIXELS = 2**62


class Near(Struct, frozen=True, kw_only=True):
    """What was found."""

    #: Pictures that are not the best of their group, and the groups.
    pictures: int = 0
    groups: int = 0
    #: Successes that became duplicates just now, and the bytes of their files.
    dropped: int = 0
    freed: int = 0
    #: Pictures that are to be dropped, but lie in another store, or the best of theirs does.
    elsewhere: int = 0

    def corrected(self, stats: FrontierStats) -> FrontierStats:
        """The counts of the crawl as they were before, with what was dropped."""
        return structs.replace(
            stats,
            success=stats.success - self.dropped,
            duplicate=stats.duplicate + self.dropped,
            bytes=stats.bytes - self.freed,
        )


class Stopped(Exception):
    """Told to stop; nothing was changed."""


class _Best(NamedTuple):
    """The picture that stands for others."""

    url: str
    store: str
    path: str
    sha256: str


def find_near(directory: Path, *, keeps_best: bool, is_stopped: Callable[[], bool]) -> Near:
    """Find what looks nearly the same in a crawl that is over, and have its records and its manifest say so.

    With ``keeps_best`` a file goes whose best is proven to lie, whole, in the crawl's own directory too; its record
    becomes a duplicate. Pictures that are to be asked for again, in a refresh, keep theirs until then, and so do those
    that another record names, or has named before a refresh. May be killed at any instant, and repeated.

    Raises:
        DiskError: the disk refuses, or somebody is at work in the directory.
        Stopped: ``is_stopped`` said so; nothing was changed.
    """

    def check(_: int) -> None:
        if is_stopped():
            raise Stopped

    path, release = directory / "frontier.sqlite", own(directory)
    try:
        with ExitStack() as stack:
            stack.enter_context(telling_damage(path, is_opening=True))  # whatever makes no sense comes from there
            revision = stack.enter_context(revising(path))
            pictures = stack.enter_context(closing(_Pictures(revision)))
            pictures.compare(check)
            store = LocalStore(directory)
            work = _Work(pictures, store if keeps_best else None)
            manifest = ManifestWriter(directory)
            if revision.change(work.revised, manifest.cut):
                manifest.rewrite(revision.records)
                manifest.close()
            pictures.drop(work.dropped)
            _remove_files(revision, pictures, store)
            revision.end()
            return _count(revision, pictures, work)
    finally:
        release()


class _Pictures:
    """The pictures that are kept, in a temporary file of SQLite's; what each of them is near to."""

    def __init__(self, revision: Revision) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute(
            "CREATE TABLE picture (sha256 TEXT PRIMARY KEY, number INTEGER, pixels INTEGER, bytes INTEGER, phash TEXT,"
            " url TEXT, store TEXT, path TEXT, best TEXT NOT NULL DEFAULT '') WITHOUT ROWID"
        )
        self._db.execute("CREATE TABLE held (mark TEXT PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("CREATE TABLE marked (sha256 TEXT PRIMARY KEY, near TEXT NOT NULL) WITHOUT ROWID")
        self._db.execute("BEGIN")  # it is never committed: nobody else is to read it
        for number, one in revision.all():
            if one.status == "success":
                pixels = min(one.width * one.height, _MAX_PIXELS)
                row = (one.sha256, number, pixels, one.bytes, one.phash, one.url, one.store, one.path)
                self._db.execute("INSERT OR IGNORE INTO picture VALUES (?,?,?,?,?,?,?,?,'')", row)
            elif one.status == "failed" and has_file(one):  # its site has it no more, or not for now
                self._hold(one.path)
        self._db.execute("CREATE INDEX place ON picture (path)")
        self._db.execute("CREATE INDEX number ON picture (number)")
        for path in revision.past():
            self._hold(path)
        for number in revision.waiting():
            for (path,) in self._db.execute("SELECT path FROM picture WHERE number = ?", (number,)).fetchall():
                self._hold(path)

    def _hold(self, path: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO held VALUES (?)", (hash_in(path),))

    def is_held(self, path: str) -> bool:
        """Whether the file is somebody's besides that of the first copy of its bytes."""
        return self._has("SELECT EXISTS (SELECT 1 FROM held WHERE mark = ?)", hash_in(path))

    def is_kept(self, path: str) -> bool:
        """Whether a picture with the bytes of that file is kept, be it under another name."""
        return self._has("SELECT EXISTS (SELECT 1 FROM picture WHERE sha256 BETWEEN ?1 AND ?1 || 'g')", hash_in(path))

    def _has(self, query: str, value: str) -> bool:
        return bool(self._db.execute(query, (value,)).fetchone()[0])

    def content_of(self, record: ImageRecord) -> str:
        """The content of the file that a record names, be it that of its best; empty where no kept picture has it."""
        if not record.is_dropped:
            return record.sha256
        query = "SELECT sha256 FROM picture WHERE path = ? AND store = ?"
        found = self._db.execute(query, (record.path, record.store)).fetchone()
        return str(found[0]) if found else ""

    def compare(self, on_progress: Callable[[int], None]) -> None:
        """Find the best of each: most pixels, then most bytes, then first."""
        ordered = "FROM picture WHERE phash != '' ORDER BY pixels DESC, bytes DESC, number"
        hashes = [bytes.fromhex(phash) for (phash,) in self._db.execute(f"SELECT phash {ordered}")]
        stands: array[int] = leaders(hashes, on_progress)
        del hashes
        names = [bytes.fromhex(name) for (name,) in self._db.execute(f"SELECT sha256 {ordered}")]
        self._db.executemany(
            "UPDATE picture SET best = ? WHERE sha256 = ?",
            ((names[best].hex(), names[place].hex()) for place, best in enumerate(stands) if place != best),
        )

    def best_of(self, sha256: str) -> _Best | None:
        """The best of the group of a kept picture; None where it is that itself, is alone, or is not kept."""
        query = (
            "SELECT url, store, path, sha256 FROM picture WHERE sha256 = (SELECT best FROM picture WHERE sha256 = ?)"
        )
        found = self._db.execute(query, (sha256,)).fetchone()
        return _Best(*found) if found else None

    def url_of(self, sha256: str) -> str:
        """The URL of a kept picture; empty where it is not kept."""
        found = self._db.execute("SELECT url FROM picture WHERE sha256 = ?", (sha256,)).fetchone()
        return str(found[0]) if found else ""

    def mark(self, marks: Iterator[tuple[str, str]]) -> tuple[int, int]:
        """Contents and what each is near to → number of contents and of groups."""
        self._db.executemany("INSERT OR IGNORE INTO marked VALUES (?,?)", marks)
        found = self._db.execute("SELECT COUNT(*), COUNT(DISTINCT near) FROM marked").fetchone()
        return int(found[0]), int(found[1])

    def drop(self, contents: Iterable[str]) -> None:
        """They are kept no more."""
        self._db.executemany("DELETE FROM picture WHERE sha256 = ?", ((sha256,) for sha256 in contents))

    def close(self) -> None:
        self._db.close()


class _Work:
    """What becomes of each record.

    Args:
        pictures: those that are kept.
        store: the store whose files go where they are not the best; None: all are kept.
    """

    def __init__(self, pictures: _Pictures, store: LocalStore | None) -> None:
        self._pictures, self._store = pictures, store
        self._home = store.known_id if store else None
        self._is_safe: dict[str, bool] = {}
        #: Content → bytes of its file, for those that are dropped; and contents that can't be.
        self.dropped: dict[str, int] = {}
        self.elsewhere: set[str] = set()

    def revised(self, record: ImageRecord) -> ImageRecord:
        """The record as it is to be."""
        if record.status == "failed":
            return record
        content = self._pictures.content_of(record)
        if not content:  # dropped for one that its site has no more: the file stays
            return record
        best = self._pictures.best_of(content)
        if best is None:  # what its path names is the best, or alone; what was dropped once is near to that
            return structs.replace(record, near=self._pictures.url_of(content) if record.is_dropped else "")
        if self._store is None or not self._may_drop(record, best, content):
            return structs.replace(record, near=best.url)
        if record.status == "success":
            self.dropped[content] = record.bytes
        return structs.replace(record, status="duplicate", store=best.store, path=best.path, near=best.url)

    def _may_drop(self, record: ImageRecord, best: _Best, content: str) -> bool:
        """Whether the best lies here, whole, as what is dropped can't be had back; and nobody else has its file."""
        assert self._store is not None  # noqa: S101  # asked for only where files go
        if best.path not in self._is_safe:
            self._is_safe[best.path] = best.store == self._home and look(self._store, best.path, best.sha256) == "whole"
        if not record.is_dropped and self._pictures.is_held(record.path):
            return False
        is_sound = record.is_dropped or is_picture(record.path, record.sha256)
        if is_sound and record.store == self._home and self._is_safe[best.path]:
            return True
        self.elsewhere.add(content)
        return False


def _remove_files(revision: Revision, pictures: _Pictures, store: LocalStore) -> None:
    """Remove what was dropped, now or by one that was killed; but nothing that was found once more since then."""
    for path in sorted(revision.left):
        if pictures.is_held(path) or pictures.is_kept(path):
            continue
        _log.info("action=drop path=%s", path)
        store.remove(path)
    revision.forget_left()


def _count(revision: Revision, pictures: _Pictures, work: _Work) -> Near:
    number, groups = pictures.mark((record.sha256, record.near) for _, record in revision.all() if record.near)
    return Near(
        pictures=number,
        groups=groups,
        dropped=len(work.dropped),
        freed=sum(work.dropped.values()),
        elsewhere=len(work.elsewhere),
    )
