"""The text around an image, and the properties of a page: both depend on the position of elements."""

import pytest

from crawler.harvest.html.extract import extract
from crawler.harvest.page import Image, Page
from tests.harvest.readers import read

URL = "http://a.example/"


def only(html: str) -> Image:
    (image,) = read(html).images
    return image


def images(page: Page) -> list[str]:
    return [image.url.removeprefix(URL) for image in page.images]


# --- the link and the heading


def test_the_text_of_a_link_belongs_to_its_image() -> None:
    image = only("<p>no</p><a href=/x> See\n<img src=1> <b>more</b></a> no")
    assert image.link_text == "See more"


def test_an_image_beside_a_link_has_none_of_its_text() -> None:
    assert only("<a href=/x>x</a><img src=1><a>no address</a>").link_text == ""


def test_the_text_of_separate_blocks_is_separated() -> None:
    assert only("<a href=/x><div>one</div><div>two</div>three<br>four<img src=1></a>").link_text == "one two three four"


@pytest.mark.parametrize(
    ("html", "heading"),
    [
        pytest.param("<h1>a</h1><h3>b <i>c</i></h3><img src=1>", "b c", id="the nearest before"),
        pytest.param("<img src=1><h1>a</h1>", "", id="none after"),
        pytest.param("<h2>a <img src=1> b</h2>", "a b", id="within"),
        pytest.param("<a href=/x><h2>a</h2></a><img src=1>", "a", id="in a link"),
        pytest.param("<h1>a</h1><section><h2>b</h2></section><img src=1>", "a", id="a section has ended"),
        pytest.param("<h1>a</h1><article><img src=1><h2>b</h2></article>", "a", id="a section without one yet"),
        pytest.param("<nav><h1>a</h1></nav><aside><img src=1></aside>", "", id="another section"),
    ],
)
def test_the_heading_of_an_image_is_the_nearest_before_it(html: str, heading: str) -> None:
    assert only(html).heading == heading


# --- sizes


@pytest.mark.parametrize(
    ("attributes", "sizes"),
    [
        ("width=300 height=' 200px'", (300, 200)),
        ("width=+0300.9", (300, None)),
        ("width=50% height=auto", (None, None)),
        ("width='' height=-1", (None, None)),
        ("width=3em height=99999999999999999999", (None, None)),
    ],
)
def test_sizes_are_read(attributes: str, sizes: tuple[int | None, int | None]) -> None:
    image = only(f"<img src=1 {attributes}>")
    assert (image.declared_width, image.declared_height) == sizes


def test_the_width_of_an_element_is_not_that_of_its_background() -> None:
    assert only("<table background=1 width=300></table>").declared_width is None


@pytest.mark.parametrize("size", ["width=1 height=1", "width=0", "height=1"])
def test_an_image_with_a_declared_size_of_one_pixel_is_a_tracking_pixel(size: str) -> None:
    assert only(f"<img src=1 {size}>").is_pixel
    assert not only(f"<img data-src=/1 {size}>").is_pixel


def test_an_image_of_unknown_size_is_no_tracking_pixel() -> None:
    assert not only("<img src=1>").is_pixel


# --- licences


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        pytest.param("<img src=1><a rel='license nofollow' href=/l>x</a>", "http://a.example/l", id="of the page"),
        pytest.param(
            "<link rel=license href=/l><link rel=license href=/m><img src=1>", "http://a.example/l", id="first"
        ),
        pytest.param(
            "<a rel=license href=/l>x</a><figure><img src=1><a rel=license href=/m>x</a></figure>",
            "http://a.example/m",
            id="of the figure",
        ),
        pytest.param(
            "<div itemscope><img src=1><meta itemprop=license content=/m></div><a rel=license href=/l>x</a>",
            "http://a.example/m",
            id="of the item",
        ),
        pytest.param("<div itemscope><a itemprop=license href=/m>x</a></div><img src=1>", "", id="of another item"),
        pytest.param("<img src=1><a rel=license href=javascript:x>x</a>", "", id="no address"),
    ],
)
def test_the_nearest_licence_counts(html: str, expected: str) -> None:
    assert only(html).license == expected


# --- text content of elements


def test_style_elements_name_images_and_sheets() -> None:
    page = read("<h1>a</h1><style>@import 'b.css'; p { background: url(1.png); cursor: url(2.cur), auto }</style>")
    assert (images(page), page.sheets) == (["1.png", "2.cur"], ("http://a.example/b.css",))
    assert [(image.source, image.group, image.heading) for image in page.images] == [("css", 0, "a"), ("css", 1, "a")]


def test_the_alternatives_of_a_style_are_one_picture() -> None:
    first, second = read("<style>p { background: image-set('1.png' 1x, '2.png' 2x) }</style>").images
    assert first.group == second.group
    assert (first.density, second.density) == (1.0, 2.0)


def test_linked_data_names_images() -> None:
    data = '{"@type": "ImageObject", "contentUrl": "/1", "caption": "Boat", "width": 300, "license": "/l"}'
    image = only(f"<a href=/x>no<script type=' Application/LD+JSON '>{data}</script></a>")
    assert (image.url, image.source, image.caption) == ("http://a.example/1", "json-ld", "Boat")
    assert (image.declared_width, image.license, image.link_text) == (300, "http://a.example/l", "")


def test_the_identifier_of_a_picture_ranks_below_pictures() -> None:
    assert only('<script type=application/ld+json>{"image": {"@id": "/#logo"}}</script>').rank == -1


def test_a_licence_may_be_given_as_a_name() -> None:
    data = '{"@type": "ImageObject", "contentUrl": "/1", "license": "CC BY 4.0"}'
    assert only(f"<script type=application/ld+json>{data}</script>").license == "CC BY 4.0"


@pytest.mark.parametrize("name", ["script", "iframe", "noframes", "noembed", "xmp", "textarea", "title"])
def test_text_content_in_browsers_names_nothing(name: str) -> None:
    page = read(f"<{name}><img src=1><a href=2>x</a></{name}><img src=3>")
    assert (images(page), page.links) == (["3"], ())


def test_scripts_are_not_text() -> None:
    assert only("<a href=/x>a<script>b</script><style>c</style><img src=1></a>").link_text == "a"


def test_a_document_in_an_attribute_is_part_of_the_page() -> None:
    html = '<iframe src=/no srcdoc="<title>b</title><base href=/b/><img src=1><iframe srcdoc=&quot;<img src=2>&quot;>">'
    page = read(f"<title>a</title>{html}</iframe><img src=3>")
    assert (images(page), page.title, page.base, page.frames) == (["3", "1", "2"], "a", URL, ())


def test_documents_in_attributes_are_capped() -> None:
    page = read("<iframe srcdoc='<img src=1>'></iframe>" * 30)
    assert (len(page.images), page.truncated) == (20, True)


# --- content that a browser does not show by itself


def test_a_template_names_images_but_no_links() -> None:
    html = "<title></title><base href=/b/><link rel=stylesheet href=c><a href=d>x</a><img src=1>"
    page = read(f"<template>{html}<template><img src=2></template></template><title>a</title>")
    assert (images(page), page.links, page.sheets, page.title, page.base) == (["1", "2"], (), (), "a", URL)


def test_a_shadow_tree_is_read_as_shown() -> None:
    assert read("<div><template shadowrootmode=open><a href=/a>x</a></template></div>").links == ("http://a.example/a",)


def test_noscript_is_read_as_shown() -> None:
    page = read("<noscript><img src=1><a href=/a>x</a><style>p { background: url(2) }</style></noscript>")
    assert (images(page), page.links) == (["1", "2"], ("http://a.example/a",))


# --- properties of a page


def test_linked_sheets_are_found() -> None:
    html = """<link rel=stylesheet href=a><link rel='alternate StyleSheet' href=b><link rel=preload as=style href=c>
        <link rel=preload as=font href=d><link rel=stylesheet><link rel=stylesheet href=a>"""
    assert read(html).sheets == ("http://a.example/a", "http://a.example/b", "http://a.example/c")


def test_frames_are_documents() -> None:
    html = "<iframe src=a></iframe><iframe src=about:blank></iframe><object data=b type=text/html></object>"
    assert read(f"{html}<object data=c></object>").frames == ("http://a.example/a", "http://a.example/b")
    assert read("<frameset><frame src=a><frame></frameset>").frames == ("http://a.example/a",)


def test_feeds_are_alternates_with_a_feed_type() -> None:
    html = """<link rel=alternate type=application/rss+xml href=a>
        <link rel=alternate type='Application/Atom+XML' href=b>
        <link rel=alternate hreflang=de href=c><link type=application/rss+xml href=d>"""
    assert read(html).feeds == ("http://a.example/a", "http://a.example/b")


@pytest.mark.parametrize(
    ("html", "canonical"),
    [
        ("<link rel=canonical href=/a><link rel=canonical href=/b>", "http://a.example/a"),
        ("<link rel=canonical href=javascript:x>", ""),
        ("<link rel=canonical>", ""),
        ("", ""),
    ],
)
def test_the_canonical_url_of_a_page_is_found(html: str, canonical: str) -> None:
    assert read(html).canonical == canonical


@pytest.mark.parametrize(
    ("html", "language"),
    [
        ("<html lang=de-AT>", "de-AT"),
        ("<html xml:lang=de>", "de"),
        ("<html lang=''><meta http-equiv=Content-Language content='fr, en'>", "fr"),
        ("<html lang=de><meta http-equiv=content-language content=fr>", "de"),
        ("<p lang=de>", ""),
    ],
)
def test_the_language_is_that_of_the_page(html: str, language: str) -> None:
    assert read(html).language == language


def test_a_refresh_is_a_link() -> None:
    page = read("<meta http-equiv=Refresh content='0; url=/a'><meta http-equiv=refresh content=60>")
    assert page.links == ("http://a.example/a",)


def test_a_refresh_in_a_header_is_a_link_that_ignores_base() -> None:
    page = extract("<base href=http://b.example/><a href=c>", "http://a.example/dir/", refresh="0; url=d?e")
    assert page.links == ("http://a.example/dir/d?e", "http://b.example/c")
    assert extract("<a href=/c>", URL, refresh="60").links == ("http://a.example/c",)


# --- further input of the caller


def test_additional_lazy_attributes_can_be_given() -> None:
    html = "<img mysrc=/1 data-mine=/2>"
    assert read(html).images == ()
    assert images(extract(html, URL, lazy=["mysrc", "data-mine"])) == ["1", "2"]


def test_a_link_header_names_the_same_as_elements() -> None:
    header = (
        '</1>; rel=preload; as=image; imagesrcset="/2 2x", </3>; rel=icon, </4>; rel=canonical, </5>; rel=stylesheet'
    )
    page = extract("<base href=http://b.example/><img src=6>", "http://a.example/dir/", link=header)
    assert [image.url for image in page.images] == [
        "http://b.example/2",
        "http://a.example/1",
        "http://a.example/3",
        "http://b.example/6",
    ]
    assert (page.canonical, page.sheets) == ("http://a.example/4", ("http://a.example/5",))


def test_pictures_after_the_limit_are_dropped() -> None:
    page = read("".join(f"<img src={number}>" for number in range(20_001)) + "<a href=/a>")
    assert (len(page.images), page.images[-1].url, page.links, page.truncated) == (20_000, f"{URL}19999", (), True)


@pytest.mark.parametrize(
    ("before", "truncated"),
    [
        pytest.param("<a href=/x>x</a>" * 25_000, False, id="a link", marks=pytest.mark.fire),
        pytest.param(
            "".join(f"<a href=/{number}.pdf>" for number in range(25_000)),
            True,
            id="many links",
            marks=pytest.mark.fire,
        ),
        pytest.param("<link rel=stylesheet href=a>" * 25_000, False, id="a sheet", marks=pytest.mark.fire),
        pytest.param(
            "<style>@import 'a'</style>" * 100_000, True, id="a sheet, in too many elements", marks=pytest.mark.fire
        ),
        pytest.param("<img src=/s.gif>" * 25_000, True, id="a picture", marks=pytest.mark.fire),
    ],
)
def test_markup_before_a_picture_does_not_hide_it(before: str, truncated: bool) -> None:
    page = read(f"{before}<img src=/last.png>")
    assert (images(page)[-1], page.truncated) == ("last.png", truncated)
    assert len(page.links) + len(set(images(page))) <= 20_000
