"""The commands of a master: they read the flags, run the crawl, and print the summary."""

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import click

from crawler.app.config import settings_for
from crawler.app.crawl import Crawl
from crawler.app.dry_run import DryRun
from crawler.app.seeds import CrawlInput, list_files
from crawler.app.summary import Summary
from crawler.cli.logs import set_up as set_up_logs
from crawler.cli.options import sources_of
from crawler.cli.output import complain, print_line
from crawler.cli.progress_bars import Console
from crawler.cli.signals import handle_signals
from crawler.cli.summary_text import complaint, describe_preview, describe_summary, list_preview, preview_complaint
from crawler.engines.spare_processes import Main, SpareProcesses
from crawler.errors import ConfigError


def crawl_command(flags: dict[str, Any], main: Main | None) -> int:
    """Run ``run`` with ``main``, which runs the command line of a downloader process; or ``harvest`` without it."""
    refresh = flags.pop("refresh")

    def work(crawl: Crawl, source: CrawlInput) -> Summary:
        return (crawl.refresh if refresh else crawl.run)(source, downloads_here=main is not None)

    return _crawl(flags, work, main)


def retry_command(flags: dict[str, Any], reasons: frozenset[str], main: Main) -> int:
    """Run ``retry``; ``main`` runs the command line of a downloader process."""
    nothing: dict[str, Any] = {"urls": (), "inputs": (), "images": ()}
    return _crawl({**flags, **nothing}, lambda crawl, source: crawl.retry(reasons), main)


def _crawl(flags: dict[str, Any], work: Callable[[Crawl, CrawlInput], Summary], main: Main | None) -> int:
    output: Path = flags.pop("output")
    quiet, verbose, debug = flags.pop("quiet"), flags.pop("verbose"), flags.pop("debug")
    console = Console(quiet=quiet, verbose=verbose, as_json=flags.pop("as_json"))
    urls, inputs, images, config_file = (flags.pop(name) for name in ("urls", "inputs", "images", "config_file"))
    config, changes = settings_for(output, sources_of(flags), config_file)
    if (*inputs, *images).count("-") > 1:
        raise ConfigError("standard input can be read only once: use - for -i or for --images, not for both")

    def begin() -> None:
        set_up_logs(output, quiet=quiet, verbose=verbose, debug=debug)
        if changes:
            console.say(f"Settings changed since the last run: {changes}")

    with closing(console), SpareProcesses(config.machine.processes, main, _load_downloader) as spares:
        crawl = Crawl(output, config, view=console, on_open=begin, popen=spares.popen)
        crawl.check()
        CrawlInput(seeds=urls).requests()  # reports mistakes before standard input is stored in the directory
        source = CrawlInput(seeds=urls, seed_lists=list_files(inputs, output), image_lists=list_files(images, output))
        handle_signals(crawl.interrupt)
        summary = work(crawl, source)
    print_line(describe_summary(summary, "run" if crawl.downloads_here else "harvest"))
    if line := complaint(summary):
        complain(line, 0)
    return summary.exit_code


def _load_downloader() -> None:
    """Load what only a downloader needs."""
    import crawler.cli.downloading  # loads it

    with suppress(ImportError):  # pycurl is not installed
        import crawler.net.curl_fetcher  # noqa: F401


def preview_command(flags: dict[str, Any]) -> int:
    """Run ``run --dry-run``."""
    output: Path = flags.pop("output")
    quiet, verbose, debug = flags.pop("quiet"), flags.pop("verbose"), flags.pop("debug")
    as_json = flags.pop("as_json")
    urls, inputs, images, config_file = (flags.pop(name) for name in ("urls", "inputs", "images", "config_file"))
    if flags.pop("refresh"):
        raise ConfigError("--dry-run does not read an earlier crawl, so it can't refresh one: omit --refresh")
    if "-" in (*inputs, *images):
        raise ConfigError(
            "--dry-run can't read standard input, because it would have to save it to the disk: pass a file"
        )
    set_up_logs(None, quiet=quiet, verbose=verbose, debug=debug)
    config, _ = settings_for(output, sources_of(flags), config_file)
    console = Console(quiet=quiet)
    dry_run = DryRun(config, console)
    handle_signals(dry_run.interrupt)
    lists = [tuple(Path(name) for name in names) for names in (inputs, images)]
    with closing(console):
        result = dry_run.run(CrawlInput(seeds=urls, seed_lists=lists[0], image_lists=lists[1]))
    for line in list_preview(result.images, as_json=as_json):
        click.echo(line)
    print_line(describe_preview(result))
    if line := preview_complaint(result):
        complain(line, 0)
    return result.exit_code
