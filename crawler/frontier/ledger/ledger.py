"""The tables of a crawl in SQLite: requests with their states, records, and robots rules.

The database uses a write-ahead log with ``synchronous=FULL``: when `Ledger.transaction` ends, its changes survive a
power cut. A request is found by a keyed 64-bit hash of its kind and URL. The key is created with the file, so an
attacker cannot cause a collision. Among ten million URLs, an accidental collision has a probability of 3e-6. Not
thread-safe: the frontier that owns the ledger holds the lock.
"""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from crawler.frontier.ledger.database import Database
from crawler.frontier.ledger.history import History
from crawler.frontier.ledger.origins import OriginTable
from crawler.frontier.ledger.records import RecordTable
from crawler.frontier.ledger.requests import RequestTable
from crawler.frontier.ledger.rows import SEAL


class Ledger:
    """The tables of one crawl.

    Raises:
        DiskError: from any method, if the disk is full, read-only or broken, or the file is not a ledger.
    """

    def __init__(self, path: Path | None, *, is_read_only: bool = False) -> None:
        """Open the file, or create it unless ``is_read_only``; with None, keep everything in memory."""
        self.database = database = Database(path, is_read_only=is_read_only)
        with ExitStack() as stack, database.errors():
            stack.callback(self.close)
            #: The key of the tokens.
            self.seal = database.value_or_new(SEAL, secrets.token_bytes(32))
            self.origins = OriginTable(database)
            self.requests = RequestTable(database, self.origins)
            self.records = RecordTable(database)
            self.history = History(database, self.records)
            stack.pop_all()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes within durable together, or none of them.

        Changes of single requests are written at the end, one statement for all changes of a kind: a call of SQLite
        costs more than a row, and lets another thread run. Reads within the transaction do not see these changes.
        """
        database, requests, records = self.database, self.requests, self.records
        before = requests.last, records.last
        database.gathered.clear()
        records.begin()
        with database.errors():
            requests.index.mark()
            records.index.mark()
            database.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                database.flush()
                requests.index.write(requests.last)
                records.index.write(records.last)
                database.connection.execute("COMMIT")
            except BaseException:
                requests.last, records.last = before
                for part in (self.origins, requests.index, records.index):
                    part.rolled_back()
                if database.connection.in_transaction:
                    database.connection.execute("ROLLBACK")
                raise
            for part in (self.origins, requests.index, records.index):
                part.committed()

    def close(self) -> None:
        """Copy the write-ahead log into the file and close it."""
        self.database.connection.close()
