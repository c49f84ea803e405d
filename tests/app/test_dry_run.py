"""`--dry-run`: list the files a crawl would fetch, without fetching them and without writing anything."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawler.demo.server import DemoServer
from tests.support.calls import Call, calls


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as made:
        yield made


def test_pictures_are_listed_by_host_and_not_fetched(call: Call, site: DemoServer, tmp_path: Path) -> None:
    ended = call("run", "--dry-run", site.url)
    lines = ended.out.splitlines()
    host, other = site.a.removeprefix("http://"), site.b.removeprefix("http://")
    assert f"{host}  srcset  {site.a}/img/hero-800.jpg" in lines and f"{other}  img  {site.b}/media/island.jpg" in lines
    assert lines == sorted(lines, key=lambda line: line.split("  ")[:2])
    assert f"{len(lines)} images would be fetched" in ended.err and f"  {other} " in ended.err
    assert ended.code == 0 and list(tmp_path.iterdir()) == []
    asked = {hit.path for hit in site.requests}
    assert "/gallery/" in asked and not any(path.startswith(("/img", "/media")) for path in asked)


def test_json_has_every_known_field_of_a_picture(call: Call, site: DemoServer) -> None:
    ended = call("run", "--dry-run", "--json", "-d", "0", site.url)
    rows = {row["url"]: row for row in map(json.loads, ended.out.splitlines())}
    row = rows[f"{site.a}/img/lighthouse.jpg"]
    assert row["alt"] == "A lighthouse and two boats at sunset" and row["referrer"] == site.url


def test_it_ends_when_enough_pictures_are_found(call: Call, site: DemoServer) -> None:
    ended = call("run", "--dry-run", "-n", "3", site.url)
    assert len(ended.out.splitlines()) == 3 and "3 images would be fetched" in ended.err


def test_an_unreachable_seed_is_reported_as_in_a_crawl(call: Call, site: DemoServer) -> None:
    site.stop()
    ended = call("run", "--dry-run", "--patience", "0", site.url)
    assert ended.code == 4 and "no seed could be reached" in ended.err
    site.start()


def test_options_that_need_a_real_crawl_are_refused(call: Call) -> None:
    assert "give a URL" in call("run", "--dry-run").complaint
    assert "--dry-run can't read standard input" in call("run", "--dry-run", "-i", "-").complaint
