"""Messages for users whose machines can't connect: real processes, one line each and an exit code."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from crawler.demo.server import DemoServer
from crawler.frontier.base import PROTOCOL
from crawler.queue.tls import ensure_certificate
from tests.support.processes import Command, commands, downloaders, wait_until

Start = Callable[..., Command]

pytestmark = pytest.mark.fire  # one process or more for each line

#: A command of a release that speaks another protocol.
OTHER_PROTOCOL = (
    "import crawler.frontier.base as base; base.PROTOCOL = {}; from crawler.cli.commands import main; main()"
)
#: A master of protocol 1, whose hello had no third argument.
OLD_MASTER = """
from typing import Any
import crawler.frontier.base as base
base.PROTOCOL = 1
from crawler.queue import manager, protocol as calls
class OldHello(calls._Arguments, frozen=True):
    worker: calls._Worker
    protocol: calls._Number
calls.SIGNATURES[calls.TASKS]["hello"] = calls.Signature(OldHello, dict[str, Any])
manager.TaskQueue.hello = lambda self, worker, protocol: self._frontier.hello(worker, protocol)
from crawler.cli.commands import main
main()
"""
OTHER_CLOCK = (
    "import time; real = time.time; time.time = lambda: real() + {}; from crawler.cli.commands import main; main()"
)


@pytest.fixture(scope="module")
def web() -> Iterator[DemoServer]:
    """Run a site that lets its crawlers wait."""
    with DemoServer() as server:
        server.hold("/robots.txt")
        yield server


@pytest.fixture(scope="module")
def masters(web: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Run masters with nothing to do, by the name of their directory: on loopback, and on all addresses."""
    folder = tmp_path_factory.mktemp("masters")
    patient = "[queue]\nlease = 1800\n[fetch]\nfirst_byte_timeout = 900\ntotal_timeout = 900\n"
    (folder / "crawler.toml").write_text(patient)  # until the last of these tests has ended
    with commands(folder) as start:
        for name, flags in {"tls": (), "wide": ("--listen", "0.0.0.0:0")}.items():
            start(name, "harvest", web.url, "-o", folder / name, *flags)
        places = {name: folder / name / "join" for name in ("tls", "wide")}
        wait_until(lambda: all(path.exists() for path in places.values()), "their join files")
        yield places


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


def edited(join: Path, folder: Path, **fields: object) -> Path:
    """Write a copy of a join file with other values."""
    path = folder / "join"
    path.write_text(json.dumps(json.loads(join.read_text()) | fields))
    path.chmod(0o600)
    return path


def port_of(join: Path) -> int:
    return int(json.loads(join.read_text())["addresses"][0].rpartition(":")[2])


def complaint(command: Command) -> str:
    """Return the only complaint of a command after its end."""
    command.ends()
    last = command.said.splitlines()[-1]
    assert last.startswith("crawler: ") and "Traceback" not in command.said
    return last


def test_a_wrong_key_is_reported(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    machine = start("machine", "download", edited(masters["tls"], tmp_path, key="A" * 43 + "="))
    assert "refused the key" in complaint(machine)
    assert machine.ends() == 6


def test_a_wrong_certificate_is_reported(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    join = edited(masters["tls"], tmp_path, cert=ensure_certificate(tmp_path).pem)
    machine = start("machine", "download", join, "--wait", 5)
    assert "certificate" in complaint(machine) and "join file" in complaint(machine)
    assert machine.ends() == 5


def test_a_worker_without_tls_at_a_tls_port_is_reported(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    machine = start("machine", "download", edited(masters["tls"], tmp_path, cert=""), "--wait", 5)
    assert "TLS" in complaint(machine) and "join file" in complaint(machine)
    assert machine.ends() == 5


def test_a_missing_certificate_for_a_remote_master_is_reported(
    start: Start, masters: dict[str, Path], tmp_path: Path
) -> None:
    join = edited(masters["wide"], tmp_path, cert="", addresses=[f"master.test:{port_of(masters['wide'])}"])
    machine = start("machine", "download", join, "--wait", 5)
    assert "certificate" in complaint(machine)
    assert machine.ends() == 2


def test_a_wildcard_master_sends_nothing_without_tls(masters: dict[str, Path]) -> None:
    assert json.loads(masters["wide"].read_text())["cert"].startswith("-----BEGIN CERTIFICATE")
    answer = b""
    with socket.create_connection(("127.0.0.1", port_of(masters["wide"])), 5) as stranger, suppress(ConnectionError):
        stranger.settimeout(5)
        stranger.sendall(b"\x00\x00\x00\x04#WEL")
        answer = stranger.recv(65_536)
    assert not answer or answer[:1] == b"\x15"  # at most a TLS alert (RFC 8446 §6), and no challenge


def test_another_service_at_the_port_is_reported(start: Start, masters: dict[str, Path], web: DemoServer) -> None:
    machine = start("machine", "download", masters["tls"], "--wait", 1, "--connect", web.a.removeprefix("http://"))
    assert "it is not the master of a crawl: check the address" in complaint(machine)
    assert machine.ends() == 4


def test_a_missing_master_is_reported(start: Start, masters: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    machine = start("machine", "download", masters["tls"], "--wait", 0.2, "--connect", address)
    assert address in complaint(machine) and "is `crawler harvest` running there" in complaint(machine)
    assert machine.ends() == 4


def test_a_port_in_use_is_reported(start: Start, masters: dict[str, Path], web: DemoServer, tmp_path: Path) -> None:
    address = f"127.0.0.1:{port_of(masters['tls'])}"
    master = start("second", "harvest", web.url, "-o", tmp_path / "second", "--listen", address)
    assert "the port is in use" in complaint(master) and "--listen 127.0.0.1:0" in complaint(master)
    assert master.ends() == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows protects files without modes")
def test_a_join_file_readable_by_others_is_reported(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    join = edited(masters["tls"], tmp_path)
    join.chmod(0o644)
    machine = start("machine", "download", join)
    assert complaint(machine).endswith(f"chmod 600 {join}")
    assert machine.ends() == 2


def test_an_invalid_join_file_is_reported(start: Start, tmp_path: Path) -> None:
    (tmp_path / "join").write_text("{}")
    (tmp_path / "join").chmod(0o600)
    machines = [start("empty", "download", tmp_path / "join"), start("none", "download", tmp_path / "typo")]
    assert ["is not a join file" in complaint(machines[0]), "can't read the join file" in complaint(machines[1])] == [
        True
    ] * 2
    assert [machine.ends() for machine in machines] == [2, 2]


@pytest.mark.parametrize(("protocol", "side"), [(PROTOCOL - 1, "downloader"), (PROTOCOL + 1, "master")])
def test_a_worker_with_another_protocol_is_reported(
    start: Start, masters: dict[str, Path], protocol: int, side: str
) -> None:
    machine = start("machine", "download", masters["tls"], script=OTHER_PROTOCOL.format(protocol))
    words = f"uses version {protocol} of the queue's protocol, the master version {PROTOCOL}: upgrade the {side}"
    assert words in complaint(machine)
    assert machine.ends() == 6


def test_a_master_with_the_first_protocol_is_reported(start: Start, web: DemoServer, tmp_path: Path) -> None:
    start("old", "harvest", web.url, "-o", tmp_path / "old", script=OLD_MASTER)
    wait_until(lambda: (tmp_path / "old" / "join").exists(), "a join file")
    machine = start("machine", "download", tmp_path / "old" / "join")
    assert f"uses version {PROTOCOL} of the queue's protocol, the master version 1: upgrade the master" in complaint(
        machine
    )
    assert machine.ends() == 6


@pytest.mark.parametrize("ahead", [-1_700_000_000, 3_000_000_000])
def test_a_clock_that_is_decades_wrong_does_no_harm(start: Start, tmp_path: Path, ahead: int) -> None:
    with DemoServer() as web:
        job = tmp_path / "job"
        master = start("master", "harvest", web.url, "-o", job, "-d", 0)
        wait_until(lambda: (job / "join").exists(), "a join file")
        machine = start("machine", "download", job / "join", "-o", tmp_path / "A", script=OTHER_CLOCK.format(ahead))
        assert (master.ends(), machine.ends()) == (0, 0), master.said + machine.said
    side = "ahead of" if ahead > 0 else "behind"
    assert f"its clock is {abs(ahead) / 86_400:.0f} days {side} the master's" in master.said


def test_a_master_whose_clock_is_decades_wrong_does_no_harm(start: Start, tmp_path: Path) -> None:
    with DemoServer() as web:
        job = tmp_path / "job"
        flags = ("-o", job, "-d", 0)
        master = start("master", "harvest", web.url, *flags, script=OTHER_CLOCK.format(-1_700_000_000))
        wait_until(lambda: (job / "join").exists(), "a join file")
        machine = start("machine", "download", job / "join", "-o", tmp_path / "A")
        assert (master.ends(), machine.ends()) == (0, 0), master.said + machine.said


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_a_crawl_over_ipv6_works(start: Start, tmp_path: Path) -> None:
    with DemoServer() as web:
        job = tmp_path / "job"
        master = start("master", "harvest", web.url, "-o", job, "--listen", "[::1]:0", "-d", 0)
        wait_until(lambda: (job / "join").exists(), "a join file")
        machine = start("machine", "download", job / "join", "-o", tmp_path / "A")
        assert (master.ends(), machine.ends()) == (0, 0), master.said + machine.said
    assert "Queue on [::1]:" in master.said


def test_one_downloader_can_be_stopped(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    job = masters["tls"].parent
    machines = [start(name, "download", masters["tls"], "-o", tmp_path / name) for name in ("A", "B")]
    wait_until(lambda: len(downloaders(job)) >= 2, "both have joined")
    name = (tmp_path / "A" / "store.json").read_text().partition('"id": "')[2][:8]
    (victim,) = [worker for worker in downloaders(job) if name in worker]
    assert start("stop", "stop", job, "--worker", victim).ends() == 0
    assert machines[0].ends() == 0 and "Stopped by the master: 0 images saved" in machines[0].said
    assert machines[1].process.poll() is None
    typo = start("typo", "stop", job, "--worker", "nobody")
    assert typo.ends() == 2 and "no active downloader is named 'nobody'" in typo.said


def test_the_join_file_may_be_named_by_the_environment(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    named = f"import os; os.environ['CRAWLER_JOIN'] = {str(masters['tls'])!r}"
    script = f"{named}; from crawler.cli.commands import main; main()"
    machine = start("machine", "download", "-o", tmp_path / "C", script=script)
    job, store = masters["tls"].parent, tmp_path / "C" / "store.json"
    wait_until(store.exists, "its store")
    name = json.loads(store.read_text())["id"][:8]
    wait_until(lambda: any(name in worker for worker in downloaders(job)), "it has joined")
    assert machine.process.poll() is None


def test_waiting_for_a_master_is_counted_down(start: Start, masters: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    machine = start("machine", "download", masters["tls"], "--wait", 30, "--connect", address)
    wait_until(lambda: "trying again for 30 s" in machine.said, "it says how long it waits")
    machine.interrupt()
    assert machine.ends() == 130
