"""The house: floors, wings, and the rules that keep every file readable. Also the walls of the test suite itself."""

import ast
import multiprocessing
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import requests
import responses

import crawler
from crawler.demo import DemoServer

PACKAGE = Path(crawler.__file__).parent

#: Floors from the ground up. Imports go down, or stay within a room; only the ground floor, the instruments and the
#: roof are one room each, so their files may know one another (without cycles).
FLOORS: list[dict[str, str]] = [
    dict.fromkeys(["errors", "known", "model", "urls", "paths"], "ground floor"),
    dict.fromkeys(["addresses", "guard", "fetcher", "exchange", "answer", "transport", "body"], "instruments")
    | dict.fromkeys(["cookies", "robots", "consent", "tdm", "referrer"], "instruments")
    | dict.fromkeys(["storage", "entries", "sync", "cloud", "manifest", "lock", "shelf", "notes"], "instruments"),
    {"frontier": "frontier", "harvest": "harvest", "download": "download"},
    {
        "worker": "worker",
        "turn": "worker",
        "reach": "worker",
        "pause": "worker",
        "keeper": "worker",
        "engines": "engines",
    },
    dict.fromkeys(["config", "seeds", "box", "master", "crawl", "progress", "report", "dashboard"], "roof")
    | dict.fromkeys(
        [
            "audit",
            "books",
            "control",
            "view",
            "fleet",
            "policy",
            "pins",
            "port",
            "preview",
            "retry",
            "status",
            "walker",
        ],
        "roof",
    )
    | dict.fromkeys(["near", "repair"], "roof")
    | dict.fromkeys(["demo", "showcase", "logs", "options", "cli", "__main__"], "roof"),
]
#: Who walks pages and where does not know what is in the wings, only the seam of the one it asks for work.
WINGS = set(FLOORS[2])
SEAM = "crawler.frontier.base"

#: What the ground floor stands on, besides the standard library.
GROUND = {"errors": set[str](), "known": {"msgspec"}, "model": {"msgspec"}, "urls": {"ada_url"}, "paths": set[str]()}

MAX_FILE, MAX_FUNCTION = 450, 60  # lines
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
    """Absolute dotted names of all that a file imports, within functions too: ``a.b`` or ``a.b.name``."""
    for node in nodes(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(name: str) -> str:
    """The module of ours that an imported name stands in."""
    while name not in FILES:
        name = name.rpartition(".")[0]
    return name


def needs(path: Path) -> set[str]:
    """The modules of ours that a file imports; the package's root, which only lends its version, left out."""
    return {module_of(name) for name in imports(path) if name.partition(".")[0] == "crawler"} - {"crawler"}


def place(module: str) -> tuple[int, str]:
    """Floor and room."""
    top = module.split(".")[1]
    for floor, rooms in enumerate(FLOORS):
        if top in rooms:
            return floor, rooms[top]
    return len(FLOORS), "nowhere"


INNER = [module for module in FILES if module != "crawler"]


def test_every_module_stands_on_a_floor() -> None:
    assert [module for module in INNER if place(module)[1] == "nowhere"] == []  # where to: FLOORS above


@pytest.mark.parametrize("module", INNER)
def test_imports_go_down_only(module: str) -> None:
    floor, room = place(module)
    above = {need for need in needs(FILES[module]) if place(need)[0] >= floor and place(need)[1] != room}
    assert above == set()


@pytest.mark.parametrize("module", [module for module in INNER if place(module)[1] in ("worker", "engines")])
def test_of_the_wings_workers_and_engines_know_the_frontier_s_seam_only(module: str) -> None:
    assert {need for need in needs(FILES[module]) if place(need)[1] in WINGS} <= {SEAM}


def test_there_are_no_cycles() -> None:
    graph = {module: needs(FILES[module]) for module in INNER}
    assert set(TopologicalSorter(graph).static_order()) == set(INNER)  # a cycle raises CycleError, which names it


@pytest.mark.parametrize("module", INNER)
def test_nobody_inside_takes_more_than_the_version_from_the_root(module: str) -> None:
    through_the_root = {name for name in imports(FILES[module]) if name.startswith("crawler.") and name.count(".") == 1}
    assert through_the_root - FILES.keys() <= {"crawler.__version__"}


@pytest.mark.parametrize("module", GROUND)
def test_the_ground_floor_stands_on_little(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(FILES[f"crawler.{module}"])}
    assert tops - sys.stdlib_module_names - {"crawler"} <= GROUND[module]


def test_errors_and_logs_need_nothing_that_is_installed() -> None:
    code = "import sys; sys.modules.update(dict.fromkeys(['msgspec', 'tqdm'])); import crawler.errors, crawler.logs"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).stderr == b""


def test_inner_packages_are_empty() -> None:
    packages = [path for path in FILES.values() if path.name == "__init__.py" and path.parent != PACKAGE]
    assert {name_of(path) for path in packages} == {f"crawler.{room}" for room in (*WINGS, "engines")}
    assert [path for path in packages if path.read_bytes()] == []


def test_no_name_says_nothing() -> None:
    assert [name for name in FILES if NO_NAMES & set(name.strip("_").replace("_", ".").split("."))] == []


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE
    functions = nodes(path, ast.FunctionDef, ast.AsyncFunctionDef)
    assert [node.name for node in functions if node.end_lineno - node.lineno >= MAX_FUNCTION] == []


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_imports_are_absolute(path: Path) -> None:
    assert [node.lineno for node in nodes(path, ast.ImportFrom) if node.level] == []
    assert [name for name in imports(path) if name.endswith(".*")] == []


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_nobody_prints(path: Path) -> None:
    calls = nodes(path, ast.Call)
    assert [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"] == []


def caught(handler: ast.ExceptHandler) -> set[str]:
    """Names of the classes that a handler catches; ``everything`` for a bare one."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {ast.unparse(kind) if kind else "everything" for kind in kinds}


def raises_again(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_whoever_catches_everything_says_why(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for handler in nodes(path, ast.ExceptHandler):
        assert "everything" not in caught(handler), handler.lineno
        if caught(handler) & {"Exception", "BaseException"} and not raises_again(handler):
            assert "BaseException" not in caught(handler), handler.lineno
            reason = lines[handler.lineno - 1].partition("#")[2].rpartition("#")[2]
            assert len(reason.split()) >= 4, f"{path.name}:{handler.lineno} gives no reason behind a #"


# --- the suite's own walls


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
def test_no_test_leaves_this_machine(journey: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="must not leave loopback"):
        journey()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", None])
def test_loopback_is_at_home(name: str | None) -> None:
    assert socket.getaddrinfo(name, 80)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets here")
def test_unix_sockets_are_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # their names must be short
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("here")
        server.listen()
        client.connect("here")
        assert client.getpeername() == "here"


@responses.activate
def test_mocked_answers_go_nowhere() -> None:
    responses.get("http://site.example/", body="mocked")
    assert requests.get("http://site.example/", timeout=1).text == "mocked"


def test_the_site_is_there_for_each_test(site: DemoServer) -> None:
    assert requests.get(site.url, timeout=10).status_code == 200
    assert len(site.requests) == 1


def test_processes_are_spawned() -> None:
    assert multiprocessing.get_start_method() == "spawn"
