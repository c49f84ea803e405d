"""The commands. Each reads its flags, calls one method, prints the result, and returns an exit code.

This module imports only what ``--help`` needs; each command imports the slow modules that it uses.
"""

import atexit
import gc
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from crawler.cli.logs import set_up as set_up_logs
from crawler.cli.options import (
    Command,
    about_crawl,
    about_downloads,
    about_one_downloader,
    about_output,
    about_settings,
    about_this_machine,
    option,
    output_option,
)
from crawler.cli.output import complain, print_line
from crawler.errors import CrawlerError
from crawler.version import __version__

_log = logging.getLogger(__name__)

#: Exit codes besides those of the errors (`crawler.errors`).
EXIT_CODES = {
    0: "Done: every seed was reached and at least one image saved; for `download`, the crawl is over.",
    1: "An internal error; or `demo` found a difference.",
    8: "Finished, but a seed failed or nothing was saved.",
    9: "`verify` or `gather` found missing, damaged or foreign files, or inconsistent records, that remain.",
    130: "Interrupted; the same command resumes.",
}


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=True,
    epilog="Guide: crawler help",
)
@click.version_option(__version__, prog_name="crawler")
@click.pass_context
def cli(context: click.Context) -> None:
    """Find every picture of a site, download it politely, and store it intact, with its metadata.

    \b
    crawler demo                                  try it: takes ten seconds, needs no network
    crawler run https://example.org/ -o out       crawl and download on this machine
    crawler harvest https://example.org/ -o job   start a master, which writes the file job/join
    crawler download job/join -o pictures         start a downloader for the master with this file

    To download on other machines, too, copy job/join to each of them and start a downloader there.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


cli.command_class = Command


@cli.command(topic="running")
@click.argument("urls", nargs=-1)
@about_crawl
@about_downloads
@about_this_machine
@click.option("--dry-run", is_flag=True, help="Crawl the pages, list the pictures, download and write nothing.")
@about_output
def run(**flags: Any) -> int:
    """Crawl and download on this machine."""
    from crawler.cli.crawling import crawl_command, preview_command

    return preview_command(flags) if flags.pop("dry_run") else crawl_command(flags, _run_arguments)


@cli.command(topic="distributed", short_help="Start a master: crawl pages and hand out the images to downloaders.")
@click.argument("urls", nargs=-1)
@about_crawl
@about_this_machine
@about_output
def harvest(**flags: Any) -> int:
    """Start a master: crawl pages and hand out the images to downloaders.

    The command writes the file OUTPUT/join, which contains the address and the key of the master. Each downloader needs
    this file: to download on another machine, copy it there and start `crawler download` with it.
    """
    from crawler.cli.crawling import crawl_command

    return crawl_command(flags, None)


@cli.command(topic="distributed", short_help="Start a downloader that connects to a master.")
@click.argument("join", type=click.Path(path_type=Path), envvar="CRAWLER_JOIN")
@output_option("pictures", "Directory in which this machine saves pictures.")
@about_one_downloader
@option("--connect", metavar="HOST[:PORT]", help="Address of the master, if not the one in the join file.")
@click.option("--slot", type=int, hidden=True, help="Number of this process among those that share the directory.")
@about_this_machine
@about_output
def download(
    join: Path, output: Path, connect: str | None, slot: int | None, quiet: bool, verbose: bool, debug: bool, **own: Any
) -> int:
    """Start a downloader: save the images that a master hands out, until the crawl is over.

    JOIN is the join file that the master has written, or a copy of it. With - it is read from standard input.
    """
    from crawler.cli.downloading import download_command

    set_up_logs(None, quiet=quiet, verbose=verbose, debug=debug)
    return download_command(join, output, own, connect=connect, slot=slot, quiet=quiet)


@cli.command(topic="distributed")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print all counts as JSON.")
def status(directory: Path, as_json: bool) -> int:
    """Show the state of a crawl."""
    from crawler.cli.steering import status_command

    return status_command(directory, as_json=as_json)


@cli.command(topic="distributed", short_help="Stop a running crawl, or one of its downloaders.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--worker", metavar="NAME", help="Stop only one downloader, or those of one machine, by its name.")
def stop(directory: Path, worker: str | None) -> int:
    """Stop a running crawl: downloads in progress are finished. To resume it, repeat its command."""
    from crawler.cli.steering import order_command

    return order_command(directory, "stop", worker)


@cli.command(topic="distributed")
@click.argument("directory", type=click.Path(path_type=Path))
def pause(directory: Path) -> int:
    """Pause a running crawl: downloads in progress still complete, and no others start."""
    from crawler.cli.steering import order_command

    return order_command(directory, "pause")


@cli.command(topic="distributed")
@click.argument("directory", type=click.Path(path_type=Path))
def resume(directory: Path) -> int:
    """Resume a paused crawl."""
    from crawler.cli.steering import order_command

    return order_command(directory, "resume")


@cli.command(topic="maintenance", short_help="Retry failed images and pages.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, metavar="REASON,…", help="Retry only these reasons, such as timeout,http-5xx.")
@about_settings
@about_downloads
@about_this_machine
@about_output
def retry(directory: Path, only: tuple[str, ...], **flags: Any) -> int:
    """Queue failed images and pages again, and resume the crawl with its command (`run` or `harvest`).

    Without --only, this retries failures that may be temporary: errors of the network, busy or broken hosts, and
    problems of a downloader's machine. It does not retry URLs that the site refuses, files that are not valid pictures,
    and what the settings exclude.
    """
    from crawler.cli.crawling import retry_command
    from crawler.maintenance.retry_reasons import parse_reasons

    return retry_command({**flags, "output": directory}, parse_reasons(only) if only else frozenset(), _run_arguments)


@cli.command(topic="maintenance", short_help="Check a crawl: records are consistent and every file is intact.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--store", "stores", multiple=True, metavar="PLACE", help="Check this store too: a downloader's directory or a URL."
)
@click.option(
    "--repair", "repairs", is_flag=True, help="Restore pictures or queue them again; repair the record files."
)
@click.option("--json", "as_json", is_flag=True, help="Print each finding as a JSON line on standard output.")
def verify(directory: Path, stores: tuple[str, ...], repairs: bool, as_json: bool) -> int:
    """Check a crawl: the records are consistent and every file is intact. This changes nothing.

    Works on any crawl: finished, stopped, killed or running. Pictures that are recorded in a store that this command
    does not check are reported as in other stores, not as missing. Exit code 9: a file is missing, damaged or foreign
    (no record names it), or the records are inconsistent. Other files, such as a metadata.jsonl, are yours: they are
    ignored.

    With --repair, on a crawl that is not running, missing and damaged pictures are copied from another of the stores,
    or queued to be fetched again. Exit code 9 then means that foreign files or inconsistent records remain.
    """
    from crawler.cli.maintenance_text import describe_audit, describe_repair, finding_json
    from crawler.cli.progress_bars import VerifyLine
    from crawler.maintenance.repair import repair
    from crawler.maintenance.verify import verify as audit

    def print_finding(what: str, where: str) -> None:
        if as_json:
            with suppress(BrokenPipeError):
                click.echo(finding_json(what, where))

    with closing(VerifyLine()) as line:
        if repairs:
            repaired = repair(directory, stores, on_progress=line.update, on_finding=print_finding)
            report = repaired.found
        else:
            report = audit(directory, stores, on_progress=line.update, on_finding=print_finding)
    print_line(describe_audit(report))
    if repairs:
        print_line(describe_repair(repaired, directory))
    return 0 if (repaired if repairs else report).is_good else 9


@cli.command(
    topic="maintenance", short_help="Copy pictures from other directories or buckets into the crawl's directory."
)
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("stores", nargs=-1, required=True)
def gather(directory: Path, stores: tuple[str, ...]) -> int:
    """Copy pictures from other stores into the crawl's directory, and update its records.

    Each of STORES is a directory that a downloader has saved pictures in (its -o), or a URL such as s3://bucket/prefix
    (its --store). The crawl must not be running.
    """
    from crawler.cli.maintenance_text import describe_gathered
    from crawler.cli.progress_bars import VerifyLine
    from crawler.maintenance.gather import gather as copy_pictures

    with closing(VerifyLine()) as line:
        report = copy_pictures(directory, stores, on_progress=line.update)
    print_line(describe_gathered(report))
    return 9 if report.missing else 0


@cli.command(topic="testing", short_help="Crawl the bundled site and check the result.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Directory of the crawl. [default: a new temporary one]"
)
@about_output
def demo(output: Path | None, quiet: bool, verbose: bool, debug: bool) -> int:
    """Crawl the bundled site with a master and two downloader processes, and check the result."""
    from crawler.cli.progress_bars import Console
    from crawler.cli.signals import handle_signals
    from crawler.cli.summary_text import describe_summary
    from crawler.demo.check import demonstrate

    console = Console(quiet=quiet, verbose=True)
    set_up_logs(None, quiet=quiet, verbose=verbose, debug=debug)
    console.say("Crawling the bundled site: one master, two downloader processes, no request leaves this machine.")
    with closing(console):
        summary, differences = demonstrate(output, view=console, on_start=handle_signals)
    print_line(describe_summary(summary))
    if summary.interrupted:
        return 130
    for difference in differences:
        complain(difference, 1)
    if not differences:
        print_line("All checks passed: every picture was found and every failure reported.")
    return 1 if differences else 0


@cli.command("help", short_help="Show a page of the guide, or the list of pages.")
@click.argument("topic", required=False)
def show_help(topic: str | None) -> int:
    """Show a page of the guide in the terminal. Without TOPIC, list the pages."""
    from crawler.cli.guide_pages import page, topics

    if topic is None:
        titles = topics()
        width = max(map(len, titles))
        click.echo("Topics of the guide (to read one: crawler help TOPIC)\n")
        click.echo("\n".join(f"  {name:{width}}  {title}" for name, title in titles.items()))
        click.echo("\nTo list the flags of a command: crawler COMMAND --help")
    elif topic in cli.commands:
        command, root = cli.commands[topic], click.get_current_context().find_root()
        click.echo(command.get_help(click.Context(command, info_name=topic, parent=root)))
    else:
        click.echo_via_pager(page(topic))
    return 0


def main() -> NoReturn:
    """Run a command and exit with its code; each mistake of the user gets one line on standard error."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115  # closed by the parent process
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False  # a traceback of `logging` must not bury the error line
    is_debug = "--debug" in sys.argv
    set_up_logs(None, quiet=False, verbose=False, debug=is_debug)
    atexit.register(gc.freeze)  # else the interpreter looks through all objects again and again at its end, for 30 ms
    sys.exit(_run_command(is_debug))


def _run_arguments(arguments: Sequence[str]) -> int:
    """Run a command in a process that was forked from another command, and return its exit code."""
    return _run_command(False, arguments)


def _run_command(is_debug: bool, arguments: Sequence[str] | None = None) -> int:
    try:
        return int(cli.main(arguments, standalone_mode=False, prog_name="crawler") or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return complain(_explain(error), 2)
    except (click.Abort, KeyboardInterrupt):
        return complain("interrupted", 130)
    except CrawlerError as error:
        if is_debug:
            _log.exception("the command failed")
        return complain(str(error), error.code)
    except Exception as error:  # noqa: BLE001  # the user gets one line, not a traceback
        where = "a bug: please report it, with the traceback from crawl.log or --debug"
        _log.critical("internal error: %s: %s (%s)", type(error).__name__, error, where, exc_info=error)
        return 1


def _explain(error: click.ClickException) -> str:
    """Return what is wrong on the command line, or in the environment variable that replaces an option."""
    if isinstance(error, click.BadParameter) and error.ctx and error.param and error.param.name:
        source = error.ctx.get_parameter_source(error.param.name)
        if source is click.core.ParameterSource.ENVIRONMENT:
            return f"environment variable {error.param.envvar}: {error.message}"
    return error.format_message()
