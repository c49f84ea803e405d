"""Verify a crawl (`crawler verify`): its records agree, and every picture that they name has its file.

A crawl's records name the store that has each picture. Pictures in a store that is not given count as *elsewhere*, not
as missing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path

from msgspec import Struct

from crawler.frontier.ledger.fsck import OnFault
from crawler.harvest.extensions import IMAGE_EXTENSIONS, extension
from crawler.maintenance.consistency import ConsistencyReport, Inconsistencies, Inconsistency, opened, walk
from crawler.maintenance.picture_files import (
    ElsewhereCount,
    best_copy,
    is_named_by_content,
    require_stores,
    stores_by_id,
)
from crawler.maintenance.temporary_tables import DroppedPictures, FileSet
from crawler.model import ImageRecord
from crawler.paths import hash_in
from crawler.stats import StoreStats
from crawler.store.bucket import FsspecStore, Store
from crawler.store.files import is_file, need_pictures
from crawler.store.local import LocalStore
from crawler.store.manifest import read_manifest

#: Number of records that are handled at a time.
_PAGE = 1_000
#: Most paths that a report lists as examples.
_MAX_LISTED = 20

#: Receives progress from time to time: the kind of items, and the number of items checked so far.
OnProgress = Callable[[str, int], None]
#: Receives each finding: the fault or the kind of file, and its place.
OnFinding = Callable[[str, str], None]
#: Receives each missing or damaged file: the id of its store, its path, its SHA-256 (empty: given by its name).
_OnLost = Callable[[str, str, str], None]


class VerifyReport(Struct, frozen=True, kw_only=True):
    """The state of the pictures that the records name, each counted once, and the faults of the records."""

    whole: int = 0
    missing: int = 0
    damaged: int = 0
    #: Stores that were not given, with the number of pictures in them.
    elsewhere: tuple[StoreStats, ...] = ()
    #: Number of further copies of pictures whose first copy is in another store.
    spare: int = 0
    #: Files in the given stores that are named like pictures, but that no record of this crawl or of the store names.
    foreign: int = 0
    #: Other files of the user beside the pictures, such as the ``metadata.jsonl`` of a data set.
    other: int = 0
    #: Intact pictures that records named until a refresh found another picture, or none, at their URLs.
    past: int = 0
    #: Intact pictures that no record names yet, in a crawl that is not finished.
    early: int = 0
    #: The first few missing, damaged and foreign files.
    examples: tuple[str, ...] = ()
    #: The state of the crawl according to its database; None for a store, which has no database.
    balance: ConsistencyReport | None = None
    #: Faults in the database, in the files written from it, and in the directories.
    faults: tuple[Inconsistency, ...] = ()

    @property
    def is_good(self) -> bool:
        return not (self.missing or self.damaged or self.foreign or self.faults)


def verify(
    directory: Path,
    stores: Iterable[Path | str] = (),
    *,
    on_progress: OnProgress | None = None,
    on_lost: _OnLost | None = None,
    on_finding: OnFinding | None = None,
) -> VerifyReport:
    """Check the database of a crawl, and hash every picture that its records place in it or in one of ``stores``.

    Raises:
        ConfigError: the directory has neither a database nor a manifest.
        DiskError: a file can't be read, although it is neither missing nor damaged.
    """
    require_stores(stores := tuple(stores))
    for place in (directory, *stores):
        if isinstance(place, Path):
            need_pictures(place)
    report_progress = on_progress or _ignore_call
    report_finding, faults = on_finding or _ignore_call, Inconsistencies()

    def report(rule: str, example: str) -> None:
        faults.tell(rule, example)
        report_finding(rule, example)

    with ExitStack() as stack:
        balance, records, past = stack.enter_context(
            opened(directory, report, lambda number: report_progress("requests", number))
        )
        places = stores_by_id([directory, *stores])
        search = stack.enter_context(closing(_Search(places, report_progress, on_lost, report_finding)))
        search.hash_all(records)
        search.add_past(past)
        search.count_others(report, balance)
    return search.result(balance, faults.all())


class _Search:
    """A search for recorded and other files in the given stores."""

    def __init__(
        self,
        places: dict[str, list[Store]],
        on_progress: OnProgress,
        on_lost: _OnLost | None,
        on_finding: OnFinding,
    ) -> None:
        self._places, self._on_finding = places, on_finding
        self._on_progress, self._on_lost = on_progress, on_lost or _ignore
        self._counts: Counter[str] = Counter()
        self._elsewhere = ElsewhereCount()
        self._recorded, self._past, self._dropped = FileSet(), FileSet(), DroppedPictures()
        self._examples: list[str] = []

    def hash_all(self, records: Iterable[ImageRecord]) -> None:
        """Hash every picture that is recorded as saved, also one that its site no longer has.

        The files that stand for dropped near-duplicates come last, as such a file may be older than a refresh, so that
        no other record names it.
        """
        first = (record for record in self._without_copies(records) if record.path)
        pictures = chain(((record, record.sha256) for record in first), ((record, "") for record in self._dropped))
        for seen, (record, sha256) in enumerate(pictures):
            if not self._recorded.add(_file_key(record)):
                continue
            if record.store not in self._places:
                self._elsewhere.add(record)
                continue
            state, store = best_copy(self._places[record.store], record.path, sha256)
            self._count(state, store.name(record.path))
            if state != "whole":
                self._on_lost(record.store, record.path, sha256)
            if seen % _PAGE == 0:
                self._on_progress("pictures", seen)

    def _without_copies(self, records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        """Yield records of first copies. Note quarantined files as past: after a kill, one may not be moved yet."""
        for record in records:
            if record.path.startswith("quarantine/"):
                self._past.add(_file_key(record))
            elif record.status != "duplicate":
                yield record
            elif record.is_dropped:
                self._dropped.add(record)

    def add_past(self, paths: Iterable[str]) -> None:
        """Add paths that earlier records named."""
        for path in paths:
            self._past.add(hash_in(path) or path)

    def count_others(self, report: OnFault, balance: ConsistencyReport | None) -> None:
        """Count files that no record names. In an unfinished crawl, a file may exist before its record."""
        is_finished = balance is not None and balance.is_finished
        may_be_early = balance is not None and not is_finished
        for store_id, store in ((store_id, copy) for store_id, copies in self._places.items() for copy in copies):
            others = _OwnManifest(store)
            for path in _paths(store, report, is_finished=is_finished):
                file_key = hash_in(path) or path
                if file_key in self._recorded:
                    self._counts["files"] += 1
                elif file_key in self._past:
                    is_whole = is_named_by_content(store, path)
                    self._count("past" if is_whole else "damaged", store.name(path))
                    if not is_whole:
                        self._on_lost(store_id, path, "")
                    self._counts["files"] += not is_whole
                elif _is_users_own(store, path):
                    self._count("other", store.name(path))
                elif file_key not in others:
                    is_early = may_be_early and is_named_by_content(store, path)
                    self._count("early" if is_early else "foreign", store.name(path))
            others.close()

    def result(self, balance: ConsistencyReport | None, faults: tuple[Inconsistency, ...]) -> VerifyReport:
        """Return the report."""
        counts = self._counts
        return VerifyReport(
            whole=counts["whole"],
            missing=counts["missing"],
            damaged=counts["damaged"],
            elsewhere=self._elsewhere.stores(),
            # Files may change while they are counted, or be in a folder that is a link, which `walk` does not enter.
            spare=max(0, counts["files"] - counts["whole"] - counts["damaged"]),
            foreign=counts["foreign"],
            other=counts["other"],
            past=counts["past"],
            early=counts["early"],
            examples=tuple(self._examples),
            balance=balance,
            faults=faults,
        )

    def close(self) -> None:
        self._recorded.close()
        self._past.close()
        self._dropped.close()

    def _count(self, state: str, where: str) -> None:
        self._counts[state] += 1
        if state not in ("whole", "past", "early"):
            self._on_finding(state, where)
            if state != "other" and len(self._examples) < _MAX_LISTED:
                self._examples.append(f"{state}: {where}")


def _paths(store: Store, report: OnFault, *, is_finished: bool) -> Iterator[str]:
    """Yield the paths of all files in a store, relative to it."""
    if isinstance(store, FsspecStore):
        yield from store.keys()
        return
    for path in walk(store.root, report, is_finished=is_finished):
        yield path.relative_to(store.root).as_posix()


class _OwnManifest:
    """The pictures in a store's own manifest, possibly of another crawl; the manifest is read on first use."""

    def __init__(self, store: Store) -> None:
        self._manifest = store.root / "manifest.jsonl" if isinstance(store, LocalStore) else None
        self._files: FileSet | None = None

    def __contains__(self, key: str) -> bool:
        if self._files is None:
            self._files = FileSet()
            for row in read_manifest(self._manifest) if self._manifest and self._manifest.exists() else ():
                self._files.add(_file_key(row))
        return key in self._files

    def close(self) -> None:
        if self._files is not None:
            self._files.close()


def _file_key(record: ImageRecord) -> str:
    """Return the key of a picture's files, under any name: the hash in the name, or else the path."""
    return hash_in(record.path) or record.path


def _is_users_own(store: Store, key: str) -> bool:
    """Return whether this is a regular file that is not named like a picture."""
    is_named_like_picture = hash_in(key) != "" or extension(key) in IMAGE_EXTENSIONS
    return not is_named_like_picture and (not isinstance(store, LocalStore) or is_file(store.root / key))


def _ignore(store: str, path: str, sha256: str) -> None:
    pass


def _ignore_call(kind: str, detail: object) -> None:
    pass
