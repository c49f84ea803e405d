"""Who holds what: open turns, the leases in them, what was lost how often, and the tokens that prove a delivery.

In memory, with every change noted in the journal. Not thread-safe: the frontier that owns it holds the lock.
"""

import hmac
import secrets
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf

from crawler.frontier.hosts import Host
from crawler.frontier.journal import Journal, LeasedTurn, Lost, Settled
from crawler.frontier.ledger import SEAL, Entry
from crawler.model import Kind


@dataclass(eq=False, slots=True)
class OpenTurn:
    """A turn on loan, until it has ended and every row of it has its verdict."""

    id: str
    worker: str
    host: Host
    #: Rows without a verdict, and how many there were at first.
    entries: dict[int, Entry]
    size: int
    #: Clock time at which it is lost, and the seconds that were asked for last.
    until: float
    seconds: float
    #: Whether its host is free again, and only verdicts are still to come.
    is_ended: bool = False
    #: Whether an earlier life of the master lent it.
    is_restored: bool = False
    #: What all of its requests are for.
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        self.kind = next((entry.request.kind for entry in self.entries.values()), "image")


class Leases:
    """Every turn on loan.

    Args:
        journal: where changes are noted.
        secret: key of the tokens; with the same key they stay good across restarts (`break_seal`).
    """

    def __init__(self, journal: Journal, secret: bytes) -> None:
        self._journal = journal
        self._secret = secret
        self._era = blake2b(secret, digest_size=8).hexdigest()
        self.turns: dict[str, OpenTurn] = {}
        #: Row → the turn in which it is on loan.
        self.holder: dict[int, OpenTurn] = {}
        #: Row → deliveries that ended without a verdict, for rows that wait or are on loan again.
        self.losses: dict[int, int] = {}
        self._kinds: Counter[Kind] = Counter()
        self._at: Counter[tuple[str, Kind]] = Counter()

    def open(self, worker: str, host: Host, entries: dict[int, Entry], *, seconds: float, now: float) -> OpenTurn:
        """Lend entries to a worker until ``seconds`` from now."""
        turn = self._add(OpenTurn(secrets.token_hex(8), worker, host, entries, len(entries), now + seconds, seconds))
        self._journal.write(self._note(turn))
        return turn

    def replay(self) -> list[LeasedTurn]:
        """The turns that were on loan when an earlier master died, each to be resumed; the losses are known then."""
        notes, self.losses = self._journal.replay(self._era)
        return notes

    def resume(self, note: LeasedTurn, host: Host, entries: dict[int, Entry], now: float) -> None:
        """A turn that was on loan when an earlier master died: its worker has one more lease time."""
        turn = OpenTurn(note.turn, note.worker, host, entries, len(note.rows), now + note.seconds, note.seconds)
        turn.is_ended, turn.is_restored = note.is_ended, True
        self._add(turn)

    def _add(self, turn: OpenTurn) -> OpenTurn:
        self.turns[turn.id] = turn
        self.holder.update(dict.fromkeys(turn.entries, turn))
        self._count(turn, len(turn.entries))
        return turn

    def leased(self, kind: Kind) -> int:
        """Requests of a kind on loan."""
        return self._kinds[kind]

    def leased_at(self, host: Host, kind: Kind) -> int:
        """Requests of a kind on loan that are for one host."""
        return self._at[host.key, kind]

    def of(self, worker: str) -> list[OpenTurn]:
        """The turns of a worker."""
        return [turn for turn in self.turns.values() if turn.worker == worker]

    def token(self, row: int, turn: OpenTurn) -> str:
        """The proof that ``row`` was delivered in ``turn`` to its worker."""
        return f"{row}.{turn.id}.{self._seal(row, turn.id, turn.worker)}"

    def check(self, worker: str, token: str) -> tuple[int, OpenTurn | None]:
        """Row of a token and the turn in which it is still open; row -1 where the token is not this worker's."""
        text, _, rest = token.partition(".")
        name, _, seal = rest.partition(".")
        if not (text.isascii() and text.isdigit()) or not seal.isascii():
            return -1, None
        row, turn = int(text), self.turns.get(name)
        if turn is not None and turn.worker == worker and row in turn.entries:
            return row, turn  # whose name only its worker knows
        return row if hmac.compare_digest(seal, self._seal(row, name, worker)) else -1, None

    def let_go(self, rows: Collection[int]) -> None:
        """Rows have their verdicts, or go back uncharged: whoever holds them holds them no longer."""
        self._drop(rows)
        for row in rows if self.losses else ():
            self.losses.pop(row, None)
        self._forget(rows)

    def charge(self, turn: OpenTurn, row: int) -> int:
        """Losses of a row if its turn is lost now.

        Only a row that was alone in its turn is surely to blame. One that was lost among others is marked, and its
        next delivery is one by itself. A turn that an earlier life of the master lent ended with that life: the
        worker may have been well, so nobody is to blame.
        """
        before = self.losses.get(row, 0)
        if turn.is_restored:
            return before
        return before + 1 if turn.size == 1 else max(before, 1)

    def lose(self, turn: OpenTurn) -> list[Entry]:
        """A turn's worker is gone; returns its rows, charged as `charge` says."""
        entries = list(turn.entries.values())
        charges = {entry.row: losses for entry in entries if (losses := self.charge(turn, entry.row))}
        self.losses |= charges
        self._drop([entry.row for entry in entries])
        if charges:
            self._journal.write(Lost(rows=charges, era=self._era))
        return entries

    def end(self, turns: Iterable[OpenTurn]) -> None:
        """The hosts of these turns are free again; each is forgotten once all its rows have their verdicts."""
        for turn in turns:
            turn.is_ended = True
            if turn.entries:
                self._journal.write(self._note(turn))
        self._forget()

    def close(self) -> None:
        """Leave a journal of just what is open."""
        self._restart()
        self._journal.close()

    def _forget(self, rows: Collection[int] = ()) -> None:
        """Note that rows are no longer on loan, and let go of the turns that are over."""
        over = [turn.id for turn in self.turns.values() if turn.is_ended and not turn.entries]
        for name in over:
            del self.turns[name]
        if rows or over:
            self._journal.write(Settled(rows=tuple(rows), turns=tuple(over)))
        if self._journal.wants_restart:
            self._restart()

    def _restart(self) -> None:
        losses = [Lost(rows=self.losses, era=self._era)] if self.losses else []
        self._journal.restart([*map(self._note, self.turns.values()), *losses])

    def _drop(self, rows: Collection[int]) -> None:
        """They are on loan no longer; nothing happens to those that are not."""
        holders = []
        for row in rows:
            turn = self.holder.pop(row, None)
            if turn is not None:
                del turn.entries[row]
                holders.append(turn)
        for turn, number in Counter(holders).items():
            self._count(turn, -number)

    def _count(self, turn: OpenTurn, number: int) -> None:
        self._kinds[turn.kind] += number
        self._at[turn.host.key, turn.kind] += number

    def _seal(self, row: int, turn: str, worker: str) -> str:
        text = f"{row}.{turn}.{worker}".encode(errors="surrogatepass")
        return blake2b(self._secret + text, digest_size=8).hexdigest()

    def _note(self, turn: OpenTurn) -> LeasedTurn:
        return LeasedTurn(
            turn=turn.id,
            worker=turn.worker,
            host=turn.host.key,
            rows=tuple(turn.entries),
            seconds=turn.seconds,
            is_ended=turn.is_ended,
            era=self._era,
        )


def break_seal(database: sqlite3.Connection) -> None:
    """Make all tokens and leases of before worthless, in the transaction that has settled requests wait again.

    Else an outcome of the time before, which nobody knows to be told already, would answer what is asked now.
    """
    database.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (SEAL, secrets.token_bytes(32)))


def soonest_loss(turns: Iterable[OpenTurn]) -> float:
    """Clock time at which the first of these turns is lost."""
    return min((turn.until for turn in turns), default=inf)
