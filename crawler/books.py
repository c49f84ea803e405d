"""Whether the books of a crawl agree: its database in itself, the manifest with it, and what lies beside them.

Only looked at, never written to, also while a master works. Then, and after a kill, less is certain: the manifest is a
part of the records, leases are open, files are half written. A crawl is *finished* when nothing waits and its
master has ended well; then all must be there, and nothing more.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from msgspec import Struct

from crawler.entries import PICTURES, folders_in
from crawler.errors import DiskError
from crawler.frontier.journal import Journal
from crawler.frontier.proof import Books, OnProgress, Tell
from crawler.frontier.soundness import UNREADABLE, is_damage
from crawler.lock import try_to_own
from crawler.manifest import read_manifest, record_line, row_json
from crawler.model import ImageRecord
from crawler.paths import hash_in
from crawler.storage import disk_faults, is_part
from crawler.urls import parse_record_line

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Examples of one fault that are listed, and how much of one, characters.
MAX_EXAMPLES, _MAX_EXAMPLE = 5, 300
#: Seconds for which somebody may have the directory who only looks at it.
_LOOK_SECONDS = 2.0


class Fault(Struct, frozen=True, kw_only=True):
    """A rule that does not hold: what is wrong, how often, and the first few examples, as a hostile page wrote them."""

    rule: str
    number: int
    examples: tuple[str, ...]


class Faults:
    """Collects what breaks rules."""

    def __init__(self) -> None:
        self._numbers: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def tell(self, rule: str, example: str) -> None:
        """One more fault."""
        self._numbers[rule] += 1
        examples = self._examples.setdefault(rule, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(example[:_MAX_EXAMPLE])

    def all(self) -> tuple[Fault, ...]:
        """In the order in which their rules were broken first."""
        return tuple(
            Fault(rule=rule, number=number, examples=tuple(self._examples[rule]))
            for rule, number in self._numbers.items()
        )


class Balance(Struct, frozen=True, kw_only=True):
    """What the books say."""

    #: Image URLs by their state: ``waiting`` (those on loan are among them), ``success``, ``duplicate``, ``failed``.
    images: dict[str, int]
    is_running: bool = False
    #: Whether nothing waits, and the master has ended well.
    is_finished: bool = False


@contextmanager
def opened(
    directory: Path, tell: Tell, on_progress: OnProgress
) -> Iterator[tuple[Balance | None, Iterable[ImageRecord], Iterable[str]]]:
    """Prove the books of a crawl; yields what they say, the records, and paths that records have named before.

    A store has no books, only a manifest.

    Raises:
        ConfigError: there are neither records nor a manifest.
        DiskError: the disk refuses.
    """
    path = directory / "frontier.sqlite"
    with ExitStack() as stack:
        if not path.exists():
            yield None, read_manifest(directory / "manifest.jsonl"), ()
            return
        past: Iterable[str] = ()
        is_running = _is_running(directory, stack)
        try:
            books = stack.enter_context(Books(path, is_still=not is_running and not _has_log(path)))
            books.prove(tell, on_progress)
            is_finished = books.is_over and not is_running and books.has_ended_well
            balance = Balance(images=dict(books.images), is_running=is_running, is_finished=is_finished)
            stale = 0 if is_finished else _stale(books)
            _compare(directory, books.lines(), tell, is_running=is_running, is_finished=is_finished, stale=stale)
            if is_finished:
                _look_at_leases(directory, tell)
            books.let_go()
            records = _as_far_as_readable(books.records(), tell)
            past = _as_far_as_readable(books.past(), tell)
        except UNREADABLE as error:
            if not is_damage(error):
                raise DiskError(f"cannot read {path}: {error}") from error
            tell("the database is damaged", str(error))
            balance = Balance(images={}, is_running=is_running)
            records = _as_far_as_told(directory / "manifest.jsonl")
        yield balance, records, past


def walk(root: Path, tell: Tell, *, is_finished: bool) -> Iterator[Path]:
    """What lies below ``images/`` of a store, but folders, unfinished files, and links that lead out of it.

    Whatever has a picture's name is in that one's place, be it a folder or a link.
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
    """Whether a master is at work; if not, none can begin before the stack is closed."""
    try:
        release = try_to_own(directory, patience=_LOOK_SECONDS)
    except DiskError:  # nobody can write here, so nobody is at work
        return False
    if release is None:
        return True
    stack.callback(release)
    return False


def _has_log(path: Path) -> bool:
    """Whether something is left in SQLite's write-ahead log."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


def _stale(books: Books) -> int:
    """How many lines there may be of records that others have replaced, until the files are written anew at the end.

    Every record that takes the place of another has a number of its own.
    """
    refresh = books.refresh
    return max(0, books.last - refresh.record) if refresh.number else 0


def _as_far_as_readable(rows: Iterator[T], tell: Tell) -> Iterator[T]:
    try:
        yield from rows
    except UNREADABLE as error:
        tell("the database is damaged", str(error))


def _as_far_as_told(manifest: Path) -> Iterator[ImageRecord]:
    if manifest.exists():
        yield from read_manifest(manifest)


def _look_at_leases(directory: Path, tell: Tell) -> None:
    turns, _ = Journal(directory / "leases.log").replay()
    for turn in turns:
        if turn.rows:
            tell("a lease is open in a finished crawl", f"{turn.worker} at {turn.host}")


def _compare(
    directory: Path,
    records: Iterable[ImageRecord | None],
    tell: Tell,
    *,
    is_running: bool,
    is_finished: bool,
    stale: int,
) -> None:
    """Manifest and results are the records in their order: all of them in the end, until then the first ones.

    During a refresh there are lines between them of records that are no more, up to ``stale``.
    """
    with ExitStack() as stack:
        rows = _View(directory / "manifest.jsonl", tell, stack, must_be_whole=is_finished, stale=stale)
        lines = _View(
            directory / "results.txt",
            tell,
            stack,
            must_be_whole=is_finished,
            stale=stale,
            is_sound=_is_record_line,
        )
        for record in records:
            url = record.url if record else "a record that can't be read"
            rows.expect(row_json(record) if record else None, url)
            lines.expect(record_line(record).encode() if record else None, url)
        if not is_running:
            rows.expect_no_more()
            lines.expect_no_more()


class _View:
    """One of the two files, line by line; after its first fault the rest of it says nothing more."""

    def __init__(
        self,
        path: Path,
        tell: Tell,
        stack: ExitStack,
        *,
        must_be_whole: bool,
        stale: int,
        is_sound: Callable[[bytes], bool] = bool,
    ) -> None:
        self._path, self._tell, self._is_sound = path, tell, is_sound
        self._must_be_whole, self._stale = must_be_whole, stale
        self._number = 0
        self._is_over = False
        self._file: BinaryIO | None = None
        with disk_faults(path, FileNotFoundError):
            if path.exists():
                self._file = stack.enter_context(path.open("rb"))

    def expect(self, wanted: bytes | None, url: str) -> None:
        """The next line is to be this one, which is about ``url``; None: whichever."""
        if self._is_over:
            return
        line = self._next()
        while line is not None and wanted not in (None, line) and self._stale and self._is_sound(line):
            self._stale -= 1
            line = self._next()
        if line is None:
            if self._must_be_whole:
                self._fault("ends before the records do", f"nothing of {url}")
            self._is_over = True
        elif not self._is_sound(line):
            self._fault("has a line that breaks the grammar", line.decode(errors="backslashreplace")[:200])
        elif wanted is not None and line != wanted:
            self._fault("says something else than the records", f"where {url} should be")

    def expect_no_more(self) -> None:
        """That was all."""
        while not self._is_over and self._next() is not None:
            if self._stale:
                self._stale -= 1
                continue
            self._fault("goes on where the records end", "more lines than records")

    def _next(self) -> bytes | None:
        """The next whole line without its end; a torn one is a fault in a finished crawl only."""
        line = self._file.readline() if self._file is not None else b""
        self._number += 1
        if line.endswith(b"\n"):
            return line[:-1]
        if line and self._must_be_whole:
            self._fault("ends within a line", line.decode(errors="backslashreplace")[:200])
        return None

    def _fault(self, what: str, example: str) -> None:
        if not self._is_over:
            self._tell(f"{self._path.name} {what}", f"line {self._number}: {example}")
        self._is_over = True


def _is_record_line(line: bytes) -> bool:
    try:
        parse_record_line(line.decode("ascii"))
    except ValueError:
        return False
    return not line.endswith(b"\r")
