"""What a person reads when boxes don't find together: real processes, one line each and an exit code."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from crawler.demo import DemoServer
from crawler.engines.tls import ensure_certificate
from crawler.frontier.base import PROTOCOL
from tests.processes import Command, commands, downloaders, wait_until

Start = Callable[..., Command]

#: A command of a release that speaks another protocol.
OTHER_PROTOCOL = "import crawler.frontier.base as base; base.PROTOCOL = {}; from crawler.cli import main; main()"
#: A master of protocol 1 had never heard of a third argument.
OLD_MASTER = """
from typing import Any
import crawler.frontier.base as base
base.PROTOCOL = 1
from crawler.engines import calls, manager
class OldHello(calls._Arguments, frozen=True):
    worker: calls._Worker
    protocol: calls._Number
calls.SIGNATURES[calls.TASKS]["hello"] = calls.Signature(OldHello, dict[str, Any])
manager.TaskQueue.hello = lambda self, worker, protocol: self._frontier.hello(worker, protocol)
from crawler.cli import main
main()
"""
OTHER_CLOCK = "import time; real = time.time; time.time = lambda: real() + {}; from crawler.cli import main; main()"


@pytest.fixture(scope="module")
def web() -> Iterator[DemoServer]:
    """A site that keeps its crawlers waiting."""
    with DemoServer() as server:
        server.hold("/robots.txt")
        yield server


@pytest.fixture(scope="module")
def masters(web: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Masters with nothing to do, by the name of their directory: in the clear and with TLS."""
    folder = tmp_path_factory.mktemp("masters")
    patient = "[queue]\nlease = 1800\n[fetch]\nfirst_byte_timeout = 900\ntotal_timeout = 900\n"
    (folder / "crawler.toml").write_text(patient)  # until the last of these tests is done
    with commands(folder) as start:
        for name, flags in {"plain": (), "tls": ("--tls", "always"), "wide": ("--listen", "0.0.0.0:0")}.items():
            start(name, "harvest", web.url, "-o", folder / name, *flags)
        places = {name: folder / name / "join" for name in ("plain", "tls", "wide")}
        wait_until(lambda: all(path.exists() for path in places.values()), "their join files")
        yield places


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


def edited(join: Path, folder: Path, **fields: object) -> Path:
    """A copy of a join file with other values."""
    path = folder / "join"
    path.write_text(json.dumps(json.loads(join.read_text()) | fields))
    path.chmod(0o600)
    return path


def port_of(join: Path) -> int:
    return int(json.loads(join.read_text())["addresses"][0].rpartition(":")[2])


def complaint(command: Command) -> str:
    """The one line that is there when it has ended."""
    command.ends()
    last = command.said.splitlines()[-1]
    assert last.startswith("crawler: ") and "Traceback" not in command.said
    return last


def test_a_wrong_key(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    for name in ("plain", "tls"):
        join = edited(masters[name], tmp_path, key="A" * 43 + "=")
        box = start(name, "download", join, "--wait", 5)
        assert "refused the key" in complaint(box)
        assert box.ends() == 6


def test_a_wrong_certificate(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    join = edited(masters["tls"], tmp_path, cert=ensure_certificate(tmp_path).pem)
    box = start("box", "download", join, "--wait", 5)
    assert "certificate" in complaint(box) and "join file" in complaint(box)
    assert box.ends() == 5


def test_a_worker_in_the_clear_at_a_tls_port(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    box = start("box", "download", edited(masters["tls"], tmp_path, cert=""), "--wait", 5)
    assert "TLS" in complaint(box) and "join file" in complaint(box)
    assert box.ends() == 5


def test_a_worker_with_tls_at_a_port_in_the_clear(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    cert = json.loads(masters["tls"].read_text())["cert"]
    box = start("box", "download", edited(masters["plain"], tmp_path, cert=cert), "--wait", 5)
    assert "TLS" in complaint(box) and "join file" in complaint(box)
    assert box.ends() == 5


def test_no_certificate_for_a_master_elsewhere(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    join = edited(masters["wide"], tmp_path, cert="", addresses=[f"master.test:{port_of(masters['wide'])}"])
    box = start("box", "download", join, "--wait", 5)
    assert "certificate" in complaint(box)
    assert box.ends() == 2


def test_a_wildcard_master_says_nothing_in_the_clear(masters: dict[str, Path]) -> None:
    assert json.loads(masters["wide"].read_text())["cert"].startswith("-----BEGIN CERTIFICATE")
    answer = b""
    with socket.create_connection(("127.0.0.1", port_of(masters["wide"])), 5) as stranger, suppress(ConnectionError):
        stranger.settimeout(5)
        stranger.sendall(b"\x00\x00\x00\x04#WEL")
        answer = stranger.recv(65_536)
    assert not answer or answer[:1] == b"\x15"  # at most a TLS alert (RFC 8446 §6), and no challenge


def test_another_service_at_the_port(start: Start, masters: dict[str, Path], web: DemoServer) -> None:
    for name in ("plain", "tls"):
        box = start(name, "download", masters[name], "--wait", 1, "--connect", web.a.removeprefix("http://"))
        assert "it is not a crawler harvester: check the address" in complaint(box)
        assert box.ends() == 4


def test_nobody_there(start: Start, masters: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    box = start("box", "download", masters["plain"], "--wait", 0.2, "--connect", address)
    assert address in complaint(box) and "is `crawler harvest` running there" in complaint(box)
    assert box.ends() == 4


def test_a_port_in_use(start: Start, masters: dict[str, Path], web: DemoServer, tmp_path: Path) -> None:
    address = f"127.0.0.1:{port_of(masters['plain'])}"
    master = start("second", "harvest", web.url, "-o", tmp_path / "second", "--listen", address)
    assert "the port is in use" in complaint(master) and "--listen 127.0.0.1:0" in complaint(master)
    assert master.ends() == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a user's files by other means than a mode")
def test_a_join_file_that_others_can_read(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    join = edited(masters["plain"], tmp_path)
    join.chmod(0o644)
    box = start("box", "download", join)
    assert complaint(box).endswith(f"chmod 600 {join}")
    assert box.ends() == 2


def test_what_is_no_join_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "join").write_text("{}")
    (tmp_path / "join").chmod(0o600)
    boxes = [start("empty", "download", tmp_path / "join"), start("none", "download", tmp_path / "typo")]
    assert ["is not a join file" in complaint(boxes[0]), "can't read the join file" in complaint(boxes[1])] == [
        True
    ] * 2
    assert [box.ends() for box in boxes] == [2, 2]


@pytest.mark.parametrize(("protocol", "side"), [(PROTOCOL - 1, "worker"), (PROTOCOL + 1, "master")])
def test_a_worker_of_another_protocol(start: Start, masters: dict[str, Path], protocol: int, side: str) -> None:
    box = start("box", "download", masters["tls"], script=OTHER_PROTOCOL.format(protocol))
    words = f"speaks protocol {protocol}, the master {PROTOCOL}: upgrade the {side}"
    assert words in complaint(box)
    assert box.ends() == 6


def test_a_master_of_the_first_protocol(start: Start, web: DemoServer, tmp_path: Path) -> None:
    start("old", "harvest", web.url, "-o", tmp_path / "old", script=OLD_MASTER)
    wait_until(lambda: (tmp_path / "old" / "join").exists(), "a join file")
    box = start("box", "download", tmp_path / "old" / "join")
    assert f"speaks protocol {PROTOCOL}, the master 1: upgrade the master" in complaint(box)
    assert box.ends() == 6


@pytest.mark.parametrize("ahead", [-1_700_000_000, 3_000_000_000])
def test_a_clock_that_is_decades_wrong_harms_nothing(start: Start, tmp_path: Path, ahead: int) -> None:
    with DemoServer() as web:
        job = tmp_path / "job"
        master = start("master", "harvest", web.url, "-o", job, "--tls", "always", "-d", 0)
        wait_until(lambda: (job / "join").exists(), "a join file")
        box = start("box", "download", job / "join", "-o", tmp_path / "A", script=OTHER_CLOCK.format(ahead))
        assert (master.ends(), box.ends()) == (0, 0), master.said + box.said
    side = "ahead of" if ahead > 0 else "behind"
    assert f"its clock is {abs(ahead) / 86_400:.0f} d {side} this one" in master.said


def test_a_master_whose_clock_is_decades_wrong(start: Start, tmp_path: Path) -> None:
    with DemoServer() as web:
        job = tmp_path / "job"
        flags = ("-o", job, "--tls", "always", "-d", 0)
        master = start("master", "harvest", web.url, *flags, script=OTHER_CLOCK.format(-1_700_000_000))
        wait_until(lambda: (job / "join").exists(), "a join file")
        box = start("box", "download", job / "join", "-o", tmp_path / "A")
        assert (master.ends(), box.ends()) == (0, 0), master.said + box.said


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_a_crawl_over_ipv6(start: Start, tmp_path: Path) -> None:
    with DemoServer() as web:
        job = tmp_path / "job"
        master = start("master", "harvest", web.url, "-o", job, "--listen", "[::1]:0", "--tls", "always", "-d", 0)
        wait_until(lambda: (job / "join").exists(), "a join file")
        box = start("box", "download", job / "join", "-o", tmp_path / "A")
        assert (master.ends(), box.ends()) == (0, 0), master.said + box.said
    assert "Queue on [::1]:" in master.said


def test_one_downloader_is_sent_home(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    job = masters["tls"].parent
    boxes = [start(name, "download", masters["tls"], "-o", tmp_path / name) for name in ("A", "B")]
    wait_until(lambda: len(downloaders(job)) >= 2, "both have joined")
    name = (tmp_path / "A" / "store.json").read_text().partition('"id": "')[2][:8]
    (victim,) = [worker for worker in downloaders(job) if name in worker]
    assert start("stop", "stop", job, "--worker", victim).ends() == 0
    assert boxes[0].ends() == 0 and "Sent home by the master: 0 images saved" in boxes[0].said
    assert boxes[1].process.poll() is None
    typo = start("typo", "stop", job, "--worker", "nobody")
    assert typo.ends() == 2 and "no downloader of that name is at work here: 'nobody'" in typo.said


def test_the_join_file_may_be_named_by_the_environment(start: Start, masters: dict[str, Path], tmp_path: Path) -> None:
    script = f"import os; os.environ['CRAWLER_JOIN'] = {str(masters['plain'])!r}; from crawler.cli import main; main()"
    box = start("box", "download", "-o", tmp_path / "C", script=script)
    job, store = masters["plain"].parent, tmp_path / "C" / "store.json"
    wait_until(store.exists, "its store")
    name = json.loads(store.read_text())["id"][:8]
    wait_until(lambda: any(name in worker for worker in downloaders(job)), "it has joined")
    assert box.process.poll() is None


def test_waiting_for_a_master_is_counted_down(start: Start, masters: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    box = start("box", "download", masters["plain"], "--wait", 30, "--connect", address)
    wait_until(lambda: "trying again for 30 s" in box.said, "it says how long it waits")
    box.interrupt()
    assert box.ends() == 130
