"""Whole crawls of the bundled web with every engine, and the contents of their directory."""

import stat
import sys
from pathlib import Path

import pytest

import crawler
from crawler.app.config import CrawlConfig
from crawler.app.crawl import Crawl
from crawler.app.seeds import CrawlInput
from crawler.app.status import look_at
from crawler.app.summary import Summary
from crawler.cli.summary_text import complaint
from crawler.demo.check import compare, load_truth
from crawler.demo.server import DemoServer
from crawler.errors import ConfigError, DiskError
from crawler.stats import FrontierStats
from crawler.store.crawl_directory import CrawlDirectory
from tests.support.processes import manifest_of, many_pictures

#: If two fetches of the same picture are parallel, either may be the first copy.
ENGINES = {"threads": 0, "one process": 1, "two processes": 2}


@pytest.mark.parametrize(
    "workers",
    [
        pytest.param(workers, marks=pytest.mark.fire if workers == 1 else (), id=name)
        for name, workers in ENGINES.items()
    ],
)
def test_every_engine_gives_the_true_result(workers: int, tmp_path: Path) -> None:
    with DemoServer() as server:
        summary = crawler.run(server.url, output=tmp_path / "out", workers=workers)
        assert compare(load_truth(server), manifest_of(tmp_path / "out")) == []
        assert server.counts().keys() == {server.a.removeprefix("http://"), server.b.removeprefix("http://")}
    assert summary.exit_code == 0
    assert sum(1 for path in (tmp_path / "out" / "images").rglob("*") if path.is_file()) == summary.stats.success


def test_a_finished_crawl_requests_nothing_again(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        first = crawler.run([server.url], output=tmp_path / "out")
        asked = len(server.requests)
        again = crawler.run([server.url], output=tmp_path / "out")
        assert len(server.requests) == asked
    assert (first.exit_code, again.exit_code, again.stats.success) == (0, 0, 3)
    assert len(manifest_of(tmp_path / "out")) == 3


def test_a_second_seed_continues_in_the_same_directory(tmp_path: Path) -> None:
    site = many_pictures(tmp_path, 3)
    (site / "a" / "more.html").write_text('<img src="0000.png"><img src="new.png">')
    (site / "a" / "new.png").write_bytes((site / "a" / "0001.png").read_bytes())
    with DemoServer(site) as server:
        crawler.run(server.url, output=tmp_path / "out")
        summary = crawler.run(f"{server.url}more.html", output=tmp_path / "out")
    assert (summary.stats.success, summary.stats.duplicate, summary.stats.seeds) == (3, 1, 2)


def test_the_image_budget_is_exact(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 30)) as server:
        summary = crawler.run(server.url, output=tmp_path / "out", max_images=7)
    assert (summary.stats.success, summary.stats.waiting) == (7, 23)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_only_the_owner_can_read_the_join_file(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        crawler.run(server.url, output=tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out" / "join").stat().st_mode) == 0o600


def test_key_and_port_survive_a_restart(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        crawler.run(server.url, output=tmp_path / "out")
        before = (tmp_path / "out" / "join").read_bytes()
        crawler.run(server.url, output=tmp_path / "out")
    assert (tmp_path / "out" / "join").read_bytes() == before


def test_a_second_master_in_a_directory_is_refused(tmp_path: Path) -> None:
    release = CrawlDirectory(tmp_path).own()
    with pytest.raises(DiskError, match="another crawl is running"):
        CrawlDirectory(tmp_path).own()
    release()
    CrawlDirectory(tmp_path).own()()


def test_a_crawl_without_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to do"):
        Crawl(tmp_path / "out", CrawlConfig()).run(CrawlInput())


def test_the_status_of_a_stopped_crawl_is_available(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 2)) as server:
        summary = crawler.run(server.url, output=tmp_path / "out")
    stats, is_running = look_at(tmp_path / "out")
    assert not is_running
    assert (
        (stats.success, stats.pages_done, stats.state)
        == (2, 1, "drained")
        == (
            summary.stats.success,
            summary.stats.pages_done,
            summary.stats.state,
        )
    )


def summary(**counts: object) -> Summary:
    return Summary(stats=FrontierStats(**counts), output=Path("out"), elapsed=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (summary(seeds=1, success=1), 0),
        (summary(seeds=1, duplicate=1), 0),
        (summary(seeds=1), 8),
        (summary(seeds=2, seeds_failed=1, success=1, page_reasons={"http-404": 1}), 8),
        (summary(seeds=1, seeds_failed=1, page_reasons={"dns": 1}), 4),
        (summary(seeds=2, seeds_failed=2, page_reasons={"dns": 1, "http-404": 1}), 8),
        (summary(success=1), 0),
        (summary(), 8),
    ],
)
def test_each_result_has_its_exit_code(ended: Summary, code: int) -> None:
    assert ended.exit_code == code
    assert bool(complaint(ended)) == (code != 0)


def test_an_interrupt_during_the_start_of_a_crawl_counts(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        crawl = Crawl(tmp_path / "out", CrawlConfig())
        crawl.interrupt()
        ended = crawl.run(CrawlInput(seeds=(server.url,)))
        assert (ended.exit_code, server.requests) == (130, [])
        assert crawler.run(server.url, output=tmp_path / "out").stats.success == 3
