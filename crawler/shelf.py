"""A worker's store and the store's own records: what stands between a picture that was saved and one that is told of.

A downloader that saves into a directory of its own keeps ``manifest.jsonl`` and ``results.txt`` there: a row for each
image URL that its workers settled, as the frontier has decided it. What is about to be told is noted first; a worker
that is killed before it has the answer tells it again in its next life, so neither the picture nor its row is missing.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from crawler.errors import DiskError
from crawler.lock import try_to_own
from crawler.manifest import ManifestWriter, read_manifest
from crawler.model import ImageRecord, Outcome, Verdict, decided
from crawler.storage import LocalStore, disk_faults

_log = logging.getLogger(__name__)

#: Seconds for which another process may be at the store's records.
_PATIENCE = 30.0
_JSON = msgspec.json.Encoder()


class Shelf:
    """A store whose records the master keeps: the crawl's own directory.

    Args:
        store: where the pictures are.
    """

    def __init__(self, store: LocalStore) -> None:
        self.store = store

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        """Return when what these outcomes tell of would survive; raises `DiskError`."""
        if any(outcome.record is not None and outcome.record.path for outcome in outcomes):
            self.store.flush()

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> None:
        """The frontier has decided: copies whose first lies in another store go; raises `DiskError`."""
        for outcome, verdict in zip(outcomes, verdicts, strict=True):
            record = outcome.record
            if record is not None and outcome.stored and verdict.store not in ("", record.store):
                self.store.remove(record.path)

    def unsettled(self) -> list[Outcome]:
        """What an earlier life noted and had no answer to, as far as it is whole; to be kept, told and settled."""
        return []


class OwnShelf(Shelf):
    """A store with records of its own, which any of the processes that share the directory may add to.

    Args:
        store: where the pictures are; its directory has the records.
        worker: name of the worker; in rows and verdicts.
        slot: number of the worker among those that share the directory.
    """

    def __init__(self, store: LocalStore, worker: str, slot: int) -> None:
        super().__init__(store)
        self._worker = worker
        self._noted = store.root / f".told-{slot}.jsonl"
        self._manifest = ManifestWriter(store.root)
        with self._records():
            self._manifest.mend()

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        rows = [outcome for outcome in outcomes if outcome.record is not None]
        if rows:
            self._note(_JSON.encode_lines(rows))
        super().keep(outcomes)

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> None:
        super().settle(outcomes, verdicts)
        rows = [
            decided(outcome.record, verdict, self._worker)
            for outcome, verdict in zip(outcomes, verdicts, strict=True)
            if outcome.record is not None and verdict.status is not None
        ]
        self._add(rows)

    def unsettled(self) -> list[Outcome]:
        try:
            with disk_faults(self._noted, FileNotFoundError):
                lines = self._noted.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        noted = [outcome for outcome in _outcomes(lines) if self._is_whole(outcome)]
        known = {_key(row) for row in self._rows({outcome.record.url for outcome in noted if outcome.record})}
        return [outcome for outcome in noted if outcome.record and _key(outcome.record) not in known]

    def _add(self, rows: list[ImageRecord]) -> None:
        if rows:
            with self._records():
                if self._manifest.is_torn:  # another process was killed meanwhile
                    self._manifest.mend()
                self._manifest.append(list(enumerate(rows, self._manifest.last + 1)))
                self._manifest.close()  # whoever mends the files may replace them
            self._note(b"")

    def _note(self, text: bytes) -> None:
        with disk_faults(self._noted):
            self._noted.write_bytes(text)

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

    def _rows(self, urls: set[str]) -> Iterator[ImageRecord]:
        if urls and self._manifest.manifest.exists():
            yield from (row for row in read_manifest(self._manifest.manifest) if row.url in urls)

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


def shelf_for(store: LocalStore, worker: str, slot: int) -> Shelf:
    """The shelf of a worker: with records of its own, unless the directory is a crawl's, whose master keeps them."""
    is_crawl = (store.root / "frontier.sqlite").exists()
    return Shelf(store) if is_crawl else OwnShelf(store, worker, slot)


def _outcomes(lines: Sequence[bytes]) -> Iterator[Outcome]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Outcome)
        except (msgspec.DecodeError, UnicodeDecodeError):  # torn, when it was killed
            _log.info("action=drop-note")


def _key(record: ImageRecord) -> tuple[str, float]:
    return record.url, record.fetched_at
