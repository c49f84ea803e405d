"""Maintenance of the turns that a worker holds: their leases are renewed, and their ends reported at once."""

import threading
from collections.abc import Callable

from crawler.frontier.base import SILENCE
from crawler.worker.held_turns import HeldTurns
from crawler.worker.patient_calls import PatientFrontier

#: Seconds between two checks of the held turns, and between two renewals while other workers may visit the same hosts.
_CHECK_SECONDS = 0.5


def maintain_turns(
    frontier: PatientFrontier, turns: HeldTurns, interval: float, over: threading.Event, cut: Callable[[], None]
) -> None:
    """Renew all leases in time, and report ended turns that need not wait for their outcomes, until ``over`` is set.

    There are few seconds between two renewals while other workers visit the same hosts, and may learn of a pause before
    this worker. Several renewals always fit into `SILENCE`, so that a healthy worker starts requests without
    interruption.

    Args:
        interval: most seconds between two renewals.
        cut: cuts the requests in progress; called when a lease is lost.
    """
    pause = min(_CHECK_SECONDS, interval)
    asked_at = checked_at = turns.clock()
    while not over.is_set():
        if freed := turns.take_freed(max(0.0, checked_at + pause - turns.clock())):
            frontier.complete((), freed)
        if turns.clock() < checked_at + pause:
            continue
        checked_at = turns.clock()
        turns.share_out()
        tokens = turns.open
        seconds = min(_CHECK_SECONDS if turns.are_shared else SILENCE / 4, interval)
        if not tokens or checked_at < asked_at + seconds:
            continue
        asked_at = checked_at
        renewal = frontier.extend(tuple(tokens), turns.lease)
        turns.note_answer(asked_at)
        with turns.changed:
            if turns.renew(tokens, renewal, asked_at):
                cut()
    if freed := turns.take_freed():
        frontier.complete((), freed)
