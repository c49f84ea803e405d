"""What the documents say is so: commands and flags exist, snippets run, tables agree with the code."""

import doctest
import json
import re
import tomllib
from pathlib import Path

import click
import pytest

import crawler
from crawler.cli import cli
from crawler.config import CrawlConfig
from crawler.engines.base import Engine
from crawler.errors import CrawlerError
from crawler.fetcher import Fetcher
from crawler.frontier.base import Frontier
from crawler.model import REASONS, ImageRecord
from crawler.storage import BlobStore
from crawler.worker import Handler

PACKAGE = Path(crawler.__file__).parent
ROOT = PACKAGE.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOUSE = (PACKAGE / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language in the README."""
    return [body for name, body in _FENCED.findall(README) if name == language]


def words_in_code(text: str, pattern: str) -> set[str]:
    """What a pattern finds in whatever is set as code: fenced blocks and backticked words."""
    pieces = [body for _, body in _FENCED.findall(text)]
    pieces += re.findall(r"`([^`\n]+)`", _FENCED.sub("", text))
    return {found for piece in pieces for found in re.findall(pattern, piece)}


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[tuple[str, str]]:
    """First and second cell of each row of the tables in ``text``."""
    return re.findall(r"^\| ([^|\n]+?) \| ([^|\n]+?) \|", text, re.MULTILINE)


def flags() -> set[str]:
    """Every flag that some command has and shows."""
    options = [option for command in (cli, *cli.commands.values()) for option in command.params]
    shown = [option for option in options if isinstance(option, click.Option) and not option.hidden]
    return {"-h", "--help", *(name for option in shown for name in option.opts)}


# --- the README


def test_the_first_screen_has_the_two_commands() -> None:
    first_screen = README.splitlines()[:30]
    assert (
        'python3 -m venv .venv && .venv/bin/pip install -q -e ".[test]" && .venv/bin/crawler demo' in first_screen[:10]
    )
    assert ".venv/bin/python -m pytest -q" in first_screen[:10]
    assert r".venv\Scripts\crawler demo" in "\n".join(first_screen)


def test_each_command_is_told_and_there_is_no_other() -> None:
    assert words_in_code(README, r"(?m)(?:^|[ $/\\])crawler ([a-z]+)") - {"import"} == set(cli.commands)


def test_the_flags_are_explained_and_there_are_no_others() -> None:
    long, short = r"(?<![\w-])--[a-z][a-z-]+", r"(?<![\w-])-[a-z](?![\w-])"
    told = section("Flags")
    assert words_in_code(told, long) == {flag for flag in flags() if flag.startswith("--")}
    assert words_in_code(told, short) == {flag for flag in flags() if len(flag) == 2}
    assert words_in_code(README, long) <= flags()


def test_the_exit_codes_are_those_of_the_errors() -> None:
    told = {int(code) for code, _ in rows(README) if code.isdecimal()}
    family, codes = [CrawlerError], set()
    while family:
        kind = family.pop()
        codes.add(kind.code)
        family += kind.__subclasses__()
    assert told == codes | {0, 8, 9, 130}


def test_the_settings_file_is_valid_and_complete() -> None:
    (text,) = blocks("toml")
    tables = tomllib.loads(text)
    CrawlConfig.load(("README.md", tables))
    assert {name: set(table) for name, table in tables.items()} == {
        name: set(getattr(CrawlConfig(), name).__struct_fields__) for name in CrawlConfig.__struct_fields__
    }


def test_the_reasons_are_explained_and_there_are_no_others() -> None:
    told = [name for names, _ in rows(section("Reasons")) for name in re.findall(r"`([^`]+)`", names)]
    assert sorted(told) == sorted({*REASONS, "http-<code>"})


def test_the_row_of_the_manifest_has_every_field() -> None:
    (row,) = blocks("json")
    assert tuple(json.loads(row)) == ImageRecord.__struct_fields__


def test_each_dependency_is_named_with_a_reason() -> None:
    told = section("What it stands on")
    bare = [re.split(r"[<>=~\[ ]", name)[0] for name in PROJECT["dependencies"]]
    assert sorted(name.strip("`") for name, _ in rows(told)[1:]) == sorted(bare)
    extras = {re.split(r"[<>=~\[ ]", name)[0] for names in PROJECT["optional-dependencies"].values() for name in names}
    prose = "\n".join(line for line in told.splitlines() if not line.startswith("|"))
    assert set(re.findall(r"`([\w-]+)`", prose)) == extras - {PROJECT["name"]}


def test_the_python_snippets_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session = "\n".join(block for block in blocks("python") if block.startswith(">>>"))
    test = doctest.DocTestParser().get_doctest(session, {}, "README.md", "README.md", 0)
    report: list[str] = []
    doctest.DocTestRunner().run(test, out=report.append)
    assert len(test.examples) > 15
    assert "".join(report) == ""


# --- the architecture page


def test_each_module_is_named_and_there_is_no_other() -> None:
    modules = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    described = {name.strip("`") for name, _ in rows(HOUSE) if name.endswith(".py`")}
    assert described == {name for name in modules if not name.endswith("__init__.py")}


@pytest.mark.parametrize("seam", [Fetcher, Handler, BlobStore, Engine, Frontier])
def test_the_methods_of_a_seam_are_those_of_the_code(seam: type) -> None:
    doors = {name.strip("`"): methods for name, methods in rows(HOUSE.split("\n## Seams\n")[1].split("\n## ")[0])}
    assert words_in_code(doors[seam.__name__], r"^\w+") == {name for name in vars(seam) if not name.startswith("_")}


def test_every_file_a_document_links_to_is_there() -> None:
    for folder, text in ((ROOT, README), (PACKAGE, HOUSE)):
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        paths = re.findall(r"`((?:crawler|tests)/[\w/]+\.\w+)`", text)
        assert [link for link in links if not (folder / link).exists()] == []
        assert [path for path in paths if not (ROOT / path).exists()] == []
