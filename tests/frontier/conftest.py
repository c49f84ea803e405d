"""Frontiers under test: every implementation behind one fixture (a new one is one more parameter), and files."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from crawler.frontier.base import Frontier
from crawler.frontier.politeness import Policy
from crawler.frontier.sqlite import SqliteFrontier
from tests.frontier.fakes import OPEN, FakeClock, Make, Open
from tests.queue.served import served


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["file", "memory", "manager"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Make]:
    with ExitStack() as stack:

        def build(policy: Policy = OPEN, **settings: Any) -> Frontier:
            path = None if request.param == "memory" else tmp_path / "frontier.sqlite"
            frontier = SqliteFrontier(path, policy, settings=settings, clock=clock, wall=clock, dice=lambda: 0.5)
            stack.callback(frontier.close)
            if request.param != "manager":
                return frontier
            return ManagedFrontier(frontier, stack.enter_context(served(frontier)))

        yield build


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "crawl"
    folder.mkdir()
    return folder / "frontier.sqlite"


@pytest.fixture
def open_file(path: Path, clock: FakeClock) -> Iterator[Open]:
    """Yield a function that opens the default file, or another one; all are closed at the end."""
    with ExitStack() as stack:

        def build(policy: Policy = OPEN, at: Path = path, wall: Callable[[], float] = clock) -> SqliteFrontier:
            frontier = SqliteFrontier(at, policy, clock=clock, wall=wall, dice=lambda: 0.5)
            stack.callback(frontier.close)
            return frontier

        yield build


class ManagedFrontier:
    """The frontier as a worker sees it through the manager, with the master's own `put`."""

    def __init__(self, local: Frontier, remote: Frontier) -> None:
        self.put = local.put
        self.hello, self.lease, self.extend = remote.hello, remote.lease, remote.extend
        self.complete, self.records, self.stats = remote.complete, remote.records, remote.stats
        self.close = remote.close
