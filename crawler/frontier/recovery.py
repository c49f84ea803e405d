"""Recovery: restores the state of an earlier run of the crawl from its files."""

from msgspec import structs

from crawler.frontier.counters import TOTALS, Counters
from crawler.frontier.host_health import HEALTH
from crawler.frontier.host_scheduler import HostScheduler
from crawler.frontier.leases import Leases
from crawler.frontier.ledger.ledger import Ledger
from crawler.frontier.ledger.rows import WAITING
from crawler.frontier.politeness import MAX_WAIT


def recover(
    ledger: Ledger, scheduler: HostScheduler, leases: Leases, counters: Counters, *, now: float, wall: float
) -> None:
    """Fill the scheduler, leases and counters at clock time ``now``, which is ``wall`` seconds since the epoch.

    Every stored time in seconds since the epoch is limited to its longest possible wait from now: the wall clock may
    have been set meanwhile.
    """
    _restore_hosts(ledger, scheduler, now, wall)
    _restore_counts(ledger, counters)
    for leased in leases.replay():
        entries = {row: entry for row, entry in ledger.requests.get(leased.rows).items() if entry.state == WAITING}
        host = scheduler.hosts.host(leased.host)
        leases.resume(leased, host, entries, now)
        if not leased.is_ended:
            host.open_turns += 1
    for kind, name, is_seed, priority, not_before, waiting in ledger.requests.waiting():
        counters.add(kind, is_seed, len(waiting))
        rows = [row for row in waiting if row not in leases.holder] if leases.holder else waiting
        origin = scheduler.hosts.origin(name)
        if not not_before:
            scheduler.fill(origin, kind, rows, priority)
        for row in rows if not_before else ():
            scheduler.defer(origin, kind, row, priority, now + min(not_before - wall, MAX_WAIT))
    leases.close()


def _restore_hosts(ledger: Ledger, scheduler: HostScheduler, now: float, wall: float) -> None:
    """Restore robots rules and pauses; let every host wait for its gap, as it may have been visited just before."""
    for name, rules, until in ledger.origins.rules():
        scheduler.set_rules(scheduler.hosts.origin(name), rules, now + min(until - wall, rules.lifetime))
    for key, data in ledger.origins.health():
        health = HEALTH.decode(data)
        until = now + min(health.blocked_until - wall, health.wait)
        host = scheduler.hosts.host(key)
        host.saved_health = structs.replace(health, blocked_until=until)
        scheduler.set_health(host, host.saved_health)
    for name in ledger.origins.names.values():
        scheduler.rest(scheduler.hosts.origin(name).host, now)


def _restore_counts(ledger: Ledger, counters: Counters) -> None:
    """Restore the counts of settled requests and of records."""
    for kind, is_seed, state, reason, number in ledger.requests.census():
        counters.add(kind, is_seed, number, state, reason)
    counters.duplicates = ledger.history.duplicates()
    counters.changes.update(ledger.history.changes())
    counters.set_stores(ledger.records.owners(), ledger.history.stores())
    for name in TOTALS:
        counters.totals[name] = int(ledger.database.get_meta(name) or b"0")
