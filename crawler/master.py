"""The frontier of a master: it remembers faults of its disk, how the last master ended, and what seeds permit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from crawler.errors import DiskError
from crawler.frontier.ledger import sound_place
from crawler.frontier.politeness import Policy
from crawler.frontier.soundness import MARK, damaged, telling_damage
from crawler.frontier.sqlite import SqliteFrontier
from crawler.guard import Exemption, Guard, exemptions
from crawler.logs import printable
from crawler.model import Grant, ImageRecord, Kind, Outcome, Verdict

#: Name of what the ledger knows of the last master: whether it downloaded here, too.
_HERE = "downloads-here"
#: Name under which the ledger keeps the private hosts that seeds have named.
_EXEMPT = "exempt"


class MasterFrontier(SqliteFrontier):
    """The master's frontier: a fault of its disk that a worker elsewhere meets is remembered for the master.

    It bears a mark while it is worked on.
    """

    fault: DiskError | None = None

    def __init__(self, path: Path, policy: Policy, *, settings: dict[str, Any]) -> None:
        self._path = path
        with telling_damage(path, is_opening=True):
            super().__init__(path, policy, settings=settings)

    def mark(self, *, is_at_work: bool, downloads_here: bool) -> None:
        """A master begins to work on it, or has ended well."""
        with self._noting(), self._changed, self._ledger.transaction():
            self._ledger.set_meta(MARK, b"1" if is_at_work else b"")
            self._ledger.set_meta(_HERE, b"1" if downloads_here else b"")

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
            return super().complete(worker, outcomes, ended_turns)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            with telling_damage(self._path):
                yield
        except DiskError as error:
            self.fault = error
            raise
