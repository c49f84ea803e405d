"""The places in which pages name images: one small function per kind of element, all of them in `SOURCES`.

Each takes an element and yields `Reference` values, still unresolved; none looks at any other element.
"""

import re
from collections.abc import Callable, Iterator, Mapping

from bs4 import Tag
from msgspec import Struct

from crawler.harvest.srcset import Candidate, parse_srcset

#: File extensions of pictures; a link that ends in one leads to an image.
IMAGE_EXTENSIONS = frozenset(
    {
        *("apng", "avif", "bmp", "gif", "heic", "heif", "ico", "jfif", "jp2", "jpe", "jpeg", "jpg", "jxl"),
        *("pjp", "pjpeg", "png", "svg", "svgz", "tif", "tiff", "webp"),
    }
)
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
_PICTURES = frozenset({"img", "source", "input", "amp-img", "image"})
_LARGER = re.compile(r"orig|full|large|hi-?res|high-res|zoom|retina")
_PICTURE_PATH = re.compile(rf"[^\s?#<>{{}}\"']+\.(?:{'|'.join(sorted(IMAGE_EXTENSIONS))})(?:[?#]\S*)?", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?:)?//[^\s{}\"'<>]+|\.{0,2}/[^\s/{}\"'<>][^\s{}\"'<>]*", re.IGNORECASE)
_SRCSET = re.compile(r"\s[0-9]+(?:\.[0-9]+)?[wx]\s*(?:,|$)")
_CARD = re.compile(r"og:image(?::url|:secure_url)?|twitter:image(?::src|[0-9])?")
_ICONS = ("icon", "apple-touch-icon", "apple-touch-icon-precomposed", "image_src", "mask-icon", "fluid-icon")


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


def of_img(tag: Tag) -> Iterator[Reference]:
    """``<img>``, and AMP's replacement of it."""
    yield from _candidates(text_of(tag, "srcset"), "srcset")
    yield from _single(tag, "src", "img")


def of_source(tag: Tag) -> Iterator[Reference]:
    """``<source>`` of a picture; audio and video sources have no ``srcset``."""
    yield from _candidates(text_of(tag, "srcset"), "picture")


def of_input(tag: Tag) -> Iterator[Reference]:
    """``<input type=image>``."""
    if text_of(tag, "type").strip().lower() == "image":
        yield from _single(tag, "src", "input")


def of_video(tag: Tag) -> Iterator[Reference]:
    """The picture shown before a video plays."""
    yield from _single(tag, "poster", "poster")


def of_meta(tag: Tag) -> Iterator[Reference]:
    """Preview pictures for social networks (Open Graph, Twitter cards)."""
    for attribute in ("property", "name"):
        key = text_of(tag, attribute).strip().lower()
        if _CARD.fullmatch(key):
            yield from _single(tag, "content", "og:image" if key.startswith("og") else "twitter:image")
            return


def of_link(tag: Tag) -> Iterator[Reference]:
    """Icons, and the picture that stands for the page."""
    relations = words_of(tag, "rel")
    for relation in _ICONS:
        if relation in relations:
            yield from _single(tag, "href", relation)
            return


def of_anchor(tag: Tag) -> Iterator[Reference]:
    """A link that leads to an image, judged by its file extension."""
    if extension(text_of(tag, "href")) in IMAGE_EXTENSIONS:
        yield from _single(tag, "href", "a")


def of_lazy_attributes(tag: Tag) -> Iterator[Reference]:
    """Attributes that only a script reads; taken where the value looks like an image's URL or a srcset."""
    picture = tag.name in _PICTURES
    part = 0
    for name, value in tag.attrs.items():
        known = name in LAZY_ATTRIBUTES
        if not (known or name.startswith("data-")) or not isinstance(value, str) or len(value) > MAX_LAZY_VALUE:
            continue
        rank = 2 if _LARGER.search(name) else 1
        part += not picture  # attributes of a picture are its candidates, those of a box are pictures of their own
        for each in parse_srcset(value) if _SRCSET.search(value) else [Candidate(value)]:
            if _looks_like_image(each.url, picture and known):
                yield Reference(each.url, name, each.width, each.density, rank, part)


#: Element → the function that knows it. `of_lazy_attributes` is asked about every element besides.
SOURCES: Mapping[str, Callable[[Tag], Iterator[Reference]]] = {
    "img": of_img,
    "amp-img": of_img,
    "source": of_source,
    "input": of_input,
    "video": of_video,
    "meta": of_meta,
    "link": of_link,
    "a": of_anchor,
    "area": of_anchor,
}


def extension(url: str) -> str:
    """Lower-case extension of the file that a URL's path names, without the dot; empty where there is none."""
    path = url.split("#", 1)[0].split("?", 1)[0].rstrip()
    name = path[path.rfind("/") + 1 :]
    # Without a path the last word is a host, and ``example.jp2`` is no picture.
    return name[name.rfind(".") + 1 :].lower() if "." in name and not path.endswith(f"//{name}") else ""


def text_of(tag: Tag, attribute: str) -> str:
    """An attribute as text, empty where it is missing."""
    value = tag.attrs.get(attribute, "")
    return value if isinstance(value, str) else " ".join(value)


def words_of(tag: Tag, attribute: str) -> frozenset[str]:
    """An attribute as a set of lower-case words."""
    return frozenset(text_of(tag, attribute).lower().split())


def _single(tag: Tag, attribute: str, source: str) -> Iterator[Reference]:
    value = text_of(tag, attribute)
    if value and not value.isspace():
        yield Reference(value, source)


def _candidates(srcset: str, source: str) -> Iterator[Reference]:
    for candidate in parse_srcset(srcset) if srcset else ():
        yield Reference(candidate.url, source, candidate.width, candidate.density)


def _looks_like_image(value: str, expected: bool) -> bool:
    """Whether ``value`` names an image file, or any file where nothing but an image is ``expected``."""
    value = value.strip()
    return _PICTURE_PATH.fullmatch(value) is not None or (expected and _ADDRESS.fullmatch(value) is not None)
