"""Writes the page `reference` of the guide from the code: ``python -m tests.support.make_reference``.

Flags come from the commands, settings from `SETTINGS`, reasons and exit codes from their tables. The fields of the
manifest come from the comments of `ImageRecord`, and the dependencies from those of ``pyproject.toml``.
"""

import ast
import inspect as source
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
from msgspec import inspect

import crawler
from crawler.app.config import OLD_NAMES, SETTINGS, CrawlConfig, Setting, toml
from crawler.cli.commands import EXIT_CODES, cli
from crawler.errors import CrawlerError
from crawler.model import LASTING_REASONS, TEMPORARY_REASONS, ImageRecord
from crawler.net.fetcher import _RETRYABLE

PAGE = Path(crawler.__file__).parent / "guide" / "reference.md"
COMMAND = "python -m tests.support.make_reference"
_PROJECT = Path(crawler.__file__).parents[1] / "pyproject.toml"

_HTTP = "status of the response; {} have 5 attempts. A partial response (206) that was not requested is not a picture"
_TEXT = """\
# Flags, settings, exit codes and reasons

## Flags

Each command shows its flags with `-h` or `--help`, such as `crawler run --help`. `crawler --version` prints the
release. Most flags set one of the settings below. These are the others:

{flags}

## Settings

A flag overrides `CRAWLER_<FLAG>` in the environment, such as `CRAWLER_MAX_PAGES`. That overrides the `crawl.toml` of a
resumed crawl, and that overrides `crawler.toml` in the current directory or the file of `--config`. An unknown key is
an error. A file has sections and keys:

```toml
[harvest]
depth = 3
include = ["/photos/*"]

[download]
types = ["jpeg", "png"]
name = "{{host}}/{{path}}"

[machine]
connections = 8
```

All sections except `[machine]` are sent to the downloaders. In Python, settings are keyword arguments, such as
`crawler.run(url, max_pages=3)`.

{settings}

## Exit codes

{codes}

## Reasons

Why an image URL failed. A request has one attempt, unless the table says otherwise. Failures that may be temporary are
retried after a random delay of up to 0.5, 1, 2 and 4 seconds, robots.txt up to four times in a row. `crawler retry`
tries those of the first table again; of `http-<code>` 408, 425, 429 and 5xx.

{temporary}

Reasons that last until the site, its content or the settings change:

{lasting}

## Fields of the manifest

{fields}

## Dependencies

{dependencies}

Extras, such as `pip install .[parquet]`:

{extras}
"""


def reference() -> str:
    """Return the text of the page."""
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    remarks = dict(re.findall(r'^ *"?([\w-]+).*[][",] # (.*)$', _PROJECT.read_text(encoding="utf-8"), re.MULTILINE))
    http = {"http-<code>": _HTTP.format(", ".join(map(str, sorted(_RETRYABLE))))}
    return _TEXT.format(
        flags=_table(("flag", "commands", "meaning"), _flags()),
        settings="\n\n".join(map(_section, CrawlConfig.__struct_fields__)),
        codes=_table(("code", "meaning"), sorted((EXIT_CODES | _codes_of_errors()).items())),
        temporary=_table(("reason", "meaning"), _coded((http | TEMPORARY_REASONS).items())),
        lasting=_table(("reason", "meaning"), _coded(LASTING_REASONS.items())),
        fields=_table(("field", "meaning"), _coded(_fields())),
        dependencies=_table(
            ("package", "purpose"), _coded((name, remarks[name]) for name in map(_bare, project["dependencies"]))
        ),
        extras=_table(
            ("extra", "packages", "purpose"),
            (
                (f"`{name}`", _listed(map(_bare, packages)), remarks[name])
                for name, packages in project["optional-dependencies"].items()
            ),
        ),
    )


def _table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells])


def _coded(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((f"`{name}`", text) for name, text in rows)


def _flags() -> Iterator[tuple[str, str, str]]:
    """Yield the flags that are no settings, each with the commands that have it with this text."""
    commands: dict[tuple[str, str], list[str]] = {}
    for name, command in cli.commands.items():
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden and param.name not in SETTINGS:
                flag = _listed([*param.opts[:-1], f"{param.opts[-1]} {param.metavar or ''}".rstrip()])
                commands.setdefault((flag, str(param.help)), []).append(name)
    return ((flag, _listed(names), text) for (flag, text), names in commands.items())


def _codes_of_errors() -> dict[int, str]:
    """Return the exit codes of the errors, each with the docstring of the class that has it."""
    classes = [kind for kind in CrawlerError.__subclasses__() if "code" in vars(kind)]
    return {kind.code: str(kind.__doc__).partition("\n")[0].replace("``", "`") for kind in classes}


def _section(section: str) -> str:
    """Return the title and the table of a section of the settings, and which commands have its flags."""
    settings = [setting for setting in SETTINGS.values() if setting.section == section]
    title, hint = settings[0].title, str(getattr(CrawlConfig(), section).__doc__).partition(".")[2]
    rows = (
        (f"`{one.name}`", _flag(one), _values(one), _default(one), one.text.replace("*", r"\*")) for one in settings
    )
    table = _table(("setting", "flag", "value", "default", "meaning"), rows)
    owners: dict[str, list[str]] = {}
    for setting in settings:
        if setting.has_flag:
            commands = [name for name, command in cli.commands.items() if setting.name in _names(command)]
            owners.setdefault(_listed(commands), []).append(_flag(setting))
    groups = [f"{', '.join(flags)} of {commands}" for commands, flags in owners.items()]
    whose = f"Flags: {'; '.join(groups)}." if len(groups) > 1 else "".join(f"Flags of {names}." for names in owners)
    paragraphs = (f"### `[{section}]`: {title[0].lower()}{title[1:]}", f"{hint} {whose}".strip(), table)
    return "\n\n".join(filter(None, paragraphs))


def _names(command: click.Command) -> set[str | None]:
    return {param.name for param in command.params if isinstance(param, click.Option)}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _flag(setting: Setting) -> str:
    if not setting.has_flag:
        return "–"
    former = [f"--{old}" for old, new in OLD_NAMES.items() if new == setting.name]
    return _listed(filter(None, [setting.short, setting.flag, *former]))


def _values(setting: Setting) -> str:
    """Return the type of a setting with its bounds, or the values of a choice."""
    if setting.choices:
        return " ".join(f"`{choice}`" for choice in setting.choices)
    kind = setting.type.types[0] if isinstance(setting.type, inspect.UnionType) else setting.type
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        what = "whole number" if isinstance(kind, inspect.IntType) else "number"
        least = f"above {kind.gt:g}" if kind.gt is not None else f"from {kind.ge:g}"
        return f"{what} {least}" + (f" to {kind.le:g}" if kind.le is not None else "")
    if isinstance(kind, inspect.VarTupleType):
        return "list of texts"
    return "true or false" if isinstance(kind, inspect.BoolType) else "text"


def _default(setting: Setting) -> str:
    default = setting.default
    if default in (None, "", ()) and setting.default_text:
        return setting.default_text
    return "unset" if default is None else f"`{default:g}`" if isinstance(default, float) else f"`{toml(default)}`"


def _fields() -> Iterator[tuple[str, str]]:
    """Yield the fields of the manifest with the comments on their lines or on the line before."""
    lines = source.getsource(ImageRecord).splitlines()
    for node in ast.parse("\n".join(lines)).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            before, line = lines[node.lineno - 2], lines[node.lineno - 1]
            comment = line.partition("#: ")[2] or before.strip().removeprefix("#: ")
            yield node.target.id, comment.replace("``", "`")


def _bare(requirement: str) -> str:
    """Return a requirement without its version."""
    return re.split("[<>=~ ]", requirement)[0]


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
