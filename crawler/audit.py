"""Files against records: what is whole, what is missing, what lies in stores that are not here; and bringing them here.

A crawl's records name the store that has each picture. A store that is not looked at is *elsewhere*, never missing.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from crawler.config import settings_for
from crawler.errors import ConfigError, DiskError
from crawler.frontier.sqlite import SqliteFrontier
from crawler.lock import own
from crawler.manifest import ManifestWriter, read_manifest
from crawler.model import ImageRecord, StoreStats
from crawler.policy import policy
from crawler.storage import LocalStore, store_id

#: Records handled at a time.
_PAGE = 1_000
#: Paths that a report lists at most, of each kind.
MAX_LISTED = 20

#: Told now and then how many pictures were looked at.
OnProgress = Callable[[int], None]


class Audit(Struct, frozen=True, kw_only=True):
    """What became of the pictures that the records name; every one is counted once."""

    whole: int = 0
    missing: int = 0
    damaged: int = 0
    #: Stores that were not looked at, and the pictures in them.
    elsewhere: tuple[StoreStats, ...] = ()
    #: Copies of pictures whose first copy the records place in another store.
    spare: int = 0
    #: Files in the stores looked at that no record of this crawl or of the store names.
    foreign: int = 0
    #: The first few of the missing, damaged and foreign ones.
    examples: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return not (self.missing or self.damaged or self.foreign)


class Gathered(Struct, frozen=True, kw_only=True):
    """What `gather` did."""

    #: Pictures brought here now, and their bytes.
    pictures: int = 0
    bytes: int = 0
    #: Pictures that a given store should have, but has not, or not whole.
    missing: int = 0
    #: Stores that were not given, and the pictures in them.
    elsewhere: tuple[StoreStats, ...] = ()


def verify(directory: Path, stores: Iterable[Path] = (), *, on_progress: OnProgress | None = None) -> Audit:
    """Hash every picture that the records of ``directory`` place there or in one of ``stores``.

    Raises:
        ConfigError: there are neither records nor a manifest.
        DiskError: a file can't be read for another reason than that it is not there.
    """
    _refuse_no_stores(stores := tuple(stores))
    places = _places([directory, *stores])
    counts: Counter[str] = Counter()
    elsewhere = _Elsewhere()
    known: set[str] = set()
    examples: list[str] = []
    with _records(directory) as records:
        pictures = (record for record in records if record.path and record.status == "success")
        for seen, record in enumerate(pictures):
            if record.path in known:
                continue
            known.add(record.path)
            if record.store not in places:
                elsewhere.add(record)
                continue
            verdict, place = _look_in(places[record.store], record)
            counts[verdict] += 1
            if verdict != "whole":
                examples.append(f"{verdict}: {place.root / record.path}")
            if on_progress is not None and seen % _PAGE == 0:
                on_progress(seen)
    for place in (place for several in places.values() for place in several):
        others = _Others(place)
        for path in _pictures(place.root):
            key = path.relative_to(place.root).as_posix()
            if key in known:
                counts["files"] += 1
            elif key not in others:
                counts["foreign"] += 1
                examples.append(f"foreign: {path}")
    return Audit(
        whole=counts["whole"],
        missing=counts["missing"],
        damaged=counts["damaged"],
        elsewhere=elsewhere.stores(),
        spare=counts["files"] - counts["whole"] - counts["damaged"],
        foreign=counts["foreign"],
        examples=tuple(examples[:MAX_LISTED]),
    )


def gather(directory: Path, stores: Sequence[Path], *, on_progress: OnProgress | None = None) -> Gathered:
    """Copy into a finished or stopped crawl what its records place in ``stores``; its manifest names it here then.

    Safe to repeat and to kill: a picture is placed here only after its bytes are, durably.

    Raises:
        ConfigError: no crawl, or a directory that is no store.
        DiskError: a disk refuses, or the crawl is running.
    """
    _refuse_no_stores(stores)
    target = LocalStore(directory)
    places = _places(stores)
    every = [*(place for several in places.values() for place in several), target]
    counts: Counter[str] = Counter()
    elsewhere = _Elsewhere()
    with _opened(directory) as frontier:
        after = 0
        while rows := frontier.records(after, _PAGE):
            after = rows[-1][0]
            brought = []
            for number, record in rows:
                if not record.path or record.store == target.id:
                    continue
                # Names tell the content: a copy in any store will do.
                if any(_bring(place, record, target) for place in (*places.get(record.store, ()), *every)):
                    brought.append(number)
                    counts["pictures"] += record.status == "success"
                    counts["bytes"] += record.bytes if record.status == "success" else 0
                elif record.status == "success" and record.store in places:
                    counts["missing"] += 1
                elif record.status == "success":
                    elsewhere.add(record)
            target.flush()
            frontier.relocate(brought, target.id)
            if on_progress is not None:
                on_progress(after)
        manifest = ManifestWriter(directory)
        manifest.rewrite(frontier.records)
        manifest.close()
    return Gathered(
        pictures=counts["pictures"],
        bytes=counts["bytes"],
        missing=counts["missing"],
        elsewhere=elsewhere.stores(),
    )


class _Elsewhere:
    """Counts pictures in stores that are not here."""

    def __init__(self) -> None:
        self._pictures: Counter[str] = Counter()
        self._workers: dict[str, str] = {}

    def add(self, record: ImageRecord) -> None:
        self._pictures[record.store] += 1
        self._workers.setdefault(record.store, record.worker)

    def stores(self) -> tuple[StoreStats, ...]:
        """The fullest first."""
        counts = self._pictures.most_common()
        return tuple(StoreStats(id=store, worker=self._workers[store], pictures=number) for store, number in counts)


def _places(directories: Iterable[Path]) -> dict[str, list[LocalStore]]:
    """Store id → the directories that have it; one that was copied has the id of the other."""
    found: dict[str, list[LocalStore]] = {}
    for place in directories:
        if (name := store_id(place)) is not None:
            found.setdefault(name, []).append(LocalStore(place))
    return found


def _refuse_no_stores(places: Iterable[Path]) -> None:
    for place in places:
        if store_id(place) is None:
            raise ConfigError(f"{place} is no store: there is no store.json in it")


class _Others:
    """Paths that a store's own manifest names, for whichever crawl; read when first asked for."""

    def __init__(self, store: LocalStore) -> None:
        self._manifest = store.root / "manifest.jsonl"
        self._paths: set[str] | None = None

    def __contains__(self, path: str) -> bool:
        if self._paths is None:
            rows = read_manifest(self._manifest) if self._manifest.exists() else ()
            self._paths = {row.path for row in rows}
        return path in self._paths


@contextmanager
def _opened(directory: Path) -> Iterator[SqliteFrontier]:
    """The frontier of a crawl that nobody else is working at."""
    path = directory / "frontier.sqlite"
    if not path.exists():
        raise ConfigError(f"{directory} is no crawl: there is no frontier.sqlite in it")
    release = own(directory)
    try:
        frontier = SqliteFrontier(path, policy(settings_for(directory, {})[0]))
        try:
            yield frontier
        finally:
            frontier.close()
    finally:
        release()


@contextmanager
def _records(directory: Path) -> Iterator[Iterable[ImageRecord]]:
    """The records of a crawl, from its frontier; of a store, or of a crawl that is running, from its manifest."""
    try:
        with _opened(directory) as frontier:
            yield _paged(frontier)
    except ConfigError:
        yield read_manifest(directory / "manifest.jsonl")
    except DiskError:
        if not (directory / "manifest.jsonl").exists():
            raise
        yield read_manifest(directory / "manifest.jsonl")


def _paged(frontier: SqliteFrontier) -> Iterator[ImageRecord]:
    after = 0
    while rows := frontier.records(after, _PAGE):
        yield from (record for _, record in rows)
        after = rows[-1][0]


def _look_in(places: Sequence[LocalStore], record: ImageRecord) -> tuple[str, LocalStore]:
    """The best that is found of a picture, and where."""
    found = [(_look(place, record), place) for place in places]
    return min(found, key=lambda one: ("whole", "damaged", "missing").index(one[0]))


def _look(store: LocalStore, record: ImageRecord) -> str:
    """``whole``, ``missing`` or ``damaged``."""
    try:
        with store.open(record.path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, ValueError):  # ValueError: a path that no store of ours ever wrote
        return "missing"
    return "whole" if digest == record.sha256 else "damaged"


def _bring(source: LocalStore, record: ImageRecord, target: LocalStore) -> bool:
    """Copy one picture, unless what lies there is not what the record says."""
    try:
        with source.open(record.path) as file:
            data = file.read()
    except (FileNotFoundError, ValueError):
        return False
    if hashlib.sha256(data).hexdigest() != record.sha256:
        return False
    target.put(record.path, data)
    return True


def _pictures(root: Path) -> Iterator[Path]:
    """Finished files below ``images/``."""
    return (path for path in (root / "images").rglob("*") if path.is_file() and not path.name.endswith(".part"))
