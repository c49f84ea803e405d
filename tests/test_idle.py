"""Downloaders that die while they wait for work: what is handed out then is not lost with them."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.control import Order, give
from tests.fleet import Start
from tests.pictures import PictureHost
from tests.processes import commands, downloaders, manifest_of, stats_of, wait_until

pytestmark = pytest.mark.fire

LEASE = 4.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "crawler.toml").write_text(f"[queue]\nlease = {LEASE}\n")
    with commands(tmp_path) as starter:
        yield starter


def test_twenty_idle_downloaders_that_are_killed_swallow_nothing(start: Start, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with PictureHost() as host:
        master = start("master", "harvest", "--images", host.list_of(20, tmp_path), "--allow-private", "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        give(job, Order(what="pause"))
        idle = [
            start(f"idle{n}", "download", job / "join", "--allow-private", "-o", tmp_path / f"idle{n}", "-t", 1)
            for n in range(20)
        ]
        wait_until(lambda: len(downloaders(job)) == 20, "twenty idle downloaders")
        assert host.asked.total() == 0
        for command in idle:
            command.process.kill()
        for command in idle:
            command.ends()
        began = time.monotonic()
        give(job, Order(what="resume"))  # while the master has not yet missed those that were waiting for an answer
        box = start("box", "download", job / "join", "--allow-private", "-o", tmp_path / "box")
        wait_until(lambda: stats_of(job).success == 20, "twenty of twenty")
        seconds = time.monotonic() - began
        assert (master.ends(), box.ends()) == (0, 0), master.said
    assert [row.status for row in manifest_of(job)] == ["success"] * 20
    assert seconds <= 2 * LEASE
    sys.stdout.write(f"20 of 20 after {seconds:.1f} s, with leases of {LEASE:g} s\n")
