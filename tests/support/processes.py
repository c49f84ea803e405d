"""Real commands in real processes, for tests that need several processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from crawler.app.status import look_at
from crawler.errors import CrawlerError
from crawler.model import ImageRecord
from crawler.stats import FrontierStats
from crawler.store.manifest import read_manifest

#: Seconds after which a test gives up waiting; far above what is ever needed.
PATIENCE = 300.0


class Command:
    """One ``crawler`` command, or a script that replaces it; its output is kept in files."""

    def __init__(self, name: str, folder: Path, *arguments: str, script: str = "", prefix: Sequence[str] = ()) -> None:
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        with self.out.open("ab") as out, self.err.open("ab") as err:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("CRAWLER_")}
            self.process = subprocess.Popen(
                [*prefix, sys.executable, *(["-c", script] if script else ["-m", "crawler"]), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=environment,
            )

    def interrupt(self) -> None:
        """Send the signal of Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it by SIGKILL, or its equivalent on Windows."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def ends(self, patience: float = PATIENCE) -> int:
        """Wait for its end; return the exit code."""
        return self.process.wait(patience)

    @property
    def said(self) -> str:
        """Return the output on standard error so far."""
        return self.err.read_text(encoding="utf-8")

    @property
    def results(self) -> list[str]:
        return self.out.read_text(encoding="utf-8").splitlines()


@contextmanager
def commands(folder: Path) -> Iterator[Callable[..., Command]]:
    """Start commands in ``folder``; end all of them at the end of the block."""
    running: list[Command] = []

    def start(name: str, *arguments: object, script: str = "", prefix: Sequence[str] = ()) -> Command:
        running.append(Command(name, folder, *map(str, arguments), script=script, prefix=prefix))
        return running[-1]

    try:
        yield start
    finally:
        for command in running:
            command.kill()


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Check repeatedly until ``is_so``; fail with ``what`` after a timeout."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)  # between two checks of another process, which sends no event


def stats_of(job: Path) -> FrontierStats:
    """Return the counts of a running crawl; empty ones if it does not answer yet."""
    try:
        return look_at(job)[0]
    except CrawlerError:
        return FrontierStats()


def downloaders(job: Path) -> set[str]:
    """Return the names of the downloaders that have joined."""
    return {worker.name for worker in stats_of(job).workers} - {"harvester"}


def manifest_of(job: Path) -> list[ImageRecord]:
    return list(read_manifest(job / "manifest.jsonl"))


def many_pictures(folder: Path, number: int) -> Path:
    """Write a site of one page with this number of small, distinct pictures."""
    place = folder / "site" / "a"
    place.mkdir(parents=True)
    names = [f"{n:04}.png" for n in range(number)]
    for n, name in enumerate(names):
        Image.new("RGB", (16, 16), (n % 256, n // 256, 99)).save(place / name)
    (place / "index.html").write_text("".join(f'<img src="{name}">' for name in names))
    return folder / "site"
