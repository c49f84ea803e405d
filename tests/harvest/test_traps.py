"""Crawler traps: URLs that lead into one, and kinds of page that are abandoned because they bring nothing new."""

import time
from collections import deque
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest import traps
from crawler.harvest.traps import _BARREN_PAGES, MAX_PAGE_URL, TrapWatch, find_trap, kind_of
from crawler.urls import canonicalize

HOST = "http://a.example"
YEAR = 2026
#: Parts of URLs that matter to the detection, in any order.
PIECES = st.sampled_from(
    ["/", "//", "a", "b", "12", "2031", "-05", "/2031/05/", "calendar", "?", "&", "=", "y=", "m=1"]
)
URLS = st.lists(PIECES | st.sampled_from(["f[0]=", "%5B", "%", "]", "[", "date="]) | st.text(max_size=5), max_size=12)

#: URL → the images and the links of its page.
Web = Callable[[str], tuple[list[str], list[str]]]


@pytest.mark.parametrize(
    ("path", "trap"),
    [
        ("/foo/foo/foo", "repeated-segments"),
        ("/x/foo/foo/foo/y", "repeated-segments"),
        ("/a/b/a/b/a/b/", "repeated-segments"),
        ("/a/1/a/2/a/3/a/4", "repeated-segments"),
        ("/a////b", "repeated-segments"),
        ("/x" + "/a/b/c" * 3, "repeated-segments"),
        ("/foo/foo", ""),
        ("/a/b/a/b/", ""),
        ("/web/2020/http://b.example//x", ""),
        ("/2011/11/11/11", ""),
        ("/tile/0/0/0.html", ""),
    ],
)
def test_ever_deeper_relative_links_are_traps(path: str, trap: str) -> None:
    assert find_trap(HOST + path, year=YEAR) == trap


@pytest.mark.parametrize(
    ("path", "trap"),
    [
        ("/calendar?y=2029&m=1", "calendar"),
        ("/calendar?y=2028&m=12", ""),
        ("/calendar?month=12&year=1499", "calendar"),
        ("/calendar?month=12&year=1503", ""),
        ("/calendar?y=99999&m=1&d=3", "calendar"),
        ("/?date=2041-04-01", "calendar"),
        ("/?date=20410401", "calendar"),
        ("/?month=204104", "calendar"),
        ("/events/2041-04/", "calendar"),
        ("/events/2041/04/", "calendar"),
        ("/papers/1899-05-01/", ""),
        ("/thread/2049/12", ""),
        ("/event/2049/7", ""),
        ("/map?x=1&y=2049", ""),
        ("/car/model-2049-12-volt", ""),
        ("/?id=20410401", ""),
        ("/?from=2020-01-01&to=2099-12-31", ""),
    ],
)
def test_calendar_dates_far_away_are_traps(path: str, trap: str) -> None:
    assert find_trap(HOST + path, year=YEAR) == trap


@pytest.mark.parametrize(
    ("query", "trap"),
    [
        ("&".join(f"p{number}=1" for number in range(13)), "facets"),
        ("&".join(f"p{number}=1" for number in range(12)), ""),
        ("f[0]=a&f[1]=b&f[2]=c&f[3]=d", "facets"),
        ("f%5B0%5D=a&f%5B1%5D=b&f%5B%5D=c&f%5B%5D=d", "facets"),
        ("color=red&color=blue&color=green&color=white", "facets"),
        ("color=red&color=blue&color=green", ""),
    ],
)
def test_many_combined_filters_are_traps(query: str, trap: str) -> None:
    assert find_trap(f"{HOST}/shop?{query}", year=YEAR) == trap


def test_long_and_deep_urls_are_traps() -> None:
    longest = f"{HOST}/".ljust(MAX_PAGE_URL, "x")
    deepest = HOST + "".join(f"/{letter}" for letter in "abcdefghijklmnopqrst")
    assert [find_trap(url, year=YEAR) for url in (longest, f"{deepest}/")] == ["", ""]
    assert find_trap(f"{longest}x", year=YEAR) == "too-long"
    assert find_trap(f"{deepest}/u", year=YEAR) == "too-deep"


@given(URLS.map("".join), st.sampled_from(["", "http://", f"{HOST}/", f"{HOST}/?"]))
def test_any_url_is_checked_without_an_exception(text: str, before: str) -> None:
    url = before + text
    assert find_trap(url, year=YEAR) in {"", *traps.__doc__.split("``")[1::2]}
    assert kind_of(url) == kind_of(url)
    assert TrapWatch().note(url, [url], [url]) == ""


@pytest.mark.parametrize("unit", ["a&", "[", "f[0]=&", "%5B", "/", "/a", "/a/b", "1", "a0", "-", "=", "?"])
@pytest.mark.parametrize("place", ["/{}", "/?{}"])
def test_the_longest_url_is_checked_quickly(place: str, unit: str) -> None:
    url = canonicalize(HOST + place.format(unit * (8_000 // len(unit))))
    start = time.process_time()
    TrapWatch().note(url, (), [f"{url}x"])
    find_trap(url[:MAX_PAGE_URL], year=YEAR)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/photo/17", "/photo/0"),
        ("/IMG_0012.html", "/IMG_0.html"),
        ("/p?b=1&a=2", "/p?a&b"),
        ("/p?c=1&b=1&a=2", "/p?*"),
        ("/p?f[0]=1&f[1]=2", "/p?f[]"),
        ("/c/9f86d081884c7d65/log", "/c/*/log"),
        ("/c/123e4567-e89b-12d3-a456-426614174000", "/c/*"),
        ("/best-cameras-of-2023", "/best-cameras-of-0"),
    ],
)
def test_pages_of_one_kind_share_a_name(path: str, kind: str) -> None:
    assert kind_of(HOST + path) == f"a.example{kind}"


# --- simulated crawls


def walk(web: Web, seeds: Iterable[str], *, limit: int = 20_000) -> tuple[list[str], list[str], TrapWatch]:
    """Return the pages visited and the traps found by a breadth-first crawler that uses both checks."""
    watch = TrapWatch()
    visited: list[str] = []
    met: list[str] = []
    waiting = deque(seeds)
    seen = set(waiting)
    while waiting and len(visited) < limit:
        url = waiting.popleft()
        if watch.verdict(url):
            continue
        visited.append(url)
        images, links = web(url)
        met += [trap] if (trap := watch.note(url, images, links)) else []
        fresh = [link for link in dict.fromkeys(links) if link not in seen and not find_trap(link, year=YEAR)]
        seen.update(fresh)
        waiting.extend(fresh)
    return visited, met, watch


def calendar(url: str) -> tuple[list[str], list[str]]:
    """Return a month with a picture, its days without one, and the adjacent months."""
    year, month = (int(part) for part in url.partition("?y=")[2].split("&d=")[0].split("&m="))
    beside = ((year + month // 12, month % 12 + 1), (year - (month == 1), (month - 2) % 12 + 1))
    months = [f"{HOST}/cal?y={y}&m={m}" for y, m in beside]
    days = [f"{HOST}/cal?y={year}&m={month}&d={day}" for day in range(1, 29)]
    return [f"{HOST}/{year}-{month}.png"], months + days if year % 2 else days + months


def test_a_calendar_ends_and_its_pictures_are_found() -> None:
    visited, met, _ = walk(calendar, [f"{HOST}/cal?y=2024&m=1"], limit=400)
    days = [url for url in visited if "&d=" in url]
    assert met == ["calendar"]
    assert len(days) == _BARREN_PAGES["calendar"]
    assert len(visited) == 400  # months continue, as long as each has a picture of its own


def test_a_kind_is_kept_as_long_as_it_brings_pictures() -> None:
    def gallery(url: str) -> tuple[list[str], list[str]]:
        number = int(url.rpartition("=")[2])
        return [f"{HOST}/{number // 400}.jpg"], [f"{HOST}/photo?id={number + 1}"]

    visited, met, _ = walk(gallery, [f"{HOST}/photo?id=0"], limit=3_000)
    assert (len(visited), met) == (3_000, [])


def test_a_kind_is_kept_as_long_as_it_leads_to_another() -> None:
    def forum(url: str) -> tuple[list[str], list[str]]:
        number = int(url.rpartition("/")[2])
        return ([], [f"{HOST}/list/{number + 1}", f"{HOST}/album/{number}"]) if "/list/" in url else ([], [])

    watch = TrapWatch()
    for number in range(3 * _BARREN_PAGES["barren"]):
        url = f"{HOST}/list/{number}"
        assert watch.note(url, *forum(url)) == ""


@pytest.mark.parametrize(
    ("path", "trap"),
    [
        ("/x/{}", "barren"),
        ("/x?a={0}&b={0}&c={0}", "facets"),
        ("/x/{:032x}a/y", "session"),
        ("/cal?y=2024&m=3&d={}", "calendar"),
    ],
)
def test_a_kind_that_brings_nothing_is_abandoned_under_its_name(path: str, trap: str) -> None:
    watch = TrapWatch()
    pages = [HOST + path.format(number) for number in range(600)]
    verdicts = [watch.note(page, [f"{HOST}/logo.png"], pages[:9]) for page in pages]
    assert verdicts.index(trap) == _BARREN_PAGES[trap]  # the first page has brought the logo
    assert {watch.verdict(page) for page in pages} == {trap}
    assert watch.verdict(f"{HOST}/other/page") == watch.verdict(pages[0].replace("a.", "b.")) == ""


def test_links_to_an_abandoned_kind_are_traps() -> None:
    watch = TrapWatch()
    for number in range(_BARREN_PAGES["barren"]):
        watch.note(f"{HOST}/x/{number}", (), ())
    for number in range(_BARREN_PAGES["barren"]):
        verdict = watch.note(f"{HOST}/y/{number}", (), [f"{HOST}/x/{number + 10_000}"])
    assert verdict == "barren"


def test_a_maze_of_random_names_ends_with_its_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traps, "_BARREN_SECTION", 300)

    def maze(url: str) -> tuple[list[str], list[str]]:
        word = url.rpartition("/")[2]
        return [f"{HOST}/logo.png"], [f"{HOST}/maze/{word}{letter}" for letter in "abc"]

    visited, met, watch = walk(maze, [f"{HOST}/maze/w"])
    assert (len(visited), met) == (301, ["barren"])
    assert watch.verdict(f"{HOST}/elsewhere/w") == watch.verdict(f"{HOST}/maze") == ""


def test_the_memory_of_the_watch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_WATCHED", "MAX_RETIRED", "MAX_KNOWN"):
        monkeypatch.setattr(traps, name, 10)
    monkeypatch.setitem(_BARREN_PAGES, "barren", 2)
    watch = TrapWatch()
    for number in range(100):
        word = f"{HOST}/{'x' * number}/"
        for _ in range(3):
            watch.note(word, (), [f"{word}y"])
    sizes = [len(value) for name, value in vars(watch).items() if name != "_lock"]
    assert max(sizes) <= 10
    assert watch.verdict(word) == "barren"
