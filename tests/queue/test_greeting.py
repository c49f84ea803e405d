"""The master's response to a worker's hello, and the worker's knowledge of the master's location."""

import socket
from contextlib import closing

import pytest

from crawler.frontier.base import PROTOCOL
from crawler.frontier.sqlite import SqliteFrontier
from crawler.queue import wire
from crawler.queue.client import RemoteFrontier
from tests.queue.conftest import Serve, join_for


@pytest.mark.parametrize(
    ("there", "here", "is_local"),
    [("127.0.0.1", "127.0.0.1", True), ("192.0.2.7", "192.0.2.7", True), ("192.0.2.7", "192.0.2.8", False)],
)
def test_a_worker_knows_whether_the_master_is_on_its_machine(there: str, here: str, is_local: bool) -> None:
    assert wire.Channel(_Connected(there, here)).is_local == is_local


class _Connected(socket.socket):
    """A socket that reports to be connected."""

    def __init__(self, there: str, here: str) -> None:
        super().__init__()
        self.close()
        self._there, self._here = there, here

    def getpeername(self) -> tuple[str, int]:
        return self._there, 1

    def getsockname(self) -> tuple[str, int]:
        return self._here, 2


def test_changed_settings_of_the_master_arrive_with_the_next_lease(serve: Serve) -> None:
    heard: list[dict[str, object]] = []
    with closing(SqliteFrontier(settings={"a": 1})) as frontier:
        remote = RemoteFrontier(join_for(serve(frontier).address), on_settings=heard.append)
        remote.hello("me", PROTOCOL)
        for _ in range(2):
            remote.lease("me", ["image"], 1, 60.0, 0.0)
        assert heard == [] and remote.is_local
        frontier.announce({"b": [2]})
        for _ in range(2):
            remote.lease("me", ["image"], 1, 60.0, 0.0)
        remote.close()
    assert heard == [{"a": 1, "b": [2]}]
