"""Records as files that people and programs read: ``manifest.jsonl`` and ``results.txt``.

Both are views of the frontier's records, appended batch by batch and in the same order; neither is ever asked what
the truth is. What a killed process left torn is cut on start, and what doesn't fit is written anew.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import FileIO
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from crawler.errors import ConfigError, DiskError
from crawler.model import ImageRecord
from crawler.storage import disk_faults, write_file
from crawler.urls import format_record_line, parse_record_line

__all__ = ["ManifestWriter", "Records", "read_manifest", "record_line", "row_json"]

#: ``frontier.records``: records with their numbers, from the first number above ``after``, at most ``limit``.
Records = Callable[[int, int], Sequence[tuple[int, ImageRecord]]]

_log = logging.getLogger(__name__)
_PAGE = 1_000


def row_json(record: ImageRecord) -> bytes:
    """The record as a manifest row, a JSON object with all names, without a line break."""
    return msgspec.json.encode(structs.asdict(record))


def record_line(record: ImageRecord) -> str:
    """The record as ``url--->success`` (duplicates too) or ``url--->failed: reason``, without a line break."""
    return format_record_line(record.url, (record.reason or "internal") if record.status == "failed" else "")


def read_manifest(path: Path) -> Iterator[ImageRecord]:
    """The rows of a ``manifest.jsonl``, one at a time; a torn last line is dropped.

    Raises:
        ConfigError: there is no such file, or one of its lines is no row; the message names the line.
        DiskError: it can't be read.
    """
    try:
        with disk_faults(path, FileNotFoundError), path.open("rb") as file:
            for number, line in enumerate(file, 1):
                record = _decode(line)
                if record is not None:
                    yield record
                elif line.endswith(b"\n"):
                    raise ConfigError(f"{path}:{number}: not a manifest row: restore the file or delete that line")
    except FileNotFoundError as error:
        raise ConfigError(f"no manifest at {path}: name the directory of a crawl or of a store") from error


class ManifestWriter:
    """Keeps the two files of one directory in step with the records; for one thread of one process.

    Every method raises `DiskError` when the disk refuses; the next `resume` finds whatever that left.
    """

    def __init__(self, directory: Path) -> None:
        self.manifest = directory / "manifest.jsonl"
        self.results = directory / "results.txt"
        #: Number of the last record in the files.
        self.last = 0
        self._files: list[FileIO] = []

    def resume(self, records: Records, *, is_ours: bool = False) -> int:
        """Mend the files and find where to go on: the number of the last record in them.

        Rows are numbered from 1 without gaps unless some were tried again; then, or where the files belong to
        another crawl, they are written anew.

        Raises:
            DiskError: these are files that the same crawl has written (``is_ours``), and it has lost records of theirs;
                or the disk refuses.
        """
        self.close()
        rows = _survey(self.manifest, _url_of_row)
        lines = _survey(self.results, _url_of_line)
        if is_ours and rows.count and not records(rows.count - 1, 1):
            raise self._lost()
        if (rows.count, rows.url) != (lines.count, lines.url) or not _agrees(rows, records):
            _log.info("writing the manifest anew", extra={"action": "rewrite"})
            self.rewrite(records)
            return self.last
        _cut(self.manifest, rows)
        _cut(self.results, lines)
        self.last = rows.count
        return self.last

    def cut(self, number: int, last: int) -> None:
        """Keep so many lines, as the records behind them are about to change; `rewrite` is to follow.

        Durable when it returns, so that what is left agrees with the records before and after the change.

        Raises:
            DiskError: the files have more lines than ``last``, the number of the last record; or the disk refuses.
        """
        self.close()
        if _survey(self.manifest, _url_of_row).count > last:
            raise self._lost()
        for path in (self.manifest, self.results):
            _keep(path, number)

    def _lost(self) -> DiskError:
        return DiskError(
            f"{self.manifest} has records that frontier.sqlite has lost: put back a copy of that, or rename the"
            " manifest to go on with what is left"
        )

    @property
    def is_torn(self) -> bool:
        """Whether one of the files ends within a line."""
        return any(_ends_within_a_line(path) for path in (self.manifest, self.results))

    def mend(self) -> None:
        """Mend the files where they are all there is: a torn end is cut, and the lines are made to agree."""
        self.close()
        rows = _survey(self.manifest, _url_of_row)
        lines = _survey(self.results, _url_of_line)
        _cut(self.manifest, rows)
        if (rows.count, rows.url) == (lines.count, lines.url):
            _cut(self.results, lines)
        else:
            write_file(self.results, map(_line, read_manifest(self.manifest)), sync=True)
        self.last = rows.count

    def append(self, rows: Sequence[tuple[int, ImageRecord]]) -> None:
        """Add records, in their order: one write to each file, both or neither."""
        if not rows:
            return
        texts = (b"".join(_row(record) for _, record in rows), b"".join(_line(record) for _, record in rows))
        with disk_faults(self.manifest):
            files = self._open()
            ends = [file.seek(0, os.SEEK_END) for file in files]
            try:
                for file, text in zip(files, texts, strict=True):
                    _write(file, text)
            except OSError:
                for file, end in zip(files, ends, strict=True):
                    with suppress(OSError):
                        file.truncate(end)
                raise
        self.last = rows[-1][0]

    def rewrite(self, records: Records) -> None:
        """Write both files from all records, one row per image URL: the last one of each."""
        self.close()
        replaced, last = _replaced(records)
        kept = (record for number, record in _all(records) if number <= last and number not in replaced)
        write_file(self.manifest, map(_row, kept), sync=True)
        write_file(self.results, map(_line, read_manifest(self.manifest)), sync=True)
        self.last = last

    def close(self) -> None:
        """Let go of the files; the next call opens them again."""
        for file in self._files:
            file.close()
        self._files = []

    def _open(self) -> list[FileIO]:
        if not self._files:
            self.manifest.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.manifest, self.results)[len(self._files) :]:
            self._files.append(FileIO(path, "ab"))
        return self._files


class _Survey(Struct, frozen=True, kw_only=True):
    """The whole lines of a file."""

    count: int = 0
    #: URL of the last one; None where there is none.
    url: str | None = None
    #: Byte behind the last one, and whether there is more.
    end: int = 0
    torn: bool = False


def _survey(path: Path, url_of: Callable[[bytes], str | None]) -> _Survey:
    """Count the whole lines; the last one counts only if it can be read."""
    count = end = 0
    last = before = b""
    try:
        with disk_faults(path, FileNotFoundError), path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                count, end, last, before = count + 1, end + len(line), line, last
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        return _Survey()
    url = url_of(last) if last else None
    if last and url is None:
        count, end, url = count - 1, end - len(last), url_of(before) if before else None
    return _Survey(count=count, url=url, end=end, torn=end < size)


def _ends_within_a_line(path: Path) -> bool:
    try:
        with disk_faults(path, FileNotFoundError), path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except FileNotFoundError:
        return False


def _cut(path: Path, found: _Survey) -> None:
    """Cut what is behind the last whole line."""
    if found.torn:
        with disk_faults(path):
            os.truncate(path, found.end)


def _keep(path: Path, number: int) -> None:
    """Keep the first lines of a file, durably."""
    with disk_faults(path, FileNotFoundError), suppress(FileNotFoundError), path.open("r+b") as file:
        file.truncate(sum(map(len, islice(file, number))))
        os.fsync(file.fileno())


def _agrees(found: _Survey, records: Records) -> bool:
    """Whether the last of the lines found is what the frontier has under that number."""
    if not found.count:
        return True
    rows = records(found.count - 1, 1)
    return bool(rows) and rows[0][0] == found.count and rows[0][1].url == found.url


def _all(records: Records) -> Iterator[tuple[int, ImageRecord]]:
    after = 0
    while rows := records(after, _PAGE):
        yield from rows
        after = rows[-1][0]


def _replaced(records: Records) -> tuple[set[int], int]:
    """Numbers of the records that a later one of the same URL replaces, and the last number of all."""
    replaced: set[int] = set()
    latest: dict[int, int] = {}  # keyed by hash: 64 bits instead of the URLs of a whole crawl
    last = 0
    for last, record in _all(records):
        key = hash(record.url)
        if key in latest:
            replaced.add(latest[key])
        latest[key] = last
    return replaced, last


def _row(record: ImageRecord) -> bytes:
    return row_json(record) + b"\n"


def _line(record: ImageRecord) -> bytes:
    return record_line(record).encode("ascii") + b"\n"


def _decode(line: bytes) -> ImageRecord | None:
    try:
        return msgspec.json.decode(line, type=ImageRecord)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _url_of_row(line: bytes) -> str | None:
    record = _decode(line)
    return None if record is None else record.url


def _url_of_line(line: bytes) -> str | None:
    try:
        return parse_record_line(line.decode("ascii"))[0]
    except ValueError:
        return None


def _write(file: FileIO, text: bytes) -> None:
    """All of it: one call, unless the disk takes less."""
    view = memoryview(text)
    while view:
        view = view[file.write(view) :]
