"""Files against records: what is whole, what is missing, what lies in stores that are not here; and bringing them here.

A crawl's records name the store that has each picture. A store that is not looked at is *elsewhere*, never missing.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import chain
from pathlib import Path

from msgspec import Struct

from crawler.books import Balance, Fault, Faults, opened, walk
from crawler.cloud import FsspecStore, Store, store_at
from crawler.config import settings_for
from crawler.entries import NoFile, need_pictures
from crawler.errors import ConfigError
from crawler.frontier.proof import Tell
from crawler.frontier.soundness import telling_damage
from crawler.frontier.sqlite import SqliteFrontier
from crawler.lock import own
from crawler.manifest import ManifestWriter, read_manifest
from crawler.model import ImageRecord, StoreStats
from crawler.paths import hash_in, is_picture
from crawler.policy import policy
from crawler.storage import LocalStore

#: Records handled at a time.
_PAGE = 1_000
#: Paths that a report lists at most, of each kind.
MAX_LISTED = 20

#: Told now and then what is looked at, and how many of it were.
OnProgress = Callable[[str, int], None]
#: Told of each file that is missing or damaged: the id of its store, its path, its SHA-256 (empty: as its name says).
OnLost = Callable[[str, str, str], None]


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
    #: Whole pictures that records have named before a refresh found others, or none, under their URLs.
    past: int = 0
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


def verify(
    directory: Path,
    stores: Iterable[Path | str] = (),
    *,
    on_progress: OnProgress | None = None,
    on_lost: OnLost | None = None,
) -> Audit:
    """Prove the books of a crawl, and hash every picture that its records place in it or in one of ``stores``.

    Raises:
        ConfigError: there are neither records nor a manifest.
        DiskError: a file can't be read for another reason than that it is not there, or not whole.
    """
    _refuse_no_stores(stores := tuple(stores))
    for place in (directory, *stores):
        if isinstance(place, Path):
            need_pictures(place)
    tell_progress = on_progress or _be_silent
    faults = Faults()
    with ExitStack() as stack:
        balance, records, past = stack.enter_context(
            opened(directory, faults.tell, lambda number: tell_progress("requests", number))
        )
        search = stack.enter_context(closing(_Search(places_of([directory, *stores]), tell_progress, on_lost)))
        search.hash_all(records)
        search.remember(past)
        search.look_for_others(faults, balance)
    return search.audit(balance, faults.all())


def gather(directory: Path, stores: Sequence[Path | str], *, on_progress: OnProgress | None = None) -> Gathered:
    """Copy into a finished or stopped crawl what its records place in ``stores``; its manifest names it here then.

    Safe to repeat and to kill: a picture is placed here only after its bytes are, durably.

    Raises:
        ConfigError: no crawl, or a directory that is no store.
        DiskError: a disk refuses, or the crawl is running.
    """
    _refuse_no_stores(stores)
    target = LocalStore(directory)
    places = places_of(stores)
    every: list[Store] = [*(place for several in places.values() for place in several), target]
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
                if any(bring(place, record.path, target) for place in (*places.get(record.store, ()), *every)):
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

    def __init__(self, places: dict[str, list[Store]], on_progress: OnProgress, on_lost: OnLost | None = None) -> None:
        self._places = places
        self._on_progress, self._on_lost = on_progress, on_lost or _ignore
        self._counts: Counter[str] = Counter()
        self._elsewhere = _Elsewhere()
        self._known, self._past, self._leaning = _Marks(), _Marks(), _Leaning()
        self._examples: list[str] = []

    def hash_all(self, records: Iterable[ImageRecord]) -> None:
        """Every picture that is recorded as saved, be it one that its site has no more.

        Last those of which nothing is left but what looks nearly the same, and was saved before a refresh.
        """
        first = (record for record in self._without_copies(records) if record.path)
        pictures = chain(((record, record.sha256) for record in first), ((record, "") for record in self._leaning))
        for seen, (record, sha256) in enumerate(pictures):
            if not self._known.add(_mark(record)):
                continue
            if record.store not in self._places:
                self._elsewhere.add(record)
                continue
            verdict, place = _look_in(self._places[record.store], record.path, sha256)
            self._count(verdict, place.name(record.path))
            if verdict != "whole":
                self._on_lost(record.store, record.path, sha256)
            if seen % _PAGE == 0:
                self._on_progress("pictures", seen)

    def _without_copies(self, records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        """Those of first copies; where a file is to go to quarantine and a kill came before, it is not foreign."""
        for record in records:
            if record.path.startswith("quarantine/"):
                self._past.add(_mark(record))
            elif record.status != "duplicate":
                yield record
            elif record.is_dropped:
                self._leaning.add(record)

    def remember(self, paths: Iterable[str]) -> None:
        """Paths that records have named before."""
        for path in paths:
            self._past.add(hash_in(path) or path)

    def look_for_others(self, faults: Faults, balance: Balance | None) -> None:
        """Files that no record names. Before the end, a file may be ahead of its record."""
        is_finished = balance is not None and balance.is_finished
        may_be_early = balance is not None and not is_finished
        for name, place in ((name, place) for name, several in self._places.items() for place in several):
            others = _Others(place)
            for key in _keys(place, faults.tell, is_finished=is_finished):
                mark = hash_in(key) or key
                if mark in self._known:
                    self._counts["files"] += 1
                elif mark in self._past:
                    is_whole = _is_named_by_content(place, key)
                    self._count("past" if is_whole else "damaged", place.name(key))
                    if not is_whole:
                        self._on_lost(name, key, "")
                    self._counts["files"] += not is_whole
                elif mark not in others:
                    is_early = may_be_early and _is_named_by_content(place, key)
                    self._count("early" if is_early else "foreign", place.name(key))
            others.close()

    def audit(self, balance: Balance | None, faults: tuple[Fault, ...]) -> Audit:
        """What was found."""
        counts = self._counts
        return Audit(
            whole=counts["whole"],
            missing=counts["missing"],
            damaged=counts["damaged"],
            elsewhere=self._elsewhere.stores(),
            # Files may come and go while they are counted, or be where no walk goes: in a folder that is a link.
            spare=max(0, counts["files"] - counts["whole"] - counts["damaged"]),
            foreign=counts["foreign"],
            past=counts["past"],
            early=counts["early"],
            examples=tuple(self._examples),
            balance=balance,
            faults=faults,
        )

    def close(self) -> None:
        self._known.close()
        self._past.close()
        self._leaning.close()

    def _count(self, verdict: str, where: str) -> None:
        self._counts[verdict] += 1
        if verdict not in ("whole", "past", "early") and len(self._examples) < MAX_LISTED:
            self._examples.append(f"{verdict}: {where}")


class _Marks:
    """A set of marks of pictures on disk, in a temporary file of SQLite's: memory may have no room for all of them."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("CREATE TABLE mark (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("BEGIN")  # it is never committed: nobody else is to read it

    def add(self, mark: str) -> bool:
        """Whether it is new."""
        return self._db.execute("INSERT OR IGNORE INTO mark VALUES (?)", (mark,)).rowcount == 1

    def __contains__(self, mark: str) -> bool:
        return self._db.execute("SELECT 1 FROM mark WHERE name = ?", (mark,)).fetchone() is not None

    def close(self) -> None:
        self._db.close()


class _Leaning:
    """Places of files by which several pictures are represented, one record of each; on disk for the same reason."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("CREATE TABLE place (path TEXT, store TEXT, worker TEXT, PRIMARY KEY (path, store))")
        self._db.execute("BEGIN")

    def add(self, record: ImageRecord) -> None:
        row = record.path, record.store, record.worker
        self._db.execute("INSERT OR IGNORE INTO place VALUES (?,?,?)", row)

    def __iter__(self) -> Iterator[ImageRecord]:
        for path, store, worker in self._db.execute("SELECT path, store, worker FROM place"):
            yield ImageRecord(url="", path=path, store=store, worker=worker)

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


def places_of(directories: Iterable[Path | str]) -> dict[str, list[Store]]:
    """Store id → the places that have it; one that was copied has the id of the other."""
    found: dict[str, list[Store]] = {}
    for place in directories:
        store = store_at(place)
        if (name := store.known_id) is not None:
            found.setdefault(name, []).append(store)
    return found


def _refuse_no_stores(places: Iterable[Path | str]) -> None:
    for place in places:
        if store_at(place).known_id is None:
            raise ConfigError(f"{place} is no store: there is no store.json in it")


def _keys(store: Store, tell: Tell, *, is_finished: bool) -> Iterator[str]:
    """The keys of all that lies in a store."""
    if isinstance(store, FsspecStore):
        yield from store.keys()
        return
    for path in walk(store.root, tell, is_finished=is_finished):
        yield path.relative_to(store.root).as_posix()


class _Others:
    """Pictures that a store's own manifest names, for whichever crawl; read when first asked for."""

    def __init__(self, store: Store) -> None:
        self._manifest = store.root / "manifest.jsonl" if isinstance(store, LocalStore) else None
        self._marks: _Marks | None = None

    def __contains__(self, mark: str) -> bool:
        if self._marks is None:
            self._marks = _Marks()
            for row in read_manifest(self._manifest) if self._manifest and self._manifest.exists() else ():
                self._marks.add(_mark(row))
        return mark in self._marks

    def close(self) -> None:
        if self._marks is not None:
            self._marks.close()


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


def _look_in(places: Sequence[Store], path: str, sha256: str) -> tuple[str, Store]:
    """The best that is found of a picture, and where."""
    found = [(look(place, path, sha256), place) for place in places]
    return min(found, key=lambda one: ("whole", "damaged", "missing").index(one[0]))


def look(store: Store, path: str, sha256: str) -> str:
    """Whether a picture is ``whole``, ``missing`` or ``damaged``: its SHA-256, or where that is empty its name, tells.

    Raises:
        DiskError: the store refuses.
    """
    try:
        with store.open(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except NoFile:
        return "damaged"
    except (FileNotFoundError, ValueError):  # ValueError: a path that no store of ours ever wrote
        return "missing"
    return "whole" if (digest == sha256 if sha256 else is_picture(path, digest)) else "damaged"


def bring(source: Store, path: str, target: Store) -> bool:
    """Copy one picture, unless what lies there is not what its name says; a damaged one is replaced."""
    try:
        with source.open(path) as file:
            data = file.read()
    except (FileNotFoundError, ValueError):
        return False
    if not is_picture(path, hashlib.sha256(data).hexdigest()):
        return False
    target.put(path, data)
    return True


def _mark(record: ImageRecord) -> str:
    """What a picture's files are known by, under whatever name: its hash, as far as names have it."""
    return hash_in(record.path) or record.path


def _is_named_by_content(store: Store, key: str) -> bool:
    """Whether a file is whole, and where content has its place, so that a record may follow."""
    try:
        with store.open(key) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (NoFile, ValueError):  # ValueError: a name that is none of ours
        return False
    except FileNotFoundError:  # whoever saves here has found it to be a copy too many
        return True
    return is_picture(key, digest)


def _ignore(store: str, path: str, sha256: str) -> None:
    pass


def _be_silent(what: str, number: int) -> None:
    pass
