"""Each place in which a page can name an image, separately."""

import pytest

from crawler.harvest.extensions import IMAGE_EXTENSIONS, extension
from crawler.harvest.html.sources import _MAX_LAZY_VALUE
from crawler.harvest.html.srcset import MAX_CANDIDATES
from crawler.harvest.page import Image
from tests.harvest.readers import read


def found(html: str) -> list[tuple[str, str]]:
    return [(image.source, image.url.removeprefix("http://a.example/")) for image in images(html)]


def images(html: str) -> tuple[Image, ...]:
    return read(html).images


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<img src=1>", [("img", "1")]),
        ("<IMG SRC=' 1 '>", [("img", "1")]),
        ("<img srcset='1 1x, 2 2x'>", [("srcset", "1"), ("srcset", "2")]),
        ("<amp-img src=1>", [("img", "1")]),
        ("<picture><source srcset=1><img></picture>", [("picture", "1")]),
        ("<video><source src=1.mp4></video>", []),
        ("<input type=image src=1>", [("input", "1")]),
        ("<input type=' IMAGE ' src=1>", [("input", "1")]),
        ("<input type=text src=1><input src=1>", []),
        ("<video poster=1>", [("poster", "1")]),
        ("<a href=/1.JPG>", [("a", "1.JPG")]),
        ("<a href=1.png?x=y#z>", [("a", "1.png?x=y#z")]),
        ("<area href=1.webp>", [("a", "1.webp")]),
        ("<a href=1.html><a href=?file=1.jpg><a href=#1.jpg><a href=1.jpg/>", []),
        ("<image src=1>", [("img", "1")]),
        ("<amp-anim src=1></amp-anim>", [("img", "1")]),
        ("<object data=1 type=image/png></object>", [("object", "1")]),
        ("<object data=1.SVG></object><embed src=2.svg?x>", [("object", "1.SVG"), ("object", "2.svg?x")]),
        ("<object data=1.html></object><embed src=2.png type=text/html><embed>", []),
    ],
)
def test_images_in_elements_of_the_body(html: str, expected: list[tuple[str, str]]) -> None:
    assert found(html) == expected


@pytest.mark.parametrize(
    ("html", "source"),
    [
        ("<link rel=icon href=1>", "icon"),
        ("<link rel='Shortcut Icon' href=1>", "icon"),
        ("<link rel=apple-touch-icon href=1>", "apple-touch-icon"),
        ("<link rel=apple-touch-icon-precomposed href=1>", "apple-touch-icon-precomposed"),
        ("<link rel=mask-icon href=1>", "mask-icon"),
        ("<link rel=image_src href=1>", "image_src"),
        ("<meta property=og:image content=1>", "og:image"),
        ("<meta property=OG:Image:secure_url content=1>", "og:image"),
        ("<meta name=og:image:url content=1>", "og:image"),
        ("<meta name=twitter:image content=1>", "twitter:image"),
        ("<meta property=twitter:image:src content=1>", "twitter:image"),
        ("<meta name=twitter:image0 content=1>", "twitter:image"),
        ("<meta name=msapplication-TileImage content=/1>", "meta"),
        ("<meta name=thumbnail content=/1>", "meta"),
        ("<meta name=image content=/1>", "meta"),
        ("<meta name=parsely-image-url content=/1>", "meta"),
        ("<meta name=sailthru.image.thumb content=/1>", "meta"),
        ("<meta property=vk:image content=/1>", "meta"),
        ("<link rel=apple-touch-startup-image href=1>", "apple-touch-startup-image"),
        ("<link rel=preload as=image href=1>", "preload"),
        ("<link rel=preload as=Image imagesrcset='1 2x'>", "preload"),
    ],
)
def test_images_in_elements_of_the_head(html: str, source: str) -> None:
    assert found(html) == [(source, "1")]


@pytest.mark.parametrize(
    "html",
    [
        "<link rel=stylesheet href=1.css>",
        "<link rel=icon>",
        "<link href=1>",
        "<meta property=og:image:width content=300>",
        "<meta property=og:image:alt content=cat>",
        "<meta name=twitter:card content=summary_large_image>",
        "<meta property=og:image>",
        "<meta name=image content=yes>",
        "<meta name=imagetoolbar content=no>",
        "<meta name=thumbnail_width content=75>",
        "<meta name=msapplication-config content=/1.xml>",
        "<meta name=msapplication-square70x70logo content=/1.png>",
        "<link rel=preload as=script href=1.js>",
        "<link rel=preload href=1>",
        "<link rel=preload as=image imagesrcset=' '>",
    ],
)
def test_elements_of_the_head_without_images(html: str) -> None:
    assert found(html) == []


def test_descriptors_are_kept_with_the_candidates() -> None:
    narrow, wide, dense, plain = images("<img srcset='1 300w, 2 600w, 3 2x' src=4>")
    assert [(image.width, image.density) for image in (narrow, wide)] == [(300, None), (600, None)]
    assert (dense.width, dense.density, plain.density) == (None, 2.0, None)


# --- drawings


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<svg><image href=1 /></svg>", ["1"]),
        ("<svg><image xlink:href=1 src=2></image></svg>", ["1"]),
        ("<svg><image href=1 xlink:href=2 /></svg>", ["1"]),
        ("<svg><filter><feImage href=1 /></filter></svg>", ["1"]),
        ("<svg><use href=1.svg#a /><use xlink:href=2.svg#a /></svg>", ["1.svg#a", "2.svg#a"]),
        ("<svg><image href=#a /><use href=#a /><use /></svg>", []),
        ("<use href=1.svg#a></use>", []),
        ("<svg></svg><image src=1>", ["1"]),
    ],
)
def test_drawings_name_images(html: str, expected: list[str]) -> None:
    assert [url for _, url in found(html)] == expected


# --- styles and backgrounds


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p style='background: url(1)'>", [("css", "1")]),
        ("<p style='list-style: url(\"1\"); --x: url(2.png)'>", [("css", "1"), ("css", "2.png")]),
        ("<p style='background: url(#a); color: red'>", []),
        ("<body background=1>", [("background", "1")]),
        ("<p>x<body background=1>", [("background", "1")]),
        ("<p>x<body class=x><body background=1><!-- <body background=2> -->", [("background", "1")]),
        ("<table background=1><tr background=2><td background=3>", [("background", str(n)) for n in (1, 2, 3)]),
        ("<table background=#fff></table><p background=1>", []),
    ],
)
def test_styles_and_backgrounds_name_images(html: str, expected: list[tuple[str, str]]) -> None:
    assert found(html) == expected


def test_each_layer_of_a_style_is_a_separate_picture() -> None:
    html = "<img src=1 style='background: url(2), image-set(url(3) 1x, url(4) 2x)' data-src=/5>"
    assert [image.group for image in images(html)] == [0, 1, 2, 2, 0]


# --- microdata


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<meta itemprop=image content=/1>", ["1"]),
        ("<link itemprop='url logo' href=1.png>", ["1.png"]),
        ("<span itemprop=thumbnailUrl content=/1></span>", ["1"]),
        ("<a itemprop=image href=/1></a><a itemprop=photo href=2.jpg></a>", ["2.jpg"]),
        ("<object itemprop=image data=/1></object>", ["1"]),
        ("<img itemprop=image src=1>", ["1"]),
        ("<img itemprop=image src=1 content=/2>", ["1", "2"]),
        ("<meta itemprop=contentUrl content=/1.mp4><meta itemprop=contentUrl content=/2.jpg>", ["2.jpg"]),
        ("<p itemscope itemtype=http://schema.org/ImageObject><meta itemprop=url content=/1>", ["1"]),
        ("<p itemscope itemtype=http://schema.org/Person><meta itemprop=url content=/1.jpg>", []),
        ("<meta itemprop=image content=none><meta itemprop=name content=/1.jpg>", []),
        ("<meta property=og:image itemprop=image content=/1>", ["1"]),
    ],
)
def test_microdata_names_images(html: str, expected: list[str]) -> None:
    assert [url for _, url in found(html)] == expected


# --- links to pictures


def test_the_link_target_of_a_thumbnail_ranks_above_it() -> None:
    full, thumbnail = images("<a href=1.jpg><img src=2.jpg></a>")
    assert (full.group, full.rank, thumbnail.group, thumbnail.rank) == (0, 3, 0, 0)


def test_the_only_thumbnail_in_a_link_shares_its_group() -> None:
    html = "<a href=1.jpg><picture><source srcset=2><img src=3></picture><img src=4></a><a href=5.jpg>x</a><img src=6>"
    assert [image.group for image in images(html)] == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    "name", ["File:Boat.jpg", "Datei:Boat.jpg", "%D0%A4%D0%B0%D0%B9%D0%BB:Boat.jpg", "Файл:Boat.jpg"]
)
def test_a_page_about_a_picture_is_not_the_picture(name: str) -> None:
    page, thumbnail = images(f"<a href=/wiki/{name}?x=/y><img src=2.jpg></a>")
    assert (page.rank, page.group != thumbnail.group) == (-1, True)


@pytest.mark.parametrize("url", ["/10:30.jpg", "http://b.example:80/a.jpg", "/w/thumb/File:x/a.jpg", "/a_b:c.jpg"])
def test_a_colon_alone_does_not_make_a_url_a_page(url: str) -> None:
    assert images(f"<a href={url}>x</a>")[0].rank == 3


# --- attributes that only scripts read


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<img data-src=/1>", [("data-src", "1")]),
        ("<img data-src=1.jpg>", [("data-src", "1.jpg")]),
        ("<img data-src=//a.example/1>", [("data-src", "1")]),
        ("<img data-src='/1 1x, /2 2x'>", [("data-src", "1"), ("data-src", "2")]),
        ("<img data-srcset='1.jpg 300w, 2.jpg 600w'>", [("data-srcset", "1.jpg"), ("data-srcset", "2.jpg")]),
        ("<img data-original=1.jpg lazysrc=2.jpg>", [("data-original", "1.jpg"), ("lazysrc", "2.jpg")]),
        ("<picture><source data-srcset=/1><img></picture>", [("data-srcset", "1")]),
        ("<div data-bg=1.jpg></div>", [("data-bg", "1.jpg")]),
        ("<section data-of-our-own='/1.png?v=2'></section>", [("data-of-our-own", "1.png?v=2")]),
        ("<li data-thumb=' 1.webp '></li>", [("data-thumb", "1.webp")]),
        ("<div data-bg='url(\"/1\")'></div>", [("data-bg", "1")]),
        ("<div data-style='background-image: url(1.jpg)'></div>", [("data-style", "1.jpg")]),
        ("<div data-bg-multi='url(1.jpg),url(2.jpg)'></div>", [("data-bg-multi", "1.jpg"), ("data-bg-multi", "2.jpg")]),
        (
            "<div data-background-image-set=\"url('1.jpg') 1x, url('2.jpg') 2x\"></div>",
            [("data-background-image-set", "1.jpg"), ("data-background-image-set", "2.jpg")],
        ),
        (
            "<div data-bg-set=\"image-set('1.jpg' 1x, '2.jpg' 2x), url(3.jpg)\"></div>",
            [("data-bg-set", "1.jpg"), ("data-bg-set", "2.jpg"), ("data-bg-set", "3.jpg")],
        ),
        ("<div data-background-image=/1></div>", [("data-background-image", "1")]),
        ("<img data-srcset='1.jpg, 2.jpg'>", [("data-srcset", "1.jpg"), ("data-srcset", "2.jpg")]),
    ],
)
def test_lazy_attributes_name_images(html: str, expected: list[tuple[str, str]]) -> None:
    assert found(html) == expected


@pytest.mark.parametrize(
    "html",
    [
        "<img data-src='data:image/gif;base64,AA'>",
        "<img data-src='{{ image.src }}'>",
        "<img data-src='/{width}x/a.jpg'>",
        "<img data-src=true>",
        "<img data-src='a cat'>",
        "<img data-id=/1>",
        "<iframe data-src=/1></iframe>",
        "<div data-url=/1></div>",
        """<div data-settings='{"image":"1.jpg"}'></div>""",
        "<div data-caption='see 1.jpg'></div>",
        "<div data-sizes='(min-width: 1px) 300w'></div>",
        "<div cite=1.jpg></div>",
        "<div data-src=/1></div>",
        r"""<div data-event='{"html": "<img srcset=\"http:\/\/a.example\/1.jpg 300w, 2.jpg 600w\">"}'></div>""",
        f"<img data-src=/{'a' * _MAX_LAZY_VALUE}.jpg>",
    ],
)
def test_lazy_attributes_with_other_content_are_ignored(html: str) -> None:
    assert found(html) == []


def test_lazy_attributes_rank_above_plain_ones_and_larger_ones_above_those() -> None:
    ranks = {image.source: image.rank for image in images("<img src=1 data-src=/2 data-original=/3 data-full-src=/4>")}
    assert ranks == {"img": 0, "data-src": 1, "data-original": 2, "data-full-src": 2}


# --- extensions


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a.example/b.JPG", "jpg"),
        ("http://a.example/b.tar.gz?x=.png#.gif", "gz"),
        ("b.svg", "svg"),
        ("/dir.d/file", ""),
        ("http://a.jp2", ""),
        ("//a.png", ""),
        ("", ""),
        (".jpg", "jpg"),
        ("a.jpg ", "jpg"),
        ("15//1.jpg", "jpg"),
        ("/15//1.jpg", "jpg"),
        ("https://a.example/15//1.jpg", "jpg"),
        ("//a.example//1.jpg", "jpg"),
        (" //a.jpg", ""),
    ],
)
def test_the_extension_is_that_of_the_path(url: str, expected: str) -> None:
    assert extension(url) == expected


def test_extensions_are_lower_case_without_aliases() -> None:
    assert all(word == word.lower() and word.isalnum() for word in IMAGE_EXTENSIONS)


ENDLESS = ", ".join(f"{number} {number + 1}w" for number in range(MAX_CANDIDATES))


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (f"<img src=plain srcset='{ENDLESS}'>", 1),
        (f"<link rel=preload as=image href=plain imagesrcset='{ENDLESS}'>", 1),
        (f"<img srcset='{ENDLESS}'>", MAX_CANDIDATES),
        (f"<img src=' ' srcset='{ENDLESS}'>", MAX_CANDIDATES),
        (f"<img src=plain srcset='{ENDLESS.removesuffix(', 999 1000w')}'>", MAX_CANDIDATES),
    ],
    ids=["img", "preload", "no src", "blank src", "just short enough"],
)
def test_an_endless_candidate_list_is_replaced_by_the_plain_url(html: str, expected: int) -> None:
    urls = [url for _, url in found(html)]
    assert len(urls) == expected
    assert ("plain" in urls) == ("plain" in html)
