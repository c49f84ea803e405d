"""Suspects: kills from outside count against no picture; only a picture that crashes its worker is poison."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Start, fleet_for
from tests.support.pictures import PictureHost, picture
from tests.support.processes import commands, manifest_of, wait_until

pytestmark = pytest.mark.fire

#: Makes every Python process of the test abort when Pillow opens the picture of that number.
CRASHING = """
import os
from PIL import Image
opens = Image.open
def crash(file, *arguments, **options):
    if file.getvalue() == {data!r}:
        os.abort()
    return opens(file, *arguments, **options)
Image.open = crash
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path) as starter:
        yield starter


@pytest.mark.timeout(600)
def test_sixteen_slow_pictures_survive_thirty_kills_of_their_downloader(start: Start, tmp_path: Path) -> None:
    number, kills = 16, 30
    with PictureHost(delay=9.0) as host:
        fleet = fleet_for(start, host, number, tmp_path, machines=1, threads=number)
        for kill in range(1, kills + 1):
            assert host.wait_for(lambda asked: asked.total() >= kill * number), fleet.said  # noqa: B023
            fleet.kill("machine0")
        assert set(fleet.ends(120.0).values()) == {0}, fleet.said
    assert [(row.status, row.reason, row.attempts) for row in manifest_of(fleet.job)] == [("success", "", 1)] * number


@pytest.mark.timeout(300)
def test_a_picture_that_crashes_its_worker_is_poison_and_the_rest_of_its_batch_is_not(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, bad = 16, 5
    (tmp_path / "sitecustomize.py").write_text(CRASHING.format(data=picture(bad)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    deaths = 0
    with PictureHost(delay=0.5) as host:
        fleet = fleet_for(start, host, number, tmp_path, machines=1, threads=number)
        while fleet.running["master"].process.poll() is None:
            machine = fleet.running["machine0"].process
            wait_until(lambda: machine.poll() is not None, "the end of a downloader")  # noqa: B023
            if machine.returncode == 0:
                break
            deaths += 1
            fleet.begin("machine0")
        assert set(fleet.ends().values()) == {0}, fleet.said
    found = {row.url: (row.reason, row.attempts) for row in manifest_of(fleet.job)}
    assert found == {f"{host.url}/{n}.png": ("poison" if n == bad else "", 1) for n in range(number)}
    assert deaths == 1
