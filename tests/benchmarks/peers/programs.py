"""The programs of the benchmark: how each is installed, and the command with which it does a task."""

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

import crawler

_SCRIPTS = Path(__file__).parent / "scripts"
#: Seconds for the installation of one program.
_INSTALLATION = 900
#: Requests at a time where a task does not say how many. For each program the number with which it was fastest.
_SCRAPY, _ICRAWLER, _MANY = 16, 1, 64


class Task(Struct, frozen=True, kw_only=True):
    """The work of one run."""

    #: Whether a site is crawled. Otherwise the pictures of the list are downloaded.
    crawl: bool
    #: Requests that the program shall have in flight; None: as many as suit it.
    in_flight: int | None
    number: int
    #: A file of the URLs of the pictures, or of the pages with pictures of the site that is crawled.
    urls: Path
    #: The same pages on a host without a port in its URL, which nginx answers if it is asked as a proxy.
    plain_urls: Path
    start: str
    server: str
    output: Path
    cores: int


class Program(Struct, frozen=True):
    """A program and its commands."""

    name: str
    #: Return the command for a task, or None if the program does not do such a task.
    command: Callable[[Task, str], list[str] | None]
    #: Its name on PyPI; "" if it is installed with the system, or is ours.
    package: str = ""
    #: Its command. The ones of a package are in the virtual environment that is made for it.
    executable: str = ""


def _ours(task: Task, *options: str) -> list[str]:
    given = [task.start] if task.crawl else ["--images", str(task.urls), "--allow-private"]
    polite = ["--delay", "0", "--per-host", str(task.in_flight or _MANY)]
    threads = ["--connections", str(-(-task.in_flight // task.cores)), "-w", str(task.cores)] if task.in_flight else []
    return [sys.executable, "-m", "crawler", "run", "-q", *given, "-o", str(task.output), *polite, *threads, *options]


def ours(task: Task, _: str) -> list[str]:
    return _ours(task)


def ours_header(task: Task, _: str) -> list[str]:
    return _ours(task, "--verify", "header")


def ours_lexbor(task: Task, _: str) -> list[str] | None:
    return _ours(task, "--parser", "lexbor") if task.crawl else None


def scrapy(task: Task, python: str) -> list[str]:
    given = ["crawl", task.start] if task.crawl else ["list", str(task.urls)]
    return [python, str(_SCRIPTS / "scrapy_files.py"), *given, str(task.output), str(task.in_flight or _SCRAPY)]


def icrawler(task: Task, python: str) -> list[str]:
    kind = "pages" if task.crawl else "list"
    threads = str(task.in_flight or _ICRAWLER)
    return [python, str(_SCRIPTS / "icrawler_files.py"), kind, str(task.urls), str(task.output), threads]


def img2dataset(task: Task, executable: str) -> list[str] | None:
    if task.crawl:
        return None
    return [
        executable,
        str(task.urls),
        f"--output_folder={task.output}",
        "--output_format=files",
        "--disable_all_reencoding=True",
        f"--processes_count={task.cores}",
        f"--thread_count={-(-(task.in_flight or _MANY) // task.cores)}",
        f"--number_sample_per_shard={-(-task.number // task.cores)}",
    ]


def gallery_dl(task: Task, executable: str) -> list[str] | None:
    if task.in_flight:
        return None  # it has one download at a time
    given = ["--proxy", task.server, "-i", str(task.plain_urls)] if task.crawl else ["-i", str(task.urls)]
    return [executable, "--config-ignore", "--quiet", *given, "-d", str(task.output)]


def aria2(task: Task, executable: str) -> list[str] | None:
    if task.crawl:
        return None
    given = ["-i", str(task.urls), "-d", str(task.output), "-j", str(task.in_flight or _MANY)]
    return [executable, "--no-conf", "--quiet", "--file-allocation=none", "-x", "1", *given]


def curl(task: Task, executable: str) -> list[str] | None:
    if task.crawl:
        return None
    config = task.urls.with_suffix(".curl")
    config.write_text("".join(f"url = {url}\nremote-name\n" for url in task.urls.read_text().split()))
    many = ["--parallel", "--parallel-immediate", "--parallel-max", str(task.in_flight or _MANY)]
    return [executable, "-q", "-sS", *many, "--create-dirs", "--output-dir", str(task.output), "-K", str(config)]


def wget(task: Task, executable: str) -> list[str] | None:
    if task.in_flight:
        return None  # it has one download at a time
    given = ["-r", "-l", "inf", task.start] if task.crawl else ["-nd", "-i", str(task.urls)]
    return [executable, "--no-config", "-q", "-P", str(task.output), *given]


OURS = "imgcrawler"
PROGRAMS = [
    Program(OURS, ours),
    Program(f"{OURS}, header", ours_header),
    Program(f"{OURS}, lexbor", ours_lexbor),
    Program("Scrapy", scrapy, "scrapy", "python"),
    Program("img2dataset", img2dataset, "img2dataset", "img2dataset"),
    Program("icrawler", icrawler, "icrawler", "python"),
    Program("gallery-dl", gallery_dl, "gallery-dl", "gallery-dl"),
    Program("aria2", aria2, executable="aria2c"),
    Program("curl", curl, executable="curl"),
    Program("wget", wget, executable="wget"),
]


class Installed(Struct, frozen=True):
    """A program that is ready to run."""

    program: Program
    path: str
    version: str


def install(program: Program, cache: Path) -> Installed | str:
    """Return the program ready to run, or the reason why it is not. A package is installed once into the cache."""
    if program.package:
        return _install_package(program, cache)
    if program.executable:
        path = shutil.which(program.executable)
        if path is None:
            return f"{program.executable} is not installed"
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
        return Installed(program, path, next((word for word in told.split() if word[0].isdecimal()), "unknown"))
    if program.command is ours_lexbor and importlib.util.find_spec("selectolax") is None:
        return "pip install imgcrawler[fast]"
    return Installed(program, "", _our_version())


def _install_package(program: Program, cache: Path) -> Installed | str:
    folder = cache / program.package
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    python, ready = binaries / "python", folder / "ready"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "-q", program.package]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_INSTALLATION)
        except subprocess.CalledProcessError as error:
            return f"pip install {program.package}: {last_line(error.stderr)}"
        except subprocess.TimeoutExpired:
            return f"pip install {program.package} took longer than {_INSTALLATION} s"
        code = f"import importlib.metadata as m; print(m.version({program.package!r}))"
        version = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout
        ready.write_text(version.strip())
    return Installed(program, str(binaries / program.executable), ready.read_text())


def _our_version() -> str:
    folder = Path(crawler.__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return crawler.__version__
    return f"{crawler.__version__} ({commit})"


def last_line(text: str) -> str:
    """Return the last line of a program's messages, for a row of a table."""
    return next((line.strip()[:200] for line in reversed(text.splitlines()) if line.strip()), "no message")


def environment() -> dict[str, str]:
    """Return the environment of every program: no proxies, and no look for a new release of a library."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "NO_ALBUMENTATIONS_UPDATE": "1"}
