"""The flags of the commands: each is read from the command line, else from ``CRAWLER_<NAME>``, and None elsewhere.

What the values may be beyond their form, and what holds where nobody gave one, is said in `crawler.config`.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

#: What ``--types`` may name: formats, and the other name of one of them.
_FORMATS = ("avif", "bmp", "gif", "ico", "jpeg", "jpg", "png", "tiff", "webp")
_SIZE = re.compile(r"(\d+)\s*([kmg]?)i?b?", re.IGNORECASE)


class _Size(click.ParamType[int]):
    """Bytes: a number, with K, M or G behind it for 1024, 1024² or 1024³."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no size such as 500K or 20M", param, ctx)
        return int(match[1]) << 10 * " kmg".index(match[2].lower() or " ")


class _Formats(click.ParamType[tuple[str, ...]]):
    """Image formats separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = tuple(word.strip().lower() for word in str(value).split(",") if word.strip())
        for name in names:
            if name not in _FORMATS:
                self.fail(f"{name!r} is no format; known: {', '.join(_FORMATS)}", param, ctx)
        return names


def option(*names: str, **kwargs: Any) -> Callable[[Command], Command]:
    """An option that is also read from ``CRAWLER_<NAME>``, and is None where nobody gave it."""
    longest = max(names, key=len).split("/")[0].lstrip("-").upper().replace("-", "_")
    return click.option(*names, envvar=f"CRAWLER_{longest}", default=None, **kwargs)


def _group(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _negate(context: click.Context, param: click.Parameter, value: bool | None) -> bool | None:
    """``--no-x`` → the setting ``x``; by the environment it can be said both ways."""
    return None if value is None else not value


def _absolute(context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A file that is meant wherever the crawl goes on; nothing is nothing."""
    return str(Path(value).resolve()) if value else value


about_output = _group(
    click.option("-q", "--quiet", is_flag=True, help="Only results, errors and the summary."),
    click.option("-v", "--verbose", is_flag=True, help="Results on a terminal, too, and what happens."),
    click.option("--debug", is_flag=True, help="Tracebacks, and everything that happens."),
)
_store = option("--store", metavar="URL", help="Save pictures there, such as s3://bucket/prefix; an extra. [-o]")
about_this_box = _group(
    option("-w", "--workers", type=int, help="Downloader processes here; 0: threads of this one. [cores, at most 4]"),
    option("-t", "--threads", type=int, help="Downloads at a time in each process. [16]"),
    _store,
)
about_one_process = _group(option("-t", "--threads", type=int, help="Downloads at a time. [16]"), _store)
about_its_network = _group(
    option("--allow-private", is_flag=True, help="Visit private addresses too, not only those of seeds."),
    option("--proxy", metavar="URL", help="Fetch through this HTTP proxy; with a password, better in CRAWLER_PROXY."),
    option("--cookies", metavar="FILE", help="Cookies to send, in the format of Netscape and curl."),
)
about_its_disk = option("--disk-wait", type=float, help="Seconds to wait for a disk that is full or fails. [600]")
about_settings = _group(
    option("-d", "--depth", type=int, help="Links to follow from a seed. [20]"),
    option("-n", "--max-images", type=int, help="Stop after so many saved images."),
    option("--max-pages", type=int, help="Stop walking after so many pages."),
    option("--scope", type=click.Choice(["page", "path", "host", "domain", "any"]), help="Pages to walk. [host]"),
    option("--include", multiple=True, metavar="PATTERN", help="Pages to walk, such as /photos/* or re:…"),
    option("--exclude", multiple=True, metavar="PATTERN", help="What to leave alone, such as */print/*."),
    option(
        "--candidates",
        type=click.Choice(["largest", "first", "all"]),
        help="Which alternatives of a picture to take. [largest]",
    ),
    option("--parser", type=click.Choice(["lxml", "lexbor"]), help="What reads HTML; lexbor is an extra. [lxml]"),
    option("--order", type=click.Choice(["fifo", "lifo", "priority"]), help="Order within a host. [fifo]"),
    option("--delay", type=float, help="Seconds between two requests to a host. [1; on loopback 0]"),
    option("--per-host", type=int, help="Turns at a time for a host without a delay. [1; on loopback 16]"),
    option("--patience", type=float, help="Seconds the end waits for hosts that asked us to stay away. [60]"),
    option("--no-robots", "robots", is_flag=True, callback=_negate, help="Do not ask for robots.txt."),
    option("--user-agent", help="The User-Agent header. [imgcrawler/VERSION (+CONTACT)]"),
    option("--contact", help="Your mail address or page, for the sites you visit."),
    option("--types", type=_Formats(), help="Formats to keep, such as jpeg,png. [all]"),
    option("--min-size", type=int, help="Pixels that the shorter side must have. [0]"),
    option("--max-aspect", type=float, help="How many times as long the longer side may be. [any]"),
    option("--animated", type=click.Choice(["keep", "skip", "only"]), help="What to do about animations. [keep]"),
    option("--verify", type=click.Choice(["decode", "header"]), help="Decode pictures, or read headers only. [decode]"),
    option("--max-bytes", type=_Size(), help="Largest picture. [20M]"),
    option("--name", metavar="TEMPLATE", help="Names of pictures, such as {host}/{path}. [by content]"),
    option("--pin", metavar="FILE", callback=_absolute, help="Manifest with which pictures must agree; '': none."),
    option(
        "--near",
        type=click.Choice(["off", "mark", "keep-best"]),
        help="Find pictures that look nearly the same: tell of them, or keep the best file only. [off]",
    ),
    option(
        "--durability",
        type=click.Choice(["none", "batch", "file", "strict"]),
        help="What a power cut spares. [batch]",
    ),
    option("--listen", metavar="HOST:PORT", help="Where the queue is served. [127.0.0.1, any port]"),
    option("--advertise", metavar="HOST", help="Name under which downloaders reach this machine. [its own]"),
    option("--tls", type=click.Choice(["auto", "always"]), help="Encrypt the queue: off loopback, or always. [auto]"),
    click.option("--config", "config_file", type=click.Path(path_type=Path), help="Settings file. [crawler.toml]"),
    click.option("--json", "as_json", is_flag=True, help="Results as JSON rows on standard output."),
)
about_crawl = _group(
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
    click.option("--refresh", is_flag=True, help="Ask for all of a known crawl again: what is new, changed, gone?"),
    about_settings,
)
