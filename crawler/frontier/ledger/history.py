"""The history of a crawl with refreshes: previous records, and their comparison with new verdicts.

A refresh (`crawler.frontier.offline.refresh`) makes settled requests wait again and keeps their records. A record stays
valid until a new verdict replaces it, also while its request waits or is leased. The verdict is then compared with it.
At any time, exactly one of all records (old and new) with the same content is a success.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress

import msgspec
from msgspec import Struct, structs

from crawler.frontier.ledger.database import Database
from crawler.frontier.ledger.records import RecordTable
from crawler.frontier.ledger.rows import RECORD, WAITING, Entry
from crawler.model import OF_CONTENT, Change, ImageRecord, Kind, PriorFetch, Request

#: Names in ``meta`` of the last refresh, the state of the list of pins, the settings with which pages were read, and
#: the terms by which pictures are accepted.
REFRESH, _PINS, _PAGE_TERMS, _FILTER_TERMS = "refresh", "pins", "visit-terms", "judging"

#: Reasons for a picture that its server no longer has.
_GONE = ("http-404", "http-410")
#: Kinds of requests, besides images, that are sent with the validators of a previous fetch.
_DOCUMENTS: tuple[Kind, ...] = ("page", "part")


class Refresh(Struct, frozen=True):
    """The last refresh of a crawl."""

    #: Number of the refresh, from 1; 0 if there was none.
    number: int = 0
    #: Numbers of the last request and the last record before the refresh.
    row: int = 0
    record: int = 0
    #: Whether the refresh has not finished.
    is_open: bool = False


class _FilterTerms(Struct, frozen=True):
    """The terms by which pictures are accepted. Content that was refused on other terms may be a picture on these."""

    terms: str = ""
    #: Number of the last record before these terms.
    record: int = 0


class History:
    """Comparison of verdicts with previous records. Methods that write must be called within `Ledger.transaction`."""

    def __init__(self, database: Database, records: RecordTable) -> None:
        self._db, self._records = database, records
        self.refresh = refresh_in(database.get_meta(REFRESH))
        self._terms = msgspec.json.decode(database.get_meta(_FILTER_TERMS) or b"{}", type=_FilterTerms)
        self._has_pins = bool(database.number("SELECT EXISTS (SELECT 1 FROM pin)"))
        #: Whether a record was replaced since the ledger was opened, so that the manifest has some URLs twice.
        self.has_replaced = False

    # records ------------------------------------------------------------------------------------------------------

    def before(self, entry: Entry) -> tuple[Entry, ImageRecord | None]:
        """Return the record that a verdict is about to replace, and the entry with that record's current number."""
        rows = self._records.numbered_of([entry.row]) if entry.record else []
        if not rows:
            return entry, None
        _, number, data = rows[0]
        self.has_replaced = True
        return entry._replace(record=number), RECORD.decode(data)

    def retire(self, before: ImageRecord) -> ImageRecord | None:
        """Prepare to remove a record whose URL no longer has these bytes. A later copy replaces a first copy.

        Return the new record of that copy, unless its request waits. The file stays. If no record names it afterwards,
        its path is added to ``past``.
        """
        if before.status == "duplicate" or not has_file(before):
            return None
        self._db.flush()
        copies: list[tuple[int, int, int, bytes]] = []
        if before.status == "success":
            self._records.forget_first(before.sha256)
            copies = self._db.rows(_SELECT_TWIN, self._db.key(before.sha256))
        if not copies:
            self._db.connection.execute("INSERT OR IGNORE INTO past VALUES (?,?)", (before.path, before.store))
            return None
        row, seq, state, data = copies[0]
        record = structs.replace(RECORD.decode(data), status="success")
        if state == WAITING:  # the change that an earlier refresh found is outdated
            record = structs.replace(record, change="")
        number = self._records.write(row, record, replaced=seq)
        self._db.later("UPDATE request SET record = ? WHERE id = ?", number, row)
        self._db.flush()
        return None if state == WAITING else record

    def change(self, before: ImageRecord | None, record: ImageRecord) -> Change:
        """Return the change from the record ``before``, if any, to the record that replaces it."""
        had_file = before is not None and has_file(before)
        if record.status == "failed":
            was_there = before is not None and had_file and before.reason not in _GONE
            return "gone" if was_there and record.reason in _GONE else ""
        if before is not None and had_file:
            return "unchanged" if before.sha256 == record.sha256 else "changed"
        return "new" if self.refresh.is_open else ""

    # conditional requests -----------------------------------------------------------------------------------------

    def prior_fetches(self, entries: Collection[Entry]) -> dict[int, PriorFetch]:
        """Return the results of previous fetches of these requests, by row, for conditional requests.

        Results whose bytes do not match the picture's pin are left out.
        """
        if not self.refresh.number:
            return {}
        pictures = {entry.row: entry.request.url for entry in entries if entry.record}
        documents = [entry.row for entry in entries if entry.request.kind in _DOCUMENTS]
        priors = {row: _PRIOR.decode(data) for row, data in self._db.rows_of(_SELECT_VISITS, documents)}
        for row, number, data in self._records.numbered_of(list(pictures)):
            prior = _prior(RECORD.decode(data), is_verdict_good=number > self._terms.record)
            if prior is not None and (not prior.sha256 or self.permits(pictures[row], prior.sha256)):
                priors[row] = prior
        return priors

    def save_visit(self, row: int, seen: PriorFetch) -> None:
        """Keep the validators of a document for the next fetch."""
        self._db.later("INSERT OR REPLACE INTO visit VALUES (?,?)", row, msgspec.json.encode(seen))

    def set_page_terms(self, terms: bytes) -> None:
        """Delete the validators of all documents if they were read on other terms, so that they are read again."""
        if self._db.get_meta(_PAGE_TERMS) != terms:
            self._db.connection.execute("DELETE FROM visit")
            self._db.set_meta(_PAGE_TERMS, terms)

    def set_filter_terms(self, terms: str) -> None:
        """Note new terms, so that content refused on other terms is fetched again: a new decoder may accept it."""
        if self._terms.terms != terms:
            self._terms = _FilterTerms(terms, self._records.last)
            self._db.set_meta(_FILTER_TERMS, msgspec.json.encode(self._terms))

    def end_refresh(self) -> None:
        """Mark the refresh as finished; the next one requests everything again."""
        self.refresh = structs.replace(self.refresh, is_open=False)
        self._db.set_meta(REFRESH, msgspec.json.encode(self.refresh))

    # pins ---------------------------------------------------------------------------------------------------------

    def permits(self, url: str, sha256: str) -> bool:
        """Return whether the picture of a URL may have these bytes: it has no pin, or the pin is their SHA-256."""
        rows = self._db.rows("SELECT sha256 FROM pin WHERE url = ?", self._db.key(url)) if self._has_pins else []
        return not rows or bytes(rows[0][0]).hex() == sha256

    @property
    def pins(self) -> bytes:
        """Return the state of the list of pins that was loaded last; empty if there is none."""
        return self._db.get_meta(_PINS) or b""

    def load_pins(self, pins: Iterable[tuple[str, str]], state: bytes) -> int:
        """Replace all pins by these pairs of URL and SHA-256. Return the number of URLs that have a pin."""
        self._db.connection.execute("DELETE FROM pin")
        rows = ((self._db.key(url), bytes.fromhex(sha256)) for url, sha256 in pins)
        self._db.connection.executemany("INSERT OR REPLACE INTO pin VALUES (?,?)", rows)
        self._db.set_meta(_PINS, state)
        number = self._db.number("SELECT COUNT(*) FROM pin")
        self._has_pins = number > 0
        return number

    # counts, without records whose request waits ------------------------------------------------------------------

    def duplicates(self) -> int:
        """Return the number of records with the status ``duplicate``."""
        return self._db.number(f"SELECT COUNT(*) {self._counted()} AND status = 'duplicate'")

    def stores(self) -> dict[str, tuple[int, int]]:
        """Return the number of first copies in each store, and their bytes."""
        query = f"SELECT store, COUNT(*), SUM(bytes) {self._counted()} AND copy NOTNULL GROUP BY store"
        return {store: (number, size) for store, number, size in self._db.rows(query)}

    def _counted(self) -> str:
        return _SETTLED if self.refresh.number else "FROM record WHERE 1"

    def changes(self) -> dict[str, int]:
        """Return the number of image URLs with each change that the last refresh has found."""
        if not self.refresh.number:
            return {}
        return dict(self._db.rows(_SELECT_CHANGES, self.refresh.record))


def has_file(record: ImageRecord) -> bool:
    """Return whether a record names a file: also one that its server no longer has, or that of a near-duplicate."""
    return record.path.startswith("images/")


def repeated(record: ImageRecord, before: ImageRecord) -> ImageRecord:
    """Return a worker's record of an unchanged response, with the fields of the file from the previous record."""
    etag, modified = record.etag or before.etag, record.last_modified or before.last_modified
    return structs.replace(_as_before(record, before), etag=etag, last_modified=modified)


def is_still_dropped(record: ImageRecord, before: ImageRecord | None) -> bool:
    """Return whether a record repeats one whose picture has no file of its own (`ImageRecord.is_dropped`)."""
    return before is not None and before.is_dropped and (record.sha256, record.path) == (before.sha256, before.path)


def with_previous_file(record: ImageRecord, before: ImageRecord | None) -> ImageRecord:
    """Return the record with the fields of its own file from the previous record: place and content."""
    if before is not None and has_file(before) and not before.is_dropped:
        return _as_before(record, before)
    # There is no earlier file, and the new content is not a picture: only its validators are kept.
    return _as_before(record, structs.replace(_NOTHING, etag=record.etag, last_modified=record.last_modified))


def _as_before(record: ImageRecord, before: ImageRecord) -> ImageRecord:
    return structs.replace(record, phash=before.phash, **{name: getattr(before, name) for name in _OF_FILE})


def refresh_in(data: bytes | None) -> Refresh:
    """Decode the last refresh as stored in ``meta``. Raise `msgspec.MsgspecError` if the data is invalid."""
    return msgspec.json.decode(data, type=Refresh) if data else Refresh()


def with_prior(request: Request, prior: PriorFetch | None) -> Request:
    """Return a request for a lease, with the result of its previous fetch. Only the frontier adds this."""
    return request if prior is None else structs.replace(request, prior=prior)


def _prior(record: ImageRecord, *, is_verdict_good: bool) -> PriorFetch | None:
    """Return the previous fetch of a picture, or None if it has neither a file nor usable validators."""
    can_be_asked = is_verdict_good and record.reason in OF_CONTENT and bool(record.etag or record.last_modified)
    if not (has_file(record) or can_be_asked):
        return None
    with suppress(msgspec.ValidationError):  # an invalid final URL from a worker of an earlier release
        fields = {name: getattr(record, name) for name in _OF_FILE}
        reason = "" if has_file(record) else record.reason
        return msgspec.convert({"url": record.final_url, "reason": reason, **fields}, PriorFetch)
    return None


#: Fields of a record about its file.
_OF_FILE = ("store", "path", "sha256", "bytes", "format", "width", "height", "etag", "last_modified")
_NOTHING = ImageRecord(url="")

_SETTLED = "FROM record JOIN request ON request.id = record.request WHERE request.state != 0"
_SELECT_CHANGES = f"SELECT change, COUNT(*) {_SETTLED} AND seq > ? AND change != '' GROUP BY change"
_SELECT_TWIN = (
    "SELECT request.id, seq, state, data FROM record JOIN request ON request.id = record.request"
    " JOIN record_data USING (seq) WHERE twin = ? ORDER BY seq LIMIT 1"
)
_SELECT_VISITS = "SELECT request, data FROM visit WHERE request IN (SELECT value FROM json_each(?))"
_PRIOR = msgspec.json.Decoder(PriorFetch)
