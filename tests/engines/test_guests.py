"""Who has to go; with connections that are only names."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from crawler.engines.guests import Guests, Limits, network


class Name:
    """Stands for a channel."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.is_gone = False

    def close(self) -> None:
        self.is_gone = True

    abort = close


class Hall:
    """Guests whose threads do nothing until the end of the test."""

    def __init__(self, **limits: int) -> None:
        self.over = threading.Event()
        self.guests: Any = Guests(Limits(**limits), lambda _: self.over.wait(10) and None)  # type: ignore[arg-type]

    def stranger(self, host: str) -> Name:
        name = Name(host)
        self.guests.arrive(name)
        self.guests.start()
        return name

    def worker(self, host: str, *, rests: bool = True) -> Name:
        name = self.stranger(host)
        assert self.guests.welcome(name) == ""
        if rests:
            self.guests.rest(name)
        return name


@pytest.fixture
def hall() -> Iterator[type[Hall]]:
    halls: list[Hall] = []

    class Kept(Hall):
        def __init__(self, **limits: int) -> None:
            super().__init__(**limits)
            halls.append(self)

    yield Kept
    for each in halls:
        each.over.set()
        for thread in each.guests.close():
            thread.join()


def gone(names: list[Name]) -> list[int]:
    return [number for number, name in enumerate(names) if name.is_gone]


def test_a_flood_from_one_address_drives_out_its_own(hall: type[Hall]) -> None:
    hosts = ["10.0.0.1", *["10.0.0.66"] * 10, "10.0.0.2"]
    place = hall(strangers=4)
    assert gone([place.stranger(host) for host in hosts]) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_flood_from_one_ipv6_network_is_one_flood(hall: type[Hall]) -> None:
    hosts = ["2001:db8::1", *[f"2001:db8:6:6::{number}" for number in range(5)], "2001:db8:2::1"]
    place = hall(strangers=3)
    assert gone([place.stranger(host) for host in hosts]) == [1, 2, 3, 4]


def test_strangers_of_many_addresses_drive_out_the_oldest(hall: type[Hall]) -> None:
    place = hall(strangers=2)
    assert gone([place.stranger(f"10.0.0.{number}") for number in range(4)]) == [0, 1]


def test_strangers_take_no_place_of_a_worker(hall: type[Hall]) -> None:
    place = hall(strangers=2, connections=2)
    workers = [place.worker("10.0.0.1"), place.worker("10.0.0.1")]
    strangers = [place.stranger("10.0.0.9") for _ in range(20)]
    assert (gone(workers), len(gone(strangers))) == ([], 18)


def test_who_was_idle_for_longest_makes_room_and_who_is_at_work_never(hall: type[Hall]) -> None:
    place = hall(connections=3)
    workers = [place.worker("10.0.0.1") for _ in range(3)]
    assert place.guests.work(workers[0])
    late = [place.worker("10.0.0.1") for _ in range(2)]
    assert (gone(workers), gone(late)) == ([1, 2], [])
    assert not place.guests.work(workers[1])


def test_the_network_with_most_connections_makes_room(hall: type[Hall]) -> None:
    place = hall(connections=4)
    workers = [place.worker(host) for host in ("10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3")]
    place.worker("10.0.0.4")
    assert gone(workers) == [1]


def test_one_network_leaves_room_for_others_though_all_of_it_is_at_work(hall: type[Hall]) -> None:
    place = hall(connections=4, per_network=2)
    greedy = [place.worker("10.0.0.1", rests=False) for _ in range(2)]
    assert "at work" in place.guests.welcome(place.stranger("10.0.0.1"))
    others = [place.worker("10.0.0.2"), place.worker("10.0.0.3")]
    assert gone(greedy + others) == []


def test_a_connection_that_has_ended_leaves_its_place(hall: type[Hall]) -> None:
    place = hall(connections=1, strangers=1, per_network=1)
    for _ in range(3):
        worker = place.worker("10.0.0.1", rests=False)
        place.guests.leave(worker)
        place.guests.leave(worker)
    stranger = place.stranger("10.0.0.1")
    place.guests.leave(stranger)
    assert not place.stranger("10.0.0.1").is_gone


def test_nobody_is_let_in_after_the_end(hall: type[Hall]) -> None:
    place = hall()
    place.over.set()
    place.guests.close()
    assert place.stranger("10.0.0.1").is_gone


@pytest.mark.parametrize(
    ("descriptors", "strangers", "connections"),
    [(float("inf"), 64, 960), (20_000, 64, 960), (1_024, 64, 832), (256, 32, 96), (64, 8, 24), (2, 1, 1)],
)
def test_the_limits_fit_the_files_that_the_process_may_open(
    descriptors: float, strangers: int, connections: int
) -> None:
    limits = Limits().within(descriptors)
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
def test_what_counts_as_one_party(host: str, whole: str) -> None:
    assert network(host) == whole
