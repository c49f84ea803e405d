"""The seeds of a crawl, as users type them."""

import os
from pathlib import Path

import pytest
from msgspec import structs

from crawler.app.seeds import CrawlInput
from crawler.errors import ConfigError
from crawler.model import Request


def seed(text: str) -> str:
    (request,) = CrawlInput(seeds=(text,)).requests()
    return request.url


def refused(source: CrawlInput) -> str:
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
        ("htp://", ""),
        ("http://", ""),
        ("two words", ""),
        ("", ""),
    ],
)
def test_an_invalid_url_is_refused_with_the_nearest_valid_one(text: str, meant: str) -> None:
    hint = f" Did you mean {meant!r}?" if meant else ""
    assert refused(CrawlInput(seeds=(text,))) == f"{text!r} is not an http(s) URL.{hint}"


def test_an_error_message_about_a_seed_is_short() -> None:
    assert len(refused(CrawlInput(seeds=("htp://" + "x" * 5_000,)))) < 500


def test_a_seed_is_the_root_of_its_own_branch() -> None:
    url = "https://example.org/"
    wanted = Request(url=url, kind="page", seed=url, source="seed")
    assert CrawlInput(seeds=(url,)).requests() == [wanted]
    assert CrawlInput(seeds=("example.org",)).requests() == [structs.replace(wanted, fallback="http://example.org/")]


def test_the_http_spelling_of_a_seed_is_canonical() -> None:
    (request,) = CrawlInput(seeds=("example.org:80/a",)).requests()
    assert (request.url, request.fallback) == ("https://example.org:80/a", "http://example.org/a")


@pytest.mark.parametrize("name", ["laion.csv", "./index.html", "list", "example.org"])
def test_a_seed_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    text = refused(CrawlInput(seeds=(name,)))
    assert text == (
        f"{name} is a file and not a URL: if it lists image URLs, use --images {name};"
        f" if it lists pages to crawl, use -i {name}"
    )
    assert seed("https://example.org") == "https://example.org/"


@pytest.mark.parametrize(
    "name", ["laion.csv", "LIST.TXT", "index.html", "./x", "../x", "/x/y", "~/x", ".\\x", "C:\\pictures\\list"]
)
def test_a_seed_that_can_only_be_a_file_is_refused_if_the_file_is_missing(name: str) -> None:
    assert refused(CrawlInput(seeds=(name,))).startswith(
        f"{name!r} is neither an existing file nor the address of a site"
    )


@pytest.mark.parametrize("name", ["example.org/list.txt", "files.example", "csv", "list.md", "data.zip"])
def test_a_seed_that_may_be_a_host_is_read_as_one(name: str) -> None:
    assert seed(name).startswith(f"https://{name}")


def test_lists_are_requests_of_their_own_kind(tmp_path: Path) -> None:
    pages, images = tmp_path / "my päges.txt", tmp_path / "images.txt"
    for path in (pages, images):
        path.touch()
    first, second = CrawlInput(seed_lists=(pages,), image_lists=(images,)).requests()
    assert (first.kind, first.entries, first.url.split("?")[0]) == ("list", "page", pages.resolve().as_uri())
    assert (second.kind, second.entries, second.url.split("?")[0]) == ("list", "image", images.resolve().as_uri())


def test_a_list_is_read_again_when_it_has_changed_and_for_each_use(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("http://a.example/1")
    before = CrawlInput(seed_lists=(path,), image_lists=(path,)).requests()
    assert before == CrawlInput(seed_lists=(path,), image_lists=(path,)).requests()
    path.write_text("http://a.example/1\nhttp://a.example/2")
    assert (
        len({request.url for request in before + CrawlInput(seed_lists=(path,), image_lists=(path,)).requests()}) == 4
    )


def test_a_list_keeps_its_name_in_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").touch()
    monkeypatch.chdir(tmp_path)
    (request,) = CrawlInput(seed_lists=(Path("list.txt"),)).requests()
    assert request.url.split("?")[0] == (tmp_path / "list.txt").resolve().as_uri()


@pytest.mark.parametrize("name", ["missing.txt", ".", "x" * 300 + ".txt", "list.txt/below"])
def test_an_unreadable_list_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "list.txt").touch()
    assert f"can't read the list {tmp_path / name}: " in refused(CrawlInput(image_lists=(tmp_path / name,)))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_list_without_permission_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "list.txt"
    secret.touch(mode=0o000)
    assert "ermission denied" in refused(CrawlInput(seed_lists=(secret,)))
