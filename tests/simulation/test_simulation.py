"""Whole crawls in one thread, each determined by one integer; see one with ``python -m tests.simulation SEED``.

The environment variable ``SIMULATION_SEEDS`` sets their number; the default is a compromise with the time of a test
run.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crawler.frontier import group_commit, politeness
from crawler.frontier.host_scheduler import HostScheduler
from crawler.frontier.leases import Leases
from crawler.frontier.politeness import Policy
from crawler.model import Lease, Outcome, Request, Turn
from crawler.store.result_store import ResultStore
from crawler.worker.turn import work_off
from tests.frontier.fakes import image
from tests.simulation.steps import Start, Steps
from tests.simulation.world import FAULTS, simulate

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "150"))
#: Seeds of one test.
_BATCH = 10
#: Seeds that run without the marker `fire`, too.
_QUICK = 20
#: A seed with many faults.
_TROUBLED = 20


@pytest.mark.parametrize(
    "first",
    [pytest.param(first, marks=pytest.mark.fire if first >= _QUICK else ()) for first in range(0, SEEDS, _BATCH)],
)
def test_under_any_faults_all_invariants_hold_and_the_crawl_ends(first: int) -> None:
    for seed in range(first, min(first + _BATCH, SEEDS)):
        result = simulate(seed)
        assert not result.breach, f"{result.breach}; see it with: python -m tests.simulation {seed}"


def test_a_seed_gives_the_same_crawl_each_time() -> None:
    once, again = simulate(_TROUBLED), simulate(_TROUBLED)
    assert len(once.trace) > 100
    assert once.trace == again.trace
    assert once.digest != simulate(_TROUBLED + 1).digest


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_a_seed_gives_the_same_crawl_in_every_process(hash_seed: str) -> None:
    command = [sys.executable, "-m", "tests.simulation", str(_TROUBLED)]
    root = Path(__file__).parents[2]
    told = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
    )
    assert told.stdout.splitlines()[-1] == f"seed {_TROUBLED}: {simulate(_TROUBLED).digest}"


def test_every_kind_of_fault_occurs() -> None:
    faults, counts = Counter[str](), Counter[str]()
    for seed in range(20):
        result = simulate(seed)
        faults.update(result.faults)
        counts.update(result.counts)
    assert faults.keys() == FAULTS
    assert min(counts["visits"], counts["accepted"]) > 200
    assert min(counts["duplicate"], counts["stale"]) > 10


# --- violations are detected


def _break(thing: Any, name: str, broken: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(thing, name, broken)


def _nothing(*arguments: Any, **fields: Any) -> None:
    pass


@pytest.mark.parametrize(
    "breach",
    [
        pytest.param(_break(group_commit, "verdict_on", lambda *_, **__: "accepted"), id="a late verdict counts"),
        pytest.param(_break(HostScheduler, "rest", _nothing), id="a host that was visited does not rest"),
        pytest.param(_break(ResultStore, "keep", _nothing), id="a file is told before it is flushed"),
        pytest.param(_break(Leases, "charge", lambda *_: Policy().max_losses), id="one loss makes poison"),
        pytest.param(_break(politeness, "turns", lambda *_: 2), id="a paced host has two turns at a time"),
    ],
)
def test_a_violated_rule_is_detected(
    breach: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    breach(monkeypatch)
    assert any(simulate(seed).breach for seed in range(30))


# --- helpers of the simulation


def test_steps_give_the_outcomes_of_work_off() -> None:
    leases = tuple(Lease(request=image(f"http://a.example/{n}.jpg"), token=str(n)) for n in range(3))
    turn = Turn(id="t", host="a.example", leases=leases)
    steps = Steps(turn, 1, lambda: 0.0)
    stepped: list[Outcome] = []
    while (question := steps.next()) is not None:
        if isinstance(question, Outcome):
            stepped.append(question)
        else:
            steps.answer(True if isinstance(question, Start) else _outcome(question))
    assert stepped == list(work_off(turn, _outcome, may_start=lambda at: True, clock=lambda: 0.0))
    assert [outcome.status for outcome in stepped] == ["done", "retry", "released"]


def _outcome(request: Request) -> Outcome:
    """Report for the second request that the host is busy."""
    is_busy = request.url.endswith("1.jpg")
    return Outcome(status="retry" if is_busy else "done", overloaded=is_busy)
