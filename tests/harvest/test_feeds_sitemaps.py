"""Feeds and sitemaps: the references of each kind, their descriptions, and broken or hostile files."""

import gzip
import subprocess
import sys
from html import escape
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.harvest import feeds_sitemaps
from crawler.harvest.feeds_sitemaps import MAX_FRAGMENT, MAX_FRAGMENTS, MAX_URLS, Feed, FeedImage, Fragment, read_xml
from crawler.urls import MAX_URL_LENGTH, resolve

URL = "http://a.example/dir/feed.xml"
RSS = (
    '<?xml version="1.0"?><rss version="2.0" xmlns:media="http://search.yahoo.com/mrss/"'
    ' xmlns:itunes="http://www.itunes.com/dtds/podcast-1.0.dtd"'
    ' xmlns:content="http://purl.org/rss/1.0/modules/content/"><channel>'
)
ATOM = '<feed xmlns="http://www.w3.org/2005/Atom">'
SITEMAP = (
    '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
    ' xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">'
)
INDEX = '<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'


def read(text: str | bytes, content_type: str = "") -> Feed:
    feed = read_xml(text.encode() if isinstance(text, str) else text, URL, content_type)
    assert feed is not None
    return feed


def item(text: str) -> Feed:
    return read(f"{RSS}<item>{text}</item></channel></rss>")


def entry(text: str) -> Feed:
    return read(f"{ATOM}<entry>{text}</entry></feed>")


def named(feed: Feed) -> list[tuple[str, str]]:
    return [(image.source, image.url.removeprefix("http://a.example/dir/")) for image in feed.images]


# --- feeds: pictures


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<enclosure url='1' type='image/png'/>", [("enclosure", "1")]),
        ("<enclosure url='1.jpg'/>", [("enclosure", "1.jpg")]),
        ("<enclosure url='1.jpg' type='application/octet-stream'/>", [("enclosure", "1.jpg")]),
        ("<enclosure url='1.mp3' type='audio/mpeg'/><enclosure url='1.jpg' type='video/mp4'/>", []),
        ("<enclosure type='image/png'/><enclosure url='' type='image/png'/>", []),
        ("<media:content url='1' medium='image'/>", [("media:content", "1")]),
        ("<media:content url='1.jpg'/>", [("media:content", "1.jpg")]),
        ("<media:content url='1.jpg' medium='video'/>", []),
        ("<media:content url='1.mp4'><media:thumbnail url='2'/></media:content>", [("media:thumbnail", "2")]),
        ("<media:group><media:content url='1' type='image/png'/></media:group>", [("media:content", "1")]),
        ("<itunes:image href='1'/>", [("itunes:image", "1")]),
        ("<image><url>1</url></image>", [("image", "1")]),
        ("<image>1</image>", [("image", "1")]),
        ("<enclosure url='1.jpg'/><itunes:image href='1.jpg'/>", [("enclosure", "1.jpg")]),
    ],
)
def test_items_name_pictures(text: str, expected: list[tuple[str, str]]) -> None:
    assert named(item(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<link rel='enclosure' type='image/png' href='1'/>", [("enclosure", "1")]),
        ("<link rel='enclosure' type='audio/mpeg' href='1'/><link href='1.jpg'/>", []),
        ("<content type='image/png' src='1'/>", [("content", "1")]),
    ],
)
def test_entries_name_pictures(text: str, expected: list[tuple[str, str]]) -> None:
    assert named(entry(text)) == expected


def test_a_feed_can_name_pictures_itself() -> None:
    text = "<title>x</title><link>/</link><image><url>1</url><title>Logo</title></image><itunes:image href='2'/>"
    assert read(f"{RSS}{text}</channel></rss>").images == (
        FeedImage(url="http://a.example/dir/1", page_url="http://a.example/", title="Logo", source="image"),
        FeedImage(url="http://a.example/dir/2", page_url="http://a.example/", source="itunes:image"),
    )
    assert named(read(f"{ATOM}<logo>1</logo><icon>2</icon></feed>")) == [("logo", "1"), ("icon", "2")]


def test_rss_1_has_its_items_beside_the_channel() -> None:
    feed = read(
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/">'
        "<channel><link>/</link><image rdf:resource='x'/></channel><image><url>1</url></image>"
        "<item><link>/2</link></item></rdf:RDF>"
    )
    assert (feed.kind, named(feed), feed.pages) == ("rss", [("image", "1")], ("http://a.example/2",))
    assert feed.images[0].page_url == "http://a.example/"


def test_prefixes_need_not_be_declared() -> None:
    feed = read("<rss><channel><item><media:thumbnail url='1'/><content:encoded>&lt;p&gt;</content:encoded></item>")
    assert (named(feed), len(feed.fragments)) == ([("media:thumbnail", "1")], 1)


# --- feeds: text


def test_the_text_around_a_picture_is_kept() -> None:
    feed = item(
        "<title>Cats &amp;amp; dogs</title><link>/1</link><media:content url='a' medium='image'>"
        "<media:title>Cat</media:title><media:description>Black,\n white</media:description>"
        "<media:license href='/free'>Free</media:license></media:content><enclosure url='b.jpg'/>"
    )
    page = "http://a.example/1"
    assert [(image.title, image.caption, image.license, image.page_url) for image in feed.images] == [
        ("Cat", "Black, white", "Free", page),
        ("Cats & dogs", "", "", page),
    ]


def test_texts_are_capped() -> None:
    (image,) = item(f"<title>{'x ' * 10_000}</title><enclosure url='1.jpg'/>").images
    assert len(image.title) <= 1_000


# --- feeds: pages and HTML


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("<link>/1</link>", ("/1",)),
        ("<link> <![CDATA[/1?a=b&c=d]]> </link>", ("/1?a=b&c=d",)),
        ("<link>/1?a=b&c=d&amp;e=f</link>", ("/1?a=b&c=d&e=f",)),
        ("<atom:link xmlns:atom='http://www.w3.org/2005/Atom' rel='self' href='/2'/><link>/1</link>", ("/1",)),
        ("<guid>http://a.example/1</guid>", ("/1",)),
        ("<guid>http://a.example/2</guid><link>/1</link>", ("/1",)),
        ("<guid isPermaLink='false'>http://a.example/1</guid>", ()),
        ("<guid>1</guid><link/>", ()),
        ("<link>mailto:a@b.example</link>", ()),
        (f"<link>/{'x' * MAX_URL_LENGTH}</link>", ()),
    ],
)
def test_items_lead_to_pages(text: str, pages: tuple[str, ...]) -> None:
    assert item(text).pages == tuple(f"http://a.example{page}" for page in pages)


def test_entries_lead_to_pages() -> None:
    feed = entry("<link rel='self' href='/0'/><link rel='alternate' href='/1'/><link href='/2'/>")
    assert feed.pages == ("http://a.example/1",)


def test_html_is_returned_with_the_url_of_its_page() -> None:
    feed = item(
        "<link>/1</link><description>&lt;img src=a&gt;</description><description>Just words &amp; more</description>"
        "<content:encoded><![CDATA[<img src='b'>]]></content:encoded>"
    )
    page = "http://a.example/1"
    assert feed.fragments == (Fragment("<img src=a>", page), Fragment("<img src='b'>", page))


@pytest.mark.parametrize("prefix", ["", "x:"])
def test_xhtml_content_is_returned_as_html(prefix: str) -> None:
    name = f"xmlns{':' * bool(prefix)}{prefix[:-1]}"
    markup = f"<{prefix}div {name}='http://www.w3.org/1999/xhtml'>a<{prefix}br/><{prefix}img src='b'/></{prefix}div>"
    (fragment,) = entry(f"<content type='xhtml'>{markup}</content><summary type='text'>&lt;p&gt;</summary>").fragments
    assert '<div>a<br></br><img src="b"></img></div>' in fragment.html
    assert fragment.url == URL


def test_unescaped_html_is_html_too() -> None:
    (fragment,) = item("<description>a <b>b</b><img src='c'></description>").fragments
    assert '>a <b>b</b><img src="c">' in fragment.html


def test_urls_are_resolved_against_the_nearest_base() -> None:
    feed = read(
        f"{ATOM[:-1]} xml:base='http://b.example/x/'><logo>1</logo><entry xml:base='y/'><link href='2'/>"
        "<content type='html' xml:base='z/'>&lt;p&gt;</content></entry><entry><link href='3'/></entry></feed>"
    )
    assert feed.images[0].url == "http://b.example/x/1"
    assert feed.pages == ("http://b.example/x/y/2", "http://b.example/x/3")
    assert feed.fragments[0].url == "http://b.example/x/y/z/"


# --- sitemaps


def test_a_sitemap_names_pages_and_their_pictures() -> None:
    feed = read(
        f"{SITEMAP}<url><loc> http://a.example/1 </loc><image:image><image:loc>/1.jpg</image:loc>"
        "<image:title>T</image:title><image:caption>C</image:caption><image:license>/free</image:license></image:image><image:image/></url></urlset>"
    )
    words = {"title": "T", "caption": "C", "license": "/free", "source": "image:loc"}
    image = FeedImage(url="http://a.example/1.jpg", page_url="http://a.example/1", **words)
    assert feed == Feed(kind="sitemap", pages=("http://a.example/1",), images=(image,))


def test_an_index_names_sitemaps() -> None:
    feed = read(
        f"{INDEX}<sitemap><loc>/1.xml</loc></sitemap><sitemap/><sitemap><loc>/1.xml</loc></sitemap></sitemapindex>"
    )
    assert feed == Feed(kind="sitemapindex", sitemaps=("http://a.example/1.xml",))


def test_a_wrong_sitemap_namespace_is_accepted() -> None:
    assert read("<urlset xmlns='x'><url><loc>/1</loc></url></urlset>").pages == ("http://a.example/1",)
    assert read("<s:urlset xmlns:s='x'><s:url><s:loc>/1</s:loc></s:url></s:urlset>").pages == ("http://a.example/1",)


def test_sitemaps_may_be_compressed() -> None:
    sitemap = gzip.compress(f"{SITEMAP}<url><loc>/1</loc></url></urlset>".encode())
    assert read(sitemap).pages == ("http://a.example/1",)
    assert read(sitemap[:-10]).pages in ((), ("http://a.example/1",))


def test_sitemaps_may_be_plain_text() -> None:
    feed = read("http://a.example/1\r\n\nhttps://b.example/2\nhttp://a.example/1", "text/plain; charset=utf-8")
    assert feed == Feed(kind="sitemap", pages=("http://a.example/1", "https://b.example/2"))


@pytest.mark.parametrize(
    "text", ["", "User-agent: *\nSitemap: http://a.example/", "http://a.example/1\nwords", "\x1f\x8bx"]
)
def test_other_text_is_not_a_sitemap(text: str) -> None:
    assert read_xml(text.encode("latin-1"), URL, "text/plain") is None


# --- broken files


@pytest.mark.parametrize(
    "data", [b"", b" ", b"{}", b"words", b"<html><item/></html>", b"<?xml?>", b"<", b"\0", b"\x1f\x8b"]
)
def test_other_files_are_neither_feed_nor_sitemap(data: bytes) -> None:
    assert read_xml(data, URL) is None


@pytest.mark.parametrize(
    "text",
    [
        "\n\n<rss><channel><item><link>/1</link></item>",
        "<rss><channel><item><title>a & b</title><link>/1?a&amp;b</link></item><item>",
        "<rss><channel><item><title>&nbsp;&unknown;\x01</title><link>/1</link></item></rss>",
        "<rss><channel><item><link>/1</link></item></channel></rss> and more",
        "<rss><channel><item><link>/1</link><title>a",
        "<RSS><Channel><Item><Link>/1</Link></Item></Channel></RSS>",
    ],
)
def test_small_errors_are_repaired(text: str) -> None:
    assert read(text).pages[0].startswith("http://a.example/1")


def test_a_missing_end_tag_costs_at_most_its_entry() -> None:
    text = "<item><link>/{0}</link><description>a<br>b</description><enclosure url='{0}.jpg'/></item>"
    feed = read(f"<rss><channel>{''.join(map(text.format, range(3)))}</channel></rss>")
    assert feed.pages == ("http://a.example/0", "http://a.example/1", "http://a.example/2")
    assert [(image.url, image.page_url) for image in feed.images] == [
        (f"http://a.example/dir/{page[-1]}.jpg", page) for page in feed.pages
    ]
    assert all(fragment.html.count("<br>") == 1 for fragment in feed.fragments)


@pytest.mark.parametrize(("encoding", "content_type"), [("gbk", ""), ("utf-16", ""), ("gbk", "text/xml; charset=gbk")])
def test_text_is_read_in_the_encoding_of_the_file(encoding: str, content_type: str) -> None:
    head = "" if content_type else f'<?xml version="1.0" encoding="{encoding}"?>'
    feed = read(
        f"{head}<rss><channel><item><title>猫</title><enclosure url='1.jpg'/></item>".encode(encoding), content_type
    )
    assert feed.images[0].title == "猫"


# --- hostile files


_ENTITIES = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 10))


def test_entities_are_never_expanded() -> None:
    started = process_time()
    title = "<title>&e9;</title><enclosure url='&e9;.jpg'/>"
    feed = read(
        f"<!DOCTYPE rss [<!ENTITY e0 'lol'>{_ENTITIES}]><rss><channel><item>{title * 1_000}</item></channel></rss>"
    )
    assert "lol" not in str(feed)
    assert process_time() - started < 4


@pytest.mark.parametrize("outside", ["'file:///etc/hostname'", "'http://127.0.0.1:9/'"])
def test_no_external_resource_is_fetched(outside: str) -> None:
    declared = f"<!DOCTYPE rss SYSTEM {outside} [<!ENTITY x SYSTEM {outside}><!ENTITY % y SYSTEM {outside}>%y;]>"
    feed = read(f"{declared}<rss><channel><item><title>a&x;b</title><enclosure url='1.jpg'/></item></channel></rss>")
    assert [image.title for image in feed.images] == ["a&x;b"]


def test_urls_are_capped() -> None:
    feed = read(SITEMAP + "".join(f"<url><loc>/{number}</loc></url>" for number in range(MAX_URLS + 1)))
    assert (len(feed.pages), feed.truncated) == (MAX_URLS, True)
    feed = read("\n".join(f"http://a.example/{number}" for number in range(MAX_URLS + 1)), "text/plain")
    assert (len(feed.pages), feed.truncated) == (MAX_URLS, True)


def test_html_is_capped() -> None:
    feed = read(RSS + "".join(f"<item><description>&lt;{n}></description></item>" for n in range(MAX_FRAGMENTS + 1)))
    assert (len(feed.fragments), feed.truncated) == (MAX_FRAGMENTS, True)
    feed = item(f"<description>&lt;{'p' * MAX_FRAGMENT}</description><description>&lt;p></description>")
    assert (len(feed.fragments), feed.truncated) == (1, True)


@pytest.mark.parametrize("limit", ["MAX_ELEMENTS", "MAX_ENTRY_ELEMENTS", "_MAX_ENTRIES", "_MAX_TAG", "_MAX_SILENCE"])
def test_every_limit_is_reported_as_truncated(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{RSS}{'<item><b/><b/><b/><b/><b/></item>' * 10}</channel></rss>"
    assert not read(text).truncated
    monkeypatch.setattr(feeds_sitemaps, limit, 3)
    feeds_sitemaps._name.cache_clear()
    assert read(text + " " * 100_000).truncated


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "<",
            "<a>",
            "<a/>",
            "<item/>",
            "<item><link>a</link></item>",
            "<enclosure url='a.jpg'/>",
            "&",
            "&amp;",
            "&a;",
        ),
        *(
            "\x01",
            "a\x01",
            "\xff",
            "<!---->",
            "<!--",
            "<![CDATA[",
            "<![CDATA[<p>]]>",
            "<?x ?>",
            "]]>",
            "</item>",
            "<:a/>",
        ),
        *(
            "<a b='",
            "<a xmlns='b'>",
            "<a b='>' c='>'",
            "a='b' ",
            "<description><b>x</b></description>",
            "<!ENTITY % a 'b'>%a;",
        ),
    ],
)
@pytest.mark.parametrize(
    "start", ["", "<rss><channel>", "<rss><channel><item><description>", "<urlset><a ", "<!DOCTYPE rss ["]
)
def test_hostile_files_cost_linear_time(start: str, piece: str, scale: int) -> None:
    started = process_time()
    read_xml((start + piece * (scale * 2**14 // len(piece))).encode(), URL)
    assert process_time() - started < 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not report the peak memory")
@pytest.mark.parametrize(
    "piece",
    [
        "<item><title>x</title></item>",
        *(pytest.param(each, marks=pytest.mark.fire) for each in ("<a b='", "<a b='>' ", "<item>&amp;", "<a><b>")),
    ],
)
def test_memory_stays_constant(piece: str) -> None:
    code = (
        "import resource, gzip; from crawler.harvest.feeds_sitemaps import read_xml\n"
        f"data = gzip.compress(b'<rss><channel>' + b\"{piece}\" * (40 * 2**20 // {len(piece)}))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_xml(data, 'http://a.example/')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB here
    assert int(ran.stdout) * unit < 50 * 2**20


_NAMES = [
    "rss",
    "channel",
    "item",
    "urlset",
    "url",
    "loc",
    "feed",
    "entry",
    "link",
    "title",
    "image",
    "description",
    "a",
]
_XML = st.lists(
    st.sampled_from([f"<{name}>" for name in _NAMES])
    | st.sampled_from([f"</{name}>" for name in _NAMES])
    | st.sampled_from(
        ["<enclosure url='a.jpg'/>", "<media:content url='/b' medium='image'/>", "&amp;", "<![CDATA[", "]]>", "c"]
    )
    | st.text(max_size=3)
).map("".join)


@given(st.binary() | _XML.map(lambda text: f"<rss><channel>{text}".encode()) | _XML.map(str.encode), st.text())
def test_any_bytes_are_read_without_an_exception(data: bytes, content_type: str) -> None:
    for feed in (
        read_xml(data, URL, content_type),
        read_xml(gzip.compress(data), URL),
        read_xml(data, "", "text/plain"),
    ):
        for url in [*feed.pages, *feed.sitemaps, *[image.url for image in feed.images]] if feed else ():
            assert resolve(None, url) == url


@given(
    st.lists(st.from_regex(r"/[a-zé&<>'\"?=;]{1,9}", fullmatch=True), unique_by=lambda path: resolve(URL, path)),
    st.booleans(),
)
def test_a_written_feed_is_read_back(paths: list[str], faulty: bool) -> None:
    items = "".join(f"<item><link>{escape(path)}</link><enclosure url='{escape(path)}.png'/></item>" for path in paths)
    feed = read(f"<rss><channel>{'<b>&</c>' * faulty}{items}</channel></rss>")
    assert feed.pages == tuple(resolve(URL, path) for path in paths)
