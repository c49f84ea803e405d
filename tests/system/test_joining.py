"""Downloaders that join a master as users do it: the join file, and the results of an invalid one."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crawler.demo.server import DemoServer
from crawler.queue.tls import ensure_certificate
from tests.support.pictures import PictureHost
from tests.support.processes import Command, commands, downloaders, manifest_of, wait_until

pytestmark = pytest.mark.fire

Start = Callable[..., Command]

#: A simulated file system on which every file has the mode 0777 and chmod does nothing.
NO_MODES = """
import os
_stat, _fstat = os.stat, os.fstat

def _open_to_all(found):
    return os.stat_result((found.st_mode | 0o777, *found[1:])) if found.st_mode & 0o170000 == 0o100000 else found

def _is_secret(path):
    return os.path.basename(os.fspath(path)) in ("join", "tls.key")

def stat(path, *args, **kwargs):
    found = _stat(path, *args, **kwargs)
    return _open_to_all(found) if not isinstance(path, int) and _is_secret(path) else found

def fstat(descriptor):
    found = _fstat(descriptor)
    return _open_to_all(found) if _is_secret(os.readlink(f"/proc/self/fd/{descriptor}")) else found

os.stat, os.fstat, os.chmod = stat, fstat, lambda *args, **kwargs: None
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


@pytest.fixture
def web() -> Iterator[DemoServer]:
    """Run a site that lets its crawlers wait."""
    with DemoServer() as server:
        server.hold("/robots.txt")
        yield server


def edited(join: Path, folder: Path, **fields: object) -> Path:
    path = folder / "edited"
    path.write_text(json.dumps(json.loads(join.read_text()) | fields))
    path.chmod(0o600)
    return path


def harvesting(start: Start, web: DemoServer, job: Path, *flags: object) -> tuple[Command, list[str]]:
    """Start a master; return it with the addresses in its join file."""
    master = start("master", "harvest", web.url, "-o", job, *flags)
    wait_until(lambda: (job / "join").exists(), "a join file")
    return master, json.loads((job / "join").read_text())["addresses"]


def test_a_wrong_key_is_reported_at_once_and_costs_the_master_one_line(
    start: Start, web: DemoServer, tmp_path: Path
) -> None:
    job = tmp_path / "job"
    master, addresses = harvesting(start, web, job, "--listen", "0.0.0.0:0")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        away = f"127.0.0.1:{closed.getsockname()[1]}"
    join = edited(job / "join", tmp_path, key="A" * 43 + "=", addresses=[away, *addresses, away])
    for number in range(3):
        machine = start(f"machine{number}", "download", join, "-o", tmp_path / "machine")
        assert machine.ends() == 6
        assert "trying again" not in machine.said and "refused the key" in machine.said
    wait_until(lambda: "wrong key" in master.said, "the master says so")
    assert master.said.count("refused a connection") == 1


def test_a_wrong_certificate_is_reported_at_once(start: Start, web: DemoServer, tmp_path: Path) -> None:
    job = tmp_path / "job"
    _, addresses = harvesting(start, web, job, "--listen", "0.0.0.0:0")
    join = edited(job / "join", tmp_path, cert=ensure_certificate(tmp_path).pem, addresses=["no.invalid:1", *addresses])
    machine = start("machine", "download", join, "-o", tmp_path / "machine")
    assert machine.ends() == 5
    assert "trying again" not in machine.said and "certificate" in machine.said


def test_the_join_file_of_a_wildcard_master_has_the_addresses_of_its_machine(
    start: Start, web: DemoServer, tmp_path: Path
) -> None:
    job = tmp_path / "job"
    master, addresses = harvesting(start, web, job, "--listen", "0.0.0.0:0")
    hosts = [address.rpartition(":")[0] for address in addresses]
    assert hosts[-1] == "127.0.0.1"
    wait_until(lambda: "scp " in master.said, "the hint")
    assert f"    scp {hosts[0]}:" in master.said
    own = start("own", script="from crawler.queue.interfaces import own_addresses as o; print(*o(ipv6=False))")
    assert own.ends() == 0
    assert own.results[0].split() == [host for host in hosts[:-1] if host[0].isdigit()]


def test_connect_takes_the_port_of_the_join_file(start: Start, web: DemoServer, tmp_path: Path) -> None:
    job = tmp_path / "job"
    _, addresses = harvesting(start, web, job)
    port = addresses[0].rpartition(":")[2]
    join = edited(job / "join", tmp_path, addresses=[f"no.invalid:{port}"])
    machine = start("machine", "download", join, "-o", tmp_path / "machine", "--connect", "127.0.0.1")
    wait_until(lambda: len(downloaders(job)) == 1, "it has joined")
    assert machine.process.poll() is None


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="simulated by means of /proc")
def test_a_crawl_works_on_a_file_system_without_modes(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(NO_MODES)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'python'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with PictureHost() as host:
        flags = ("--images", host.list_of(8, tmp_path), "--allow-private", "--no-robots")
        crawl = start("run", "run", *flags, "-o", tmp_path / "out", "-w", 2)
        assert crawl.ends() == 0, crawl.said
        assert [row.status for row in manifest_of(tmp_path / "out")] == ["success"] * 8
        assert crawl.said.count("because its file system keeps no permissions") == 1, crawl.said
        master = start("master", "harvest", *flags, "-o", tmp_path / "job")
        wait_until(lambda: (tmp_path / "job" / "join").exists(), "a join file")
        machine = start("machine", "download", tmp_path / "job" / "join", "-o", tmp_path / "machine", "--allow-private")
        assert (machine.ends(), master.ends()) == (0, 0), machine.said + master.said
        assert "because its file system keeps no permissions" in machine.said


def test_a_downloader_reads_the_join_file_from_a_pipe(start: Start, web: DemoServer, tmp_path: Path) -> None:
    job = tmp_path / "job"
    harvesting(start, web, job)
    script = f"import os, sys; os.dup2(os.open({str(job / 'join')!r}, os.O_RDONLY), 0)"
    machine = start(
        "machine",
        "download",
        "-",
        "-o",
        tmp_path / "machine",
        script=f"{script}; from crawler.cli.commands import main; main()",
    )
    wait_until(lambda: len(downloaders(job)) == 1 or machine.process.poll() is not None, "it has joined")
    assert machine.process.poll() is None, machine.said


def test_a_downloader_waits_for_its_master_despite_any_other_service_at_its_port(start: Start, tmp_path: Path) -> None:
    job, machine_of = tmp_path / "job", ("-o", tmp_path / "machine", "--allow-private")
    with PictureHost() as host:
        host_list = host.list_of(8, tmp_path)
        flags = ("harvest", "--images", host_list, "-o", job, "--allow-private", "--no-robots", "--delay", 0.5)
        master = start("master", *flags)
        wait_until(lambda: (job / "join").exists(), "a join file")
        machine = start("machine", "download", job / "join", *machine_of)
        wait_until(lambda: sum(host.asked.values()) > 1, "some pictures")
        place = ("127.0.0.1", int(json.loads((job / "join").read_text())["addresses"][0].rpartition(":")[2]))
        master.kill()
        visits: list[int] = []
        with socket.create_server(place) as stranger:
            while len(visits) < 5:
                peer, _ = stranger.accept()
                with peer:
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    visits.append(len(visits))
        assert machine.process.poll() is None, machine.said
        again = start("again", *flags)
        assert (machine.ends(), again.ends()) == (0, 0), machine.said + again.said
        assert [row.status for row in manifest_of(job)] == ["success"] * 8
