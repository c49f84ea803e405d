"""A worker's store and the store's own records: what stands between a picture that was saved and one that is told of.

A downloader that saves into a directory of its own keeps ``manifest.jsonl`` and ``results.txt`` there: a row for each
image URL that its workers settled, as the frontier has decided it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import structs

from crawler.cloud import FsspecStore, Store
from crawler.errors import DiskError, DiskTrouble
from crawler.known import PIN_MISMATCH, quarantined
from crawler.lock import try_to_own
from crawler.manifest import ManifestWriter, read_manifest
from crawler.model import ImageRecord, Outcome, Verdict, decided
from crawler.notes import Left, Notes
from crawler.storage import disk_faults

#: Seconds for which another process may be at the store's records.
_PATIENCE = 30.0


class Shelf:
    """A store whose records the master keeps: the crawl's own directory. Every method raises `DiskError`.

    Args:
        store: where the pictures are.
        notes: of what is done and not answered; None where a kill ends the frontier, too.
    """

    def __init__(self, store: Store, notes: Notes | None = None) -> None:
        self.store = store
        self._notes = notes

    def note(self, outcome: Outcome) -> None:
        """An outcome is going to be told; a killed worker's next life tells it, if this one can't."""
        if self._notes is not None and outcome.record is not None:
            self._notes.add(outcome)

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        """Return when what these outcomes tell of would survive."""
        if any(outcome.record is not None and outcome.record.path for outcome in outcomes):
            self.store.restore()
            self.store.flush()

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], *, worker: str = "") -> None:
        """The frontier has decided about what ``worker`` (empty: ours) has told; copies that are one too many go."""
        for outcome, verdict in zip(outcomes, verdicts, strict=True):
            record = outcome.record
            if record is None or not record.path:
                continue
            if verdict.reason == PIN_MISMATCH:
                self._set_aside(record.path, is_spare=verdict.is_spare and outcome.stored)
            elif self._is_spare(outcome, record, verdict):
                self.store.remove(record.path)
        if self._notes is not None and not worker:
            with suppress(DiskTrouble):  # what stays noted is told once more by a later life, which changes nothing
                self._notes.settle(sum(outcome.record is not None for outcome in outcomes))

    def left(self) -> Iterator[Left]:
        """What dead workers have left untold, as far as it is whole; flushed, told, settled, it is to be forgotten."""
        for left in self._notes.left() if self._notes is not None else ():
            whole = self._unrecorded([outcome for outcome in left.outcomes if self._is_whole(outcome)])
            if whole:
                self.store.flush()
                yield left._replace(outcomes=whole)
            else:
                left.forget()

    def _set_aside(self, path: str, *, is_spare: bool) -> None:
        """Put a file in quarantine; where another record names it, it stays in its place, too."""
        try:
            with self.store.open(path) as file:
                data = file.read()
        except FileNotFoundError:  # another worker of this directory has done so
            return
        self.store.put(quarantined(path), data)
        if is_spare:
            self.store.flush()
            self.store.remove(path)

    def close(self) -> None:
        """Let go of the notes."""
        if self._notes is not None:
            self._notes.close()

    def _is_spare(self, outcome: Outcome, record: ImageRecord, verdict: Verdict) -> bool:
        """Whether a copy is ours and one too many; where the first one is to be in this store, whether it is, too."""
        if not (verdict.is_spare and outcome.stored):
            return False
        return verdict.store != record.store or self.store.are_two(record.path, verdict.path)

    def _unrecorded(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Those that have no row yet; the master knows better than we which ones have."""
        return outcomes

    def _is_whole(self, outcome: Outcome) -> bool:
        """Whether the file that it tells of is there; it is put again, so that the next flush is about it."""
        record = outcome.record
        if record is None or not record.path:
            return record is not None
        try:
            with self.store.open(record.path) as file:
                data = file.read()
        except (FileNotFoundError, ValueError):
            return False
        if hashlib.sha256(data).hexdigest() != record.sha256:
            return False
        self.store.put(record.path, data)
        return True


class OwnShelf(Shelf):
    """A store with records of its own, which any of the processes that share the directory may add to.

    Args:
        store: where the pictures are; its directory has the records.
        worker: name of the worker; in rows.
        slot: number of the worker among those that share the directory.
        crawl: what tells its crawl from others: they may use the directory one after the other, not at a time.
        directory: where the records are; None: where the pictures are.

    Raises:
        DiskError: a downloader of another crawl is at work in it, or the disk refuses.
    """

    def __init__(self, store: Store, worker: str, slot: int, crawl: str, directory: Path | None = None) -> None:
        self._directory = directory or _directory_of(store)
        super().__init__(store, Notes(self._directory, worker, slot))
        self._worker = worker
        self._manifest = ManifestWriter(self._directory)
        #: What has its rows already, though its files were not put right: it is settled once more.
        self._added: Sequence[Outcome] = ()
        with _records(self._directory):
            _claim(self._directory, crawl, slot)
            self._manifest.mend()

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], *, worker: str = "") -> None:
        rows = [
            decided(outcome.record, verdict, worker or self._worker)
            for outcome, verdict in zip(outcomes, verdicts, strict=True)
            if outcome.record is not None and verdict.status is not None
        ]
        if outcomes is not self._added:
            self._add(rows)
        self._added = outcomes
        super().settle(outcomes, verdicts, worker=worker)
        self._added = ()

    def _add(self, rows: list[ImageRecord]) -> None:
        if rows:
            with _records(self._directory):
                if self._manifest.is_torn:  # another process was killed meanwhile
                    self._manifest.mend()
                self._manifest.append(list(enumerate(rows, self._manifest.last + 1)))
                self._manifest.close()  # whoever mends the files may replace them

    def _unrecorded(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Those without a row; the file of another's row is not to be taken for a copy too many, whoever wrote it."""
        rows = list(self._rows(outcomes))
        known = {_key(row) for row in rows}
        needed = {row.path for row in rows if row.status == "success"}
        return [
            structs.replace(outcome, stored=outcome.stored and outcome.record.path not in needed)
            for outcome in outcomes
            if outcome.record is not None and _key(outcome.record) not in known
        ]

    def _rows(self, outcomes: Sequence[Outcome]) -> Iterator[ImageRecord]:
        """The rows about the same URLs, or the same files."""
        urls = {outcome.record.url for outcome in outcomes if outcome.record}
        paths = {outcome.record.path for outcome in outcomes if outcome.record and outcome.record.path}
        if urls and self._manifest.manifest.exists():
            yield from (row for row in read_manifest(self._manifest.manifest) if row.url in urls or row.path in paths)


def claim(directory: Path, crawl: str) -> None:
    """A downloader of this crawl is about to work in a directory; call it before it takes its number there.

    So whoever has a number is of the crawl that has the directory, or finds out that it is not.

    Raises:
        DiskError: a downloader of another crawl is at work in it, or the disk refuses.
    """
    if not _is_a_crawls(directory):
        with _records(directory):
            _claim(directory, crawl, None)


def shelf_for(store: Store, worker: str, slot: int, crawl: str, directory: Path | None = None) -> Shelf:
    """The shelf of a worker: with records of its own, unless the directory is a crawl's, whose master keeps them.

    Args:
        store: where the pictures are; one that is no directory belongs to one crawl.
        worker: name of the worker.
        slot: number of the worker among those that share the directory.
        crawl: what tells its crawl from others.
        directory: for records and notes; None: the store's own.
    """
    place = directory or _directory_of(store)
    if isinstance(store, FsspecStore):
        store.claim(crawl)
    if _is_a_crawls(place):
        return Shelf(store, Notes(place, worker, slot))
    return OwnShelf(store, worker, slot, crawl, place)


def _claim(directory: Path, crawl: str, slot: int | None) -> None:
    """One crawl at a time: what the one takes for a copy too many may be all that the other has."""
    mark = directory / ".crawl"
    with disk_faults(mark):
        if mark.exists() and mark.read_text(encoding="ascii", errors="replace") == crawl:
            return
        for path in directory.glob(".lock-*"):
            if path.name.removeprefix(".lock-").isdigit() and path.name != f".lock-{slot}":
                release = try_to_own(directory, name=path.name)
                if release is None:
                    raise DiskError(f"a downloader of another crawl is at work in {directory}; choose another -o")
                release()
        mark.write_text(crawl, encoding="ascii")


@contextmanager
def _records(directory: Path) -> Iterator[None]:
    """A store's records, for this process alone."""
    with disk_faults(directory):
        directory.mkdir(parents=True, exist_ok=True)
    release = try_to_own(directory, name=".lock-manifest", patience=_PATIENCE)
    if release is None:
        raise DiskError(f"another process has not let go of the records in {directory}; is it stopped?")
    try:
        yield
    finally:
        release()


def _is_a_crawls(directory: Path) -> bool:
    """Whether it is a crawl's own directory, whose master keeps the records."""
    return (directory / "frontier.sqlite").exists()


def _directory_of(store: Store) -> Path:
    if isinstance(store, FsspecStore):
        raise ValueError(f"{store.url} has no room for records")
    return store.root


def _key(record: ImageRecord) -> tuple[str, float]:
    return record.url, record.fetched_at
