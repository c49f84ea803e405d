"""Rows of the user's lists that do not fit into a request: long rows, and rows that repeat a URL.

They stay in the crawl's database and are never sent with a lease. They are added to a record when it is exported.
"""

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from crawler.model import ImageRecord, ListRow, Request

#: Most characters of one text of a request, and most bytes of its columns, that are sent with a lease.
MAX_TEXT, MAX_COLUMNS = 1_000, 4_096
#: Most bytes of the rows that are kept for one URL: its manifest line must fit into memory and into one response.
_MAX_KEPT = 16 * 2**20
#: Bytes of rows after which a page of records ends.
_PAGE_BYTES = 4 * 2**20
_LAST = 2**63 - 1

_EMPTY = ListRow()
_WORDS = ("alt", "title", "caption")
_ROW = msgspec.json.Decoder(ListRow)

_RECORDS = "SELECT seq, data FROM record_data WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
_HAS_ROWS = "SELECT EXISTS (SELECT 1 FROM list_row)"
_ROWS = (
    "SELECT seq, own, data FROM record CROSS JOIN list_row ON list_row.request = record.request"
    " WHERE seq > ? AND seq <= ? ORDER BY seq, list_row.id"
)
_SIZE = "SELECT until FROM list_row WHERE request = ? ORDER BY id DESC LIMIT 1"
_ADD = "INSERT OR IGNORE INTO list_row (request, digest, own, until, data) VALUES (?,?,?,?,?)"
_IS_KNOWN = "SELECT EXISTS (SELECT 1 FROM list_row WHERE request = ? AND digest = ?)"


class StoredRecord(NamedTuple):
    """A record as stored, and its list rows: for each, whether it is the record's own row, and its JSON."""

    seq: int
    data: bytes
    rows: Sequence[tuple[int, bytes]] = ()


def short(request: Request) -> Request:
    """Return a request with the texts and columns of its row cut to the limits for a lease."""
    longest = max(len(request.alt), len(request.title), len(request.caption))
    if longest <= MAX_TEXT and len(request.columns) * 4 <= MAX_COLUMNS:
        return request
    words = {name: getattr(request, name)[:MAX_TEXT].rstrip() for name in _WORDS}
    columns = request.columns if len(request.columns.encode()) <= MAX_COLUMNS else ""
    cut = msgspec.structs.replace(request, **words, columns=columns)
    return request if cut == request else cut


def row_in(request: Request) -> ListRow:
    """Return the list row of a request."""
    return ListRow(alt=request.alt, title=request.title, caption=request.caption, columns=request.columns)


def is_news(row: ListRow, request: Request) -> bool:
    """Return whether a row has information that a request lacks."""
    return row not in (_EMPTY, row_in(request))


def keep(database: sqlite3.Connection, request: int, digest: int, data: bytes, *, is_own: bool = False) -> bool | None:
    """Add a row to a request. Return False if the request already has this row, None if the row exceeds `_MAX_KEPT`."""
    kept = database.execute(_SIZE, (request,)).fetchone()
    size = len(data) + (kept[0] if kept else 0)
    if size > _MAX_KEPT:
        return False if database.execute(_IS_KNOWN, (request, digest)).fetchone()[0] else None
    return database.execute(_ADD, (request, digest, is_own, size, data)).rowcount > 0


def read_records(database: sqlite3.Connection, after: int, limit: int, upto: int = _LAST) -> list[StoredRecord]:
    """Return up to ``limit`` records above ``after``, in order and with their rows; at least one if any exists."""
    records = [StoredRecord(*row) for row in database.execute(_RECORDS, (after, upto, limit))]
    if not records or not database.execute(_HAS_ROWS).fetchone()[0]:
        return records
    rows: dict[int, list[tuple[int, bytes]]] = {}
    last, size = records[-1].seq, 0
    for seq, own, data in database.execute(_ROWS, (after, last)):
        if size > _PAGE_BYTES and seq not in rows:
            last = seq - 1
            break
        rows.setdefault(seq, []).append((own, data))
        size += len(data)
    return [record._replace(rows=rows.get(record.seq, ())) for record in records if record.seq <= last]


def with_rows(record: ImageRecord, rows: Sequence[tuple[int, bytes]]) -> ImageRecord:
    """Return a record with its own row in full and its other rows. Raise `msgspec.MsgspecError` if a row is invalid."""
    if not rows:
        return record
    others = tuple(_ROW.decode(data) for own, data in rows if not own)
    record = msgspec.structs.replace(record, other_rows=others)
    for full in (_ROW.decode(data) for own, data in rows if own):
        words = msgspec.structs.asdict(full)
        record = msgspec.structs.replace(record, **words)
    return record
