"""Orders to a running crawl, given by commands, taken by a real master."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.control import Order, give, take
from crawler.errors import CrawlerError
from tests.processes import commands, manifest_of, stats_of, wait_until
from tests.test_fleet import Start, slow_site


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


def test_an_order_is_taken_once(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text('{"what":"stop","worker":"box-2/ab-0"}')
    assert (take(tmp_path), take(tmp_path)) == (Order(what="stop", worker="box-2/ab-0"), None)


@pytest.mark.parametrize("text", ["", "x", '"shutdown"', '"' + "a" * 1000 + '"'])
def test_rubbish_is_no_order(tmp_path: Path, text: str) -> None:
    (tmp_path / "order.json").write_text(text)
    assert take(tmp_path) is None
    assert not (tmp_path / "order.json").exists()


def test_an_order_that_nobody_takes_is_taken_back(tmp_path: Path) -> None:
    with pytest.raises(CrawlerError, match="did not take"):
        give(tmp_path, Order(what="stop"), patience=0.1)
    assert list(tmp_path.iterdir()) == []


def test_pause_resume_and_stop(start: Start, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with slow_site(tmp_path, 400) as server:
        crawl = start("run", "run", server.url, "-o", job, "-w", 1, "-t", 2)
        wait_until(lambda: stats_of(job).success > 3, "some pictures")
        assert start("pause", "pause", job).ends() == 0
        wait_until(lambda: stats_of(job).is_paused and not stats_of(job).leased, "nothing in work")
        asked = len(server.requests)
        status = start("status", "status", job)
        assert status.ends() == 0 and "paused" in status.results[0]
        assert start("resume", "resume", job).ends() == 0
        wait_until(lambda: len(server.requests) > asked, "work goes on")
        assert start("stop", "stop", job).ends() == 0
        assert crawl.ends() == 130
    assert "Paused." in crawl.said and "Going on." in crawl.said and "Told to stop." in crawl.said
    assert 3 < len(manifest_of(job)) < 400
    late = start("late", "stop", job)
    assert late.ends() == 2 and "no crawl is running" in late.said
