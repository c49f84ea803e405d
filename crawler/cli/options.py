"""The flags of the commands. Each is read from the command line or from ``CRAWLER_<NAME>``, and is None if not given.

The flag of a setting is made from its field in `crawler.app.config`, which has its range, its default and its text.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from msgspec import inspect

from crawler.app.config import OLD_NAMES, SETTINGS, Setting, Source, from_flags

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

#: Values of ``--types``: the formats, and a second name for one of them.
_FORMATS = ("avif", "bmp", "gif", "ico", "jpeg", "jpg", "png", "tiff", "webp")
_SIZE = re.compile(r"(\d+)\s*([kmg]?)i?b?", re.IGNORECASE)


def _size(text: str) -> int:
    """Return a number of bytes; the suffixes K, M and G mean 1024, 1024² and 1024³."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a size (examples: 500K, 20M)")
    return int(match[1]) << 10 * " kmg".index(match[2].lower() or " ")


def _formats(text: str) -> tuple[str, ...]:
    """Return image formats, which are separated by commas."""
    names = tuple(word.strip().lower() for word in text.split(",") if word.strip())
    if unknown := [name for name in names if name not in _FORMATS]:
        raise click.BadParameter(f"unknown format {unknown[0]!r} (known: {', '.join(_FORMATS)})")
    return names


def _absolute(text: str) -> str:
    """Return the absolute path, because the crawl may be resumed from another directory; "" stays."""
    return str(Path(text).resolve()) if text else ""


#: Types of options by the metavar of the setting.
_TYPES: dict[str, Any] = {"SIZE": _size, "NAMES": _formats, "FILE": _absolute}


class Command(click.Command):
    """A command whose help shows the flags of settings by section, and names a page of the guide."""

    def __init__(self, *args: Any, topic: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epilog = f"Guide: crawler help {topic}" if topic else None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags: first those that are no settings, then those of each section with its title."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            setting = SETTINGS.get(param.name or "")
            if isinstance(param, click.Option) and (row := param.get_help_record(ctx)) is not None:
                groups.setdefault(setting.title if setting else "Options", []).append(row)
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def option(*names: str, **kwargs: Any) -> Callable[[_Decorated], _Decorated]:
    """Return an option that is also read from ``CRAWLER_<NAME>``, and that is None if the user does not set it."""
    flag = next(name for name in names if name.startswith("--"))
    return click.option(*names, envvar=f"CRAWLER_{flag[2:].upper().replace('-', '_')}", default=None, **kwargs)


def sources_of(flags: Mapping[str, Any]) -> Iterator[Source]:
    """Yield the settings of the current command by where the user gave them, under a name for error messages."""
    context = click.get_current_context()
    variables = {
        param.name: f"environment variable {param.envvar}"
        for param in context.command.params
        if context.get_parameter_source(param.name or "") is ParameterSource.ENVIRONMENT
    }
    yield "command line", from_flags({name: value for name, value in flags.items() if name not in variables})
    for name, variable in variables.items():
        if name in flags:
            yield variable, from_flags({name: flags[name]})


def with_default(text: str, default: object) -> str:
    """Return the help of an option with its default."""
    return f"{text} [default: {default}]"


def output_option(default: str, text: str) -> Callable[[_Decorated], _Decorated]:
    """Return the option ``-o`` with a default."""
    path = click.Path(path_type=Path)
    return click.option("-o", "--output", type=path, default=default, help=with_default(text, default))


def _group(*options: Callable[[Any], Any]) -> Callable[[_Decorated], _Decorated]:
    def decorate(command: _Decorated) -> _Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _negate(context: click.Context, param: click.Parameter, value: bool | None) -> bool | None:
    """Return the setting ``x`` for the flag ``--no-x``; the environment variable can be true or false."""
    return None if value is None else not value


def _flag(setting: Setting) -> Callable[[Any], Any]:
    """Return the option of a setting."""
    kind, metavar, text = setting.type, setting.metavar, _help_of(setting)
    former = [f"--{old}" for old, new in OLD_NAMES.items() if new == setting.name]
    names = [*filter(None, [setting.short]), setting.flag, *former, setting.name]
    if isinstance(kind, inspect.BoolType):
        return option(*names, is_flag=True, callback=_negate if setting.default else None, help=text)
    if setting.choices:
        return option(*names, type=click.Choice(setting.choices), help=text)
    if isinstance(kind, inspect.UnionType):  # with None
        kind = kind.types[0]
    is_many = isinstance(kind, inspect.VarTupleType) and metavar not in _TYPES
    value = _TYPES.get(metavar) or {inspect.IntType: int, inspect.FloatType: float}.get(type(kind), str)
    return option(*names, type=value, multiple=is_many, metavar=metavar or None, help=text)


def _help_of(setting: Setting) -> str:
    """Return the help of a setting: its text, and the default in brackets."""
    default = setting.default_text or ("" if isinstance(setting.default, bool) else setting.default)
    shown = f"{default:g}" if isinstance(default, float) else default
    return setting.text if shown in (None, "", ()) else with_default(setting.text, shown)


def _flags(*names: str) -> Callable[[_Decorated], _Decorated]:
    """Return the options of these settings."""
    return _group(*(_flag(SETTINGS[name]) for name in names if SETTINGS[name].has_flag))


about_output = _group(
    click.option("-q", "--quiet", is_flag=True, help="Print no progress and no warnings; results and errors remain."),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        help="Also print all log messages, and a line for each result even on a terminal.",
    ),
    click.option("--debug", is_flag=True, help="Print debug messages and tracebacks."),
)
about_downloads = _flags("workers", "connections", "store")
about_one_downloader = _flags("connections", "store", "wait")
about_this_machine = _flags("allow_private", "proxy", "cookies", "disk_wait")
about_settings = _group(
    click.option(
        "--config", "config_file", type=click.Path(path_type=Path), help=with_default("Settings file.", "crawler.toml")
    ),
    click.option("--json", "as_json", is_flag=True, help="Print results as JSON lines on standard output."),
    _flags(*(name for name, setting in SETTINGS.items() if setting.section != "machine")),
)
about_crawl = _group(
    output_option("out", "Directory of a new crawl, or of one to resume."),
    click.option(
        "-i", "--input", "inputs", multiple=True, metavar="FILE", help="File of seed URLs; - for standard input."
    ),
    click.option("--images", multiple=True, metavar="FILE", help="File of image URLs; - for standard input."),
    click.option("--refresh", is_flag=True, help="Request all URLs again; report new, changed and removed images."),
    about_settings,
)
