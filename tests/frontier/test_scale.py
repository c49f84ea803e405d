"""The cost of a call is the same for ten known hosts and a million: counts, bounds and joint lookups."""

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from msgspec import structs

from crawler.frontier import host_scheduler, read_ahead
from crawler.frontier.host_health import HostHealth
from crawler.frontier.host_queues import Host
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.harvest.url_lists.list_handler import ListHandler
from crawler.model import Grant, Outcome, Request, RobotsRules
from tests.frontier.fakes import OPEN, FakeClock, done, image, lease, page, urls

PACED = Policy(robots=False, delay=1.0, patience=60.0)
RULED = Policy(delay=0.0, per_host=1)


class _NoWalk(dict[str, Host]):
    """Hosts that may be looked up and counted, but not iterated."""

    def __iter__(self) -> NoReturn:
        raise AssertionError("all hosts were walked")

    values = items = keys = __iter__


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def complete(frontier: SqliteFrontier, grant: Grant) -> None:
    """Settle all leases of a grant; every robots.txt allows everything."""
    outcomes = [
        structs.replace(outcome, robots=RobotsRules()) if each.request.kind == "robots" else outcome
        for outcome, each in zip(done(grant), (each for turn in grant.turns for each in turn.leases), strict=True)
    ]
    frontier.complete("w1", outcomes, [turn.id for turn in grant.turns])


def spread(number: int, hosts: int) -> list[Request]:
    return [image(f"http://www{n % hosts}.example/{n}.jpg") for n in range(number)]


# --- hosts are counted, not iterated


def test_stats_and_the_end_of_the_crawl_iterate_over_no_hosts(clock: FakeClock) -> None:
    frontier = SqliteFrontier(None, OPEN, clock=clock)
    frontier.put(spread(30, 10))
    hosts = frontier._scheduler.hosts
    hosts.by_key = _NoWalk(hosts.by_key)
    assert (frontier.stats().hosts, frontier.stats().hosts_waiting) == (10, 10)
    grant = lease(frontier)
    while more := lease(frontier).turns:
        grant = structs.replace(grant, turns=grant.turns + more)
    assert frontier.stats().hosts_waiting == 0
    complete(frontier, grant)
    assert lease(frontier).state == "drained"


# --- a bounded number of rules is wanted at a time


def test_the_rules_of_many_new_origins_are_requested_some_at_a_time(clock: FakeClock) -> None:
    number = 3 * host_scheduler._UNRULED + 10
    frontier = SqliteFrontier(None, RULED, clock=clock)
    frontier.put(spread(number, number))
    asked: set[str] = set()
    for _ in range(20):
        before = frontier._counters.discovered("robots")
        grant = lease(frontier, "image", "robots", limit=number)
        assert frontier._counters.discovered("robots") - before <= host_scheduler._UNRULED
        for turn in grant.turns:
            for each in turn.leases:
                if each.request.kind == "image":
                    assert turn.host in asked, "a picture was leased before the rules of its host"
                else:
                    asked.add(turn.host)
        complete(frontier, grant)
    assert len(asked) == number and frontier.stats().success == number
    assert lease(frontier).state == "drained"


def test_the_text_of_robots_txt_is_kept_only_on_disk_and_sent_with_each_turn(tmp_path: Path, clock: FakeClock) -> None:
    path, name, text = tmp_path / "f.sqlite", "http://a.example", "User-agent: *\nDisallow: /private/\n"
    frontier = SqliteFrontier(path, RULED, clock=clock)
    frontier.put([image(f"{name}/{number}.jpg") for number in range(2)])
    lease(frontier, "image")
    [robots] = lease(frontier, "robots").turns
    rules = RobotsRules(text=text)
    frontier.complete("w1", [Outcome(status="done", token=robots.leases[0].token, robots=rules)], [robots.id])
    for _ in range(2):
        [turn] = lease(frontier, "image", limit=1).turns
        assert turn.robots == {name: text}
        assert frontier._scheduler.hosts.origin(name).rules == RobotsRules()
        frontier.complete("w1", done(Grant(turns=(turn,))), [turn.id])
        frontier.close()
        frontier = SqliteFrontier(path, RULED, clock=clock)
    frontier.close()


# --- tokens are looked up together


@pytest.mark.parametrize("is_known", [True, False], ids=["told-again", "forged"])
def test_a_thousand_useless_tokens_cost_a_few_queries(is_known: bool, clock: FakeClock) -> None:
    frontier = SqliteFrontier(None, OPEN, clock=clock)
    frontier.put(spread(1_000, 1))
    grant = lease(frontier, limit=1_000)
    outcomes = done(grant)
    complete(frontier, grant)
    if not is_known:
        outcomes = [Outcome(status="done", token=f"{row}.{row:016x}.{row:016x}") for row in range(1_000)]
    questions: list[str] = []
    frontier.ledger.database.connection.set_trace_callback(questions.append)
    verdicts = frontier.complete("w1", outcomes, [])
    assert {verdict.state for verdict in verdicts} == {"duplicate" if is_known else "stale"}
    assert len(questions) < 20


def test_an_invalid_row_number_is_a_stale_token(clock: FakeClock) -> None:
    frontier = SqliteFrontier(None, OPEN, clock=clock)
    frontier.put(spread(1, 1))
    tokens = ["9" * 100, f"{'9' * 60}.a.b", f"{2**64}.a.b", "-1.a.b", "1.a.b"]
    verdicts = frontier.complete("w1", [Outcome(status="done", token=token) for token in tokens], [])
    assert [verdict.state for verdict in verdicts] == ["stale"] * len(tokens)


# --- lists are read while the crawl works on them


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_ENOUGH_ROWS", 2_000)
    monkeypatch.setattr(read_ahead, "_ENOUGH_HOSTS", 10)
    monkeypatch.setattr(read_ahead, "_MOST_ROWS", 5_000)


def with_list(path: Path, places: Iterator[str], clock: FakeClock, policy: Policy = PACED) -> SqliteFrontier:
    path.write_text("".join(f"{url}\n" for url in places))
    frontier = SqliteFrontier(None, policy, clock=clock)
    frontier.put([Request(url=path.as_uri(), kind="list", entries="image")])
    return frontier


def read_on(frontier: SqliteFrontier, reader: ListHandler) -> bool:
    """Read a chunk of the list, if the frontier leases it."""
    turns = lease(frontier, "list", limit=1, worker="harvester").turns
    for turn in turns:
        outcome = reader.handle(turn.leases[0].request)
        told = Outcome(
            status=outcome.status,
            token=turn.leases[0].token,
            discovered=outcome.discovered,
            successor=outcome.successor,
        )
        frontier.complete("harvester", [told], [turn.id])
    return bool(turns)


def download(frontier: SqliteFrontier, limit: int = 500) -> int:
    grant = lease(frontier, "image", limit=limit)
    complete(frontier, grant)
    return len(urls(grant))


@pytest.mark.usefixtures("small_bounds")
def test_a_long_list_is_read_only_as_fast_as_its_rows_are_settled(tmp_path: Path, clock: FakeClock) -> None:
    places = (f"http://www{n % 50}.example/{n}.jpg" for n in range(12_000))
    frontier, reader, most = with_list(tmp_path / "list.txt", places, clock), ListHandler(), 0
    for _ in range(2_000):
        while read_on(frontier, reader):
            pass
        most = max(most, frontier.stats().waiting)
        if not download(frontier):
            grant = lease(frontier, "image")
            assert grant.state == "wait" or not frontier.stats().lists_open
            if grant.state == "drained":
                break
            clock.go(1.0)
    assert frontier.stats().success == 12_000
    assert most <= 4_000


@pytest.mark.usefixtures("small_bounds")
def test_a_list_sorted_by_host_is_read_until_enough_hosts_are_known(tmp_path: Path, clock: FakeClock) -> None:
    places = (f"http://www{n // 400}.example/{n}.jpg" for n in range(12_000))
    frontier, reader = with_list(tmp_path / "list.txt", places, clock), ListHandler()
    while read_on(frontier, reader):
        pass
    assert frontier.stats().hosts_waiting >= 10
    assert frontier.stats().waiting <= 5_000


@pytest.mark.usefixtures("small_bounds")
def test_a_list_of_one_host_is_held_back_only_at_the_last_bound(tmp_path: Path, clock: FakeClock) -> None:
    places = (f"http://www.example/{n}.jpg" for n in range(12_000))
    frontier, reader = with_list(tmp_path / "list.txt", places, clock), ListHandler()
    while read_on(frontier, reader):
        pass
    assert frontier.stats().waiting == 5_000


@pytest.mark.usefixtures("small_bounds")
def test_requests_that_can_t_be_leased_do_not_hold_a_list_back(tmp_path: Path, clock: FakeClock) -> None:
    """Check pages beyond the budget, and a host that asks for an hour's wait."""
    places = (f"http://www{n // 6_000}.example/{n}.jpg" for n in range(12_000))
    policy = Policy(robots=False, delay=1.0, max_pages=1, patience=60.0)
    frontier, reader = with_list(tmp_path / "list.txt", places, clock, policy), ListHandler()
    frontier.put([page(f"http://site{n}.example/") for n in range(3_000)])
    [turn] = lease(frontier, "page", limit=1).turns
    frontier.complete("w1", [Outcome(status="done", token=turn.leases[0].token)], [turn.id])
    while read_on(frontier, reader):
        pass
    assert frontier.stats().waiting + frontier.stats().pages_waiting >= 5_000
    frontier._scheduler.set_health(
        frontier._scheduler.hosts.host("www0.example"), HostHealth(blocked_until=clock.now + 3_600)
    )
    assert lease(frontier, "image").turns == ()
    clock.go(1.0)
    assert read_on(frontier, reader)


@pytest.mark.usefixtures("small_bounds")
def test_a_list_of_one_host_is_held_back_while_its_only_turn_is_leased(tmp_path: Path, clock: FakeClock) -> None:
    places = (f"http://www.example/{n}.jpg" for n in range(12_000))
    frontier, reader = with_list(tmp_path / "list.txt", places, clock), ListHandler()
    assert read_on(frontier, reader)
    grant = lease(frontier, "image", limit=1)
    while read_on(frontier, reader):
        clock.go(1.0)
    assert frontier.stats().waiting <= 5_000
    complete(frontier, grant)
    while download(frontier) or read_on(frontier, reader) or frontier.stats().waiting:
        clock.go(1.0)
    assert frontier.stats().success == 12_000
