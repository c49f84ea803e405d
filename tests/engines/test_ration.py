import threading
from contextlib import ExitStack

import pytest

from crawler.engines.ration import Ration
from tests.processes import wait_until

SOON, LATER = 0.05, 10.0  # seconds


def test_what_is_held_is_given_back_whatever_happens_meanwhile() -> None:
    ration = Ration(total=100, share=100)
    with pytest.raises(KeyError), ration.hold(60, "a", SOON), ration.hold(40, "b", SOON):
        assert ration.held == 100
        raise KeyError
    assert ration.held == 0


def test_who_asks_for_more_than_is_left_waits_until_others_have_done() -> None:
    ration, got = Ration(total=100, share=100), threading.Event()

    def wait() -> None:
        with ration.hold(50, "b", LATER):
            got.set()

    waiter = threading.Thread(target=wait)
    with ration.hold(60, "a", SOON):
        waiter.start()
        assert not got.wait(SOON)
    assert got.wait(LATER)
    waiter.join()


def test_waiting_has_an_end_and_holds_nothing() -> None:
    ration = Ration(total=100, share=100)
    with ration.hold(100, "a", SOON):
        with pytest.raises(TimeoutError, match="large messages"), ration.hold(1, "b", SOON):
            pass
        assert ration.held == 100
    with ration.hold(100, "b", SOON):
        assert ration.held == 100


def test_one_party_leaves_room_for_others_however_many_of_it_wait() -> None:
    ration = Ration(total=100, share=50)
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


def test_many_small_wishes_do_not_keep_a_large_one_waiting() -> None:
    """The large wish came first, so what is left is kept for it."""
    ration = Ration(total=100, share=100)
    large = threading.Thread(target=_try, args=(ration, "large", 100))
    with ration.hold(50, "a", SOON):
        large.start()
        wait_until(lambda: ration.waiting == 1, "the large wish")
        with pytest.raises(TimeoutError), ration.hold(10, "small", SOON):
            pass
    large.join()
    assert ration.held == 0


def test_more_than_a_share_is_counted_as_a_share() -> None:
    ration = Ration(total=100, share=50)
    with ration.hold(1_000, "a", SOON):
        assert ration.held == 50


def _try(ration: Ration, who: str, size: int = 50) -> None:
    with ration.hold(size, who, LATER):
        pass
