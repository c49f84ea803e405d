"""The public names: every name exists, and a name costs nothing until it is used."""

import ast
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

import crawler

HEAVY = {"requests", "urllib3", "PIL", "bs4", "lxml", "msgspec", "ada_url", "click", "sqlite3", "multiprocessing"}


def modules_after(code: str) -> set[str]:
    """Return the top-level names of the modules that a fresh interpreter has after ``code``."""
    report = "\nimport json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("name", crawler.__all__)
def test_a_public_name_exists(name: str) -> None:
    value = getattr(crawler, name)
    assert not isinstance(value, ModuleType)
    assert value.__doc__
    assert name in dir(crawler)


def test_the_documented_names_are_public() -> None:
    documented = {"run", "extract", "parse_srcset", "resolve", "canonicalize", "robots_allowed", "inspect_image"}
    assert documented <= set(crawler.__all__)
    assert len(set(crawler.__all__)) == len(crawler.__all__)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(crawler.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(crawler.__all__) - {"__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'crawler' has no attribute 'crawl_everything'"):
        _ = crawler.crawl_everything
    assert not hasattr(crawler, "__path_to_nowhere__")


def test_a_name_is_looked_up_once() -> None:
    assert crawler.resolve is vars(crawler)["resolve"]


def test_importing_the_package_alone_is_cheap() -> None:
    assert modules_after("import crawler") & HEAVY == set()


def test_a_name_imports_only_its_dependencies() -> None:
    loaded = modules_after("from crawler import CrawlerError, canonicalize, resolve")
    assert loaded & HEAVY == {"ada_url"}


def test_a_star_import_provides_all_names() -> None:
    code = "import crawler; from crawler import *; assert set(crawler.__all__) <= set(dir())"
    assert "requests" in modules_after(code)


def test_help_is_fast_and_imports_little() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "crawler", "--help"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=60)
    elapsed = time.perf_counter() - started
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    loaded = {module.partition(".")[0] for module in modules}
    assert "download" in done.stdout
    assert "click" in loaded and "msgspec" in loaded  # the flags of settings come from their fields
    assert loaded & {"requests", "urllib3", "PIL", "bs4", "lxml", "tqdm", "ada_url", "pathvalidate", "sqlite3"} == set()
    own = {
        "version",
        "text",
        "errors",
        "app",
        "app.config",
        "cli",
        "cli.logs",
        "cli.options",
        "cli.output",
        "cli.commands",
    }
    assert {module for module in modules if module.startswith("crawler.")} == {f"crawler.{name}" for name in own}
    assert elapsed < 10  # seconds; a fortieth of it is the goal, the rest is for busy machines
