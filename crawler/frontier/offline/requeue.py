"""Requeue failed requests, or requests whose file is lost, in a stopped crawl.

Requeued requests wait as if they were newly discovered. The change is one transaction of SQL statements, so it can
handle millions of requests, and a kill leaves all of it or nothing. The records of the requests are deleted at once,
except records that name a file saved before a refresh: these stay until the next verdict.
"""

import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from crawler.frontier.host_health import HEALTH
from crawler.frontier.ledger.database import disk_errors, open_tables
from crawler.frontier.ledger.integrity import MARK
from crawler.frontier.ledger.request_keys import origin_of
from crawler.frontier.ledger.rows import FAILED, KINDS, PAGE, RECORD, REQUEST, SEAL, WAITING, encode
from crawler.frontier.politeness import MAX_WAIT
from crawler.frontier.verdicts import without_redirects
from crawler.model import Kind, RobotsRules
from crawler.urls import host_key, origin

#: Receives how many records, from the first on, stay unchanged; and the number of the last record.
BeforeChange = Callable[[int, int], None]

_ROBOTS = KINDS.index("robots")

_RULES = msgspec.json.Decoder(RobotsRules)

#: Failed requests with these reasons, and those that failed with the robots.txt of these origins. A robots.txt is never
#: requeued itself: it is fetched when another request needs it.
_CHOSEN = (
    " FROM request WHERE state = :failed AND kind != :robots AND (reason IN (SELECT value FROM json_each(:reasons))"
    " OR reason = 'robots-unreachable' AND origin IN"
    " (SELECT id FROM origin WHERE name IN (SELECT value FROM json_each(:unread))))"
)
_FAILED_ROBOTS = (
    "SELECT data FROM request JOIN request_data USING (id)"
    " WHERE state = :failed AND kind = :robots AND reason IN (SELECT value FROM json_each(:reasons))"
)
_AT_PAUSED = "origin IN (SELECT value FROM json_each(:paused))"
_IS_CHOSEN = "id IN (SELECT id FROM temp.chosen)"
_TOUCHED = f"SELECT DISTINCT name FROM request JOIN origin ON origin.id = request.origin WHERE request.{_IS_CHOSEN}"  # noqa: S608
_GONE = "seq IN (SELECT record FROM temp.chosen WHERE NOT has_file)"
_REDIRECTED = (
    "SELECT id, data FROM request_data WHERE id > ? AND id IN (SELECT id FROM temp.chosen)"
    " AND instr(data, CAST('\"target\":' AS BLOB)) ORDER BY id LIMIT ?"
)
_SET_ORIGIN = "UPDATE request SET origin = (SELECT id FROM origin WHERE name = ?) WHERE id = ?"
#: The chosen requests, each with its record, and whether that stays (`crawler.frontier.ledger.history.has_file`).
_CHOSEN_ROWS = "CREATE TEMP TABLE chosen (id INTEGER PRIMARY KEY, record INTEGER NOT NULL, has_file INTEGER NOT NULL)"
_HAS_FILE = (
    'COALESCE((SELECT instr(data, CAST(\'"path":"images/\' AS BLOB)) > 0 FROM record_data'
    " WHERE seq = request.record), 0)"
)
_REQUEUE = (
    "UPDATE request SET state = ?, attempts = 0, not_before = 0.0, reason = ?,"
    " record = (SELECT record * has_file FROM temp.chosen WHERE chosen.id = request.id)"
    " WHERE id IN (SELECT id FROM temp.chosen)"
)


#: Remove the first copies whose records are deleted from the index.
_FORGET_COPIES = f"DELETE FROM copy_index WHERE key IN (SELECT copy FROM record WHERE copy NOTNULL AND {_GONE})"  # noqa: S608
_SAVED = "SELECT request, seq, data FROM record JOIN record_data USING (seq)"


class RequeueResult(NamedTuple):
    """The requests that were requeued, and those that were not."""

    #: Number of requeued requests by (kind, reason).
    requests: dict[tuple[Kind, str], int]
    #: Number of failed requests with other reasons, by reason; without robots.txt.
    others: dict[str, int]
    #: By host that asked for a pause: number of requests that therefore stay failed, and the seconds of that pause.
    left: dict[str, tuple[int, float]]
    #: Whether any request waits now.
    is_waiting: bool


def requeue_failed(
    path: Path, is_meant: Callable[[str], bool], *, patience: float, wall: float, before: BeforeChange
) -> RequeueResult:
    """Requeue failed requests with the chosen reasons; for a robots.txt, requeue the requests that failed with it.

    Requeued requests forget their redirects. A host that was down is tried at once. A robots.txt that could not be
    fetched, or that disallowed a request, is fetched again. But a pause that a host has asked for still holds: if it
    lasts longer than ``patience`` seconds, the host's requests stay failed, as they would only fail again.

    Args:
        path: the database of a stopped crawl.
        is_meant: returns whether to requeue requests that failed for a reason.
        patience: seconds that the crawl waits for a host at its end.
        wall: the current time, in seconds since the epoch.
        before: called before the first change, after the crawl is marked as not cleanly ended.

    Raises:
        DiskError: the database can't be read or written.
    """
    with disk_errors(str(path)), closing(open_tables(path)) as database:
        requeue = _Requeue(database, wall, is_meant)
        left = requeue.choose(patience)
        requests, others = requeue.count()
        if requests:
            _change(database, requeue, before, "")
        (is_waiting,) = database.execute("SELECT EXISTS (SELECT 1 FROM request WHERE state = ?)", (WAITING,)).fetchone()
    return RequeueResult(requests, others, left, bool(is_waiting))


def requeue_lost(path: Path, is_lost: Callable[[str, str], bool], *, wall: float, before: BeforeChange) -> int:
    """Requeue every image whose record names a lost file, its own or that of a first copy. Return their number.

    Images that already wait, in a refresh, lose their record. They are then fetched in full, even if unchanged.
    The arguments are those of `requeue_failed`; ``is_lost`` receives store and path. Raises `DiskError`.
    """
    with disk_errors(str(path)), closing(open_tables(path)) as database:
        requeue = _Requeue(database, wall, lambda reason: False)
        number = requeue.choose_lost(is_lost)
        if number:
            _change(database, requeue, before, "lost-file")
    return number


def _change(database: sqlite3.Connection, requeue: "_Requeue", before: BeforeChange, reason: str) -> None:
    database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (MARK, b"1"))
    before(*requeue.untouched())
    with database:
        database.execute("BEGIN IMMEDIATE")
        requeue.change(reason)
        break_seal(database)


class _Requeue:
    """The steps of a requeue, in their order."""

    def __init__(self, database: sqlite3.Connection, wall: float, is_meant: Callable[[str], bool]) -> None:
        self._db, self._wall = database, wall
        self._names: dict[int, str] = dict(database.execute("SELECT id, name FROM origin"))
        self._health = {host: HEALTH.decode(data) for host, data in database.execute("SELECT name, state FROM host")}
        failed = database.execute("SELECT DISTINCT reason FROM request WHERE state = ?", (FAILED,))
        self._reasons = [reason for (reason,) in failed if is_meant(reason)]

    def choose(self, patience: float) -> dict[str, tuple[int, float]]:
        """Choose the requests to requeue. Return requests that stay failed and the pause in seconds, by paused host."""
        waits = {host: min(health.blocked_until - self._wall, MAX_WAIT) for host, health in self._health.items()}
        paused = {
            number: host
            for number, name in self._names.items()
            if name and waits.get(host := host_key(name), 0.0) > patience and not self._health[host].outages
        }
        values = {"failed": FAILED, "robots": _ROBOTS, "reasons": _json(self._reasons), "paused": _json(paused)}
        failed_robots = [REQUEST.decode(data) for (data,) in self._db.execute(_FAILED_ROBOTS, values)]
        values["unread"] = _json(origin(request.url) for request in failed_robots)
        self._db.execute(_CHOSEN_ROWS)
        self._db.execute(
            f"INSERT INTO temp.chosen SELECT id, record, {_HAS_FILE} {_CHOSEN} AND NOT {_AT_PAUSED}", values
        )
        left: Counter[str] = Counter()
        query = f"SELECT origin, COUNT(*) {_CHOSEN} AND {_AT_PAUSED} GROUP BY origin"
        for number, requests in self._db.execute(query, values):
            left[paused[number]] += requests
        return {host: (number, waits[host]) for host, number in left.most_common()}

    def choose_lost(self, is_lost: Callable[[str, str], bool]) -> int:
        """Choose the images whose file is lost. Return their number."""
        self._db.execute(_CHOSEN_ROWS)
        saved = ((row, seq, RECORD.decode(data)) for row, seq, data in self._db.execute(_SAVED))
        lost = ((row, seq) for row, seq, record in saved if record.path and is_lost(record.store, record.path))
        return self._db.executemany("INSERT INTO temp.chosen VALUES (?, ?, 0)", lost).rowcount

    def count(self) -> tuple[dict[tuple[Kind, str], int], dict[str, int]]:
        """Return the numbers of chosen requests by kind and reason, and of other failed requests by reason."""
        chosen = self._db.execute(
            f"SELECT kind, reason, COUNT(*) FROM request WHERE {_IS_CHOSEN} GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2"  # noqa: S608
        )
        requests = {(KINDS[kind], reason): number for kind, reason, number in chosen}
        others = self._db.execute(
            f"SELECT reason, COUNT(*) FROM request WHERE state = ? AND kind != ? AND NOT {_IS_CHOSEN}"  # noqa: S608
            " AND reason NOT IN (SELECT value FROM json_each(?)) GROUP BY 1 ORDER BY 2 DESC, 1",
            (FAILED, _ROBOTS, _json(self._reasons)),
        )
        return requests, dict(others)

    def untouched(self) -> tuple[int, int]:
        """Return how many records come before the first one to delete, and the number of the last record."""
        (last,) = self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM record").fetchone()
        (first,) = self._db.execute(f"SELECT MIN(seq) FROM record WHERE {_GONE}").fetchone()  # noqa: S608
        query = "SELECT COUNT(*) FROM record WHERE ?1 IS NULL OR seq < ?1"
        return self._db.execute(query, (first,)).fetchone()[0], last

    def change(self, reason: str) -> None:
        """Apply all changes, within a transaction; ``reason`` becomes the reason of the last attempt."""
        touched = {name for (name,) in self._db.execute(_TOUCHED)}
        doubtful = {name for (name,) in self._db.execute(f"{_TOUCHED} AND reason IN ('robots', 'opted-out')")}
        self._db.execute(_FORGET_COPIES)
        self._db.execute(f"DELETE FROM record_data WHERE {_GONE}")  # noqa: S608
        self._db.execute(f"DELETE FROM record WHERE {_GONE}")  # noqa: S608
        self._db.execute(_REQUEUE, (WAITING, reason))
        touched |= forget_redirects(self._db)
        self._expire_rules(touched, doubtful)
        self._unblock_hosts({host_key(name) for name in touched if name})

    def _expire_rules(self, touched: Collection[str], doubtful: Collection[str]) -> None:
        """Expire the robots rules of unreachable origins, and those that disallowed a request."""
        rows = self._db.execute("SELECT name, rules FROM origin WHERE rules NOTNULL")
        expired = [
            (name,)
            for name, rules in rows
            if name in doubtful or (name in touched and not _RULES.decode(rules).reachable)
        ]
        self._db.executemany("UPDATE origin SET rules_until = 0 WHERE name = ?", expired)

    def _unblock_hosts(self, hosts: Collection[str]) -> None:
        """Unblock hosts that were down, so that one request tests each. None of them has asked for a pause."""
        for host in hosts:
            health = self._health.get(host)
            if health is not None and health.outages:
                unblocked = msgspec.structs.replace(health, outages=1, blocked_until=0.0)
                self._db.execute("UPDATE host SET state = ? WHERE name = ?", (encode(unblocked), host))


def forget_redirects(database: sqlite3.Connection) -> set[str]:
    """Reset redirected requests of the table ``temp.chosen`` to their own URL. Return the origins of these URLs."""
    names: set[str] = set()
    last = 0
    while rows := database.execute(_REDIRECTED, (last, PAGE)).fetchall():
        last = rows[-1][0]
        for row, data in rows:
            request = without_redirects(REQUEST.decode(data))
            name = origin_of(request)
            if name not in names:
                database.execute("INSERT OR IGNORE INTO origin (name) VALUES (?)", (name,))
                names.add(name)
            database.execute(_SET_ORIGIN, (name, row))
            database.execute("UPDATE request_data SET data = ? WHERE id = ?", (encode(request), row))
    return names


def break_seal(database: sqlite3.Connection) -> None:
    """Invalidate all earlier tokens and leases, in the transaction that queues settled requests again.

    Otherwise a late outcome of an earlier lease would settle the new request.
    """
    database.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (SEAL, secrets.token_bytes(32)))


def _json(values: Iterable[object]) -> str:
    return encode(list(values)).decode()
