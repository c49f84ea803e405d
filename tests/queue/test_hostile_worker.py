"""A worker that has the key and sends invalid data: only its own outcomes fail, and no other worker is affected."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from msgspec import structs

from crawler.errors import MessageError
from crawler.frontier.base import PROTOCOL, Frontier
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import ImageRecord, Outcome, Request, RobotsRules, Verdict, describe
from crawler.queue.client import RemoteFrontier
from crawler.queue.join_file import read_join
from crawler.queue.protocol import _MAX_PART, _MAX_RULES, MAX_LINES, RESULTS, read_call, write_call
from crawler.worker.worker import WorkerSettings
from tests.frontier.fakes import OPEN, image, images, page
from tests.queue.served import served
from tests.support.pictures import PictureHost
from tests.support.processes import commands, manifest_of, wait_until

#: URLs that would make an honest worker's record invalid, or forge a record line.
ODD = ["http://a.example/x?<x>\n", "http://a.example/--->success", "http://a.example/ ", "http://a.example/é"]


@pytest.fixture
def frontier() -> Iterator[SqliteFrontier]:
    frontier = SqliteFrontier(None, OPEN)
    frontier.put(images(8))
    frontier.hello("w1", PROTOCOL)
    yield frontier
    frontier.close()


def leased(frontier: Frontier, number: int = 8) -> dict[str, Request]:
    """Token → request."""
    grant = frontier.lease("w1", ["image"], number, 60.0, 0.0)
    return {lease.token: lease.request for turn in grant.turns for lease in turn.leases}


def failed(token: str, request: Request, **fields: str) -> Outcome:
    return Outcome(status="done", token=token, reason="http-404", record=describe(request, reason="http-404", **fields))


@pytest.mark.parametrize("url", ODD)
@pytest.mark.parametrize("field", ["target", "fallback"])
def test_an_invalid_url_of_a_successor_is_refused(field: str, url: str) -> None:
    successor = structs.replace(image(), **{field: url})
    with pytest.raises(MessageError, match="URL"):
        read_call(write_call(RESULTS, "put", ("w1", (Outcome(status="moved", successor=successor),), ())))


@pytest.mark.parametrize("url", ODD)
@pytest.mark.parametrize("field", ["url", "target", "fallback", "referrer", "seed"])
def test_an_invalid_url_of_a_found_request_is_refused(field: str, url: str) -> None:
    found = structs.replace(image(), **{field: url})
    with pytest.raises(MessageError, match="URL"):
        read_call(write_call(RESULTS, "put", ("w1", (Outcome(status="done", discovered=(image(), found)),), ())))


@pytest.mark.parametrize("target", [*ODD, "HTTP://a.example/", "http://a.example/" + "x" * 9_000, "ftp://a.example/"])
def test_the_frontier_leases_no_target_that_makes_a_record_invalid(frontier: SqliteFrontier, target: str) -> None:
    token, request = next(iter(leased(frontier, 1).items()))
    moved = Outcome(status="moved", token=token, successor=structs.replace(request, target=target, hops=1))
    frontier.complete("w1", [moved], ())
    assert [record.reason for _, record in frontier.records(0, 9)] == ["bad-url"]


@pytest.mark.parametrize("found", [image("HTTP://a.example/9.jpg"), image("http://A.example/9.jpg", target=ODD[0])])
def test_the_frontier_accepts_no_found_request_that_makes_a_record_invalid(
    frontier: SqliteFrontier, found: Request
) -> None:
    token, request = next(iter(leased(frontier, 1).items()))
    frontier.complete("w1", [structs.replace(failed(token, request), discovered=(found,))], ())
    assert frontier.stats().discovered == 8


@pytest.mark.parametrize("fallback", ["ftp://a.example/", "nonsense", "http://", "http://a.example/" + "x" * 9_000])
def test_an_invalid_fallback_fails_its_page_and_not_the_worker_that_tries_it(
    frontier: SqliteFrontier, fallback: str
) -> None:
    token, request = next(iter(leased(frontier, 1).items()))
    found = page("http://b.example/", depth=1, fallback=fallback)
    frontier.complete("w1", [structs.replace(failed(token, request), discovered=(found,))], ())
    (turn,) = frontier.lease("w2", ["page"], 8, 60.0, 0.0).turns
    unreached = Outcome(status="done", token=turn.leases[0].token, reason="connect")
    assert [verdict.state for verdict in frontier.complete("w2", [unreached], [turn.id])] == ["accepted"]
    assert not frontier.lease("w2", ["page"], 8, 60.0, 0.0).turns


def test_the_record_of_the_longest_request_is_accepted() -> None:
    request = image(referrer="http://a.example/" + "r" * 8_000)
    room = _MAX_PART - 200 - len(request.referrer)
    request = structs.replace(request, alt="x" * room)
    found = Outcome(status="done", discovered=(request,))
    read_call(write_call(RESULTS, "put", ("w1", (found,), ())))
    record = describe(request, final_url="http://a.example/" + "f" * 8_000, reason="http-404")
    outcome = Outcome(status="done", record=record)
    _, _, (worker, outcomes, _) = read_call(write_call(RESULTS, "put", ("w1", (outcome,), ())))
    assert (worker, outcomes) == ("w1", (outcome,))


def test_rules_that_fill_a_response_are_refused() -> None:
    rules = RobotsRules(text="Disallow: /x\n" * 200_000)
    with pytest.raises(MessageError, match="text of the RobotsRules"):
        read_call(write_call(RESULTS, "put", ("w1", (Outcome(status="done", robots=rules),), ())))


def test_the_longest_accepted_requests_and_rules_fit_into_a_lease_response() -> None:
    number = WorkerSettings().batch
    frontier = SqliteFrontier(None, Policy(delay=0.0))
    frontier.put([image(f"http://h{each}.example/1.jpg") for each in range(number)])
    frontier.lease("w1", ["image"], number, 60.0, 0.0)  # now the rules are wanted
    rules = RobotsRules(
        text="x" * (MAX_LINES // 2), sitemaps=("s" * ((_MAX_RULES - MAX_LINES // 2) // 1_000 - 4),) * 1_000
    )
    with closing(frontier), served(frontier) as remote:
        turns = remote.lease("w1", ["robots"], number, 60.0, 0.0).turns
        for lease in (lease for turn in turns for lease in turn.leases):
            url = f"{lease.request.url}?{'x' * 8_000}"
            moved = structs.replace(lease.request, target=url, hops=1, rules=rules)
            remote.complete("w1", [Outcome(status="moved", token=lease.token, successor=moved)], ())
        remote.complete("w1", [], [turn.id for turn in turns])
        lent = [lease for turn in remote.lease("w2", ["robots"], number, 60.0, 0.0).turns for lease in turn.leases]
    assert [lease.request.rules for lease in lent] == [rules] * number


@pytest.mark.parametrize("bad", [[0], [7], [2, 3, 6], list(range(8))])
def test_an_invalid_outcome_fails_alone_and_the_others_are_settled(frontier: SqliteFrontier, bad: list[int]) -> None:
    with served(frontier) as remote:
        held = leased(remote)
        outcomes = [
            failed(token, request, final_url=ODD[0] if number in bad else request.url)
            for number, (token, request) in enumerate(held.items())
        ]
        verdicts = remote.complete("w1", outcomes, ())
    reasons = ["internal" if number in bad else "http-404" for number in range(8)]
    assert [(verdict.state, verdict.reason) for verdict in verdicts] == [("accepted", reason) for reason in reasons]
    assert sorted(record.reason for _, record in frontier.records(0, 9)) == sorted(reasons)


def test_an_outcome_too_long_for_a_message_fails_alone(frontier: SqliteFrontier) -> None:
    with served(frontier) as remote:
        held = leased(remote)
        outcomes = [failed(token, request) for token, request in held.items()]
        assert outcomes[3].record is not None
        outcomes[3] = structs.replace(outcomes[3], record=structs.replace(outcomes[3].record, alt="\ud800"))
        outcomes[4] = structs.replace(outcomes[4], robots=RobotsRules(text="x" * 17_000_000))
        verdicts = remote.complete("w1", outcomes, ())
    assert [verdict.reason for verdict in verdicts] == ["http-404"] * 3 + ["internal"] * 2 + ["http-404"] * 3


def test_a_master_that_refuses_every_outcome_raises_an_error(
    frontier: SqliteFrontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(worker: str, outcomes: object, ended_turns: object) -> tuple[Verdict, ...]:
        raise MessageError("no")

    monkeypatch.setattr(frontier, "complete", refuse)
    with served(frontier) as remote, pytest.raises(MessageError):
        remote.complete("w1", [Outcome(status="done", token=token) for token in ("a", "b")], ())


@pytest.mark.fire
def test_an_outcome_of_a_hostile_worker_ends_no_honest_downloader(tmp_path: Path) -> None:
    """Check whole processes: the hostile worker redirects pictures to invalid URLs, the honest one leases them."""
    with PictureHost() as host, commands(tmp_path) as start:
        job, pictures = tmp_path / "job", host.list_of(8, tmp_path)
        master = start("master", "harvest", "--images", pictures, "-o", job, "--allow-private", "--no-robots", "-q")
        wait_until(lambda: (job / "join").exists(), "a join file")
        with closing(RemoteFrontier(read_join(job / "join"))) as hostile:
            hostile.hello("hostile/1", PROTOCOL)
            held: dict[str, Request] = {}
            while not held:
                grant = hostile.lease("hostile/1", ["image"], 8, 60.0, 1.0)
                held = {lease.token: lease.request for turn in grant.turns for lease in turn.leases}
            for token, request in held.items():
                moved = structs.replace(request, target=f"{host.url}/1.png?<x>\n", hops=1)
                with suppress(MessageError):
                    outcomes = (Outcome(status="moved", token=token, successor=moved),)
                    hostile._link.call(RESULTS, "put", "hostile/1", outcomes, ())
            hostile.hello("hostile/1", PROTOCOL)  # gives back its leases
        honest = start("honest", "download", job / "join", "-o", tmp_path / "machine", "--allow-private", "-q")
        assert honest.ends() == 0, honest.said
        assert master.ends() == 0, master.said
        assert [row.status for row in manifest_of(job)] == ["success"] * 8


def test_our_own_records_are_accepted() -> None:
    record = ImageRecord(url="http://a.example/1.jpg", final_url="http://a.example/2.jpg", page_url="")
    read_call(write_call(RESULTS, "put", ("w1", (Outcome(status="done", record=record),), ())))
