"""Beginning a refresh: all that is settled waits again, and is asked whether it is still the same.

Done as in `crawler.frontier.again`: in the file of a crawl that nobody works at, in one transaction. Records stay as
they are, and with them manifest and results, until a new verdict replaces each (`crawler.frontier.history`). What was
killed in a refresh goes on with it: it is over when a master has ended with nothing left to do, and until then nothing
of it is asked again.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from crawler.frontier.again import forget_redirects
from crawler.frontier.history import REFRESH, Refresh, refresh_in
from crawler.frontier.leases import break_seal
from crawler.frontier.ledger import KINDS, WAITING
from crawler.frontier.tables import disk_errors, open_tables
from crawler.model import Kind

#: A robots.txt is asked for when its rules have expired, and a list is another one when it has changed.
_ASKED: tuple[Kind, ...] = ("page", "image", "part")

_CHOSEN = f"SELECT id FROM request WHERE state != {WAITING} AND kind IN (SELECT value FROM json_each(?))"  # noqa: S608
_REVIVE = (
    "UPDATE request SET state = ?, attempts = 0, not_before = 0.0, reason = '' WHERE id IN (SELECT id FROM temp.again)"
)
_COUNT = "SELECT kind, COUNT(*) FROM request WHERE id IN (SELECT id FROM temp.again) GROUP BY kind"


class Renewed(NamedTuple):
    """What is to be asked for again."""

    #: Number of the refresh, from 1.
    number: int
    #: Kind → requests that wait again.
    requests: dict[Kind, int]
    #: Whether the refresh had begun before, so that nothing more was put back.
    goes_on: bool


def renew(path: Path) -> Renewed:
    """Begin a refresh, or go on with one that has not come to its end.

    Raises:
        DiskError: the disk refuses.
    """
    with disk_errors(str(path)), closing(open_tables(path)) as database:
        (data,) = database.execute("SELECT (SELECT value FROM meta WHERE name = ?)", (REFRESH,)).fetchone()
        last = refresh_in(data)
        if last.is_open:
            return Renewed(last.number, {}, goes_on=True)
        with database:
            database.execute("BEGIN IMMEDIATE")
            break_seal(database)
            return Renewed(last.number + 1, _put_back(database, last.number + 1), goes_on=False)


def _put_back(database: sqlite3.Connection, number: int) -> dict[Kind, int]:
    kinds = msgspec.json.encode([KINDS.index(kind) for kind in _ASKED]).decode()
    (row,) = database.execute("SELECT COALESCE(MAX(id), 0) FROM request").fetchone()
    (record,) = database.execute("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'record'").fetchone()
    database.execute("CREATE TEMP TABLE again (id INTEGER PRIMARY KEY)")
    database.execute(f"INSERT INTO temp.again {_CHOSEN}", (kinds,))  # ours
    found = {KINDS[kind]: count for kind, count in database.execute(_COUNT)}
    database.execute(_REVIVE, (WAITING,))
    forget_redirects(database)
    refresh = msgspec.json.encode(Refresh(number, row, record, is_open=True))
    database.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (REFRESH, refresh))
    return found
