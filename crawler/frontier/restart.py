"""Taking up where an earlier life of the crawl stopped, from what it has left on disk."""

from crawler.frontier.leases import Leases
from crawler.frontier.ledger import WAITING, Ledger
from crawler.frontier.politeness import MAX_WAIT
from crawler.frontier.schedule import Schedule


def take_up(ledger: Ledger, schedule: Schedule, leases: Leases, *, now: float, wall: float) -> None:
    """Fill schedule and leases at clock time ``now``, which is ``wall`` seconds since the epoch.

    What was kept in seconds since the epoch is bounded by how long it could be at most: the wall clock may have been
    set meanwhile.
    """
    _restore_hosts(ledger, schedule, now, wall)
    for note in leases.replay():
        entries = {row: entry for row, entry in ledger.get(note.rows).items() if entry.state == WAITING}
        host = schedule.host(note.host)
        leases.resume(note, host, entries, now)
        if not note.is_ended:
            schedule.reserve(host)
    for waiting in ledger.waiting():
        if waiting.row in leases.holder:
            continue
        place = schedule.origin(waiting.origin)
        at = now + min(waiting.not_before - wall, MAX_WAIT) if waiting.not_before else now
        if at > now:
            schedule.defer(place, waiting.kind, waiting.row, waiting.priority, at)
        else:
            schedule.add(place, waiting.kind, waiting.row, waiting.priority)
    leases.close()


def _restore_hosts(ledger: Ledger, schedule: Schedule, now: float, wall: float) -> None:
    """Rules and waits still hold, and every host rests: it was perhaps visited the moment before."""
    for name, rules, until in ledger.rules():
        schedule.set_rules(schedule.origin(name), rules, now + min(until - wall, rules.lifetime))
    for name in ledger.origins():
        schedule.rest(schedule.origin(name).host, now)
    for key, until in ledger.waits():
        schedule.host(key).blocked_until = now + min(until - wall, MAX_WAIT)
