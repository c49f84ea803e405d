"""Checks for Windows that run on any system: pickling by name, legal file names, no unguarded POSIX calls."""

import ast
import ntpath
import pickle
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import pytest
from PIL import Image

import crawler
from crawler.demo.server import DemoServer
from crawler.queue.manager import QueueManager
from crawler.queue.protocol import RESULTS, TASKS
from crawler.store.local import LocalStore

PACKAGE = Path(crawler.__file__).parent

#: Module → its names that Windows lacks or defines differently: there, os.kill(pid, 0) ends the process.
POSIX_ONLY = {
    "os": {
        *("fork", "forkpty", "kill", "killpg", "getpgid", "getpgrp", "setpgid", "setsid", "getsid", "nice", "wait3"),
        *("getuid", "geteuid", "getgid", "getegid", "getgroups", "setuid", "setgid", "initgroups", "getpriority"),
        *("chown", "fchown", "lchown", "fchmod", "fchdir", "chroot", "mkfifo", "mknod", "statvfs", "fstatvfs", "wait4"),
        *("sync", "fdatasync", "pread", "pwrite", "preadv", "pwritev", "posix_fadvise", "posix_fallocate", "sendfile"),
        *("posix_spawn", "uname", "ttyname", "openpty", "getloadavg", "register_at_fork", "sched_getaffinity", "lockf"),
        *("setxattr", "getxattr", "memfd_create", "eventfd", "WNOHANG", "WIFEXITED", "WEXITSTATUS", "WIFSIGNALED"),
        *("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_SYNC", "O_DSYNC", "O_NOATIME", "O_PATH"),
    },
    "signal": {
        *("SIGKILL", "SIGSTOP", "SIGCONT", "SIGTSTP", "SIGALRM", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGCHLD", "SIGUSR1"),
        *("SIGUSR2", "SIGWINCH", "alarm", "setitimer", "pause", "sigwait", "pthread_kill", "pthread_sigmask"),
    },
    "socket": {"AF_UNIX", "SO_REUSEPORT", "MSG_DONTWAIT", "MSG_NOSIGNAL", "send_fds", "recv_fds"},
    "select": {"poll", "epoll", "kqueue"},
    "ctypes": {"CDLL"},
    **{name: set[str]() for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix")},
}
#: Keyword arguments of `subprocess` that Windows refuses.
POSIX_ONLY_ARGUMENTS = {"preexec_fn", "pass_fds", "process_group", "umask"}

#: (file, function, name) → the guard before it in that function.
GUARDED = {
    ("store/disk.py", "_may_live", "os.kill"): 'if os.name == "nt"',
    ("store/disk.py", "_find_syncfs", "ctypes.CDLL"): 'if os.name != "posix"',
    ("download/decoder_child.py", "_limit_memory", "resource"): 'if sys.platform != "linux"',
    ("download/native_decoders.py", "find_webp", "ctypes.CDLL"): 'if os.name != "posix"',
    ("download/native_decoders.py", "find_avif", "ctypes.CDLL"): 'if os.name != "posix"',
    ("engines/spare_processes.py", "__init__", "os.fork"): 'assert sys.platform == "linux"',
    ("engines/spare_processes.py", "kill", "os.kill"): 'assert sys.platform == "linux"',
    ("engines/spare_processes.py", "_reap", "os.WNOHANG"): 'assert sys.platform == "linux"',
    ("engines/spare_processes.py", "_obey", "os.setsid"): 'assert sys.platform == "linux"',
    ("queue/connections.py", "descriptors", "resource"): 'if os.name != "posix"',
    ("queue/interfaces.py", "_by_interface", "fcntl"): 'if sys.platform == "win32"',
    ("queue/join_file.py", "_keeps_modes", "os.geteuid"): 'if os.name != "posix"',
}

FILES = sorted(PACKAGE.rglob("*.py"))


def posix_only(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield every use of a POSIX-only name; a `getattr` with a default or a `hasattr` does not count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in POSIX_ONLY.get(node.value.id, ()):
                yield node, f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names if POSIX_ONLY.get(alias.name) == set())
        elif isinstance(node, ast.ImportFrom) and node.module in POSIX_ONLY:
            lacking = POSIX_ONLY[node.module]
            yield from ((node, f"{node.module}.{a.name}") for a in node.names if not lacking or a.name in lacking)
        elif isinstance(node, ast.keyword) and node.arg in POSIX_ONLY_ARGUMENTS:
            yield node, node.arg
        elif isinstance(node, ast.Constant) and node.value in ("fork", "forkserver"):
            yield node, f"multiprocessing {node.value}"


def uses(source: str) -> Iterator[tuple[str, str, str]]:
    """Yield function, name and the function's text before it, for every use of a POSIX-only name."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node, name in posix_only(tree):
        line = getattr(node, "lineno", 0)
        around = [function for function in functions if function.lineno <= line <= (function.end_lineno or 0)]
        first = around[-1].lineno if around else line
        yield around[-1].name if around else "", name, "\n".join(source.splitlines()[first - 1 : line - 1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_posix_only_calls_are_guarded(path: Path) -> None:
    for function, name, before in uses(path.read_text(encoding="utf-8")):
        guard = GUARDED.get((path.relative_to(PACKAGE).as_posix(), function, name))
        assert guard is not None, f"{name} in {function or 'the module'}: Windows has none"
        assert guard in before


def test_every_listed_exception_is_still_used() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), function, name)
        for path in FILES
        for function, name, _ in uses(path.read_text(encoding="utf-8"))
    }
    assert found == GUARDED.keys()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import os\nos.fork()", "os.fork"),
        ("from signal import SIGKILL", "signal.SIGKILL"),
        ("def f():\n    import fcntl", "fcntl"),
        ("from resource import RLIMIT_NOFILE", "resource.RLIMIT_NOFILE"),
        ("multiprocessing.get_context('fork')", "multiprocessing fork"),
        ("Popen([], preexec_fn=f)", "preexec_fn"),
    ],
)
def test_the_search_finds_these_uses(source: str, name: str) -> None:
    assert [found for _, found, _ in uses(source)] == [name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_text_files_name_their_encoding(path: Path) -> None:
    """Windows would otherwise use the local code page."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr != "replace":
            named = {keyword.arg for keyword in node.keywords}
            if node.func.attr in ("read_text", "write_text"):
                assert "encoding" in named, node.lineno
            assert "encoding" in named or not named & {"text", "universal_newlines"}, node.lineno


# --- the managed queue


@pytest.mark.parametrize("name", [TASKS, RESULTS])
def test_registered_functions_pickle_by_name(name: str) -> None:
    function, _, _, proxy = QueueManager._registry[name]  # type: ignore[attr-defined]  # typeshed leaves it out
    for registered in (function, proxy):
        assert "<" not in registered.__qualname__
        assert pickle.loads(pickle.dumps(registered)) is registered  # noqa: S301  # our own, and what spawn would do


# --- file names


def is_legal(path: PureWindowsPath) -> bool:
    """Return whether Windows can store a relative path."""
    reserved = getattr(ntpath, "isreserved", None)  # since 3.13, where PureWindowsPath.is_reserved is deprecated
    if reserved(str(path)) if reserved is not None else path.is_reserved():
        return False
    return all(
        len(part) <= 255 and not set(part) & set('<>:"|?*') and part.isprintable() and part == part.rstrip(". ")
        for part in path.parts
    )


def names_below(directory: Path) -> list[str]:
    return [path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*"))]


@pytest.mark.parametrize("name", ["nul", "a/con.txt", "a:b", "what?.jpg", "dot.", "space ", "x" * 256, "a\nb"])
def test_the_check_of_names_refuses_illegal_ones(name: str) -> None:
    assert not is_legal(PureWindowsPath(name))


def test_a_crawl_s_files_have_names_that_are_legal_on_windows(tmp_path: Path) -> None:
    page = tmp_path / "web" / "a" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("<img src='con.png'><img src='aux.png?a:b'>", encoding="utf-8")
    for name in ("con.png", "aux.png"):
        Image.new("RGB", (9, 9), name.partition(".")[0][0].replace("c", "red").replace("a", "blue")).save(
            page.with_name(name)
        )
    with DemoServer(tmp_path / "web") as server:
        assert crawler.run(server.url, output=tmp_path / "out").stats.success == 2
    names = names_below(tmp_path / "out")
    assert {"crawl.toml", "frontier.sqlite", "store.json", "manifest.jsonl", "results.txt", "join"} <= set(names)
    assert sum(name.startswith("images/") and name.endswith(".png") for name in names) == 2
    assert [name for name in names if not is_legal(PureWindowsPath(name))] == []
    assert len({name.lower() for name in names}) == len(names)


@pytest.mark.parametrize("key", ["images/con.jpg", "images/NUL", "images/a:b.jpg", "images/a.", "images/a b ", "a\\b"])
def test_a_store_refuses_keys_that_are_illegal_on_windows(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="unsafe key"):
        LocalStore(tmp_path).put(key, b"x")
