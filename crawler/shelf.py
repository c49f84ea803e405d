"""A worker's store and the store's own records: what stands between a picture that was saved and one that is told of.

A downloader that saves into a directory of its own keeps ``manifest.jsonl`` and ``results.txt`` there: a row for each
image URL that its workers settled, as the frontier has decided it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec import structs

from crawler.errors import DiskError
from crawler.lock import try_to_own
from crawler.manifest import ManifestWriter, read_manifest
from crawler.model import ImageRecord, Outcome, Verdict, decided
from crawler.notes import Left, Notes
from crawler.storage import LocalStore, disk_faults

#: Seconds for which another process may be at the store's records.
_PATIENCE = 30.0


class Shelf:
    """A store whose records the master keeps: the crawl's own directory. Every method raises `DiskError`.

    Args:
        store: where the pictures are.
        notes: of what is done and not answered; None where a kill ends the frontier, too.
    """

    def __init__(self, store: LocalStore, notes: Notes | None = None) -> None:
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
            if verdict.is_spare and outcome.stored and outcome.record is not None and outcome.record.path:
                self.store.remove(outcome.record.path)
        if self._notes is not None and not worker:
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

    def close(self) -> None:
        """Let go of the notes."""
        if self._notes is not None:
            self._notes.close()

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
        crawl: what tells its crawl from others: they may use the store one after the other, not at a time.

    Raises:
        DiskError: a downloader of another crawl is at work in it, or the disk refuses.
    """

    def __init__(self, store: LocalStore, worker: str, slot: int, crawl: str) -> None:
        super().__init__(store, Notes(store.root, worker, slot))
        self._worker = worker
        self._manifest = ManifestWriter(store.root)
        with self._records():
            self._claim(crawl, slot)
            self._manifest.mend()

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], *, worker: str = "") -> None:
        rows = [
            decided(outcome.record, verdict, worker or self._worker)
            for outcome, verdict in zip(outcomes, verdicts, strict=True)
            if outcome.record is not None and verdict.status is not None
        ]
        self._add(rows)
        super().settle(outcomes, verdicts, worker=worker)

    def _claim(self, crawl: str, slot: int) -> None:
        """One crawl at a time: what the one takes for a copy too many may be all that the other has."""
        mark = self.store.root / ".crawl"
        with disk_faults(mark):
            if mark.exists() and mark.read_text(encoding="ascii", errors="replace") == crawl:
                return
            for path in self.store.root.glob(".lock-*"):
                if path.name.removeprefix(".lock-").isdigit() and path.name != f".lock-{slot}":
                    release = try_to_own(self.store.root, name=path.name)
                    if release is None:
                        place = self.store.root
                        raise DiskError(f"a downloader of another crawl is at work in {place}; choose another -o")
                    release()
            mark.write_text(crawl, encoding="ascii")

    def _add(self, rows: list[ImageRecord]) -> None:
        if rows:
            with self._records():
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

    @contextmanager
    def _records(self) -> Iterator[None]:
        """The store's records, for this process alone."""
        with disk_faults(self.store.root):
            self.store.root.mkdir(parents=True, exist_ok=True)
        release = try_to_own(self.store.root, name=".lock-manifest", patience=_PATIENCE)
        if release is None:
            raise DiskError(f"another process has not let go of {self._manifest.manifest}; is it stopped?")
        try:
            yield
        finally:
            release()


def shelf_for(store: LocalStore, worker: str, slot: int, crawl: str) -> Shelf:
    """The shelf of a worker: with records of its own, unless the directory is a crawl's, whose master keeps them."""
    if (store.root / "frontier.sqlite").exists():
        return Shelf(store, Notes(store.root, worker, slot))
    return OwnShelf(store, worker, slot, crawl)


def _key(record: ImageRecord) -> tuple[str, float]:
    return record.url, record.fetched_at
