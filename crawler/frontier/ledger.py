"""The one truth on disk: requests, their states, the records and the robots rules, in SQLite.

Write-ahead log with ``synchronous=FULL``: when `Ledger.transaction` ends, its changes survive a power cut. A request is
found by a keyed 64-bit hash of its kind and URL; the key is made with the file, so nobody can aim at a collision, and
ten million URLs meet by chance with probability 3e-6. Not thread-safe: the frontier that owns it holds the lock.
"""

import logging
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from crawler.frontier.bulk import Bulk, write_rows
from crawler.frontier.conduct import Conduct
from crawler.frontier.identity import key_of, name_of, place_of, sound_place
from crawler.frontier.index import Index
from crawler.frontier.tables import disk_errors, open_tables
from crawler.model import ImageRecord, Kind, Request, RobotsRules

_log = logging.getLogger(__name__)

WAITING, DONE, FAILED = 0, 1, 2
#: Kinds in the order of their numbers in the tables.
KINDS: tuple[Kind, ...] = ("page", "image", "robots", "list", "part")
_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}


#: Name among ``meta`` of the key of the tokens.
SEAL = "seal"


class Entry(NamedTuple):
    """One request as the ledger keeps it."""

    row: int
    request: Request
    state: int
    attempts: int
    #: Why the last attempt, or the whole request, failed.
    reason: str
    #: Name of the origin in whose queue it stands (`place_of`).
    place: str
    #: Number of its manifest row; 0: it has none.
    record: int


class Ready(NamedTuple):
    """Waiting requests of one kind, origin and priority, by row in the order of discovery."""

    kind: Kind
    origin: str
    is_seed: bool
    priority: int
    rows: list[int]


class Deferred(NamedTuple):
    """A request that waits until ``not_before``, seconds since the epoch."""

    kind: Kind
    origin: str
    is_seed: bool
    priority: int
    row: int
    not_before: float


class Ledger:
    """The tables of one crawl.

    Raises:
        DiskError: from any method, when the disk is full, read-only or broken, or the file is no ledger.
    """

    def __init__(self, path: Path | None) -> None:
        """Open or make the file; None keeps everything in memory."""
        self._where = str(path) if path else ":memory:"
        #: The last request and record, and the numbers of origins with their names; those that a transaction has added.
        self._last = self._last_record = 0
        self._origins: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._new_origins: list[str] = []
        #: What a transaction is to write at its end: statement → its rows.
        self._due: defaultdict[str | Bulk, list[tuple[Any, ...]]] = defaultdict(list)
        #: First copies that a transaction has asked for: SHA-256 → store and path; None: there is none.
        self._copies: dict[str, tuple[str, str] | None] = {}
        #: SHA-256 → its key, of those.
        self._keys: dict[str, int] = {}
        self._db = open_tables(path)
        try:
            with disk_errors(self._where):
                self._take_up()
        except BaseException:
            self._db.close()
            raise

    def _take_up(self) -> None:
        self.secret = self._made_once("secret", secrets.token_bytes(32))
        self.seal = self._made_once(SEAL, secrets.token_bytes(32))
        self._last = self._number("SELECT COALESCE(MAX(id), 0) FROM request")
        self._last_record = self._number("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'record'")
        self._names = dict(self._rows("SELECT id, name FROM origin"))
        self._origins = {name: number for number, name in self._names.items()}
        self._requests = Index(self._db, "request_index", "SELECT hash, id FROM request WHERE id > ?")
        self._firsts = Index(self._db, "copy_index", "SELECT copy, seq FROM record WHERE seq > ? AND copy NOTNULL")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes within are made durable together, or none of them is made.

        Changes of single requests are written at the end, each kind in one go: a call of SQLite costs more than a row,
        and lets another thread in. Reads within the transaction do not see them yet.
        """
        before, self._new_origins = (self._last, self._last_record), []
        self._due, self._copies, self._keys = defaultdict(list), {}, {}
        with disk_errors(self._where):
            self._requests.mark()
            self._firsts.mark()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.flush()
                self._requests.write(self._last)
                self._firsts.write(self._last_record)
                self._db.execute("COMMIT")
            except BaseException:
                self._last, self._last_record = before
                for name in self._new_origins:
                    del self._names[self._origins.pop(name)]
                self._requests.rolled_back()
                self._firsts.rolled_back()
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._requests.committed()
            self._firsts.committed()

    def flush(self) -> None:
        """Write what a transaction has gathered so far, for those reads that are to see it."""
        for statement, rows in self._due.items():
            write_rows(self._db, statement, rows)
        self._due.clear()

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it."""
        self._db.close()

    # requests -----------------------------------------------------------------------------------------------------

    def add(self, requests: Iterable[Request]) -> list[Entry]:
        """Insert those not yet known; returns them. What is no URL is left out."""
        wanted: dict[int, tuple[Request, str]] = {}
        for request in requests:
            place = sound_place(request)
            if place is None:
                _log.warning("action=leave-out kind=%s url=%r", request.kind, request.location[:200])
            else:
                wanted.setdefault(self._hash(request), (request, place))
        for known in self._requests.find(wanted) if wanted else ():
            del wanted[known]
        entries, rows, data = [], self._due[_ADD], self._due[_ADD_DATA]
        for row, (hashed, (request, place)) in enumerate(wanted.items(), self._last + 1):
            kind, number = _NUMBERS[request.kind], self._origin_id(place)
            rows.append((row, hashed, kind, number, request.priority, int(request.is_seed)))
            data.append((row, _blob(request)))
            entries.append(Entry(row, request, WAITING, 0, "", place, 0))
        self._requests.add_all(wanted.keys(), self._last + 1)
        self._last += len(wanted)
        return entries

    def find(self, request: Request) -> Entry | None:
        """The entry of that kind and URL."""
        return next(iter(self.get(list(self._requests.find([self._hash(request)]).values())).values()), None)

    def get(self, rows: Sequence[int]) -> dict[int, Entry]:
        """The entries of those rows."""
        names = self._names
        return {
            row: Entry(row, request, state, attempts, reason, names[place], record)
            for row, request, state, attempts, place, record, reason in self._get(rows)
        }

    def _get(self, rows: Sequence[int]) -> Iterator[tuple[int, Request, int, int, int, int, str]]:
        """A page of rows comes as one text: see `crawler.frontier.bulk` for why."""
        for start in range(0, len(rows), _PAGE):
            ((found,),) = self._rows(_SELECT_BY_ROW, _json(list(rows[start : start + _PAGE])))
            yield from _ROWS.decode(f"[{found or ''}]")

    def settle(self, row: int, reason: str, record: int = 0) -> None:
        """A request's final state: done, or failed with a reason; and the number of its manifest row."""
        self._later(_SETTLE, FAILED if reason else DONE, reason, record, row)

    def requeue(self, row: int, attempts: int, *, not_before: float = 0.0, reason: str = "") -> None:
        """A request goes on: later, or anew."""
        self._later(_REQUEUE, WAITING, attempts, not_before, reason, row)

    def redirect(self, entry: Entry, request: Request) -> Entry:
        """A request of another target, hop or offset; returns the entry with it."""
        place = place_of(request)
        self._later("UPDATE request SET origin = ? WHERE id = ?", self._origin_id(place), entry.row)
        self._later("UPDATE request_data SET data = ? WHERE id = ?", _encode(request), entry.row)
        return entry._replace(request=request, place=place)

    def seed_at(self, origin_name: str) -> Request | None:
        """A seed on that origin, if there is one."""
        origin_id = self._origins.get(origin_name, -1)
        found = self._rows(_SELECT_SEED, origin_id)
        return _REQUEST.decode(found[0][0]) if found else None

    def ready(self) -> Iterator[Ready]:
        """Every request that waits for nothing but its turn, gathered."""
        query = "SELECT id, origin * 16 + kind * 2 + seed, priority FROM request WHERE state = 0 AND not_before = 0"
        found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        with disk_errors(self._where):
            for row, packed, priority in self._db.execute(query + " ORDER BY id"):
                found[packed, priority].append(row)
        for (packed, priority), rows in found.items():
            yield Ready(KINDS[packed // 2 % 8], self._names[packed // 16], bool(packed % 2), priority, rows)

    def deferred(self) -> Iterator[Deferred]:
        """Every request that waits for a time of its own."""
        query = "SELECT id, kind, origin, seed, priority, not_before FROM request WHERE state = 0 AND not_before != 0"
        for row, kind, origin_id, seed, priority, not_before in self._rows(query):
            yield Deferred(KINDS[kind], self._names[origin_id], bool(seed), priority, row, not_before)

    # records ------------------------------------------------------------------------------------------------------

    def recall_copies(self, sha256s: Iterable[str]) -> None:
        """Look up the first copies of these bytes together, before `first_copy` asks for one after the other."""
        wanted = {self._key(sha256): sha256 for sha256 in sha256s}
        self._copies |= dict.fromkeys(wanted.values())
        self._keys |= {sha256: key for key, sha256 in wanted.items()}
        found = self._firsts.find(wanted)
        for (data,) in self._rows(_SELECT_RECORDS, _json(list(found.values()))) if found else ():
            first = _RECORD.decode(data)
            self._copies[first.sha256] = first.store, first.path

    def first_copy(self, sha256: str) -> tuple[str, str] | None:
        """Store and path of the first copy of these bytes; None where there is none yet."""
        if sha256 not in self._copies:
            self.recall_copies([sha256])
        return self._copies[sha256]

    def place_of(self, sha256: str) -> tuple[str, str]:
        """Store and path of the first copy of these bytes; empty where there is none."""
        row = self._firsts.find([key := self._key(sha256)]).get(key, 0)
        found = [_RECORD.decode(data) for (data,) in self._rows(_SELECT_RECORDS, _json([row]))]
        return (found[0].store, found[0].path) if found else ("", "")

    def record(self, entry: Entry, record: ImageRecord) -> int:
        """Write the manifest row of a request, in place of any that it had; returns its number."""
        row = self._last_record = self._last_record + 1
        values = row, entry.row, record.status, record.bytes, record.store, record.change
        if record.status == "failed" or record.is_dropped:
            self._due[_WRITE_OTHER].append(values)
        else:
            key = self._keys.get(record.sha256) or self._key(record.sha256)
            is_first = record.status == "success"
            self._due[_WRITE_FIRST if is_first else _WRITE_TWIN].append((*values, key))
            if is_first:
                self._firsts.add(key, row)
                self._copies[record.sha256] = record.store, record.path
        self._due[_WRITE_RECORD_DATA].append((row, _blob(record)))
        if entry.record:
            self._later("DELETE FROM record WHERE seq = ?", entry.record)
            self._later("DELETE FROM record_data WHERE seq = ?", entry.record)
        return row

    def record_of(self, row: int) -> ImageRecord | None:
        """The manifest row of a request, if it has one."""
        found = self._rows(_SELECT_RECORD_OF, row)
        return _RECORD.decode(found[0][0]) if found else None

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """See `crawler.frontier.base.Frontier.records`."""
        query = "SELECT seq, data FROM record_data WHERE seq > ? ORDER BY seq LIMIT ?"
        return tuple((seq, _RECORD.decode(data)) for seq, data in self._rows(query, after, limit))

    def relocate(self, numbers: Sequence[int], store: str) -> None:
        """The pictures of these records now lie in another store."""
        for number, data in self._rows(_SELECT_NUMBERED, _json(list(numbers))):
            moved = msgspec.structs.replace(_RECORD.decode(data), store=store)
            self._later("UPDATE record SET store = ? WHERE seq = ?", store, number)
            self._later("UPDATE record_data SET data = ? WHERE seq = ?", _encode(moved), number)

    def add_store(self, store: str, worker: str) -> None:
        """A store that pictures are saved in, and the worker that was the first to do so."""
        self._db.execute("INSERT OR IGNORE INTO store VALUES (?,?)", (store, worker))

    def owners(self) -> dict[str, str]:
        """Store → the worker that was the first to save in it."""
        return dict(self._rows("SELECT id, worker FROM store"))

    def stores(self) -> dict[str, int]:
        """Store → number of first copies in it."""
        return dict(self._rows("SELECT store, COUNT(*) FROM record WHERE copy NOTNULL GROUP BY store"))

    # rules, counts, meta ------------------------------------------------------------------------------------------

    def save_rules(self, name: str, rules: RobotsRules, until: float) -> None:
        """Keep an origin's rules until that time, seconds since the epoch."""
        origin_id = self._origin_id(name)
        self._db.execute(
            "UPDATE origin SET rules = ?, rules_until = ? WHERE id = ?", (msgspec.json.encode(rules), until, origin_id)
        )

    def origins(self) -> Collection[str]:
        """The names of all origins that ever had a request."""
        return self._origins.keys()

    def rules(self) -> Iterator[tuple[str, RobotsRules, float]]:
        """Origin, rules and their end in seconds since the epoch, for all that are known."""
        for name, data, until in self._rows("SELECT name, rules, rules_until FROM origin WHERE rules NOTNULL"):
            yield name, _RULES.decode(data), until

    def save_conduct(self, host: str, conduct: Conduct) -> None:
        """Keep what is known of a host; its times in seconds since the epoch."""
        self._later("INSERT OR REPLACE INTO host VALUES (?,?)", host, _encode(conduct))

    def conducts(self) -> Iterator[tuple[str, Conduct]]:
        """Host and what is kept of it."""
        for name, data in self._rows("SELECT name, state FROM host"):
            yield name, _CONDUCT.decode(data)

    def census(self) -> Iterator[tuple[Kind, bool, int, str, int]]:
        """Settled requests by kind, being a seed, state and reason: their number."""
        columns = "kind, seed, state, reason"
        query = f"SELECT {columns}, COUNT(*) FROM request WHERE state != 0 GROUP BY {columns}"  # noqa: S608  # ours
        for kind, seed, state, reason, number in self._rows(query):
            yield KINDS[kind], bool(seed), state, reason, number

    def settled_by_origin(self) -> Iterator[tuple[str, Kind, int]]:
        """Origin, kind and the number of its settled requests; those of lists, which have no host, left out."""
        query = (
            "SELECT origin.name, kind, COUNT(*) FROM request JOIN origin ON origin.id = request.origin"
            " WHERE state != ? AND origin.name != '' GROUP BY origin.name, kind"
        )
        for name, kind, number in self._rows(query, WAITING):
            yield name, KINDS[kind], number

    def duplicates(self) -> int:
        """Number of records of the status ``duplicate``."""
        return self._number("SELECT COUNT(*) FROM record WHERE status = 'duplicate'")

    def bytes_saved(self) -> int:
        """Bytes of all first copies."""
        return self._number("SELECT COALESCE(SUM(bytes), 0) FROM record WHERE status = 'success'")

    def get_meta(self, name: str) -> bytes | None:
        """A value kept under a name."""
        found = self._rows("SELECT value FROM meta WHERE name = ?", name)
        return bytes(found[0][0]) if found else None

    def set_meta(self, name: str, value: bytes) -> None:
        """Keep a value under a name."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, value))

    # inside -------------------------------------------------------------------------------------------------------

    def _later(self, statement: str | Bulk, *values: Any) -> None:
        self._due[statement].append(values)

    def _made_once(self, name: str, value: bytes) -> bytes:
        found = self.get_meta(name)
        if found is None:
            self.set_meta(name, value)
        return found or value

    def _number(self, query: str) -> int:
        return int(self._rows(query)[0][0])

    def _rows(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        with disk_errors(self._where):
            return self._db.execute(query, values).fetchall()

    def _hash(self, request: Request) -> int:
        return key_of(name_of(request), self.secret)

    def _key(self, sha256: str) -> int:
        return key_of(sha256, self.secret)

    def _origin_id(self, name: str) -> int:
        number = self._origins.get(name)
        if number is None:
            number = self._db.execute("INSERT INTO origin (name) VALUES (?)", (name,)).lastrowid or 0
            self._origins[name], self._names[number] = number, name
            self._new_origins.append(name)
        return number


#: Requests that are read at a time.
_PAGE = 1_000
_ADD_DATA = Bulk("INSERT INTO request_data VALUES ", "(?,?)")
_ADD = Bulk("INSERT INTO request VALUES ", "(?,?,?,?,?,?,0,0,0.0,'',0)")
_SELECT_BY_ROW = (
    "SELECT group_concat("
    "printf('[%d,%s,%d,%d,%d,%d,%s]', id, data, state, attempts, origin, record, json_quote(reason)))"
    " FROM request JOIN request_data USING (id) WHERE id IN (SELECT value FROM json_each(?))"
)
_SELECT_SEED = (
    "SELECT data FROM request_data WHERE id = (SELECT id FROM request WHERE origin = ? AND seed ORDER BY id LIMIT 1)"
)
_SELECT_RECORDS = "SELECT data FROM record_data WHERE seq IN (SELECT value FROM json_each(?))"
_SELECT_NUMBERED = "SELECT seq, data FROM record_data WHERE seq IN (SELECT value FROM json_each(?))"
_SELECT_RECORD_OF = "SELECT data FROM record_data WHERE seq = (SELECT record FROM request WHERE id = ?)"
# One each for a first copy, a later one, and what has no file of its own: to pass a None to SQLite is dear.
_WRITE_OTHER = Bulk("INSERT INTO record (seq, request, status, bytes, store, change) VALUES ", "(?,?,?,?,?,?)")
_WRITE_FIRST = Bulk("INSERT INTO record (seq, request, status, bytes, store, change, copy) VALUES ", "(?,?,?,?,?,?,?)")
_WRITE_TWIN = Bulk("INSERT INTO record (seq, request, status, bytes, store, change, twin) VALUES ", "(?,?,?,?,?,?,?)")
_WRITE_RECORD_DATA = Bulk("INSERT INTO record_data VALUES ", "(?,?)")
_SETTLE = Bulk(
    "UPDATE request SET state = new.column1, reason = new.column2, record = new.column3 FROM (VALUES ",
    "(?,?,?,?)",
    ") AS new WHERE request.id = new.column4",
)
_REQUEUE = "UPDATE request SET state = ?, attempts = ?, not_before = ?, reason = ? WHERE id = ?"
_REQUEST = msgspec.json.Decoder(Request)
_ROWS = msgspec.json.Decoder(list[tuple[int, Request, int, int, int, int, str]])
_RECORD = msgspec.json.Decoder(ImageRecord)
_CONDUCT = msgspec.json.Decoder(Conduct)
_RULES = msgspec.json.Decoder(RobotsRules)
_encode = msgspec.json.Encoder().encode


def _blob(value: Request | ImageRecord) -> bytearray:
    """As JSON; not as bytes, since for these sqlite3 looks for an adapter each time."""
    return bytearray(_encode(value))


def _json(values: list[int]) -> str:
    return _encode(values).decode()
