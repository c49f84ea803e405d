"""A worker's store and the store's own records: what stands between a picture that was saved and one that is told of.

A downloader that saves into a directory of its own keeps ``manifest.jsonl`` and ``results.txt`` there: a row for each
image URL that its workers settled, as the frontier has decided it. What is about to be told is noted first; a worker
that is killed before it has the answer tells it again in its next life, so neither the picture nor its row is missing.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import structs

from crawler.errors import DiskError
from crawler.lock import try_to_own
from crawler.manifest import ManifestWriter, read_manifest
from crawler.model import ImageRecord, Outcome, Verdict, decided
from crawler.storage import LocalStore, disk_faults

_log = logging.getLogger(__name__)

#: Seconds for which another process may be at the store's records.
_PATIENCE = 30.0
_JSON = msgspec.json.Encoder()
_NOTE = ".told-{}.jsonl"


class Note(NamedTuple):
    """What a life of a worker was about to tell, as far as it is whole."""

    worker: str
    outcomes: list[Outcome]
    #: To be called once it is told and settled.
    forget: Callable[[], None]


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

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], *, worker: str = "") -> None:
        """The frontier has decided about what ``worker`` (empty: ours) has told; raises `DiskError`.

        Copies that are one too many go.
        """
        for outcome, verdict in zip(outcomes, verdicts, strict=True):
            if verdict.is_spare and outcome.stored and outcome.record is not None and outcome.record.path:
                self.store.remove(outcome.record.path)

    def notes(self) -> Iterator[Note]:
        """What earlier lives noted and had no answer to."""
        return iter(())


class OwnShelf(Shelf):
    """A store with records of its own, which any of the processes that share the directory may add to.

    Args:
        store: where the pictures are; its directory has the records.
        worker: name of the worker; in rows and verdicts.
        slot: number of the worker among those that share the directory.
        crawl: what tells its crawl from others: they may use the store one after the other, not at a time.

    Raises:
        DiskError: a downloader of another crawl is at work in it, or the disk refuses.
    """

    def __init__(self, store: LocalStore, worker: str, slot: int, crawl: str = "") -> None:
        super().__init__(store)
        self._worker, self._slot = worker, slot
        self._noted = store.root / _NOTE.format(slot)
        self._manifest = ManifestWriter(store.root)
        with self._records():
            self._claim(crawl)
            self._manifest.mend()

    def _claim(self, crawl: str) -> None:
        """One crawl at a time: what the one takes for a copy too many may be all that the other has."""
        mark = self.store.root / ".crawl"
        with disk_faults(mark):
            if mark.exists() and mark.read_text(encoding="ascii", errors="replace") == crawl:
                return
            for path in self.store.root.glob(".lock-*"):
                if path.name.removeprefix(".lock-").isdigit() and path.name != f".lock-{self._slot}":
                    release = try_to_own(self.store.root, name=path.name)
                    if release is None:
                        place = self.store.root
                        raise DiskError(f"a downloader of another crawl is at work in {place}; choose another -o")
                    release()
            mark.write_text(crawl, encoding="ascii")

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        rows = [outcome for outcome in outcomes if outcome.record is not None]
        if rows:
            self.store.restore()
            self._note(_JSON.encode_lines([self._worker, *rows]))
        super().keep(outcomes)

    def settle(self, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], *, worker: str = "") -> None:
        rows = [
            decided(outcome.record, verdict, worker or self._worker)
            for outcome, verdict in zip(outcomes, verdicts, strict=True)
            if outcome.record is not None and verdict.status is not None
        ]
        self._add(rows)
        super().settle(outcomes, verdicts)

    def notes(self) -> Iterator[Note]:
        """Those of this worker's earlier lives, and of others in this directory that are dead."""
        for path in sorted(self.store.root.glob(_NOTE.format("*"))):
            slot = path.name.partition("-")[2].partition(".")[0]
            release = _nothing if slot == str(self._slot) else try_to_own(self.store.root, name=f".lock-{slot}")
            if release is None:
                continue
            try:
                worker, noted = self._read(path)
                if noted:
                    yield Note(worker, noted, partial(path.unlink, missing_ok=True))
            finally:
                release()

    def _read(self, path: Path) -> tuple[str, list[Outcome]]:
        """Whose note it is, and what it says that is whole and has no row yet."""
        with disk_faults(path):
            first, *lines = path.read_bytes().splitlines() or [b'""']
        noted = [outcome for outcome in _outcomes(lines) if self._is_whole(outcome)]
        rows = list(self._rows(noted))
        known = {_key(row) for row in rows}
        needed = {row.path for row in rows if row.status == "success"}
        return _name(first), [
            # What a row stands for is not to be taken for a copy too many, whoever wrote it first.
            structs.replace(outcome, stored=outcome.stored and outcome.record.path not in needed)
            for outcome in noted
            if outcome.record is not None and _key(outcome.record) not in known
        ]

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

    def _rows(self, noted: Sequence[Outcome]) -> Iterator[ImageRecord]:
        """The rows about the same URLs, or the same files."""
        urls = {outcome.record.url for outcome in noted if outcome.record}
        paths = {outcome.record.path for outcome in noted if outcome.record and outcome.record.path}
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
    is_crawl = (store.root / "frontier.sqlite").exists()
    return Shelf(store) if is_crawl else OwnShelf(store, worker, slot, crawl)


def _name(line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _nothing() -> None:
    pass


def _outcomes(lines: Sequence[bytes]) -> Iterator[Outcome]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Outcome)
        except (msgspec.DecodeError, UnicodeDecodeError):  # torn, when it was killed
            _log.info("action=drop-note")


def _key(record: ImageRecord) -> tuple[str, float]:
    return record.url, record.fetched_at
