"""Pictures on many machines: the first copy, the records of each store, and the state when machines are gone."""

import base64
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from crawler.demo.server import DemoServer
from crawler.store.manifest import read_manifest
from tests.support.processes import Command, commands, downloaders, manifest_of, stats_of, wait_until

Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


def copies(folder: Path, urls: int, bodies: int) -> Path:
    """Write a site on which ``urls`` URLs show ``bodies`` different pictures."""
    place = folder / "site" / "a"
    place.mkdir(parents=True)
    for n in range(bodies):
        Image.new("RGB", (16, 16), (n % 256, n // 256, 99)).save(place / f"{n:05}.png")
    for n in range(bodies, urls):
        (place / f"{n:05}.png").hardlink_to(place / f"{n % bodies:05}.png")
    (place / "index.html").write_text("".join(f'<img src="{n:05}.png">' for n in range(urls)))
    return folder / "site"


def crawl_with(start: Start, server: DemoServer, job: Path, stores: list[Path], *flags: object) -> None:
    """Run a whole crawl with a downloader for each store, all of which have joined before it begins."""
    server.hold("/robots.txt")
    master = start("master", "harvest", server.url, "-o", job, *flags)
    wait_until(lambda: (job / "join").exists(), "a join file")
    machines = [start(store.name, "download", job / "join", "-o", store, "-t", 2) for store in stores]
    wait_until(lambda: len(downloaders(job)) >= len(stores), "all have joined")
    server.release("/robots.txt")
    assert [command.ends() for command in (master, *machines)] == [0] * (len(stores) + 1), master.said


def pictures_in(store: Path) -> set[str]:
    return {path.name for path in (store / "images").rglob("*") if path.is_file()}


@pytest.mark.fire
@pytest.mark.parametrize(("urls", "bodies"), [(300, 60), (10_000, 1_000)])
def test_a_picture_is_kept_once_in_all_stores_together(start: Start, tmp_path: Path, urls: int, bodies: int) -> None:
    job, stores = tmp_path / "job", [tmp_path / "A", tmp_path / "B"]
    with DemoServer(copies(tmp_path, urls, bodies)) as server:
        crawl_with(start, server, job, stores, "--durability", "none")
    assert Counter(row.status for row in manifest_of(job)) == {"success": bodies, "duplicate": urls - bodies}
    first, second = (pictures_in(store) for store in stores)
    assert len(first) + len(second) == len(first | second) == bodies
    assert len({row.worker for row in manifest_of(job)}) == 2
    own = [row for store in stores for row in read_manifest(store / "manifest.jsonl")]
    assert sorted(own, key=lambda row: row.url) == sorted(manifest_of(job), key=lambda row: row.url)


@pytest.mark.fire
def test_pictures_on_machines_that_are_gone_are_elsewhere(start: Start, tmp_path: Path) -> None:
    job, stores = tmp_path / "job", [tmp_path / name for name in ("A", "B", "C")]
    with DemoServer(copies(tmp_path, 150, 120), {f"/{n:05}.png": {"delay": 0.05} for n in range(150)}) as server:
        crawl_with(start, server, job, stores)
    counts = [len(pictures_in(store)) for store in stores]
    assert sum(counts) == 120 and all(counts)
    shutil.rmtree(stores[1])
    shutil.rmtree(stores[2])
    status = start("status", "status", job)
    assert status.ends() == 0
    assert f"0 pictures here, 120 in other stores: {max(counts)} in store " in "\n".join(status.results)
    verify = start("verify", "verify", job, "--store", stores[0])
    assert verify.ends() == 0
    assert (
        f"{counts[0]} files intact, 0 missing, 0 damaged, 0 foreign, {counts[1] + counts[2]} in other stores"
        in verify.said
    )
    gather = start("gather", "gather", job, stores[0])
    assert gather.ends() == 0
    assert f"{counts[0]} pictures copied here" in gather.said
    assert sorted(re.findall(r"(\d+) still in store", gather.said)) == sorted(map(str, counts[1:]))
    after = start("after", "status", job)
    assert after.ends() == 0
    assert f"{counts[0]} pictures here, {counts[1] + counts[2]} in other stores: " in "\n".join(after.results)
    again = start("again", "verify", job)
    assert again.ends() == 0 and f"{counts[0]} files intact, 0 missing" in again.said


@pytest.mark.fire
def test_a_missing_picture_in_a_given_store_is_reported(start: Start, tmp_path: Path) -> None:
    job, store = tmp_path / "job", tmp_path / "A"
    with DemoServer(copies(tmp_path, 3, 3)) as server:
        crawl_with(start, server, job, [store])
    next((store / "images").rglob("*.png")).unlink()
    verify, gather = start("verify", "verify", job, "--store", store), start("gather", "gather", job, store)
    assert (verify.ends(), gather.ends()) == (9, 9)
    assert "2 files intact, 1 missing" in verify.said and "1 not found" in gather.said


@pytest.mark.fire
def test_a_store_s_own_records_can_be_verified_on_its_machine(start: Start, tmp_path: Path) -> None:
    job, stores = tmp_path / "job", [tmp_path / "A", tmp_path / "B"]
    with DemoServer(copies(tmp_path, 40, 20), {f"/{n:05}.png": {"delay": 0.05} for n in range(40)}) as server:
        crawl_with(start, server, job, stores)
    shutil.rmtree(job)
    found = [start(store.name + "-verify", "verify", store) for store in stores]
    assert [command.ends() for command in found] == [0, 0]
    assert all(" intact, 0 missing, 0 damaged, 0 foreign" in command.said for command in found)


@pytest.mark.fire
def test_pictures_reported_by_a_killed_downloader_are_in_its_store_s_records(start: Start, tmp_path: Path) -> None:
    job, store = tmp_path / "job", tmp_path / "A"
    faults = {f"/{n:05}.png": {"delay": 0.3} for n in range(80)}
    with DemoServer(copies(tmp_path, 80, 80), faults) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        for life in range(3):
            victim = start(f"A{life}", "download", job / "join", "-o", store, "-t", 2)
            told = stats_of(job).success
            wait_until(lambda: stats_of(job).success > told, "some pictures")  # noqa: B023  # called within the loop
            victim.kill()
        last = start("last", "download", job / "join", "-o", store)
        assert (master.ends(), last.ends()) == (0, 0), master.said
    rows = [row.url for row in read_manifest(store / "manifest.jsonl")]
    assert len(rows) == len(set(rows)) == 80
    assert len(pictures_in(store)) == 80


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to look into processes")
@pytest.mark.fire
def test_no_output_ever_shows_the_key(start: Start, tmp_path: Path) -> None:
    job, store = tmp_path / "job", tmp_path / "A"
    wide = ("--listen", "0.0.0.0:0", "--advertise", "127.0.0.1")
    with DemoServer(copies(tmp_path, 4, 4)) as server:
        server.hold("/robots.txt")
        master = start("master", "harvest", server.url, "-o", job, *wide, "--debug")
        wait_until(lambda: (job / "join").exists(), "a join file")
        machine = start("A", "download", job / "join", "-o", store, "--debug")
        wrong = start("wrong", "download", job / "crawl.log", "--debug")
        wait_until(lambda: len(downloaders(job)) == 1, "it has joined")
        assert wrong.ends() == 2
        key = json.loads((job / "join").read_text())["key"]
        shown = [
            Path(f"/proc/{command.process.pid}/{name}").read_bytes()
            for command in (master, machine)
            for name in ("cmdline", "environ")
        ]
        server.release("/robots.txt")
        assert (master.ends(), machine.ends()) == (0, 0), master.said
    secrets = [key.encode(), base64.b64decode(key), base64.b64decode(key).hex().encode()]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "join"]
    assert any(path.name == "frontier.sqlite" for path in files) and any(path.name == "crawl.log" for path in files)
    for text in [*shown, *(path.read_bytes() for path in files)]:
        assert not any(secret in text for secret in secrets)


@pytest.mark.fire
def test_both_places_of_a_copied_store_are_checked(start: Start, tmp_path: Path) -> None:
    job, stores = tmp_path / "job", [tmp_path / "A", tmp_path / "B"]
    stores[0].mkdir()
    (stores[0] / "store.json").write_text('{"v": 1, "id": "aaaaaaaaaaaaaaaa"}')
    shutil.copytree(stores[0], stores[1])
    with DemoServer(copies(tmp_path, 40, 40), {f"/{n:05}.png": {"delay": 0.1} for n in range(40)}) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        machines = [start(store.name, "download", job / "join", "-o", store, "-t", 2) for store in stores]
        assert [command.ends() for command in (master, *machines)] == [0, 0, 0], master.said
    verify = start("verify", "verify", job, "--store", stores[0], "--store", stores[1])
    assert verify.ends() == 0 and "40 files intact, 0 missing" in verify.said, verify.said
    gather = start("gather", "gather", job, *stores)
    assert gather.ends() == 0 and "40 pictures copied here" in gather.said


@pytest.mark.fire
def test_a_crawl_and_a_store_do_not_share_a_directory(start: Start, tmp_path: Path) -> None:
    job, store = tmp_path / "job", tmp_path / "A"
    with DemoServer(copies(tmp_path, 2, 2)) as server:
        crawl_with(start, server, job, [store])
        other = start("other", "harvest", server.url, "-o", tmp_path / "other")
        wait_until(lambda: (tmp_path / "other" / "join").exists(), "a join file")
        crawl = start("crawl", "run", server.url, "-o", store)
        machine = start("machine", "download", tmp_path / "other" / "join", "-o", job)
        assert (crawl.ends(), machine.ends()) == (2, 2)
        assert "is the directory of a downloader" in crawl.said and "is the directory of another crawl" in machine.said
        typo = start("verify", "verify", job, "--store", tmp_path)
        assert typo.ends() == 2 and "is not a store" in typo.said
        other.kill()


@pytest.mark.fire
def test_a_crawl_s_own_downloaders_can_not_be_stopped_one_by_one(start: Start, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with DemoServer(copies(tmp_path, 2, 2)) as server:
        server.hold("/robots.txt")
        crawl = start("crawl", "run", server.url, "-o", job, "-w", 1)
        wait_until(lambda: len(downloaders(job)) == 1, "its downloader")
        for name in ("harvester", *downloaders(job)):
            stop = start("stop", "stop", job, "--worker", name)
            assert stop.ends() == 2 and "no active downloader is named" in stop.said
        server.release("/robots.txt")
        assert crawl.ends() == 0


@pytest.mark.fire
def test_settings_of_a_restarted_master_reach_its_downloaders(start: Start, tmp_path: Path) -> None:
    job, store = tmp_path / "job", tmp_path / "A"
    with DemoServer(copies(tmp_path, 60, 60), {f"/{n:05}.png": {"delay": 0.3} for n in range(60)}) as server:
        master = start("master", "harvest", server.url, "-o", job)
        wait_until(lambda: (job / "join").exists(), "a join file")
        machine = start("A", "download", job / "join", "-o", store, "-t", 2)
        wait_until(lambda: stats_of(job).success > 0, "some pictures")
        master.kill()
        again = start("again", "harvest", "-o", job, "--min-size", 100)
        assert (again.ends(), machine.ends()) == (0, 0), again.said + machine.said
    assert "the master's settings have changed" in machine.said
    assert {row.reason for row in manifest_of(job)} == {"", "too-small"}


@pytest.mark.fire
def test_an_outbox_entry_refused_by_the_master_does_not_stop_the_downloader(start: Start, tmp_path: Path) -> None:
    job, store = tmp_path / "job", tmp_path / "A"
    store.mkdir()
    note = {"status": "done", "token": "1.a.b", "record": {"url": "http://a.test/1.png", "store": "no store"}}
    (store / ".told-0.jsonl").write_text(f'"machine/1"\n{json.dumps(note)}\n')
    with DemoServer(copies(tmp_path, 3, 3)) as server:
        crawl_with(start, server, job, [store])
    assert len(pictures_in(store)) == 3 and not (store / ".told-0.jsonl").exists()
