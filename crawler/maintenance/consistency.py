"""Consistency check of a crawl directory: database, manifest, results and leases must agree.

The check only reads, and may run beside a master. Then, and after a kill, some rules are relaxed: the manifest may hold
only the first records, leases may be open, and files half written. A crawl is *finished* when no request waits and its
master has ended cleanly. Then manifest and results must be complete, and nothing may be left over.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import msgspec
from msgspec import Struct, structs

from crawler.errors import DiskError
from crawler.frontier.ledger.fsck import LedgerCheck, OnFault, OnProgress
from crawler.frontier.ledger.integrity import UNREADABLE, has_log, is_damage, need_readable
from crawler.frontier.ledger.lease_log import LeaseLog
from crawler.model import ImageRecord
from crawler.paths import hash_in
from crawler.store.crawl_directory import CrawlDirectory
from crawler.store.disk import disk_faults, is_part
from crawler.store.files import PICTURES, folders_in
from crawler.store.lock import try_to_own
from crawler.store.manifest import read_manifest, record_line, row_json
from crawler.urls import parse_record_line

T = TypeVar("T")

_RECORD = msgspec.json.Decoder(ImageRecord)

#: Most examples that are listed for one fault, and most characters of an example.
MAX_EXAMPLES, _MAX_EXAMPLE = 5, 300
#: Seconds to wait while another process that only reads holds the lock on the directory.
_LOOK_SECONDS = 2.0


class Inconsistency(Struct, frozen=True, kw_only=True):
    """A broken rule: the fault, its number, and the first few examples, which may contain text of hostile pages."""

    rule: str
    number: int
    examples: tuple[str, ...]


class Inconsistencies:
    """A collector of broken rules."""

    def __init__(self) -> None:
        self._numbers: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def tell(self, rule: str, example: str) -> None:
        """Add a fault."""
        self._numbers[rule] += 1
        examples = self._examples.setdefault(rule, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(example[:_MAX_EXAMPLE])

    def all(self) -> tuple[Inconsistency, ...]:
        """Return the broken rules, in the order of their first faults."""
        return tuple(
            Inconsistency(rule=rule, number=number, examples=tuple(self._examples[rule]))
            for rule, number in self._numbers.items()
        )


class ConsistencyReport(Struct, frozen=True, kw_only=True):
    """The state of a crawl according to its database."""

    #: Number of image URLs by state: ``waiting`` (including leased ones), ``success``, ``duplicate``, ``failed``.
    images: dict[str, int]
    is_running: bool = False
    #: Whether no request waits and the master has ended cleanly.
    is_finished: bool = False


@contextmanager
def opened(
    directory: Path, tell: OnFault, on_progress: OnProgress
) -> Iterator[tuple[ConsistencyReport | None, Iterable[ImageRecord], Iterable[str]]]:
    """Check the database of a crawl; yield its report, the records, and paths that earlier records named.

    A store has no database; for it, yield None and the records of its manifest.

    Raises:
        ConfigError: the directory has neither a database nor a manifest.
        DiskError: a file can't be read.
    """
    crawl = CrawlDirectory(directory)
    path = crawl.database
    with ExitStack() as stack:
        if not crawl.exists():
            yield None, read_manifest(crawl.manifest), ()
            return
        need_readable(path)
        past: Iterable[str] = ()
        is_running = _is_running(directory, stack)
        try:
            ledger = stack.enter_context(LedgerCheck(path, is_still=not is_running and not has_log(path)))
            ledger.prove(tell, on_progress)
            is_finished = ledger.is_over and not is_running and ledger.has_ended_well
            report = ConsistencyReport(images=dict(ledger.images), is_running=is_running, is_finished=is_finished)
            stale = 0 if is_finished else _stale(ledger)
            views = _Views(directory, tell, is_finished=is_finished, stale=stale, is_late=ledger.has_late_rows)
            _compare(views, ledger.lines(), is_running=is_running)
            if is_finished:
                _check_leases(directory, tell)
            ledger.let_go()
            records = _readable(ledger.records(), tell)
            past = _readable(ledger.past(), tell)
        except UNREADABLE as error:
            if not is_damage(error):
                raise DiskError(f"can't read {path}: {error}") from error
            tell("the database is damaged", str(error))
            report = ConsistencyReport(images={}, is_running=is_running)
            records = _manifest_records(crawl.manifest)
        yield report, records, past


def walk(root: Path, tell: OnFault, *, is_finished: bool) -> Iterator[Path]:
    """Yield the paths below ``images/`` of a store, except folders, unfinished files, and links that lead out of it.

    A folder or link with the name of a picture is yielded, too, as it takes that picture's place.
    """
    inside = os.path.realpath(root), os.path.realpath(root / PICTURES)
    for directory, folders, names in folders_in(root):
        is_root = Path(directory) == root
        for name in [*folders, *names]:
            path = Path(directory, name)
            if is_part(name):
                if is_finished:
                    tell("an unfinished file was left behind", str(path))
            elif is_root:
                continue
            elif hash_in(name):
                yield path
            elif path.is_symlink() and not any(Path(os.path.realpath(path)).is_relative_to(place) for place in inside):
                tell("a link leads out of the directory", str(path))
            elif name in names:
                yield path
        folders[:] = [] if is_root else [name for name in folders if not hash_in(name)]


def _is_running(directory: Path, stack: ExitStack) -> bool:
    """Return whether a master is running. If not, hold the lock until the stack is closed, so that none can start."""
    try:
        release = try_to_own(directory, patience=_LOOK_SECONDS)
    except DiskError:  # the directory is not writable, so no master can be running
        return False
    if release is None:
        return True
    stack.callback(release)
    return False


def _stale(ledger: LedgerCheck) -> int:
    """Return how many lines may belong to replaced records, until the files are rewritten at the end.

    A record that replaces another one has a new number, so each new number can leave one such line.
    """
    refresh = ledger.refresh
    return max(0, ledger.last - refresh.record) if refresh.number else 0


def _readable(rows: Iterator[T], tell: OnFault) -> Iterator[T]:
    try:
        yield from rows
    except UNREADABLE as error:
        tell("the database is damaged", str(error))


def _manifest_records(manifest: Path) -> Iterator[ImageRecord]:
    if manifest.exists():
        yield from read_manifest(manifest)


def _check_leases(directory: Path, tell: OnFault) -> None:
    turns, _ = LeaseLog(directory / "leases.log").replay()
    for turn in turns:
        if turn.rows:
            tell("a lease is open in a finished crawl", f"{turn.worker} at {turn.host}")


class _Views(NamedTuple):
    """The files that are written from the records, and the differences that are allowed."""

    directory: Path
    tell: OnFault
    is_finished: bool
    #: How many lines may belong to replaced records.
    stale: int
    #: Whether list rows came after the records of their URLs, so that lines may lack them until the end.
    is_late: bool


def _compare(views: _Views, records: Iterable[ImageRecord | None], *, is_running: bool) -> None:
    """Check that manifest and results contain the records in order: all of them at the end, until then the first ones.

    During a refresh, there may be lines of replaced records between them.
    """
    with ExitStack() as stack:
        rows = _View("manifest.jsonl", views, stack, parse=_without_rows)
        lines = _View("results.txt", views, stack, is_sound=_is_record_line)
        for record in records:
            url = record.url if record else "a record that can't be read"
            rows.expect(row_json(record) if record else None, url)
            lines.expect(record_line(record).encode() if record else None, url)
        if not is_running:
            rows.expect_no_more()
            lines.expect_no_more()


class _View:
    """A reader that compares one of the two files with the records; it stops after the first fault."""

    def __init__(
        self,
        name: str,
        views: _Views,
        stack: ExitStack,
        *,
        is_sound: Callable[[bytes], bool] = bool,
        parse: Callable[[bytes], object] = bytes,
    ) -> None:
        path = views.directory / name
        self._path, self._report, self._is_sound = path, views.tell, is_sound
        self._must_be_whole, self._stale = views.is_finished, views.stale
        #: Returns the part of a line that must agree.
        self._parse = parse if views.is_late and not views.is_finished else bytes
        self._number = 0
        self._is_over = False
        self._file: BinaryIO | None = None
        with disk_faults(path, FileNotFoundError):
            if path.exists():
                self._file = stack.enter_context(path.open("rb"))

    def expect(self, wanted: bytes | None, url: str) -> None:
        """Compare the next line with the wanted one, which is for ``url``; with None, accept any line."""
        if self._is_over:
            return
        line = self._next()
        while line is not None and not self._is_same(line, wanted) and self._stale and self._is_sound(line):
            self._stale -= 1
            line = self._next()
        if line is None:
            if self._must_be_whole:
                self._fault("ends before the records do", f"no line for {url}")
            self._is_over = True
        elif not self._is_sound(line):
            self._fault("has a malformed line", line.decode(errors="backslashreplace")[:200])
        elif not self._is_same(line, wanted):
            self._fault("differs from the records", f"expected {url}")

    def _is_same(self, line: bytes, wanted: bytes | None) -> bool:
        return wanted in (None, line) or (wanted is not None and self._parse(line) == self._parse(wanted))

    def expect_no_more(self) -> None:
        """Check that no line follows."""
        while not self._is_over and self._next() is not None:
            if self._stale:
                self._stale -= 1
                continue
            self._fault("has more lines than the records", "after the last record")

    def _next(self) -> bytes | None:
        """Return the next whole line, or None. An incomplete line is a fault in a finished crawl only."""
        line = self._file.readline() if self._file is not None else b""
        self._number += 1
        if line.endswith(b"\n"):
            return line[:-1]
        if line and self._must_be_whole:
            self._fault("ends with an incomplete line", line.decode(errors="backslashreplace")[:200])
        return None

    def _fault(self, rule: str, example: str) -> None:
        if not self._is_over:
            self._report(f"{self._path.name} {rule}", f"line {self._number}: {example}")
        self._is_over = True


def _without_rows(line: bytes) -> object:
    """Return the record of a manifest row without its other list rows; an invalid row is returned as it is."""
    with suppress(ValueError):
        return structs.replace(_RECORD.decode(line), other_rows=())
    return line


def _is_record_line(line: bytes) -> bool:
    try:
        parse_record_line(line.decode("ascii"))
    except ValueError:
        return False
    return not line.endswith(b"\r")
