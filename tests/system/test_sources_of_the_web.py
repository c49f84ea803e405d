"""The bundled web has a page for each way to name a picture, and for each kind of opt-out.

Every picture is found, by its page alone and by a whole crawl. URLs that must not be requested are in no server's log.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import msgspec
import pytest

import crawler
from crawler.demo.check import compare, load_truth
from crawler.demo.server import DemoServer, Hit
from crawler.harvest.discovery import seed_request
from crawler.harvest.harvester import Harvester
from crawler.model import ImageRecord
from crawler.net.address_guard import Guard
from crawler.net.requests_fetcher import RequestsFetcher
from crawler.robots.robots_txt import robots_allowed
from crawler.urls import canonicalize, resolve
from tests.support.processes import manifest_of

pytestmark = pytest.mark.xdist_group("sources")  # one server and one crawl are enough for all of these

#: Page → the pictures to which it leads → the source of each.
FOUND: dict[str, dict[str, str]] = {
    "/sources/amp.html": {"amp/swift.jpg": "srcset", "amp/flight.png": "poster"},
    "/sources/background.html": dict.fromkeys(
        ["background/paper.gif", "background/cloth.png", "background/cell.jpg"], "background"
    ),
    "/sources/base.html": {"base/garden/tulip.png": "img", "base/garden/stem.jpg": "css"},
    "/sources/calendar/": {"may.jpg": "img", "june.png": "img"},
    "/sources/candidates.html": {
        "candidates/oak.jpg": "img",
        "candidates/pine.png": "srcset",
        "candidates/reed.avif": "picture",
    },
    "/sources/copies.html?order=price": {"copies/copy.png": "img", "copies/original.jpg": "img"},
    "/sources/feed.html": {
        "feed/mark.gif": "image",
        "feed/crowd.png": "img",
        "feed/parade.jpg": "enclosure",
        "{{b}}/media/sources/float.webp": "media:content",
        "feed/monday.png": "enclosure",
        "feed/rain.gif": "img",
        "feed/band.jpg": "img",
    },
    "/sources/for-others.html": {"manners/for-us.gif": "img"},
    "/sources/for-us.html": {},
    "/sources/frames.html": {"frames/set-in.gif": "img", "frames/within.png": "img"},
    "/sources/gb2312.html": {"gb2312/view.png?%C3%FB=%C9%BD": "img", "gb2312/图/河.jpg": "img"},
    "/sources/inline-sheet.html": dict.fromkeys(
        [f"inline-sheet/{name}" for name in ("bare(1).png", "quoted.jpg", "before.gif", "dune.webp")], "css"
    ),
    "/sources/input.html": {"input/search.png": "input"},
    "/sources/json-ld.html": dict.fromkeys(
        ["json-ld/bench.png", "{{b}}/media/sources/shed.jpg", "json-ld/garden.webp", "json-ld/still.gif"], "json-ld"
    ),
    "/sources/lazy.html": {
        "lazy/ash.jpg": "data-original",
        "lazy/beech.png": "data-lazy-src",
        "lazy/cedar.webp": "data-lazy-srcset",
        "lazy/elm.jpg": "data-large-file",
        "lazy/fir.gif": "data-bg",
        "lazy/ginkgo.avif": "data-background-image",
        "lazy/hazel.jpg": "data-tree",
    },
    "/sources/link-header.html": {"link-header/first.webp": "preload", "link-header/hem.png": "css"},
    "/sources/manners.html": {"manners/welcome.jpg": "img", "manners/asked.png": "img"},
    "/sources/maze/": {"hedge.png": "img", "turn.jpg": "img"},
    "/sources/metas.html": {
        "{{b}}/media/sources/share.jpg": "og:image",
        "metas/card.webp": "twitter:image",
        "metas/tile.png": "meta",
        "metas/search.jpg": "itemprop",
        "metas/stands-for-it.gif": "image_src",
        "metas/favicon.ico": "icon",
    },
    "/sources/microdata.html": dict.fromkeys(
        ["microdata/plate.jpg", "microdata/maker.gif", "microdata/portrait.png"], "itemprop"
    ),
    "/sources/nofollow.html": {"manners/signpost.gif": "img"},
    "/sources/noscript.html": {"noscript/quiet.jpg": "img", "noscript/both.png": "data-src"},
    "/sources/object.html": {
        "object/harbour.webp": "object",
        "object/instead.jpg": "img",
        "object/mill.tif": "object",
        "object/tower.gif": "object",
    },
    "/sources/preload.html": {"preload/coast.webp": "preload", "preload/border.png": "css"},
    "/sources/refresh.html": {"refresh/arrived.png": "img"},
    "/sources/reserved.html": {},
    "/sources/sheet.html": dict.fromkeys(
        ["sheet/theme/leaf.png", "sheet/more/stone.webp", "sheet/more/seal.gif", "{{b}}/media/sources/skin.png"], "css"
    ),
    "/sources/style.html": dict.fromkeys(["style/wall.png", "style/bullet.gif", "style/sky.jpg"], "css"),
    "/sources/svg.html": dict.fromkeys(["svg/mist.jpg", "svg/island.png", "svg/kite.gif", "svg/marks.svg"], "svg"),
    "/sources/template.html": {"template/card.png": "img", "template/shadow.gif": "img"},
    "/sources/thumbnails.html": {
        "thumbnails/fair.jpg": "a",
        "{{b}}/media/sources/night.webp": "a",
        "thumbnails/map.gif": "img",
        "thumbnails/wheel.png": "a",
    },
    "/sources/tracking.html": {"tracking/cup.bmp": "img"},
    "/sources/unindexed.html": {"manners/beyond.webp": "img"},
    "/sources/untrained.html": {},
    "/sources/video.html": {"video/still.jpg": "poster"},
}
#: The same for pictures that only the sitemap of robots.txt names.
LISTED = {"/sources/sitemap/": {"listed.jpg": "image:loc", "alone.png": "img"}}


class Crawled(NamedTuple):
    """A whole crawl: its rows, and the requests in the log of the server."""

    rows: dict[str, ImageRecord]
    log: list[Hit]

    @property
    def asked(self) -> Counter[str]:
        """Return URL → number of requests."""
        return Counter(f"http://{hit.host}{hit.path}" for hit in self.log)


@pytest.fixture(scope="module")
def server() -> Iterator[DemoServer]:
    with DemoServer() as running:
        yield running


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory, server: DemoServer) -> Crawled:
    place, before = tmp_path_factory.mktemp("crawl"), len(server.requests)
    crawler.run(server.url, output=place, workers=0)
    return Crawled({row.url: row for row in manifest_of(place)}, server.requests[before:])


def expected(server: DemoServer, page: str, found: dict[str, str]) -> dict[str, str]:
    """Return URL → source, for the pictures of a page as they are written above."""
    urls = {server.fill(name.encode()).decode(): source for name, source in found.items()}
    return {canonicalize(resolve(server.a + page, name) or ""): source for name, source in urls.items()}


def pictures(server: DemoServer, page: str) -> dict[str, str]:
    """Return URL → source, for all pictures to which a page leads; no page of ``sources`` links back."""
    found: dict[str, str] = {}
    seen = {f"{server.a}/private/"}  # robots.txt forbids it, which a handler does not know
    with closing(RequestsFetcher(guard=Guard(allow_private=True))) as fetcher:
        harvester = Harvester(fetcher)
        waiting = [seed_request(server.a + page, "seed")]
        while waiting:
            for each in harvester.handle(waiting.pop()).discovered:
                if each.kind == "image":
                    found.setdefault(each.url, each.source)
                elif each.url not in seen:
                    seen.add(each.url)
                    waiting.append(each)
    return found


def listed(server: DemoServer, name: str) -> set[str]:
    """Return a list of the truth: ``untouched`` or ``unwanted``."""
    return set(msgspec.json.decode(server.fill((server.site / "truth.json").read_bytes()))[name])


# Found pictures


@pytest.mark.parametrize("page", FOUND)
def test_a_page_leads_to_exactly_its_pictures(server: DemoServer, page: str) -> None:
    assert pictures(server, page) == expected(server, page, FOUND[page])


def test_the_result_of_the_whole_crawl_is_the_truth(server: DemoServer, crawled: Crawled) -> None:
    assert compare(load_truth(server), crawled.rows.values()) == []


def test_a_whole_crawl_finds_the_same_pictures_by_the_same_sources(server: DemoServer, crawled: Crawled) -> None:
    tables = [expected(server, page, found) for page, found in (FOUND | LISTED).items()]
    wanted = {url: source for table in tables for url, source in table.items()}
    assert {url: row.source for url, row in crawled.rows.items() if "/sources/" in url} == wanted


def test_a_picture_of_the_sitemap_is_recorded_with_its_page(server: DemoServer, crawled: Crawled) -> None:
    row = crawled.rows[f"{server.a}/sources/sitemap/listed.jpg"]
    assert row.page_url == f"{server.a}/sources/sitemap/unlisted.html"


def test_licences_are_recorded_with_their_pictures(server: DemoServer, crawled: Crawled) -> None:
    licences = {row.license: url.rpartition("/")[2] for url, row in crawled.rows.items() if row.license}
    assert licences == {
        f"{server.a}/sources/microdata/licence.html": "portrait.png",
        "https://creativecommons.org/licenses/by/4.0/": "garden.webp",
    }


# Requests


def test_a_crawl_requests_no_page_off_scope_and_no_url_that_robots_or_an_opt_out_forbids(
    server: DemoServer, crawled: Crawled
) -> None:
    asked = crawled.asked.keys()
    assert asked & (listed(server, "untouched") | listed(server, "unwanted")) == set()
    for host, origin in (("a", server.a), ("b", server.b)):
        rules = (server.site / host / "robots.txt").read_bytes()
        assert [url for url in asked if url.startswith(origin) and not robots_allowed(rules, "imgcrawler", url)] == []
    of_b = {url.removeprefix(server.b) for url in asked if url.startswith(server.b)}
    assert {path for path in of_b if not path.startswith("/media/")} == {"/robots.txt", "/style/skin.css"}


def test_a_page_with_several_urls_and_copies_is_requested_once(server: DemoServer, crawled: Crawled) -> None:
    pages = Counter(hit.path.partition("?")[0].partition(";")[0] for hit in crawled.log if ".htm" in hit.path)
    assert pages["/sources/tracking/prize.html"] == pages["/sources/copies.html"] == 1
    assert max(pages.values()) == 1
    assert crawled.asked[f"{server.a}/sources/sheet/theme/main.css"] == 1  # imported by a sheet that it imports


def test_a_picture_that_opts_out_is_requested_once(server: DemoServer, crawled: Crawled) -> None:
    url = f"{server.a}/sources/manners/asked.png"
    assert (crawled.rows[url].reason, crawled.rows[url].path, crawled.asked[url]) == ("opted-out", "", 1)


def test_every_url_that_must_not_be_requested_is_named_on_a_page(server: DemoServer) -> None:
    kinds = (".html", ".css", ".xml", ".json")
    paths = [*server.site.glob("[ab]/**/*"), server.site / "faults.json"]
    text = b"".join(path.read_bytes() for path in paths if path.suffix in kinds).replace(b"&amp;", b"&")
    names = {url.rpartition("/")[2].encode() for url in listed(server, "untouched") | listed(server, "unwanted")}
    assert {name for name in names if name not in text} == set()
