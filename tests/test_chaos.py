"""A crawl whose processes and networks fail again and again ends as if nothing had happened."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from crawler.demo import DemoServer
from tests.fire import KILLS, LEASE, THREADS, Findings, Fire, judge
from tests.fleet import Start
from tests.pictures import PictureHost
from tests.processes import commands, manifest_of, many_pictures, stats_of, wait_until

#: Whatever could run what came over a network.
NO_PICKLE = """
import _pickle, pickle
def refuse(*args, **kwargs):
    raise SystemExit("something was unpickled")
class Refuse:
    __init__ = refuse
for module in (pickle, _pickle):
    module.load = module.loads = refuse
    module.Unpickler = Refuse
from crawler.cli import main
main()
"""

SHORT = {"kill master": 13, "kill box": 39, "pause": 4, "sleep": 1}
SHORT |= {"cut": 5, "cut after bytes": 6, "hold": 3, "hold for long": 1, "slow": 3, "half open": 3}
LONG = {"kill master": 160, "kill box": 480, "pause": 60, "sleep": 30}
LONG |= {"cut": 80, "cut after bytes": 100, "hold": 50, "hold for long": 20, "slow": 40, "half open": 40}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "crawler.toml").write_text(f"[queue]\nlease = {LEASE}\n")
    with commands(tmp_path) as starter:
        yield starter


def crawl_under_fire(
    start: Start, folder: Path, number: int, faults: Mapping[str, int], *, seed: int, delay: float, patience: float
) -> Findings:
    """A whole crawl of so many pictures with all these faults; holds what must be true of each."""
    began = time.monotonic()
    sys.stdout.write(f"seed {seed}, {number} pictures, {sum(faults.values())} faults: {dict(faults)}\n")
    with ExitStack() as stack:
        host = stack.enter_context(PictureHost(delay))
        fire = Fire(start, host, number, folder, faults, seed)
        fire.light(stack)
        fire.burn(number)
        fleet, codes = fire.fleet, fire.fleet.ends(patience)
        seconds = time.monotonic() - began
        assert codes["master"] == 0, fleet.said
        assert set(codes.values()) <= {0, 4}  # 4: one that was started again when the master was already gone
        found = judge(host, number, fleet.job, list(fleet.stores.values()))
    kills = sum(faults[kind] for kind in KILLS)
    cut = sum(visit.status == 0 for visit in host.visits)
    sys.stdout.write(f"{found} in {seconds:.0f} s; {found.again / kills:.2f} fetched again for each kill, {cut} cut\n")
    assert fire.thrown == faults
    assert fire.deserters == []  # nobody ends by himself, whatever he hears or does not hear
    whole = number - found.poison
    assert found == Findings(whole, lost=0, doubled=0, poison=found.poison, failed=0, corrupt=0, again=found.again)
    assert found.poison <= kills / 10
    stats = stats_of(fleet.job)
    assert (stats.discovered, stats.success, stats.waiting, stats.leased) == (number, whole, 0, 0)
    lines = (fleet.job / "results.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) == number
    verify = start(
        "verify", "verify", fleet.job, *(flag for store in fleet.stores.values() for flag in ("--store", store))
    )
    assert verify.ends(patience) == 0 and f"{whole} whole, 0 missing, 0 damaged" in verify.said, verify.said
    return found


@pytest.mark.fire
@pytest.mark.timeout(300)
def test_a_crawl_under_fire_loses_nothing_and_doubles_nothing(start: Start, tmp_path: Path) -> None:
    found = crawl_under_fire(start, tmp_path, 800, SHORT, seed=1, delay=0.1, patience=60)
    assert found.again <= sum(SHORT.values()) * THREADS  # what each fault may have found under way


@pytest.mark.long
@pytest.mark.timeout(7_200)
def test_a_long_crawl_under_a_thousand_faults(start: Start, tmp_path: Path) -> None:
    found = crawl_under_fire(start, tmp_path, 100_000, LONG, seed=2, delay=0.02, patience=600)
    assert found.again <= sum(LONG.values()) * THREADS


def test_a_whole_crawl_never_unpickles(start: Start, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with DemoServer(many_pictures(tmp_path, 5)) as server:
        master = start("master", "harvest", server.url, "-o", job, "--tls", "always", script=NO_PICKLE)
        wait_until(lambda: (job / "join").exists(), "a join file")
        box = start("box", "download", job / "join", "-o", tmp_path / "A", script=NO_PICKLE)
        assert (master.ends(), box.ends()) == (0, 0), master.said + box.said
    assert [row.status for row in manifest_of(job)] == ["success"] * 5
