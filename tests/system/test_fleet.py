"""A real master and real downloaders, over real sockets: shared work, politeness, kills, interrupts."""

import os
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from crawler.demo.check import compare, load_truth
from crawler.demo.server import DemoServer
from crawler.urls import parse_record_line
from tests.support.processes import Command, commands, downloaders, manifest_of, many_pictures, stats_of, wait_until

Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return tmp_path / "job"


def slow_site(folder: Path, number: int) -> DemoServer:
    """Run a server whose pictures take some time, so that a crawl can be interrupted."""
    return DemoServer(many_pictures(folder, number), {f"/{n:04}.png": {"delay": 0.2} for n in range(number)})


def pictures_in(store: Path) -> int:
    return sum(1 for path in (store / "images").rglob("*") if path.is_file())


def test_two_downloaders_share_the_work(start: Start, job: Path, tmp_path: Path) -> None:
    with DemoServer() as server:
        server.hold("/robots.txt")
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        machines = [start(name, "download", job / "join", "-o", tmp_path / name) for name in ("A", "B")]
        wait_until(lambda: len(downloaders(job)) == 2, "two downloaders")
        server.release("/robots.txt")
        assert [command.ends() for command in (master, *machines)] == [0, 0, 0], master.said
        assert compare(load_truth(server), manifest_of(job)) == []
    lines = (job / "results.txt").read_text().splitlines()
    assert sorted(parse_record_line(line)[0] for line in lines) == sorted(row.url for row in manifest_of(job))
    assert sorted(master.results) == sorted(lines)
    assert len({row.worker for row in manifest_of(job) if row.path}) == 2
    assert pictures_in(tmp_path / "A") > 0 and pictures_in(tmp_path / "B") > 0


@pytest.mark.fire
def test_the_fixture_web_is_crawled_over_tls(start: Start, job: Path, tmp_path: Path) -> None:
    with DemoServer() as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        machine = start("A", "download", job / "join", "-o", tmp_path / "A")
        assert (master.ends(), machine.ends()) == (0, 0), master.said + machine.said
        assert compare(load_truth(server), manifest_of(job)) == []
    assert "BEGIN CERTIFICATE" in (job / "join").read_text()


@pytest.mark.fire
def test_gaps_and_concurrency_are_kept_in_the_server_s_log(start: Start, job: Path, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 12)) as server:
        crawl = start("run", "run", server.url, "-o", job, "--delay", "0.4", "--per-host", "1", "-w", "2")
        assert crawl.ends() == 0, crawl.said
        hits = server.requests
    assert len(hits) == 14  # robots.txt, the page, the pictures
    assert max(hit.in_flight for hit in hits) == 1
    jitter = 0.04  # maximum delay of a request in the server's log
    assert min(later.started - earlier.started for earlier, later in pairwise(hits)) >= 0.4 - jitter


def test_a_killed_downloader_loses_nothing(start: Start, job: Path, tmp_path: Path) -> None:
    with slow_site(tmp_path, 60) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        victim = start("A", "download", job / "join", "-o", tmp_path / "A", "-t", 2)
        wait_until(lambda: stats_of(job).success > 5, "some pictures")
        victim.kill()
        again = start("A2", "download", job / "join", "-o", tmp_path / "A", "-t", 8)
        assert (master.ends(), again.ends()) == (0, 0), master.said
    assert [row.status for row in manifest_of(job)] == ["success"] * 60
    assert pictures_in(tmp_path / "A") == 60


@pytest.mark.fire
def test_other_downloaders_continue_soon_after_one_was_killed(start: Start, job: Path, tmp_path: Path) -> None:
    """Use leases that last longer than this test."""
    (tmp_path / "crawler.toml").write_text("[queue]\nlease = 900\n")
    with slow_site(tmp_path, 20) as server:
        master = start("master", "harvest", server.url, "-o", job, "--delay", "0.1", "--per-host", "1")
        wait_until(lambda: (job / "join").exists(), "a join file")
        machines = {name: start(name, "download", job / "join", "-o", tmp_path / name, "-t", 1) for name in ("A", "B")}
        wait_until(lambda: any(worker.leases for worker in stats_of(job).workers), "a turn")
        wait_until(lambda: any(pictures_in(tmp_path / name) for name in machines), "a picture")
        victim = next(name for name in machines if pictures_in(tmp_path / name))
        machines.pop(victim).kill()
        assert [command.ends() for command in (master, *machines.values())] == [0, 0], master.said
    assert [(row.status, row.attempts) for row in manifest_of(job)] == [("success", 1)] * 20


@pytest.mark.fire
def test_a_killed_master_continues_after_a_restart(start: Start, job: Path, tmp_path: Path) -> None:
    with slow_site(tmp_path, 80) as server:
        command = ("harvest", server.url, "-o", job)
        master = start("master", *command)
        wait_until(lambda: (job / "join").exists(), "a join file")
        machine = start("A", "download", job / "join", "-o", tmp_path / "A", "-t", 2)
        wait_until(lambda: stats_of(job).success > 5, "some pictures")
        master.kill()
        again = start("again", *command)
        assert (again.ends(), machine.ends()) == (0, 0), again.said + machine.said
        asked = [hit.path for hit in server.requests]
    assert "Resuming" in again.said
    assert [row.status for row in manifest_of(job)] == ["success"] * 80
    assert asked.count("/") == 1  # the page was not walked again
    assert len(asked) <= 82 + 2 * 2  # at most the current request of each thread is repeated


@pytest.mark.fire
def test_ctrl_c_drains_and_the_same_command_resumes(start: Start, job: Path, tmp_path: Path) -> None:
    with slow_site(tmp_path, 60) as server:
        command = ("run", server.url, "-o", job, "-w", 1, "-t", 2)
        first = start("first", *command)
        wait_until(lambda: stats_of(job).success > 5, "some pictures")
        first.interrupt()
        assert first.ends() == 130
        assert "Stopping: " in first.said and "Continue with:" in first.said
        done = len(manifest_of(job))
        assert 5 < done < 60
        second = start("second", *command)
        assert second.ends() == 0, second.said
        asked = [hit.path for hit in server.requests]
    assert f"Resuming {str(job)!r}: {done} saved, 0 failed, {60 - done} waiting." in second.said
    assert len(manifest_of(job)) == 60
    assert len(asked) == len(set(asked))  # nothing was fetched twice


def test_a_second_ctrl_c_aborts(start: Start, job: Path, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 4), {f"/{n:04}.png": {"stall": 50} for n in range(4)}) as server:
        crawl = start("run", "run", server.url, "-o", job, "-w", 1)
        server.wait_for("/0000.png", 20)
        crawl.interrupt()
        wait_until(lambda: "Stopping: " in crawl.said, "the first Ctrl-C to be handled")
        crawl.interrupt()
        assert crawl.ends() == 130
    assert "Traceback" not in crawl.said
    assert stats_of(job).waiting + stats_of(job).leased == 4


@pytest.mark.fire
def test_a_downloader_can_be_interrupted(start: Start, job: Path, tmp_path: Path) -> None:
    with slow_site(tmp_path, 40) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        machine = start("A", "download", job / "join", "-o", tmp_path / "A", "-t", 2)
        wait_until(lambda: stats_of(job).success > 3, "some pictures")
        machine.interrupt()
        assert machine.ends() == 130 and "Traceback" not in machine.said
        again = start("B", "download", job / "join", "-o", tmp_path / "B")
        assert (master.ends(), again.ends()) == (0, 0)
    assert len({row.url for row in manifest_of(job)}) == len(manifest_of(job)) == 40


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal that only asks a process to end")
@pytest.mark.fire
def test_sigterm_drains_like_ctrl_c(start: Start, job: Path, tmp_path: Path) -> None:
    with slow_site(tmp_path, 40) as server:
        crawl = start("run", "run", server.url, "-o", job, "-w", 1, "-t", 2)
        wait_until(lambda: stats_of(job).success > 3, "some pictures")
        crawl.process.send_signal(signal.SIGTERM)
        assert crawl.ends() == 130


@pytest.mark.fire
def test_no_downloader_outlives_its_master(start: Start, job: Path, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 40), {f"/{n:04}.png": {"delay": 0.1} for n in range(40)}) as server:
        crawl = start("run", "run", server.url, "-o", job, "-w", 2, "-t", 1)
        wait_until(lambda: stats_of(job).success > 3, "some pictures")
        crawl.kill()
        before = len(server.requests)
        again = start("again", "run", server.url, "-o", job, "-w", 2, "-t", 1)
        assert again.ends() == 0, again.said
        assert len(server.requests) - before <= 45
    assert [row.status for row in manifest_of(job)] == ["success"] * 40


@pytest.mark.fire
def test_repeated_aborts_lose_nothing(start: Start, job: Path, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 4), {f"/{n:04}.png": {"stall": 50} for n in range(4)}) as server:
        command = ("run", server.url, "-o", job, "-w", 1)
        for attempt in range(4):
            crawl = start(f"run{attempt}", *command)
            asked = 2 + 4 * attempt  # robots.txt, the page, and the pictures of every start
            wait_until(lambda: len(server.requests) > asked, "its next requests")  # noqa: B023  # called within the loop
            crawl.interrupt()
            wait_until(lambda: "Stopping: " in crawl.said, "the first Ctrl-C to be handled")  # noqa: B023
            crawl.interrupt()
            assert crawl.ends() == 130
    stats = stats_of(job)
    assert (stats.failed, stats.waiting + stats.leased) == (0, 4)


@pytest.mark.fire
def test_two_downloaders_of_one_directory_are_two_workers(start: Start, job: Path, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 20)) as server:
        server.hold("/robots.txt")
        master = start("master", "harvest", server.url, "-o", job, "--delay", "0.1")
        wait_until(lambda: (job / "join").exists(), "a join file")
        machines = [start(name, "download", job / "join", "-o", tmp_path / "shared") for name in ("A", "B")]
        wait_until(lambda: len(downloaders(job)) == 2, "two downloaders")
        server.release("/robots.txt")
        assert [command.ends() for command in (master, *machines)] == [0, 0, 0]
        hits = server.requests
    assert len(hits) == len({hit.path for hit in hits}) == 22
    assert max(hit.in_flight for hit in hits) == 1
