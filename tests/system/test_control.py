"""Commands for a running crawl, sent by command lines and received by a real master."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.app.orders import MasterOrder, give_order, take_order
from crawler.errors import CrawlerError
from tests.support.processes import commands, manifest_of, stats_of, wait_until
from tests.system.test_fleet import Start, slow_site


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


def test_an_order_is_received_once(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text('{"what":"stop","worker":"machine-2/ab-0"}')
    assert (take_order(tmp_path), take_order(tmp_path)) == (MasterOrder(what="stop", worker="machine-2/ab-0"), None)


@pytest.mark.parametrize("text", ["", "x", '"shutdown"', '"' + "a" * 1000 + '"'])
def test_an_invalid_order_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "order.json").write_text(text)
    assert take_order(tmp_path) is None
    assert not (tmp_path / "order.json").exists()


def test_an_order_that_is_not_received_is_withdrawn(tmp_path: Path) -> None:
    with pytest.raises(CrawlerError, match="did not respond"):
        give_order(tmp_path, MasterOrder(what="stop"), patience=0.1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fire
def test_pause_resume_and_stop_work(start: Start, tmp_path: Path) -> None:
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
        wait_until(lambda: len(server.requests) > asked, "more work")
        assert start("stop", "stop", job).ends() == 0
        assert crawl.ends() == 130
    assert "Paused." in crawl.said and "Resumed." in crawl.said and "Stop requested." in crawl.said
    assert 3 < len(manifest_of(job)) < 400
    late = start("late", "stop", job)
    assert late.ends() == 2 and "no crawl is running" in late.said
