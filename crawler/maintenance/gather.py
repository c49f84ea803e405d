"""Copy pictures from other stores into a stopped crawl (`crawler gather`)."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from crawler.maintenance.picture_files import ElsewhereCount, copy_file, require_stores, stores_by_id
from crawler.maintenance.stopped_crawl import stopped_crawl
from crawler.maintenance.verify import OnProgress
from crawler.stats import StoreStats
from crawler.store.bucket import Store
from crawler.store.local import LocalStore

#: Number of records that are handled at a time.
_PAGE = 1_000


class GatherReport(Struct, frozen=True, kw_only=True):
    """The result of `gather`."""

    #: Number of pictures that were copied here, and their bytes.
    pictures: int = 0
    bytes: int = 0
    #: Number of pictures that are missing or damaged in the store that should have them.
    missing: int = 0
    #: Stores that were not given, with the number of pictures in them.
    elsewhere: tuple[StoreStats, ...] = ()


def gather(directory: Path, stores: Sequence[Path | str], *, on_progress: OnProgress | None = None) -> GatherReport:
    """Copy the pictures that records place in ``stores`` into a stopped crawl, and update its records and manifest.

    The command may be killed and repeated: a record is changed only after the copied bytes are durable.

    Raises:
        ConfigError: the directory is not a crawl, or one of ``stores`` is not a store.
        DiskError: a file can't be read or written, or the crawl is running.
    """
    require_stores(stores)
    target = LocalStore(directory)
    stores_of = stores_by_id(stores)
    all_stores: list[Store] = [*(copy for copies in stores_of.values() for copy in copies), target]
    counts: Counter[str] = Counter()
    elsewhere = ElsewhereCount()
    with stopped_crawl(directory) as crawl, crawl.frontier() as frontier:
        after = 0
        while rows := frontier.records(after, _PAGE):
            after = rows[-1][0]
            copied = []
            for number, record in rows:
                if not record.path or record.store == target.id:
                    continue
                # The name of a file contains its hash, so a copy in any store is as good.
                if any(
                    copy_file(source, record.path, target) for source in (*stores_of.get(record.store, ()), *all_stores)
                ):
                    copied.append(number)
                    counts["pictures"] += record.status == "success"
                    counts["bytes"] += record.bytes if record.status == "success" else 0
                elif record.status == "success" and record.store in stores_of:
                    counts["missing"] += 1
                elif record.status == "success":
                    elsewhere.add(record)
            target.flush()
            frontier.relocate(copied, target.id)
            if on_progress is not None:
                on_progress("records", after)
        crawl.manifest.rewrite(frontier.records)
    return GatherReport(
        pictures=counts["pictures"],
        bytes=counts["bytes"],
        missing=counts["missing"],
        elsewhere=elsewhere.stores(),
    )
