"""Descriptions of workers and stores: which workers joined, which are late, and where the pictures are."""

import pytest

from crawler.cli.text import describe_counts
from crawler.cli.worker_text import describe_silence, describe_stores, describe_workers, introduce, matching
from crawler.model import WorkerInfo
from crawler.stats import FrontierStats, StoreStats, WorkerStats
from crawler.version import __version__

MACHINE = WorkerInfo(release=__version__, system="Linux 6.1", python="3.12.1")


def test_a_worker_is_introduced_with_its_machine() -> None:
    text = f"desk/ab-0 joined (Linux 6.1, Python 3.12.1, release {__version__})"
    assert introduce(WorkerStats(name="desk/ab-0", about=MACHINE)) == text
    assert introduce(WorkerStats(name="desk/ab-0")) == "desk/ab-0 joined"


def test_another_release_is_mentioned() -> None:
    text = introduce(WorkerStats(name="w", about=WorkerInfo(release="9.9.9")))
    assert "release 9.9.9" in text and f"this master runs release {__version__}" in text


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (59.0, ""),
        (-59.0, ""),
        (7_300.0, "2 h ahead of the master's"),
        (-1.8e9, "20833 days behind the master's"),
        (90.0, "90 s ahead"),
    ],
)
def test_a_wrong_clock_is_mentioned(ahead: float, words: str) -> None:
    text = introduce(WorkerStats(name="w", clock_ahead=ahead))
    assert words in text and ("clock" in text) == bool(words)


def test_the_table_has_a_line_for_each_worker() -> None:
    workers = (
        WorkerStats(name="desk/ab-0", about=MACHINE, settled=812, rate=12.34, leases=16, silent=0.4),
        WorkerStats(name="laptop/cd-0", leases=4, silent=125.0, loses_in=33.3),
        WorkerStats(name="old/ef-0", silent=1.0, is_told=True),
    )
    head, first, second, third = describe_workers(FrontierStats(workers=workers))
    assert head.split() == ["worker", "system", "release", "settled", "rate", "leases", "last", "seen"]
    assert first.split()[-7:] == [__version__, "812", "12.3/s", "16", "0", "s", "ago"]
    assert second.endswith("2 min ago; loses its leases in 33 s") and third.endswith("1 s ago; stopping")
    assert first.index(__version__) == head.index("release")


def test_no_workers_make_no_table() -> None:
    assert describe_workers(FrontierStats()) == []


def test_a_worker_s_name_can_t_steer_the_terminal() -> None:
    worker = WorkerStats(name="x\x1b[2J", leases=2, loses_in=5.0)
    stats = FrontierStats(workers=(worker,), stores=(StoreStats(id="a", worker="y\x1b", pictures=1),))
    texts = [*describe_workers(stats), introduce(worker), describe_silence(stats), describe_stores(stats, "")]
    assert all(text.isprintable() for text in texts)


def test_pictures_are_counted_here_and_elsewhere() -> None:
    stores = (StoreStats(id="b" * 16, worker="laptop/bb-0", pictures=7), StoreStats(id="a" * 16, pictures=5))
    stats = FrontierStats(stores=(*stores, StoreStats(id="c" * 16, worker="downloader", pictures=0)))
    assert describe_stores(stats, "a" * 16) == f"5 pictures here, 7 in other stores: 7 in store {'b' * 16} (laptop)"
    assert describe_stores(stats, "").startswith("0 pictures here, 12 in other stores: 7 in")
    assert describe_stores(FrontierStats(), "a" * 16) == ""


def test_late_workers_are_named_with_the_seconds_left() -> None:
    late = WorkerStats(name="desk/ab-0", leases=16, silent=70.0, loses_in=50.2)
    stats = FrontierStats(workers=(late, WorkerStats(name="other", leases=3)))
    assert describe_silence(stats) == "desk/ab-0 is silent: its 16 requests go to other workers in 50 s"
    assert describe_counts(stats).endswith("; desk/ab-0 is silent: its 16 requests go to other workers in 50 s")
    two = FrontierStats(workers=(late, WorkerStats(name="other", leases=3, loses_in=9.0)))
    assert describe_silence(two) == "desk/ab-0 and 1 more are silent: their 19 requests go to other workers within 50 s"


def test_workers_are_found_by_name_and_by_machine() -> None:
    stats = FrontierStats(workers=tuple(WorkerStats(name=name) for name in ("desk/a-0", "desk/a-1", "desktop/b-0")))
    assert matching(stats, "desk") == ["desk/a-0", "desk/a-1"]
    assert matching(stats, "desktop/b-0") == ["desktop/b-0"] and matching(stats, "de") == []
