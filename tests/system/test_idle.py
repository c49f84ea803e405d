"""Downloaders that are killed while they wait for work: requests leased at that time are not lost."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.app.orders import MasterOrder, give_order
from tests.support.fleet import Start
from tests.support.pictures import PictureHost
from tests.support.processes import commands, downloaders, manifest_of, stats_of, wait_until

pytestmark = pytest.mark.fire

LEASE = 4.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "crawler.toml").write_text(f"[queue]\nlease = {LEASE}\n")
    with commands(tmp_path) as starter:
        yield starter


def test_twenty_idle_downloaders_that_are_killed_lose_no_request(start: Start, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with PictureHost() as host:
        master = start("master", "harvest", "--images", host.list_of(20, tmp_path), "--allow-private", "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        give_order(job, MasterOrder(what="pause"))
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
        # Before the master has missed those that were waiting for a response.
        give_order(job, MasterOrder(what="resume"))
        machine = start("machine", "download", job / "join", "--allow-private", "-o", tmp_path / "machine")
        wait_until(lambda: stats_of(job).success == 20, "twenty of twenty")
        seconds = time.monotonic() - began
        assert (master.ends(), machine.ends()) == (0, 0), master.said
    assert [row.status for row in manifest_of(job)] == ["success"] * 20
    assert seconds <= 2 * LEASE
    sys.stdout.write(f"20 of 20 after {seconds:.1f} s, with leases of {LEASE:g} s\n")
