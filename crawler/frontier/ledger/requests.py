"""The table of requests: their states, and the rows of lists beside them."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import is_
from typing import NamedTuple

import msgspec

from crawler.frontier.ledger.bulk import BulkStatement
from crawler.frontier.ledger.database import Database
from crawler.frontier.ledger.key_index import KeyIndex
from crawler.frontier.ledger.listed_rows import is_news, keep, row_in, short
from crawler.frontier.ledger.origins import OriginTable
from crawler.frontier.ledger.request_keys import name_of, origin_of, valid_origin
from crawler.frontier.ledger.rows import DONE, FAILED, KINDS, PAGE, REQUEST, WAITING, Entry, blob, encode
from crawler.model import Kind, Request

_log = logging.getLogger(__name__)

_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
#: Name in ``meta`` of the flag that a list row came after the record of its URL.
LATE_ROWS = "late_rows"


class _AddedRows(NamedTuple):
    """The result of adding the rows of a list."""

    #: Entries of the rows with a new URL.
    entries: list[Entry]
    #: Number of rows with a known URL; and of rows that exceeded the space for rows of one URL.
    repeated: int
    dropped: int


class _WaitingRequests(NamedTuple):
    """Waiting requests of one kind, origin, priority and time: their rows in the order of discovery."""

    kind: Kind
    origin: str
    is_seed: bool
    priority: int
    #: Seconds since the epoch until which they wait; 0: they are due.
    not_before: float
    rows: list[int]


class RequestTable:
    """All requests of a crawl. Methods that write must be called within `Ledger.transaction`."""

    def __init__(self, database: Database, origins: OriginTable) -> None:
        self._db, self._origins = database, origins
        #: Number of the last request.
        self.last = database.number("SELECT COALESCE(MAX(id), 0) FROM request")
        self.index = KeyIndex(database.connection, "request_index", "SELECT hash, id FROM request WHERE id > ?")
        #: Whether a record may have been exported before all of its rows were known.
        self.has_late_rows = database.get_meta(LATE_ROWS) == b"1"

    def add(self, requests: Iterable[Request]) -> list[Entry]:
        """Insert and return the requests that are not yet known. Skip requests with an invalid URL."""
        wanted: dict[int, tuple[Request, str]] = {}
        for request in requests:
            origin = valid_origin(request)
            if origin is None:
                _log.warning("skipped a request with an invalid URL (%s): %r", request.kind, request.location[:200])
            else:
                wanted.setdefault(self._key(request), (request, origin))
        for known in self.index.find(wanted) if wanted else ():
            del wanted[known]
        entries, rows, data = [], self._db.gathered[_ADD], self._db.gathered[_ADD_DATA]
        for row, (hashed, (request, origin)) in enumerate(wanted.items(), self.last + 1):
            kind, number = _NUMBERS[request.kind], self._origins.number(origin)
            rows.append((row, hashed, kind, number, request.priority, int(request.is_seed)))
            data.append((row, blob(request)))
            entries.append(Entry(row, request, WAITING, 0, "", origin, 0))
        self.index.add_all(wanted.keys(), self.last + 1)
        self.last += len(wanted)
        return entries

    def add_rows(self, requests: Sequence[Request]) -> _AddedRows:
        """Insert the requests of the rows of a list. If an image is already known, keep its row as a further row."""
        entries = self.add(shorts := list(map(short, requests)))
        if len(entries) == len(requests) and all(map(is_, shorts, requests)):  # the usual case
            return _AddedRows(entries, 0, 0)
        unseen = {self._key(entry.request): entry for entry in entries}
        repeats: list[tuple[int, Request]] = []
        for request, cut in zip(requests, shorts, strict=True):
            key = self._key(request)
            entry = unseen.pop(key, None)
            if entry is None:
                repeats.append((key, request))
            elif cut is not request and request.kind == "image":
                self._keep_row(entry.row, request, is_own=True)
        known = self.index.find({key for key, _ in repeats}) if repeats else {}
        held = {entry.row: entry for entry in entries} if repeats else {}
        held |= self.get([row for row in known.values() if row not in held])
        repeated = [(held[known[key]], request) for key, request in repeats if key in known]
        dropped = 0
        for entry, request in repeated:
            if request.kind == "image" and is_news(row_in(request), entry.request):
                is_kept = self._keep_row(entry.row, request)
                dropped += is_kept is None
                if is_kept and entry.record and not self.has_late_rows:
                    self.has_late_rows = True
                    self._db.set_meta(LATE_ROWS, b"1")
        return _AddedRows(entries, len(repeated), dropped)

    def _keep_row(self, row: int, request: Request, *, is_own: bool = False) -> bool | None:
        data = encode(row_in(request))
        return keep(self._db.connection, row, self._db.key(data.decode()), data, is_own=is_own)

    def forget_late_rows(self) -> None:
        """Clear the flag of late rows, as the manifest now contains all rows of every record."""
        self.has_late_rows = False
        self._db.set_meta(LATE_ROWS, b"")

    def find(self, request: Request) -> Entry | None:
        """Return the entry with the kind and URL of a request, or None if there is none."""
        return next(iter(self.get(list(self.index.find([self._key(request)]).values())).values()), None)

    def get(self, rows: Sequence[int]) -> dict[int, Entry]:
        """Return the entries of these rows, by row.

        Rows are read in pages, each page as one JSON text; `crawler.frontier.ledger.bulk` explains why.
        """
        entries: dict[int, Entry] = {}
        names = self._origins.names
        for start in range(0, len(rows), PAGE):
            ((page,),) = self._db.rows_of(_SELECT_BY_ROW, list(rows[start : start + PAGE]))
            for row, request, state, attempts, origin, record, reason in _ROWS.decode(f"[{page or ''}]"):
                entries[row] = Entry(row, request, state, attempts, reason, names[origin], record)
        return entries

    def settle(self, row: int, reason: str, record: int = 0) -> None:
        """Set the final state of a request: done, or failed with a reason; and the number of its manifest row."""
        self._db.later(_SETTLE, FAILED if reason else DONE, reason, record, row)

    def requeue(self, row: int, attempts: int, *, not_before: float = 0.0, reason: str = "") -> None:
        """Make a request wait for another attempt, at once or from ``not_before`` on."""
        self._db.later(_REQUEUE, WAITING, attempts, not_before, reason, row)

    def redirect(self, entry: Entry, request: Request) -> Entry:
        """Replace the request of an entry by one with another target, hop count or offset. Return the new entry."""
        origin = origin_of(request)
        self._db.later("UPDATE request SET origin = ? WHERE id = ?", self._origins.number(origin), entry.row)
        self._db.later("UPDATE request_data SET data = ? WHERE id = ?", encode(request), entry.row)
        return entry._replace(request=request, origin=origin)

    def seed_at(self, origin_name: str) -> Request | None:
        """Return a seed on that origin that was fetched or has opted out, or None if there is none."""
        seeds = self._db.rows(_SELECT_SEED, self._origins.find(origin_name))
        return REQUEST.decode(seeds[0][0]) if seeds else None

    def waiting(self) -> Iterator[_WaitingRequests]:
        """Yield all waiting requests, grouped."""
        query = "SELECT id, origin * 16 + kind * 2 + seed, priority, not_before FROM request WHERE state = 0"
        groups: defaultdict[tuple[int, int, float], list[int]] = defaultdict(list)
        with self._db.errors():
            for row, packed, priority, not_before in self._db.connection.execute(query + " ORDER BY id"):
                groups[packed, priority, not_before].append(row)
        for (packed, priority, not_before), rows in groups.items():
            kind, origin = KINDS[packed // 2 % 8], self._origins.names[packed // 16]
            yield _WaitingRequests(kind, origin, bool(packed % 2), priority, not_before, rows)

    def census(self) -> Iterator[tuple[Kind, bool, int, str, int]]:
        """Yield kind, whether a seed, state and reason of settled requests, with the number of these requests."""
        for packed, number in self._db.rows(_COUNT_DONE, DONE):
            yield KINDS[packed // 2], bool(packed % 2), DONE, "", number
        for packed, reason, number in self._db.rows(_COUNT_FAILED, FAILED):
            yield KINDS[packed // 2], bool(packed % 2), FAILED, reason, number

    def settled_by_origin(self) -> Iterator[tuple[str, Kind, int]]:
        """Yield origin, kind and number of its settled requests, except for lists, which have no host."""
        query = (
            "SELECT origin.name, kind, COUNT(*) FROM request JOIN origin ON origin.id = request.origin"
            " WHERE state != ? AND origin.name != '' GROUP BY origin.name, kind"
        )
        for name, kind, number in self._db.rows(query, WAITING):
            yield name, KINDS[kind], number

    def _key(self, request: Request) -> int:
        return self._db.key(name_of(request))


_ADD_DATA = BulkStatement("INSERT INTO request_data VALUES ", "(?,?)")
_ADD = BulkStatement("INSERT INTO request VALUES ", "(?,?,?,?,?,?,0,0,0.0,'',0)")
_SELECT_BY_ROW = (
    "SELECT group_concat("
    "printf('[%d,%s,%d,%d,%d,%d,%s]', id, data, state, attempts, origin, record, json_quote(reason)))"
    " FROM request JOIN request_data USING (id) WHERE id IN (SELECT value FROM json_each(?))"
)
# Two queries, grouped by one number: sorting a million rows by four columns takes SQLite longer than reading them.
_COUNT_DONE = "SELECT kind * 2 + seed AS packed, COUNT(*) FROM request WHERE state = ? GROUP BY packed"
_COUNT_FAILED = (
    "SELECT kind * 2 + seed AS packed, reason, COUNT(*) FROM request WHERE state = ? GROUP BY packed, reason"
)
_SELECT_SEED = (
    "SELECT data FROM request_data WHERE id = (SELECT id FROM request WHERE origin = ? AND seed"
    " AND (state = 1 OR reason = 'opted-out') ORDER BY id LIMIT 1)"
)
_SETTLE = BulkStatement(
    "UPDATE request SET state = new.column1, reason = new.column2, record = new.column3 FROM (VALUES ",
    "(?,?,?,?)",
    ") AS new WHERE request.id = new.column4",
)
_REQUEUE = "UPDATE request SET state = ?, attempts = ?, not_before = ?, reason = ? WHERE id = ?"
_ROWS = msgspec.json.Decoder(list[tuple[int, Request, int, int, int, int, str]])
