"""Stores at a URL: the contract of every store, tested on a directory, in memory, and on a real S3 server."""

import importlib.util
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import crawler
from crawler.app.config import CrawlConfig
from crawler.cli.summary_text import describe_summary
from crawler.demo.server import DemoServer
from crawler.errors import ConfigError, DiskError
from crawler.maintenance.gather import gather
from crawler.maintenance.verify import verify
from crawler.store.bucket import FsspecStore, Store, store_at
from crawler.store.result_store import OwnResultStore, result_store_for
from tests.support.processes import Command, commands, downloaders, manifest_of, many_pictures, wait_until

KEY = "images/Boats/été.2a301c2b4d86434f1091fc8b13b3b8c5.jpg"
SECRET = "a-secret-of-nobody"

Start = Callable[..., Command]

needs_fsspec = pytest.mark.skipif(importlib.util.find_spec("fsspec") is None, reason="needs the extra cloud")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run an S3 server on loopback; return the environment that leads to it."""
    for module in ("moto", "flask", "flask_cors", "s3fs"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}, of the extras cloud and dev")
    port, log = free_port(), tmp_path_factory.mktemp("s3") / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_until(lambda: listens(port), "a server of S3")
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def bucket(service: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a folder in a new bucket."""
    for name, value in service.items():
        monkeypatch.setenv(name, value)
    import s3fs

    name = f"bucket-{time.monotonic_ns()}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/holiday/2026"


@pytest.fixture(params=["directory", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the place of a store of each kind."""
    if request.param == "directory":
        return str(tmp_path / "store")
    if request.param == "s3":
        return str(request.getfixturevalue("bucket"))
    pytest.importorskip("fsspec", reason="needs the extra cloud")
    return f"memory://{tmp_path.name}-{time.monotonic_ns()}/deep"


@pytest.fixture
def store(place: str) -> Store:
    return store_at(place)


# --- the contract of every store


def test_a_blob_is_stored_once_and_read_back(store: Store) -> None:
    assert (store.put(KEY, b"bytes"), store.put(KEY, b"bytes")) == (True, False)
    store.flush()
    with store.open(KEY) as file:
        assert file.read() == b"bytes"
    assert store.exists(KEY) and not store.exists(KEY.replace("été", "ete"))


@pytest.mark.parametrize("other", [b"", b"bytez", b"bytes and more"])
def test_a_blob_with_other_content_is_replaced(store: Store, other: bytes) -> None:
    store.put(KEY, other)
    assert store.put(KEY, b"bytes")
    with store.open(KEY) as file:
        assert file.read() == b"bytes"


def test_a_missing_blob_is_reported_as_missing(store: Store) -> None:
    assert not store.exists(KEY) and store.known_id is None
    with pytest.raises(FileNotFoundError):
        store.open(KEY)
    store.remove(KEY)


def test_only_the_removed_blob_is_gone(store: Store) -> None:
    other = KEY.replace("été", "automne")
    for key in (KEY, other):
        store.put(key, b"bytes")
    assert store.are_two(KEY, other) and not store.are_two(KEY, KEY)
    store.remove(KEY)
    assert not store.exists(KEY) and store.exists(other) and not store.are_two(KEY, other)


@pytest.mark.parametrize("key", ["", "../x", "/etc/passwd", "images//x", "nul.jpg", "a\\b", "a\u202eb", ".crawl"])
def test_unsafe_keys_are_refused(store: Store, key: str) -> None:
    for door in (store.exists, store.open, store.remove, lambda key: store.put(key, b"")):
        with pytest.raises(ValueError, match="unsafe key"):
            door(key)


def test_a_store_has_one_permanent_id(place: str) -> None:
    first = store_at(place).id
    again = store_at(place)
    assert len(bytes.fromhex(first)) == 8 and (again.id, again.known_id) == (first, first)


def test_concurrent_first_uses_get_the_same_id(place: str) -> None:
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(store_at(place).id)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 6 and len(set(ids)) == 1


def test_many_threads_can_put_at_once(store: Store) -> None:
    def work(thread: int) -> None:
        for number in range(5):
            store.put(f"images/{number}.jpg", b"shared %d" % number)
            store.put(f"images/{thread}-{number}.jpg", b"own")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(store.exists(f"images/{thread}-{number}.jpg") for thread in range(4) for number in range(5))
    with store.open("images/4.jpg") as file:
        assert file.read() == b"shared 4"


# --- stores at a URL only


@needs_fsspec
def test_a_store_belongs_to_one_crawl(tmp_path: Path) -> None:
    store = FsspecStore(f"memory://{tmp_path.name}/one")
    shelf = result_store_for(store, "machine/1", 0, "mine", tmp_path / "A")
    assert isinstance(shelf, OwnResultStore)
    shelf.close()
    result_store_for(store, "machine/2", 0, "mine", tmp_path / "B").close()
    with pytest.raises(ConfigError, match=r"memory://.* contains the images of another crawl"):
        result_store_for(store, "machine/3", 0, "theirs", tmp_path / "C")
    assert (tmp_path / "A" / ".crawl").exists() and not (tmp_path / "A" / "images").exists()


@needs_fsspec
def test_a_store_without_its_id_file_restores_it(tmp_path: Path) -> None:
    store = FsspecStore(f"memory://{tmp_path.name}/lost")
    name = store.id
    store._fs.rm_file(f"{store._root}/store.json")
    assert store.known_id is None
    store.restore()
    assert store.known_id == name


@pytest.mark.parametrize(
    "url", ["s3://key:secret@bucket/x", "s3://bucket/x?secret=1", "bucket", "s3://", "s3://a b", "S3://x", "s3://x\n"]
)
def test_an_invalid_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match="store must be a URL without password") as caught:
        CrawlConfig.load(("command line", {"machine": {"store": url}}))
    assert "secret" not in str(caught.value)


def test_a_directory_is_not_given_as_a_url(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="file:// URLs are not supported"):
        CrawlConfig.load(("command line", {"machine": {"store": tmp_path.as_uri()}}))


@needs_fsspec
def test_an_unknown_scheme_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="unknown URL scheme carrier-pigeon://"):
        store_at("carrier-pigeon://roof/west")


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ConfigError, match=r"s3:// needs an extra that is missing: pip install imgcrawler\[cloud\]"):
        store_at("s3://bucket/x")


@needs_fsspec
def test_an_error_of_the_service_is_a_disk_error_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FsspecStore("memory://broken/x")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"signature {SECRET} does not match")

    monkeypatch.setattr(store._fs, "pipe_file", fail)
    with pytest.raises(DiskError, match="can't use memory://broken/x: RuntimeError: check the URL") as caught:
        store.put(KEY, b"bytes")
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


def test_a_missing_service_and_a_missing_bucket_are_disk_errors(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DiskError, match="the bucket does not exist"):
        store_at("s3://nobody-s-bucket/x").put(KEY, b"bytes")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(DiskError, match="the service does not answer"):
        store_at(bucket).put(KEY, b"bytes")


# --- whole crawls


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


def test_a_crawl_into_a_bucket_can_be_verified_and_gathered(bucket: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with DemoServer(many_pictures(tmp_path, 5)) as server:
        summary = crawler.run(server.url, output=out, store=bucket, name="{host}/{file}")
    assert (summary.exit_code, summary.stats.success) == (0, 5)
    assert f"files         {bucket}\n" in describe_summary(summary)
    store = store_at(bucket)
    assert isinstance(store, FsspecStore) and {row.store for row in manifest_of(out)} == {store.id}
    assert set(store.keys()) == {row.path for row in manifest_of(out)} and not (out / "images").exists()
    assert (verify(out).elsewhere[0].pictures, verify(out).is_good) == (5, True)
    found = verify(out, [bucket])
    assert (found.whole, found.foreign, found.is_good) == (5, 0, True)
    row = manifest_of(out)[0]
    store.put(row.path, b"rotten")
    store.put("images/stranger.jpg", b"who?")
    found = verify(out, [bucket])
    assert (found.whole, found.damaged, found.foreign, found.is_good) == (4, 1, 1, False)
    assert f"damaged: {bucket}/{row.path}" in found.examples
    done = gather(out, [bucket])
    assert (done.pictures, done.missing) == (4, 1)


def test_machines_share_a_bucket_and_no_secret_is_written(start: Start, bucket: str, tmp_path: Path) -> None:
    job, machines = tmp_path / "job", [tmp_path / "A", tmp_path / "B"]
    site = many_pictures(tmp_path, 30)
    with DemoServer(site, {f"/{n:04}.png": {"delay": 0.05} for n in range(30)}) as server:
        server.hold("/robots.txt")
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        started = [
            start(place.name, "download", job / "join", "-o", place, "-t", 2, "--store", bucket, "--debug")
            for place in machines
        ]
        wait_until(lambda: len(downloaders(job)) == 2, "both have joined")
        server.release("/robots.txt")
        assert [command.ends() for command in (master, *started)] == [0, 0, 0], [one.said for one in started]
    check = start("verify", "verify", job, "--store", bucket)
    assert check.ends() == 0 and "30 files intact, 0 missing, 0 damaged, 0 foreign, 0 in other stores" in check.said
    assert len({row.worker for row in manifest_of(job)}) == 2
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    with DemoServer(site) as server:
        other = start("other", "run", server.url, "-o", tmp_path / "other", "-w", 1, "--store", bucket)
        assert other.ends() == 2 and "contains the images of another crawl" in other.said
