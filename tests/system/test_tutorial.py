"""The worker that the guide shows: exactly that block, as a script of its own, against a real master."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

import crawler
from crawler.demo.check import compare, load_truth
from crawler.demo.server import DemoServer
from tests.support.processes import PATIENCE, Command, commands, manifest_of, many_pictures, wait_until

PAGE = Path(crawler.__file__).parent / "guide" / "python.md"


def tutorial() -> str:
    """The block of the page that registers the two queues."""
    blocks = PAGE.read_text(encoding="utf-8").split("```python\n")[1:]
    (block,) = [body for body in (block.split("```\n")[0] for block in blocks) if "get_result_queue" in body]
    return block


@contextmanager
def working(folder: Path, master: Command) -> Iterator["subprocess.Popen[str]"]:
    """Run the tutorial's script in ``folder``, with the crawl in ``job``."""
    (folder / "worker.py").write_text(tutorial(), encoding="utf-8")
    wait_until(lambda: (folder / "job" / "join").exists() or master.process.poll() is not None, "a join file")
    with subprocess.Popen([sys.executable, "worker.py"], cwd=folder, stderr=subprocess.PIPE, text=True) as script:
        try:
            yield script
        finally:
            script.kill()


def test_the_tutorial_downloads_the_demo_web_completely(site: DemoServer, tmp_path: Path) -> None:
    with commands(tmp_path) as start:
        master = start("master", "harvest", site.url, "-o", "job")
        with working(tmp_path, master) as script:
            assert master.ends() == 0, master.said
            assert script.wait(PATIENCE) == 0, script.communicate()
    records = manifest_of(tmp_path / "job")
    assert compare(load_truth(site), records) == []
    assert {record.worker for record in records if record.status == "success"} == {"tutorial"}
    saved = {record.path for record in records if record.path}
    assert saved == {
        f.relative_to(tmp_path / "pictures").as_posix() for f in (tmp_path / "pictures/images").rglob("*.*")
    }


@pytest.mark.fire
def test_the_tutorial_keeps_the_pace_of_a_host(tmp_path: Path) -> None:
    with commands(tmp_path) as start, DemoServer(many_pictures(tmp_path, 8)) as server:
        master = start("master", "harvest", server.url, "-o", "job", "--delay", "0.4")
        with working(tmp_path, master) as script:
            assert master.ends() == 0, master.said
            assert script.wait(PATIENCE) == 0
        hits = server.requests
    assert len(hits) == 10  # robots.txt, the page, the pictures
    assert max(hit.in_flight for hit in hits) == 1
    jitter = 0.04  # maximum delay of a request in the server's log
    assert min(later.started - earlier.started for earlier, later in pairwise(hits)) >= 0.4 - jitter


def test_the_tutorial_is_as_short_as_the_pattern_it_follows() -> None:
    lines = [line for line in tutorial().splitlines() if line.strip()]
    assert len(lines) <= 18
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", ["QueueManager", "get_task_queue", "get_result_queue", "from_join", "connect", "put"])
def test_the_tutorial_uses_the_names_of_the_pattern(name: str) -> None:
    assert name in tutorial()
