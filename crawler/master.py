"""The frontier of a master: it remembers faults of its disk, how the last master ended, and what seeds permit."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs
from PIL import __version__ as pillow

from crawler.errors import DiskError
from crawler.frontier.identity import sound_place
from crawler.frontier.politeness import Policy
from crawler.frontier.soundness import MARK, damaged, telling_damage
from crawler.frontier.sqlite import SqliteFrontier
from crawler.guard import Exemption, Guard, exemptions
from crawler.logs import printable
from crawler.model import FrontierStats, Grant, ImageRecord, Kind, Outcome, Renewal, Verdict
from crawler.pause import DiskPause

#: Name of what the ledger knows of the last master: whether it downloaded here, too.
_HERE = "downloads-here"
#: Name under which the ledger keeps the private hosts that seeds have named.
_EXEMPT = "exempt"


class MasterFrontier(SqliteFrontier):
    """The master's frontier: a fault of its disk that a worker elsewhere meets is remembered for the master.

    It bears a mark while it is worked on. Trouble that may pass begins a pause of ``disk``, in which nothing is lent.
    """

    fault: DiskError | None = None

    def __init__(self, path: Path, policy: Policy, *, settings: dict[str, Any], disk: DiskPause | None = None) -> None:
        self._path = path
        self._disk = disk or DiskPause()
        #: Whether somebody wants it to pause, and whether its disk does.
        self._is_told = self._is_held = False
        with telling_damage(path, is_opening=True):
            super().__init__(path, policy, settings=settings)
            terms = msgspec.json.encode([settings.get("harvest"), settings.get("release")])
            with self._ledger.transaction():
                self._ledger.hold_visits(terms)
                self._ledger.hold_verdicts(f"{settings.get('release')}, Pillow {pillow}")

    def mark(self, *, is_at_work: bool, downloads_here: bool) -> None:
        """A master begins to work on it, or has ended well."""
        with self._noting(), self._changed, self._ledger.transaction():
            self._ledger.set_meta(MARK, b"1" if is_at_work else b"")
            self._ledger.set_meta(_HERE, b"1" if downloads_here else b"")

    def load_pins(self, pins: Iterable[tuple[str, str]], state: bytes) -> int:
        """Take these pins, URL and SHA-256, in place of all others; returns how many URLs have one."""
        with self._noting(), self._changed, self._ledger.transaction():
            return self._ledger.load_pins(pins, state)

    @property
    def pins(self) -> bytes:
        """The state of the list whose pins are known; empty: there are none."""
        return self._ledger.pins

    @property
    def is_refreshing(self) -> bool:
        """Whether a refresh has begun and not come to its end."""
        return self._ledger.refresh.is_open

    @property
    def has_replaced(self) -> bool:
        """Whether records took the place of others since it was opened."""
        return self._ledger.has_replaced

    def end_refresh(self) -> None:
        """Nothing of the refresh waits any more."""
        with self._noting(), self._changed, self._ledger.transaction():
            self._ledger.end_refresh()

    @property
    def downloaded_here(self) -> bool:
        """Whether the last master has, or there was none."""
        return self._ledger.get_meta(_HERE) != b""

    def recall(self, guard: Guard) -> None:
        """Permit the private hosts that the seeds of earlier runs have named."""
        try:
            known = msgspec.json.decode(self._ledger.get_meta(_EXEMPT) or b"[]", type=tuple[Exemption, ...])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise damaged(self._path, "its list of private seeds is none") from error
        guard.exempt(known)
        self.announce({_EXEMPT: msgspec.to_builtins(guard.exemptions)})

    def permit(self, guard: Guard, seeds: Sequence[str], *, look_up: bool = False) -> None:
        """Permit the private hosts that these seeds name, for good, and have the downloaders hear of them."""
        if guard.exempt(exemptions(seeds, look_up=look_up)):
            with self._noting(), self._changed, self._ledger.transaction():
                self._ledger.set_meta(_EXEMPT, msgspec.json.encode(guard.exemptions))
            self.announce({_EXEMPT: msgspec.to_builtins(guard.exemptions)})

    def pause(self, is_paused: bool) -> None:
        self._is_told = is_paused
        super().pause(self._is_told or self._is_held)

    def hold(self, is_held: bool) -> None:
        """Hand out nothing while the disk refuses."""
        if is_held != self._is_held:
            self._is_held = is_held
            super().pause(self._is_told or is_held)

    def stats(self) -> FrontierStats:
        return structs.replace(super().stats(), trouble=self._disk.trouble)

    def records(self, after: int, limit: int) -> tuple[tuple[int, ImageRecord], ...]:
        with self._noting():
            return super().records(after, limit)

    def lease(self, worker: str, kinds: Sequence[Kind], limit: int, seconds: float, wait: float) -> Grant:
        with self._noting():
            grant = super().lease(worker, kinds, limit, seconds, wait)
            for lease in (lease for turn in grant.turns for lease in turn.leases):
                if sound_place(lease.request) is None:  # as it once was: nothing else comes into the ledger
                    raise damaged(self._path, f"no URL: {printable(lease.request.location)[:100]}")
        return grant

    def complete(self, worker: str, outcomes: Sequence[Outcome], ended_turns: Sequence[str]) -> tuple[Verdict, ...]:
        with self._noting():
            verdicts = super().complete(worker, outcomes, ended_turns)
        if any(outcome.down == "disk" for outcome in outcomes):
            self._disk.suspect()
        if any(outcome.status == "done" for outcome in outcomes):
            self._disk.worked()
        return verdicts

    def extend(self, worker: str, tokens: Sequence[str], seconds: float) -> Renewal:
        with self._noting():
            return super().extend(worker, tokens, seconds)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            with telling_damage(self._path):
                yield
        except DiskError as error:
            if not self._disk.begin(error):
                self.fault = error
            raise
