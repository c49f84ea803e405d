"""The record files that users and programs read: ``manifest.jsonl`` and ``results.txt``.

Both are copies of the frontier's records, appended batch by batch and in the same order; the frontier never takes its
state from them. On start, an incomplete last line is cut, and files that disagree with the records are rewritten.
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
from crawler.store.disk import disk_faults, write_file
from crawler.urls import format_record_line, parse_record_line

#: ``frontier.records(after, limit)``: at most ``limit`` records with their numbers, which are above ``after``.
Records = Callable[[int, int], Sequence[tuple[int, ImageRecord]]]

_log = logging.getLogger(__name__)
_PAGE = 1_000


def row_json(record: ImageRecord) -> bytes:
    """Return the record as a manifest row, a JSON object with all fields, without a line break."""
    return msgspec.json.encode(structs.asdict(record))


def record_line(record: ImageRecord) -> str:
    """Return ``url--->success`` (duplicates too) or ``url--->failed: reason``, without a line break."""
    return format_record_line(record.url, (record.reason or "internal") if record.status == "failed" else "")


def read_manifest(path: Path) -> Iterator[ImageRecord]:
    """Yield the rows of a ``manifest.jsonl``, without an incomplete last line.

    Raises:
        ConfigError: the file does not exist, or has an invalid line, which the message names.
        DiskError: the file can't be read.
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
    """Writer of the two record files of one directory; for one thread of one process.

    Every method raises `DiskError` if the disk reports an error; the next `resume` repairs the files after that.
    """

    def __init__(self, directory: Path) -> None:
        self.manifest = directory / "manifest.jsonl"
        self.results = directory / "results.txt"
        #: Number of the last record in the files.
        self.last = 0
        self._files: list[FileIO] = []

    def resume(self, records: Records, *, is_ours: bool = False) -> int:
        """Repair the files; return the number of the last record in them, after which writing continues.

        Rows are numbered from 1 without gaps unless requests were retried. Then, or if the files belong to another
        crawl, they are rewritten.

        Raises:
            DiskError: the same crawl wrote the files (``is_ours``), but lacks some of their records; or the disk
                reports an error.
        """
        self.close()
        rows = _survey(self.manifest, _url_of_row)
        lines = _survey(self.results, _url_of_line)
        # The last line must be the record of the frontier with the same number.
        counterpart = [(number, record.url) for number, record in records(rows.count - 1, 1)] if rows.count else []
        if is_ours and rows.count and not counterpart:
            raise self._records_lost()
        agrees = not rows.count or counterpart == [(rows.count, rows.url)]
        if (rows.count, rows.url) != (lines.count, lines.url) or not agrees:
            _log.info("rewriting the manifest", extra={"action": "rewrite"})
            self.rewrite(records)
            return self.last
        _cut(self.manifest, rows)
        _cut(self.results, lines)
        self.last = rows.count
        return self.last

    def cut(self, number: int, last: int) -> None:
        """Keep the first ``number`` lines, because later records are about to change; the caller then runs `rewrite`.

        The cut is durable on return, so that the remaining lines agree with the records before and after the change.

        Raises:
            DiskError: the files have more lines than ``last``, the number of the last record; or the disk reports an
                error.
        """
        self.close()
        if _survey(self.manifest, _url_of_row).count > last:
            raise self._records_lost()
        for path in (self.manifest, self.results):
            _keep(path, number)

    def _records_lost(self) -> DiskError:
        return DiskError(
            f"{self.manifest} has records that frontier.sqlite has lost: restore a copy of frontier.sqlite, or rename"
            " the manifest; the crawl then continues without them and requests their URLs again"
        )

    @property
    def is_torn(self) -> bool:
        """Whether one of the files has an incomplete last line."""
        return any(_is_torn(path) for path in (self.manifest, self.results))

    def mend(self) -> None:
        """Repair files without a frontier: cut incomplete last lines, and rewrite ``results.txt`` if it disagrees."""
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
        """Append records in their order, with one write to each file: to both files or to neither."""
        if not rows:
            return
        contents = (b"".join(_row(record) for _, record in rows), b"".join(_line(record) for _, record in rows))
        with disk_faults(self.manifest):
            files = self._open()
            ends = [file.seek(0, os.SEEK_END) for file in files]
            try:
                for file, content in zip(files, contents, strict=True):
                    _write(file, content)
            except OSError:
                for file, end in zip(files, ends, strict=True):
                    with suppress(OSError):
                        file.truncate(end)
                raise
        self.last = rows[-1][0]

    def rewrite(self, records: Records) -> None:
        """Write both files from all records, with one row per image URL: its last record."""
        self.close()
        replaced, last = _replaced(records)
        kept = (record for number, record in _all(records) if number <= last and number not in replaced)
        write_file(self.manifest, map(_row, kept), sync=True)
        write_file(self.results, map(_line, read_manifest(self.manifest)), sync=True)
        self.last = last

    def close(self) -> None:
        """Close the files; the next call opens them again."""
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
    """The complete lines of a file."""

    count: int = 0
    #: URL of the last complete line, or None.
    url: str | None = None
    #: Offset after the last complete line in bytes, and whether more bytes follow.
    end: int = 0
    torn: bool = False


def _survey(path: Path, url_of: Callable[[bytes], str | None]) -> _Survey:
    """Survey the complete lines of a file; the last one counts only if it can be parsed."""
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


def _is_torn(path: Path) -> bool:
    try:
        with disk_faults(path, FileNotFoundError), path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except FileNotFoundError:
        return False


def _cut(path: Path, survey: _Survey) -> None:
    """Cut the file after its last complete line."""
    if survey.torn:
        with disk_faults(path):
            os.truncate(path, survey.end)


def _keep(path: Path, number: int) -> None:
    """Cut a file after its first ``number`` lines, and sync it."""
    with disk_faults(path, FileNotFoundError), suppress(FileNotFoundError), path.open("r+b") as file:
        file.truncate(sum(map(len, islice(file, number))))
        os.fsync(file.fileno())


def _all(records: Records) -> Iterator[tuple[int, ImageRecord]]:
    after = 0
    while rows := records(after, _PAGE):
        yield from rows
        after = rows[-1][0]


def _replaced(records: Records) -> tuple[set[int], int]:
    """Return the numbers of the records that a later record of the same URL replaces, and the last number of all."""
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


def _write(file: FileIO, content: bytes) -> None:
    """Write all of the content: with one call, unless the system writes only a part."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
