"""The one truth on disk: requests, their states, the records and the robots rules, in SQLite.

Write-ahead log with ``synchronous=FULL``: when `Ledger.transaction` ends, its changes survive a power cut. A request is
found by a keyed 64-bit hash of its kind and URL; the key is made with the file, so nobody can aim at a collision, and
ten million URLs meet by chance with probability 3e-6. Not thread-safe: the frontier that owns it holds the lock.
"""

import logging
import re
import secrets
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from crawler.errors import DiskError
from crawler.model import ImageRecord, Kind, Request, RobotsRules
from crawler.urls import MAX_URL_LENGTH, origin

_log = logging.getLogger(__name__)

#: Version of the tables.
SCHEMA = 1
#: Marks a file as ours ("imgc"), so that nobody's other database is taken for a crawl.
_APPLICATION = 0x696D6763

WAITING, DONE, FAILED = 0, 1, 2
_KINDS: tuple[Kind, ...] = ("page", "image", "robots", "list", "part")

_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "busy_timeout=5000",
    "cache_size=-32768",  # KiB: the hashes of a batch lie all over their index
    "wal_autocheckpoint=8000",  # pages, 32 MB: what is written again and again goes into the file once
    "journal_size_limit=67108864",
)
_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS origin ("
    " id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rules BLOB, rules_until REAL NOT NULL DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS host (name TEXT PRIMARY KEY, blocked_until REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS request ("
    " id INTEGER PRIMARY KEY, hash INTEGER NOT NULL UNIQUE, kind INTEGER NOT NULL, origin INTEGER NOT NULL,"
    " priority INTEGER NOT NULL, seed INTEGER NOT NULL, state INTEGER NOT NULL, attempts INTEGER NOT NULL,"
    " not_before REAL NOT NULL, reason TEXT NOT NULL, data BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS seed ON request (origin) WHERE seed",
    "CREATE TABLE IF NOT EXISTS record ("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, request INTEGER NOT NULL UNIQUE, status TEXT NOT NULL,"
    " reason TEXT NOT NULL, bytes INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS copy (sha256 TEXT PRIMARY KEY, store TEXT NOT NULL, path TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS store (id TEXT PRIMARY KEY, worker TEXT NOT NULL) WITHOUT ROWID",
)


class Entry(NamedTuple):
    """One request as the ledger keeps it."""

    row: int
    request: Request
    state: int
    attempts: int
    #: Why the last attempt, or the whole request, failed.
    reason: str


class Waiting(NamedTuple):
    """What the schedule needs of a waiting request; ``not_before`` in seconds since the epoch."""

    row: int
    kind: Kind
    origin: str
    priority: int
    not_before: float


class Ledger:
    """The tables of one crawl.

    Raises:
        DiskError: from any method, when the disk is full, read-only or broken, or the file is no ledger.
    """

    def __init__(self, path: Path | None) -> None:
        """Open or make the file; None keeps everything in memory."""
        self._where = str(path) if path else ":memory:"
        #: The last row, and the numbers of origins; those of them that a transaction has added.
        self._last = 0
        self._origins: dict[str, int] = {}
        self._new_origins: list[str] = []
        #: What a transaction is to write at its end: statement → its rows.
        self._due: dict[str, list[tuple[Any, ...]]] = {}
        #: First copies that a transaction has asked for: SHA-256 → store and path; None: there is none.
        self._copies: dict[str, tuple[str, str] | None] = {}
        with _disk_errors(self._where):
            self._db = sqlite3.connect(self._where, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        """See whose file it is before anything is written to it, then make what is missing."""
        if self._number("SELECT COUNT(*) FROM sqlite_master"):
            self._refuse_others()
        for pragma in _PRAGMAS:
            self._rows(f"PRAGMA {pragma}")
        with self.transaction():
            for statement in (f"PRAGMA application_id={_APPLICATION}", *_TABLES):
                self._db.execute(statement)
            self.secret = self._made_once("secret", secrets.token_bytes(32))
            self._made_once("schema", str(SCHEMA).encode())
        self._last = self._number("SELECT COALESCE(MAX(id), 0) FROM request")
        self._origins = dict(self._rows("SELECT name, id FROM origin"))

    def _refuse_others(self) -> None:
        if self._number("PRAGMA application_id") != _APPLICATION:
            raise DiskError(f"{self._where} is a database of another program; choose another directory with -o")
        schema = int(self.get_meta("schema") or b"0")
        if schema != SCHEMA:
            raise DiskError(f"{self._where} was written by another release (tables {schema}, this one has {SCHEMA})")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes within are made durable together, or none of them is made.

        Changes of single requests are written at the end, each kind in one go: a call of SQLite costs more than a row,
        and lets another thread in. Reads within the transaction do not see them yet.
        """
        last, self._new_origins = self._last, []
        self._due, self._copies = {}, {}
        with _disk_errors(self._where):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                for statement, rows in self._due.items():
                    self._db.executemany(statement, rows)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._last = last
                for name in self._new_origins:
                    del self._origins[name]
                raise

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it."""
        self._db.close()

    # requests -----------------------------------------------------------------------------------------------------

    def add(self, requests: Iterable[Request]) -> list[Entry]:
        """Insert those not yet known; returns them. What is no URL is left out."""
        wanted: dict[int, Request] = {}
        for request in requests:
            if is_sound(request):
                wanted.setdefault(self._hash(request), request)
            else:
                _log.warning("action=leave-out kind=%s url=%r", request.kind, request.location[:200])
        for known in self._rows(_SELECT_HASHES, _json(list(wanted))):
            del wanted[known[0]]
        entries, rows = [], []
        for hashed, request in wanted.items():
            self._last += 1
            entries.append(Entry(self._last, request, WAITING, 0, ""))
            rows.append((self._last, hashed, *self._columns(request), WAITING, 0, 0.0, "", _encode(request)))
        self._db.executemany("INSERT INTO request VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows)
        return entries

    def find(self, request: Request) -> Entry | None:
        """The entry of that kind and URL."""
        found = self._rows(_SELECT_BY_HASH, self._hash(request))
        return _entry(found[0]) if found else None

    def get(self, rows: Sequence[int]) -> dict[int, Entry]:
        """The entries of those rows."""
        return {raw[0]: _entry(raw) for raw in self._rows(_SELECT_BY_ROW, _json(list(rows)))}

    def settle(self, row: int, reason: str) -> None:
        """A request's final state: done, or failed with a reason."""
        state = FAILED if reason else DONE
        self._later("UPDATE request SET state = ?, reason = ? WHERE id = ?", state, reason, row)

    def requeue(self, row: int, request: Request, attempts: int, *, not_before: float = 0.0, reason: str = "") -> None:
        """A request goes on: later, elsewhere, or anew."""
        kind, origin_id, priority, seed = self._columns(request)
        values = (kind, origin_id, priority, seed, WAITING, attempts, not_before, reason, _encode(request), row)
        self._later(_REQUEUE, *values)

    def seed_at(self, origin_name: str) -> Request | None:
        """A seed on that origin, if there is one."""
        origin_id = self._origins.get(origin_name, -1)
        found = self._rows("SELECT data FROM request WHERE origin = ? AND seed ORDER BY id LIMIT 1", origin_id)
        return _REQUEST.decode(found[0][0]) if found else None

    def waiting(self) -> Iterator[Waiting]:
        """Every waiting request, in the order of discovery."""
        names = {number: name for name, number in self._origins.items()}
        query = "SELECT id, kind, origin, priority, not_before FROM request WHERE state = ? ORDER BY id"
        with _disk_errors(self._where):
            for row, kind, origin_id, priority, not_before in self._db.execute(query, (WAITING,)):
                yield Waiting(row, _KINDS[kind], names[origin_id], priority, not_before)

    # records ------------------------------------------------------------------------------------------------------

    def recall_copies(self, sha256s: Iterable[str]) -> None:
        """Look up the first copies of these bytes together, before `first_copy` asks for one after the other."""
        wanted = dict.fromkeys(sha256s)
        found = self._rows(_SELECT_COPIES, _json(list(wanted)))
        self._copies |= wanted | {sha256: (store, path) for sha256, store, path in found}

    def first_copy(self, sha256: str, store: str, path: str) -> tuple[str, str] | None:
        """Store and path of the first copy of these bytes; None when this one is the first."""
        if sha256 not in self._copies:
            self.recall_copies([sha256])
        first = self._copies[sha256]
        if first is None:
            self._copies[sha256] = store, path
            self._later("INSERT INTO copy VALUES (?,?,?)", sha256, store, path)
        return first

    def store_of(self, sha256: str) -> str:
        """The store that has the first copy of these bytes; empty where there is none."""
        found = self._rows("SELECT store FROM copy WHERE sha256 = ?", sha256)
        return str(found[0][0]) if found else ""

    def record(self, row: int, record: ImageRecord) -> None:
        """Write the manifest row of a request, under a new number, in place of any that it had."""
        self._later(_WRITE_RECORD, row, record.status, record.reason, record.bytes, _encode(record))

    def record_of(self, row: int) -> ImageRecord | None:
        """The manifest row of a request, if it has one."""
        found = self._rows("SELECT data FROM record WHERE request = ?", row)
        return _RECORD.decode(found[0][0]) if found else None

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """See `crawler.frontier.base.Frontier.records`."""
        query = "SELECT seq, data FROM record WHERE seq > ? ORDER BY seq LIMIT ?"
        return tuple((seq, _RECORD.decode(data)) for seq, data in self._rows(query, after, limit))

    def relocate(self, numbers: Sequence[int], store: str) -> None:
        """The pictures of these records now lie in another store."""
        found = self._rows(
            "SELECT seq, data FROM record WHERE seq IN (SELECT value FROM json_each(?))", _json(list(numbers))
        )
        moved = [(seq, msgspec.structs.replace(_RECORD.decode(data), store=store)) for seq, data in found]
        self._db.executemany("UPDATE copy SET store = ? WHERE sha256 = ?", [(store, new.sha256) for _, new in moved])
        self._db.executemany(
            "UPDATE record SET data = ? WHERE seq = ?", [(msgspec.json.encode(new), seq) for seq, new in moved]
        )

    def add_store(self, store: str, worker: str) -> None:
        """A store that pictures are saved in, and the worker that was the first to do so."""
        self._db.execute("INSERT OR IGNORE INTO store VALUES (?,?)", (store, worker))

    def stores(self) -> Iterator[tuple[str, str, int]]:
        """Id of each store, its first worker and the number of first copies in it, the fullest first."""
        yield from self._rows(
            "SELECT copy.store, COALESCE(store.worker, ''), COUNT(*) FROM copy LEFT JOIN store ON store.id = copy.store"
            " GROUP BY copy.store ORDER BY COUNT(*) DESC, copy.store"
        )

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

    def save_wait(self, host: str, until: float) -> None:
        """A host asked to be left alone until that time, seconds since the epoch; the longest such wait holds."""
        self._db.execute(
            "INSERT INTO host VALUES (?,?)"
            " ON CONFLICT (name) DO UPDATE SET blocked_until = MAX(blocked_until, excluded.blocked_until)",
            (host, until),
        )

    def waits(self) -> Iterator[tuple[str, float]]:
        """Host and end of its wait, for all that ever asked for one."""
        yield from self._rows("SELECT name, blocked_until FROM host")

    def census(self) -> Iterator[tuple[Kind, bool, int, str, int]]:
        """Requests by kind, being a seed, state and reason: their number."""
        query = "SELECT kind, seed, state, reason, COUNT(*) FROM request GROUP BY kind, seed, state, reason"
        for kind, seed, state, reason, number in self._rows(query):
            yield _KINDS[kind], bool(seed), state, reason, number

    def settled_by_origin(self) -> Iterator[tuple[str, Kind, int]]:
        """Origin, kind and the number of its settled requests; those of lists, which have no host, left out."""
        query = (
            "SELECT origin.name, kind, COUNT(*) FROM request JOIN origin ON origin.id = request.origin"
            " WHERE state != ? AND origin.name != '' GROUP BY origin.name, kind"
        )
        for name, kind, number in self._rows(query, WAITING):
            yield name, _KINDS[kind], number

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

    def _later(self, statement: str, *values: Any) -> None:
        self._due.setdefault(statement, []).append(values)

    def _made_once(self, name: str, value: bytes) -> bytes:
        found = self.get_meta(name)
        if found is None:
            self.set_meta(name, value)
        return found or value

    def _number(self, query: str) -> int:
        return int(self._rows(query)[0][0])

    def _rows(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        with _disk_errors(self._where):
            return self._db.execute(query, values).fetchall()

    def _hash(self, request: Request) -> int:
        digest = blake2b(f"{request.kind} {request.url}".encode(), key=self.secret, digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    def _columns(self, request: Request) -> tuple[int, int, int, bool]:
        """Kind, origin, priority, and whether it is a seed."""
        return _KINDS.index(request.kind), self._origin_id(place_of(request)), request.priority, request.is_seed

    def _origin_id(self, name: str) -> int:
        number = self._origins.get(name)
        if number is None:
            number = self._db.execute("INSERT INTO origin (name) VALUES (?)", (name,)).lastrowid or 0
            self._origins[name] = number
            self._new_origins.append(name)
        return number


def is_sound(request: Request) -> bool:
    """Whether its URLs can be visited, and remembered: the wire and this file take nothing else back."""
    if len(request.url) > MAX_URL_LENGTH or not _CANONICAL.fullmatch(request.url):
        return False
    try:
        place_of(request)
    except ValueError:
        return False
    return True


def place_of(request: Request) -> str:
    """Name of the origin in whose queue a request stands; lists, which nobody is asked for, have none.

    Raises:
        ValueError: it is no http(s) URL.
    """
    return "" if request.kind == "list" else _origin("/".join(request.location.split("/", 3)[:3]))


@lru_cache(maxsize=32_768)  # a wide crawl goes round its hosts, and parsing is dear
def _origin(beginning: str) -> str:
    name = origin(beginning)
    if not name.startswith(("http://", "https://")):
        raise ValueError(f"not an http(s) URL: {beginning[:200]!r}")
    return name


#: What every canonical URL is made of.
_CANONICAL = re.compile(r"[!-;=?-~]+")
_SELECT_HASHES = "SELECT hash FROM request WHERE hash IN (SELECT value FROM json_each(?))"
_SELECT_BY_HASH = "SELECT id, data, state, attempts, reason FROM request WHERE hash = ?"
_SELECT_BY_ROW = "SELECT id, data, state, attempts, reason FROM request WHERE id IN (SELECT value FROM json_each(?))"
_SELECT_COPIES = "SELECT sha256, store, path FROM copy WHERE sha256 IN (SELECT value FROM json_each(?))"
_WRITE_RECORD = "INSERT OR REPLACE INTO record (request, status, reason, bytes, data) VALUES (?,?,?,?,?)"
_REQUEUE = (
    "UPDATE request SET kind = ?, origin = ?, priority = ?, seed = ?, state = ?, attempts = ?, not_before = ?,"
    " reason = ?, data = ? WHERE id = ?"
)
_REQUEST = msgspec.json.Decoder(Request)
_RECORD = msgspec.json.Decoder(ImageRecord)
_RULES = msgspec.json.Decoder(RobotsRules)
_encode = msgspec.json.Encoder().encode


def _json(values: list[int] | list[str]) -> str:
    return _encode(values).decode()


def _entry(raw: tuple[Any, ...]) -> Entry:
    row, data, state, attempts, reason = raw
    return Entry(row, _REQUEST.decode(data), state, attempts, reason)


@contextmanager
def _disk_errors(where: str) -> Iterator[None]:
    """Turn SQLite's errors of the disk into ours, with a line that says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise
        if "full" in text:
            raise DiskError(f"no space left for {where}; free some, then run the same command again") from error
        raise DiskError(f"cannot use {where}: {text}") from error
