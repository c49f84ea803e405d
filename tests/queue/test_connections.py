"""The choice of connections to close; with fake channels."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from crawler.queue.connections import ConnectionLimits, Connections, network


class FakeChannel:
    """A stand-in for a channel."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.is_gone = False

    def close(self) -> None:
        self.is_gone = True

    abort = close


class Registry:
    """Connections whose threads do nothing until the end of the test."""

    def __init__(self, **limits: int) -> None:
        self.over = threading.Event()
        self.connections: Any = Connections(ConnectionLimits(**limits), lambda _: self.over.wait(10) and None)  # type: ignore[arg-type]

    def stranger(self, host: str) -> FakeChannel:
        name = FakeChannel(host)
        self.connections.arrive(name)
        self.connections.start()
        return name

    def worker(self, host: str, *, rests: bool = True) -> FakeChannel:
        name = self.stranger(host)
        assert self.connections.welcome(name) == ""
        if rests:
            self.connections.rest(name)
        return name


@pytest.fixture
def registry() -> Iterator[type[Registry]]:
    registries: list[Registry] = []

    class Kept(Registry):
        def __init__(self, **limits: int) -> None:
            super().__init__(**limits)
            registries.append(self)

    yield Kept
    for each in registries:
        each.over.set()
        for thread in each.connections.close():
            thread.join()


def gone(names: list[FakeChannel]) -> list[int]:
    return [number for number, name in enumerate(names) if name.is_gone]


def test_a_flood_from_one_address_closes_only_its_own_connections(registry: type[Registry]) -> None:
    hosts = ["10.0.0.1", *["10.0.0.66"] * 10, "10.0.0.2"]
    place = registry(strangers=4)
    assert gone([place.stranger(host) for host in hosts]) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_addresses_of_one_ipv6_network_count_together(registry: type[Registry]) -> None:
    hosts = ["2001:db8::1", *[f"2001:db8:6:6::{number}" for number in range(5)], "2001:db8:2::1"]
    place = registry(strangers=3)
    assert gone([place.stranger(host) for host in hosts]) == [1, 2, 3, 4]


def test_of_unauthenticated_connections_of_many_addresses_the_oldest_is_closed(registry: type[Registry]) -> None:
    place = registry(strangers=2)
    assert gone([place.stranger(f"10.0.0.{number}") for number in range(4)]) == [0, 1]


def test_unauthenticated_connections_use_no_slot_of_a_worker(registry: type[Registry]) -> None:
    place = registry(strangers=2, connections=2)
    workers = [place.worker("10.0.0.1"), place.worker("10.0.0.1")]
    strangers = [place.stranger("10.0.0.9") for _ in range(20)]
    assert (gone(workers), len(gone(strangers))) == ([], 18)


def test_the_longest_idle_worker_is_closed_and_a_working_one_never(registry: type[Registry]) -> None:
    place = registry(connections=3)
    workers = [place.worker("10.0.0.1") for _ in range(3)]
    assert place.connections.work(workers[0])
    late = [place.worker("10.0.0.1") for _ in range(2)]
    assert (gone(workers), gone(late)) == ([1, 2], [])
    assert not place.connections.work(workers[1])


def test_the_network_with_most_connections_loses_one(registry: type[Registry]) -> None:
    place = registry(connections=4)
    workers = [place.worker(host) for host in ("10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3")]
    place.worker("10.0.0.4")
    assert gone(workers) == [1]


def test_one_network_leaves_slots_for_others_even_if_all_its_workers_are_busy(registry: type[Registry]) -> None:
    place = registry(connections=4, per_network=2)
    greedy = [place.worker("10.0.0.1", rests=False) for _ in range(2)]
    assert "busy" in place.connections.welcome(place.stranger("10.0.0.1"))
    others = [place.worker("10.0.0.2"), place.worker("10.0.0.3")]
    assert gone(greedy + others) == []


def test_a_connection_that_has_ended_frees_its_slot(registry: type[Registry]) -> None:
    place = registry(connections=1, strangers=1, per_network=1)
    for _ in range(3):
        worker = place.worker("10.0.0.1", rests=False)
        place.connections.leave(worker)
        place.connections.leave(worker)
    stranger = place.stranger("10.0.0.1")
    place.connections.leave(stranger)
    assert not place.stranger("10.0.0.1").is_gone


def test_no_connection_is_accepted_after_the_end(registry: type[Registry]) -> None:
    place = registry()
    place.over.set()
    place.connections.close()
    assert place.stranger("10.0.0.1").is_gone


@pytest.mark.parametrize(
    ("descriptors", "strangers", "connections"),
    [(float("inf"), 64, 960), (20_000, 64, 960), (1_024, 64, 832), (256, 32, 96), (64, 8, 24), (2, 1, 1)],
)
def test_the_limits_fit_the_descriptor_limit_of_the_process(
    descriptors: float, strangers: int, connections: int
) -> None:
    limits = ConnectionLimits().within(descriptors)
    assert (limits.strangers, limits.connections) == (strangers, connections)
    assert limits.per_network <= connections


@pytest.mark.parametrize(
    ("host", "whole"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_addresses_are_grouped_by_network(host: str, whole: str) -> None:
    assert network(host) == whole
