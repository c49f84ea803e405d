"""`crawler status` only reads: it works on a read-only directory, and changes nothing."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import crawler
from crawler.app.status import look_at
from crawler.demo.server import DemoServer
from tests.support.processes import PATIENCE, commands, many_pictures, stats_of, wait_until

#: Runs a command on one crawl, so that all modules are imported, and then on another one without root privileges: root,
#: who may read and write everywhere, becomes the user "nobody" of most systems.
_AS_NOBODY = """
import os, sys
from crawler.cli.commands import cli, main
cli.main([sys.argv[1], sys.argv[2]], standalone_mode=False)
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
del sys.argv[2]
main()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield a directory that every user can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(command: str, other: Path, job: Path, place: Path) -> subprocess.CompletedProcess[str]:
    """Run a command on a crawl as a user without root privileges."""
    line = [sys.executable, "-c", _AS_NOBODY, command, str(other), str(job)]
    return subprocess.run(line, cwd=place, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no permission bits")
@pytest.mark.parametrize("has_lock", [True, False])
def test_status_works_on_a_read_only_directory(place: Path, tmp_path: Path, has_lock: bool) -> None:
    job = place / "job"
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        crawler.run(server.url, output=job, max_images=2)
    other = shutil.copytree(job, tmp_path / "other")
    if not has_lock:
        (job / ".lock").unlink()
    for path in job.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    job.chmod(0o555)
    ended = as_nobody("status", other, job, place)
    job.chmod(0o755)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1].startswith(f"{job}: finished; pages 1/1, images 2/3: 2 saved")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no permission bits")
@pytest.mark.parametrize("command", ["status", "verify"])
def test_another_user_is_informed_about_the_required_permissions(place: Path, tmp_path: Path, command: str) -> None:
    job = place / "job"
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        crawler.run(server.url, output=job)
    other = shutil.copytree(job, tmp_path / "other")
    (job / "frontier.sqlite").chmod(0)
    ended = as_nobody(command, other, job, place)
    assert ended.returncode == 3
    complaint = f"crawler: no permission to read {job}/frontier.sqlite: run the command as the owner of that file"
    assert ended.stderr.splitlines()[-1] == complaint


def test_status_leaves_a_stopped_and_a_killed_crawl_unchanged(tmp_path: Path) -> None:
    job = tmp_path / "job"
    with DemoServer(many_pictures(tmp_path, 3)) as server, commands(tmp_path) as start:
        server.hold("/0002.png")
        master = start("master", "run", server.url, "-o", job, "-w", 0)
        wait_until(lambda: stats_of(job).success == 2, "two pictures")
        master.kill()
        before = _files(job)
        stats, is_running = look_at(job)
        assert (stats.success, stats.leased, is_running) == (2, 1, False)
        assert _files(job) == before


def _files(job: Path) -> dict[Path, bytes]:
    """Return every file but SQLite's shared memory, which readers use, too."""
    return {path: path.read_bytes() for path in job.rglob("*") if path.is_file() and not path.name.endswith("-shm")}
