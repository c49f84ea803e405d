"""Files against records: what is whole, what is missing, what lies in stores that are not here; and bringing them here.

A crawl's records name the store that has each picture. A store that is not looked at is *elsewhere*, never missing.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from msgspec import Struct

from crawler.books import Balance, Fault, Faults, opened, walk
from crawler.config import settings_for
from crawler.errors import ConfigError
from crawler.frontier.soundness import telling_damage
from crawler.frontier.sqlite import SqliteFrontier
from crawler.lock import own
from crawler.manifest import ManifestWriter, read_manifest
from crawler.model import ImageRecord, StoreStats
from crawler.policy import policy
from crawler.storage import LocalStore, disk_faults, store_id

#: Records handled at a time.
_PAGE = 1_000
#: Paths that a report lists at most, of each kind.
MAX_LISTED = 20

#: Told now and then what is looked at, and how many of it were.
OnProgress = Callable[[str, int], None]


class Audit(Struct, frozen=True, kw_only=True):
    """What became of the pictures that the records name, every one counted once; and whether the books agree."""

    whole: int = 0
    missing: int = 0
    damaged: int = 0
    #: Stores that were not looked at, and the pictures in them.
    elsewhere: tuple[StoreStats, ...] = ()
    #: Copies of pictures whose first copy the records place in another store.
    spare: int = 0
    #: Files in the stores looked at that no record of this crawl or of the store names.
    foreign: int = 0
    #: Whole pictures that no record names yet, of a crawl that has not come to its end.
    early: int = 0
    #: The first few of the missing, damaged and foreign ones.
    examples: tuple[str, ...] = ()
    #: What the crawl's books say; None for a store, which has none.
    balance: Balance | None = None
    #: What is wrong with the books, and with the directories.
    faults: tuple[Fault, ...] = ()

    @property
    def is_good(self) -> bool:
        return not (self.missing or self.damaged or self.foreign or self.faults)


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
    """Prove the books of a crawl, and hash every picture that its records place in it or in one of ``stores``.

    Raises:
        ConfigError: there are neither records nor a manifest.
        DiskError: a file can't be read for another reason than that it is not there, or not whole.
    """
    _refuse_no_stores(stores := tuple(stores))
    tell_progress = on_progress or _be_silent
    faults = Faults()
    with ExitStack() as stack:
        balance, records = stack.enter_context(
            opened(directory, faults.tell, lambda number: tell_progress("requests", number))
        )
        search = stack.enter_context(closing(_Search(_places([directory, *stores]), tell_progress)))
        search.hash_all(records)
        search.look_for_others(faults, balance)
    return search.audit(balance, faults.all())


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
                on_progress("records", after)
        manifest = ManifestWriter(directory)
        manifest.rewrite(frontier.records)
        manifest.close()
    return Gathered(
        pictures=counts["pictures"],
        bytes=counts["bytes"],
        missing=counts["missing"],
        elsewhere=elsewhere.stores(),
    )


class _Search:
    """Looks for the pictures in the stores that are here."""

    def __init__(self, places: dict[str, list[LocalStore]], on_progress: OnProgress) -> None:
        self._places = places
        self._on_progress = on_progress
        self._counts: Counter[str] = Counter()
        self._elsewhere = _Elsewhere()
        self._known = _Paths()
        self._examples: list[str] = []

    def hash_all(self, records: Iterable[ImageRecord]) -> None:
        """Every picture that is recorded as saved."""
        pictures = (record for record in records if record.path and record.status == "success")
        for seen, record in enumerate(pictures):
            if not self._known.add(record.path):
                continue
            if record.store not in self._places:
                self._elsewhere.add(record)
                continue
            verdict, place = _look_in(self._places[record.store], record)
            self._count(verdict, place.root / record.path)
            if seen % _PAGE == 0:
                self._on_progress("pictures", seen)

    def look_for_others(self, faults: Faults, balance: Balance | None) -> None:
        """Files that no record names. Before the end, a file may be ahead of its record."""
        is_finished = balance is not None and balance.is_finished
        may_be_early = balance is not None and not is_finished
        for place in (place for several in self._places.values() for place in several):
            others = _Others(place)
            for path in walk(place.root, faults.tell, is_finished=is_finished):
                key = path.relative_to(place.root).as_posix()
                if key in self._known:
                    self._counts["files"] += 1
                elif key not in others:
                    self._count("early" if may_be_early and _is_named_by_content(path) else "foreign", path)
            others.close()

    def audit(self, balance: Balance | None, faults: tuple[Fault, ...]) -> Audit:
        """What was found."""
        counts = self._counts
        return Audit(
            whole=counts["whole"],
            missing=counts["missing"],
            damaged=counts["damaged"],
            elsewhere=self._elsewhere.stores(),
            spare=counts["files"] - counts["whole"] - counts["damaged"],
            foreign=counts["foreign"],
            early=counts["early"],
            examples=tuple(self._examples),
            balance=balance,
            faults=faults,
        )

    def close(self) -> None:
        self._known.close()

    def _count(self, verdict: str, path: Path) -> None:
        self._counts[verdict] += 1
        if verdict not in ("whole", "early") and len(self._examples) < MAX_LISTED:
            self._examples.append(f"{verdict}: {path}")


class _Paths:
    """A set of paths on disk, in a temporary file of SQLite's: there may be more than memory has room for."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("CREATE TABLE path (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("BEGIN")  # it is never committed: nobody else is to read it

    def add(self, path: str) -> bool:
        """Whether it is new."""
        return self._db.execute("INSERT OR IGNORE INTO path VALUES (?)", (path,)).rowcount == 1

    def __contains__(self, path: str) -> bool:
        return self._db.execute("SELECT 1 FROM path WHERE name = ?", (path,)).fetchone() is not None

    def close(self) -> None:
        self._db.close()


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
        self._paths: _Paths | None = None

    def __contains__(self, path: str) -> bool:
        if self._paths is None:
            self._paths = _Paths()
            for row in read_manifest(self._manifest) if self._manifest.exists() else ():
                self._paths.add(row.path)
        return path in self._paths

    def close(self) -> None:
        if self._paths is not None:
            self._paths.close()


@contextmanager
def _opened(directory: Path) -> Iterator[SqliteFrontier]:
    """The frontier of a crawl that nobody else is working at."""
    path = directory / "frontier.sqlite"
    if not path.exists():
        raise ConfigError(f"{directory} is no crawl: there is no frontier.sqlite in it")
    release = own(directory)
    try:
        rules = policy(settings_for(directory, {})[0])
        with telling_damage(path, is_opening=True):
            frontier = SqliteFrontier(path, rules)
        try:
            with telling_damage(path):
                yield frontier
        finally:
            frontier.close()
    finally:
        release()


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


def _is_named_by_content(path: Path) -> bool:
    """Whether a file is whole, and where content has its place, so that a record may follow."""
    try:
        with disk_faults(path, FileNotFoundError), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:  # whoever saves here has found it to be a copy too many
        return True
    return path.stem == digest and path.parent.name == digest[:2]


def _be_silent(what: str, number: int) -> None:
    pass
