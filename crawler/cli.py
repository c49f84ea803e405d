"""The commands: a thin, tested document. Each reads its flags, calls one method, prints, and ends with an exit code.

Exit codes: 0 done, 1 internal error, 2 usage or settings, 3 disk, 4 network, 5 TLS, 6 key or version refused,
8 finished but a seed failed or nothing was saved, 9 `verify` or `gather` found something, 130 interrupted and
resumable. What is imported here is imported for ``--help``; everything heavy comes with the command that needs it.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from crawler import __version__
from crawler.errors import ConfigError, CrawlerError, DiskTrouble, NetworkError
from crawler.logs import printable
from crawler.logs import set_up as set_up_logs
from crawler.options import (
    about_crawl,
    about_its_disk,
    about_its_network,
    about_one_process,
    about_output,
    about_settings,
    about_this_box,
    option,
)

_log = logging.getLogger(__name__)

#: What the master said last to a downloader.
_ENDINGS = {"drained": "The crawl is over", "draining": "Sent home by the master"}


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, invoke_without_command=True
)
@click.version_option(__version__, prog_name="crawler")
@click.pass_context
def cli(context: click.Context) -> None:
    """Find every picture of a site, fetch it politely as a fleet, keep it whole and documented.

    \b
    crawler demo                                  see it work, in ten seconds, without a network
    crawler run https://example.org/ -o out       harvest and download on this box
    crawler harvest https://example.org/ -o job   be the master; downloaders join with:
    crawler download job/join -o pictures         as many as you like
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command()
@click.argument("urls", nargs=-1)
@about_crawl
@about_this_box
@about_its_network
@about_its_disk
@click.option("--dry-run", is_flag=True, help="Walk the pages, list what would be fetched, and write nothing.")
@about_output
def run(**flags: Any) -> int:
    """Harvest and download on this box."""
    return _preview(flags) if flags.pop("dry_run") else _crawl(flags, downloads_here=True)


@cli.command(short_help="Be the master: walk pages and serve the queue.")
@click.argument("urls", nargs=-1)
@about_crawl
@about_its_network
@about_its_disk
@about_output
def harvest(**flags: Any) -> int:
    """Be the master: walk pages and serve the queue; downloaders join with the file OUTPUT/join."""
    return _crawl(flags, downloads_here=False)


@cli.command(short_help="Work for the master that a join file names.")
@click.argument("join", type=click.Path(path_type=Path), envvar="CRAWLER_JOIN")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("pictures"),
    show_default=True,
    help="Directory in which this box saves.",
)
@about_one_process
@option("--wait", type=float, help="Seconds to wait for the master at first. [60]")
@option("--connect", metavar="HOST:PORT", help="Where the master is, if not where the join file says.")
@click.option("--slot", type=int, hidden=True, help="Number among the processes that share the directory.")
@about_its_network
@about_its_disk
@about_output
def download(
    join: Path, output: Path, connect: str | None, slot: int | None, quiet: bool, verbose: bool, debug: bool, **own: Any
) -> int:
    """Work for the master that a join file names, until its crawl is over."""
    from crawler.box import Download
    from crawler.config import CrawlConfig, from_flags
    from crawler.progress import DownloadLine

    set_up_logs(None, quiet=quiet, verbose=verbose, debug=debug)
    line = DownloadLine(quiet=quiet or slot is not None)
    config = CrawlConfig.load(("command line", from_flags(own)))
    box = Download(join, output, config, connect=connect, slot=slot, on_wait=line.wait)
    return _work(box, line, config.box.store or output, is_child=slot is not None)


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="All counts as JSON.")
def status(directory: Path, as_json: bool) -> int:
    """What is going on in a crawl, running or not."""
    import msgspec

    from crawler.fleet import describe_stores, describe_workers
    from crawler.progress import describe_counts
    from crawler.status import look_at
    from crawler.storage import store_id

    stats, is_running = look_at(directory)
    if as_json:
        click.echo(msgspec.json.encode(stats))
        return 0
    state = {"drained": "finished", "draining": "stopping"}.get(stats.state, "running" if is_running else "stopped")
    state = "paused" if stats.is_paused else state
    click.echo(f"{directory}: {state}; {describe_counts(stats)}")
    places = describe_stores(stats, store_id(directory) or "")
    for text in [*([f"  {places}"] if places else []), *(describe_workers(stats) if is_running else [])]:
        click.echo(text)
    return 0


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--worker", metavar="NAME", help="Only this downloader, or those on the box with that name.")
def stop(directory: Path, worker: str | None) -> int:
    """Have a running crawl finish what is under way and end; the same command goes on with it."""
    return _order(directory, "stop", worker)


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
def pause(directory: Path) -> int:
    """Have a running crawl hand out nothing until it is told to resume."""
    return _order(directory, "pause")


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
def resume(directory: Path) -> int:
    """Have a paused crawl go on."""
    return _order(directory, "resume")


@cli.command(short_help="Try again what has failed.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, metavar="REASON,…", help="What failed so; http-5xx is a class of them.")
@about_settings
@about_this_box
@about_its_network
@about_its_disk
@about_output
def retry(directory: Path, only: tuple[str, ...], **flags: Any) -> int:
    """Put back what has failed, and go on with the crawl as before: with downloads here, or for downloaders that join.

    Without --only that is what failed for a reason that may have passed: of the network, of a busy or broken host, of a
    box of ours; not what the site, its content or the settings have decided.
    """
    from crawler.retry import named

    reasons = named(only) if only else frozenset()
    nothing: dict[str, Any] = {"urls": (), "inputs": (), "images": ()}
    return _crawl({**flags, **nothing, "output": directory}, downloads_here=None, retries=reasons)


@cli.command(short_help="Prove that a crawl's books agree, and hash every file.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--store", "stores", multiple=True, metavar="PLACE", help="A store to look at, too: directory or URL.")
@click.option("--repair", "repairs", is_flag=True, help="Put back what is missing or damaged, mend what is torn.")
def verify(directory: Path, stores: tuple[str, ...], repairs: bool) -> int:
    """Prove that a crawl's books agree, hash every file and compare with the records; changes nothing.

    Works on any crawl: finished, stopped, killed or running. Pictures in stores not looked at are elsewhere, not
    missing. Exit code 9: something is missing, damaged or foreign, or the books do not agree.

    With --repair, on a crawl that is not running, missing and damaged pictures are taken from another of the stores, or
    wait to be fetched again; exit code 9 is then for what it leaves: foreign files, a database that does not agree.
    """
    from crawler.audit import verify as audit
    from crawler.progress import VerifyLine, describe_audit, describe_repair
    from crawler.repair import repair

    with closing(VerifyLine()) as line:
        if repairs:
            done = repair(directory, stores, on_progress=line.update)
            found = done.found
        else:
            found = audit(directory, stores, on_progress=line.update)
    if repairs:
        _tell(describe_audit(found))
        _tell(describe_repair(done, directory))
        return 0 if done.is_good else 9
    _tell(describe_audit(found))
    return 0 if found.is_good else 9


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("stores", nargs=-1, required=True)
def gather(directory: Path, stores: tuple[str, ...]) -> int:
    """Bring the pictures of other stores into the crawl's own directory, and have its records say so."""
    from crawler.audit import gather as bring
    from crawler.progress import VerifyLine, describe_gathered

    with closing(VerifyLine()) as line:
        found = bring(directory, stores, on_progress=line.update)
    _tell(describe_gathered(found))
    return 9 if found.missing else 0


@cli.command(short_help="Crawl the bundled web and check the result.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Directory of the crawl. [a new temporary one]")
@about_output
def demo(output: Path | None, quiet: bool, verbose: bool, debug: bool) -> int:
    """Crawl the bundled web on loopback with a master and two downloader processes, and check the result."""
    from crawler.progress import Console, describe_summary
    from crawler.showcase import demonstrate

    console = Console(quiet=quiet, verbose=True)
    set_up_logs(None, quiet=quiet, verbose=verbose, debug=debug)
    console.say("Crawling the bundled web: one master, two downloader processes, nothing leaves this machine.")
    try:
        summary, differences = demonstrate(output, view=console, on_start=_handle_signals)
    finally:
        console.close()
    _tell(describe_summary(summary))
    if summary.interrupted:
        return 130
    for difference in differences:
        _complain(difference, 1)
    if not differences:
        _tell("All as it must be: every picture found, every fault told.")
    return 1 if differences else 0


def main() -> NoReturn:
    """Run a command and exit with its code; every mistake of the user's is one line on standard error."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115  # whoever started us closed it
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False  # a log that can't be written must not bury the line that says why
    is_debug = "--debug" in sys.argv
    set_up_logs(None, quiet=False, verbose=False, debug=is_debug)
    sys.exit(_exit_code(is_debug))


def _exit_code(is_debug: bool) -> int:
    try:
        return int(cli.main(standalone_mode=False, prog_name="crawler") or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _complain(_explain(error), 2)
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", 130)
    except CrawlerError as error:
        if is_debug:
            _log.exception("the command failed")
        return _complain(str(error), error.code)
    except Exception as error:  # noqa: BLE001  # the last line of defence: one line, not a traceback
        where = "the traceback is in crawl.log, and here with --debug"
        _log.critical("internal error: %s: %s (%s)", type(error).__name__, error, where, exc_info=error)
        return 1


def _explain(error: click.ClickException) -> str:
    """What is wrong on the command line, or in the variable of the environment that stood in for an option."""
    if isinstance(error, click.BadParameter) and error.ctx and error.param and error.param.name:
        source = error.ctx.get_parameter_source(error.param.name)
        if source is click.core.ParameterSource.ENVIRONMENT:
            return f"environment variable {error.param.envvar}: {error.message}"
    return error.format_message()


def _complain(text: str, code: int) -> int:
    _tell(f"crawler: {printable(text)}")
    return code


def _tell(text: str) -> None:
    """A line for people; that nobody reads any more is no error."""
    with suppress(OSError):
        click.echo(text, err=True)


def _crawl(flags: dict[str, Any], *, downloads_here: bool | None, retries: frozenset[str] | None = None) -> int:
    """The body of ``run``, ``harvest`` and, with the reasons of what is to be tried again, ``retry``."""
    from crawler.config import settings_for
    from crawler.crawl import Crawl
    from crawler.progress import Console, describe_summary
    from crawler.seeds import Source, list_files

    output: Path = flags.pop("output")
    quiet, verbose, debug = flags.pop("quiet"), flags.pop("verbose"), flags.pop("debug")
    console = Console(quiet=quiet, verbose=verbose, as_json=flags.pop("as_json"))
    urls, inputs, images, config_file = (flags.pop(name) for name in ("urls", "inputs", "images", "config_file"))
    refresh = flags.pop("refresh", False)
    config, changes = settings_for(output, flags, config_file)
    if (*inputs, *images).count("-") > 1:
        raise ConfigError("standard input can be read only once: write - for -i or for --images, not for both")
    source = Source(seeds=urls, seed_lists=list_files(inputs, output), image_lists=list_files(images, output))
    crawl = Crawl(
        output, config, view=console, on_open=lambda: set_up_logs(output, quiet=quiet, verbose=verbose, debug=debug)
    )
    _handle_signals(crawl.interrupt)
    if changes:
        console.say(f"Settings changed since the last time: {changes}")
    try:
        summary = crawl.run(source, downloads_here=downloads_here, retries=retries, refresh=refresh)
    finally:
        console.close()
    _tell(describe_summary(summary, "run" if crawl.downloads_here else "harvest"))
    if summary.complaint:
        _complain(summary.complaint, 0)
    return summary.exit_code


def _preview(flags: dict[str, Any]) -> int:
    """The body of ``run --dry-run``."""
    from crawler.config import settings_for
    from crawler.preview import DryRun
    from crawler.progress import Console, describe_preview, list_preview
    from crawler.seeds import Source

    output: Path = flags.pop("output")
    quiet, verbose, debug = flags.pop("quiet"), flags.pop("verbose"), flags.pop("debug")
    as_json = flags.pop("as_json")
    urls, inputs, images, config_file = (flags.pop(name) for name in ("urls", "inputs", "images", "config_file"))
    if flags.pop("refresh"):
        raise ConfigError("--dry-run knows nothing of an earlier crawl: leave --refresh out")
    if "-" in (*inputs, *images):
        raise ConfigError("--dry-run writes nothing, not even standard input: name a file")
    set_up_logs(None, quiet=quiet, verbose=verbose, debug=debug)
    config, _ = settings_for(output, flags, config_file)
    console = Console(quiet=quiet)
    dry_run = DryRun(config, console)
    _handle_signals(dry_run.interrupt)
    lists = [tuple(Path(name) for name in names) for names in (inputs, images)]
    try:
        found = dry_run.run(Source(seeds=urls, seed_lists=lists[0], image_lists=lists[1]))
    finally:
        console.close()
    for line in list_preview(found.images, as_json=as_json):
        click.echo(line)
    _tell(describe_preview(found))
    if found.complaint:
        _complain(found.complaint, 0)
    return found.exit_code


def _order(directory: Path, what: Any, worker: str | None = None) -> int:
    """The body of ``stop``, ``pause`` and ``resume``."""
    from crawler.control import Order, give
    from crawler.fleet import matching
    from crawler.lock import is_running
    from crawler.status import look_at
    from crawler.storage import store_id

    if not is_running(directory):
        raise ConfigError(f"no crawl is running in {directory}")
    if worker is None:
        give(directory, Order(what=what))
        return 0
    names = matching(look_at(directory)[0], worker, store_id(directory) or "")
    if not names:
        raise ConfigError(f"no downloader of that name is at work here: {worker!r}; see: crawler status {directory}")
    for name in names:
        give(directory, Order(what=what, worker=name))
    return 0


def _work(box: Any, line: Any, output: Path | str, *, is_child: bool) -> int:
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
    except (NetworkError, DiskTrouble):
        if not stops:  # else it is we who no longer wait for the master, or for the disk
            raise
    finally:
        line.close()
    progress = box.progress
    ending = "Interrupted" if stops else _ENDINGS.get(box.state, "Done")
    twice = f", {progress.duplicates} duplicate" if progress.duplicates else ""
    same = f", {progress.unchanged} unchanged" if progress.unchanged else ""
    line.say(f"{ending}: {progress.saved} images saved in {output}{twice}{same}, {progress.failed} failed.")
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
