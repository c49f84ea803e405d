"""Sitemaps named by robots.txt: they are read on sites where a seed page was found, and nowhere else."""

import msgspec
import pytest

from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.harvest.discovery import SITEMAP
from crawler.model import Outcome, Request, RobotsRules
from tests.frontier.fakes import FakeClock, Open, learn, lease, turn_ids

SITE = "http://a.example"
NAMED = (f"{SITE}/sitemap.xml", "http://b.example/other.xml", "no url", f"{SITE}/second.xml.gz")


def found(request: Request, policy: Policy, sitemaps: tuple[str, ...] = NAMED) -> list[Request]:
    """Return the sitemaps that wait after the robots.txt of the host has named them and the request is done."""
    frontier = SqliteFrontier(None, policy)
    frontier.put([request])
    learn(frontier, RobotsRules(sitemaps=sitemaps))
    assert waiting(frontier) == []
    settle(frontier)
    found = waiting(frontier)
    frontier.close()
    return found


def settle(frontier: SqliteFrontier, **reasons: str) -> None:
    """Settle every waiting page, well or with the reason in its name."""
    grant = lease(frontier, "page", "image")
    outcomes = [
        Outcome(status="done", token=each.token, reason=reasons.get(each.request.url.rpartition("/")[2], ""))
        for turn in grant.turns
        for each in turn.leases
    ]
    frontier.complete("w1", outcomes, turn_ids(grant))


def waiting(frontier: SqliteFrontier) -> list[Request]:
    found: list[Request] = []
    while grant := lease(frontier, "part").turns:
        found += [each.request for turn in grant for each in turn.leases]
    return [each for each in found if each.source == SITEMAP]


OPEN = Policy(delay=0.0, per_host=4, sitemaps=True)
SEED = Request(url=f"{SITE}/start", seed=f"{SITE}/start", source="seed")


def test_sitemaps_of_a_seed_s_site_become_parts_of_it() -> None:
    first, second = found(SEED, OPEN)
    assert (first.url, second.url) == (NAMED[0], NAMED[3])
    assert (first.seed, first.depth, first.nesting, first.referrer) == (SEED.seed, 0, 1, f"{SITE}/robots.txt")
    assert not first.is_seed


@pytest.mark.parametrize(
    ("request_", "policy"),
    [
        (SEED, Policy(delay=0.0, per_host=4)),
        (Request(url=f"{SITE}/x.jpg", kind="image", source="list"), OPEN),
        (Request(url=f"{SITE}/deep", depth=2, seed="http://b.example/", source="a"), OPEN),
    ],
    ids=["not wanted", "only pictures", "no seed here"],
)
def test_sitemaps_of_other_sites_are_ignored(request_: Request, policy: Policy) -> None:
    assert found(request_, policy) == []


def test_at_most_a_hundred_sitemaps_are_read() -> None:
    many = tuple(f"{SITE}/{n}.xml" for n in range(300))
    assert len(found(SEED, Policy(delay=0.0, per_host=200, sitemaps=True), many)) == 100


def seeds(*names: str) -> list[Request]:
    return [Request(url=f"{SITE}/{name}", seed=f"{SITE}/{name}", source="seed") for name in names]


@pytest.mark.parametrize("reason", ["http-404", "robots", "dns", "unsupported-format"])
def test_the_sitemaps_of_a_site_whose_seeds_all_failed_are_not_read(reason: str) -> None:
    frontier = SqliteFrontier(None, OPEN)
    frontier.put(seeds("a", "b"))
    learn(frontier, RobotsRules(sitemaps=NAMED))
    settle(frontier, a=reason, b=reason)
    assert waiting(frontier) == []
    assert lease(frontier).state == "drained"


@pytest.mark.parametrize("reason", ["", "opted-out"])
def test_one_seed_page_that_exists_is_enough(reason: str) -> None:
    frontier = SqliteFrontier(None, OPEN)
    frontier.put(seeds("a", "b"))
    learn(frontier, RobotsRules(sitemaps=NAMED))
    settle(frontier, a="http-404", b=reason)
    assert [(each.url, each.seed) for each in waiting(frontier)] == [(NAMED[0], f"{SITE}/b"), (NAMED[3], f"{SITE}/b")]


def test_a_redirected_seed_adds_the_sitemaps_of_both_sites() -> None:
    frontier = SqliteFrontier(None, OPEN)
    frontier.put(seeds("a"))
    learn(frontier, RobotsRules(sitemaps=(f"{SITE}/old.xml",)))
    (turn,) = lease(frontier, "page").turns
    moved = msgspec.structs.replace(turn.leases[0].request, target="https://www.a.example/a", hops=1)
    frontier.complete("w1", [Outcome(status="moved", token=turn.leases[0].token, successor=moved)], [turn.id])
    learn(frontier, RobotsRules(sitemaps=("https://www.a.example/new.xml",)))
    settle(frontier)
    assert {each.url for each in waiting(frontier)} == {f"{SITE}/old.xml", "https://www.a.example/new.xml"}


def test_a_refreshed_robots_txt_adds_new_sitemaps_and_a_restart_forgets_none(open_file: Open, clock: FakeClock) -> None:
    frontier = open_file(OPEN)
    frontier.put(seeds("a"))
    learn(frontier, RobotsRules(sitemaps=NAMED[:1], lifetime=3_600.0))
    frontier.close()
    frontier = open_file(OPEN)
    settle(frontier)
    assert [each.url for each in waiting(frontier)] == [NAMED[0]]
    clock.go(7_200.0)
    frontier.put([Request(url=f"{SITE}/later", depth=1, seed=f"{SITE}/a", source="a")])
    learn(frontier, RobotsRules(sitemaps=NAMED))
    assert NAMED[3] in [each.url for each in waiting(frontier)]
