"""Budgets per host: the limit, the requests that stay waiting, and that other hosts are not delayed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.model import Outcome
from tests.frontier.fakes import image, images, lease, page, retry, tokens, turn_ids, urls, work_off

Make = Callable[..., SqliteFrontier]


@pytest.fixture
def made() -> Iterator[Make]:
    with ExitStack() as stack:

        def make(path: Path | None = None, **fields: Any) -> SqliteFrontier:
            frontier = SqliteFrontier(path, Policy(robots=False, delay=0.0, per_host=4, **fields))
            stack.callback(frontier.close)
            return frontier

        yield make


def test_a_host_stays_within_its_budget_and_the_crawl_ends(made: Make) -> None:
    frontier = made(max_host_images=3)
    frontier.put([*images(10), *images(2, "b.example")])
    assert len(work_off(frontier)) == 5
    assert lease(frontier).state == "drained"
    stats = frontier.stats()
    assert (stats.success, stats.waiting, stats.failed) == (5, 7, 0)


def test_leased_requests_count_and_returned_ones_do_not(made: Make) -> None:
    frontier = made(max_host_images=3)
    frontier.put(images(10))
    grant = lease(frontier)
    assert len(tokens(grant)) == 3 and lease(frontier).state == "wait"
    frontier.complete("w1", [Outcome(status="released", token=token) for token in tokens(grant)], turn_ids(grant))
    again = lease(frontier)
    assert urls(again) == urls(grant)
    frontier.complete("w1", retry(again, retry_in=0.0), turn_ids(again))
    assert len(work_off(frontier)) == 3


def test_pages_and_images_have_separate_budgets(made: Make) -> None:
    frontier = made(max_host_pages=1)
    frontier.put([page("http://a.example/1"), page("http://a.example/2"), *images(4)])
    found = work_off(frontier) + work_off(frontier)
    assert len(found) == 5 and lease(frontier).state == "drained"
    assert frontier.stats().pages_waiting == 1


def test_a_budget_survives_a_restart_and_a_larger_one_continues_the_crawl(made: Make, tmp_path: Path) -> None:
    path = tmp_path / "frontier.sqlite"
    first = made(path, max_host_images=2)
    first.put([*images(5), image("http://b.example/1.jpg")])
    assert len(work_off(first)) == 3
    first.close()
    second = made(path, max_host_images=2)
    assert lease(second).state == "drained"
    second.close()
    assert len(work_off(made(path, max_host_images=4))) == 2
