"""Start a refresh: requeue every settled request for revalidation.

As in `crawler.frontier.offline.requeue`, this changes the database of a stopped crawl in one transaction. Each record
stays, and with it the manifest and the results, until a new verdict replaces it (`crawler.frontier.ledger.history`). A
crawl that was killed during a refresh continues the refresh. A refresh is over when a master has ended with no request
waiting. Until then, no request is revalidated twice.
"""

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from crawler.frontier.ledger.database import disk_errors, open_tables
from crawler.frontier.ledger.history import REFRESH, Refresh, refresh_in
from crawler.frontier.ledger.rows import KINDS, WAITING
from crawler.frontier.offline.requeue import break_seal, forget_redirects
from crawler.model import Kind

#: A robots.txt is fetched when its rules have expired. A changed list counts as a new list.
_REFRESHED: tuple[Kind, ...] = ("page", "image", "part")

#: The last refresh, and the numbers of the last request and the last record.
_LAST = (
    "SELECT (SELECT value FROM meta WHERE name = ?), (SELECT COALESCE(MAX(id), 0) FROM request),"
    " (SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'record')"
)
_SETTLED = f"SELECT id FROM request WHERE state != {WAITING} AND kind IN (SELECT value FROM json_each(?))"  # noqa: S608
_REQUEUE = (
    "UPDATE request SET state = ?, attempts = 0, not_before = 0.0, reason = '' WHERE id IN (SELECT id FROM temp.chosen)"
)
_COUNT = "SELECT kind, COUNT(*) FROM request WHERE id IN (SELECT id FROM temp.chosen) GROUP BY kind"


class RefreshResult(NamedTuple):
    """The requests that a refresh has requeued."""

    #: Number of the refresh, from 1.
    number: int
    #: Number of requeued requests by kind.
    requests: dict[Kind, int]
    #: Whether the refresh was already open, so that no request was requeued.
    goes_on: bool


def renew(path: Path) -> RefreshResult:
    """Start a refresh, or continue one that has not finished.

    Raises:
        DiskError: the database can't be read or written.
    """
    kinds = msgspec.json.encode([KINDS.index(kind) for kind in _REFRESHED]).decode()
    with disk_errors(str(path)), closing(open_tables(path)) as database:
        data, row, record = database.execute(_LAST, (REFRESH,)).fetchone()
        last = refresh_in(data)
        if last.is_open:
            return RefreshResult(last.number, {}, goes_on=True)
        refresh = Refresh(last.number + 1, row, record, is_open=True)
        with database:
            database.execute("BEGIN IMMEDIATE")
            break_seal(database)
            database.execute("CREATE TEMP TABLE chosen (id INTEGER PRIMARY KEY)")
            database.execute(f"INSERT INTO temp.chosen {_SETTLED}", (kinds,))  # ours
            counts = {KINDS[kind]: count for kind, count in database.execute(_COUNT)}
            database.execute(_REQUEUE, (WAITING,))
            forget_redirects(database)
            database.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (REFRESH, msgspec.json.encode(refresh)))
    return RefreshResult(refresh.number, counts, goes_on=False)
