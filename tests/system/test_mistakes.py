"""Mistakes of users and network errors: each gives one line and an exit code, and has no other effect."""

import base64
import os
import secrets
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import crawler
from crawler.demo.server import DemoServer
from crawler.errors import ConfigError
from crawler.queue.join_file import JoinFile, new_key, write_join
from tests.support.calls import Call, calls
from tests.support.processes import Command, commands, manifest_of, many_pictures, stats_of, wait_until

Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


# arguments ------------------------------------------------------------------------------------------------------------

SEED = "http://127.0.0.1:1/"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--dpeth", "3", SEED], ["--dpeth", "--depth"]),
        (["rnu", SEED], ["rnu"]),
        (["run"], ["nothing to do", "-i FILE"]),
        (["run", "htp:/bad"], ["htp:/bad", "http://bad"]),
        (["run", "http://"], ["http://", "not an http(s) URL"]),
        (["run", "ftp://x/"], ["ftp://x/", "not an http(s) URL"]),
        (["run", "-i", "no.txt"], ["no.txt", "no such file"]),
        (["run", "--images", "no.txt"], ["no.txt", "no such file"]),
        (["run", "-i", "-", "--images", "-"], ["standard input", "-i", "--images"]),
        (["run", SEED, "--delay", "fast"], ["--delay", "'fast'"]),
        (["run", SEED, "--delay", "nan"], ["delay", "nan"]),
        (["run", SEED, "-d", "-1"], ["depth", "-1"]),
        (["run", SEED, "--types", "jpg,pgn"], ["--types", "'pgn'", "png"]),
        (["run", SEED, "--max-bytes", "much"], ["--max-bytes", "20M"]),
        (["run", SEED, "--scope", "world"], ["--scope", "'domain'"]),
        (["run", SEED, "--user-agent", "a\nb"], ["user_agent"]),
        (["run", SEED, "--config", "no.toml"], ["no.toml", "No such file"]),
        (["run", SEED, "--config", "."], ["can't read ."]),
        (["download"], ["JOIN"]),
        (["download", "no/join"], ["no/join", "No such file"]),
        (["status", "."], [". is not a crawl directory"]),
        (["status", "nowhere"], ["nowhere is not a crawl directory"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_2(call: Call, arguments: list[str], words: list[str]) -> None:
    ended = call(*arguments)
    assert ended.code == 2
    assert all(word in ended.complaint for word in words), ended.complaint
    assert not Path("out").exists()


def test_a_file_given_as_a_site_is_2_and_nothing_is_written(call: Call) -> None:
    Path("laion.csv").write_text("url,caption\n")
    for arguments in (["laion.csv"], ["laion.csv", "--images", "-"], [SEED, "laion.csv"], ["./laion.csv", "-w", "0"]):
        ended = call("run", *arguments, given=b"http://127.0.0.1:1/a.png")
        assert ended.code == 2
        assert "laion.csv is a file and not a URL: if it lists image URLs, use --images " in ended.complaint
        assert "if it lists pages to crawl, use -i " in ended.complaint
    assert [path.name for path in Path().iterdir()] == ["laion.csv"]


@pytest.mark.parametrize("command", [["run", "-w", "0"], ["run"], ["harvest"]], ids=" ".join)
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--pin", "nosuch"], ["--pin", "nosuch"]),
        (["--cookies", "nosuch"], ["nosuch"]),
        (["--store", "nosuch://bucket"], ["nosuch"]),
        (["--images", "nosuch"], ["nosuch", "no such file"]),
    ],
    ids=lambda value: value[0],
)
def test_a_missing_requirement_is_reported_before_anything_is_opened(
    call: Call, known: Path, command: list[str], flags: list[str], words: list[str]
) -> None:
    if command[0] == "harvest" and flags[0] == "--store":
        pytest.skip("a master has no store")
    before = sorted((path, path.stat().st_mtime_ns) for path in known.iterdir())
    for place in ("new", known):
        ended = call(*command, SEED, "-o", place, "--delay", 3, *flags)
        assert ended.code == 2 and all(word in ended.complaint for word in words), ended.err
    assert not Path("new").exists()
    assert sorted((path, path.stat().st_mtime_ns) for path in known.iterdir()) == before


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished crawl."""
    folder = tmp_path_factory.mktemp("known")
    with DemoServer(many_pictures(folder, 1)) as server:
        crawler.run(server.url, output=folder / "out")
    return folder / "out"


@pytest.mark.parametrize("option", [[], ["--config", "mine.toml"]], ids=["crawler.toml", "--config"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[politeness]\ndealy = 3", ["'dealy'", "[politeness]", "'delay'"]),
        ("[polite]\ndelay = 3", ["[polite]", "'politeness'"]),
        ("[download]\ndelay = 3", ["'delay' in [download]: it belongs in [politeness]"]),
        ("[harvest]\nworkers = 3", ["'workers' in [harvest]: it belongs in [machine]"]),
        ("delay = 3", ["delay"]),
        ('[politeness]\ndelay = "slow"', ["politeness.delay", "`str`"]),
        ("[politeness]\ndelay = -1", ["delay", "-1"]),
        ("[politeness\n", ["line 1"]),
        ("\xff", []),
    ],
)
def test_a_mistake_in_a_settings_file_is_reported_with_the_file(
    call: Call, option: list[str], text: str, words: list[str]
) -> None:
    name = option[1] if option else "crawler.toml"
    Path(name).write_bytes(text.encode("latin-1"))
    ended = call("run", SEED, *option)
    assert ended.code == 2
    assert all(word in ended.complaint for word in words), ended.complaint
    assert name in ended.complaint or "-1" in words


def test_a_mistake_in_the_environment_is_reported_with_the_variable(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAWLER_DELAY", "abc")
    ended = call("run", SEED)
    assert ended.code == 2
    assert "CRAWLER_DELAY" in ended.complaint and "'abc'" in ended.complaint


@pytest.mark.parametrize("command", [["run", SEED], ["run", SEED, "--dry-run"], ["download", "join"]], ids=" ".join)
@pytest.mark.parametrize(
    ("flags", "environment", "source"),
    [
        (["--disk-wait", "-1"], "2", "command line"),
        (["--disk-wait", "-1"], None, "command line"),
        ([], "-1", "environment variable CRAWLER_DISK_WAIT"),
    ],
)
def test_a_value_out_of_bounds_is_reported_with_its_source(
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    *,
    command: list[str],
    flags: list[str],
    environment: str | None,
    source: str,
) -> None:
    if environment is not None:
        monkeypatch.setenv("CRAWLER_DISK_WAIT", environment)
    ended = call(*command, *flags)
    assert ended.code == 2
    assert ended.complaint == f"crawler: {source}: disk_wait must be 0 or more, not -1"


def test_a_value_out_of_bounds_in_a_script_is_reported_with_the_function(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^crawler\.run\(\): depth must be 0 or more, not -1$"):
        crawler.run(SEED, output=tmp_path / "out", depth=-1)


def test_settings_of_a_failed_start_are_not_stored(call: Call, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, DemoServer(many_pictures(tmp_path, 1)) as server:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = call("run", server.url, "-w", 0, "--listen", address)
        assert ended.code == 2 and address in ended.complaint
        again = call("run", server.url, "-w", 0)
    assert again.code == 0 and "listen" not in again.err


# lists ----------------------------------------------------------------------------------------------------------------


def test_the_valid_lines_of_a_partly_invalid_list_are_crawled(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 3)) as server:
        good = [f"{server.a}/000{n}.png".encode() for n in range(3)]
        bad = [b"ftp://x/a.png", b"file:///etc/passwd", b"mailto:a@b", b"\xff\x00\x1b[2J\x9b", b"a" * 30_000]
        lines = b"\r\n".join(
            [b"# pictures", b"", good[0], *bad, b"   ", good[1], good[2]]
        )  # the last without its line end
        Path("list.txt").write_bytes(lines)
        ended = call("run", "--images", "list.txt", "--allow-private", "-w", 0)
    assert ended.code == 0
    assert {row.url.encode() for row in manifest_of(Path("out")) if row.status == "success"} == set(good)
    assert f"bad lines     {len(bad)}" in ended.err
    log = Path("out/crawl.log").read_text()
    assert log.count("list.txt:") == len(bad) and "list.txt:4: not an http(s) URL: 'ftp://x/a.png'" in log
    assert all(line.isprintable() for line in [*log.splitlines(), *ended.err.splitlines()])


@pytest.mark.parametrize(("option", "path"), [("-i", ""), ("--images", "0000.png")])
def test_standard_input_is_a_list_and_the_same_input_is_recognised(
    call: Call, tmp_path: Path, option: str, path: str
) -> None:
    with DemoServer(many_pictures(tmp_path, 2)) as server:
        given = f"{server.url}{path}\n".encode()
        first = call("run", option, "-", "--allow-private", "-w", 0, given=given)
        again = call("run", option, "-", "--allow-private", "-w", 0, given=given)
        asked = [hit.path for hit in server.requests]
    assert (first.code, again.code) == (0, 0), again.err
    assert len(asked) == len(set(asked))
    assert {row.status for row in manifest_of(Path("out"))} == {"success"}


def test_another_standard_input_adds_to_the_crawl(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 2)) as server:
        for name in ("0000.png", "0001.png"):
            given = f"{server.url}{name}".encode()
            assert call("run", "--images", "-", "--allow-private", "-w", 0, given=given).code == 0
    assert len(manifest_of(Path("out"))) == 2


def test_an_empty_list_is_reported(call: Call) -> None:
    ended = call("run", "-i", "-", "-w", 0)
    assert ended.code == 8
    assert ended.err.splitlines()[-1] == "crawler: nothing to visit: the lists contain no URL"


# seeds ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crawls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Command]]:
    """Start crawls of all kinds of seeds in parallel, as those of unresponsive hosts take some time."""
    folder = tmp_path_factory.mktemp("seeds")
    site = many_pictures(folder, 2)
    (site / "a" / "bare.html").write_text("<p>nothing to see")
    (site / "a" / "rubbish.html").write_bytes(bytes(range(256)) * 40)
    (site / "a" / "robots.txt").write_text("User-agent: *\nDisallow: /bare.html?secret\n")
    with DemoServer(site) as server, commands(folder) as start, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        dead, gone = f"http://127.0.0.1:{nobody.getsockname()[1]}/", f"{server.url}gone.html"
        seeds = {
            "dead": [dead],
            "dead and good": [dead, server.url],
            "404": [gone],
            "404 and good": [gone, server.url],
            "rubbish": [f"{server.url}rubbish.html"],
            "rubbish and good": [f"{server.url}rubbish.html", server.url],
            "bare": [f"{server.url}bare.html"],
            "disallowed": [f"{server.url}bare.html?secret"],
        }
        begun = {name: start(name, "run", *urls, "-o", folder / name, "-w", 0) for name, urls in seeds.items()}
        begun["bare harvest"] = start("harvest", "harvest", f"{server.url}bare.html", "-o", folder / "bare harvest")
        yield begun


@pytest.mark.usefixtures("crawls")  # which continue in the meantime
@pytest.mark.fire
def test_an_unknown_host_name_is_4(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    known = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    ended = call("run", "http://nobody.invalid/", "-w", 0, "--delay", 0)
    assert ended.code == 4
    assert ended.err.splitlines()[-1].startswith("crawler: no seed could be reached (robots-unreachable, dns)")


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("dead", 4, ["no seed could be reached", "connect"]),
        ("dead and good", 8, ["1 of 2 seeds failed", "robots-unreachable"]),
        ("404", 8, ["1 of 1 seeds failed", "http-404"]),
        ("404 and good", 8, ["1 of 2 seeds failed", "http-404"]),
        ("rubbish", 8, ["no image was saved"]),
        ("bare", 8, ["no image was saved"]),
        ("bare harvest", 8, ["no image was saved"]),
        ("disallowed", 8, ["1 of 1 seeds failed", "robots"]),
    ],
)
@pytest.mark.fire
def test_a_seed_without_result_is_reported(crawls: dict[str, Command], name: str, code: int, words: list[str]) -> None:
    assert crawls[name].ends() == code
    *_, last = crawls[name].said.splitlines()
    assert last.startswith("crawler: ") and all(word in last for word in words), last
    assert "Traceback" not in crawls[name].said


@pytest.mark.parametrize("name", ["dead and good", "404 and good", "rubbish and good"])
@pytest.mark.fire
def test_a_bad_seed_does_not_affect_a_good_one(crawls: dict[str, Command], name: str) -> None:
    crawls[name].ends()
    assert [line.partition("--->")[2] for line in crawls[name].results] == ["success"] * 2


@pytest.mark.fire
def test_a_seed_that_is_no_html_page_is_no_failure(crawls: dict[str, Command]) -> None:
    assert crawls["rubbish and good"].ends() == 0


def test_a_seed_without_a_scheme_is_tried_by_http_if_https_is_refused(call: Call, tmp_path: Path) -> None:
    site = many_pictures(tmp_path, 2)
    (site / "a" / "index.html").write_text('<img src="0000.png"><a href="more.html">more</a>')
    (site / "a" / "more.html").write_text('<img src="/0001.png">')
    with DemoServer(site) as server:
        for scope in ("host", "path"):
            ended = call("run", server.url.removeprefix("http://"), "-w", 0, "--scope", scope, "-o", scope)
            rows = manifest_of(Path(scope))
            assert ended.code == 0, ended.err
            assert {(row.url, row.page_url) for row in rows} == {
                (f"{server.url}0000.png", server.url),
                (f"{server.url}0001.png", f"{server.url}more.html"),
            }
            assert call("verify", scope).code == 0
            again = call("run", server.url.removeprefix("http://"), "-w", 0, "-o", scope)
            assert again.code == 0 and "Nothing to do" in again.err
        pages = [hit.path for hit in server.requests if hit.path in ("/", "/more.html")]
        anew = call("run", "-w", 0, "-o", "host", "--refresh")
    assert pages == ["/", "/more.html"] * 2
    assert anew.code == 0 and "2 unchanged" in anew.err, anew.err


def test_a_seed_without_a_scheme_that_fails_is_one_failed_seed(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        ended = call("run", f"{server.url.removeprefix('http://')}gone.html", "-w", 0)
        assert [hit.path for hit in server.requests].count("/gone.html") == 1
    assert ended.code == 8 and "1 of 1 seeds failed (http-404" in ended.err.splitlines()[-1], ended.err


def test_an_unreachable_seed_is_reported_with_all_urls_that_were_tried(call: Call) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        address = f"127.0.0.1:{nobody.getsockname()[1]}/"
        ended = call("run", address, "-w", 0)
        again = call("run", "-w", 0)
    assert ended.code == again.code == 4
    assert "Nothing to do" in again.err and "`crawler retry` tries them again" in again.err
    line = ended.err.splitlines()[-1]
    assert f"tried https://{address} and http://{address}; check the address and the network" in line


# the queue ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def joins(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes join files."""

    def write(address: str, key: str | None = None, cert: str = "") -> Path:
        path = tmp_path / f"join-{secrets.token_hex(4)}"
        write_join(path, JoinFile(crawl="x", addresses=(address,), key=key or new_key(), cert=cert))
        return path

    return write


def test_an_invalid_join_file_is_2(call: Call) -> None:
    Path("join").write_bytes(os.urandom(300))
    Path("join").chmod(0o600)
    ended = call("download", "join")
    assert ended.code == 2 and "join is not a join file" in ended.complaint


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_a_join_file_readable_by_others_is_2_with_the_command_that_helps(
    call: Call, joins: Callable[..., Path]
) -> None:
    path = joins("127.0.0.1:1")
    path.chmod(0o644)
    ended = call("download", path)
    assert ended.code == 2
    assert ended.complaint.endswith(f"chmod 600 {path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_wrong_key_is_6_at_once(start: Start, tmp_path: Path, joins: Callable[..., Path]) -> None:
    job = tmp_path / "job"
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: stats_of(job).pages_done == 1, "a walked page")
        right = msgspec.json.decode((job / "join").read_bytes(), type=JoinFile)
        began = time.monotonic()
        wrong = start("wrong", "download", joins(right.addresses[0], cert=right.cert))
        assert wrong.ends() == 6 and time.monotonic() - began < 30
        (line,) = wrong.said.splitlines()
        assert line.startswith("crawler: ") and "refused the key" in line
        machine = start("right", "download", job / "join", "-o", tmp_path / "A")
        assert (machine.ends(), master.ends()) == (0, 0)
    log = (job / "crawl.log").read_text()
    assert "wrong key" in log
    assert right.key not in log + master.said + machine.said and base64.b64decode(right.key).hex() not in log


def test_a_missing_master_and_another_service_are_4(start: Start, tmp_path: Path, joins: Callable[..., Path]) -> None:
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        nobody = start("nobody", "download", joins("127.0.0.1:1"), "--wait", 1, "-o", tmp_path / "A")
        other = start("other", "download", joins(server.a.removeprefix("http://")), "--wait", 1, "-o", tmp_path / "B")
        assert (nobody.ends(), other.ends()) == (4, 4)
    *notice, line = nobody.said.splitlines()
    assert len(notice) == 1 and "trying again for 1 s" in notice[0]
    assert line.startswith("crawler: no answer from 127.0.0.1:1") and "crawler harvest" in line
    *notice, line = other.said.splitlines()
    assert len(notice) == 1 and "not the master of a crawl" in notice[0] and "trying again for 1 s" in notice[0]
    assert line.startswith("crawler: ") and "not the master of a crawl" in line


def test_a_downloader_that_is_stopped_while_it_waits_is_130(
    start: Start, tmp_path: Path, joins: Callable[..., Path]
) -> None:
    machine = start("machine", "download", joins("127.0.0.1:1"), "-o", tmp_path / "machine", "--wait", 50)
    wait_until(lambda: "trying again" in machine.said, "a message about the missing master")
    machine.interrupt()
    assert machine.ends() == 130
    assert "Traceback" not in machine.said


@pytest.mark.fire
def test_the_second_crawl_in_a_directory_is_3(start: Start, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        server.hold("/0000.png")
        first = start("first", "run", server.url, "-o", job, "-w", 0)
        server.wait_for("/0000.png", 20)
        second = start("second", "run", server.url, "-o", job, "-w", 0)
        assert second.ends() == 3
        (line,) = second.said.splitlines()
        assert line.startswith("crawler: another crawl is running") and f"crawler status {job}" in line
        server.release("/0000.png")
        assert first.ends() == 0
