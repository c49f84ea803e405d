"""What documents lead to: parts, pages and pictures, within scope, patterns and depth; and traps that are left."""

from collections.abc import Iterable

import pytest

from crawler.fetcher import Canned, CannedFetcher
from crawler.harvest.filters import Filter
from crawler.harvest.finds import FEED, FRAME, MAX_NESTING, SHEET, SITEMAP, Rules, seed_request
from crawler.harvest.harvester import Harvester
from crawler.model import Outcome, Request

SITE = "http://a.example"
PAGE = f"{SITE}/dir/page"
SEED = seed_request(PAGE, "seed")
XML = "application/xml"


def harvest(body: str | bytes, request: Request = SEED, kind: str = "text/html", **rules: object) -> Outcome:
    data = body.encode() if isinstance(body, str) else body
    fetcher = CannedFetcher({request.location: Canned(headers={"Content-Type": kind}, body=data)})
    return Harvester(fetcher, Rules(**rules)).handle(request)  # type: ignore[arg-type]


def found(outcome: Outcome, *sources: str) -> list[str]:
    return [request.url for request in outcome.discovered if request.source in sources]


def part(url: str, source: str, **fields: object) -> Request:
    known = {"nesting": 1, "seed": PAGE, "referrer": PAGE, "source": source} | fields
    return Request(url=url, **known)  # type: ignore[arg-type]


# --- parts of a page


def test_a_style_sheet_may_lie_anywhere_and_stands_where_its_page_stands() -> None:
    outcome = harvest('<link rel=stylesheet href="//cdn.example/x.css"><style>@import "y.css";</style>', scope="page")
    sheets = [request for request in outcome.discovered if request.source == SHEET]
    assert [sheet.url for sheet in sheets] == ["http://cdn.example/x.css", "http://a.example/dir/y.css"]
    assert {(sheet.kind, sheet.depth, sheet.nesting, sheet.referrer) for sheet in sheets} == {("page", 0, 1, PAGE)}


def test_pictures_of_a_style_sheet_belong_to_the_page_that_names_it() -> None:
    sheet = part("http://cdn.example/css/x.css", SHEET)
    outcome = harvest("p { background: url(../a.png) } @import 'late.css';", sheet, "text/css")
    (image,) = outcome.discovered
    assert (image.url, image.referrer, image.source, image.depth) == ("http://cdn.example/a.png", PAGE, "css", 0)


def test_style_sheets_that_import_each_other_come_to_an_end() -> None:
    for nesting in (1, MAX_NESTING):
        sheet = part(f"{SITE}/{nesting}.css", SHEET, nesting=nesting)
        imported = harvest(f"@import '{nesting + 1}.css';", sheet, "text/css").discovered
        assert [request.nesting for request in imported] == ([] if nesting == MAX_NESTING else [nesting + 1])


def test_frames_and_feeds_are_parts_where_they_are_of_the_site() -> None:
    html = """<iframe src=/frame></iframe><iframe src=//ads.example/></iframe>
              <link rel=alternate type=application/rss+xml href=/feed.xml>
              <link rel=alternate type=application/rss+xml href=//other.example/feed.xml>"""
    assert found(harvest(html), FRAME, FEED) == [f"{SITE}/frame", f"{SITE}/feed.xml"]
    assert found(harvest(html, scope="page"), FRAME, FEED) == [f"{SITE}/frame"]
    assert found(harvest(html, max_depth=0), FRAME, FEED) == [f"{SITE}/frame", f"{SITE}/feed.xml"]


def test_what_stands_in_a_frame_is_one_step_from_its_page() -> None:
    frame = part(f"{SITE}/frame", FRAME, depth=2)
    outcome = harvest("<img src=/i.png><a href=/next>", frame)
    image, link = outcome.discovered
    assert (image.depth, image.referrer) == (2, f"{SITE}/frame")
    assert (link.depth, link.nesting, link.seed) == (3, 0, PAGE)


@pytest.mark.parametrize(
    ("directives", "sources"),
    [("noimageindex", {FRAME, FEED, "a"}), ("nofollow", {SHEET, "img"}), ("none", set[str]())],
)
def test_what_a_page_asks_for_holds_for_its_parts(directives: str, sources: set[str]) -> None:
    html = f"""<meta name=robots content={directives}><link rel=stylesheet href=/x.css><iframe src=/frame></iframe>
               <link rel=alternate type=application/rss+xml href=/feed><img src=/i.png><a href=/next>"""
    assert {request.source for request in harvest(html).discovered} == sources


# --- feeds and sitemaps


def test_a_sitemap_leads_to_pages_and_pictures_of_the_site() -> None:
    text = f"""<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"
        xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
      <url><loc>{SITE}/one</loc><image:image><image:loc>//cdn.example/1.jpg</image:loc>
        <image:caption>C</image:caption></image:image></url>
      <url><loc>http://other.example/two</loc><image:image><image:loc>{SITE}/2.jpg</image:loc></image:image></url>
    </urlset>"""
    outcome = harvest(text, part(f"{SITE}/sitemap.xml", SITEMAP), XML)
    pages = [request for request in outcome.discovered if request.kind == "page"]
    (image,) = [request for request in outcome.discovered if request.kind == "image"]
    assert [(page.url, page.depth) for page in pages] == [(f"{SITE}/one", 1)]
    assert (image.url, image.referrer, image.caption) == ("http://cdn.example/1.jpg", f"{SITE}/one", "C")


def test_an_index_leads_to_sitemaps() -> None:
    text = f"<sitemapindex><sitemap><loc>{SITE}/a.xml.gz</loc></sitemap></sitemapindex>"
    (sitemap,) = harvest(text, part(f"{SITE}/sitemap.xml", SITEMAP), XML).discovered
    assert (sitemap.url, sitemap.source, sitemap.nesting) == (f"{SITE}/a.xml.gz", SITEMAP, 2)


def test_a_feed_leads_to_its_enclosures_its_html_and_its_pages() -> None:
    text = f"""<rss><channel><item><link>{SITE}/post</link><enclosure url="/e.jpg" type="image/jpeg"/>
      <description>&lt;img src="/d.png" alt=D&gt;</description></item></channel></rss>"""
    outcome = harvest(text, part(f"{SITE}/feed", FEED), "application/rss+xml")
    assert {request.url for request in outcome.discovered} == {f"{SITE}/{name}" for name in ("e.jpg", "d.png", "post")}


@pytest.mark.parametrize("body", ["<notes/>", "not xml", ""])
def test_xml_that_is_no_feed_is_of_no_use(body: str) -> None:
    assert harvest(body, part(f"{SITE}/x.xml", FEED), XML).reason == "unsupported-format"


def test_xhtml_under_the_type_of_xml_is_a_page() -> None:
    text = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body><img src="/x.png"/></body></html>'
    assert found(harvest(text, kind=XML), "img") == [f"{SITE}/x.png"]


# --- what is wanted


def test_patterns_say_which_pages_and_pictures_are_wanted() -> None:
    html = "<img src=/a.jpg><img src=/b.gif><a href=/x/1><a href=/y/1>"
    outcome = harvest(html, pages=Filter(["/x/*"]), images=Filter(exclude=["*.gif"]))
    assert [request.url for request in outcome.discovered] == [f"{SITE}/a.jpg", f"{SITE}/x/1"]


def test_a_page_is_remembered_by_its_key_and_fetched_by_its_url() -> None:
    html = "<a href='/p?utm_source=x&b=1&a=2'><a href='/p?a=2&b=1'><a href='/q?PHPSESSID=1'>"
    first, second = harvest(html).discovered
    assert (first.url, first.location) == (f"{SITE}/p?a=2&b=1", f"{SITE}/p?utm_source=x&b=1&a=2")
    assert second.url == f"{SITE}/q"


def test_a_copy_leads_to_its_original_and_not_to_further_copies() -> None:
    html = "<link rel=canonical href=/dir/original><a href='page?sort=1'><a href=/else><img src=/i.png>"
    outcome = harvest(html)
    assert [request.url for request in outcome.discovered] == [f"{SITE}/i.png", f"{SITE}/dir/original", f"{SITE}/else"]


def test_a_thumbnail_waits_for_the_picture_that_it_leads_to() -> None:
    (image,) = harvest("<a href=/big.jpg><img src=/small.jpg srcset='/medium.jpg 300w'></a>").discovered
    assert (image.url, image.fallback) == (f"{SITE}/big.jpg", f"{SITE}/medium.jpg")


def test_a_page_about_a_picture_is_a_page() -> None:
    image, page = harvest("<a href=/wiki/File:Boat.jpg><img src=/boat.png></a>").discovered
    assert (page.kind, page.url) == ("page", f"{SITE}/wiki/File:Boat.jpg")
    assert (image.url, image.fallback) == (f"{SITE}/boat.png", "")


def test_spacers_and_names_are_no_pictures() -> None:
    html = """<img src=/dot.gif width=1 height=1>
      <script type=application/ld+json>{"image": {"@id": "http://a.example/#logo"}}</script>"""
    assert harvest(html).discovered == ()


# --- traps


def test_links_into_traps_are_not_followed() -> None:
    html = "<a href=/a/b/a/b/a/b><a href='/cal?year=9999&month=1'><a href=/fine>"
    assert found(harvest(html), "a") == [f"{SITE}/fine"]


def calendar(days: Iterable[int]) -> dict[str, Canned]:
    """Pages that only lead to the next day."""
    body = "<a href='/day?date=2020-01-{:02}&n={}'>"
    return {
        f"{SITE}/day?date=2020-01-01&n={n}": Canned(
            headers={"Content-Type": "text/html"}, body=body.format(1, n + 1).encode()
        )
        for n in days
    }


def test_pages_that_bring_nothing_again_and_again_are_named_and_left() -> None:
    harvester = Harvester(CannedFetcher(calendar(range(150))))
    urls = [f"{SITE}/day?date=2020-01-01&n={n}" for n in range(150)]
    outcomes = [harvester.handle(Request(url=url, depth=3, seed=PAGE, source="a")) for url in urls]
    assert [outcome.reason for outcome in outcomes] == [""] * 100 + ["trap"] * 50
    assert outcomes[0].discovered and not outcomes[100].discovered
