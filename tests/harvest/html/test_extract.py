"""extract: the references of a page, resolved and grouped, with the surrounding text, for any bytes."""

import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crawler
from crawler.errors import ConfigError
from crawler.harvest.html import extract as extraction
from crawler.harvest.html.extract import Parser, extract
from crawler.harvest.html.text_spans import MAX_TEXT
from crawler.harvest.page import Image, Page
from crawler.urls import MAX_URL_LENGTH, resolve
from tests.harvest.readers import PARSERS, read

URL = "http://a.example/dir/page.html"


def page(html: bytes | str, content_type: str | None = None) -> Page:
    return read(html, URL, content_type)


def paths(html: bytes | str) -> list[str]:
    return [image.url.removeprefix("http://a.example") for image in page(html).images]


def only(html: str) -> Image:
    (image,) = page(html).images
    return image


# --- URLs


def test_urls_are_resolved_against_the_page() -> None:
    assert paths("<img src=a.jpg><img src=/b.jpg><img src=//c.example/d.jpg>") == [
        "/dir/a.jpg",
        "/b.jpg",
        "http://c.example/d.jpg",
    ]


@pytest.mark.parametrize(
    ("head", "base"),
    [
        ("<base href=/x/>", "http://a.example/x/"),
        ("<base href=/x/><base href=/y/>", "http://a.example/x/"),
        ("<base target=_top><base href=/y/>", "http://a.example/y/"),
        ("<base href=https://b.example>", "https://b.example/"),
        ("<base href=''>", URL),
        ("<head><noscript><base href=/x/></noscript></head>", URL),
        ("<noscript><link rel=icon><base href=/x/></noscript><base href=/y/>", "http://a.example/y/"),
        ("<svg><base href=/x/></base></svg>", URL),
        ("<svg><g><base href=/x/></g></svg><base href=/y/>", "http://a.example/y/"),
        ("<noscript></noscript><svg></svg><base href=/y/>", "http://a.example/y/"),
        ("<base href='javascript:x'>", URL),
        ("<base href='data:,x'>", URL),
        ("<base href='http://[broken'>", URL),
        (f"<base href='/{'x' * MAX_URL_LENGTH}/'>", URL),
    ],
)
def test_the_first_base_with_an_address_counts(head: str, base: str) -> None:
    found = page(f"{head}<img src=a.jpg><a href=b>")
    assert found.base == base
    assert ([found.images[0].url], found.links) == ([resolve(base, "a.jpg")], (resolve(base, "b"),))


def test_a_base_after_the_images_applies_to_them_too() -> None:
    assert paths("<img src=a.jpg><base href=/x/>") == ["/x/a.jpg"]


@pytest.mark.parametrize("src", ["data:image/gif,R0lG", "blob:x", "javascript:x", "ftp://a/b.jpg", "http://["])
def test_references_that_are_not_http_are_dropped(src: str) -> None:
    found = page(f"<img src='{src}' srcset='{src} 2x' data-src='{src}'><video poster='{src}'><a href='{src}'>")
    assert (found.images, found.links) == ((), ())


@pytest.mark.parametrize("attribute", ["src", "src=''", "src=' '", "srcset=', '", "data-src=''"])
def test_an_empty_attribute_names_no_image(attribute: str) -> None:
    assert paths(f"<img {attribute}>") == []


def test_an_overlong_url_is_dropped() -> None:
    assert paths(f"<img src={'a' * (MAX_URL_LENGTH + 1)}><img src={'é' * MAX_URL_LENGTH}><img src=b>") == ["/dir/b"]


def test_a_query_is_encoded_in_the_charset_of_the_page() -> None:
    found = page("<img src='é?é'>".encode("cp1252"), "text/html; charset=latin1")
    assert found.images[0].url == "http://a.example/dir/%C3%A9?%E9"


def test_a_fragment_is_kept_unchanged() -> None:
    assert page("<a href='#x'><img src=a.svg#y>").links == (f"{URL}#x",)


# --- surrounding text


def test_the_text_around_an_image_is_kept() -> None:
    caption = "<figcaption>The <b>cat</b><!-- no -->\n sleeps</figcaption>"
    image = only(f"<figure><img src=a alt=' A\n big  cat ' title=Cat>{caption}</figure>")
    assert (image.alt, image.title, image.caption) == ("A big cat", "Cat", "The cat sleeps")


def test_a_caption_belongs_to_its_nearest_figure_only() -> None:
    html = """<figure><figcaption>outer</figcaption><img src=1>
        <figure><img src=2><figcaption>inner</figcaption></figure><img src=3></figure><img src=4>"""
    assert [image.caption for image in page(html).images] == ["outer", "inner", "outer", ""]


def test_a_figure_has_one_caption() -> None:
    html = "<figure><img src=1><figcaption>one</figcaption><figcaption>two</figcaption></figure>"
    assert only(html).caption == "one"


def test_a_caption_without_a_figure_is_ignored() -> None:
    assert only("<figcaption>lost</figcaption><img src=1>").caption == ""


def test_the_text_of_separate_elements_is_separated() -> None:
    assert (
        only("<figure><img src=1><figcaption>one <b> two</b>\nthree</figcaption></figure>").caption == "one two three"
    )


def test_texts_are_capped() -> None:
    words = "word " * 1_000_000
    found = page(f"<title>{words}</title><figure><img src=1 alt='{words}'><figcaption>{words}</figcaption></figure>")
    (image,) = found.images
    assert {len(text) for text in (found.title, image.alt, image.caption)} == {MAX_TEXT - 1}  # ends in a blank


def test_the_title_is_that_of_the_page() -> None:
    assert page("<svg><title>icon</title></svg><title> A \n page </title><title>other</title>").title == "A page"


# --- groups


def groups(html: str) -> list[list[str]]:
    found: dict[int, list[str]] = {}
    for image in page(html).images:
        found.setdefault(image.group, []).append(image.url.rpartition("/")[2])
    return list(found.values())


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        pytest.param("<img src=1><img src=1>", [["1"], ["1"]], id="two images"),
        pytest.param("<img src=1 srcset='2 2x, 3 3x'>", [["2", "3", "1"]], id="srcset"),
        pytest.param(
            "<picture><source srcset='1 1x, 2 2x'><source srcset=3><img src=4></picture><img src=5>",
            [["1", "2", "3", "4"], ["5"]],
            id="picture",
        ),
        pytest.param("<picture><source srcset=1><p><img src=2></p></picture>", [["1", "2"]], id="img deeper"),
        pytest.param("<picture><source srcset=1><img src=2><img src=3>", [["1", "2"], ["3"]], id="never closed"),
        pytest.param("<img src=1 data-src=/2 data-srcset='/3 2x'>", [["1", "2", "3"]], id="lazy"),
        pytest.param("<div data-bg=1.jpg data-other=2.jpg></div>", [["1.jpg"], ["2.jpg"]], id="a box"),
        pytest.param(
            "<div data-bg-multi='url(1.jpg),url(2.jpg)' data-x=3.jpg></div>",
            [["1.jpg"], ["2.jpg"], ["3.jpg"]],
            id="layers",
        ),
        pytest.param(
            "<div data-bg-set=\"image-set('1.jpg' 1x, '2.jpg' 2x), url(3.jpg)\" data-x=4.jpg></div>",
            [["1.jpg", "2.jpg"], ["3.jpg"], ["4.jpg"]],
            id="layers of candidates",
        ),
        pytest.param("<a href=1.jpg><img src=2.jpg></a>", [["1.jpg", "2.jpg"]], id="thumbnail"),
        pytest.param("<link rel=icon href=1><link rel=icon href=2>", [["1"], ["2"]], id="icons"),
    ],
)
def test_candidates_for_one_picture_share_a_group(html: str, expected: list[list[str]]) -> None:
    assert groups(html) == expected


def test_groups_are_numbered_in_document_order() -> None:
    found = page("<img src=1><picture><img src=2><img src=3></picture><p data-x=4.jpg data-y=5.jpg><img src=6>")
    assert [image.group for image in found.images] == [0, 1, 2, 3, 4, 5]


# --- links


def test_links_are_returned_once_in_document_order() -> None:
    html = "<a href=/b>x</a><area href=/a><a href=/b#x><a name=x><a href=/b><link href=/no><form action=/no>"
    assert page(html).links == ("http://a.example/b", "http://a.example/a", "http://a.example/b#x")


def test_a_link_is_nofollow_only_if_all_its_occurrences_are() -> None:
    found = page("<a href=/a rel='external NoFollow'><a href=/b rel=nofollow><a href=/b><a href=/c rel=author>")
    assert found.nofollow == {"http://a.example/a"}
    assert len(found.links) == 3


def test_an_empty_link_leads_to_the_page_itself() -> None:
    assert page("<a href>").links == (URL,)


# --- directives


def test_directives_of_all_meta_elements_are_collected() -> None:
    html = """<meta name=robots content="NOINDEX, follow"><meta name=imgcrawler content=noai>
        <meta property=robots content=nofollow><meta name=description content="none of it"><meta name=robots>"""
    assert page(html).directives == {"noindex", "follow", "imgcrawler:noai", "description:none"}


# --- limits


def test_urls_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "MAX_URLS", 5)
    pairs = [f"<a href=/{number}><img src={number}>" for number in range(4)]
    found = page("".join(pairs[:3]))
    assert found.truncated
    assert (len(found.images), len(found.links)) == (3, 2)  # pictures first
    assert not page("".join(pairs[:2] * 2)).truncated


#: Makes a hostile page of about that number of characters.
Hostile = Callable[[int], str]


def filled(piece: str, before: str = "", after: str = "") -> Hostile:
    return lambda length: before + piece * (length // len(piece)) + after


def _many_attributes(length: int) -> str:
    return "<img " + " ".join(f"data-a{n}=b{n}.jpg" for n in range(length // 20)) + ">"


@pytest.mark.parametrize(
    "hostile",
    [
        *(
            pytest.param(filled(piece), id=piece)
            for piece in (
                *("<a ", "<a href=x>t<img src=y>", "<", "<b>x</i>", "<svg><title>", "<body x background"),
                *("<p style='background:url(a)'>", "<style>a{background:url(x)}</style>"),
                *("<iframe srcdoc='<img src=a>'></iframe>", '<script type=application/ld+json>{"image":"/a"}</script>'),
            )
        ),
        pytest.param(
            lambda length: "<figure><figcaption>" * (length // 100) + "<img src=a>" * (length // 100),
            id="captions in captions",
        ),
        pytest.param(filled("<picture>", after="<img src=a>"), id="nesting"),
        pytest.param(filled("a 1x, ", "<img srcset='", "'>"), id="srcset"),
        pytest.param(filled("a 1x, ", "<img data-srcset='", "'>"), id="lazy srcset"),
        pytest.param(filled("a ", "<img ", ">"), id="one attribute"),
        pytest.param(_many_attributes, id="attributes"),
        pytest.param(filled("a{background:url(x)}", "<style>", "</style>"), id="sheet"),
        pytest.param(filled("<img src=a>", "<iframe srcdoc='", "'>"), id="document in an attribute"),
        pytest.param(filled("<img src=a{}>", f"<base href='/{'b/' * 4_000}'>"), id="a long base"),
        pytest.param(filled("x,", "<meta name=robots content='", "'>"), id="directives"),
        pytest.param(filled("x ", "<a rel='", "' href=a>"), id="relations"),
    ],
)
def test_a_hostile_page_is_read_in_time(hostile: Hostile, scale: int) -> None:
    html = hostile(scale * 2**17)
    begin = time.process_time()
    found = extract(html, URL)
    assert len({image.url for image in found.images}) + len(found.links) <= extraction.MAX_URLS
    assert len(found.images) <= 2 * extraction.MAX_URLS
    assert time.process_time() - begin < 5 * scale  # a tenth of that, or less, on an idle machine


_PIECES = """<img src= srcset=' data-src=" <picture> <source <base href= <a rel=nofollow </a> > ' " = a.jpg // http: ?é
# <meta name=robots content= <figure> <figcaption> </figure> <svg> <title> <!-- --> <![CDATA[ ]]> <?xml &amp; &#0;
&#xD800; <script> <style> <template> <noscript> <table> <plaintext> </ <  style=background:url( itemprop=image </style>
<iframe srcdoc=' <link rel=license <body background=x <section> <h1> <frameset> </template> <select> <image itemscope"""
_MARKUP = st.lists(st.sampled_from([*_PIECES.split(), " ", "\0", "\ud800", "\n", "1x, "])).map("".join)


@given(
    base=st.sampled_from(
        [URL, "https://a.example/b/c.html?d=/e", "http://u:p@a.example:8080/x//y", "http://[::1]/z", "x"]
    ),
    start=st.sampled_from(
        ["", "/", "//", "/\\", "\\", " /", "http://", "https://", "http:", "https:/", "HTTP://", "?", "#"]
    ),
    rest=st.text(st.sampled_from("abx./:@?#%\\[]1 \té")),
)
def test_a_remembered_reference_is_resolved_like_any_other(base: str, start: str, rest: str) -> None:
    assert extraction._Resolver(base, None, "utf-8")(start + rest) == resolve(base, start + rest)


@pytest.mark.parametrize("parser", PARSERS)
@given(html=_MARKUP)
def test_any_markup_is_read_without_an_exception(parser: Parser, html: str) -> None:
    found = extract(html, URL, parser=parser)
    assert all(image.url.startswith("http") for image in found.images)
    assert found.nofollow <= set(found.links)


@pytest.mark.parametrize("parser", PARSERS)
@given(st.binary(), st.none() | st.text(), st.text(), st.text())
def test_any_bytes_from_anywhere_are_read_without_an_exception(
    parser: Parser, html: bytes, content_type: str | None, url: str, link: str
) -> None:
    assert isinstance(extract(html, url, content_type, parser=parser, link=link), Page)
    assert isinstance(extract(b"<img src=a><base href=b>" + html, url, content_type, parser=parser), Page)


# --- parsers


def test_an_unknown_parser_is_named() -> None:
    with pytest.raises(ConfigError, match="'html5lib'"):
        extract("", URL, parser="html5lib")  # type: ignore[arg-type]


def test_a_missing_parser_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "crawler.harvest.html.lexbor_parser", raising=False)
    monkeypatch.setitem(sys.modules, "selectolax.lexbor", None)
    with pytest.raises(ConfigError, match=r"pip install imgcrawler\[fast\]"):
        extract("", URL, parser="lexbor")


def test_extract_is_a_public_function() -> None:
    assert crawler.extract is extract


def test_every_candidate_of_a_picture_has_the_text_of_its_img() -> None:
    page = extract('<picture><source srcset="a.avif 800w"><img src="a.jpg" alt="A boat" title="Bay"></picture>', URL)
    assert {(image.alt, image.title) for image in page.images} == {("A boat", "Bay")}
