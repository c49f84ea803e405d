"""The one truth on disk: requests, their states, the records and the robots rules, in SQLite.

Write-ahead log with ``synchronous=FULL``: when `Ledger.transaction` ends, its changes survive a power cut. A request is
found by a keyed 64-bit hash of its kind and URL; the key is made with the file, so nobody can aim at a collision, and
ten million URLs meet by chance with probability 3e-6. Not thread-safe: the frontier that owns it holds the lock.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from crawler.errors import DiskError
from crawler.model import ImageRecord, Kind, Request, RobotsRules
from crawler.urls import origin

#: Version of the tables.
SCHEMA = 1

WAITING, DONE, FAILED = 0, 1, 2
_KINDS: tuple[Kind, ...] = ("page", "image", "robots", "list")

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS origin (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rules BLOB, rules_until REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS request (
    id INTEGER PRIMARY KEY, hash INTEGER NOT NULL UNIQUE, kind INTEGER NOT NULL, origin INTEGER NOT NULL,
    priority INTEGER NOT NULL, seed INTEGER NOT NULL, state INTEGER NOT NULL, attempts INTEGER NOT NULL,
    not_before REAL NOT NULL, reason TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS record (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, request INTEGER NOT NULL UNIQUE, status TEXT NOT NULL,
    reason TEXT NOT NULL, bytes INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS copy (sha256 TEXT PRIMARY KEY, store TEXT NOT NULL, path TEXT NOT NULL) WITHOUT ROWID;
"""


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
        with _disk_errors(self._where):
            self._db = sqlite3.connect(self._where, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA busy_timeout=5000")
            self._db.execute("PRAGMA journal_size_limit=67108864")
            self._db.executescript(_TABLES)
        self._reload()
        with self.transaction():
            self.secret = self._made_once("secret", secrets.token_bytes(32))
            schema = int(self._made_once("schema", str(SCHEMA).encode()))
        if schema != SCHEMA:
            self.close()
            raise DiskError(f"{self._where} was written by another release (tables {schema}, this one has {SCHEMA})")

    def _reload(self) -> None:
        """Read what is kept in memory of the tables: the last row, and the origins' numbers."""
        self._last = self._number("SELECT COALESCE(MAX(id), 0) FROM request")
        self._origins: dict[str, int] = dict(self._db.execute("SELECT name, id FROM origin"))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes within are made durable together, or none of them is made."""
        with _disk_errors(self._where):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._reload()
                raise

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it."""
        self._db.close()

    # requests -----------------------------------------------------------------------------------------------------

    def add(self, requests: Iterable[Request]) -> list[Entry]:
        """Insert those not yet known; returns them."""
        wanted = {self._hash(request): request for request in requests}
        for known in self._select(
            "SELECT hash FROM request WHERE hash IN (SELECT value FROM json_each(?))", list(wanted)
        ):
            wanted.pop(known[0], None)
        entries, rows = [], []
        for hashed, request in wanted.items():
            self._last += 1
            entries.append(Entry(self._last, request, WAITING, 0, ""))
            rows.append((self._last, hashed, *self._columns(request), WAITING, 0, 0.0, "", _encode(request)))
        self._db.executemany("INSERT INTO request VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows)
        return entries

    def find(self, request: Request) -> Entry | None:
        """The entry of that kind and URL."""
        raw = self._db.execute(_SELECT_BY_HASH, (self._hash(request),)).fetchone()
        return _entry(raw) if raw else None

    def get(self, rows: Sequence[int]) -> dict[int, Entry]:
        """The entries of those rows."""
        found = self._select(_SELECT_BY_ROW, list(rows))
        return {raw[0]: _entry(raw) for raw in found}

    def settle(self, row: int, reason: str) -> None:
        """A request's final state: done, or failed with a reason."""
        state = FAILED if reason else DONE
        self._db.execute("UPDATE request SET state = ?, reason = ? WHERE id = ?", (state, reason, row))

    def requeue(self, row: int, request: Request, attempts: int, *, not_before: float = 0.0, reason: str = "") -> None:
        """A request goes on: later, elsewhere, or anew."""
        kind, origin_id, priority, seed = self._columns(request)
        self._db.execute(
            "UPDATE request SET kind = ?, origin = ?, priority = ?, seed = ?, state = ?, attempts = ?, not_before = ?,"
            " reason = ?, data = ? WHERE id = ?",
            (kind, origin_id, priority, seed, WAITING, attempts, not_before, reason, _encode(request), row),
        )

    def waiting(self) -> Iterator[Waiting]:
        """Every waiting request, in the order of discovery."""
        names = {number: name for name, number in self._origins.items()}
        query = "SELECT id, kind, origin, priority, not_before FROM request WHERE state = ? ORDER BY id"
        for row, kind, origin_id, priority, not_before in self._db.execute(query, (WAITING,)):
            yield Waiting(row, _KINDS[kind], names[origin_id], priority, not_before)

    # records ------------------------------------------------------------------------------------------------------

    def first_copy(self, sha256: str, store: str, path: str) -> tuple[str, str] | None:
        """Store and path of the first copy of these bytes; None when this one is the first."""
        query = "INSERT OR IGNORE INTO copy VALUES (?,?,?)"
        if self._db.execute(query, (sha256, store, path)).rowcount:
            return None
        first: tuple[str, str] = self._db.execute("SELECT store, path FROM copy WHERE sha256 = ?", (sha256,)).fetchone()
        return first

    def record(self, row: int, record: ImageRecord) -> None:
        """Write the manifest row of a request, in place of any that it had."""
        self._db.execute("DELETE FROM record WHERE request = ?", (row,))
        self._db.execute(
            "INSERT INTO record (request, status, reason, bytes, data) VALUES (?,?,?,?,?)",
            (row, record.status, record.reason, record.bytes, msgspec.json.encode(record)),
        )

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        """See `crawler.frontier.base.Frontier.records`."""
        query = "SELECT seq, data FROM record WHERE seq > ? ORDER BY seq LIMIT ?"
        return tuple((seq, _RECORD.decode(data)) for seq, data in self._db.execute(query, (after, limit)))

    # rules, counts, meta ------------------------------------------------------------------------------------------

    def save_rules(self, name: str, rules: RobotsRules, until: float) -> None:
        """Keep an origin's rules until that time, seconds since the epoch."""
        origin_id = self._origin_id(name)
        self._db.execute(
            "UPDATE origin SET rules = ?, rules_until = ? WHERE id = ?", (msgspec.json.encode(rules), until, origin_id)
        )

    def rules(self) -> Iterator[tuple[str, RobotsRules, float]]:
        """Origin, rules and their end in seconds since the epoch, for all that are known."""
        for name, data, until in self._db.execute("SELECT name, rules, rules_until FROM origin WHERE rules NOTNULL"):
            yield name, _RULES.decode(data), until

    def census(self) -> Iterator[tuple[Kind, bool, int, str, int]]:
        """Requests by kind, being a seed, state and reason: their number."""
        query = "SELECT kind, seed, state, reason, COUNT(*) FROM request GROUP BY kind, seed, state, reason"
        for kind, seed, state, reason, number in self._db.execute(query):
            yield _KINDS[kind], bool(seed), state, reason, number

    def duplicates(self) -> int:
        """Number of records of the status ``duplicate``."""
        return self._number("SELECT COUNT(*) FROM record WHERE status = 'duplicate'")

    def bytes_saved(self) -> int:
        """Bytes of all first copies."""
        return self._number("SELECT COALESCE(SUM(bytes), 0) FROM record WHERE status = 'success'")

    def get_meta(self, name: str) -> bytes | None:
        """A value kept under a name."""
        found = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return bytes(found[0]) if found else None

    def set_meta(self, name: str, value: bytes) -> None:
        """Keep a value under a name."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, value))

    # inside -------------------------------------------------------------------------------------------------------

    def _made_once(self, name: str, value: bytes) -> bytes:
        found = self.get_meta(name)
        if found is None:
            self.set_meta(name, value)
        return found or value

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    def _select(self, query: str, numbers: list[int]) -> list[tuple[Any, ...]]:
        return self._db.execute(query, (msgspec.json.encode(numbers).decode(),)).fetchall()

    def _hash(self, request: Request) -> int:
        digest = blake2b(f"{request.kind} {request.url}".encode(), key=self.secret, digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    def _columns(self, request: Request) -> tuple[int, int, int, bool]:
        """Kind, origin, priority, and whether it is a seed."""
        name = "" if request.kind == "list" else origin(request.location)
        seed = request.kind == "page" and request.depth == 0
        return _KINDS.index(request.kind), self._origin_id(name), request.priority, seed

    def _origin_id(self, name: str) -> int:
        number = self._origins.get(name)
        if number is None:
            number = self._db.execute("INSERT INTO origin (name) VALUES (?)", (name,)).lastrowid or 0
            self._origins[name] = number
        return number


_SELECT_BY_HASH = "SELECT id, data, state, attempts, reason FROM request WHERE hash = ?"
_SELECT_BY_ROW = "SELECT id, data, state, attempts, reason FROM request WHERE id IN (SELECT value FROM json_each(?))"
_REQUEST = msgspec.json.Decoder(Request)
_RECORD = msgspec.json.Decoder(ImageRecord)
_RULES = msgspec.json.Decoder(RobotsRules)
_encode = msgspec.json.Encoder().encode


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
