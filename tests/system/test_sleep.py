"""Machines that are suspended, lose their network or get another address: they are late, and nothing is lost."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crawler.demo.server import DemoServer
from tests.support.faulty import Cable
from tests.support.processes import Command, commands, downloaders, manifest_of, many_pictures, stats_of, wait_until

Start = Callable[..., Command]

#: A command whose calls time out after two seconds instead of thirty.
IMPATIENT = (
    "from crawler.queue import client; client._ANSWER_SECONDS = 2.0; from crawler.cli.commands import main; main()"
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "crawler.toml").write_text("[queue]\nlease = 3\n")
    with commands(tmp_path) as starter:
        yield starter


@pytest.fixture
def web(tmp_path: Path) -> Iterator[DemoServer]:
    with DemoServer(many_pictures(tmp_path, 60), {f"/{n:04}.png": {"delay": 0.2} for n in range(60)}) as server:
        yield server


def begin(start: Start, web: DemoServer, job: Path, *flags: object) -> Command:
    master = start("master", "harvest", web.url, "-o", job, *flags)
    wait_until(lambda: (job / "join").exists(), "a join file")
    return master


def place_of(job: Path) -> tuple[str, int]:
    host, _, port = json.loads((job / "join").read_text())["addresses"][0].rpartition(":")
    return host, int(port)


def assert_whole(job: Path) -> None:
    assert [row.status for row in manifest_of(job)] == ["success"] * 60


@pytest.mark.skipif(os.name == "nt", reason="Windows can't suspend a process")
@pytest.mark.fire
def test_a_machine_suspended_for_longer_than_its_leases_continues(
    start: Start, web: DemoServer, tmp_path: Path
) -> None:
    job = tmp_path / "job"
    master = begin(start, web, job)
    laptop = start("laptop", "download", job / "join", "-o", tmp_path / "laptop", "-t", 2)
    wait_until(lambda: stats_of(job).success > 3, "some pictures")
    laptop.process.send_signal(signal.SIGSTOP)
    (name,) = downloaders(job)
    wait_until(
        lambda: any(worker.loses_in is not None for worker in stats_of(job).workers), f"{name} to be reported as late"
    )
    wait_until(lambda: stats_of(job).leased == 0, "the release of its leases")
    other = start("other", "download", job / "join", "-o", tmp_path / "other", "-t", 2)
    wait_until(lambda: len(downloaders(job)) == 2, "another machine at work")
    laptop.process.send_signal(signal.SIGCONT)
    assert [command.ends() for command in (master, laptop, other)] == [0, 0, 0], laptop.said
    assert_whole(job)


@pytest.mark.fire
def test_an_interrupted_network_does_no_harm(start: Start, web: DemoServer, tmp_path: Path) -> None:
    job = tmp_path / "job"
    master = begin(start, web, job)
    with Cable(place_of(job)) as cable:
        at = f"127.0.0.1:{cable.address[1]}"
        machine = start("machine", "download", job / "join", "-o", tmp_path / "A", "-t", 4, "--connect", at)
        for told in (3, 20, 40):
            wait_until(lambda: stats_of(job).success > told, "some pictures")  # noqa: B023  # called within the loop
            cable.cut()
        assert (master.ends(), machine.ends()) == (0, 0), machine.said
    assert_whole(job)


@pytest.mark.fire
def test_connections_that_silently_died_are_replaced(start: Start, web: DemoServer, tmp_path: Path) -> None:
    job = tmp_path / "job"
    master = begin(start, web, job)
    with Cable(place_of(job)) as cable:
        at = f"127.0.0.1:{cable.address[1]}"
        flags = ("-o", tmp_path / "A", "-t", 2, "--connect", at)
        machine = start("machine", "download", job / "join", *flags, script=IMPATIENT)
        wait_until(lambda: stats_of(job).success > 3, "some pictures")
        cable.hold()
        wait_until(lambda: stats_of(job).leased == 0, "the release of its leases")
        cable.forget()
        assert (master.ends(), machine.ends()) == (0, 0), machine.said
    assert_whole(job)
