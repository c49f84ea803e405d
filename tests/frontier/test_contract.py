"""The contract of every implementation for requests, leases and verdicts (see `crawler.frontier.base`)."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec import structs

from crawler.errors import AccessError
from crawler.frontier.base import PROTOCOL
from crawler.frontier.politeness import Policy
from crawler.model import Outcome, OutcomeStatus, Request, RobotsRules, WorkerInfo
from tests.frontier.fakes import (
    POISON_SOON,
    FakeClock,
    Make,
    done,
    image,
    images,
    lease,
    page,
    retry,
    saved,
    states,
    tokens,
    turn_ids,
    urls,
    work_off,
)


def test_a_request_is_stored_once(make: Make) -> None:
    frontier = make()
    assert frontier.put([image(), image(), page()]) == 2
    assert frontier.put([image()]) == 0
    assert frontier.stats().discovered == 1


def test_the_first_finder_is_kept(make: Make) -> None:
    frontier = make()
    frontier.put([image(alt="a cat"), image(alt="no cat")])
    frontier.put([image(alt="a dog")])
    assert lease(frontier).turns[0].leases[0].request.alt == "a cat"


def test_one_url_may_be_a_page_and_an_image(make: Make) -> None:
    assert make().put([image("http://a.example/x"), page("http://a.example/x")]) == 2


def test_hello_returns_the_settings(make: Make) -> None:
    assert make(user_agent="x").hello("w1", PROTOCOL) == {"user_agent": "x"}


@pytest.mark.parametrize(("protocol", "side"), [(PROTOCOL + 1, "master"), (PROTOCOL - 1, "downloader")])
def test_hello_names_the_side_to_upgrade(make: Make, protocol: int, side: str) -> None:
    with pytest.raises(AccessError, match=f"upgrade the {side}"):
        make().hello("w1", protocol)


def test_fifo_is_the_order_of_discovery(make: Make) -> None:
    frontier = make()
    frontier.put(images(5))
    assert work_off(frontier, limit=3) == [f"http://a.example/{n}.jpg" for n in range(3)]


def test_priority_order_leases_the_highest_priority_first(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1, order="priority"))
    frontier.put([image(f"http://a.example/{n}", priority=n % 3) for n in range(6)])
    assert [url[-1] for url in work_off(frontier)] == ["2", "5", "1", "4", "0", "3"]


def test_only_the_requested_kinds_are_leased(make: Make) -> None:
    frontier = make()
    frontier.put([page(), image()])
    assert urls(lease(frontier, "image")) == ["http://a.example/1.jpg"]


def test_never_more_requests_are_leased_than_asked_for(make: Make) -> None:
    frontier = make()
    frontier.put(images(30) + images(30, "b.example"))
    assert len(urls(lease(frontier, limit=7))) == 7


def test_a_leased_request_is_not_leased_again(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    assert urls(lease(frontier)) and not urls(lease(frontier, worker="w2"))


def test_completing_moves_the_counts(make: Make) -> None:
    frontier = make()
    frontier.put(images(2))
    grant = lease(frontier, limit=1)
    assert (frontier.stats().waiting, frontier.stats().leased) == (1, 1)
    assert states(frontier.complete("w1", done(grant), turn_ids(grant))) == ("accepted",)
    stats = frontier.stats()
    assert (stats.waiting, stats.leased, stats.success, stats.bytes) == (1, 0, 1, 10)


def test_the_first_verdict_wins(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    good = done(grant)
    bad = [Outcome(status="done", token=good[0].token, reason="http-404")]
    assert states(frontier.complete("w1", good + bad, ())) == ("accepted", "duplicate")
    assert states(frontier.complete("w1", bad, ())) == ("duplicate",)
    assert [record.status for _, record in frontier.records(0, 10)] == ["success"]


@pytest.mark.parametrize("token", ["", "1", "1.x.y", "9.9.9", "1.é.ü", "²..", "-1.a.b"])
def test_a_forged_token_is_stale(make: Make, token: str) -> None:
    frontier = make()
    frontier.put([image()])
    lease(frontier)
    assert states(frontier.complete("w1", [Outcome(status="done", token=token, reason="dns")], ())) == ("stale",)
    assert frontier.stats().leased == 1


def test_a_worker_can_not_complete_the_lease_of_another(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    assert states(frontier.complete("w2", done(grant), turn_ids(grant))) == ("stale",)


def test_the_same_bytes_are_success_once_and_duplicate_afterwards(make: Make) -> None:
    frontier = make()
    frontier.put(images(3))
    for _ in range(3):
        grant = lease(frontier, limit=1)
        [leased] = grant.turns[0].leases
        outcome = Outcome(status="done", token=leased.token, record=saved(leased.request, "ab" * 32))
        frontier.complete("w1", [outcome], turn_ids(grant))
    records = [record for _, record in frontier.records(0, 10)]
    assert [record.status for record in records] == ["success", "duplicate", "duplicate"]
    assert {record.path for record in records} == {records[0].path}
    assert (frontier.stats().success, frontier.stats().duplicate) == (1, 2)


def test_discovered_requests_are_stored_with_their_page(make: Make) -> None:
    frontier = make()
    frontier.put([page()])
    grant = lease(frontier, "page")
    [outcome] = done(grant, discovered=(image(alt="a cat"), page("http://a.example/2", depth=1)))
    frontier.complete("w1", [outcome], turn_ids(grant))
    stats = frontier.stats()
    assert (stats.discovered, stats.pages_waiting, stats.pages_done, stats.seeds) == (1, 1, 1, 1)
    [found] = lease(frontier, "image").turns[0].leases
    assert found.request.alt == "a cat"


def test_a_failure_is_a_record_with_its_reason(make: Make) -> None:
    frontier = make()
    frontier.put([image(referrer="http://a.example/")])
    grant = lease(frontier)
    frontier.complete("w1", [Outcome(status="done", token=tokens(grant)[0], reason="http-404")], turn_ids(grant))
    [(_, record)] = frontier.records(0, 10)
    assert (record.status, record.reason, record.page_url) == ("failed", "http-404", "http://a.example/")
    assert frontier.stats().reasons == {"http-404": 1}


def test_a_success_without_a_file_is_an_internal_failure(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    frontier.complete("w1", [Outcome(status="done", token=tokens(grant)[0])], turn_ids(grant))
    assert frontier.stats().reasons == {"internal": 1}


def test_an_expired_lease_comes_back_and_is_charged(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    lease(frontier, seconds=10)
    clock.go(11)
    [again] = lease(frontier, worker="w2").turns[0].leases
    assert again.deliveries == 2


def test_a_renewed_lease_does_not_expire(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier, seconds=10)
    for _ in range(3):
        clock.go(9)
        assert frontier.extend("w1", tokens(grant), 10).lost == ()
    assert not urls(lease(frontier, worker="w2"))


def test_extend_names_the_lost_leases(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier, seconds=10)
    clock.go(11)
    assert frontier.extend("w1", [*tokens(grant), "forged"], 10).lost == (*tokens(grant), "forged")


def test_a_late_success_counts(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    late = lease(frontier, seconds=10)
    clock.go(11)
    grant = lease(frontier, worker="w2")
    assert states(frontier.complete("w1", done(late), turn_ids(late))) == ("accepted",)
    assert states(frontier.complete("w2", done(grant), turn_ids(grant))) == ("duplicate",)
    assert frontier.stats().success == 1 and lease(frontier).state == "drained"


def test_kills_alone_do_not_end_a_request(make: Make) -> None:
    """Kill a worker that holds several turns again and again, before it has settled any of them."""
    frontier = make()
    wanted = [image(f"http://{host}.example/1.jpg") for host in "abc"]
    frontier.put(wanted)
    for life in range(1, 51):
        frontier.hello("w1", PROTOCOL, WorkerInfo(life=f"{life}", wall=float(life)))
        grant = lease(frontier)
        assert sorted(urls(grant)) == [each.url for each in wanted]
        assert {each.deliveries for turn in grant.turns for each in turn.leases} == {life}
    frontier.complete("w1", done(grant), turn_ids(grant))
    assert (frontier.stats().success, frontier.stats().reasons) == (3, {})
    assert {record.attempts for _, record in frontier.records(0, 10)} == {1}


@pytest.mark.parametrize("status", ["released", "retry"])
def test_a_lost_request_is_a_suspect_until_it_has_a_verdict(
    make: Make, clock: FakeClock, status: OutcomeStatus
) -> None:
    """Check outcomes that are no verdict: they don't show the effect of the bytes on a decoder."""
    frontier = make()
    frontier.put([image()])
    frontier.hello("w1", PROTOCOL, WorkerInfo(life="1", wall=1.0))
    lease(frontier)
    frontier.hello("w1", PROTOCOL, WorkerInfo(life="2", wall=2.0))
    grant = lease(frontier)
    frontier.complete("w1", [Outcome(status=status, token=tokens(grant)[0], reason="read")], turn_ids(grant))
    clock.go(3600)
    [turn] = lease(frontier).turns
    assert [held.deliveries for held in turn.leases] == [2]


def test_a_list_that_advances_is_no_suspect_any_longer(make: Make) -> None:
    """Each chunk of it is a success, so kills between the chunks do not add up."""
    frontier = make(POISON_SOON)
    request = Request(url="file:///list.txt", kind="list")
    frontier.put([request])
    for life in range(1, 2 * POISON_SOON.max_losses):
        frontier.hello("w1", PROTOCOL, WorkerInfo(life=f"{life}", wall=float(life)))
        grant = lease(frontier)
        assert [held.deliveries for turn in grant.turns for held in turn.leases] == [min(life, 2)]
        successor = structs.replace(request, offset=10 * life)
        outcome = Outcome(status="moved", token=tokens(grant)[0], successor=successor)
        assert states(frontier.complete("w1", [outcome], turn_ids(grant))) == ("accepted",)
        assert urls(lease(frontier)) == [request.url]


def test_a_request_that_no_worker_survives_ends_as_poison(make: Make, clock: FakeClock) -> None:
    frontier = make(POISON_SOON)
    frontier.put([image()])
    for _ in range(3):
        assert urls(lease(frontier, seconds=10))
        clock.go(11)
    assert lease(frontier).state == "drained"
    assert frontier.stats().reasons == {"poison": 1}


def test_requests_that_were_lost_together_come_back_one_by_one(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1))
    frontier.put(images(3))
    assert len(urls(lease(frontier, seconds=10))) == 3
    clock.go(11)
    assert [work_off(frontier) for _ in range(3)] == [[f"http://a.example/{n}.jpg"] for n in range(3)]


def test_hello_frees_the_leases_of_an_earlier_life(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    lease(frontier)
    frontier.hello("w1", PROTOCOL)
    assert urls(lease(frontier, worker="w2"))


@pytest.mark.parametrize(("set_back", "is_freed"), [(3_600.0, True), (1.0, False)])
def test_a_new_life_with_a_clock_set_back_frees_the_leases_of_the_last_one(
    make: Make, clock: FakeClock, set_back: float, is_freed: bool
) -> None:
    """Check also the delayed hello of an earlier life, which frees nothing."""
    frontier = make()
    frontier.put([image()])
    frontier.hello("w1", PROTOCOL, WorkerInfo(life="a", wall=clock.now + 10_000.0))
    assert urls(lease(frontier))
    frontier.hello("w1", PROTOCOL, WorkerInfo(life="b", wall=clock.now + 10_000.0 - set_back))
    assert bool(urls(lease(frontier, worker="w2"))) == is_freed


TWICE = (
    "two running downloaders have the name w1, because their directories have the same store.json:"
    " stop one of them and delete its store.json"
)


def life(number: int, **fields: Any) -> WorkerInfo:
    return WorkerInfo(life=str(number), wall=1e9 + number, **fields)


@pytest.mark.parametrize("status", ["done", "released"])
def test_a_renewal_overtaken_by_a_completion_raises_no_alarm(
    make: Make, caplog: pytest.LogCaptureFixture, status: OutcomeStatus
) -> None:
    """Allow for a worker that renews leases in one thread while another thread settles them."""
    frontier = make()
    frontier.put([image()])
    frontier.hello("w1", PROTOCOL, life(1))
    grant = lease(frontier)
    frontier.complete("w1", [Outcome(status=status, token=token) for token in tokens(grant)], turn_ids(grant))
    assert frontier.extend("w1", tokens(grant), 60.0).lost == tuple(tokens(grant))
    again = lease(frontier)
    assert len(urls(again)) == (status == "released")
    assert frontier.extend("w1", [*tokens(grant), *tokens(again), "forged"], 60.0).lost == (*tokens(grant), "forged")
    assert TWICE not in caplog.messages


def test_a_renewal_by_an_earlier_life_raises_an_alarm(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    frontier = make()
    frontier.put([image()])
    frontier.hello("w1", PROTOCOL, life(1))
    held = tokens(lease(frontier))
    frontier.hello("w1", PROTOCOL, life(2))
    frontier.hello("w1", PROTOCOL, life(2, stays=True))
    own = tokens(lease(frontier))
    assert frontier.extend("w1", [*own, "forged"], 60.0).lost == ("forged",)
    assert TWICE not in caplog.messages
    assert frontier.extend("w1", held, 60.0).lost == tuple(held)
    assert caplog.messages.count(TWICE) == 1


def test_released_requests_come_back_first_and_uncharged(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1))
    frontier.put(images(3))
    grant = lease(frontier, limit=1)
    frontier.complete("w1", [Outcome(status="released", token=tokens(grant)[0])], turn_ids(grant))
    [again] = lease(frontier, limit=1).turns[0].leases
    assert (again.request.url, again.deliveries) == ("http://a.example/0.jpg", 1)


def test_a_retry_waits_and_ends_after_five_attempts(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    for attempt in range(5):
        grant = lease(frontier)
        assert urls(grant), attempt
        frontier.complete("w1", [Outcome(status="retry", token=tokens(grant)[0], reason="connect")], turn_ids(grant))
        assert not urls(lease(frontier))
        clock.go(20)
    [(_, record)] = frontier.records(0, 10)
    assert (record.reason, record.attempts) == ("connect", 5)


def test_a_timeout_is_retried_only_once(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put([image()])
    for _ in range(2):
        grant = lease(frontier)
        frontier.complete("w1", [Outcome(status="retry", token=tokens(grant)[0], reason="timeout")], turn_ids(grant))
        clock.go(20)
    assert frontier.stats().reasons == {"timeout": 1}


def test_a_moved_request_continues_at_the_other_host(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    [leased] = grant.turns[0].leases
    successor = Request(url="http://evil.example/", kind="image", target="http://b.example/1.jpg", hops=1)
    frontier.complete("w1", [Outcome(status="moved", token=leased.token, successor=successor)], turn_ids(grant))
    grant = lease(frontier)
    [leased] = grant.turns[0].leases
    assert grant.turns[0].host == "b.example"
    assert (leased.request.url, leased.request.location) == ("http://a.example/1.jpg", "http://b.example/1.jpg")


def test_rules_are_carried_along_during_the_fetch_of_a_second_file(make: Make) -> None:
    frontier = make(Policy(delay=0.0))
    frontier.put(images(1))
    lease(frontier, "image")  # makes the rules wanted
    grant = lease(frontier, "robots")
    [leased] = grant.turns[0].leases
    rules = RobotsRules(text="User-agent: *\nDisallow: /x\n")
    elsewhere = structs.replace(leased.request, target="http://b.example/.well-known/tdmrep.json", rules=rules)
    frontier.complete("w1", [Outcome(status="moved", token=leased.token, successor=elsewhere)], turn_ids(grant))
    [leased] = lease(frontier, "robots").turns[0].leases
    assert (leased.request.rules, leased.request.location) == (rules, elsewhere.target)


def test_a_list_continues_at_its_offset_and_keeps_the_crawl_open(make: Make) -> None:
    frontier = make()
    frontier.put([Request(url="file:///list.txt", kind="list", entries="image")])
    grant = lease(frontier, "list")
    [leased] = grant.turns[0].leases
    further = Request(url="file:///list.txt", kind="list", offset=100)
    outcome = Outcome(status="moved", token=leased.token, successor=further, discovered=tuple(images(2)), rejected=3)
    frontier.complete("w1", [outcome], turn_ids(grant))
    assert len(work_off(frontier, "image")) + len(work_off(frontier, "image")) == 2
    assert lease(frontier, "image").state == "wait"
    [leased] = lease(frontier, "list").turns[0].leases
    assert (leased.request.offset, leased.request.entries, frontier.stats().bad_lines) == (100, "image", 3)


def test_records_are_paged_in_order(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1))
    frontier.put(images(5))
    work_off(frontier)
    first = frontier.records(0, 2)
    rest = frontier.records(first[-1][0], 10)
    assert [record.url[-5] for _, record in first + rest] == list("01234")
    assert [number for number, _ in first + rest] == [1, 2, 3, 4, 5]


def test_the_counts_of_image_states_add_up(make: Make, clock: FakeClock) -> None:
    frontier = make()
    frontier.put(images(9))
    grant = lease(frontier, limit=2)
    frontier.complete("w1", done(grant)[:1], ())
    stats = frontier.stats()
    assert stats.waiting + stats.leased + stats.success + stats.duplicate + stats.failed == stats.discovered == 9


def test_several_released_requests_keep_their_order(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1))
    frontier.put(images(5))
    grant = lease(frontier, limit=3)
    frontier.complete("w1", [Outcome(status="released", token=token) for token in tokens(grant)], turn_ids(grant))
    assert work_off(frontier) == [f"http://a.example/{n}.jpg" for n in range(5)]


def test_a_turn_may_be_ended_twice_but_only_by_its_worker(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1))
    frontier.put(images(3))
    grant = lease(frontier, limit=1)
    ended = list(turn_ids(grant))
    frontier.complete("w2", [], ended)
    assert not urls(lease(frontier, limit=1))
    frontier.complete("w1", done(grant), ended * 2)
    frontier.complete("w1", [], ended)
    assert len(lease(frontier).turns) == 1


def test_ending_a_turn_again_frees_no_slot(make: Make) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=2))
    frontier.put(images(9))
    first, _ = lease(frontier, limit=1), lease(frontier, limit=1)
    for _ in range(3):
        frontier.complete("w1", [], turn_ids(first))
    assert len(lease(frontier).turns) == 1


def test_found_requests_must_be_pages_or_images_with_valid_urls(make: Make) -> None:
    frontier = make()
    frontier.put([page()])
    grant = lease(frontier)
    finds = (
        *(Request(url=url, kind="image") for url in ("x", "file:///etc/passwd", "http://", "http://a:x/", "data:,")),
        Request(url="file:///etc/passwd", kind="list", entries="image"),
        Request(url="http://b.example/robots.txt", kind="robots"),
        image(target="nowhere"),
        image("http://b.example/good.png"),
    )
    assert states(frontier.complete("w1", done(grant, discovered=finds), turn_ids(grant))) == ("accepted",)
    assert work_off(frontier) == ["http://b.example/good.png"]
    assert (frontier.stats().discovered, lease(frontier).state) == (1, "drained")


def test_reasons_are_a_closed_set(make: Make) -> None:
    frontier = make()
    frontier.put(images(2))
    reasons = iter(["http-404", "success"])
    while (grant := lease(frontier, limit=1)).turns:
        outcome = Outcome(status="done", token=tokens(grant)[0], reason=next(reasons))
        frontier.complete("w1", [outcome], turn_ids(grant))
    assert frontier.stats().reasons == {"http-404": 1, "internal": 1}


@pytest.mark.parametrize(("target", "reason"), [("nowhere", "bad-url"), ("http://b.example/", "redirect-limit")])
def test_redirects_are_limited_even_if_a_worker_claims_none(make: Make, target: str, reason: str) -> None:
    frontier = make()
    frontier.put([image()])
    while (grant := lease(frontier)).turns:
        successor = Request(url="http://a.example/1.jpg", kind="image", target=target, hops=0)
        frontier.complete("w1", [Outcome(status="moved", token=tokens(grant)[0], successor=successor)], turn_ids(grant))
    assert frontier.stats().reasons == {reason: 1}


def test_bad_lines_of_several_lists_add_up(make: Make) -> None:
    frontier = make()
    frontier.put([Request(url=f"file:///{n}.txt", kind="list") for n in range(2)])
    grant = lease(frontier)
    frontier.complete("w1", done(grant, rejected=3), turn_ids(grant))
    assert (len(urls(grant)), frontier.stats().bad_lines) == (2, 6)


def test_spared_bytes_add_up_for_any_claims_of_workers(make: Make) -> None:
    frontier = make()
    frontier.put(images(3))
    grant = lease(frontier)
    spared = (5, 2**20, 2**53)
    for token, number, total in zip(tokens(grant), spared, (5, 2**20 + 5, 2**53), strict=False):
        frontier.complete("w1", [Outcome(status="done", token=token, reason="filtered", spared=number)], ())
        assert frontier.stats().spared == total


def test_a_verdict_of_the_frontier_itself_is_no_attempt(make: Make, clock: FakeClock) -> None:
    frontier = make(POISON_SOON)
    frontier.put([image()])
    for _ in range(3):
        lease(frontier, seconds=1)
        clock.go(2)
    lease(frontier)
    [(_, record)] = frontier.records(0, 10)
    assert (record.reason, record.attempts, record.worker) == ("poison", 0, "")


def test_a_worker_that_lost_its_turn_frees_nothing_and_renews_nothing(make: Make, clock: FakeClock) -> None:
    frontier = make(Policy(robots=False, delay=0.0, per_host=1))
    frontier.put([image()])
    late = lease(frontier, seconds=10)
    clock.go(11)
    assert urls(lease(frontier, worker="w2"))
    released = [Outcome(status="released", token=tokens(late)[0])]
    assert states(frontier.complete("w1", released + retry(late), turn_ids(late))) == ("stale", "stale")
    assert frontier.extend("w1", tokens(late), 100).lost == tuple(tokens(late))
    assert lease(frontier, worker="w3").state == "wait"


def test_the_stats_show_which_workers_know_of_the_end(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    lease(frontier, worker="w2")
    frontier.complete("w1", done(grant), turn_ids(grant))
    assert [(w.name, w.settled, w.is_told) for w in frontier.stats().workers] == [("w1", 1, False), ("w2", 0, False)]
    lease(frontier)
    assert [w.is_told for w in frontier.stats().workers] == [True, False]


def test_waiting_workers_wake_up_when_work_arrives(make: Make) -> None:
    frontier = make()
    frontier.put([page()])
    held = lease(frontier)
    asked = threading.Barrier(3)

    def ask(worker: str) -> list[str]:
        asked.wait(5)
        grant = lease(frontier, worker=worker, limit=1, wait=10)
        return urls(grant)

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, worker) for worker in ("w2", "w3")]
        asked.wait(5)
        frontier.complete("w1", done(held, discovered=tuple(images(2))), turn_ids(held))
        found = {url for answer in answers for url in answer.result(timeout=5)}
    assert found == {"http://a.example/0.jpg", "http://a.example/1.jpg"}


def test_a_waiting_worker_is_woken_by_the_end(make: Make) -> None:
    frontier = make()
    frontier.put([image()])
    held = lease(frontier)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lease, frontier, worker="w2", wait=10)
        frontier.complete("w1", done(held), turn_ids(held))
        assert answer.result(timeout=5).state == "drained"


@pytest.mark.parametrize(
    ("reason", "kept"), [("http-999", "http-999"), ("http-99", "internal"), ("free-text", "internal")]
)
def test_reasons_outside_the_closed_set_are_replaced(make: Make, reason: str, kept: str) -> None:
    frontier = make()
    frontier.put([image()])
    grant = lease(frontier)
    frontier.complete("w1", [Outcome(status="done", token=tokens(grant)[0], reason=reason)], turn_ids(grant))
    assert frontier.stats().reasons == {kept: 1}


def test_lost_requests_come_after_untried_ones(make: Make, clock: FakeClock) -> None:
    """Prevent a picture that crashes its workers, or seems to, from killing one after the other."""
    frontier = make()
    frontier.put(images(3))
    lost = urls(lease(frontier, worker="w1", limit=1, seconds=10))
    clock.go(11)
    found = []
    while grant := lease(frontier, worker="w2", limit=1):
        if not grant.turns:
            break
        found += urls(grant)
        frontier.complete("w2", done(grant), turn_ids(grant))
    assert found[-1:] == lost and len(found) == 3
