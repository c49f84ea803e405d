"""Crawls with readable file names: complete, verified, gathered, and continued under other names."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import crawler
from crawler.demo.check import compare, load_truth
from crawler.demo.server import DemoServer
from crawler.maintenance.gather import gather
from crawler.maintenance.verify import verify
from crawler.model import ImageRecord
from crawler.paths import hash_in, is_picture
from tests.support.processes import Command, commands, downloaders, manifest_of, many_pictures, wait_until

Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


def files_in(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in (place / "images").rglob("*") if path.is_file()}


def successes(job: Path) -> list[ImageRecord]:
    return [row for row in manifest_of(job) if row.status == "success"]


def copies(folder: Path, pictures: int = 3) -> Path:
    """Write a site on which each of ``pictures`` pictures has four names."""
    site = many_pictures(folder, pictures)
    names = [f"{n:04}-{name}.png" for n in range(pictures) for name in ("cat", "dog", "owl")]
    for name in names:
        (site / "a" / name).write_bytes((site / "a" / f"{name[:4]}.png").read_bytes())
    page = site / "a" / "index.html"
    page.write_text(page.read_text() + "".join(f'<img src="{name}">' for name in names))
    return site


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.fire)])
def test_the_bundled_web_is_saved_under_readable_names(workers: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with DemoServer() as server:
        summary = crawler.run(server.url, output=out, workers=workers, name="{host}/{path}")
        assert compare(load_truth(server), manifest_of(out)) == []
    rows = successes(out)
    assert summary.exit_code == 0 and all(is_picture(row.path, row.sha256) for row in rows)
    assert files_in(out) == {row.path for row in rows}
    (harbour,) = (row for row in rows if row.url.endswith("/gallery/harbour.jpg"))
    host = harbour.url.split("/")[2].replace(":", "_")
    assert harbour.path == f"images/{host}/gallery/harbour.{hash_in(harbour.path)}.jpg"
    found = verify(out)
    assert (found.whole, found.spare, found.is_good) == (len(rows), 0, True), found


def test_of_the_same_bytes_under_several_names_one_is_kept(tmp_path: Path) -> None:
    with DemoServer(copies(tmp_path)) as server:
        summary = crawler.run(server.url, output=tmp_path / "out", name="{file}")
    assert (summary.stats.success, summary.stats.duplicate) == (3, 9)
    assert files_in(tmp_path / "out") == {row.path for row in manifest_of(tmp_path / "out")}
    assert len(files_in(tmp_path / "out")) == 3
    assert verify(tmp_path / "out").is_good


def test_a_new_template_applies_to_later_pictures(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with DemoServer(copies(tmp_path)) as server:
        crawler.run(server.url, output=out, max_images=1)
        crawler.run(server.url, output=out, max_images=2, name="{file}-{hash}")
        summary = crawler.run(server.url, output=out, max_images=100, name="{alt}/{file}")
    assert (summary.stats.success, summary.stats.duplicate) == (3, 9)
    folders = sorted(row.path.rpartition("/")[0] for row in successes(out))
    assert len(folders) == 3 and {"images", "images/_"} <= set(folders)
    assert len(files_in(out)) == 3 and verify(out).is_good


@pytest.mark.fire
def test_two_stores_with_names_are_verified_and_gathered(start: Start, tmp_path: Path) -> None:
    job, stores = tmp_path / "job", [tmp_path / "A", tmp_path / "B"]
    site = copies(tmp_path, 40)
    with DemoServer(site, {f"/{path.name}": {"delay": 0.05} for path in (site / "a").glob("*.png")}) as server:
        server.hold("/robots.txt")
        master = start("master", "harvest", server.url, "-o", job, "--name", "{host}/{file}")
        wait_until(lambda: (job / "join").exists(), "a join file")
        machines = [start(store.name, "download", job / "join", "-o", store, "-t", 1) for store in stores]
        wait_until(lambda: len(downloaders(job)) == 2, "both have joined")
        server.release("/robots.txt")
        assert [command.ends() for command in (master, *machines)] == [0, 0, 0], master.said
    found = verify(job, stores)
    assert (found.whole, found.missing, found.foreign, found.is_good) == (40, 0, 0, True), found
    assert all(verify(store).is_good for store in stores)
    done = gather(job, stores)
    assert (done.pictures, done.missing, done.elsewhere) == (40, 0, ())
    assert files_in(job) == {row.path for row in successes(job)}
    assert (verify(job).whole, verify(job).is_good) == (40, True)


def test_a_duplicate_left_under_another_name_is_spare_and_an_unknown_file_foreign(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with DemoServer(many_pictures(tmp_path, 2)) as server:
        crawler.run(server.url, output=out, name="{file}")
    row = successes(out)[0]
    (out / "images" / f"left.{row.sha256[:32]}.png").write_bytes((out / row.path).read_bytes())
    assert (verify(out).spare, verify(out).is_good) == (1, True)
    (out / "images" / f"left.{'0' * 32}.png").write_bytes(b"who?")
    assert (verify(out).spare, verify(out).foreign) == (1, 1)


def test_an_invalid_template_is_refused_in_one_line(start: Start, tmp_path: Path) -> None:
    command = start("run", "run", "http://127.0.0.1:9/", "-o", tmp_path / "out", "--name", "{hots}/{path}")
    assert command.ends() == 2
    assert command.said.startswith("crawler: there is no field {hots} for the name template (known: host, path, ")
    assert command.said.count("\n") == 1 and not (tmp_path / "out").exists()
