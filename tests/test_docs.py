"""The documents match the program: commands and flags exist, snippets run, tables agree with the code."""

import doctest
import json
import re
import tomllib
from pathlib import Path

import click
import pytest

import crawler
from crawler.app.config import CrawlConfig
from crawler.cli.commands import cli
from crawler.engines.base import Engine
from crawler.errors import CrawlerError
from crawler.frontier.base import Frontier
from crawler.handler import Handler
from crawler.model import REASONS, ImageRecord
from crawler.net.fetcher import Fetcher, Receiver
from crawler.store.base import BlobStore
from crawler.worker.runner import Runner
from tests.support.make_reference import COMMAND, reference

PACKAGE = Path(crawler.__file__).parent
ROOT = PACKAGE.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (PACKAGE / "README.md").read_text(encoding="utf-8")
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((PACKAGE / "guide").glob("*.md"))}
REFERENCE = PAGES["reference"]
#: All that users read.
DOCUMENTS = "\n".join([README, *PAGES.values()])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language in the README and the guide."""
    return [body for name, body in _FENCED.findall(DOCUMENTS) if name == language]


def words_in_code(text: str, pattern: str) -> set[str]:
    """Return the matches of a pattern in fenced blocks and backticked words."""
    pieces = [body for _, body in _FENCED.findall(text)]
    pieces += re.findall(r"`([^`\n]+)`", _FENCED.sub("", text))
    return {found for piece in pieces for found in re.findall(pattern, piece)}


def section(title: str) -> str:
    """A section of the reference page."""
    return REFERENCE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[tuple[str, str]]:
    """Return the first and second cell of each row of the tables in ``text``."""
    return re.findall(r"^\| ([^|\n]+?) \| ([^|\n]+?) \|", text, re.MULTILINE)


def flags() -> set[str]:
    """Return every flag that any command has and shows."""
    options = [option for command in (cli, *cli.commands.values()) for option in command.params]
    shown = [option for option in options if isinstance(option, click.Option) and not option.hidden]
    return {"-h", "--help", *(name for option in shown for name in option.opts)}


# --- the README


def test_the_beginning_of_the_readme_has_the_two_commands() -> None:
    first_screen = README.splitlines()[:30]
    assert (
        'python3 -m venv .venv && .venv/bin/pip install -q -e ".[test]" && .venv/bin/crawler demo' in first_screen[:10]
    )
    assert ".venv/bin/python -m pytest -q" in first_screen[:10]
    assert r".venv\Scripts\crawler demo" in "\n".join(first_screen)


def test_each_command_is_told_and_there_is_no_other() -> None:
    assert words_in_code(DOCUMENTS, r"(?m)(?:^|[ $/\\])crawler ([a-z]+)") - {"import"} == set(cli.commands)


def test_the_flags_are_documented_and_there_are_no_others() -> None:
    long, short = r"(?<![\w-])--[a-z][a-z-]+", r"(?<![\w-])-[a-z](?![\w-])"
    told = section("Flags") + section("Settings")
    assert words_in_code(told, long) == {flag for flag in flags() if flag.startswith("--")}
    assert words_in_code(told, short) == {flag for flag in flags() if len(flag) == 2}
    assert words_in_code(DOCUMENTS, long) <= flags()


def test_the_exit_codes_are_those_of_the_errors() -> None:
    told = {int(code) for code, _ in rows(section("Exit codes")) if code.isdecimal()}
    family, codes = [CrawlerError], set()
    while family:
        kind = family.pop()
        codes.add(kind.code)
        family += kind.__subclasses__()
    assert told == codes | {0, 8, 9, 130}


def test_the_settings_are_documented_and_the_example_is_valid() -> None:
    (text,) = blocks("toml")
    CrawlConfig.load(("reference.md", tomllib.loads(text)))
    tables = re.findall(r"^### `\[(\w+)\]`(.*?)(?=^###|\Z)", section("Settings"), re.MULTILINE | re.DOTALL)
    assert {name: {row.strip("`") for row, _ in rows(table)} - {"setting", "---"} for name, table in tables} == {
        name: set(getattr(CrawlConfig(), name).__struct_fields__) for name in CrawlConfig.__struct_fields__
    }


def test_the_reasons_are_documented_and_there_are_no_others() -> None:
    told = [name for names, _ in rows(section("Reasons")) for name in re.findall(r"`([^`]+)`", names)]
    assert sorted(told) == sorted({*REASONS, "http-<code>"})


def test_the_reference_is_made_from_the_code() -> None:
    assert reference() == REFERENCE, f"the code has changed; to update the page, run: {COMMAND}"


def test_the_example_row_of_the_manifest_has_every_field() -> None:
    (row,) = blocks("json")
    assert tuple(json.loads(row)) == ImageRecord.__struct_fields__


def test_each_dependency_is_named_with_a_reason() -> None:
    told = dict(rows(section("Dependencies")))
    bare = [re.split(r"[<>=~\[ ]", name)[0] for name in PROJECT["dependencies"]]
    assert all(told[f"`{name}`"] for name in bare)
    extras = {re.split(r"[<>=~\[ ]", name)[0] for names in PROJECT["optional-dependencies"].values() for name in names}
    named = " ".join(told[f"`{name}`"] for name in PROJECT["optional-dependencies"])
    assert set(re.findall(r"`([\w-]+)(?:\[[\w,]+\])?`", named)) == extras


@pytest.mark.parametrize("name", [name for name, text in {"README": README, **PAGES}.items() if "\n>>> " in text])
def test_python_snippets_do_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = {"README": README, **PAGES}[name]
    session = "\n".join(body for language, body in _FENCED.findall(text) if language == "python" and ">>>" in body)
    test = doctest.DocTestParser().get_doctest(session, {}, name, name, 0)
    report: list[str] = []
    doctest.DocTestRunner().run(test, out=report.append)
    assert len(test.examples) >= 3
    assert "".join(report) == ""


def test_the_readme_and_the_pages_are_short() -> None:
    assert len(README.encode()) <= 8_192
    lengths = {name: len(text.encode()) for name, text in PAGES.items() if name != "reference"}  # which has tables only
    assert {name: length for name, length in lengths.items() if length > 12_288} == {}


def test_the_readme_links_to_each_page() -> None:
    assert set(re.findall(r"\(crawler/guide/(\w+)\.md\)", README)) == PAGES.keys()


# --- the architecture page


def test_each_folder_is_described_and_there_is_no_other() -> None:
    inside = [
        path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")
    ]
    parts = {path.parent.as_posix() if path.parent.name else path.stem for path in inside}
    cells = [cell for cell, _ in rows(ARCHITECTURE.split("\n## Layers\n")[1].split("\n## ")[0])]
    assert {name for cell in cells for name in re.findall(r"`([\w/]+)`", cell)} == parts | {"guide"}


@pytest.mark.parametrize("seam", [Fetcher, Receiver, Handler, BlobStore, Engine, Runner, Frontier])
def test_the_methods_of_a_seam_are_those_of_the_code(seam: type) -> None:
    doors = {
        name.strip("`"): methods for name, methods in rows(ARCHITECTURE.split("\n## Seams\n")[1].split("\n## ")[0])
    }
    assert words_in_code(doors[seam.__name__], r"^\w+") == {name for name in vars(seam) if not name.startswith("_")}


def test_every_file_a_document_links_to_is_there() -> None:
    pages = ((PACKAGE / "guide", text) for text in PAGES.values())
    for folder, text in ((ROOT, README), (PACKAGE, ARCHITECTURE), *pages):
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        paths = re.findall(r"`((?:crawler|tests)/[\w/]+\.\w+)`", text)
        assert [link for link in links if not (folder / link).exists()] == []
        assert [path for path in paths if not (ROOT / path).exists()] == []
