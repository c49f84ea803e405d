"""Taking up where an earlier life of the crawl stopped, from what it has left on disk."""

import msgspec

from crawler.frontier.leases import Leases
from crawler.frontier.ledger import WAITING, Ledger
from crawler.frontier.politeness import MAX_WAIT
from crawler.frontier.schedule import Schedule
from crawler.frontier.tally import Tally


def take_up(ledger: Ledger, schedule: Schedule, leases: Leases, tally: Tally, *, now: float, wall: float) -> None:
    """Fill schedule, leases and tally at clock time ``now``, which is ``wall`` seconds since the epoch.

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
    for ready in ledger.ready():
        tally.add(ready.kind, ready.is_seed, len(ready.rows))
        rows = [row for row in ready.rows if row not in leases.holder] if leases.holder else ready.rows
        schedule.fill(schedule.origin(ready.origin), ready.kind, rows, ready.priority)
    for later in ledger.deferred():
        tally.add(later.kind, later.is_seed, 1)
        if later.row not in leases.holder:
            at = now + min(later.not_before - wall, MAX_WAIT)
            schedule.defer(schedule.origin(later.origin), later.kind, later.row, later.priority, at)
    leases.close()


def _restore_hosts(ledger: Ledger, schedule: Schedule, now: float, wall: float) -> None:
    """Rules and waits still hold, and every host rests: it was perhaps visited the moment before."""
    for name, rules, until in ledger.rules():
        schedule.set_rules(schedule.origin(name), rules, now + min(until - wall, rules.lifetime))
    for key, conduct in ledger.conducts():
        until = now + min(conduct.blocked_until - wall, conduct.wait)
        host = schedule.host(key)
        host.conduct = host.kept = msgspec.structs.replace(conduct, blocked_until=until)
    for name in ledger.origins():
        schedule.rest(schedule.origin(name).host, now)
