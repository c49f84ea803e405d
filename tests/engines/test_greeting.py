"""What a master says at a worker's hello, and what the worker knows of where the master is."""

import socket
from contextlib import closing

import pytest

from crawler.engines import wire
from crawler.engines.client import RemoteFrontier
from crawler.frontier.base import PROTOCOL
from crawler.frontier.sqlite import SqliteFrontier
from tests.engines.conftest import Serve, join_for


@pytest.mark.parametrize(
    ("there", "here", "is_local"),
    [("127.0.0.1", "127.0.0.1", True), ("192.0.2.7", "192.0.2.7", True), ("192.0.2.7", "192.0.2.8", False)],
)
def test_it_is_known_whether_the_master_is_on_this_machine(there: str, here: str, is_local: bool) -> None:
    assert wire.Channel(_Connected(there, here)).is_local == is_local


class _Connected(socket.socket):
    """A socket that is connected, as far as it says."""

    def __init__(self, there: str, here: str) -> None:
        super().__init__()
        self.close()
        self._there, self._here = there, here

    def getpeername(self) -> tuple[str, int]:
        return self._there, 1

    def getsockname(self) -> tuple[str, int]:
        return self._here, 2


def test_what_the_master_adds_to_its_greeting_is_heard_with_the_next_call_for_work(serve: Serve) -> None:
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
