"""The ledger of a crawl that is asked again: what was there before a verdict, and what a verdict is compared with.

A refresh (`crawler.frontier.renewal`) has settled requests wait again and leaves their records. Each of these is good
until a new verdict replaces it, also while its request waits or is on loan; then the two are compared. Of all records,
old and new, exactly one of each content is a success, at any instant.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import NamedTuple

import msgspec
from msgspec import Struct, structs

from crawler.frontier.ledger import WAITING, Entry, Ledger
from crawler.known import OF_CONTENT, Change, Known
from crawler.model import ImageRecord, Kind, Request

#: Names under which the ledger keeps the last refresh, the state of the list of pins, by which settings pages were
#: read, and by what pictures are judged.
REFRESH, _PINS, _TERMS, _JUDGING = "refresh", "pins", "visit-terms", "judging"

#: Reasons of a picture that its server has no more.
_GONE = ("http-404", "http-410")
#: What is asked with the validators of an earlier visit, besides pictures.
_DOCUMENTS: tuple[Kind, ...] = ("page", "part")


class Refresh(Struct, frozen=True):
    """The last refresh of a crawl."""

    #: 0: there was none.
    number: int = 0
    #: Last request and last record before it.
    row: int = 0
    record: int = 0
    #: Whether it has not come to its end.
    is_open: bool = False


class Judging(Struct, frozen=True):
    """By what pictures are judged; what was judged by something else may be a picture after all."""

    terms: str = ""
    #: Last record before it.
    record: int = 0


class Promoted(NamedTuple):
    """A later copy that has become the first one, and whether its request waits."""

    record: ImageRecord
    is_waiting: bool


class History(Ledger):
    """See the module. Methods that write must be called within a transaction."""

    def _take_up(self) -> None:
        super()._take_up()
        self.refresh = refresh_in(self.get_meta(REFRESH))
        self._judging = msgspec.json.decode(self.get_meta(_JUDGING) or b"{}", type=Judging)
        self.has_pins = bool(self._number("SELECT EXISTS (SELECT 1 FROM pin)"))
        #: Whether a record was replaced in this life, so that what was written of records in order has some twice.
        self.has_replaced = False

    # records ------------------------------------------------------------------------------------------------------

    def before(self, entry: Entry) -> tuple[Entry, ImageRecord | None]:
        """The record that a verdict is about to replace; and the entry with its number, which may have changed."""
        found = self._rows(_SELECT_BEFORE, entry.row) if entry.record else []
        if not found:
            return entry, None
        number, data = found[0]
        self.has_replaced = True
        return entry._replace(record=number), _RECORD.decode(data)

    def renew(self, before: ImageRecord) -> None:
        """A first copy gets another record that says the same of the bytes."""
        self._firsts.remove(self._key(before.sha256))

    def retire(self, before: ImageRecord) -> Promoted | None:
        """A record is about to go whose bytes its URL has no more; a later copy of a first one takes its place.

        The file stays: where no record names it now, it is remembered as one that did.
        """
        if before.status == "duplicate" or not has_file(before):
            return None
        self.flush()
        promoted = self._promote(before.sha256) if before.status == "success" else None
        if promoted is None:
            self._db.execute("INSERT OR IGNORE INTO past VALUES (?,?)", (before.path, before.store))
        return promoted

    def _promote(self, sha256: str) -> Promoted | None:
        key = self._key(sha256)
        self._firsts.remove(key)
        self._copies[sha256] = None
        found = self._rows(_SELECT_TWIN, key)
        if not found:
            return None
        row, state, data = found[0]
        is_waiting = state == WAITING
        record = structs.replace(_RECORD.decode(data), status="success")
        if is_waiting:  # what an earlier refresh has found counts no more
            record = structs.replace(record, change="")
        number = self.record(self.get([row])[row], record)
        self._later("UPDATE request SET record = ? WHERE id = ?", number, row)
        self.flush()
        return Promoted(record, is_waiting)

    def change(self, before: ImageRecord | None, record: ImageRecord) -> Change:
        """What a record says that is to replace ``before``, if there was one."""
        had = before is not None and has_file(before)
        if record.status == "failed":
            was_there = before is not None and had and before.reason not in _GONE
            return "gone" if was_there and record.reason in _GONE else ""
        if before is not None and had:
            return "unchanged" if before.sha256 == record.sha256 else "changed"
        return "new" if self.refresh.is_open else ""

    # what may be asked conditionally ------------------------------------------------------------------------------

    def known(self, entries: Collection[Entry]) -> dict[int, Known]:
        """What earlier visits have brought for these requests, by row, as far as a server can be asked about it."""
        if not self.refresh.number:
            return {}
        pictures = [entry.row for entry in entries if entry.record]
        documents = [entry.row for entry in entries if entry.request.kind in _DOCUMENTS]
        found: dict[int, Known] = {}
        for row, number, data in self._rows(_SELECT_KNOWN, _json(pictures)) if pictures else ():
            record = _RECORD.decode(data)
            known = _known(record, is_verdict_good=number > self._judging.record)
            if known is not None and not (record.is_dropped and not self.permits(record.url, record.sha256)):
                found[row] = known
        for row, data in self._rows(_SELECT_VISITS, _json(documents)) if documents else ():
            found[row] = _KNOWN.decode(data)
        return found

    def saw(self, row: int, seen: Known) -> None:
        """How to ask for a document the next time."""
        self._later("INSERT OR REPLACE INTO visit VALUES (?,?)", row, msgspec.json.encode(seen))

    def hold_visits(self, terms: bytes) -> None:
        """Forget what is known of documents, if they were read on other terms: all of them are to be read again."""
        if self.get_meta(_TERMS) != terms:
            self._db.execute("DELETE FROM visit")
            self.set_meta(_TERMS, terms)

    def hold_verdicts(self, terms: str) -> None:
        """What was refused on other terms is to be looked at again: another decoder may make a picture of it."""
        if self._judging.terms != terms:
            self._judging = Judging(terms, self._last_record)
            self.set_meta(_JUDGING, msgspec.json.encode(self._judging))

    def end_refresh(self) -> None:
        """The refresh has come to its end; the next one asks for everything again."""
        self.refresh = structs.replace(self.refresh, is_open=False)
        self.set_meta(REFRESH, msgspec.json.encode(self.refresh))

    # pins ---------------------------------------------------------------------------------------------------------

    def permits(self, url: str, sha256: str) -> bool:
        """Whether the picture of a URL may have these bytes: there is no pin, or it says so."""
        found = self._rows("SELECT sha256 FROM pin WHERE url = ?", self._key(url)) if self.has_pins else []
        return not found or bytes(found[0][0]).hex() == sha256

    @property
    def pins(self) -> bytes:
        """The state of the list whose pins are in here; empty: there are none."""
        return self.get_meta(_PINS) or b""

    def load_pins(self, pins: Iterable[tuple[str, str]], state: bytes) -> int:
        """Take these pins, URL and SHA-256, in place of all others; returns how many URLs have one."""
        self._db.execute("DELETE FROM pin")
        rows = ((self._key(url), bytes.fromhex(sha256)) for url, sha256 in pins)
        self._db.executemany("INSERT OR REPLACE INTO pin VALUES (?,?)", rows)
        self.set_meta(_PINS, state)
        number = self._number("SELECT COUNT(*) FROM pin")
        self.has_pins = number > 0
        return number

    # counts: what waits does not count, though it has a record ----------------------------------------------------

    def duplicates(self) -> int:
        if not self.refresh.number:
            return super().duplicates()
        return self._number(f"SELECT COUNT(*) {_SETTLED} AND status = 'duplicate'")  # ours

    def bytes_saved(self) -> int:
        if not self.refresh.number:
            return super().bytes_saved()
        return self._number(f"SELECT COALESCE(SUM(bytes), 0) {_SETTLED} AND status = 'success'")

    def stores(self) -> dict[str, int]:
        if not self.refresh.number:
            return super().stores()
        return dict(self._rows(f"SELECT store, COUNT(*) {_SETTLED} AND copy NOTNULL GROUP BY store"))

    def changes(self) -> dict[str, int]:
        """Change → number of image URLs for which the last refresh has found it."""
        if not self.refresh.number:
            return {}
        return dict(self._rows(_SELECT_CHANGES, self.refresh.record))


def has_file(record: ImageRecord) -> bool:
    """Whether a record tells of a file, be it one of which its server knows nothing any more, or that of its best."""
    return record.path.startswith("images/")


def repeated(record: ImageRecord, before: ImageRecord) -> ImageRecord:
    """A worker's record of an answer that nothing has changed: what is in the file, we know ourselves."""
    etag, modified = record.etag or before.etag, record.last_modified or before.last_modified
    return structs.replace(_as_before(record, before), etag=etag, last_modified=modified)


def is_still_dropped(record: ImageRecord, before: ImageRecord | None) -> bool:
    """Whether a record repeats one whose picture has no file of its own (`ImageRecord.is_dropped`)."""
    return before is not None and before.is_dropped and (record.sha256, record.path) == (before.sha256, before.path)


def kept(record: ImageRecord, before: ImageRecord | None) -> ImageRecord:
    """The record with what was known of its own file before: where it is, and what is in it."""
    if before is not None and has_file(before) and not before.is_dropped:
        return _as_before(record, before)
    # What came was no picture: how to ask for it is all there is to be kept.
    return _as_before(record, structs.replace(_NOTHING, etag=record.etag, last_modified=record.last_modified))


def _as_before(record: ImageRecord, before: ImageRecord) -> ImageRecord:
    return structs.replace(record, phash=before.phash, **{name: getattr(before, name) for name in _OF_FILE})


def refresh_in(data: bytes | None) -> Refresh:
    """The last refresh as the ledger keeps it; raises `msgspec.MsgspecError` where that can't be read."""
    return msgspec.json.decode(data, type=Refresh) if data else Refresh()


def asked(request: Request, known: Known | None) -> Request:
    """A request as it is lent: with what is known, which nobody but the frontier adds."""
    return request if known is None else structs.replace(request, known=known)


def _known(record: ImageRecord, *, is_verdict_good: bool) -> Known | None:
    """What there is of a picture, and what its server can be asked about it; None: nothing."""
    can_be_asked = is_verdict_good and record.reason in OF_CONTENT and bool(record.etag or record.last_modified)
    if not (has_file(record) or can_be_asked):
        return None
    with suppress(msgspec.ValidationError):  # a final URL that is none, from a worker of an earlier release
        fields = {name: getattr(record, name) for name in _OF_FILE}
        reason = "" if has_file(record) else record.reason
        return msgspec.convert({"url": record.final_url, "reason": reason, **fields}, Known)
    return None


#: What a record tells of its file.
_OF_FILE = ("store", "path", "sha256", "bytes", "format", "width", "height", "etag", "last_modified")
_NOTHING = ImageRecord(url="")

_SETTLED = "FROM record JOIN request ON request.id = record.request WHERE request.state != 0"
_SELECT_CHANGES = f"SELECT change, COUNT(*) {_SETTLED} AND seq > ? AND change != '' GROUP BY change"
_SELECT_BEFORE = "SELECT seq, record_data.data FROM request JOIN record_data ON seq = record WHERE id = ?"
_SELECT_TWIN = (
    "SELECT request.id, state, data FROM record JOIN request ON request.id = record.request"
    " JOIN record_data USING (seq) WHERE twin = ? ORDER BY seq LIMIT 1"
)
_SELECT_KNOWN = (
    "SELECT id, seq, data FROM request JOIN record_data ON seq = record WHERE id IN (SELECT value FROM json_each(?))"
)
_SELECT_VISITS = "SELECT request, data FROM visit WHERE request IN (SELECT value FROM json_each(?))"
_RECORD = msgspec.json.Decoder(ImageRecord)
_KNOWN = msgspec.json.Decoder(Known)


def _json(rows: list[int]) -> str:
    return msgspec.json.encode(rows).decode()
