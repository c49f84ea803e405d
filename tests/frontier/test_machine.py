"""A frontier with workers that act in any order and die, and masters that die; the contract holds throughout.

The model knows only the answers to the workers: the leases that they hold and their deadlines, the turns that they
ended, the outcomes that were accepted. It compares this with the frontier after every step.
"""

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from crawler.frontier.base import PROTOCOL
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Grant, ImageRecord, Kind, Outcome, Request, RobotsRules, Turn
from tests.frontier.disk import copy_of
from tests.frontier.fakes import FakeClock, saved

#: Seconds of every lease.
LEASE = 10.0

POLICIES = (
    Policy(robots=False, delay=0.0, per_host=2, patience=20.0),
    Policy(robots=False, delay=2.0, patience=20.0),
    Policy(delay=1.0, patience=20.0, order="lifo"),
    Policy(delay=0.0, patience=20.0, order="priority"),
)
KINDS: list[tuple[Kind, ...]] = [("robots", "page", "image"), ("image",), ("robots", "page")]

workers = st.sampled_from(["w1", "w2"])
found = st.builds(
    lambda kind, scheme, host, number: Request(
        url=f"{scheme}://{host}.example/{number}", kind=kind, priority=number % 3
    ),
    kind=st.sampled_from(["page", "image", "image"]),
    scheme=st.sampled_from(["http", "https"]),
    host=st.sampled_from("aab"),
    number=st.integers(0, 9),
)
finds = st.lists(found, max_size=6)


@dataclass(eq=False)
class Held:
    """A turn as its worker knows it."""

    worker: str
    turn: Turn
    until: float
    #: Token → request, for leases without a verdict.
    open: dict[str, Request]
    is_ended: bool = False
    is_lost: bool = False


class Crawl(RuleBasedStateMachine):
    """The state machine on a frontier in memory; `FileCrawl` adds masters that end and restart."""

    @initialize(policy=st.sampled_from(POLICIES), requests=st.lists(found, min_size=8, max_size=20))
    def begin(self, policy: Policy, requests: list[Request]) -> None:
        self.clock = FakeClock()
        self.policy = policy
        self.place = Path(tempfile.mkdtemp())
        self.held: list[Held] = []
        #: Kind and URL of all requests, and of those with a final verdict.
        self.known: set[tuple[Kind, str]] = set()
        self.settled: set[tuple[Kind, str]] = set()
        self.records: dict[int, ImageRecord] = {}
        #: Host → clock time before which no worker may begin a turn there.
        self.free_at: dict[str, float] = {}
        self.frontier = self.open()
        self.put(requests)

    def open(self) -> SqliteFrontier:
        return SqliteFrontier(None, self.policy, clock=self.clock, wall=self.clock, dice=lambda: 0.5)

    # events -----------------------------------------------------------------------------------------------------------

    @rule(requests=finds)
    def put(self, requests: list[Request]) -> None:
        new = {(request.kind, request.url) for request in requests} - self.known
        assert self.frontier.put(requests) == len(new)
        self.known |= new

    @rule(worker=workers, kinds=st.sampled_from(KINDS), limit=st.integers(1, 8))
    def lease(self, worker: str, kinds: tuple[Kind, ...], limit: int) -> None:
        self.ask(worker, kinds, limit)

    def ask(self, worker: str, kinds: tuple[Kind, ...], limit: int) -> Grant:
        grant = self.frontier.lease(worker, kinds, limit, LEASE, 0.0)
        self.expire()
        assert (grant.state == "work") == bool(grant.turns)
        assert sum(len(turn.leases) for turn in grant.turns) <= limit
        for turn in grant.turns:
            self.check_turn(turn, kinds)
            requests = {lease.token: lease.request for lease in turn.leases}
            self.held.append(Held(worker, turn, self.clock.now + LEASE, requests))
        if grant.state == "drained":
            stats = self.frontier.stats()
            assert not (stats.waiting or stats.leased or stats.pages_waiting or stats.pages_leased)
            on_loan = {(request.kind, request.url) for held in self.alive() for request in held.open.values()}
            assert on_loan <= self.settled
        return grant

    def check_turn(self, turn: Turn, kinds: tuple[Kind, ...]) -> None:
        """Check that no other worker holds these requests, and that the host is due."""
        on_loan = [request for held in self.alive() for request in held.open.values()]
        for lease in turn.leases:
            assert lease.request.kind in kinds
            assert (lease.request.kind, lease.request.url) not in {(other.kind, other.url) for other in on_loan}
        open_turns = sum(held.turn.host == turn.host and not held.is_ended for held in self.alive())
        assert open_turns < (1 if turn.gap else self.policy.per_host or 1)
        assert self.clock.now >= self.free_at.get(turn.host, 0.0)

    @precondition(lambda self: self.unfinished())
    @rule(
        data=st.data(),
        statuses=st.lists(st.sampled_from(["done", "failed", "retry", "busy", "released", "moved"]), min_size=1),
        discovered=finds,
        number=st.integers(0, 8),
        is_end=st.booleans(),
    )
    def complete(
        self, data: st.DataObject, statuses: list[str], discovered: list[Request], number: int, is_end: bool
    ) -> None:
        held = data.draw(st.sampled_from(self.unfinished()))
        tokens = list(held.open)[:number]
        outcomes = [
            outcome(held.open[token], token, statuses[n % len(statuses)], discovered) for n, token in enumerate(tokens)
        ]
        self.report(held, outcomes, is_end)

    def report(self, held: Held, outcomes: list[Outcome], is_end: bool) -> None:
        verdicts = self.frontier.complete(held.worker, outcomes, [held.turn.id] if is_end else [])
        for outcome, verdict in zip(outcomes, verdicts, strict=True):
            request = held.open.pop(outcome.token)
            if verdict.state == "accepted":
                self.accept(held, request, outcome)
            else:
                assert held.is_lost or (request.kind, request.url) in self.settled
        if is_end and not held.is_lost and not held.is_ended:
            held.is_ended = True
            self.block(held.turn.host, self.clock.now + held.turn.gap)

    def accept(self, held: Held, request: Request, outcome: Outcome) -> None:
        assert (request.kind, request.url) not in self.settled or request.kind == "robots"
        self.known |= {(new.kind, new.url) for new in outcome.discovered}
        if outcome.status == "done":
            self.settled.add((request.kind, request.url))
        if outcome.overloaded:
            self.block(held.turn.host, self.clock.now + (outcome.host_wait or 0.0))

    @rule(worker=workers, seconds=st.sampled_from([0.0, 0.6 * LEASE]))
    def extend(self, worker: str, seconds: float) -> None:
        self.clock.go(seconds)
        mine = [held for held in self.held if held.worker == worker]
        tokens = [token for held in mine for token in held.open]
        lost = set(self.frontier.extend(worker, tokens, LEASE).lost)
        self.expire()
        for held in mine:
            if any(token not in lost for token in held.open):
                assert held in self.alive()
                held.until = self.clock.now + LEASE

    @rule(seconds=st.sampled_from([1.0, 2.0, 0.6 * LEASE, 0.6 * LEASE, LEASE]))
    def wait(self, seconds: float) -> None:
        self.clock.go(seconds)

    @rule(worker=workers)
    def hello(self, worker: str) -> None:
        """End the worker's life and begin a new one; its old life may still send a verdict."""
        self.frontier.hello(worker, PROTOCOL)
        for held in self.held:
            if held.worker == worker and not held.is_lost:
                held.until = min(held.until, self.clock.now)
                self.lose(held)

    # invariants -------------------------------------------------------------------------------------------------------

    @invariant()
    def states_add_up(self) -> None:
        stats = self.frontier.stats()
        states = (stats.waiting, stats.leased, stats.success, stats.duplicate, stats.failed)
        pages = (stats.pages_waiting, stats.pages_leased, stats.pages_done, stats.pages_failed)
        kinds = Counter(kind for kind, _ in self.known)
        assert min(states + pages) >= 0
        assert sum(states) == stats.discovered == kinds["image"]
        assert sum(pages) == kinds["page"]
        assert sum(stats.reasons.values()) == stats.failed

    @invariant()
    def verdicts_are_final(self) -> None:
        records = dict(self.frontier.records(0, 10_000))
        assert self.records.items() <= records.items()
        assert len({record.url for record in records.values()}) == len(records)
        self.records = records

    def teardown(self) -> None:
        """Bring the crawl to its end from its present state."""
        if not hasattr(self, "frontier"):
            return
        try:
            self.finish()
        finally:
            self.frontier.close()
            for place in self.place.parent.glob(self.place.name + "*"):
                shutil.rmtree(place)

    def finish(self) -> None:
        for worker in ("w1", "w2"):
            self.hello(worker)
        for _ in range(1_000):
            grant = self.ask("w1", KINDS[0], 8)
            if grant.state == "drained":
                break
            for held in self.alive():
                self.report(held, [outcome(request, token, "done", []) for token, request in held.open.items()], True)
            self.states_add_up()
            self.clock.go(max(grant.retry_in, 0.5))
        assert grant.state == "drained"
        self.verdicts_are_final()
        assert {record.url for record in self.records.values()} == {url for kind, url in self.known if kind == "image"}

    # helpers ----------------------------------------------------------------------------------------------------------

    def alive(self) -> list[Held]:
        """Return the turns that their workers still hold. The other ones are lost; their outcomes can only be late."""
        return [held for held in self.held if not held.is_lost and held.until > self.clock.now]

    def unfinished(self) -> list[Held]:
        """Return the turns for which an outcome may still arrive, late or not."""
        return [held for held in self.held if held.open or not held.is_ended]

    def expire(self) -> None:
        """Mark the expired turns as lost, as the frontier does when it reads the clock."""
        for held in self.held:
            if held.until <= self.clock.now and not held.is_lost:
                self.lose(held)

    def lose(self, held: Held) -> None:
        held.is_lost = True
        if not held.is_ended:
            self.block(held.turn.host, held.until + held.turn.gap)

    def block(self, host: str, until: float) -> None:
        self.free_at[host] = max(self.free_at.get(host, 0.0), until)


class FileCrawl(Crawl):
    """The state machine on a file, which survives its master."""

    def open(self) -> SqliteFrontier:
        path = self.place / "frontier.sqlite"
        return SqliteFrontier(path, self.policy, clock=self.clock, wall=self.clock, dice=lambda: 0.5)

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        """Start the next master: every live lease is extended by one lease time."""
        next_place = copy_of(self.place / "frontier.sqlite").parent if is_killed else self.place
        self.frontier.close()
        if is_killed:
            shutil.rmtree(self.place)
            next_place.rename(self.place)
        self.frontier = self.open()
        for held in self.held:
            if not held.is_lost:
                held.until = self.clock.now + LEASE


def outcome(request: Request, token: str, status: str, discovered: list[Request]) -> Outcome:
    """Draw an outcome of that kind; pages bring found requests."""
    finds = tuple(discovered) if request.kind == "page" else ()
    match status:
        case "done" if request.kind == "robots":
            return Outcome(status="done", token=token, robots=RobotsRules(lifetime=300.0))
        case "done":
            record = saved(request, f"{len(request.url) % 7:064x}") if request.kind == "image" else None
            return Outcome(status="done", token=token, record=record, discovered=finds)
        case "failed":
            return Outcome(status="done", token=token, reason="http-404")
        case "busy":
            return Outcome(status="retry", token=token, reason="http-503", overloaded=True, host_wait=15.0)
        case "moved":
            successor = Request(url=request.url, kind=request.kind, target="http://b.example/x", hops=1)
            return Outcome(status="moved", token=token, successor=successor)
        case "retry":
            return Outcome(status="retry", token=token, reason="connect", discovered=finds)
        case _:
            return Outcome(status="released", token=token)


TestCrawl = Crawl.TestCase
TestCrawl.settings = settings(stateful_step_count=50)
TestFileCrawl = FileCrawl.TestCase
TestFileCrawl.settings = settings(stateful_step_count=50)
