"""A master and machines with networks of their own, TLS between them, and interrupted cables."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from crawler.demo.check import compare, load_truth
from crawler.demo.server import DemoServer
from tests.support.faulty import Cable
from tests.support.hosts import Host, why_not
from tests.support.processes import Command, commands, downloaders, manifest_of, many_pictures, stats_of, wait_until

Start = Callable[..., Command]

_REASON = why_not()
pytestmark = [pytest.mark.fire, pytest.mark.skipif(bool(_REASON), reason=_REASON)]

IMPATIENT = (
    "from crawler.queue import client; client._ANSWER_SECONDS = 2.0; from crawler.cli.commands import main; main()"
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    # A request may take half a lease. A read that gets nothing must end earlier: only then is it worth a retry.
    (tmp_path / "crawler.toml").write_text("[queue]\nlease = 6\n[fetch]\nfirst_byte_timeout = 2\n")
    with commands(tmp_path) as starter:
        yield starter


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Host(number)) for number in (1, 2)]


def show(web: DemoServer, hosts: list[Host], stack: ExitStack) -> None:
    """Make the web reachable for the machines under the address that it has here."""
    port = int(web.a.rpartition(":")[2])
    for host in hosts:
        relay = stack.enter_context(Cable(("127.0.0.1", port), host.here))
        host.pass_on(port, relay.address[1])


def begin(start: Start, web: DemoServer, job: Path, *flags: object) -> tuple[Command, int]:
    """Start a master that all can reach; return it with its port."""
    master = start("master", "harvest", web.url, "-o", job, "--listen", "0.0.0.0:0", "--advertise", "127.0.0.1", *flags)
    wait_until(lambda: (job / "join").exists(), "a join file")
    return master, int(json.loads((job / "join").read_text())["addresses"][0].rpartition(":")[2])


def machine(start: Start, host: Host, job: Path, port: int, script: str = "", threads: int = 16) -> Command:
    flags = ("-o", job.parent / host.name, "-t", threads, "--allow-private", "--connect", f"{host.here}:{port}")
    return start(host.name, "download", job / "join", *flags, script=script, prefix=host.prefix)


def test_two_machines_survive_interrupted_cables(start: Start, hosts: list[Host], tmp_path: Path) -> None:
    job = tmp_path / "job"
    with ExitStack() as stack:
        web = stack.enter_context(DemoServer())
        web.hold("/robots.txt")
        show(web, hosts, stack)
        master, port = begin(start, web, job, "--delay", 0.1, "--per-host", 1)
        machines = [machine(start, host, job, port) for host in hosts]
        wait_until(lambda: len(downloaders(job)) == 2, "both have joined")
        web.release("/robots.txt")
        for host, settled in zip(hosts, (5, 20), strict=True):
            wait_until(lambda: _settled(job) > settled, "some pictures")  # noqa: B023  # called within the loop
            host.cut()
            wait_until(lambda: any(w.silent > 2 for w in stats_of(job).workers), "the detection of its loss")
            host.mend()
        assert [command.ends() for command in (master, *machines)] == [0, 0, 0], master.said
        assert compare(load_truth(web), manifest_of(job)) == []
    assert '"cert":' in (job / "join").read_text() and len({row.worker for row in manifest_of(job) if row.path}) == 2


def test_a_machine_can_change_its_address(start: Start, hosts: list[Host], tmp_path: Path) -> None:
    job, (host, _) = tmp_path / "job", hosts
    with ExitStack() as stack:
        faults = {f"/{n:04}.png": {"delay": 0.2} for n in range(40)}
        web = stack.enter_context(DemoServer(many_pictures(tmp_path, 40), faults))
        show(web, [host], stack)
        master, port = begin(start, web, job)
        laptop = machine(start, host, job, port, script=IMPATIENT, threads=2)
        wait_until(lambda: stats_of(job).success > 3, "some pictures")
        host.move(77)
        assert (master.ends(), laptop.ends()) == (0, 0), laptop.said
    assert [(row.url, row.reason) for row in manifest_of(job) if row.status != "success"] == []
    assert len(manifest_of(job)) == 40


def test_an_unreachable_network_is_reported(start: Start, hosts: list[Host], tmp_path: Path) -> None:
    with DemoServer() as web:
        web.hold("/robots.txt")
        begin(start, web, tmp_path / "job")
        lost = hosts[0]
        for place, words in (("10.99.0.1:9", "Network is unreachable"), ("nowhere.invalid:9", "")):
            flags = ("--wait", 0.2, "--connect", place)
            command = start("lost", "download", tmp_path / "job" / "join", *flags, prefix=lost.prefix)
            assert command.ends() == 4
            line = command.said.splitlines()[-1]
            assert f"no answer from {place}: {words}" in line and "check the network of this machine" in line


def test_only_peers_with_the_key_are_accepted_over_the_network(start: Start, hosts: list[Host], tmp_path: Path) -> None:
    with DemoServer() as web:
        web.hold("/robots.txt")
        _, port = begin(start, web, tmp_path / "job")
        join = tmp_path / "other"
        join.write_text(json.dumps(json.loads((tmp_path / "job" / "join").read_text()) | {"cert": ""}))
        join.chmod(0o600)
        command = start("plain", "download", join, "--connect", f"{hosts[0].here}:{port}", prefix=hosts[0].prefix)
        assert command.ends() == 2
        assert "the join file has no certificate" in command.said
        with socket.create_connection((hosts[0].here, port), 5) as stranger:
            stranger.settimeout(0.5)
            with pytest.raises(TimeoutError):  # it waits for a TLS hello, and sends nothing before
                stranger.recv(1)


def _settled(job: Path) -> int:
    stats = stats_of(job)
    return stats.success + stats.duplicate + stats.failed
