"""What a crawl begins with, as people type it."""

import os
from pathlib import Path

import pytest

from crawler.errors import ConfigError
from crawler.model import Request
from crawler.seeds import Source


def seed(text: str) -> str:
    (request,) = Source(seeds=(text,)).requests()
    return request.url


def refused(source: Source) -> str:
    with pytest.raises(ConfigError) as caught:
        source.requests()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://example.org/a", "https://example.org/a"),
        ("HTTP://Example.org", "http://example.org/"),
        ("http:/example.org", "http://example.org/"),
        ("example.org", "https://example.org/"),
        ("example.org/a?b=http://c.example/", "https://example.org/a?b=http://c.example/"),
        ("example.org:8080/a", "https://example.org:8080/a"),
        ("localhost:8000", "https://localhost:8000/"),
        ("127.0.0.1:8000/a", "https://127.0.0.1:8000/a"),
        ("//example.org/a", "https://example.org/a"),
        ("  example.org\n", "https://example.org/"),
        ("bücher.example", "https://xn--bcher-kva.example/"),
        ("http://example.org/#part", "http://example.org/"),
    ],
)
def test_seeds_are_read_as_they_are_typed(text: str, url: str) -> None:
    assert seed(text) == url


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("htp:/bad", "http://bad"),
        ("htp://bad", "http://bad"),
        ("htps://example.org/a", "https://example.org/a"),
        ("HTTPX:example.org", "http://example.org"),
        ("ftp://example.org/", ""),
        ("file:/etc/passwd", ""),
        ("mailto:me@example.org", ""),
        ("javascript:alert(1)", ""),
        ("C:\\pictures\\list.txt", ""),
        ("htp://", ""),
        ("http://", ""),
        ("two words", ""),
        ("", ""),
    ],
)
def test_what_is_no_url_is_refused_with_the_nearest_that_is(text: str, meant: str) -> None:
    hint = f" Did you mean {meant!r}?" if meant else ""
    assert refused(Source(seeds=(text,))) == f"{text!r} is not an http(s) URL.{hint}"


def test_a_complaint_about_a_seed_is_short() -> None:
    assert len(refused(Source(seeds=("htp://" + "x" * 5_000,)))) < 500


def test_a_seed_is_where_its_own_branch_begins() -> None:
    url = "https://example.org/"
    assert Source(seeds=("example.org",)).requests() == [Request(url=url, kind="page", seed=url, source="seed")]


def test_lists_are_requests_of_their_own(tmp_path: Path) -> None:
    pages, images = tmp_path / "my päges.txt", tmp_path / "images.txt"
    for path in (pages, images):
        path.touch()
    first, second = Source(seed_lists=(pages,), image_lists=(images,)).requests()
    assert (first.kind, first.entries, first.url.split("?")[0]) == ("list", "page", pages.resolve().as_uri())
    assert (second.kind, second.entries, second.url.split("?")[0]) == ("list", "image", images.resolve().as_uri())


def test_a_list_is_read_again_when_it_has_changed_and_for_each_use(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("http://a.example/1")
    before = Source(seed_lists=(path,), image_lists=(path,)).requests()
    assert before == Source(seed_lists=(path,), image_lists=(path,)).requests()
    path.write_text("http://a.example/1\nhttp://a.example/2")
    assert len({request.url for request in before + Source(seed_lists=(path,), image_lists=(path,)).requests()}) == 4


def test_a_list_keeps_its_name_wherever_the_command_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").touch()
    monkeypatch.chdir(tmp_path)
    (request,) = Source(seed_lists=(Path("list.txt"),)).requests()
    assert request.url.split("?")[0] == (tmp_path / "list.txt").resolve().as_uri()


@pytest.mark.parametrize("name", ["missing.txt", ".", "x" * 300 + ".txt", "list.txt/below"])
def test_a_list_that_can_t_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "list.txt").touch()
    assert f"can't read the list {tmp_path / name}: " in refused(Source(image_lists=(tmp_path / name,)))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_list_without_permission_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "list.txt"
    secret.touch(mode=0o000)
    assert "ermission denied" in refused(Source(seed_lists=(secret,)))
