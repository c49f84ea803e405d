"""The layers of the package, limits that keep each file readable, and the limits of the test suite itself."""

import ast
import multiprocessing
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import requests
import responses

import crawler
from crawler.demo.server import DemoServer

PACKAGE = Path(crawler.__file__).parent

#: Files and folders of the package from the lowest layer up. A folder imports only from folders of lower layers.
LAYERS = [
    *("version errors urls paths text", "model"),
    "stats store net",
    "handler frontier",
    "queue robots",
    "worker harvest download",
    "engines maintenance",
    *("app", "demo", "cli", "__main__"),
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
#: The only module of the frontier that workers, engines and the queue may import.
SEAM = "crawler.frontier.base"

#: Packages that the lowest modules import, besides the standard library.
LOWEST = {"errors": set[str](), "model": {"msgspec"}, "urls": {"ada_url"}, "paths": set[str](), "text": set[str]()}

MAX_FILES = 15  # in a folder
MAX_FILE, MAX_CLASS, MAX_FUNCTION = 600, 300, 60  # lines
MAX_METHODS = 25  # of a class
MAX_FAN_OUT, MAX_CHAIN = 22, 16  # modules that one imports, and modules that import one another in a row
NO_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def nodes(path: Path, *kinds: type[Any]) -> Iterator[Any]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, kinds))


def imports(path: Path) -> Iterator[str]:
    """Yield the absolute dotted names of all imports of a file, within functions too: ``a.b`` or ``a.b.name``."""
    for node in nodes(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(name: str) -> str:
    """Return the module of this package that contains an imported name."""
    while name not in FILES:
        name = name.rpartition(".")[0]
    return name


def needs(path: Path) -> set[str]:
    """Return the modules of this package that a file imports, without the root, which only provides its version."""
    return {module_of(name) for name in imports(path) if name.partition(".")[0] == "crawler"} - {"crawler"}


def layer(module: str) -> tuple[int, str]:
    """Return the number of the layer, and the file or folder of the package that is or contains the module."""
    top = module.split(".")[1]
    return LAYER[top], top


INNER = [module for module in FILES if module != "crawler"]


def test_each_module_has_a_layer() -> None:
    assert {module.split(".")[1] for module in INNER} == LAYER.keys()


def test_imports_go_down_only() -> None:
    above = [
        f"{module} imports {need}"
        for module in INNER
        for need in needs(FILES[module])
        if layer(need)[0] >= layer(module)[0] and layer(need)[1] != layer(module)[1]
    ]
    assert above == []


def test_harvest_download_and_frontier_do_not_import_one_another() -> None:
    peers = {"harvest", "download", "frontier"}
    modules = {module: layer(module)[1] for module in INNER if layer(module)[1] in peers}
    imported = {module: {layer(need)[1] for need in needs(FILES[module])} & peers for module in modules}
    assert {module: folders for module, folders in imported.items() if folders - {modules[module]}} == {}


def test_workers_engines_and_the_queue_import_only_the_base_module_of_the_frontier() -> None:
    folders, peers = {"worker", "engines", "queue"}, {"harvest", "download", "frontier"}
    modules = [module for module in INNER if layer(module)[1] in folders]
    imported = {module: {need for need in needs(FILES[module]) if layer(need)[1] in peers} for module in modules}
    assert {module: needed for module, needed in imported.items() if not needed <= {SEAM}} == {}


def test_there_are_no_cycles() -> None:
    graph = {module: needs(FILES[module]) for module in INNER}
    assert set(TopologicalSorter(graph).static_order()) == set(INNER)  # a cycle raises CycleError, which names it


def test_imports_are_few_and_their_chains_short() -> None:
    graph = {module: needs(FILES[module]) for module in INNER}
    chains: dict[str, list[str]] = {}
    for module in TopologicalSorter(graph).static_order():
        chains[module] = [module, *max((chains[need] for need in graph[module]), key=len, default=[])]
    assert {module: len(needed) for module, needed in graph.items() if len(needed) > MAX_FAN_OUT} == {}
    assert [chain for chain in chains.values() if len(chain) > MAX_CHAIN] == []


def test_no_module_of_the_package_imports_from_its_root() -> None:
    names = {(module, name) for module in INNER for name in imports(FILES[module]) if name not in FILES}
    assert {(module, name) for module, name in names if re.fullmatch(r"crawler\.\w+", name)} == set()


@pytest.mark.parametrize("module", LOWEST)
def test_the_lowest_modules_import_few_packages(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(FILES[f"crawler.{module}"])}
    assert tops - sys.stdlib_module_names - {"crawler"} <= LOWEST[module]


def test_errors_and_logs_need_no_installed_package() -> None:
    code = "import sys; sys.modules.update(dict.fromkeys(['msgspec', 'tqdm'])); import crawler.errors, crawler.cli.logs"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).stderr == b""


def test_init_files_of_folders_are_empty() -> None:
    inits = [path for path in FILES.values() if path.name == "__init__.py" and path.parent != PACKAGE]
    assert [path for path in inits if path.read_bytes()] == []


def test_folders_are_small() -> None:
    files = Counter(path.parent for path in FILES.values() if path.name != "__init__.py")
    assert {folder: number for folder, number in files.items() if number > MAX_FILES} == {}


def test_module_names_are_meaningful() -> None:
    assert [name for name in FILES if NO_NAMES & set(name.strip("_").replace("_", ".").split("."))] == []


def found(*kinds: type[Any]) -> Iterator[tuple[str, Any]]:
    """Return all nodes of these kinds, each with the name of its module."""
    return ((name, node) for name, path in FILES.items() for node in nodes(path, *kinds))


def test_files_classes_and_functions_are_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert [name for name, length in lengths.items() if length > MAX_FILE] == []
    classes = [(f"{name}.{node.name}", node) for name, node in found(ast.ClassDef)]
    assert [name for name, node in classes if node.end_lineno - node.lineno >= MAX_CLASS] == []
    methods = {name: sum(isinstance(part, ast.FunctionDef) for part in node.body) for name, node in classes}
    assert {name: number for name, number in methods.items() if number > MAX_METHODS} == {}
    functions = found(ast.FunctionDef, ast.AsyncFunctionDef)
    assert [f"{name}.{node.name}" for name, node in functions if node.end_lineno - node.lineno >= MAX_FUNCTION] == []


def test_imports_are_absolute() -> None:
    assert [f"{name}:{node.lineno}" for name, node in found(ast.ImportFrom) if node.level] == []
    assert [name for name, path in FILES.items() if any(each.endswith(".*") for each in imports(path))] == []


def test_the_package_does_not_print() -> None:
    calls = found(ast.Call)
    printing = [(n, call.lineno) for n, call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert printing == []


def caught(handler: ast.ExceptHandler) -> set[str]:
    """Return names of the classes that a handler catches; ``everything`` for a bare one."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {ast.unparse(kind) if kind else "everything" for kind in kinds}


def raises_again(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None


def test_a_broad_except_has_a_reason() -> None:
    for name, handler in found(ast.ExceptHandler):
        where = f"{name}:{handler.lineno}"
        assert "everything" not in caught(handler), where
        if caught(handler) & {"Exception", "BaseException"} and not raises_again(handler):
            assert "BaseException" not in caught(handler), where
            line = FILES[name].read_text(encoding="utf-8").splitlines()[handler.lineno - 1]
            assert len(line.partition("#")[2].rpartition("#")[2].split()) >= 4, f"{where} gives no reason behind a #"


# --- the limits of the suite itself


def _connect_away() -> None:
    with socket.socket() as sock:
        sock.connect(("192.0.2.1", 80))


def _bind_wide() -> None:
    with socket.socket() as sock:
        sock.bind(("", 0))


def _send_away() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("192.0.2.1", 9))


@pytest.mark.parametrize(
    "journey",
    [
        _connect_away,
        _bind_wide,
        _send_away,
        lambda: socket.create_connection(("site.example", 80)),
        lambda: socket.getaddrinfo("site.example", 80),
        lambda: socket.getaddrinfo(b"192.0.2.1", 80),
        lambda: socket.gethostbyname("site.example"),
        lambda: socket.getnameinfo(("192.0.2.1", 80), 0),
        lambda: requests.get("http://site.example/", timeout=1),
    ],
)
def test_connections_to_other_machines_fail_the_test(journey: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="must not leave loopback"):
        journey()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", None])
def test_loopback_is_allowed(name: str | None) -> None:
    assert socket.getaddrinfo(name, 80)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_unix_sockets_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # their names must be short
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("here")
        server.listen()
        client.connect("here")
        assert client.getpeername() == "here"


@responses.activate
def test_mocked_responses_use_no_network() -> None:
    responses.get("http://site.example/", body="mocked")
    assert requests.get("http://site.example/", timeout=1).text == "mocked"


def test_the_site_is_available_to_each_test(site: DemoServer) -> None:
    assert requests.get(site.url, timeout=10).status_code == 200
    assert len(site.requests) == 1


def test_processes_are_spawned() -> None:
    assert multiprocessing.get_start_method() == "spawn"


#: A test that passes, one that fails, and a plugin whose own warning is an error and which leaves a handle open.
_TOOLS_THAT_FAIL = """
import os, warnings, pytest
from tests.conftest import pytest_sessionfinish

class Failing:
    def pytest_sessionfinish(self):
        left = os.scandir(".")
        next(left)
        warnings.warn(pytest.PytestWarning("cannot be removed"))
        raise OSError("cannot be read")

def pytest_configure(config):
    config.pluginmanager.register(Failing())
"""


def test_a_run_ends_with_its_summary_even_if_a_plugin_fails(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(_TOOLS_THAT_FAIL)
    (tmp_path / "test_both.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED and done.stderr == ""
    assert "1 failed, 1 passed" in done.stdout.splitlines()[-1]
    assert "cannot be removed" in done.stdout and "cannot be read" in done.stdout
