"""Putting failed requests back: they wait as if they had been found just now.

Done in the file of a crawl that nobody works at, in one transaction and by SQLite itself, so that millions are no
matter and a kill leaves all of it or nothing. Their records go at once: a request that waits has none.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from crawler.frontier.conduct import Conduct
from crawler.frontier.judge import anew
from crawler.frontier.ledger import FAILED, KINDS, WAITING, place_of
from crawler.frontier.politeness import MAX_WAIT
from crawler.frontier.soundness import MARK
from crawler.frontier.tables import disk_errors, open_tables
from crawler.model import Kind, Request, RobotsRules
from crawler.urls import host_key, origin

#: Told which records stay as they are: so many, the first ones; and the number of the last of all.
BeforeChange = Callable[[int, int], None]

#: Rows of one query for redirected requests.
_PAGE = 1_000
_ROBOTS = KINDS.index("robots")

_REQUEST = msgspec.json.Decoder(Request)
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
_GONE = "seq IN (SELECT record FROM request WHERE id IN (SELECT id FROM temp.again))"
_REDIRECTED = (
    "SELECT id, data FROM request_data WHERE id > ? AND id IN (SELECT id FROM temp.again)"
    " AND instr(data, CAST('\"target\":' AS BLOB)) ORDER BY id LIMIT ?"
)
_REVIVE = (
    "UPDATE request SET state = ?, attempts = 0, not_before = 0.0, reason = '', record = 0"
    " WHERE id IN (SELECT id FROM temp.again)"
)


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
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (MARK, b"1"))
            before(*putting.untouched())
            with database:
                database.execute("BEGIN IMMEDIATE")
                putting.change()
        (is_waiting,) = database.execute("SELECT EXISTS (SELECT 1 FROM request WHERE state = ?)", (WAITING,)).fetchone()
    return PutBack(requests, others, left, bool(is_waiting))


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
        self._db.execute("CREATE TEMP TABLE again (id INTEGER PRIMARY KEY)")
        self._db.execute(f"INSERT INTO temp.again SELECT id {_CHOSEN} AND NOT {_IN_SHUT}", values)
        left: Counter[str] = Counter()
        query = f"SELECT origin, COUNT(*) {_CHOSEN} AND {_IN_SHUT} GROUP BY origin"
        for number, requests in self._db.execute(query, values):
            left[shut[number]] += requests
        return {host: (number, waits[host]) for host, number in left.most_common()}

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

    def change(self) -> None:
        """All of it, within a transaction."""
        touched = {number for (number,) in self._db.execute(f"SELECT DISTINCT origin FROM request WHERE {_AGAIN}")}  # noqa: S608
        refused = self._db.execute(
            f"SELECT DISTINCT origin FROM request WHERE {_AGAIN} AND reason IN ('robots', 'opted-out')"  # noqa: S608
        )
        doubtful = {number for (number,) in refused}
        self._db.execute(f"DELETE FROM record_data WHERE {_GONE}")  # noqa: S608
        self._db.execute(f"DELETE FROM record WHERE {_GONE}")  # noqa: S608
        self._db.execute(_REVIVE, (WAITING,))
        touched |= self._forget_redirects()
        self._doubt_rules(touched, doubtful)
        self._look_at_hosts({host_key(name) for number in touched if (name := self._names[number])})

    def _forget_redirects(self) -> set[int]:
        """Have each begin at its own URL; returns the origins of those."""
        touched, last = set(), 0
        while rows := self._db.execute(_REDIRECTED, (last, _PAGE)).fetchall():
            last = rows[-1][0]
            for row, data in rows:
                request = anew(_REQUEST.decode(data))
                number = self._number_of(place_of(request))
                touched.add(number)
                self._db.execute("UPDATE request SET origin = ? WHERE id = ?", (number, row))
                self._db.execute("UPDATE request_data SET data = ? WHERE id = ?", (_encode(request), row))
        return touched

    def _number_of(self, name: str) -> int:
        """An origin's; nobody has seen it before if its only requests were found as redirected ones."""
        if name not in self._numbers:
            number = self._db.execute("INSERT INTO origin (name) VALUES (?)", (name,)).lastrowid or 0
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


def _json(values: Iterable[object]) -> str:
    return _encode(list(values)).decode()
