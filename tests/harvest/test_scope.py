"""The pages that belong to the crawl, and the selection of candidates."""

import socket
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest.page import Image
from crawler.harvest.scope import CandidateChoice, Scope, choose, counts_as, in_scope

SEED = "http://www.a.example.co.uk/dir/index.html"


@pytest.mark.parametrize(
    ("url", "scopes"),
    [
        (SEED, "page path host domain any"),
        ("http://www.a.example.co.uk/dir/", "path host domain any"),
        ("http://www.a.example.co.uk/dir/sub/x?y", "path host domain any"),
        ("https://a.example.co.uk/dir/x", "path host domain any"),
        ("http://www.a.example.co.uk/dir", "host domain any"),
        ("http://www.a.example.co.uk/directory/", "host domain any"),
        ("http://www.a.example.co.uk/", "host domain any"),
        ("http://www.a.example.co.uk:8080/dir/x", "domain any"),
        ("http://b.example.co.uk/dir/x", "domain any"),
        ("http://example.co.uk/", "domain any"),
        ("http://other.co.uk/dir/x", "any"),
        ("http://example.co.uk.evil.example/dir/x", "any"),
        ("http://notexample.co.uk/dir/x", "any"),
        ("http://co.uk/dir/x", "any"),
    ],
)
def test_scopes_widen_from_page_to_any(url: str, scopes: str) -> None:
    assert [scope for scope in get_args(Scope) if in_scope(scope, SEED, url)] == scopes.split()


@pytest.mark.parametrize(
    ("seed", "url", "expected"),
    [
        ("http://a.example", "http://a.example/x", True),
        ("http://a.example/dir", "http://a.example/x", True),
        ("http://a.example/dir/", "http://a.example/x", False),
        ("http://a.example/dir/?q=/x/", "http://a.example/dir/y", True),
    ],
)
def test_the_scope_path_covers_everything_below_the_last_slash(seed: str, url: str, expected: bool) -> None:
    assert in_scope("path", seed, url) is expected


@pytest.mark.parametrize(
    ("seed", "url", "expected"),
    [
        ("http://127.0.0.1/", "http://127.0.0.1/x", True),
        ("http://127.0.0.1/", "http://127.0.0.2/x", False),
        ("http://localhost:8000/", "http://localhost:8000/x", True),
        ("http://localhost:8000/", "http://localhost:9000/x", False),
        ("http://[::1]/", "http://[::1]/x", True),
        ("http://one.github.io/", "http://two.github.io/", False),
        ("http://github.io/", "http://one.github.io/", False),
        ("http://xn--bcher-kva.example/", "http://www.xn--bcher-kva.example/", True),
        ("http://a.unknown-suffix/", "http://b.a.unknown-suffix/", True),
        ("http://a.unknown-suffix/", "http://b.unknown-suffix/", False),
    ],
)
def test_hosts_without_a_registered_domain_are_their_own_domain(seed: str, url: str, expected: bool) -> None:
    assert in_scope("domain", seed, url) is expected


def test_domains_are_found_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    assert in_scope("domain", "http://never.asked.example/", "http://before.asked.example/")


# --- copies


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/shop?sort=price", "http://a.example/shop"),
        ("/shop?b=x&a=y", "http://a.example/shop?a=y&b=x"),
        ("/print/cats", "http://a.example/cats"),
        ("/cats-12?view=grid", "http://a.example/cats-12"),
        ("/?view=grid", "http://a.example/"),
        ("/x;jsessionid=1", "http://a.example/x"),
    ],
)
def test_a_copy_counts_as_its_canonical_page(path: str, canonical: str) -> None:
    assert counts_as(f"http://a.example{path}", canonical) == canonical


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/shop?sort=price", ""),
        ("/shop?sort=price", "http://b.example/shop"),
        ("/shop?sort=price", "http://www.a.example/shop"),
        ("/shop?page=2", "http://a.example/shop"),
        ("/shop/page/2/", "http://a.example/shop/"),
        ("/cats-12", "http://a.example/cats-13"),
        ("/about", "http://a.example/"),
        ("/about", "http://a.example/index.html"),
    ],
)
def test_an_implausible_canonical_url_is_ignored(path: str, canonical: str) -> None:
    assert counts_as(f"http://a.example{path}", canonical) == f"http://a.example{path}"


# --- candidates


def image(name: str, group: int = 0, *, width: int | None = None, density: float | None = None, rank: int = 0) -> Image:
    url = f"http://a.example/{name}"
    return Image(url=url, source="img", group=group, width=width, density=density, rank=rank)


def chosen(images: list[Image], policy: CandidateChoice = "largest") -> list[str]:
    return [each.url.rpartition("/")[2] for each in choose(images, policy)]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([image("300", width=300), image("900", width=900), image("600", width=600)], "900"),
        ([image("plain"), image("2x", density=2.0)], "2x"),
        ([image("half", density=0.5), image("plain")], "plain"),
        ([image("2x", density=2.0), image("300", width=300)], "300"),
        ([image("first"), image("second")], "first"),
        ([image("plain"), image("later", rank=1)], "later"),
        ([image("later", rank=1), image("original", rank=2)], "original"),
        ([image("2x", density=2.0), image("later 2x", density=2.0, rank=1)], "later 2x"),
        ([image("later", rank=1), image("900", width=900)], "900"),
        ([image("blank.gif", density=3.0), image("real.jpg")], "real.jpg"),
        ([image("1x1.png"), image("Spacer.GIF")], "1x1.png"),
    ],
)
def test_the_largest_candidate_is_chosen(images: list[Image], expected: str) -> None:
    assert chosen(images) == [expected]


def test_one_candidate_per_picture_is_chosen_in_document_order() -> None:
    assert chosen([image("b", 1), image("a", 0), image("c", 1, width=9)]) == ["c", "a"]


def test_a_lone_placeholder_is_chosen() -> None:
    assert chosen([image("spacer.gif")]) == ["spacer.gif"]


def test_other_policies_drop_placeholders_too() -> None:
    images = [image("blank.gif"), image("a"), image("b", width=9), image("loading.svg", 1)]
    assert chosen(images, "all") == ["a", "b", "loading.svg"]
    assert chosen(images, "first") == ["a", "loading.svg"]


_IMAGES = st.lists(
    st.builds(
        image,
        st.sampled_from(["a.jpg", "b.jpg", "blank.gif"]),
        st.integers(0, 3),
        width=st.none() | st.integers(1, 9),
        density=st.none() | st.floats(0, 9),
        rank=st.integers(0, 2),
    )
)


@given(_IMAGES)
def test_no_picture_is_lost_or_repeated(images: list[Image]) -> None:
    groups = {each.group for each in images}
    for policy in ("largest", "first"):
        assert sorted(each.group for each in choose(images, policy)) == sorted(groups)
    assert {each.group for each in choose(images, "all")} == groups
    assert set(choose(images, "largest")) <= set(choose(images, "all")) <= set(images)
