"""The commands: a thin, tested document. Each reads its flags, calls one method, prints, and ends with an exit code.

Exit codes: 0 done, 1 internal error, 2 usage or settings, 3 disk, 4 network, 5 TLS, 6 key or version refused,
8 finished but a seed failed or nothing was saved, 130 interrupted and resumable. What is imported here is imported
for ``--help``; everything heavy comes with the command that needs it.
"""

import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click

from crawler import __version__
from crawler.errors import ConfigError, CrawlerError
from crawler.logs import printable
from crawler.logs import set_up as set_up_logs

_Command = TypeVar("_Command", bound=Callable[..., Any])
_log = logging.getLogger(__name__)

_SIZE = re.compile(r"(\d+)\s*([kmg]?)i?b?", re.IGNORECASE)


class _Size(click.ParamType[int]):
    """Bytes: a number, with K, M or G behind it for 1024, 1024² or 1024³."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no size such as 500K or 20M", param, ctx)
        return int(match[1]) << 10 * " kmg".index(match[2].lower() or " ")


class _Names(click.ParamType[tuple[str, ...]]):
    """Words separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(word.strip().lower() for word in str(value).split(",") if word.strip())


def _option(*names: str, **kwargs: Any) -> Callable[[_Command], _Command]:
    """An option that is also read from ``CRAWLER_<NAME>``, and is None where nobody gave it."""
    longest = max(names, key=len).split("/")[0].lstrip("-").upper().replace("-", "_")
    return click.option(*names, envvar=f"CRAWLER_{longest}", default=None, **kwargs)


def _options(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_about_output = _options(
    click.option("-q", "--quiet", is_flag=True, help="Only results, errors and the summary."),
    click.option("-v", "--verbose", is_flag=True, help="Results on a terminal, too, and what happens."),
    click.option("--debug", is_flag=True, help="Tracebacks, and everything that happens."),
)
_about_this_box = _options(
    _option("-w", "--workers", type=int, help="Downloader processes here; 0: threads of this one. [cores, at most 4]"),
    _option("-t", "--threads", type=int, help="Downloads at a time in each process. [16]"),
)
_about_crawl = _options(
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default=Path("out"),
        show_default=True,
        help="Directory of the crawl; the same one goes on where it stopped.",
    ),
    click.option(
        "-i", "--input", "inputs", multiple=True, metavar="FILE", help="File of seed URLs; -: standard input."
    ),
    click.option("--images", multiple=True, metavar="FILE", help="File of image URLs; -: standard input."),
    _option("-d", "--depth", type=int, help="Links to follow from a seed. [20]"),
    _option("-n", "--max-images", type=int, help="Stop after so many saved images."),
    _option("--max-pages", type=int, help="Stop walking after so many pages."),
    _option("--scope", type=click.Choice(["page", "path", "host", "domain", "any"]), help="Pages to walk. [host]"),
    _option("--order", type=click.Choice(["fifo", "lifo", "priority"]), help="Order within a host. [fifo]"),
    _option("--delay", type=float, help="Seconds between two requests to a host. [1; on loopback 0]"),
    _option("--per-host", type=int, help="Turns at a time for a host without a delay. [1; on loopback 16]"),
    _option("--patience", type=float, help="Seconds the end waits for hosts that asked us to stay away. [60]"),
    _option("--no-robots", "robots", is_flag=True, flag_value=False, type=bool, help="Do not ask for robots.txt."),
    _option("--user-agent", help="The User-Agent header. [imgcrawler/VERSION (+CONTACT)]"),
    _option("--contact", help="Your mail address or page, for the sites you visit."),
    _option("--types", type=_Names(), help="Formats to keep, such as jpeg,png. [all]"),
    _option("--min-size", type=int, help="Pixels that the shorter side must have. [0]"),
    _option("--max-bytes", type=_Size(), help="Largest picture. [20M]"),
    _option(
        "--durability",
        type=click.Choice(["none", "batch", "file", "strict"]),
        help="What a power cut spares. [batch]",
    ),
    _option("--listen", metavar="HOST:PORT", help="Where the queue is served. [127.0.0.1, any port]"),
    click.option("--config", "config_file", type=click.Path(path_type=Path), help="Settings file. [crawler.toml]"),
    click.option("--json", "as_json", is_flag=True, help="Results as JSON rows on standard output."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="crawler")
def cli() -> None:
    """Find every picture of a site, fetch it politely as a fleet, keep it whole and documented.

    \b
    crawler demo                                  see it work, in ten seconds, without a network
    crawler run https://example.org/ -o out       harvest and download on this box
    crawler harvest https://example.org/ -o job   be the master; downloaders join with:
    crawler download job/join -o pictures         as many as you like
    """


@cli.command()
@click.argument("urls", nargs=-1)
@_about_crawl
@_about_this_box
@_about_output
def run(**flags: Any) -> int:
    """Harvest and download on this box."""
    return _crawl(flags, downloads_here=True)


@cli.command()
@click.argument("urls", nargs=-1)
@_about_crawl
@_about_output
def harvest(**flags: Any) -> int:
    """Be the master: walk pages and serve the queue; downloaders join with the file OUTPUT/join."""
    return _crawl(flags, downloads_here=False)


@cli.command()
@click.argument("join", type=click.Path(path_type=Path), envvar="CRAWLER_JOIN")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("pictures"),
    show_default=True,
    help="Directory in which this box saves.",
)
@_option("-t", "--threads", type=int, help="Downloads at a time. [16]")
@_option("--wait", type=float, help="Seconds to wait for the master at first. [60]")
@click.option("--slot", type=int, hidden=True, help="Number among the processes that share the directory.")
@_about_output
def download(
    join: Path,
    output: Path,
    threads: int | None,
    wait: float | None,
    slot: int | None,
    quiet: bool,
    verbose: bool,
    debug: bool,
) -> int:
    """Work for the master that a join file names, until its crawl is over."""
    from crawler.box import Download
    from crawler.config import CrawlConfig, from_flags
    from crawler.progress import DownloadLine

    set_up_logs(None, quiet=quiet, verbose=verbose, debug=debug)
    line = DownloadLine(quiet=quiet or slot is not None)
    config = CrawlConfig.load(("command line", from_flags({"threads": threads, "wait": wait})))
    box = Download(join, output, config, slot=slot or 0, on_wait=line.wait)
    return _work(box, line, is_child=slot is not None)


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="All counts as JSON.")
def status(directory: Path, as_json: bool) -> int:
    """What is going on in a crawl, running or not."""
    import msgspec

    from crawler.crawl import look_at
    from crawler.progress import describe_counts, describe_workers

    stats, is_running = look_at(directory)
    if as_json:
        click.echo(msgspec.json.encode(stats))
        return 0
    state = {"drained": "finished", "draining": "stopping"}.get(stats.state, "running" if is_running else "stopped")
    click.echo(f"{directory}: {state}; {describe_counts(stats)}")
    for text in describe_workers(stats) if is_running else []:
        click.echo(text)
    return 0


@cli.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Directory of the crawl. [a new temporary one]")
@_about_output
def demo(output: Path | None, quiet: bool, verbose: bool, debug: bool) -> int:
    """Crawl the bundled web on loopback with a master and two downloader processes, and check the result."""
    from crawler.progress import Console, describe_summary
    from crawler.showcase import demonstrate

    console = Console(quiet=quiet, verbose=True)
    set_up_logs(None, quiet=quiet, verbose=verbose, debug=debug)
    try:
        summary, differences = demonstrate(output, view=console, on_start=_handle_signals)
    finally:
        console.close()
    click.echo(describe_summary(summary), err=True)
    if summary.interrupted:
        return 130
    for difference in differences:
        click.echo(f"crawler: {difference}", err=True)
    click.echo("All as it must be: every picture found, every fault told." if not differences else "", err=True)
    return 1 if differences else 0


def main() -> NoReturn:
    """Run a command and exit with its code; every mistake of the user's is one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_exit_code("--debug" in sys.argv))


def _exit_code(is_debug: bool) -> int:
    try:
        return int(cli.main(standalone_mode=False, prog_name="crawler") or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _complain(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", 130)
    except CrawlerError as error:
        if is_debug:
            _log.exception("the command failed")
        return _complain(str(error), error.code)
    except Exception as error:  # noqa: BLE001  # the last line of defence: one line, not a traceback
        _log.critical("internal error", exc_info=error)
        return _complain(f"internal error: {type(error).__name__}: {error} (--debug shows where)", 1)


def _complain(text: str, code: int) -> int:
    click.echo(f"crawler: {printable(text)}", err=True)
    return code


def _crawl(flags: dict[str, Any], *, downloads_here: bool) -> int:
    """The body of ``run`` and ``harvest``."""
    from crawler.config import settings_for
    from crawler.crawl import Crawl
    from crawler.progress import Console, describe_summary
    from crawler.seeds import Source

    output: Path = flags.pop("output")
    quiet, verbose, debug = flags.pop("quiet"), flags.pop("verbose"), flags.pop("debug")
    console = Console(quiet=quiet, verbose=verbose, as_json=flags.pop("as_json"))
    urls, inputs, images, config_file = (flags.pop(name) for name in ("urls", "inputs", "images", "config_file"))
    config, changes = settings_for(output, flags, config_file)
    source = Source(seeds=urls, seed_lists=_files(inputs, output), image_lists=_files(images, output))
    crawl = Crawl(
        output, config, view=console, on_open=lambda: set_up_logs(output, quiet=quiet, verbose=verbose, debug=debug)
    )
    _handle_signals(crawl.interrupt)
    if changes:
        console.say(f"Settings changed since the last time: {changes}")
    try:
        summary = crawl.run(source, downloads_here=downloads_here)
    finally:
        console.close()
    click.echo(describe_summary(summary), err=True)
    if summary.complaint:
        _complain(summary.complaint, 0)
    return summary.exit_code


def _work(box: Any, line: Any, *, is_child: bool) -> int:
    """The body of ``download``: the worker in a thread, signals and the line here."""
    import threading

    from crawler.engines.local import ThreadEngine

    engine = ThreadEngine(box)
    stops = 0

    def interrupt() -> None:
        nonlocal stops
        stops += 1
        line.say("finishing what is under way (Ctrl-C again aborts)" if stops == 1 else "aborted")
        engine.stop(now=stops > 1)

    _handle_signals(interrupt)
    if is_child:
        threading.Thread(target=_end_with_parent, args=(engine,), daemon=True).start()
    try:
        engine.start()
        while not engine.wait(0.25) and stops < 2:
            line.update(box.progress)
    finally:
        line.close()
    progress = box.progress
    line.say(f"{progress.saved} pictures saved, {progress.failed} URLs failed.")
    return 130 if stops else 0


def _end_with_parent(engine: Any) -> None:
    """Stop when the master that started us closes our standard input, or dies."""
    while os.read(sys.stdin.fileno(), 1024):  # not sys.stdin.read, whose lock would crash the interpreter's exit
        pass
    engine.stop()


def _handle_signals(interrupt: Callable[[], None]) -> None:
    """Have Ctrl-C and a polite request to end call ``interrupt``."""

    def handle(number: int, frame: FrameType | None) -> None:
        interrupt()

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handle)


def _files(names: tuple[str, ...], output: Path) -> tuple[Path, ...]:
    """List files; standard input is kept in the crawl's directory first, so that a restart can go on reading."""
    return tuple(_spooled(output) if name == "-" else Path(name) for name in names)


def _spooled(output: Path) -> Path:
    from crawler.storage import disk_faults

    place = output / "stdin.txt"
    with disk_faults(place):
        output.mkdir(parents=True, exist_ok=True)
        if place.exists():
            raise ConfigError(f"{place} has an earlier standard input; leave -i - out to go on with it")
        with place.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
    return place
