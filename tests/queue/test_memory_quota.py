import threading
from contextlib import ExitStack

import pytest

from crawler.queue.memory_quota import MemoryQuota
from tests.support.processes import wait_until

SOON, LATER = 0.05, 10.0  # seconds


def test_reserved_memory_is_released_after_any_exception() -> None:
    ration = MemoryQuota(total=100, share=100)
    with pytest.raises(KeyError), ration.hold(60, "a", SOON), ration.hold(40, "b", SOON):
        assert ration.held == 100
        raise KeyError
    assert ration.held == 0


def test_a_request_for_more_than_is_free_waits_until_memory_is_released() -> None:
    ration, got = MemoryQuota(total=100, share=100), threading.Event()

    def wait() -> None:
        with ration.hold(50, "b", LATER):
            got.set()

    waiter = threading.Thread(target=wait)
    with ration.hold(60, "a", SOON):
        waiter.start()
        assert not got.wait(SOON)
    assert got.wait(LATER)
    waiter.join()


def test_waiting_times_out_and_reserves_nothing() -> None:
    ration = MemoryQuota(total=100, share=100)
    with ration.hold(100, "a", SOON):
        with pytest.raises(TimeoutError, match="large messages"), ration.hold(1, "b", SOON):
            pass
        assert ration.held == 100
    with ration.hold(100, "b", SOON):
        assert ration.held == 100


def test_one_network_leaves_memory_for_others_however_many_of_its_requests_wait() -> None:
    ration = MemoryQuota(total=100, share=50)
    with ExitStack() as held:
        held.enter_context(ration.hold(50, "greedy", SOON))
        waiters = [threading.Thread(target=_try, args=(ration, "greedy")) for _ in range(5)]
        for waiter in waiters:
            waiter.start()
        with ration.hold(50, "modest", SOON):
            assert ration.held == 100
    for waiter in waiters:
        waiter.join()
    assert ration.held == 0


def test_many_small_reservations_do_not_keep_a_large_one_waiting() -> None:
    """Make the large one first: the free memory is kept for it."""
    ration = MemoryQuota(total=100, share=100)
    large = threading.Thread(target=_try, args=(ration, "large", 100))
    with ration.hold(50, "a", SOON):
        large.start()
        wait_until(lambda: ration.waiting == 1, "the large reservation")
        with pytest.raises(TimeoutError), ration.hold(10, "small", SOON):
            pass
    large.join()
    assert ration.held == 0


def test_a_reservation_above_the_share_counts_as_the_share() -> None:
    ration = MemoryQuota(total=100, share=50)
    with ration.hold(1_000, "a", SOON):
        assert ration.held == 50


def _try(ration: MemoryQuota, who: str, size: int = 50) -> None:
    with ration.hold(size, who, LATER):
        pass
