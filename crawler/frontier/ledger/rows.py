"""Rows of the database as the frontier handles them, and their JSON."""

from typing import NamedTuple

import msgspec

from crawler.model import ImageRecord, Kind, Request

WAITING, DONE, FAILED = 0, 1, 2
#: Kinds in the order of their numbers in the tables.
KINDS: tuple[Kind, ...] = ("page", "image", "robots", "list", "part")

#: Name in ``meta`` of the key for tokens.
SEAL = "seal"

#: Number of rows that are read at a time.
PAGE = 1_000
REQUEST = msgspec.json.Decoder(Request)
RECORD = msgspec.json.Decoder(ImageRecord)
encode = msgspec.json.Encoder().encode


class Entry(NamedTuple):
    """A request as stored in the ledger."""

    row: int
    request: Request
    state: int
    attempts: int
    #: Why the last attempt, or the request as a whole, failed.
    reason: str
    #: Name of the origin whose queue holds the request (`origin_of`).
    origin: str
    #: Number of its manifest row; 0 if it has none.
    record: int


def blob(value: Request | ImageRecord) -> bytearray:
    """Return a value as JSON in a bytearray; for bytes, sqlite3 looks for an adapter each time."""
    return bytearray(encode(value))
