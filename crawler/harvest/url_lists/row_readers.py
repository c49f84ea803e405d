"""Readers of the formats of input lists: text, CSV, JSON lines and Parquet; the first three also with gzip.

The format follows from the file's name, or else from its beginning. A row that cannot be read is returned with a fault
and raises no exception. At most `_MAX_RECORD` bytes of a line are held in memory.
"""

import csv
import gzip
import io
import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from crawler.errors import ConfigError
from crawler.harvest.url_lists.column_roles import find_columns
from crawler.model import Kind

#: Most bytes of a line of text: a longer URL is not followed. And most bytes of a line of the other formats: JSON may
#: write a character of 2 bytes in 6, and `crawler.harvest.url_lists.column_roles` keeps 1 MiB of a row.
_MAX_LINE = 8_192
_MAX_RECORD = 6 * 2**20
#: Most lines of a CSV record with invalid quotes. A longer record, up to `_MAX_RECORD`, must have valid ones, so that a
#: stray quote does not join all rows up to the next quote.
_MAX_LOOSE_LINES = 20

#: Bytes at the beginning of a file that identify its format, and rows in them that are searched for URLs.
_HEAD = 65_536
_SAMPLE = 20
#: Most bytes of a bad line that its fault shows.
_SHOWN = 200
_BOM = b"\xef\xbb\xbf"
_URL = re.compile(r"\s*https?://\S+\s*", re.IGNORECASE)
#: Extension → possible delimiters, the most likely first; and extensions of JSON lines.
_DELIMITERS = {"csv": ",;\t|", "tsv": "\t", "tab": "\t"}
_JSON_LINES = frozenset({"jsonl", "ndjson", "jsonlines", "json"})
_ONE_COLUMN = ("url",)


class ListLine(NamedTuple):
    """One row of a list. A row without values is a blank line or a comment."""

    #: Number of its first line, or of the row if the format has no lines, from 1.
    line: int
    #: Start of the next row, in bytes after decompression, or in rows.
    end: int
    names: tuple[str, ...] = ()
    values: Sequence[object] = ()
    #: Why it cannot be read, or empty.
    fault: str = ""


class _Line(NamedTuple):
    number: int
    start: int
    end: int
    data: bytes
    #: Whether ``data`` is only the beginning of the line.
    is_cut: bool

    def row(self, values: Sequence[object] = (), names: tuple[str, ...] = _ONE_COLUMN) -> ListLine:
        return ListLine(self.number, self.end, names, values)

    def fault(self, reason: str) -> ListLine:
        return ListLine(self.number, self.end, fault=f"{reason}: {self.data.strip()[:_SHOWN]!r}")


def read_rows(path: Path, entries: Kind, start: int = 0) -> Generator[ListLine, None, None]:
    """Yield the rows that begin at ``start`` or later. The file stays open until the last row, or until `close`.

    Raises:
        ConfigError: the file has no recognisable URLs; the message says what to do.
        OSError, EOFError, ValueError: the file, its compression or its Parquet data is damaged from here on.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic == b"PAR1":
            yield from _parquet_rows(file, path, entries, start)
        elif magic.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield from _line_rows(unpacked, path, entries, start)
        else:
            yield from _line_rows(file, path, entries, start)


def _line_rows(file: BinaryIO | gzip.GzipFile, path: Path, entries: Kind, start: int) -> Iterator[ListLine]:
    head = file.read(_HEAD).removeprefix(_BOM)
    file.seek(0)
    extension = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    delimiters = _DELIMITERS.get(extension, "")
    first = next((line for line in map(bytes.strip, head.splitlines()) if line and not line.startswith(b"#")), b"")
    if extension in _JSON_LINES or (not delimiters and first.startswith((b"{", b'"'))):
        if first.startswith(b"["):
            raise ConfigError(f"{path} is one JSON array; write one object or one URL per line instead")
        yield from map(_json_row, _skip_to(_lines(file, _MAX_RECORD), start))
        return
    table = _table(head, delimiters or "\t,;|", entries, is_sure=bool(delimiters)) if first else None
    if table is None and delimiters and first:
        advice = "name the column of URLs 'url', in the first line of the file"
        raise ConfigError(f"{path} has no column that is known to contain URLs; {advice}")
    if table is None:
        yield from map(_text_row, _skip_to(_lines(file, _MAX_LINE), start))
    else:
        yield from _csv_rows(_lines(file, _MAX_RECORD), table, start)


# lines ----------------------------------------------------------------------------------------------------------------


def _lines(file: BinaryIO | gzip.GzipFile, limit: int) -> Iterator[_Line]:
    """Yield every line of a file, cut after ``limit`` bytes."""
    number = end = 0
    while data := file.readline(limit):
        number, start, end = number + 1, end, end + len(data)
        is_cut = is_open = len(data) == limit and not data.endswith(b"\n")
        while is_open and (piece := file.readline(_HEAD)):
            end += len(piece)
            is_open = not piece.endswith(b"\n")
        yield _Line(number, start, end, data.removeprefix(_BOM) if number == 1 else data, is_cut)


def _skip_to(lines: Iterable[_Line], start: int) -> Iterator[_Line]:
    return (line for line in lines if line.start >= start)


def _text_row(line: _Line) -> ListLine:
    text = line.data.strip()
    if text.startswith(b"#") or not (text or line.is_cut):
        return line.row()
    if line.is_cut:
        return line.fault(f"more than {_MAX_LINE} bytes")
    try:
        return line.row((text.decode(),))
    except UnicodeDecodeError:
        return line.fault("not UTF-8")


def _json_row(line: _Line) -> ListLine:
    if line.is_cut:
        return line.fault(f"more than {_MAX_RECORD} bytes")
    if not line.data.strip():
        return line.row()
    try:
        value = msgspec.json.decode(line.data)
    except (ValueError, RecursionError):
        return line.fault("not JSON")
    if isinstance(value, dict):
        return line.row(tuple(value.values()), tuple(value))
    return line.row((value,)) if isinstance(value, str) else line.fault("neither an object nor a string")


# tables ---------------------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    delimiter: str
    names: tuple[str, ...]
    has_header: bool


def _table(head: bytes, delimiters: str, entries: Kind, *, is_sure: bool) -> _Table | None:
    """Return the layout of a table, from its first rows, or None if no column contains URLs.

    Unless ``is_sure``, the file is a table only if it has a header with the name of a URL column, or tabs.
    """
    samples = [(delimiter, rows) for delimiter in delimiters if (rows := _sample(head, delimiter))]
    for delimiter, rows in samples:
        names = tuple(rows[0])
        if (is_sure or len(names) > 1) and not _urls(names) and find_columns(names, entries):
            return _Table(delimiter, names, has_header=True)
    samples.sort(
        key=lambda sample: -min(map(len, sample[1]))
    )  # first the delimiter that splits every row into the most cells
    for delimiter, rows in samples:
        columns = [index for row in rows for index in _urls(row)]
        if columns and (is_sure or (delimiter == "\t" and len(rows[0]) > 1)):
            column, has_header = min(columns), not _urls(rows[0])
            names = tuple(rows[0]) if has_header else tuple(map(str, range(1, max(map(len, rows)) + 1)))
            return _Table(delimiter, (*names[:column], "url", *names[column + 1 :]), has_header)
    return None


def _urls(row: Sequence[str]) -> list[int]:
    """Return the indices of the cells that are URLs."""
    return [index for index, cell in enumerate(row) if _URL.fullmatch(cell)]


def _sample(head: bytes, delimiter: str) -> list[list[str]]:
    """Return the first rows, up to the first that cannot be read."""
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(head.decode("utf-8", "replace"), newline=""), delimiter=delimiter)
    with suppress(csv.Error):
        rows.extend(row for row in islice(reader, _SAMPLE) if row)
    return rows


def _csv_rows(lines: Iterator[_Line], table: _Table, start: int) -> Iterator[ListLine]:
    """Yield the records of RFC 4180. An unterminated quote costs only its line; see `_MAX_LOOSE_LINES`."""
    pending: deque[_Line] = deque()
    is_header = table.has_header
    while (line := pending.popleft() if pending else next(lines, None)) is not None:
        if line.start < start and not is_header:
            continue
        record = _Record(line, pending, lines)
        row = _csv_row(record, table)
        if is_header and row.values:
            is_header, row = False, ListLine(row.line, row.end)
        if line.start >= start:
            yield row


class _Record:
    """The lines of one record, read on demand."""

    def __init__(self, first: _Line, pending: deque[_Line], lines: Iterator[_Line]) -> None:
        self.taken = [first]
        self.is_open = False
        self._pending, self._lines = pending, lines

    def __iter__(self) -> Iterator[str]:
        yield _decoded(self.taken[0])
        size = len(self.taken[0].data)
        while len(self.taken) < _MAX_LOOSE_LINES or size <= _MAX_RECORD:
            line = self._pending.popleft() if self._pending else next(self._lines, None)
            if line is None:
                break
            self.taken.append(line)
            size += len(line.data)
            yield _decoded(line)
        self.is_open = True

    def give_back(self) -> None:
        """Return all lines but the first to the queue of pending lines."""
        self._pending.extendleft(reversed(self.taken[1:]))


def _csv_row(record: _Record, table: _Table) -> ListLine:
    first = record.taken[0]
    csv.field_size_limit(max(_MAX_RECORD, csv.field_size_limit()))  # the limit is that of the whole process
    try:
        values = next(csv.reader(record, delimiter=table.delimiter))
        if len(record.taken) > _MAX_LOOSE_LINES and not record.is_open:
            next(csv.reader(map(_decoded, record.taken), delimiter=table.delimiter, strict=True))
    except csv.Error as error:
        record.give_back()
        return first.fault(str(error))
    if record.is_open:
        record.give_back()
        return first.fault("unterminated quotes")
    if any(line.is_cut for line in record.taken) or sum(len(line.data) for line in record.taken) > _MAX_RECORD:
        return first.fault(f"more than {_MAX_RECORD} bytes")._replace(end=record.taken[-1].end)
    return ListLine(first.number, record.taken[-1].end, table.names, values)


def _decoded(line: _Line) -> str:
    """Decode a line, which may be in another encoding. A URL with replacement characters is refused later."""
    return line.data.decode("utf-8", "replace")


# Parquet --------------------------------------------------------------------------------------------------------------


def _parquet_rows(file: BinaryIO, path: Path, entries: Kind, start: int) -> Iterator[ListLine]:
    """Yield the rows, with the columns of plain values: group by group, a hundred at a time, as rows may be long."""
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(f"to read {path}, install the extra: pip install 'imgcrawler[parquet]'") from error
    try:
        table = parquet.ParquetFile(file)
        names = tuple(field.name for field in table.schema_arrow if _is_plain(arrow, field.type))
        if find_columns(names, entries) is None:
            advice = "name the column of URLs 'url'"
            raise ConfigError(f"{path} has no column that is known to contain URLs; {advice}")
        number = 0
        for group in range(table.num_row_groups):
            size = table.metadata.row_group(group).num_rows
            if number + size <= start:
                number += size
                continue
            for batch in table.iter_batches(100, row_groups=[group], columns=list(names), use_threads=False):
                for values in zip(*map(_values, batch.columns), strict=True):
                    number += 1
                    if number > start:
                        yield ListLine(number, number, names, values)
    except (arrow.ArrowException, NotImplementedError) as error:
        raise ValueError(f"{path}: {error}") from error


def _is_plain(arrow: Any, kind: Any) -> bool:
    """Return whether values of a type are strings, numbers, dates and the like, not bytes or nested values."""
    types = arrow.types
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return not (is_bytes or types.is_nested(kind))


def _values(column: Any) -> list[object]:
    """Return a column as Python values: all None if Python cannot represent one, such as a date in the year 10000."""
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [None] * len(column)
