"""What must hold in the tables of any crawl, whatever was killed and when: looked at row by row, never written to.

Every rule is a sentence that is true of what breaks it. All of it is read in one go and nothing is kept in memory, so
millions of rows are no matter; while a master works, its write-ahead log can't be folded in meanwhile, and that is all.
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

from crawler.frontier.conduct import Conduct
from crawler.frontier.history import REFRESH, Refresh, refresh_in
from crawler.frontier.identity import key_of, name_of, sound_place
from crawler.frontier.index import written
from crawler.frontier.ledger import DONE, FAILED, KINDS, WAITING
from crawler.frontier.soundness import mark_of, open_to_read
from crawler.frontier.tables import LEFT, refuse_other_release
from crawler.known import PIN_MISMATCH, Known, released
from crawler.model import REASONS, ImageRecord, Request, RobotsRules
from crawler.paths import hash_in, is_picture, is_safe

#: Told of what breaks a rule: the rule and an example, which may be anything that a hostile page has written.
Tell = Callable[[str, str], None]
#: Told now and then how many rows were looked at.
OnProgress = Callable[[int], None]

#: Rows between two words about progress, and of one query for records.
_PAGE = 1_000

_REQUEST = msgspec.json.Decoder(Request)
_RECORD = msgspec.json.Decoder(ImageRecord)
_CONDUCT = msgspec.json.Decoder(Conduct)
_RULES = msgspec.json.Decoder(RobotsRules)
_REFRESH = msgspec.json.Decoder(Refresh)
_KNOWN = msgspec.json.Decoder(Known)
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
    " UNION SELECT seq FROM record_data WHERE NOT EXISTS (SELECT 1 FROM record WHERE seq = record_data.seq)"
)
#: Rows of a table whose key leads elsewhere: those up to a number are in the index, the later ones in nobody's way.
_LOST_KEYS = (
    "SELECT {row} FROM {table} LEFT JOIN {index} AS known ON known.key = {key} WHERE {key} NOTNULL"
    " AND ({row} <= ? OR known.row NOTNULL) AND known.row IS NOT {row}"
    " UNION ALL SELECT MAX({row}) FROM {table} WHERE {row} > ? AND {key} NOTNULL GROUP BY {key} HAVING COUNT(*) > 1"
)
_KEYS = (
    ("two requests are for the same URL, or one can't be found", "request", "request_index", "hash", "id"),
    ("two successes have the same content, or one can't be found", "record", "copy_index", "copy", "seq"),
)
_DUPLICATES_OF_NOBODY = (
    "SELECT url FROM temp.double LEFT JOIN temp.first USING (copy)"
    " WHERE (double.store, double.path) IS NOT (first.store, first.path)"
)


#: What has no file of its own leans on a first copy, or on what was one before a refresh.
_LEANING_ON_NOTHING = (
    "SELECT url FROM temp.leaning WHERE NOT EXISTS (SELECT 1 FROM temp.first"
    " WHERE first.path = leaning.path AND first.store = leaning.store)"
    " AND NOT EXISTS (SELECT 1 FROM past WHERE past.path = leaning.path)"
)


class Row(NamedTuple):
    """A request as its columns have it, and its record, if it has one."""

    id: int
    hash: int
    kind: int
    origin: str | None
    priority: int
    seed: int
    state: int
    reason: str
    data: bytes
    #: Number of the record, 0 where there is none; then what the record's columns have.
    seq: int
    owner: int | None
    status: str
    size: int
    store: str
    copy: int | None
    twin: int | None
    change: str | None
    record: bytes | None


class Books:
    """The tables of a crawl, for reading; a context manager.

    Args:
        path: the file.
        is_still: see `crawler.frontier.soundness.open_to_read`.

    Raises:
        sqlite3.DatabaseError: from any method, when the file can't be read; or UnicodeDecodeError, about the same.
        DiskError: it was written by another release.
    """

    def __init__(self, path: Path, *, is_still: bool) -> None:
        self._db = open_to_read(path, is_still=is_still)
        try:
            refuse_other_release(self._db, str(path))
        except BaseException:
            self._db.close()
            raise
        self._db.text_factory = _text
        #: Image URLs by their state: ``waiting``, ``success``, ``duplicate``, ``failed``.
        self.images: Counter[str] = Counter()
        #: Whether no request of any kind waits, and number of the last record.
        self.is_over = True
        self.last = 0

    def __enter__(self) -> Self:
        self._db.execute("BEGIN")
        try:
            self.last = self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM record").fetchone()[0]
        except BaseException:
            self._db.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @property
    def has_ended_well(self) -> bool:
        """Whether the last master has, and none is at work."""
        return mark_of(self._db) == b""

    def prove(self, tell: Tell, on_progress: OnProgress) -> None:
        """Look at every row of every table."""
        for (line,) in self._db.execute("PRAGMA integrity_check"):
            if line != "ok":
                tell("the database is damaged", line)
        secret = _bytes(next(iter(self._db.execute("SELECT value FROM meta WHERE name = 'secret'")), (b"",))[0])
        proof = _Proof(self._db, secret[:64], tell, is_refreshed=self.refresh.number > 0)
        for row in starmap(Row, self._db.execute(_REQUESTS)):
            proof.look_at(row)
            if row.id % _PAGE == 0:
                on_progress(proof.seen)
        proof.end()
        self.images, self.is_over = proof.images, proof.is_over

    @property
    def refresh(self) -> Refresh:
        """The last refresh; none where its note can't be read, which `prove` tells of."""
        found = self._db.execute("SELECT value FROM meta WHERE name = ?", (REFRESH,)).fetchone()
        with suppress(msgspec.MsgspecError):
            return refresh_in(_bytes(found[0]) if found else None)
        return Refresh()

    def past(self) -> Iterator[str]:
        """Paths of files that a record has named before a refresh, or before it was left with that of its best."""
        yield from (str(path) for (path,) in self._db.execute("SELECT path FROM past"))
        for (data,) in self._db.execute("SELECT value FROM meta WHERE name = ?", (LEFT,)):
            yield from _decoded(_PATHS, data) or ()

    def lines(self) -> Iterator[ImageRecord | None]:
        """Every record in order, None where it is none."""
        for (data,) in self._db.execute("SELECT data FROM record_data ORDER BY seq"):
            yield _decoded(_RECORD, data)

    def let_go(self) -> None:
        """Stop to see the tables as they were at first; a master's write-ahead log can be folded in again."""
        self._db.execute("ROLLBACK")

    def records(self) -> Iterator[ImageRecord]:
        """Every record that there was at first, in order, a batch at a time."""
        after = 0
        query = "SELECT seq, data FROM record_data WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        while rows := self._db.execute(query, (after, self.last, _PAGE)).fetchall():
            after = rows[-1][0]
            for _, data in rows:
                record = _decoded(_RECORD, data)
                if record is not None:
                    yield record


class _Proof:
    """The rules, one after the other."""

    def __init__(self, db: sqlite3.Connection, secret: bytes, tell: Tell, *, is_refreshed: bool) -> None:
        self._db, self._secret, self._tell, self._is_refreshed = db, secret, tell, is_refreshed
        self.images: Counter[str] = Counter()
        self.is_over = True
        self.seen = 0
        self._firsts: list[tuple[int, str, str]] = []
        self._doubles: list[tuple[int, str, str, str]] = []
        self._leaning: list[tuple[str, str, str]] = []
        db.execute("CREATE TEMP TABLE first (copy INTEGER PRIMARY KEY, store TEXT NOT NULL, path TEXT NOT NULL)")
        db.execute(
            "CREATE TEMP TABLE double (copy INTEGER, store TEXT NOT NULL, path TEXT NOT NULL, url TEXT NOT NULL)"
        )
        db.execute("CREATE TEMP TABLE leaning (store TEXT NOT NULL, path TEXT NOT NULL, url TEXT NOT NULL)")

    def look_at(self, row: Row) -> None:
        """One request, and its record."""
        self.seen += 1
        self.is_over = self.is_over and row.state != WAITING
        request = _decoded(_REQUEST, row.data)
        if request is None or row.kind not in range(len(KINDS)) or row.state not in (WAITING, DONE, FAILED):
            self._tell("a request can't be read", f"row {row.id}")
            return
        self._look_at_columns(row, request)
        if row.state != WAITING and not (_is_reason(row.reason) if row.state == FAILED else row.reason == ""):
            self._tell("a request ended with a reason that is none", f"{request.url}: {row.reason!r}")
        if request.kind == "image":
            self._look_at_image(row, request)
        elif row.seq:
            self._tell("a record is of something else than an image", request.url)

    def _look_at_columns(self, row: Row, request: Request) -> None:
        """What is kept beside the request itself, for the indexes, is what it says."""
        place = sound_place(request)
        if place is None:
            self._tell("a request is for no URL", request.url)
        elif row.origin != place:
            self._tell("a request is queued at another host than its own", f"{request.url}: {row.origin}")
        if (row.kind, row.priority, bool(row.seed)) != (KINDS.index(request.kind), request.priority, request.is_seed):
            self._tell("a request is queued as another kind than its own", request.url)
        if row.hash != key_of(name_of(request), self._secret):
            self._tell("a request is remembered under another URL than its own", request.url)

    def _look_at_image(self, row: Row, request: Request) -> None:
        if row.state == WAITING:
            self.images["waiting"] += 1
            if row.seq and not self._is_refreshed:
                self._tell("an image that waits has a record already", request.url)
        if row.state != WAITING or (row.seq and self._is_refreshed):
            self._look_at_record(row, request)

    def _look_at_record(self, row: Row, request: Request) -> None:
        """Of an image that is settled, or was so before a refresh."""
        if row.owner is None or row.record is None:
            self._tell("a settled image has no record", request.url)
            return
        record = _decoded(_RECORD, row.record)
        if record is None:
            self._tell("a record can't be read", request.url)
            return
        is_settled = row.state != WAITING
        self.images[record.status] += is_settled
        if record.url != request.url or row.owner != row.id:
            self._tell("a record is of another URL than its request", f"{record.url}, not {request.url}")
        if is_settled and ((row.state == FAILED) != (record.status == "failed") or row.reason != record.reason):
            self._tell("a record says something else than its request", f"{request.url}: {record.reason}")
        copy = key_of(record.sha256, self._secret)
        status = "" if record.is_dropped else record.status
        keys = tuple(copy if status == known else None for known in ("success", "duplicate"))
        counted = (record.status, record.bytes, record.store, *keys, record.change)
        if (row.status, row.size, row.store, row.copy, row.twin, row.change) != counted:
            self._tell("a record is counted as something else than it says", request.url)
        if record.status != "failed":
            self._look_at_copy(record, copy)
        elif record.path:
            self._look_at_path(record)

    def _look_at_path(self, record: ImageRecord) -> None:
        """Also of a record that has failed: of what was saved before a refresh, or is in quarantine."""
        path = released(record.path) if record.reason == PIN_MISMATCH else record.path
        if record.is_dropped:
            is_sound = path.startswith("images/") and hash_in(path) != "" and is_safe(path)
        else:
            is_sound = is_picture(path, record.sha256)
        if not is_sound or not _SHA256.fullmatch(record.sha256):
            self._tell("a path does not follow from the content", f"{record.url}: {record.path}")

    def _look_at_copy(self, record: ImageRecord, copy: int) -> None:
        self._look_at_path(record)
        if record.status == "success":
            self._firsts.append((copy, record.store, record.path))
        elif record.is_dropped:
            self._leaning.append((record.store, record.path, record.url))
        else:
            self._doubles.append((copy, record.store, record.path, record.url))
        if len(self._firsts) + len(self._doubles) + len(self._leaning) >= _PAGE:
            self._keep_copies()

    def _look_for_gaps(self) -> None:
        number, last = self._db.execute(_COUNT).fetchone()
        if number != last:
            self._tell("requests are missing", f"{number} of {last}")
        for table, row in self._db.execute(_NOWHERE):
            self._tell("something is left of what is gone", f"{table} {row}")

    def _look_at_notes(self) -> None:
        """What a master reads before it begins."""
        for host, state in self._db.execute("SELECT name, state FROM host"):
            if _decoded(_CONDUCT, state) is None:
                self._tell("what is known of a host can't be read", str(host))
        for name, until in self._db.execute("SELECT name, rules_until FROM origin"):
            if not isinstance(until, int | float):
                self._tell("the robots rules of a host can't be read", str(name))
        for name, value in self._db.execute("SELECT name, value FROM meta"):
            is_refresh = name == REFRESH and _decoded(_REFRESH, value) is not None
            if name in (*_NOTED_NUMBERS, REFRESH) and not (is_refresh or _bytes(value).isdigit()):
                self._tell("a note of the crawl's own can't be read", name)
        for row, data in self._db.execute("SELECT request, data FROM visit"):
            if _decoded(_KNOWN, data) is None:
                self._tell("what is known of a page can't be read", f"row {row}")

    def _keep_copies(self) -> None:
        """On disk: a crawl may have more pictures than memory has room for."""
        self._db.executemany("INSERT OR IGNORE INTO temp.first VALUES (?,?,?)", self._firsts)
        self._db.executemany("INSERT INTO temp.double VALUES (?,?,?,?)", self._doubles)
        self._db.executemany("INSERT INTO temp.leaning VALUES (?,?,?)", self._leaning)
        for rows in (self._firsts, self._doubles, self._leaning):
            rows.clear()

    def end(self) -> None:
        """What can be told only when every request was looked at."""
        self._keep_copies()
        for (number,) in self._db.execute(_STRAY_RECORDS):
            self._tell("a record belongs to no request", f"record {number}")
        self._look_for_gaps()
        self._look_at_notes()
        for rule, table, index, key, row in _KEYS:
            query = _LOST_KEYS.format(table=table, index=index, key=key, row=row)
            upto = _written(self._db, index)
            for (number,) in self._db.execute(query, (upto, upto)):
                self._tell(rule, f"{table} {number}")
        for (url,) in self._db.execute(_DUPLICATES_OF_NOBODY):
            self._tell("a duplicate points at no first copy", str(url))
        if self._db.execute("SELECT EXISTS (SELECT 1 FROM temp.leaning)").fetchone()[0]:
            self._db.execute("CREATE INDEX temp.place ON first (path)")
        for (url,) in self._db.execute(_LEANING_ON_NOTHING):
            self._tell("a picture leans on a file that nothing names", str(url))
        for name, rules in self._db.execute("SELECT name, rules FROM origin WHERE rules NOTNULL"):
            if _decoded(_RULES, rules) is None:
                self._tell("the robots rules of a host can't be read", str(name))
        discovered = self._db.execute("SELECT COUNT(*) FROM request WHERE kind = ?", (KINDS.index("image"),))
        if self.images.total() != (total := discovered.fetchone()[0]):
            self._tell(
                "the states do not add up", f"{self.images.total()} image URLs in some state, {total} discovered"
            )


#: What points nowhere, and where requests are missing, as their numbers have no gaps.
_NOWHERE = (
    "SELECT 'request_data', id FROM request_data WHERE NOT EXISTS (SELECT 1 FROM request WHERE id = request_data.id)"
    " UNION ALL SELECT 'request_index', row FROM request_index WHERE NOT EXISTS (SELECT 1 FROM request WHERE id = row)"
    " UNION ALL SELECT 'copy_index', row FROM copy_index WHERE NOT EXISTS (SELECT 1 FROM record WHERE seq = row)"
    " UNION ALL SELECT 'visit', request FROM visit WHERE NOT EXISTS (SELECT 1 FROM request WHERE id = visit.request)"
)
_COUNT = "SELECT COUNT(*), COALESCE(MAX(id), 0) FROM request"
_NOTED_NUMBERS = ("request_index", "copy_index", "bad_lines", "spared")


def _is_reason(text: object) -> bool:
    return isinstance(text, str) and (text in REASONS or _REASON.fullmatch(text) is not None)


def _decoded(decoder: "msgspec.json.Decoder[Any]", data: Any) -> Any:
    """What the bytes say; None where they say nothing."""
    with suppress(msgspec.MsgspecError, ValueError, TypeError):
        return decoder.decode(data)
    return None


def _written(db: sqlite3.Connection, index: str) -> int:
    with suppress(ValueError):  # which was told of
        return written(db, index)
    return 0


def _bytes(data: Any) -> bytes:
    return data if isinstance(data, bytes) else str(data).encode()


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
