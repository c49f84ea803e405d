"""Consistency check of the tables of a crawl: rules that hold at any time, even after a kill. Read-only.

The text of a rule describes the fault, such as "requests are missing". The check reads all rows in one read transaction
and keeps nothing in memory, so it can handle millions of rows. Its only effect on a running master is that the
write-ahead log cannot be copied into the database meanwhile.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from crawler.frontier.counters import TOTALS
from crawler.frontier.host_health import HEALTH
from crawler.frontier.ledger.database import refuse_other_release
from crawler.frontier.ledger.history import REFRESH, Refresh, refresh_in
from crawler.frontier.ledger.integrity import mark_of, open_to_read
from crawler.frontier.ledger.key_index import key_of, written
from crawler.frontier.ledger.listed_rows import StoredRecord, read_records, with_rows
from crawler.frontier.ledger.request_keys import name_of, valid_origin
from crawler.frontier.ledger.requests import LATE_ROWS
from crawler.frontier.ledger.rows import DONE, FAILED, KINDS, PAGE, RECORD, REQUEST, WAITING
from crawler.frontier.ledger.schema import LEFT
from crawler.model import PIN_MISMATCH, REASONS, ImageRecord, ListRow, PriorFetch, Request, RobotsRules, released
from crawler.paths import hash_in, is_picture, is_safe

#: Receives each fault: the rule and an example. The example may contain any text of a hostile page.
OnFault = Callable[[str, str], None]
#: Receives the number of rows checked so far, from time to time.
OnProgress = Callable[[int], None]

_RULES = msgspec.json.Decoder(RobotsRules)
_LIST_ROW = msgspec.json.Decoder(ListRow)
_REFRESH = msgspec.json.Decoder(Refresh)
_PRIOR = msgspec.json.Decoder(PriorFetch)
_PATHS = msgspec.json.Decoder(tuple[str, ...])
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REASON = re.compile(r"http-[1-9][0-9][0-9]")

_REQUESTS = (
    "SELECT request.id, hash, kind, origin.name, priority, seed, state, reason, request_data.data,"
    " request.record, record.request, status, bytes, store, copy, twin, change, record_data.data FROM request"
    " LEFT JOIN request_data ON request_data.id = request.id LEFT JOIN origin ON origin.id = request.origin"
    " LEFT JOIN record ON record.seq = request.record LEFT JOIN record_data ON record_data.seq = request.record"
)
_STRAY_RECORDS = (
    "SELECT seq FROM record WHERE NOT EXISTS (SELECT 1 FROM request WHERE id = record.request AND record = seq)"
)
#: Queries for rows with a value in JSON, each with the rule that it breaks if it can't be decoded.
_DECODED: tuple[tuple[str, "msgspec.json.Decoder[Any]", str], ...] = (
    ("the health of a host can't be read", HEALTH, "SELECT name, state FROM host"),
    ("the robots rules of a host can't be read", _RULES, "SELECT name, rules FROM origin WHERE rules NOTNULL"),
    ("the validators of a page can't be read", _PRIOR, "SELECT 'row ' || request, data FROM visit"),
    ("a row of a list can't be read", _LIST_ROW, "SELECT 'row ' || request, data FROM list_row"),
)
#: Rows whose key leads to another row. Rows up to a number must be in the index. Later rows may be missing there, but
#: must not have a key of another row.
_LOST_KEYS = (
    "SELECT {row} FROM {table} LEFT JOIN {index} AS known ON known.key = {key} WHERE {key} NOTNULL"
    " AND ({row} <= ? OR known.row NOTNULL) AND known.row IS NOT {row}"
    " UNION ALL SELECT MAX({row}) FROM {table} WHERE {row} > ? AND {key} NOTNULL GROUP BY {key} HAVING COUNT(*) > 1"
)
_KEYS = (
    ("two requests have the same URL, or the index lacks one", "request", "request_index", "hash", "id"),
    ("two successes have the same content, or the index lacks one", "record", "copy_index", "copy", "seq"),
)
#: Pictures gathered from the records: the key of the content, store, path, status, and URL.
_PICTURES = "CREATE TEMP TABLE picture (copy INTEGER, store TEXT, path TEXT, status TEXT, url TEXT)"
_DUPLICATES_WITHOUT_FIRST = (
    "SELECT url FROM temp.picture AS double WHERE status = 'duplicate' AND NOT EXISTS (SELECT 1 FROM temp.picture"
    " WHERE status = 'success' AND copy = double.copy AND (store, path) = (double.store, double.path))"
)
#: Dropped near-duplicates must name the file of a first copy, or a file that was one before a refresh.
_DROPPED_WITHOUT_FILE = (
    "SELECT url FROM temp.picture AS dropped WHERE status = 'dropped' AND NOT EXISTS (SELECT 1 FROM temp.picture"
    " WHERE status = 'success' AND (store, path) = (dropped.store, dropped.path))"
    " AND NOT EXISTS (SELECT 1 FROM past WHERE past.path = dropped.path)"
)


class _RequestRow(NamedTuple):
    """The columns of a request and of its record, if it has one."""

    id: int
    hash: int
    kind: int
    origin: str | None
    priority: int
    seed: int
    state: int
    reason: str
    data: bytes
    #: Number of the record, or 0 if there is none; then the columns of the record.
    seq: int
    owner: int | None
    status: str
    size: int
    store: str
    copy: int | None
    twin: int | None
    change: str | None
    record: bytes | None


class LedgerCheck:
    """A read-only view of the tables of a crawl, with checks; a context manager.

    Args:
        path: the file.
        is_still: see `crawler.frontier.ledger.integrity.open_to_read`.

    Raises:
        sqlite3.DatabaseError: from any method, if the file can't be read. UnicodeDecodeError has the same meaning.
        DiskError: the file was written by another release.
    """

    def __init__(self, path: Path, *, is_still: bool) -> None:
        self._db = open_to_read(path, is_still=is_still)
        try:
            refuse_other_release(self._db, str(path))
            self._db.text_factory = _decode_text
            self._db.execute("BEGIN")
            #: Number of the last record.
            self.last = self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM record").fetchone()[0]
        except BaseException:
            self._db.close()
            raise
        #: Image URLs by their state: ``waiting``, ``success``, ``duplicate``, ``failed``.
        self.images: Counter[str] = Counter()
        #: Whether no request of any kind waits.
        self.is_over = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @property
    def has_ended_well(self) -> bool:
        """Return whether the last master ended cleanly and none is running."""
        return mark_of(self._db) == b""

    def prove(self, report: OnFault, on_progress: OnProgress) -> None:
        """Check every row of every table."""
        for (line,) in self._db.execute("PRAGMA integrity_check"):
            if line != "ok":
                report("the database is damaged", line)
        checks = _RowChecks(self._db, self._meta("secret")[:64], report, is_refreshed=self.refresh.number > 0)
        for row in starmap(_RequestRow, self._db.execute(_REQUESTS)):
            checks.check(row)
            if row.id % PAGE == 0:
                on_progress(checks.seen)
        checks.end()
        self.images, self.is_over = checks.images, checks.is_over

    @property
    def refresh(self) -> Refresh:
        """Return the last refresh, or an empty one if its stored value is invalid, which `prove` reports."""
        with suppress(msgspec.MsgspecError):
            return refresh_in(self._meta(REFRESH))
        return Refresh()

    def past(self) -> Iterator[str]:
        """Yield paths of files that a record named before a refresh, or before it took the file of a near-duplicate."""
        yield from (str(path) for (path,) in self._db.execute("SELECT path FROM past"))
        yield from _decoded(_PATHS, self._meta(LEFT)) or ()

    def lines(self) -> Iterator[ImageRecord | None]:
        """Yield all records up to the last one at the start, in order, with None for one that can't be decoded."""
        after = 0
        while rows := read_records(self._db, after, PAGE, self.last):
            yield from map(_record_in, rows)
            after = rows[-1].seq

    @property
    def has_late_rows(self) -> bool:
        """Return whether lines of the manifest may lack list rows that came after them."""
        return self._meta(LATE_ROWS) == b"1"

    def let_go(self) -> None:
        """End the read transaction, so that a master can copy its write-ahead log into the database again."""
        self._db.execute("ROLLBACK")

    def records(self) -> Iterator[ImageRecord]:
        """Yield all valid records up to the last one at the start, in order."""
        yield from filter(None, self.lines())

    def _meta(self, name: str) -> bytes:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return _bytes(row[0]) if row else b""


class _RowChecks:
    """The rules for rows, and the counts of the rows checked so far."""

    def __init__(self, db: sqlite3.Connection, secret: bytes, report: OnFault, *, is_refreshed: bool) -> None:
        self._db, self._secret, self._report, self._is_refreshed = db, secret, report, is_refreshed
        self.images: Counter[str] = Counter()
        self.is_over = True
        self.seen = 0
        self._pictures: list[tuple[int, str, str, str, str]] = []
        db.execute(_PICTURES)

    def check(self, row: _RequestRow) -> None:
        """Check a request and its record."""
        self.seen += 1
        self.is_over = self.is_over and row.state != WAITING
        request = _decoded(REQUEST, row.data)
        if request is None or row.kind not in range(len(KINDS)) or row.state not in (WAITING, DONE, FAILED):
            self._report("a request can't be read", f"row {row.id}")
            return
        self._check_columns(row, request)
        if row.state != WAITING and not (_is_reason(row.reason) if row.state == FAILED else row.reason == ""):
            self._report("a request has a reason that does not fit its state", f"{request.url}: {row.reason!r}")
        if request.kind == "image":
            self._check_image(row, request)
        elif row.seq:
            self._report("a request that is not for an image has a record", request.url)

    def _check_columns(self, row: _RequestRow, request: Request) -> None:
        """Check that the columns of a request agree with its data."""
        origin = valid_origin(request)
        if origin is None:
            self._report("a request has an invalid URL", request.url)
        elif row.origin is not None and row.origin != origin:
            self._report("a request is queued at the wrong host", f"{request.url}: {row.origin}")
        if (row.kind, row.priority, bool(row.seed)) != (KINDS.index(request.kind), request.priority, request.is_seed):
            self._report("a request is queued with the wrong kind, priority or seed flag", request.url)
        if row.hash != key_of(name_of(request), self._secret):
            self._report("a request is indexed under the wrong URL", request.url)

    def _check_image(self, row: _RequestRow, request: Request) -> None:
        if row.state == WAITING:
            self.images["waiting"] += 1
            if row.seq and not self._is_refreshed:
                self._report("a waiting image already has a record", request.url)
        if row.state != WAITING or (row.seq and self._is_refreshed):
            self._check_record(row, request)

    def _check_record(self, row: _RequestRow, request: Request) -> None:
        """Check the record of an image that is settled, or was settled before a refresh."""
        if row.owner is None or row.record is None:
            self._report("a settled image has no record", request.url)
            return
        record = _decoded(RECORD, row.record)
        if record is None:
            self._report("a record can't be read", request.url)
            return
        is_settled = row.state != WAITING
        self.images[record.status] += is_settled
        if record.url != request.url or row.owner != row.id:
            self._report("a record and its request have different URLs", f"{record.url}, not {request.url}")
        if is_settled and ((row.state == FAILED) != (record.status == "failed") or row.reason != record.reason):
            self._report("a record and its request have different results", f"{request.url}: {record.reason}")
        copy = key_of(record.sha256, self._secret)
        status = "" if record.is_dropped else record.status
        keys = tuple(copy if status == column else None for column in ("success", "duplicate"))
        expected = (record.status, record.bytes, record.store, *keys, record.change)
        if (row.status, row.size, row.store, row.copy, row.twin, row.change) != expected:
            self._report("the columns of a record differ from its data", request.url)
        if record.status != "failed":
            self._check_copy(record, copy)
        elif record.path:
            self._check_path(record)

    def _check_path(self, record: ImageRecord) -> None:
        """Check the path of a record. A failed record has one if its file is older than a refresh, or in quarantine."""
        path = released(record.path) if record.reason == PIN_MISMATCH else record.path
        if record.is_dropped:
            is_sound = path.startswith("images/") and hash_in(path) != "" and is_safe(path)
        else:
            is_sound = is_picture(path, record.sha256)
        if not is_sound or not _SHA256.fullmatch(record.sha256):
            self._report("a record has an invalid path or SHA-256", f"{record.url}: {record.path}")

    def _check_copy(self, record: ImageRecord, copy: int) -> None:
        self._check_path(record)
        status = "dropped" if record.is_dropped else record.status
        self._pictures.append((copy, record.store, record.path, status, record.url))
        if len(self._pictures) >= PAGE:
            self._keep_pictures()

    def _check_values(self) -> None:
        """Check the rows that a master reads at its start, and those beside the requests."""
        for rule, decoder, query in _DECODED:
            for row, data in self._db.execute(query):
                if _decoded(decoder, data) is None:
                    self._report(rule, str(row))
        for name, until in self._db.execute("SELECT name, rules_until FROM origin"):
            if not isinstance(until, int | float):
                self._report("the robots rules of a host can't be read", str(name))
        for name, value in self._db.execute("SELECT name, value FROM meta"):
            is_refresh = name == REFRESH and _decoded(_REFRESH, value) is not None
            if name in (*_NUMBERS, REFRESH) and not (is_refresh or _bytes(value).isdigit()):
                self._report("a counter or the last refresh can't be read", name)

    def _keep_pictures(self) -> None:
        """Move the pictures gathered so far to a temporary table: there may be more than fit into memory."""
        self._db.executemany("INSERT INTO temp.picture VALUES (?,?,?,?,?)", self._pictures)
        self._pictures.clear()

    def end(self) -> None:
        """Check the rules that need all requests."""
        self._keep_pictures()
        self._db.execute("CREATE INDEX temp.first ON picture (copy) WHERE status = 'success'")
        for (number,) in self._db.execute(_STRAY_RECORDS):
            self._report("a record belongs to no request", f"record {number}")
        number, last = self._db.execute(_COUNT).fetchone()
        if number != last:
            self._report("requests are missing", f"{number} of {last}")
        for table, row, *_ in self._db.execute("PRAGMA foreign_key_check"):
            self._report("a row belongs to a request, record or origin that does not exist", f"{table} {row}")
        self._check_values()
        for rule, table, index, key, row in _KEYS:
            query = _LOST_KEYS.format(table=table, index=index, key=key, row=row)
            upto = _written(self._db, index)
            for (number,) in self._db.execute(query, (upto, upto)):
                self._report(rule, f"{table} {number}")
        for (url,) in self._db.execute(_DUPLICATES_WITHOUT_FIRST):
            self._report("a duplicate has no first copy at its path", str(url))
        if self._db.execute("SELECT EXISTS (SELECT 1 FROM temp.picture WHERE status = 'dropped')").fetchone()[0]:
            self._db.execute("CREATE INDEX temp.place ON picture (path) WHERE status = 'success'")
        for (url,) in self._db.execute(_DROPPED_WITHOUT_FILE):
            self._report("a near-duplicate has the path of a file that no other record names", str(url))
        discovered = self._db.execute("SELECT COUNT(*) FROM request WHERE kind = ?", (KINDS.index("image"),))
        if self.images.total() != (total := discovered.fetchone()[0]):
            self._report(
                "the states do not add up", f"{self.images.total()} image URLs in some state, {total} discovered"
            )


#: The numbers of requests have no gaps, so both values are equal.
_COUNT = "SELECT COUNT(*), COALESCE(MAX(id), 0) FROM request"
_NUMBERS = ("request_index", "copy_index", *TOTALS)


def _record_in(row: StoredRecord) -> ImageRecord | None:
    """Return the record of a row with its list rows, or None if any of them can't be decoded."""
    with suppress(msgspec.MsgspecError, ValueError, TypeError):
        return with_rows(RECORD.decode(row.data), row.rows)
    return None


def _is_reason(text: object) -> bool:
    return isinstance(text, str) and (text in REASONS or _REASON.fullmatch(text) is not None)


def _decoded(decoder: "msgspec.json.Decoder[Any]", data: Any) -> Any:
    """Return the decoded value, or None if the data is invalid."""
    with suppress(msgspec.MsgspecError, ValueError, TypeError):
        return decoder.decode(data)
    return None


def _written(db: sqlite3.Connection, index: str) -> int:
    with suppress(ValueError):  # reported by `_check_values`
        return written(db, index)
    return 0


def _bytes(data: Any) -> bytes:
    return data if isinstance(data, bytes) else str(data).encode()


def _decode_text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
