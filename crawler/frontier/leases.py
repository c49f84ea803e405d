"""Leases: open turns with their requests, the number of losses of each request, and the tokens that prove a delivery.

They are kept in memory; every change is written to the lease log. Not thread-safe: the frontier holds its lock.
"""

import hmac
import secrets
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf

from crawler.frontier.host_queues import Host
from crawler.frontier.ledger.lease_log import LeasedTurn, LeaseLog, LostEntry, SettledEntry
from crawler.frontier.ledger.rows import Entry
from crawler.model import Kind

#: Digits of the greatest possible row number.
_MOST_DIGITS = 19


@dataclass(eq=False, slots=True)
class OpenTurn:
    """A leased turn, until it has ended and every row of it has its verdict."""

    id: str
    worker: str
    host: Host
    #: Rows without a verdict, and the number of rows at first.
    entries: dict[int, Entry]
    size: int
    #: Clock time at which it expires, and the seconds that the worker requested last.
    until: float
    seconds: float
    #: Whether its host is free again, and only verdicts are missing.
    is_ended: bool = False
    #: Kind of all of its requests.
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        self.kind = next((entry.request.kind for entry in self.entries.values()), "image")


class Leases:
    """All leased turns.

    Args:
        lease_log: receives all changes.
        secret: key of the tokens; with the same key they stay valid across restarts.
    """

    def __init__(self, lease_log: LeaseLog, secret: bytes) -> None:
        self._lease_log = lease_log
        self._secret = secret
        self._era = blake2b(secret, digest_size=8).hexdigest()
        self.turns: dict[str, OpenTurn] = {}
        #: Row → the turn in which it is leased.
        self.holder: dict[int, OpenTurn] = {}
        #: Row → deliveries that ended without a verdict, for rows that wait or are leased again.
        self.losses: dict[int, int] = {}
        #: Kind → leased requests; (host key, kind) → leased requests.
        self.by_kind: Counter[Kind] = Counter()
        self.by_host: Counter[tuple[str, Kind]] = Counter()
        #: Turns that may be over since the last call of `_forget`.
        self._changed: dict[OpenTurn, None] = {}
        #: No turn expires before this clock time.
        self.soonest_loss = inf

    def open(self, worker: str, host: Host, entries: dict[int, Entry], *, seconds: float, now: float) -> OpenTurn:
        """Lease entries to a worker until ``seconds`` from now."""
        turn = self._add(OpenTurn(secrets.token_hex(8), worker, host, entries, len(entries), now + seconds, seconds))
        self._lease_log.write(self._log_entry(turn))
        return turn

    def replay(self) -> list[LeasedTurn]:
        """Load the losses; return the turns that were leased when an earlier master died, for `resume`."""
        leased, self.losses = self._lease_log.replay(self._era)
        return leased

    def resume(self, lease: LeasedTurn, host: Host, entries: dict[int, Entry], now: float) -> None:
        """Lease a turn again that was leased when an earlier master died; its worker gets one more lease time."""
        turn = OpenTurn(lease.turn, lease.worker, host, entries, len(lease.rows), now + lease.seconds, lease.seconds)
        turn.is_ended = lease.is_ended
        self._add(turn)

    def _add(self, turn: OpenTurn) -> OpenTurn:
        self.turns[turn.id] = turn
        self._changed[turn] = None
        self.soonest_loss = min(self.soonest_loss, turn.until)
        self.holder.update(dict.fromkeys(turn.entries, turn))
        self._count(turn, len(turn.entries))
        return turn

    def renew(self, turn: OpenTurn, seconds: float, now: float) -> None:
        """Extend the lease of a turn until ``seconds`` from now."""
        turn.until, turn.seconds = now + seconds, seconds
        self.soonest_loss = min(self.soonest_loss, turn.until)

    def shorten(self, worker: str, until: float) -> None:
        """Let the leases of a worker expire at clock time ``until``, unless they end before or are renewed."""
        for turn in self.of(worker):
            turn.until = min(turn.until, until)
            self.soonest_loss = min(self.soonest_loss, turn.until)

    def expired(self, now: float) -> list[OpenTurn]:
        """Return the expired turns. All turns are checked only when at least one of them may have expired."""
        if now < self.soonest_loss:
            return []
        self.soonest_loss = min((turn.until for turn in self.turns.values()), default=inf)
        return [turn for turn in self.turns.values() if turn.until <= now]

    def of(self, worker: str) -> list[OpenTurn]:
        """Return the turns of a worker."""
        return [turn for turn in self.turns.values() if turn.worker == worker]

    def token(self, row: int, turn: OpenTurn) -> str:
        """Return the token, which proves that ``row`` was delivered in ``turn`` to its worker."""
        return f"{row}.{turn.id}.{self._seal(row, turn.id, turn.worker)}"

    def check(self, worker: str, token: str) -> tuple[int, OpenTurn | None]:
        """Return the row of a token and its turn, or None if the row is no longer leased in it.

        The row is -1 if the token is not one of this worker's.
        """
        digits, _, rest = token.partition(".")
        turn_id, _, seal = rest.partition(".")
        if not (digits.isascii() and digits.isdigit()) or not seal.isascii() or len(digits) > _MOST_DIGITS:
            return -1, None
        row, turn = int(digits), self.turns.get(turn_id)
        if turn is not None and turn.worker == worker and row in turn.entries:
            return row, turn  # only its worker knows the turn's id, so the seal need not be checked
        return row if hmac.compare_digest(seal, self._seal(row, turn_id, worker)) else -1, None

    def let_go(self, rows: Collection[int], *, decided: Collection[int] | None = None) -> None:
        """End the leases of rows. The losses of the ``decided`` rows (None: all) are cleared; the others keep theirs.

        A released or retried request proves nothing about the bytes that may have caused its loss.
        """
        self._drop(rows)
        marked = self.losses.keys() & rows if self.losses else set()
        kept = {row: self.losses[row] for row in marked if decided is not None and row not in decided}
        for row in marked - kept.keys():
            del self.losses[row]
        self._forget(rows)
        if kept:
            self._lease_log.write(LostEntry(rows=kept, era=self._era))  # `_forget` has cleared their losses in the log

    def charge(self, turn: OpenTurn, row: int) -> int:
        """Return the number of losses of a row if its turn is lost now.

        A loss proves nothing: worker or master may have been killed from outside. It marks the row: its next delivery
        is alone in its turn and is decoded in a separate process. The number only stops requests that no worker
        survives, so a row that was lost together with others is marked but not counted.
        """
        before = self.losses.get(row, 0)
        return before + 1 if turn.size == 1 else max(before, 1)

    def lose(self, turn: OpenTurn) -> list[Entry]:
        """End the leases of a turn whose worker is gone; count the losses (`charge`) and return its entries."""
        entries = list(turn.entries.values())
        losses = {entry.row: self.charge(turn, entry.row) for entry in entries}
        self.losses |= losses
        self._drop([entry.row for entry in entries])
        if losses:
            self._lease_log.write(LostEntry(rows=losses, era=self._era))
        return entries

    def end(self, turns: Iterable[OpenTurn]) -> None:
        """Mark turns as ended: their hosts are free again. A turn is deleted once all its rows have their verdicts."""
        for turn in turns:
            turn.is_ended = True
            self._changed[turn] = None
            if turn.entries:
                self._lease_log.write(self._log_entry(turn))
        self._forget()

    def close(self) -> None:
        """Rewrite the lease log with only the open leases and close it."""
        self._restart()
        self._lease_log.close()

    def _forget(self, rows: Collection[int] = ()) -> None:
        """Log that rows are no longer leased, and delete the turns that are over."""
        over = [turn.id for turn in self._changed if turn.is_ended and not turn.entries and turn.id in self.turns]
        self._changed.clear()
        for turn_id in over:
            del self.turns[turn_id]
        if rows or over:
            self._lease_log.write(SettledEntry(rows=tuple(rows), turns=tuple(over)))
        if self._lease_log.wants_restart:
            self._restart()

    def _restart(self) -> None:
        losses = [LostEntry(rows=self.losses, era=self._era)] if self.losses else []
        self._lease_log.restart([*map(self._log_entry, self.turns.values()), *losses])

    def _drop(self, rows: Collection[int]) -> None:
        """Remove rows from their turns; ignore rows that are not leased."""
        holders = []
        for row in rows:
            turn = self.holder.pop(row, None)
            if turn is not None:
                del turn.entries[row]
                holders.append(turn)
        for turn, number in Counter(holders).items():
            self._count(turn, -number)
            self._changed[turn] = None

    def _count(self, turn: OpenTurn, number: int) -> None:
        self.by_kind[turn.kind] += number
        self.by_host[turn.host.key, turn.kind] += number

    def _seal(self, row: int, turn: str, worker: str) -> str:
        claim = f"{row}.{turn}.{worker}".encode(errors="surrogatepass")
        return blake2b(self._secret + claim, digest_size=8).hexdigest()

    def _log_entry(self, turn: OpenTurn) -> LeasedTurn:
        return LeasedTurn(
            turn=turn.id,
            worker=turn.worker,
            host=turn.host.key,
            rows=tuple(turn.entries),
            seconds=turn.seconds,
            is_ended=turn.is_ended,
            era=self._era,
        )


def turn_of(token: str) -> str:
    """Return the id of the turn that a token names; the token has passed `Leases.check`."""
    return token.split(".")[1]
