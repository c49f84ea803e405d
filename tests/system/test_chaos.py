"""A crawl whose processes and networks fail again and again ends as if nothing had happened."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from crawler.demo.server import DemoServer
from tests.support.fire import KILLS, LEASE, THREADS, FaultInjector, Findings, check_results
from tests.support.fleet import Start
from tests.support.pictures import PictureHost
from tests.support.processes import commands, manifest_of, many_pictures, stats_of, wait_until

#: Names of the functions that could execute data from a network.
NO_PICKLE = """
import _pickle, pickle
def refuse(*args, **kwargs):
    raise SystemExit("something was unpickled")
class Refuse:
    __init__ = refuse
for module in (pickle, _pickle):
    module.load = module.loads = refuse
    module.Unpickler = Refuse
from crawler.cli.commands import main
main()
"""

SHORT = {"kill master": 13, "kill machine": 39, "pause": 4, "sleep": 1}
SHORT |= {"cut": 5, "cut after bytes": 6, "hold": 3, "hold for long": 1, "slow": 3, "half open": 3}
LONG = {"kill master": 160, "kill machine": 480, "pause": 60, "sleep": 30}
LONG |= {"cut": 80, "cut after bytes": 100, "hold": 50, "hold for long": 20, "slow": 40, "half open": 40}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "crawler.toml").write_text(f"[queue]\nlease = {LEASE}\n")
    with commands(tmp_path) as starter:
        yield starter


def crawl_under_fire(
    start: Start, folder: Path, number: int, faults: Mapping[str, int], *, seed: int, delay: float, patience: float
) -> Findings:
    """Run a whole crawl of this number of pictures with all these faults, and check the invariants."""
    began = time.monotonic()
    sys.stdout.write(f"seed {seed}, {number} pictures, {sum(faults.values())} faults: {dict(faults)}\n")
    with ExitStack() as stack:
        host = stack.enter_context(PictureHost(delay))
        injector = FaultInjector(start, host, number, folder, faults, seed)
        injector.start_all(stack)
        injector.inject_all(number)
        fleet, codes = injector.fleet, injector.fleet.ends(patience)
        seconds = time.monotonic() - began
        assert codes["master"] == 0, fleet.said
        assert set(codes.values()) <= {0, 4}  # 4: it was started again when the master had already ended
        found = check_results(host, number, fleet.job, list(fleet.stores.values()))
    kills = sum(faults[kind] for kind in KILLS)
    cut = sum(visit.status == 0 for visit in host.visits)
    sys.stdout.write(f"{found} in {seconds:.0f} s; {found.again / kills:.2f} fetched again for each kill, {cut} cut\n")
    assert injector.injected == faults
    assert injector.unexpected_exits == []  # no process ends by itself because of messages or silence
    assert found == Findings(number, lost=0, doubled=0, failed=0, corrupt=0, again=found.again)
    stats = stats_of(fleet.job)
    assert (stats.discovered, stats.success, stats.waiting, stats.leased) == (number, number, 0, 0)
    lines = (fleet.job / "results.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) == number
    verify = start(
        "verify", "verify", fleet.job, *(flag for store in fleet.stores.values() for flag in ("--store", store))
    )
    assert verify.ends(patience) == 0 and f"{number} files intact, 0 missing, 0 damaged" in verify.said, verify.said
    return found


@pytest.mark.fire
@pytest.mark.timeout(900)
def test_a_crawl_under_faults_neither_loses_nor_duplicates_a_picture(start: Start, tmp_path: Path) -> None:
    found = crawl_under_fire(start, tmp_path, 800, SHORT, seed=1, delay=0.1, patience=300)
    assert found.again <= sum(SHORT.values()) * THREADS  # the requests that each fault may have interrupted


@pytest.mark.long
@pytest.mark.timeout(7_200)
def test_a_long_crawl_survives_a_thousand_faults(start: Start, tmp_path: Path) -> None:
    found = crawl_under_fire(start, tmp_path, 100_000, LONG, seed=2, delay=0.02, patience=600)
    assert found.again <= sum(LONG.values()) * THREADS


def test_a_whole_crawl_never_unpickles(start: Start, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with DemoServer(many_pictures(tmp_path, 5)) as server:
        master = start("master", "harvest", server.url, "-o", job, script=NO_PICKLE)
        wait_until(lambda: (job / "join").exists(), "a join file")
        machine = start("machine", "download", job / "join", "-o", tmp_path / "A", script=NO_PICKLE)
        assert (master.ends(), machine.ends()) == (0, 0), master.said + machine.said
    assert [row.status for row in manifest_of(job)] == ["success"] * 5
