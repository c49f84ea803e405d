"""Putting requests back, failed ones or those whose file is lost: they wait as if they had been found just now.

Done in the file of a crawl that nobody works at, in one transaction and by SQLite itself, so that millions are no
matter and a kill leaves all of it or nothing. Their records go at once, but for those that tell where a file is which
was saved before a refresh: these stay until the next verdict.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from crawler.frontier.conduct import Conduct
from crawler.frontier.identity import place_of
from crawler.frontier.judge import anew
from crawler.frontier.leases import break_seal
from crawler.frontier.ledger import FAILED, KINDS, WAITING
from crawler.frontier.politeness import MAX_WAIT
from crawler.frontier.soundness import MARK
from crawler.frontier.tables import disk_errors, open_tables
from crawler.model import ImageRecord, Kind, Request, RobotsRules
from crawler.urls import host_key, origin

#: Told which records stay as they are: so many, the first ones; and the number of the last of all.
BeforeChange = Callable[[int, int], None]

#: Rows of one query for redirected requests.
_PAGE = 1_000
_ROBOTS = KINDS.index("robots")

_REQUEST = msgspec.json.Decoder(Request)
_RECORD = msgspec.json.Decoder(ImageRecord)
_RULES = msgspec.json.Decoder(RobotsRules)
_CONDUCT = msgspec.json.Decoder(Conduct)
_encode = msgspec.json.Encoder().encode

#: Failed requests of these reasons, and those that waited for the robots.txt of these origins. A robots.txt is never
#: put back itself: it is asked for when something waits for it.
_CHOSEN = (
    " FROM request WHERE state = :failed AND kind != :robots AND (reason IN (SELECT value FROM json_each(:reasons))"
    " OR reason = 'robots-unreachable' AND origin IN (SELECT value FROM json_each(:unread)))"
)
_FAILED_FILES = (
    "SELECT data FROM request JOIN request_data USING (id)"
    " WHERE state = :failed AND kind = :robots AND reason IN (SELECT value FROM json_each(:reasons))"
)
_IN_SHUT = "origin IN (SELECT value FROM json_each(:shut))"
_AGAIN = "id IN (SELECT id FROM temp.again)"
_GONE = "seq IN (SELECT record FROM temp.again WHERE NOT has_file)"
_REDIRECTED = (
    "SELECT id, data FROM request_data WHERE id > ? AND id IN (SELECT id FROM temp.again)"
    " AND instr(data, CAST('\"target\":' AS BLOB)) ORDER BY id LIMIT ?"
)
_BACK_HOME = "UPDATE request SET origin = (SELECT id FROM origin WHERE name = ?) WHERE id = ?"
#: What was chosen, with its record, and whether that is one that stays (`crawler.frontier.history.has_file`).
_CHOSEN_ROWS = "CREATE TEMP TABLE again (id INTEGER PRIMARY KEY, record INTEGER NOT NULL, has_file INTEGER NOT NULL)"
_HAS_FILE = (
    'COALESCE((SELECT instr(data, CAST(\'"path":"images/\' AS BLOB)) > 0 FROM record_data'
    " WHERE seq = request.record), 0)"
)
_REVIVE = (
    "UPDATE request SET state = ?, attempts = 0, not_before = 0.0, reason = ?,"
    " record = (SELECT record * has_file FROM temp.again WHERE again.id = request.id)"
    " WHERE id IN (SELECT id FROM temp.again)"
)


#: Bytes that are no first copy any more are found no more.
_FORGET_COPIES = f"DELETE FROM copy_index WHERE key IN (SELECT copy FROM record WHERE copy NOTNULL AND {_GONE})"  # noqa: S608
_SAVED = "SELECT request, seq, data FROM record JOIN record_data USING (seq)"


class PutBack(NamedTuple):
    """What was put back, and what was not."""

    #: (kind, reason) → requests that wait again.
    requests: dict[tuple[Kind, str], int]
    #: Reason → failed requests that were not meant, robots.txt left out.
    others: dict[str, int]
    #: Host → requests that were meant, but stay as they are since it wants to be left alone; and the seconds of that.
    left: dict[str, tuple[int, float]]
    #: Whether anything waits now.
    is_waiting: bool


def put_back(
    path: Path, is_meant: Callable[[str], bool], *, patience: float, wall: float, before: BeforeChange
) -> PutBack:
    """Put back the failed requests of the reasons that are meant; those of robots.txt with what waited for it.

    Redirects are forgotten, a host that was down is looked at at once, and a robots.txt that could not be had, or has
    refused, is asked for again. But what a host itself has asked for holds: where nobody may visit it for longer than
    ``patience`` seconds, its requests stay as they are, as they would only end so again.

    Args:
        path: the file of a crawl that nobody works at.
        is_meant: whether requests that failed for a reason are to be put back.
        patience: seconds that the end of the crawl waits.
        wall: seconds since the epoch, now.
        before: called before anything is changed, when the crawl counts as one that has not ended well.

    Raises:
        DiskError: the disk refuses.
    """
    with disk_errors(str(path)), closing(open_tables(path)) as database:
        putting = _Putting(database, wall, is_meant)
        left = putting.choose(patience)
        requests, others = putting.count()
        if requests:
            _change(database, putting, before, "")
        (is_waiting,) = database.execute("SELECT EXISTS (SELECT 1 FROM request WHERE state = ?)", (WAITING,)).fetchone()
    return PutBack(requests, others, left, bool(is_waiting))


def put_back_lost(path: Path, is_lost: Callable[[str, str], bool], *, wall: float, before: BeforeChange) -> int:
    """Put back every image whose record names a file that is lost, be it that of a first copy; returns how many.

    Those that wait already, in a refresh, wait without their record then: they are fetched, whatever has not changed.
    The arguments are those of `put_back`; ``is_lost`` is asked about store and path. Raises `DiskError`.
    """
    with disk_errors(str(path)), closing(open_tables(path)) as database:
        putting = _Putting(database, wall, lambda reason: False)
        number = putting.choose_lost(is_lost)
        if number:
            _change(database, putting, before, "lost-file")
    return number


def _change(database: sqlite3.Connection, putting: "_Putting", before: BeforeChange, reason: str) -> None:
    database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (MARK, b"1"))
    before(*putting.untouched())
    with database:
        database.execute("BEGIN IMMEDIATE")
        putting.change(reason)
        break_seal(database)


class _Putting:
    """The steps, in their order."""

    def __init__(self, database: sqlite3.Connection, wall: float, is_meant: Callable[[str], bool]) -> None:
        self._db, self._wall = database, wall
        self._names: dict[int, str] = dict(database.execute("SELECT id, name FROM origin"))
        self._numbers = {name: number for number, name in self._names.items()}
        self._conducts = {
            host: _CONDUCT.decode(data) for host, data in database.execute("SELECT name, state FROM host")
        }
        failed = database.execute("SELECT DISTINCT reason FROM request WHERE state = ?", (FAILED,))
        self._reasons = [reason for (reason,) in failed if is_meant(reason)]

    def choose(self, patience: float) -> dict[str, tuple[int, float]]:
        """Note what is to be put back; returns what is left to hosts that want to be left alone."""
        waits = {host: min(known.blocked_until - self._wall, MAX_WAIT) for host, known in self._conducts.items()}
        shut = {
            number: host
            for number, name in self._names.items()
            if name and waits.get(host := host_key(name), 0.0) > patience and not self._conducts[host].outages
        }
        values = {"failed": FAILED, "robots": _ROBOTS, "reasons": _json(self._reasons), "shut": _json(shut)}
        files = [_REQUEST.decode(data) for (data,) in self._db.execute(_FAILED_FILES, values)]
        values["unread"] = _json(self._numbers.get(origin(file.url), 0) for file in files)
        self._db.execute(_CHOSEN_ROWS)
        self._db.execute(f"INSERT INTO temp.again SELECT id, record, {_HAS_FILE} {_CHOSEN} AND NOT {_IN_SHUT}", values)
        left: Counter[str] = Counter()
        query = f"SELECT origin, COUNT(*) {_CHOSEN} AND {_IN_SHUT} GROUP BY origin"
        for number, requests in self._db.execute(query, values):
            left[shut[number]] += requests
        return {host: (number, waits[host]) for host, number in left.most_common()}

    def choose_lost(self, is_lost: Callable[[str, str], bool]) -> int:
        """Note the images whose file is lost; returns how many."""
        self._db.execute(_CHOSEN_ROWS)
        saved = ((row, seq, _RECORD.decode(data)) for row, seq, data in self._db.execute(_SAVED))
        lost = ((row, seq) for row, seq, record in saved if record.path and is_lost(record.store, record.path))
        return self._db.executemany("INSERT INTO temp.again VALUES (?, ?, 0)", lost).rowcount

    def count(self) -> tuple[dict[tuple[Kind, str], int], dict[str, int]]:
        """What was chosen, by kind and reason; and by reason what was not meant."""
        chosen = self._db.execute(
            f"SELECT kind, reason, COUNT(*) FROM request WHERE {_AGAIN} GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2"  # noqa: S608
        )
        requests = {(KINDS[kind], reason): number for kind, reason, number in chosen}
        others = self._db.execute(
            f"SELECT reason, COUNT(*) FROM request WHERE state = ? AND kind != ? AND NOT {_AGAIN}"  # noqa: S608
            " AND reason NOT IN (SELECT value FROM json_each(?)) GROUP BY 1 ORDER BY 2 DESC, 1",
            (FAILED, _ROBOTS, _json(self._reasons)),
        )
        return requests, dict(others)

    def untouched(self) -> tuple[int, int]:
        """How many records come before the first one that goes; and the number of the last of all."""
        (last,) = self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM record").fetchone()
        (first,) = self._db.execute(f"SELECT MIN(seq) FROM record WHERE {_GONE}").fetchone()  # noqa: S608
        (number,) = self._db.execute(
            "SELECT COUNT(*) FROM record WHERE seq < ?", (last + 1 if first is None else first,)
        ).fetchone()
        return number, last

    def change(self, reason: str) -> None:
        """All of it, within a transaction; ``reason`` is what is known of the last attempt."""
        touched = {number for (number,) in self._db.execute(f"SELECT DISTINCT origin FROM request WHERE {_AGAIN}")}  # noqa: S608
        refused = self._db.execute(
            f"SELECT DISTINCT origin FROM request WHERE {_AGAIN} AND reason IN ('robots', 'opted-out')"  # noqa: S608
        )
        doubtful = {number for (number,) in refused}
        self._db.execute(_FORGET_COPIES)
        self._db.execute(f"DELETE FROM record_data WHERE {_GONE}")  # noqa: S608
        self._db.execute(f"DELETE FROM record WHERE {_GONE}")  # noqa: S608
        self._db.execute(_REVIVE, (WAITING, reason))
        for place in forget_redirects(self._db):
            touched.add(self._number_of(place))
        self._doubt_rules(touched, doubtful)
        self._look_at_hosts({host_key(name) for number in touched if (name := self._names[number])})

    def _number_of(self, name: str) -> int:
        if name not in self._numbers:  # its only requests were found as redirected ones
            (number,) = self._db.execute("SELECT id FROM origin WHERE name = ?", (name,)).fetchone()
            self._numbers[name], self._names[number] = number, name
        return self._numbers[name]

    def _doubt_rules(self, touched: Collection[int], doubtful: Collection[int]) -> None:
        """Rules that say that nobody may visit for now, and those that have refused, no longer hold."""
        known = self._db.execute("SELECT id, rules FROM origin WHERE rules NOTNULL")
        over = [
            number
            for number, rules in known
            if number in doubtful or (number in touched and not _RULES.decode(rules).reachable)
        ]
        self._db.executemany("UPDATE origin SET rules_until = 0 WHERE id = ?", [(number,) for number in over])

    def _look_at_hosts(self, hosts: Collection[str]) -> None:
        """What was down may be up again; one request will tell, and nobody was asked to stay away."""
        for host in hosts:
            known = self._conducts.get(host)
            if known is not None and known.outages:
                looked_at = msgspec.structs.replace(known, outages=1, blocked_until=0.0)
                self._db.execute("UPDATE host SET state = ? WHERE name = ?", (_encode(looked_at), host))


def forget_redirects(database: sqlite3.Connection) -> set[str]:
    """Have each request of the table ``temp.again`` begin at its own URL; returns the origins of those."""
    places: set[str] = set()
    last = 0
    while rows := database.execute(_REDIRECTED, (last, _PAGE)).fetchall():
        last = rows[-1][0]
        for row, data in rows:
            request = anew(_REQUEST.decode(data))
            place = place_of(request)
            if place not in places:
                database.execute("INSERT OR IGNORE INTO origin (name) VALUES (?)", (place,))
                places.add(place)
            database.execute(_BACK_HOME, (place, row))
            database.execute("UPDATE request_data SET data = ? WHERE id = ?", (_encode(request), row))
    return places


def _json(values: Iterable[object]) -> str:
    return _encode(list(values)).decode()
