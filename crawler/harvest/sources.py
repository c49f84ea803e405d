"""The places in which pages name images: one small function per kind of element, all of them in `SOURCES`.

Each takes the attributes of an element and yields `Reference` values, still unresolved; none looks at any other
element.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping

from msgspec import Struct

from crawler.harvest.css import declaration_images
from crawler.harvest.extensions import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from crawler.harvest.extensions import extension as extension
from crawler.harvest.srcset import MAX_CANDIDATES, Candidate, parse_srcset
from crawler.harvest.stream import Attributes

#: Attributes in which scripts find the URL to show later, whatever the element that has them.
LAZY_ATTRIBUTES = frozenset(
    """
    data-2x data-actualsrc data-background data-background-image data-bg data-bgset data-cfsrc data-cover
    data-cover-image data-defer-src data-delayed-url data-echo data-ezsrc data-ezsrcset data-fallback-src
    data-file data-flickity-lazyload data-full data-full-src data-fullsize data-hi-res-src data-high-res-src
    data-hires data-image data-image-src data-img data-img-src data-img-url data-imgurl data-large data-large-file
    data-large-src data-lazy data-lazy-src data-lazy-srcset data-lazyload data-lazyload-src data-lazysrc
    data-lazysrcset data-ll-src data-ll-srcset data-mediaviewer-src data-medium-file data-normal data-orig-file
    data-original data-original-src data-original-srcset data-pagespeed-high-res-src data-pagespeed-lazy-src
    data-photo data-pic data-picurl data-pin-media data-poster data-real-src data-retina data-rsrc data-src
    data-src-large data-src-medium data-src-retina data-src-small data-srcset data-thumb data-thumb-src
    data-thumbnail data-url data-wf-src data-zoom data-zoom-image data-zoom-src lazy-src lazysrc original real_src
    zoomfile
    """.split()  # noqa: SIM905  # a list of strings would be three times as long
)
#: Longest attribute that is searched for lazily loaded images.
MAX_LAZY_VALUE = 65_536

#: Elements on which a lazy attribute can only mean a picture.
PICTURES = frozenset({"img", "source", "input", "amp-img", "amp-anim", "image"})
#: Elements whose ``background`` browsers still paint.
_PAINTED = frozenset({"body", "late-body", "table", "thead", "tbody", "tfoot", "tr", "td", "th"})
#: Lazy attributes that can only mean a picture, whatever the element that has them.
_PICTURE_NAME = re.compile(r"background|-bg|cover|image|-img|photo|-pic|poster|thumb")
_LARGER = re.compile(r"orig|full|large|hi-?res|high-res|zoom|retina")
_PICTURE_PATH = re.compile(rf"[^\s?#<>{{}}\"'\\]+\.(?:{'|'.join(sorted(IMAGE_EXTENSIONS))})(?:[?#]\S*)?", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?:)?//[^\s{}\"'<>]+|\.{0,2}/[^\s/{}\"'<>][^\s{}\"'<>]*", re.IGNORECASE)
_SRCSET = re.compile(r"\s[0-9]+(?:\.[0-9]+)?[wx]\s*(?:,|$)")
_CARD = re.compile(r"og:image(?::url|:secure_url)?|twitter:image(?::src|[0-9])?")
#: Other keys of ``<meta>`` whose value is a picture.
_PREVIEW = re.compile(
    r"image|image_src|thumbnail(?:url)?|(?:vk|pinterest):(?:image|media)|parsely-image-url|sailthru\.image(?:\.\w+)?"
    r"|msapplication-tileimage"
)
_ICONS = (
    *("icon", "apple-touch-icon", "apple-touch-icon-precomposed", "apple-touch-startup-image"),
    *("image_src", "mask-icon", "fluid-icon"),
)
#: Microdata properties whose value is a picture; an address in ``contentUrl`` may be that of a film.
_PICTURE_PROPERTIES = frozenset(
    {"image", "logo", "photo", "primaryimageofpage", "screenshot", "thumbnail", "thumbnailurl"}
)
#: MediaWiki's pages about a picture are named like the picture itself: ``File:Boat.jpg``, in any language.
_NAMESPACE = re.compile(r"(?:[^\W\d_]|%[0-9A-Fa-f]{2})++:")


class Reference(Struct, frozen=True):
    """An image URL as written on the page."""

    url: str
    source: str
    width: int | None = None
    density: float | None = None
    #: See `crawler.harvest.page.Image`.
    rank: int = 0
    #: Tells pictures that one element names apart; references of one part are candidates for one picture.
    part: int = 0


Rule = Callable[[Attributes], Iterator[Reference]]


def of_img(attributes: Attributes) -> Iterator[Reference]:
    """``<img>``, the ``<image>`` that browsers read as one, and AMP's replacement of it."""
    yield from _candidates(attributes, "srcset", "srcset", plain="src")
    yield from _single(attributes, "src", "img")


def of_source(attributes: Attributes) -> Iterator[Reference]:
    """``<source>`` of a picture; audio and video sources have no ``srcset``."""
    yield from _candidates(attributes, "srcset", "picture")


def of_input(attributes: Attributes) -> Iterator[Reference]:
    """``<input type=image>``."""
    if attributes.get("type", "").strip().lower() == "image":
        yield from _single(attributes, "src", "input")


def of_video(attributes: Attributes) -> Iterator[Reference]:
    """The picture shown before a video plays."""
    yield from _single(attributes, "poster", "poster")


def of_object(attributes: Attributes) -> Iterator[Reference]:
    """``<object>`` and ``<embed>`` that show a picture, by type or by file extension."""
    for name in ("data", "src"):
        kind = attributes.get("type", "").strip().lower()
        if kind.startswith("image/") or (not kind and extension(attributes.get(name, "")) in IMAGE_EXTENSIONS):
            yield from _single(attributes, name, "object")


def of_svg_image(attributes: Attributes) -> Iterator[Reference]:
    """``<image>`` and ``<feImage>`` of a drawing; a fragment alone is a part of the drawing itself."""
    name = "href" if "href" in attributes else "xlink:href"
    if not attributes.get(name, "").lstrip().startswith("#"):
        yield from _single(attributes, name, "svg")


def of_meta(attributes: Attributes) -> Iterator[Reference]:
    """Preview pictures for social networks (Open Graph, Twitter cards), start menus and search engines."""
    value = attributes.get("content", "")
    for attribute in ("property", "name"):
        key = attributes.get(attribute, "").strip().lower()[:100]
        if _CARD.fullmatch(key):
            yield from _single(attributes, "content", "og:image" if key.startswith("og") else "twitter:image")
            return
        if _PREVIEW.fullmatch(key) and _looks_like_image(value, expected=True):
            yield Reference(value, "meta")
            return


def of_link(attributes: Attributes) -> Iterator[Reference]:
    """Icons, the picture that stands for the page, and pictures to be loaded early."""
    relations = words_of(attributes, "rel")
    for relation in _ICONS:
        if relation in relations:
            yield from _single(attributes, "href", relation)
            return
    if "preload" in relations and attributes.get("as", "").strip().lower() == "image":
        yield from _candidates(attributes, "imagesrcset", "preload", plain="href")
        yield from _single(attributes, "href", "preload")


def of_anchor(attributes: Attributes) -> Iterator[Reference]:
    """A link that leads to an image, judged by its file extension."""
    href = attributes.get("href", "")
    if extension(href) in IMAGE_EXTENSIONS:
        yield Reference(href, "a", rank=-1 if _is_about_file(href) else 3)


def of_style(attributes: Attributes) -> Iterator[Reference]:
    """The ``style`` attribute, and the ``background`` of old: pictures of their own, whatever the element shows."""
    for image in declaration_images(attributes.get("style", "")):
        yield Reference(image.url, "css", density=image.density, part=-2 - image.group)


def of_background(name: str, attributes: Attributes) -> Iterator[Reference]:
    """The ``background`` attribute of old (https://html.spec.whatwg.org/multipage/rendering.html#the-page)."""
    if name in _PAINTED and not attributes["background"].lstrip().startswith("#"):
        yield from _single(attributes, "background", "background", part=-1)


def of_property(name: str, attributes: Attributes, *, about_image: bool) -> Iterator[Reference]:
    """Microdata whose property is a picture; ``about_image``: the item that it is a property of is one."""
    properties = words_of(attributes, "itemprop")
    picture = not properties.isdisjoint(_PICTURE_PROPERTIES)
    content = "contenturl" in properties or (about_image and "url" in properties)
    for attribute in ("content", "href", "data", "src") if picture or content else ():
        if attribute == "src" and name in PICTURES:
            continue  # is one anyway
        value = attributes.get(attribute, "")
        if _looks_like_image(value, expected=name not in ("a", "area") and (picture or about_image)):
            yield Reference(value, "itemprop")


def of_lazy_attributes(name: str, attributes: Attributes, known: Collection[str]) -> Iterator[Reference]:
    """Attributes that only a script reads; taken where the value looks like an image's URL, a srcset or a style."""
    picture = name in PICTURES
    part = 0
    for attribute, value in attributes.items():
        if attribute in known:
            expected = picture or _PICTURE_NAME.search(attribute) is not None
        elif attribute.startswith("data-"):
            expected = False
        else:
            continue
        if ("." not in value and "/" not in value) or len(value) > MAX_LAZY_VALUE:
            continue
        rank = 2 if _LARGER.search(attribute) else 1
        part += not picture  # attributes of a picture are its candidates, those of a box are pictures of their own
        for each in _lazy_candidates(attribute, value):
            if _looks_like_image(each.url, expected=expected):
                yield Reference(each.url, attribute, each.width, each.density, rank, part)


#: Element → the function that knows it. `of_lazy_attributes` is asked about every element besides.
SOURCES: Mapping[str, Rule] = {
    "img": of_img,
    "image": of_img,
    "amp-img": of_img,
    "amp-anim": of_img,
    "source": of_source,
    "input": of_input,
    "video": of_video,
    "amp-video": of_video,
    "object": of_object,
    "embed": of_object,
    "meta": of_meta,
    "link": of_link,
    "a": of_anchor,
    "area": of_anchor,
}
#: The same for elements that mean something else in a drawing.
SVG_SOURCES: Mapping[str, Rule] = {"image": of_svg_image, "feimage": of_svg_image, "use": of_svg_image}


def words_of(attributes: Attributes, name: str) -> frozenset[str]:
    """An attribute as a set of lower-case words."""
    return frozenset(attributes.get(name, "").lower().split())


def _is_about_file(url: str) -> bool:
    path = url.partition("#")[0].partition("?")[0]
    return _NAMESPACE.match(path, path.rfind("/") + 1) is not None


def _single(attributes: Attributes, name: str, source: str, part: int = 0) -> Iterator[Reference]:
    value = attributes.get(name, "")
    if value and not value.isspace():
        yield Reference(value, source, part=part)


def _candidates(attributes: Attributes, name: str, source: str, plain: str = "") -> Iterator[Reference]:
    """The candidates of a list; with more than any picture has it is no list, and what is named beside it counts."""
    srcset = attributes.get(name)
    candidates = parse_srcset(srcset) if srcset else ()
    if len(candidates) == MAX_CANDIDATES and attributes.get(plain, "").strip():
        return
    for candidate in candidates:
        yield Reference(candidate.url, source, candidate.width, candidate.density)


def _lazy_candidates(attribute: str, value: str) -> Collection[Candidate]:
    """What a lazy attribute may offer: candidates of a srcset, pictures of a style, or itself."""
    if attribute.endswith("srcset") or _SRCSET.search(value):
        return parse_srcset(value)
    if "url(" in value:
        return [Candidate(image.url, density=image.density) for image in declaration_images(f"background:{value}")]
    return [Candidate(value)]


def _looks_like_image(value: str, *, expected: bool) -> bool:
    """Whether ``value`` names an image file, or any file where nothing but an image is ``expected``."""
    value = value.strip()
    return _PICTURE_PATH.fullmatch(value) is not None or (expected and _ADDRESS.fullmatch(value) is not None)
