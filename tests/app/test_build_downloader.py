from pathlib import Path

import pytest

from crawler.app.build_downloader import build_downloader
from crawler.app.config import CrawlConfig
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from crawler.net.address_guard import Guard
from crawler.store.bucket import store_at
from crawler.store.result_store import ResultStore


@pytest.mark.parametrize(("most", "wanted"), [(500, 500), (10_000, 600)])
def test_a_loop_has_no_more_connections_than_the_system_watches(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, most: int, wanted: int
) -> None:
    pytest.importorskip("pycurl")
    monkeypatch.setattr("crawler.app.build_downloader.MOST_SOCKETS", most)
    config = CrawlConfig.load(("test", {"machine": {"connections": 600}}))
    results = ResultStore(store_at(tmp_path, "none"))
    frontier = SqliteFrontier(None, Policy())
    worker, close = build_downloader("w", frontier, config, results, Guard(), in_loop=True)
    try:
        assert worker.capacity == wanted
        assert ("500 connections" in caplog.text) == (wanted == 500)
    finally:
        close()
        frontier.close()
