"""This crawler beside other programs on the same work: ``python -m tests.benchmarks.peers [--help]``.

Each program runs as its users would run it, one after the other, in each round in another order. nginx serves a seeded
site from a RAM disk. Programs from PyPI are installed into virtual environments, which are kept for the next time.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tests.benchmarks.peers import report, site
from tests.benchmarks.peers.measure import adopt_orphans, measure, verified
from tests.benchmarks.peers.nginx import Served, serve
from tests.benchmarks.peers.programs import PROGRAMS, Installed, Task, environment, install, last_line
from tests.benchmarks.peers.report import Run
from tests.benchmarks.peers.workloads import WORKLOADS, Workload

#: The host under which nginx is asked as a proxy. It needs no DNS.
_PLAIN = "http://gallery.test"


class Bench(Struct, frozen=True):
    """All that the runs share."""

    options: argparse.Namespace
    folder: Path
    served: Served
    albums: dict[str, site.Album]
    #: Gallery → its pages with pictures.
    pages: dict[str, list[str]]

    def task(self, workload: Workload, output: Path) -> Task:
        """Return the work of one run, with its list of URLs written."""
        base = self.served.slow if workload.in_flight else self.served.fast
        paths = self.pages[workload.gallery] if workload.gallery else self.paths(workload)
        urls, plain = self.folder / "urls.txt", self.folder / "plain.txt"
        urls.write_text("".join(f"{base}{path}\n" for path in paths))
        plain.write_text("".join(f"g:{_PLAIN}{path}\n" for path in paths))
        return Task(
            crawl=bool(workload.gallery),
            in_flight=workload.in_flight,
            number=self.number(workload),
            urls=urls,
            plain_urls=plain,
            start=f"{base}/{workload.gallery}/",
            server=base,
            output=output,
            cores=os.cpu_count() or 1,
        )

    def number(self, workload: Workload) -> int:
        return len(self.paths(workload))

    def paths(self, workload: Workload) -> list[str]:
        return self.albums[workload.album].paths[: scaled(workload, self.options.scale)]

    def run(self, workload: Workload, installed: Installed, round_: int) -> Run | None:
        """Run a program once, or return None if it does not do such work."""
        folder = self.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        output = folder / "output"
        output.mkdir(parents=True)
        task = self.task(workload, output)
        command = installed.program.command(task, installed.path)
        if command is None:
            return None
        mark = self.served.mark()
        usage = measure(command, folder, environment(), self.options.limit)
        requests, begun = self.served.requests_since(mark)
        told = "" if usage.code == 0 else last_line((folder / "log").read_text(encoding="utf-8", errors="replace"))
        return Run(
            workload=workload.name,
            program=installed.program.name,
            version=installed.version,
            round=round_,
            number=task.number,
            verified=verified(output, self.albums[workload.album].digests),
            seconds=usage.seconds,
            seconds_of_requests=usage.ended - begun if requests else 0.0,
            cpu=usage.cpu,
            memory=usage.memory,
            requests=requests,
            code=usage.code,
            message=f"stopped after {self.options.limit:.0f} s" if usage.code is None else told,
            command=command,
        )


def scaled(workload: Workload, scale: float) -> int:
    """Return the number of pictures of a workload if only a share of them is used."""
    return max(1, round(workload.number * scale)) if workload.number >= 100 else workload.number


@contextmanager
def prepared(options: argparse.Namespace, workloads: list[Workload]) -> Iterator[Bench]:
    """Write the site and serve it until the end of the block."""
    ram = Path("/dev/shm")  # noqa: S108  # a folder of our own is made in it
    with tempfile.TemporaryDirectory(prefix="peers-", dir=ram if ram.is_dir() else None) as name:
        folder = Path(name)
        root = folder / "site"
        root.mkdir()
        folder.chmod(0o755)
        needed = {album: [each for each in workloads if each.album == album] for album in ("small", "large")}
        albums = {
            album: site.write_album(root, album, max(scaled(each, options.scale) for each in group), group[0].size)
            for album, group in needed.items()
            if group
        }
        site.write_thumbnails(root)
        (root / "robots.txt").write_text("User-agent: *\nDisallow: /private/\n")
        with serve(root, folder, os.cpu_count() or 1) as served:
            galleries = [each.gallery for each in workloads if each.gallery]
            pages = {each: site.write_gallery(root, each, albums["small"], served.fast) for each in galleries}
            yield Bench(options, folder, served, albums, pages)


def rounds(bench: Bench, workloads: list[Workload], programs: list[Installed]) -> Iterator[Run]:
    """Yield the runs. A program that exceeds the time limit, or saves nothing, does not get that work again."""
    given_up = set()
    for number in range(bench.options.rounds):
        for workload in workloads:
            for installed in programs if number % 2 == 0 else reversed(programs):
                key = (workload.name, installed.program.name)
                run = None if key in given_up else bench.run(workload, installed, number)
                if run is None:
                    continue
                if run.code is None or not run.verified:
                    given_up.add(key)
                yield run


def machine(served: Served) -> dict[str, Any]:
    """Return what the figures depend on besides the programs."""
    model = platform.processor()
    if (path := Path("/proc/cpuinfo")).exists():
        models = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if "model name" in line]
        model = next(iter(models), model)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "processor": model,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if sys.platform != "win32" else None,
        "python": platform.python_version(),
        "nginx": served.version,
    }


def write_report(folder: Path) -> str:
    """Write the tables and the plot of the results in a folder; return the tables."""
    lines = (folder / "runs.jsonl").read_bytes().splitlines()
    about = msgspec.json.decode(lines[0])
    runs = [msgspec.json.decode(line, type=Run) for line in lines[1:]]
    rows = report.medians(runs)
    versions = dict.fromkeys(f"{run.program} {run.version}" for run in runs if run.version)
    share = "" if about["scale"] == 1 else f" ({about['scale']:.0%} of the pictures)".replace("%", " %")
    text = (
        "Images per second of the whole command (milliseconds of CPU per image), medians of up to "
        f"{max((row.rounds for row in rows), default=0)} runs{share}:\n\n"
        f"{report.overview(rows)}\n{report.details(rows)}\n"
        f"{about['processor']}, {about['cores']} cores, load at the start {about['load']:.1f}, {about['system']}, "
        f"Python {about['python']}, nginx {about['nginx']}, {about['date']}; {', '.join(versions)}.\n"
    )
    (folder / "table.md").write_text(text, encoding="utf-8")
    (folder / "plot.svg").write_text(report.plot(rows), encoding="utf-8")
    return text


def cache_folder() -> Path:
    """Return the user's folder for files that may be deleted at any time."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local"))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__.split("\n\n")[1])
    parser.add_argument("-w", "--workload", action="append", choices=[each.name for each in WORKLOADS], default=[])
    parser.add_argument("-p", "--program", action="append", choices=[each.name for each in PROGRAMS], default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the pictures, for a trial")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one run of one program")
    parser.add_argument("-o", "--output", type=Path, default=Path("peers"), help="folder for runs.jsonl and the report")
    parser.add_argument(
        "--cache", type=Path, default=cache_folder() / "imgcrawler-peers", help="folder of the programs"
    )
    parser.add_argument("--report", action="store_true", help="run nothing, make the report of the output folder again")
    return parser.parse_args(arguments)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def not_installed(name: str, reason: str, workload: Workload) -> Run:
    """Return the run of a program that could not be installed."""
    return Run(
        workload=workload.name,
        program=name,
        version="",
        round=0,
        number=workload.number,
        verified=0,
        seconds=0.0,
        seconds_of_requests=0.0,
        cpu=0.0,
        memory=None,
        requests=0,
        code=None,
        message=reason,
    )


def main() -> None:
    options = parse()
    if not options.report:
        run_all(options)
    say(write_report(options.output))


def run_all(options: argparse.Namespace) -> None:
    """Run the chosen programs with the chosen workloads, and write a line for each run."""
    workloads = [each for each in WORKLOADS if each.name in (options.workload or [w.name for w in WORKLOADS])]
    chosen = [each for each in PROGRAMS if each.name in (options.program or [p.name for p in PROGRAMS])]
    say(f"programs from PyPI: {options.cache}")
    installed = {program.name: install(program, options.cache) for program in chosen}
    options.output.mkdir(parents=True, exist_ok=True)
    adopt_orphans()
    begin = time.monotonic()
    with prepared(options, workloads) as bench, (options.output / "runs.jsonl").open("wb") as file:

        def note(entry: object) -> None:
            file.write(msgspec.json.encode(entry) + b"\n")
            file.flush()

        note({**machine(bench.served), "scale": options.scale, "seed": site.SEED})
        for name, reason in installed.items():
            if isinstance(reason, str):
                say(f"{name}: {reason}")
                note(not_installed(name, reason, workloads[0]))
        for run in rounds(bench, workloads, [each for each in installed.values() if isinstance(each, Installed)]):
            note(run)
            saved = f"{run.verified} of {run.number} saved"
            say(f"{run.workload:<11}{run.program:<20}{run.seconds:7.2f} s {run.cpu:7.2f} s CPU  {saved}  {run.message}")
    say(f"{time.monotonic() - begin:.0f} s\n")


if __name__ == "__main__":
    main()
