"""`crawler verify --repair`: what is lost is taken from another store or put back to be fetched; torn ends are mended.

May be killed at any instant and repeated: a damaged file is moved away first, which leaves a missing one; then all
requests are put back in one transaction; manifest and results are cut before it and written anew after it.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath

from msgspec import Struct

from crawler.audit import Audit, OnProgress, bring, look, places_of, verify
from crawler.cloud import Store
from crawler.entries import DAMAGED
from crawler.errors import ConfigError
from crawler.frontier.again import put_back_lost
from crawler.frontier.revise import revising
from crawler.frontier.soundness import damaged, telling_damage
from crawler.lock import own
from crawler.manifest import ManifestWriter
from crawler.storage import LocalStore

_PAGE = 1_000


class Repair(Struct, frozen=True, kw_only=True):
    """What was found, and done about it."""

    found: Audit
    #: Pictures whose bytes another of the stores had.
    healed: int = 0
    #: Pictures that are lost, and image URLs that wait for them again.
    lost: int = 0
    put_back: int = 0
    #: Damaged files that were moved to `DAMAGED`, and unfinished ones that were removed.
    moved: int = 0
    removed: int = 0

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong any more, but for what is to be fetched."""
        return not self.found.foreign and all(_is_mended(fault.rule) for fault in self.found.faults)


def repair(directory: Path, stores: Iterable[Path | str] = (), *, on_progress: OnProgress | None = None) -> Repair:
    """Verify a crawl that nobody works at, and repair what can be.

    Pictures in stores that are not looked at are elsewhere, and left alone. Foreign files, and books that do not agree
    in themselves, stay as they are.

    Raises:
        ConfigError: there is no crawl, or a store that is none.
        DiskError: the disk refuses, somebody is at work here, the database is damaged, or it has lost records that
            the manifest has.
    """
    path, stores = directory / "frontier.sqlite", tuple(stores)
    if not path.exists():
        raise ConfigError(
            f"{directory} is no crawl: there is no frontier.sqlite in it; --repair wants the crawl itself"
        )
    own(directory)()  # said at once, not after all files are read
    with closing(_Lost()) as lost:
        found = verify(directory, stores, on_progress=on_progress, on_lost=lost.add)
        release = own(directory)
        try:
            return _repair(directory, stores, lost, found)
        finally:
            release()


def _repair(directory: Path, stores: Sequence[Path | str], lost: "_Lost", found: Audit) -> Repair:
    path = directory / "frontier.sqlite"
    if found.balance is None or not found.balance.images:
        for fault in found.faults:
            raise damaged(path, fault.examples[0])
    counts = _heal(lost, places_of([directory, *stores]))
    removed = LocalStore(directory).clear_parts()  # after what is damaged was moved aside
    manifest, number = ManifestWriter(directory), 0
    with telling_damage(path, is_opening=True):
        if counts["lost"]:
            number = put_back_lost(path, lost.has, wall=time.time(), before=manifest.cut)
        with revising(path) as revision:
            manifest.resume(revision.records, is_ours=True)  # which refuses to forget what the database has lost
            if number or any(_is_mended(fault.rule) for fault in found.faults):
                manifest.rewrite(revision.records)
            while rows := revision.records(manifest.last, _PAGE):
                manifest.append(rows)
        manifest.close()
    return Repair(
        found=found,
        healed=counts["healed"],
        lost=counts["lost"],
        put_back=number,
        moved=counts["moved"],
        removed=removed,
    )


def _heal(lost: "_Lost", places: dict[str, list[Store]]) -> Counter[str]:
    """Take from other stores what they have, and move away what is damaged; whoever heals is lost no more."""
    every = [place for several in places.values() for place in several]
    counts: Counter[str] = Counter()
    for path, sha256, store in lost.all():
        here = places[store]
        if any(look(place, path, sha256) == "whole" for place in here):  # somebody was faster
            lost.forget(store, path)
        elif any(bring(place, path, here[0]) for place in every):
            counts["healed"] += 1
            lost.forget(store, path)
        else:
            counts["lost"] += 1
            counts["moved"] += sum(_move_away(place, path) for place in here)
    for place in every:
        place.flush()
    return counts


def _move_away(store: Store, path: str) -> bool:
    """Move what is there out of the way, if anything is: a record of later may want its name."""
    try:
        if isinstance(store, LocalStore) and store.move_aside(path):
            return True
        with store.open(path) as file:
            data = file.read()
    except (FileNotFoundError, ValueError):  # ValueError: a path that no store of ours ever wrote
        return False
    store.put(f"{DAMAGED}/{PurePosixPath(path).name}", data)
    store.flush()
    store.remove(path)
    return True


def _is_mended(rule: str) -> bool:
    """Whether a fault is one of the two views, or of files that nobody has finished."""
    return rule.startswith(("manifest.jsonl ", "results.txt ", "an unfinished file "))


class _Lost:
    """Pictures that are lost, in a temporary file of SQLite's: there may be more than memory has room for."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("CREATE TABLE lost (store TEXT, path TEXT, sha256 TEXT, PRIMARY KEY (store, path))")
        self._db.execute("BEGIN")  # it is never committed: nobody else is to read it

    def add(self, store: str, path: str, sha256: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO lost VALUES (?,?,?)", (store, path, sha256))

    def all(self) -> Iterator[tuple[str, str, str]]:
        """Path, SHA-256 and store of each; they may be forgotten meanwhile."""
        after = 0
        query = "SELECT rowid, path, sha256, store FROM lost WHERE rowid > ? ORDER BY rowid LIMIT ?"
        while rows := self._db.execute(query, (after, _PAGE)).fetchall():
            after = rows[-1][0]
            yield from ((path, sha256, store) for _, path, sha256, store in rows)

    def has(self, store: str, path: str) -> bool:
        found = self._db.execute("SELECT 1 FROM lost WHERE store = ? AND path = ?", (store, path)).fetchone()
        return found is not None

    def forget(self, store: str, path: str) -> None:
        self._db.execute("DELETE FROM lost WHERE store = ? AND path = ?", (store, path))

    def close(self) -> None:
        self._db.close()
