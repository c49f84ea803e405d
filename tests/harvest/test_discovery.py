"""Requests found in documents: parts, pages and pictures, within scope, patterns and depth; and traps."""

from collections.abc import Iterable
from time import process_time

import pytest

from crawler.harvest.discovery import _MAX_NESTING, FEED, FRAME, SHEET, SITEMAP, DiscoveryRules, seed_request
from crawler.harvest.harvester import Harvester
from crawler.harvest.url_patterns import UrlFilter
from crawler.model import Outcome, Request
from crawler.net.fetcher import Canned, CannedFetcher

SITE = "http://a.example"
PAGE = f"{SITE}/dir/page"
SEED = seed_request(PAGE, "seed")
XML = "application/xml"


def harvest(body: str | bytes, request: Request = SEED, kind: str = "text/html", **rules: object) -> Outcome:
    data = body.encode() if isinstance(body, str) else body
    fetcher = CannedFetcher({request.location: Canned(headers={"Content-Type": kind}, body=data)})
    return Harvester(fetcher, DiscoveryRules(**rules)).handle(request)  # type: ignore[arg-type]


def found(outcome: Outcome, *sources: str) -> list[str]:
    return [request.url for request in outcome.discovered if request.source in sources]


def part(url: str, source: str, **fields: object) -> Request:
    known = {"kind": "part", "nesting": 1, "seed": PAGE, "referrer": PAGE, "source": source} | fields
    return Request(url=url, **known)  # type: ignore[arg-type]


# --- parts of a page


def test_a_style_sheet_may_be_off_site_and_has_the_depth_of_its_page() -> None:
    outcome = harvest('<link rel=stylesheet href="//cdn.example/x.css"><style>@import "y.css";</style>', scope="page")
    sheets = [request for request in outcome.discovered if request.source == SHEET]
    assert [sheet.url for sheet in sheets] == ["http://cdn.example/x.css", "http://a.example/dir/y.css"]
    assert {(sheet.kind, sheet.depth, sheet.nesting, sheet.referrer) for sheet in sheets} == {("part", 0, 1, PAGE)}


def test_pictures_of_a_style_sheet_belong_to_the_page_that_links_it() -> None:
    sheet = part("http://cdn.example/css/x.css", SHEET)
    outcome = harvest("p { background: url(../a.png) } @import 'late.css';", sheet, "text/css")
    (image,) = outcome.discovered
    assert (image.url, image.referrer, image.source, image.depth) == ("http://cdn.example/a.png", PAGE, "css", 0)


def test_a_cycle_of_imported_style_sheets_ends() -> None:
    for nesting in (1, _MAX_NESTING):
        sheet = part(f"{SITE}/{nesting}.css", SHEET, nesting=nesting)
        imported = harvest(f"@import '{nesting + 1}.css';", sheet, "text/css").discovered
        assert [request.nesting for request in imported] == ([] if nesting == _MAX_NESTING else [nesting + 1])


def test_frames_and_feeds_are_parts_if_they_are_in_scope() -> None:
    html = """<iframe src=/frame></iframe><iframe src=//ads.example/></iframe>
              <link rel=alternate type=application/rss+xml href=/feed.xml>
              <link rel=alternate type=application/rss+xml href=//other.example/feed.xml>"""
    assert found(harvest(html), FRAME, FEED) == [f"{SITE}/frame", f"{SITE}/feed.xml"]
    assert found(harvest(html, scope="page"), FRAME, FEED) == [f"{SITE}/frame"]
    assert found(harvest(html, max_depth=0), FRAME, FEED) == [f"{SITE}/frame", f"{SITE}/feed.xml"]


def test_links_of_a_frame_are_one_step_from_its_page() -> None:
    frame = part(f"{SITE}/frame", FRAME, depth=2)
    outcome = harvest("<img src=/i.png><a href=/next>", frame)
    image, link = outcome.discovered
    assert (image.depth, image.referrer) == (2, f"{SITE}/frame")
    assert (link.depth, link.nesting, link.seed) == (3, 0, PAGE)


@pytest.mark.parametrize(
    ("directives", "sources"),
    [("noimageindex", {FRAME, FEED, "a"}), ("nofollow", {SHEET, "img"}), ("none", set[str]())],
)
def test_the_directives_of_a_page_apply_to_its_parts(directives: str, sources: set[str]) -> None:
    html = f"""<meta name=robots content={directives}><link rel=stylesheet href=/x.css><iframe src=/frame></iframe>
               <link rel=alternate type=application/rss+xml href=/feed><img src=/i.png><a href=/next>"""
    assert {request.source for request in harvest(html).discovered} == sources


# --- feeds and sitemaps


def test_linked_feeds_and_sitemaps_are_walked_like_pages() -> None:
    pages = harvest("<a href=/sitemap.xml><a href=/news.rss><a href=/a.atom><a href=/b.zip>").discovered
    assert [(page.kind, page.url, page.depth) for page in pages] == [
        ("page", f"{SITE}/{name}", 1) for name in ("sitemap.xml", "news.rss", "a.atom")
    ]
    assert harvest("<a href=sitemap.xml>", max_depth=0).discovered == ()


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
def test_xml_that_is_no_feed_is_unsupported(body: str) -> None:
    assert harvest(body, part(f"{SITE}/x.xml", FEED), XML).reason == "unsupported-format"


def test_xhtml_with_an_xml_type_is_a_page() -> None:
    text = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body><img src="/x.png"/></body></html>'
    assert found(harvest(text, kind=XML), "img") == [f"{SITE}/x.png"]


# --- filters


def test_patterns_select_pages_and_pictures() -> None:
    html = "<img src=/a.jpg><img src=/b.gif><a href=/x/1><a href=/y/1>"
    outcome = harvest(html, pages=UrlFilter(["/x/*"]), images=UrlFilter(exclude=["*.gif"]))
    assert [request.url for request in outcome.discovered] == [f"{SITE}/a.jpg", f"{SITE}/x/1"]


def test_a_page_is_stored_by_its_key_and_fetched_by_its_url() -> None:
    html = "<a href='/p?utm_source=x&b=1&a=2'><a href='/p?a=2&b=1'><a href='/q?PHPSESSID=1'>"
    first, second = harvest(html).discovered
    assert (first.url, first.location) == (f"{SITE}/p?a=2&b=1", f"{SITE}/p?utm_source=x&b=1&a=2")
    assert second.url == f"{SITE}/q"


def copies(own: str, canonical: str, *links: str, is_seed: bool = False) -> list[str]:
    """Return the pages found on a page with a canonical URL."""
    html = f"<link rel=canonical href='{canonical}'>" + "".join(f"<a href='{link}'>" for link in links)
    url = f"{SITE}{own}"
    request = seed_request(url, "seed") if is_seed else Request(url=url, depth=1, seed=f"{SITE}/", source="a")
    return [found.url.removeprefix(SITE) for found in harvest(html, request).discovered]


def test_a_copy_leads_to_its_original_and_not_to_further_copies() -> None:
    assert copies("/copy?by=price", "/original", "/copy?by=age", "/else") == ["/original", "/else"]
    assert copies("/shop?by=price", "/shop", "/shop?by=age", "/shop?by=age&page=2") == ["/shop", "/shop?by=age&page=2"]


def test_a_seed_is_walked_even_if_its_canonical_url_differs() -> None:
    assert copies("/shop?tag=cats", "/shop", "/shop?page=2&tag=cats", is_seed=True) == ["/shop?page=2&tag=cats"]


def test_a_page_with_an_unwanted_original_is_walked_itself() -> None:
    assert copies("/a", "http://b.example/a", "/a?page=2") == ["/a?page=2"]


def test_the_text_comes_from_the_place_where_the_picture_is_shown() -> None:
    html = """<meta property=og:image content=/a.png><figure><img src=/a.png alt="A boat" width=300>
              <figcaption>Cap</figcaption></figure><img src=/b.png><img src=/b.png alt=B>"""
    first, second = sorted(harvest(html).discovered, key=lambda request: request.url)
    assert (first.source, first.alt, first.caption, first.declared_width) == ("img", "A boat", "Cap", 300)
    assert second.alt == "B"


def test_an_excluded_url_is_not_requested_in_another_way() -> None:
    images, pages = UrlFilter(exclude=["*/no.png"]), UrlFilter(exclude=["/no/*"])
    assert harvest(b"", kind="image/png", images=UrlFilter(exclude=["/dir/*"])).discovered == ()
    (image,) = harvest("<a href=/big.jpg><img src=/no.png></a>", images=images).discovered
    assert (image.url, image.fallback) == (f"{SITE}/big.jpg", "")
    moved = Canned(status=302, headers={"Location": "/no/1"})
    request = Request(url=f"{SITE}/go", depth=1, seed=PAGE, source="a")
    outcome = Harvester(CannedFetcher({request.url: moved}), DiscoveryRules(pages=pages)).handle(request)
    assert outcome.reason == "filtered"


def test_parts_of_a_page_need_not_match_the_include_patterns() -> None:
    outcome = harvest("<link rel=stylesheet href=/x.css><a href=/other>", pages=UrlFilter(["/dir/*"]))
    assert [request.url for request in outcome.discovered] == [f"{SITE}/x.css"]


def test_a_page_at_the_url_of_a_sheet_is_unsupported() -> None:
    assert harvest("<img src=/x.png>", part("http://other.example/x.css", SHEET)).reason == "unsupported-format"


def test_a_long_base_does_not_fill_disk_and_log(caplog: pytest.LogCaptureFixture) -> None:
    html = f"<base href='http://a.example/{'%41' * 2_600}/'>" + "".join(f"<a href={n}>" for n in range(20_000))
    started = process_time()
    with caplog.at_level("INFO", logger="crawler"):
        outcome = harvest(html)
    assert outcome.discovered == () and process_time() - started < 4
    assert sum(len(message) for message in caplog.messages) < 10_000


def test_the_html_of_a_feed_has_the_limits_of_a_page() -> None:
    item = "<item><description><![CDATA[" + "<b>" * 3_000 + "]]></description></item>"
    started = process_time()
    harvest(f"<rss><channel>{item * 200}</channel></rss>", part(f"{SITE}/feed", FEED), "application/rss+xml")
    assert process_time() - started < 4


def test_a_thumbnail_is_the_fallback_of_its_link_target() -> None:
    (image,) = harvest("<a href=/big.jpg><img src=/small.jpg srcset='/medium.jpg 300w'></a>").discovered
    assert (image.url, image.fallback) == (f"{SITE}/big.jpg", f"{SITE}/medium.jpg")


def test_a_page_about_a_picture_is_a_page() -> None:
    image, page = harvest("<a href=/wiki/File:Boat.jpg><img src=/boat.png></a>").discovered
    assert (page.kind, page.url) == ("page", f"{SITE}/wiki/File:Boat.jpg")
    assert (image.url, image.fallback) == (f"{SITE}/boat.png", "")


def test_spacers_and_identifiers_are_not_pictures() -> None:
    html = """<img src=/dot.gif width=1 height=1>
      <script type=application/ld+json>{"image": {"@id": "http://a.example/#logo"}}</script>"""
    assert harvest(html).discovered == ()


# --- traps


def test_links_into_traps_are_not_followed() -> None:
    html = "<a href=/a/b/a/b/a/b><a href='/cal?year=9999&month=1'><a href=/fine>"
    assert found(harvest(html), "a") == [f"{SITE}/fine"]


def calendar(days: Iterable[int]) -> dict[str, Canned]:
    """Return pages that only lead to the next day."""
    body = "<a href='/day?date=2020-01-{:02}&n={}'>"
    return {
        f"{SITE}/day?date=2020-01-01&n={n}": Canned(
            headers={"Content-Type": "text/html"}, body=body.format(1, n + 1).encode()
        )
        for n in days
    }


def test_pages_that_keep_bringing_nothing_are_reported_and_skipped() -> None:
    harvester = Harvester(CannedFetcher(calendar(range(150))))
    urls = [f"{SITE}/day?date=2020-01-01&n={n}" for n in range(150)]
    outcomes = [harvester.handle(Request(url=url, depth=3, seed=PAGE, source="a")) for url in urls]
    assert [outcome.reason for outcome in outcomes] == [""] * 100 + ["trap"] * 50
    assert outcomes[0].discovered and not outcomes[100].discovered
