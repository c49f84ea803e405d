"""Workers and stores in words: who joined, who is late, where the pictures are."""

import pytest

from crawler import __version__
from crawler.fleet import describe_silence, describe_stores, describe_workers, introduce, matching
from crawler.model import About, FrontierStats, StoreStats, WorkerStats
from crawler.progress import describe_counts

BOX = About(release=__version__, system="Linux 6.1", python="3.12.1")


def test_a_worker_is_introduced_with_its_box() -> None:
    text = f"box/ab-0 joined (Linux 6.1, Python 3.12.1, release {__version__})"
    assert introduce(WorkerStats(name="box/ab-0", about=BOX)) == text
    assert introduce(WorkerStats(name="box/ab-0")) == "box/ab-0 joined"


def test_another_release_is_worth_a_word() -> None:
    text = introduce(WorkerStats(name="w", about=About(release="9.9.9")))
    assert "release 9.9.9" in text and f"this master is of release {__version__}" in text


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (59.0, ""),
        (-59.0, ""),
        (7_300.0, "2 h ahead of this one"),
        (-1.8e9, "20833 d behind this one"),
        (90.0, "90 s ahead"),
    ],
)
def test_a_clock_that_is_wrong_is_worth_a_word(ahead: float, words: str) -> None:
    text = introduce(WorkerStats(name="w", clock_ahead=ahead))
    assert words in text and ("clock" in text) == bool(words)


def test_the_table_has_a_line_for_each_worker() -> None:
    workers = (
        WorkerStats(name="box/ab-0", about=BOX, settled=812, rate=12.34, leases=16, silent=0.4),
        WorkerStats(name="laptop/cd-0", leases=4, silent=125.0, loses_in=33.3),
        WorkerStats(name="old/ef-0", silent=1.0, is_told=True),
    )
    head, first, second, third = describe_workers(FrontierStats(workers=workers))
    assert head.split() == ["worker", "system", "release", "settled", "rate", "leases", "last", "seen"]
    assert first.split()[-7:] == [__version__, "812", "12.3/s", "16", "0", "s", "ago"]
    assert second.endswith("2 min ago; loses its leases in 33 s") and third.endswith("1 s ago; told to leave")
    assert first.index(__version__) == head.index("release")


def test_nobody_makes_no_table() -> None:
    assert describe_workers(FrontierStats()) == []


def test_a_worker_s_name_can_t_steer_the_terminal() -> None:
    worker = WorkerStats(name="x\x1b[2J", leases=2, loses_in=5.0)
    stats = FrontierStats(workers=(worker,), stores=(StoreStats(id="a", worker="y\x1b", pictures=1),))
    texts = [*describe_workers(stats), introduce(worker), describe_silence(stats), describe_stores(stats, "")]
    assert all(text.isprintable() for text in texts)


def test_pictures_are_here_and_elsewhere() -> None:
    stores = (StoreStats(id="b" * 16, worker="laptop/bb-0", pictures=7), StoreStats(id="a" * 16, pictures=5))
    stats = FrontierStats(stores=(*stores, StoreStats(id="c" * 16, worker="downloader", pictures=0)))
    assert describe_stores(stats, "a" * 16) == f"5 pictures here, 7 elsewhere: 7 in store {'b' * 16} (laptop)"
    assert describe_stores(stats, "").startswith("0 pictures here, 12 elsewhere: 7 in")
    assert describe_stores(FrontierStats(), "a" * 16) == ""


def test_who_is_late_is_named_with_the_seconds_left() -> None:
    late = WorkerStats(name="box/ab-0", leases=16, silent=70.0, loses_in=50.2)
    stats = FrontierStats(workers=(late, WorkerStats(name="other", leases=3)))
    assert describe_silence(stats) == "box/ab-0 silent: its 16 requests go to others in 50 s"
    assert describe_counts(stats).endswith("; box/ab-0 silent: its 16 requests go to others in 50 s")
    two = FrontierStats(workers=(late, WorkerStats(name="other", leases=3, loses_in=9.0)))
    assert describe_silence(two).startswith("box/ab-0 and 1 more silent")


def test_workers_are_found_by_name_and_by_box() -> None:
    stats = FrontierStats(workers=tuple(WorkerStats(name=name) for name in ("box/a-0", "box/a-1", "boxer/b-0")))
    assert matching(stats, "box") == ["box/a-0", "box/a-1"]
    assert matching(stats, "boxer/b-0") == ["boxer/b-0"] and matching(stats, "bo") == []
