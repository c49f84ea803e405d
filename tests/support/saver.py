"""A small worker of one thread, with the real store, outbox, frontier and manifest, for kills at any instant.

As a program it forks a saver for each line that it reads; the saver waits for its tracer before it begins::

    python -m tests.support.saver
    {"job": "/tmp/job", "durability": "batch", "number": 5, "acks": "/tmp/acks", "batch": 2}
    <process id>
    go
    <exit status>
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct, structs

from crawler.app.master_frontier import MasterFrontier
from crawler.download.downloader import Downloader
from crawler.frontier.base import PROTOCOL
from crawler.frontier.politeness import Policy
from crawler.maintenance.verify import VerifyReport, verify
from crawler.model import Outcome, Request
from crawler.net.fetcher import Canned, CannedFetcher
from crawler.store.base import Durability
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.local import LocalStore
from crawler.store.manifest import ManifestWriter, read_manifest
from crawler.store.outbox import Outbox
from crawler.store.result_store import ResultStore
from tests.support.pictures import picture

_NAME = "saver"
_HOST = "http://pictures.example"
#: One of this number of pictures has the same bytes as the one before.
_SAME = 5


class Task(Struct, frozen=True, kw_only=True):
    """The task of a saver: fetch ``number`` pictures in groups, and write each acknowledged URL to ``acks``."""

    job: Path
    acks: Path
    number: int
    #: The store of the pictures; None: the crawl's own directory.
    store: Path | None = None
    durability: Durability = "batch"
    batch: int = 2

    @property
    def place(self) -> Path:
        """Return the directory of the store."""
        return self.store or self.job


def url_of(number: int) -> str:
    return f"{_HOST}/{number}.png"


def bytes_of(url: str) -> bytes:
    number = int(url.rpartition("/")[2].partition(".")[0])
    return picture(number - (number % _SAME == _SAME - 1))


def prepare(task: Task) -> None:
    """Create the crawl, with all pictures waiting."""
    task.job.mkdir()
    frontier = _open(task)
    frontier.put([Request(url=url_of(number), kind="image") for number in range(task.number)])
    frontier.close()


def save(task: Task) -> None:
    """Resume the crawl, and work to its end."""
    release = CrawlDirectory(task.job).own()
    store = LocalStore(task.place, task.durability)
    store.clear_parts()
    shelf = ResultStore(store, Outbox(task.place, _NAME, 0))
    frontier, manifest = _open(task), ManifestWriter(task.job)
    manifest.resume(frontier.records, is_ours=manifest.manifest.exists())
    frontier.mark(is_at_work=True, downloads_here=True)
    acks = os.open(task.acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    fetcher = CannedFetcher({url_of(n): Canned(body=bytes_of(url_of(n))) for n in range(task.number)})
    downloader = Downloader(fetcher, store)
    for worker, outcomes, forget in shelf.unacknowledged():
        shelf.settle(outcomes, frontier.complete(worker, outcomes, ()), worker=worker)
        forget()
    frontier.hello(_NAME, PROTOCOL)
    work = _work(frontier, downloader, shelf, task.batch)
    ahead = next(work, None)
    while ahead:
        outcomes = ahead
        shelf.keep(outcomes)
        ahead = next(work, None)  # like other threads: save outcomes while others are being reported
        shelf.settle(outcomes, frontier.complete(_NAME, outcomes, ()))
        told = [outcome.record.url for outcome in outcomes if outcome.record is not None]
        os.write(acks, "".join(f"{url}\n" for url in told).encode())
        manifest.append(frontier.records(manifest.last, 1_000))
    manifest.append(frontier.records(manifest.last, 1_000))  # rows that an earlier life has reported and not written
    frontier.mark(is_at_work=False, downloads_here=True)
    for each in (manifest, shelf, frontier):
        each.close()
    release()


def _work(frontier: MasterFrontier, downloader: Downloader, shelf: ResultStore, batch: int) -> Iterator[list[Outcome]]:
    while turns := frontier.lease(_NAME, ("image",), batch, 60.0, 0.0).turns:
        outcomes = []
        for lease in (lease for turn in turns for lease in turn.leases):
            outcome = structs.replace(downloader.handle(lease.request), token=lease.token)
            shelf.note(outcome)
            outcomes.append(outcome)
        yield outcomes
        frontier.complete(_NAME, (), [turn.id for turn in turns])


def _open(task: Task) -> MasterFrontier:
    return MasterFrontier(task.job / "frontier.sqlite", Policy(robots=False, delay=0.0, per_host=1), settings={})


class Left(Struct, frozen=True, kw_only=True):
    """The state after the kill of a saver."""

    #: Acknowledged pictures, and those of them without a record, or without their bytes.
    told: int
    lost: int
    #: Files under a final name with other bytes than those of the name: before the start of the next life, and after
    #: it.
    spoilt: int
    corrupt: int
    audit: VerifyReport

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.corrupt) and self.audit.is_good


def look_at(task: Task, told: Sequence[str] | None = None) -> Left:
    """Compare the files with the acknowledged pictures, in a copy, so that the next life finds them unchanged."""
    told = task.acks.read_text().splitlines() if told is None and task.acks.exists() else told or ()
    with TemporaryDirectory() as place:
        job, store = Path(place, "job"), task.store and Path(place, "store")
        shutil.copytree(task.job, job)
        if task.store and store:
            shutil.copytree(task.store, store)
        root = store or job
        spoilt = _corrupt(_pictures(root))
        LocalStore(root).clear_parts()  # the first steps of each life
        audit = verify(job, [store] if store and (store / "store.json").exists() else [])
        frontier = _open(structs.replace(task, job=job))
        paths = {record.url: record.path for _, record in frontier.records(0, 1_000_000) if record.path}
        frontier.close()
        files = _pictures(root)
    return Left(
        told=len(told),
        lost=sum(url not in paths or files.get(paths[url]) != bytes_of(url) for url in told),
        spoilt=spoilt,
        corrupt=_corrupt(files),
        audit=audit,
    )


def _pictures(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in (root / "images").rglob("*.png")}


def _corrupt(files: Mapping[str, bytes]) -> int:
    return sum(hashlib.sha256(data).hexdigest() != PurePath(path).stem for path, data in files.items())


def check_end(task: Task) -> None:
    """Check that a life after the last kill has completed the crawl."""
    left = look_at(task)
    assert left.is_good, left
    rows = list(read_manifest(task.job / "manifest.jsonl"))
    assert sorted(row.url for row in rows) == sorted(map(url_of, range(task.number)))
    assert {row.status for row in rows} <= {"success", "duplicate"}
    assert [path for path in task.job.rglob("*") if path.name.endswith(".part")] == []


def _serve() -> None:
    """Fork a saver for each task; all modules are imported by now, so a fork takes milliseconds."""
    for line in sys.stdin.buffer:
        gate, opener = os.pipe()
        process = os.fork()
        if not process:
            os.close(opener)
            os.read(gate, 1)
            save(msgspec.json.decode(line, type=Task, dec_hook=lambda kind, value: kind(value)))
            os._exit(0)
        os.close(gate)
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()
        sys.stdin.buffer.readline()
        os.close(opener)
        sys.stdout.write(f"{os.waitpid(process, 0)[1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
