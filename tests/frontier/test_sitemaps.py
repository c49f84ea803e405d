"""Sitemaps that robots.txt names: read where the site is walked, and nowhere else."""

import pytest

from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.harvest.finds import SITEMAP
from crawler.model import Request, RobotsRules
from tests.frontier.fakes import learn, lease

SITE = "http://a.example"
NAMED = (f"{SITE}/sitemap.xml", "http://b.example/other.xml", "no url", f"{SITE}/second.xml.gz")


def found(request: Request, policy: Policy, sitemaps: tuple[str, ...] = NAMED) -> list[Request]:
    """The sitemaps that wait once the robots.txt of the request's host has named them."""
    frontier = SqliteFrontier(None, policy)
    frontier.put([request])
    learn(frontier, RobotsRules(sitemaps=sitemaps))
    waiting: list[Request] = []
    while grant := lease(frontier, "page", "part").turns:
        waiting += [each.request for turn in grant for each in turn.leases]
    frontier.close()
    return [each for each in waiting if each.source == SITEMAP]


OPEN = Policy(delay=0.0, per_host=4, sitemaps=True)
SEED = Request(url=f"{SITE}/start", seed=f"{SITE}/start", source="seed")


def test_sitemaps_of_a_seed_s_site_are_parts_of_it() -> None:
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
def test_otherwise_they_are_left_alone(request_: Request, policy: Policy) -> None:
    assert found(request_, policy) == []


def test_no_more_than_a_hundred_are_taken() -> None:
    many = tuple(f"{SITE}/{n}.xml" for n in range(300))
    assert len(found(SEED, Policy(delay=0.0, per_host=200, sitemaps=True), many)) == 100
