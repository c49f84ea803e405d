"""A worker's image store with its manifest and its outbox of unacknowledged outcomes.

A downloader that saves into its own directory keeps ``manifest.jsonl`` and ``results.txt`` there, with a row for each
image URL that its workers reported, as the frontier decided it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import structs

from crawler.errors import DiskError, DiskTrouble
from crawler.model import PIN_MISMATCH, ImageRecord, Outcome, Verdict, decided, quarantined
from crawler.store.bucket import FsspecStore, Store
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.disk import disk_faults
from crawler.store.lock import try_to_own
from crawler.store.manifest import ManifestWriter, read_manifest
from crawler.store.outbox import Outbox, OutboxContents

#: Seconds for which another process may hold the lock on the store's records.
_PATIENCE = 30.0


class ResultStore:
    """A store in the crawl's own directory, whose records the master writes. Every method raises `DiskError`.

    Args:
        store: the store of the images.
        outbox: the outbox; None if a kill ends the frontier, too.
    """

    def __init__(self, store: Store, outbox: Outbox | None = None) -> None:
        self.store = store
        self._outbox = outbox

    def note(self, outcome: Outcome) -> None:
        """Add an outcome to the outbox before it is reported, so that the next run reports it if this one is killed."""
        if self._outbox is not None and outcome.record is not None:
            self._outbox.add(outcome)

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        """Return when the files of these outcomes survive a power cut."""
        paths = _paths(outcomes)
        if paths:
            self.store.restore()
            self.store.flush(paths)

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], *, worker: str = "") -> None:
        """Apply the frontier's verdicts on outcomes of ``worker`` (empty: this one), and remove surplus copies."""
        for outcome, verdict in zip(outcomes, verdicts, strict=True):
            record = outcome.record
            if record is None or not record.path:
                continue
            if verdict.reason == PIN_MISMATCH:
                self._set_aside(record.path, is_spare=verdict.is_spare and outcome.stored)
            elif self._is_spare(outcome, record, verdict):
                self.store.remove(record.path)
        if self._outbox is not None and not worker:
            with suppress(DiskTrouble):  # outcomes that stay are reported again by a later run, which changes nothing
                self._outbox.acknowledge(outcome.token for outcome in outcomes)

    def unacknowledged(self) -> Iterator[OutboxContents]:
        """Yield the unacknowledged outcomes of dead workers whose files are intact, after a flush.

        The caller reports them, calls `settle` and then ``forget``.
        """
        for contents in self._outbox.unacknowledged() if self._outbox is not None else ():
            intact = self._unrecorded([outcome for outcome in contents.outcomes if self._is_intact(outcome)])
            if intact:
                self.store.flush(_paths(intact))
                yield contents._replace(outcomes=intact)
            else:
                contents.forget()

    def _set_aside(self, path: str, *, is_spare: bool) -> None:
        """Copy a file to quarantine; remove it if no other record names it (``is_spare``)."""
        try:
            with self.store.open(path) as file:
                data = file.read()
        except FileNotFoundError:  # another worker of this directory has moved it
            return
        quarantine_path = quarantined(path)
        self.store.put(quarantine_path, data)
        if is_spare:
            self.store.flush([quarantine_path])
            self.store.remove(path)

    def close(self) -> None:
        """Close the outbox."""
        if self._outbox is not None:
            self._outbox.close()

    def _is_spare(self, outcome: Outcome, record: ImageRecord, verdict: Verdict) -> bool:
        """Return whether this worker saved a surplus copy; if the first copy is in this store, it must exist there."""
        if not (verdict.is_spare and outcome.stored):
            return False
        return verdict.store != record.store or self.store.are_two(record.path, verdict.path)

    def _unrecorded(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Return the outcomes that have no row yet: here all of them, because the master has the rows."""
        return outcomes

    def _is_intact(self, outcome: Outcome) -> bool:
        """Return whether the file of an outcome is intact. Put it again, so that the next flush covers it."""
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


class OwnResultStore(ResultStore):
    """A store with its own record files, to which all processes that share the directory may add rows.

    Args:
        store: the store of the images.
        worker: name of the worker, for the rows.
        slot: number of the worker among those that share the directory.
        crawl: identifier of the crawl; several crawls may use the directory one after the other, but not at once.
        directory: the directory of the records, usually that of the images.

    Raises:
        DiskError: a downloader of another crawl is at work in it, or the disk refuses.
    """

    def __init__(self, store: Store, worker: str, slot: int, crawl: str, directory: Path) -> None:
        super().__init__(store, Outbox(directory, worker, slot))
        self._directory, self._worker = directory, worker
        self._manifest = ManifestWriter(directory)
        #: Outcomes whose rows are written, but whose verdicts are not applied to the files yet: `settle` runs again.
        self._added: Sequence[Outcome] = ()
        with _records(directory):
            _claim(directory, crawl, slot)
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
                self._manifest.close()  # another process that repairs the files may replace them

    def _unrecorded(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Return the outcomes without a row. A file that any worker's row needs never counts as a surplus copy."""
        urls, paths = {outcome.record.url for outcome in outcomes if outcome.record}, set(_paths(outcomes))
        written = read_manifest(self._manifest.manifest) if urls and self._manifest.manifest.exists() else ()
        rows = [row for row in written if row.url in urls or row.path in paths]
        recorded = {_key(row) for row in rows}
        needed = {row.path for row in rows if row.status == "success"}
        return [
            structs.replace(outcome, stored=outcome.stored and outcome.record.path not in needed)
            for outcome in outcomes
            if outcome.record is not None and _key(outcome.record) not in recorded
        ]


def claim(directory: Path, crawl: str) -> None:
    """Claim a directory for the downloaders of this crawl; a downloader calls it before it takes its slot there.

    So a downloader with a slot belongs to the crawl that owns the directory, or learns here that it does not.

    Raises:
        DiskError: a downloader of another crawl is at work in it, or the disk refuses.
    """
    if not _is_crawl_directory(directory):
        with _records(directory):
            _claim(directory, crawl, None)


def result_store_for(store: Store, worker: str, slot: int, crawl: str, directory: Path) -> ResultStore:
    """Return the result store of a worker. It has its own records, unless the master writes them in this directory.

    Args:
        store: the store of the images; one at a URL belongs to one crawl.
        worker: name of the worker.
        slot: number of the worker among those that share the directory.
        crawl: identifier of the crawl.
        directory: for records and outbox, usually that of the images.
    """
    if isinstance(store, FsspecStore):
        store.claim(crawl)
    if _is_crawl_directory(directory):
        return ResultStore(store, Outbox(directory, worker, slot))
    return OwnResultStore(store, worker, slot, crawl, directory)


def _claim(directory: Path, crawl: str, slot: int | None) -> None:
    """Allow one crawl at a time: one crawl's surplus copy may be another crawl's only one."""
    owner = directory / ".crawl"
    with disk_faults(owner):
        if owner.exists() and owner.read_text(encoding="ascii", errors="replace") == crawl:
            return
        for path in directory.glob(".lock-*"):
            if path.name.removeprefix(".lock-").isdigit() and path.name != f".lock-{slot}":
                release = try_to_own(directory, name=path.name)
                if release is None:
                    raise DiskError(f"a downloader of another crawl is running in {directory}; choose another -o")
                release()
        owner.write_text(crawl, encoding="ascii")


@contextmanager
def _records(directory: Path) -> Iterator[None]:
    """Lock a store's records for this process."""
    with disk_faults(directory):
        directory.mkdir(parents=True, exist_ok=True)
    release = try_to_own(directory, name=".lock-manifest", patience=_PATIENCE)
    if release is None:
        advice = "look for a crawler process that is suspended, and resume or end it"
        raise DiskError(f"another process still locks the records in {directory} after {_PATIENCE:.0f} s: {advice}")
    try:
        yield
    finally:
        release()


def _is_crawl_directory(directory: Path) -> bool:
    """Return whether this is a crawl's own directory, in which the master writes the records."""
    return CrawlDirectory(directory).exists()


def _paths(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.record.path for outcome in outcomes if outcome.record is not None and outcome.record.path]


def _key(record: ImageRecord) -> tuple[str, float]:
    return record.url, record.fetched_at
