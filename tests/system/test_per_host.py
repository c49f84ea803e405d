"""Parallel visits of one host, and the pauses that its robots.txt asks for, read from its log."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Start, ended_well, fleet_for, kill_for_a_while
from tests.support.pictures import Answer, PictureHost, gaps, most_at_once
from tests.support.processes import commands

pytestmark = pytest.mark.fire


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "crawler.toml").write_text("[queue]\nlease = 2\n")
    with commands(tmp_path) as starter:
        yield starter


def test_a_host_without_a_gap_sees_at_most_the_allowed_number_of_turns(start: Start, tmp_path: Path) -> None:
    number = 160
    with PictureHost(delay=0.1) as host:
        fleet = fleet_for(start, host, number, tmp_path, "--per-host", 3, machines=4, threads=4)
        kill_for_a_while(fleet, host, number, kills=6)
        assert ended_well(fleet, number), fleet.said
        visits = host.visits
    assert most_at_once(visits) == 3


def test_a_crawl_delay_is_kept_by_all_workers(start: Start, tmp_path: Path) -> None:
    number, delay, jitter = 24, 0.5, 0.04

    def answer(path: str) -> Answer | None:
        return Answer(200, {}, b"User-agent: *\nCrawl-delay: %g\n" % delay) if path == "/robots.txt" else None

    with PictureHost(answer=answer) as host:
        fleet = fleet_for(start, host, number, tmp_path, machines=3, threads=2)
        kill_for_a_while(fleet, host, number, kills=3)
        assert ended_well(fleet, number), fleet.said
        visits = host.visits
    sys.stdout.write(
        f"{len(visits)} requests, closest {[round(seconds, 3) for seconds in sorted(gaps(visits))[:4]]} s\n"
    )
    assert most_at_once(visits) == 1
    assert min(gaps(visits)) >= delay - jitter
