"""Repair a crawl (`crawler verify --repair`): restore or requeue lost pictures, and repair manifest and results.

A lost picture is copied from another store if possible; otherwise its requests are queued again. A repair may be killed
at any time and repeated: a damaged file is moved away first and then counts as missing. All requests are requeued in
one transaction. Manifest and results are cut before it and rewritten after it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath

from msgspec import Struct

from crawler.frontier.ledger.integrity import damaged
from crawler.maintenance.picture_files import check_file, copy_file, stores_by_id
from crawler.maintenance.stopped_crawl import StoppedCrawl, stopped_crawl
from crawler.maintenance.temporary_tables import LostPictures
from crawler.maintenance.verify import OnFinding, OnProgress, VerifyReport, verify
from crawler.store.bucket import Store
from crawler.store.files import DAMAGED
from crawler.store.local import LocalStore

_PAGE = 1_000


class RepairReport(Struct, frozen=True, kw_only=True):
    """The findings of a repair, and the changes that it made."""

    found: VerifyReport
    #: Number of pictures that were restored from another store.
    healed: int = 0
    #: Number of lost pictures, and of image URLs that were requeued for them.
    lost: int = 0
    put_back: int = 0
    #: Number of damaged files that were moved to `DAMAGED`, and of unfinished files that were removed.
    moved: int = 0
    removed: int = 0

    @property
    def is_good(self) -> bool:
        """Return whether the repair has fixed all faults, apart from pictures that are still to be fetched."""
        return not self.found.foreign and all(_is_repaired(fault.rule) for fault in self.found.faults)


def repair(
    directory: Path,
    stores: Iterable[Path | str] = (),
    *,
    on_progress: OnProgress | None = None,
    on_finding: OnFinding | None = None,
) -> RepairReport:
    """Verify a stopped crawl, and repair it as far as possible.

    Pictures in stores that are not given are not checked. Foreign files and faults in the database stay as they are.

    Raises:
        ConfigError: the directory is not a crawl, or one of ``stores`` is not a store.
        DiskError: a file can't be read or written, another process is at work here, the database is damaged, or it has
            lost records that are in the manifest.
    """
    stores, advice = tuple(stores), "name the crawl itself with --repair"
    with stopped_crawl(directory, advice):  # report a running crawl at once, not only after all files are read
        pass
    with closing(LostPictures()) as lost:
        findings = verify(directory, stores, on_progress=on_progress, on_lost=lost.add, on_finding=on_finding)
        with stopped_crawl(directory, advice) as crawl:
            return _repair(crawl, stores, lost, findings)


def _repair(
    crawl: StoppedCrawl, stores: Sequence[Path | str], lost: LostPictures, findings: VerifyReport
) -> RepairReport:
    directory, manifest, number = crawl.directory, crawl.manifest, 0
    if findings.balance is None or not findings.balance.images:
        for fault in findings.faults:
            raise damaged(directory.database, fault.examples[0])
    counts = _heal(lost, stores_by_id([directory.path, *stores]))
    removed = LocalStore(directory.path).clear_parts()  # after `_heal` has moved damaged files away
    if counts["lost"]:
        number = crawl.requeue_lost(lost.has)
    with crawl.records() as edit:
        manifest.resume(edit.records, is_ours=True)  # raises if the manifest has records that the database has lost
        if number or any(_is_repaired(fault.rule) for fault in findings.faults):
            manifest.rewrite(edit.records)
        while rows := edit.records(manifest.last, _PAGE):
            manifest.append(rows)
    return RepairReport(
        found=findings,
        healed=counts["healed"],
        lost=counts["lost"],
        put_back=number,
        moved=counts["moved"],
        removed=removed,
    )


def _heal(lost: LostPictures, stores: dict[str, list[Store]]) -> Counter[str]:
    """Restore lost pictures from other stores and drop them from ``lost``; move other damaged files away."""
    all_stores = [copy for copies in stores.values() for copy in copies]
    counts: Counter[str] = Counter()
    for path, sha256, store in lost.all():
        copies = stores[store]
        if any(check_file(copy, path, sha256) == "whole" for copy in copies):  # another process has restored it
            lost.forget(store, path)
        elif any(copy_file(source, path, copies[0]) for source in all_stores):
            counts["healed"] += 1
            lost.forget(store, path)
        else:
            counts["lost"] += 1
            counts["moved"] += sum(_move_away(copy, path) for copy in copies)
    for target in all_stores:
        target.flush()
    return counts


def _move_away(store: Store, path: str) -> bool:
    """Move a damaged file, if it exists, so that a later record can use its name. Return whether it was moved."""
    try:
        if isinstance(store, LocalStore) and store.move_aside(path):
            return True
        with store.open(path) as file:
            data = file.read()
    except (FileNotFoundError, ValueError):  # ValueError: a path that our stores never write
        return False
    store.put(f"{DAMAGED}/{PurePosixPath(path).name}", data)
    store.flush()
    store.remove(path)
    return True


def _is_repaired(rule: str) -> bool:
    """Return whether a repair fixes a fault: in manifest or results, or an unfinished file."""
    return rule.startswith(("manifest.jsonl ", "results.txt ", "an unfinished file "))
