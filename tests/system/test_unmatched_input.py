"""URLs and patterns without a match, as users type them: the behaviour, and the messages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.calls import Call, calls
from tests.support.pictures import Answer, PictureHost

HTML = {"Content-Type": "text/html"}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as caller:
        yield caller


@pytest.fixture
def site() -> Iterator[PictureHost]:
    """Serve a site of ten pages with a picture each, all named by its sitemap and its first page."""
    pages = {f"/photos/{n}.html": f'<img src="/{n}.png">' for n in range(10)}
    links = "".join(f'<a href="{path}">x</a>' for path in pages)

    def answer(path: str) -> Answer | None:
        if path == "/robots.txt":
            return Answer(200, {}, f"Sitemap: {host.url}/sitemap.xml".encode())
        if path == "/sitemap.xml":
            found = "".join(f"<url><loc>{host.url}{page}</loc></url>" for page in pages)
            return Answer(200, {"Content-Type": "text/xml"}, f"<urlset>{found}</urlset>".encode())
        if path == "/":
            return Answer(200, HTML, links.encode())
        if path in pages:
            return Answer(200, HTML, pages[path].encode())
        return None if path.endswith(".png") else Answer(404, {})

    with PictureHost(answer=answer) as host:
        yield host


def visited(site: PictureHost) -> set[str]:
    return {visit.path for visit in site.visits}


def test_a_missing_seed_page_does_not_walk_the_site_through_its_sitemap(call: Call, site: PictureHost) -> None:
    ended = call("run", f"{site.url}/nosuch.html", "-w", 0)
    assert visited(site) == {"/robots.txt", "/nosuch.html"}
    assert (ended.code, "pages failed  1: http-404 1" in ended.err) == (8, True)


def test_the_sitemap_is_read_if_one_of_two_seeds_exists(call: Call, site: PictureHost) -> None:
    call("run", f"{site.url}/nosuch.html", f"{site.url}/photos/3.html", "-w", 0)
    assert {"/sitemap.xml", "/photos/0.html", "/0.png", "/9.png"} <= visited(site)


def test_a_pattern_that_can_match_nothing_is_refused_before_anything_is_opened(call: Call, site: PictureHost) -> None:
    ended = call("run", site.url, "--include", "photos", "-w", 0)
    assert ended.code == 2 and "'photos' can match no URL" in ended.complaint
    assert "did you mean '*photos*'?" in ended.complaint
    assert (visited(site), list(Path().iterdir())) == (set(), [])


@pytest.mark.parametrize("dry", [False, True])
def test_a_pattern_without_a_match_is_named_in_the_summary(call: Call, site: PictureHost, dry: bool) -> None:
    options = ["--dry-run"] if dry else ["-w", 0]
    ended = call("run", site.url, "--include", "photos/*", *options)
    assert "'photos/*' matched none of 20 links; did you mean '*photos/*'?" in ended.err
    assert "/photos/0.html" not in visited(site)
    ended = call("run", site.url, "-o", "b", "--include", "*photos/*", *options)
    assert "matched none" not in ended.err and "/photos/0.html" in visited(site)
