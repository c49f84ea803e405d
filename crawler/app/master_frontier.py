"""The frontier of a master: records disk errors, how the last run ended, and the private hosts of the seeds."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs
from PIL import __version__ as pillow

from crawler.errors import DiskError
from crawler.frontier.ledger.integrity import MARK, damaged, telling_damage
from crawler.frontier.ledger.request_keys import valid_origin
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Grant, ImageRecord, Kind, Outcome, Renewal, Request, Verdict
from crawler.net.address_guard import Exemption, Guard, exemptions
from crawler.stats import FrontierStats
from crawler.store.full_disk_pause import DiskPause
from crawler.text import printable

#: Key in the ledger: whether the last run started its own downloaders.
_HERE = "downloads-here"
#: Key in the ledger: the time at which the crawl finished; and the maximum number of its digits, exclusive.
_FINISHED, _MAX_DIGITS = "finished", 12
#: Key in the ledger: the private hosts of the seeds.
_EXEMPT = "exempt"


class MasterFrontier:
    """The frontier of a master: a `SqliteFrontier` with its guard against a failing disk, and with marks in its ledger.

    The database has a mark while a master works on it. A temporary disk error begins a pause of ``disk``, in which no
    requests are leased. A permanent one is kept in `fault`, because a call of a worker on another machine may meet it.
    """

    fault: DiskError | None = None

    def __init__(self, path: Path, policy: Policy, *, settings: dict[str, Any], disk: DiskPause | None = None) -> None:
        self._path = path
        self._disk = disk or DiskPause()
        #: Whether the user, and whether the disk, requires a pause.
        self._is_user_paused = self._is_disk_paused = False
        with telling_damage(path, is_opening=True):
            self._frontier = SqliteFrontier(path, policy, settings=settings)
            self._ledger = self._frontier.ledger
            terms = msgspec.json.encode([settings.get("harvest"), settings.get("release")])
            with self._ledger.transaction():
                self._ledger.history.set_page_terms(terms)
                self._ledger.history.set_filter_terms(f"{settings.get('release')}, Pillow {pillow}")
        self.hello, self.put, self.close = self._frontier.hello, self._frontier.put, self._frontier.close
        self.drain, self.expect_loss = self._frontier.drain, self._frontier.expect_loss
        self.wait_for = self._frontier.wait_for

    def mark(self, *, is_at_work: bool, downloads_here: bool, has_finished: bool = False) -> None:
        """Record that a master begins to work, or has ended well, with the time if it has finished the crawl."""
        with self._writing():
            self._ledger.database.set_meta(MARK, b"1" if is_at_work else b"")
            self._ledger.database.set_meta(_HERE, b"1" if downloads_here else b"")
            if not is_at_work and self._ledger.requests.has_late_rows:
                self._ledger.requests.forget_late_rows()
            if has_finished:
                self._ledger.database.set_meta(_FINISHED, str(int(time.time())).encode())

    @property
    def finished_at(self) -> float:
        """When the crawl last finished, in seconds since the epoch; 0 if unknown."""
        seconds = self._ledger.database.get_meta(_FINISHED) or b""
        return float(seconds) if seconds.isdigit() and len(seconds) < _MAX_DIGITS else 0.0

    @property
    def first(self) -> Request | None:
        """The seed or the list that the crawl began with."""
        entries = self._ledger.requests.get([1])
        return entries[1].request if entries else None

    def unknown(self, requests: Sequence[Request]) -> list[Request]:
        """Return the requests that the crawl does not have yet."""
        with self._frontier.lock:
            return [request for request in requests if self._ledger.requests.find(request) is None]

    def load_pins(self, pins: Iterable[tuple[str, str]], state: bytes) -> int:
        """Replace all pins by these (URL and SHA-256), and return the number of pinned URLs."""
        with self._writing():
            return self._ledger.history.load_pins(pins, state)

    @property
    def pins(self) -> bytes:
        """The state of the file whose pins are loaded; empty: there are no pins."""
        return self._ledger.history.pins

    @property
    def is_refreshing(self) -> bool:
        """Whether a refresh has begun and has not ended."""
        return self._ledger.history.refresh.is_open

    @property
    def has_replaced(self) -> bool:
        """Whether records have replaced others, or got further rows of a list, since the frontier was opened."""
        return self._ledger.history.has_replaced or self._ledger.requests.has_late_rows

    def end_refresh(self) -> None:
        """Record that the refresh has ended."""
        with self._writing():
            self._ledger.history.end_refresh()

    @property
    def downloaded_here(self) -> bool:
        """Whether the last run started its own downloaders; true for a new crawl."""
        return self._ledger.database.get_meta(_HERE) != b""

    def recall(self, guard: Guard) -> None:
        """Permit the private hosts of the seeds of earlier runs."""
        try:
            exempt = msgspec.json.decode(self._ledger.database.get_meta(_EXEMPT) or b"[]", type=tuple[Exemption, ...])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise damaged(self._path, "its list of seeds with private addresses is invalid") from error
        guard.exempt(exempt)
        self._frontier.announce({_EXEMPT: msgspec.to_builtins(guard.exemptions)})

    def permit(self, guard: Guard, seeds: Sequence[str], *, look_up: bool = False) -> None:
        """Permit the private hosts of these seeds, in later runs too, and send them to the downloaders."""
        if guard.exempt(exemptions(seeds, look_up=look_up)):
            with self._writing():
                self._ledger.database.set_meta(_EXEMPT, msgspec.json.encode(guard.exemptions))
            self._frontier.announce({_EXEMPT: msgspec.to_builtins(guard.exemptions)})

    def pause(self, is_paused: bool) -> None:
        """Stop leasing for the user, or resume it."""
        self._is_user_paused = is_paused
        self._frontier.pause(self._is_user_paused or self._is_disk_paused)

    def hold(self, is_held: bool) -> None:
        """Lease no requests while the disk is unavailable."""
        if is_held != self._is_disk_paused:
            self._is_disk_paused = is_held
            self._frontier.pause(self._is_user_paused or is_held)

    def stats(self) -> FrontierStats:
        return structs.replace(self._frontier.stats(), trouble=self._disk.trouble)

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        with self._catching():
            return self._frontier.records(after, limit)

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        with self._catching():
            grant = self._frontier.lease(worker, kinds, limit, seconds, wait)
            for lease in (lease for turn in grant.turns for lease in turn.leases):
                if valid_origin(lease.request) is None:  # damaged: only valid URLs are put into the ledger
                    raise damaged(self._path, f"invalid URL: {printable(lease.request.location)[:100]}")
        return grant

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        with self._catching():
            verdicts = self._frontier.complete(worker, outcomes, ended_turns)
        if any(outcome.down == "disk" for outcome in outcomes):
            self._disk.suspect()
        if any(outcome.status == "done" for outcome in outcomes):
            self._disk.worked()
        return verdicts

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        with self._catching():
            return self._frontier.extend(worker, tokens, seconds)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write to the ledger in one transaction."""
        with self._catching(), self._frontier.lock, self._ledger.transaction():
            yield

    @contextmanager
    def _catching(self) -> Iterator[None]:
        try:
            with telling_damage(self._path):
                yield
        except DiskError as error:
            if not self._disk.begin(error):
                self.fault = error
            raise
