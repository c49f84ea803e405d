"""Rules for finding image URLs in a page: one small function per kind of element, all of them in `SOURCES`.

Each function takes the attributes of one element and returns unresolved `Reference` values. It sees no other element.
Those of the most frequent elements return tuples, because a generator costs more than what it yields.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from msgspec import Struct

from crawler.harvest.extensions import IMAGE_EXTENSIONS, extension
from crawler.harvest.html.css import declaration_images
from crawler.harvest.html.srcset import MAX_CANDIDATES, Candidate, parse_srcset
from crawler.harvest.html.visitor import Attributes

#: Attributes of any element in which scripts keep the URL of an image to load later.
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
_MAX_LAZY_VALUE = 65_536

#: Elements on which a lazy attribute can only mean an image.
PICTURES = frozenset({"img", "source", "input", "amp-img", "amp-anim", "image"})
#: Elements whose ``background`` attribute browsers still paint.
_PAINTED = frozenset({"body", "late-body", "table", "thead", "tbody", "tfoot", "tr", "td", "th"})
#: Lazy attributes that can only mean an image, on any element.
_PICTURE_NAME = re.compile(r"background|-bg|cover|image|-img|photo|-pic|poster|thumb")
_LARGER = re.compile(r"orig|full|large|hi-?res|high-res|zoom|retina")
_PICTURE_PATH = re.compile(rf"[^\s?#<>{{}}\"'\\]+\.(?:{'|'.join(sorted(IMAGE_EXTENSIONS))})(?:[?#]\S*)?", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?:)?//[^\s{}\"'<>]+|\.{0,2}/[^\s/{}\"'<>][^\s{}\"'<>]*", re.IGNORECASE)
#: Images in CSS notation, alone or as the options of an ``image-set()`` without that word.
_STYLE = re.compile(r"image-set\(|(?:^|[,:)]|\s)\s*url\(", re.IGNORECASE)
_SRCSET = re.compile(r"\s[0-9]+(?:\.[0-9]+)?[wx]\s*(?:,|$)")
_CARD = re.compile(r"og:image(?::url|:secure_url)?|twitter:image(?::src|[0-9])?")
#: Other keys of ``<meta>`` whose value is an image.
_PREVIEW = re.compile(
    r"image|image_src|thumbnail(?:url)?|(?:vk|pinterest):(?:image|media)|parsely-image-url|sailthru\.image(?:\.\w+)?"
    r"|msapplication-tileimage"
)
_ICONS = (
    *("icon", "apple-touch-icon", "apple-touch-icon-precomposed", "apple-touch-startup-image"),
    *("image_src", "mask-icon", "fluid-icon"),
)
#: Microdata properties whose value is an image. A URL in ``contentUrl`` may be that of a video.
_PICTURE_PROPERTIES = frozenset(
    {"image", "logo", "photo", "primaryimageofpage", "screenshot", "thumbnail", "thumbnailurl"}
)
#: MediaWiki's page about an image has the image's name: ``File:Boat.jpg``, with the prefix in any language.
_NAMESPACE = re.compile(r"(?:[^\W\d_]|%[0-9A-Fa-f]{2})++:")


class Reference(Struct, frozen=True):
    """An image URL as written on the page."""

    url: str
    source: str
    width: int | None = None
    density: float | None = None
    #: See `crawler.harvest.page.Image`.
    rank: int = 0
    #: Distinguishes several images of one element. References of the same part are candidates for one image.
    part: int = 0


_Rule = Callable[[Attributes], Iterable[Reference]]


def _of_img(attributes: Attributes) -> tuple[Reference, ...]:
    """Return the images of ``<img>``, of ``<image>``, which browsers read as ``<img>``, and of AMP's replacement."""
    plain = _single(attributes, "src", "img")
    return (*_candidates(attributes, "srcset", "srcset", plain="src"), *plain) if "srcset" in attributes else plain


def _of_source(attributes: Attributes) -> Iterator[Reference]:
    """Yield the images of a ``<source>`` in a ``<picture>``. Audio and video sources have no ``srcset``."""
    yield from _candidates(attributes, "srcset", "picture")


def _of_input(attributes: Attributes) -> Iterator[Reference]:
    """Yield the image of ``<input type=image>``."""
    if attributes.get("type", "").strip().lower() == "image":
        yield from _single(attributes, "src", "input")


def _of_video(attributes: Attributes) -> Iterator[Reference]:
    """Yield the image shown before a video plays."""
    yield from _single(attributes, "poster", "poster")


def _of_object(attributes: Attributes) -> Iterator[Reference]:
    """Yield the image of an ``<object>`` or ``<embed>`` that shows one, by its type or file extension."""
    for name in ("data", "src"):
        kind = attributes.get("type", "").strip().lower()
        if kind.startswith("image/") or (not kind and extension(attributes.get(name, "")) in IMAGE_EXTENSIONS):
            yield from _single(attributes, name, "object")


def _of_svg_image(attributes: Attributes) -> Iterator[Reference]:
    """Yield the image of an SVG ``<image>``, ``<feImage>`` or ``<use>``. A bare fragment is a part of the drawing."""
    name = "href" if "href" in attributes else "xlink:href"
    if not attributes.get(name, "").lstrip().startswith("#"):
        yield from _single(attributes, name, "svg")


def _of_meta(attributes: Attributes) -> Iterator[Reference]:
    """Yield the preview image for social networks (Open Graph, Twitter cards), start menus and search engines."""
    value = attributes.get("content", "")
    for attribute in ("property", "name"):
        key = attributes.get(attribute, "").strip().lower()[:100]
        if _CARD.fullmatch(key):
            yield from _single(attributes, "content", "og:image" if key.startswith("og") else "twitter:image")
            return
        if _PREVIEW.fullmatch(key) and _looks_like_image(value, expected=True):
            yield Reference(value, "meta")
            return


def _of_link(attributes: Attributes) -> Iterator[Reference]:
    """Yield the icon, the image that represents the page, or the images to preload."""
    relations = words_of(attributes, "rel")
    for relation in _ICONS:
        if relation in relations:
            yield from _single(attributes, "href", relation)
            return
    if "preload" in relations and attributes.get("as", "").strip().lower() == "image":
        yield from _candidates(attributes, "imagesrcset", "preload", plain="href")
        yield from _single(attributes, "href", "preload")


def _of_anchor(attributes: Attributes) -> tuple[Reference, ...]:
    """Return the target of a link if its file extension is that of an image."""
    href = attributes.get("href", "")
    if extension(href) not in IMAGE_EXTENSIONS:
        return ()
    return (Reference(href, "a", rank=-1 if _is_about_file(href) else 3),)


def of_style(attributes: Attributes) -> Iterator[Reference]:
    """Yield the images of a ``style`` attribute. They are separate from the image that the element shows."""
    for image in declaration_images(attributes.get("style", "")):
        yield Reference(image.url, "css", density=image.density, part=-2 - image.group)


def of_background(name: str, attributes: Attributes) -> Iterator[Reference]:
    """Yield the obsolete ``background`` attribute (https://html.spec.whatwg.org/multipage/rendering.html#the-page)."""
    if name in _PAINTED and not attributes["background"].lstrip().startswith("#"):
        yield from _single(attributes, "background", "background", part=-1)


def of_property(name: str, attributes: Attributes, *, about_image: bool) -> Iterator[Reference]:
    """Yield the values of a microdata property that are images. ``about_image``: its item is an ImageObject."""
    properties = words_of(attributes, "itemprop")
    picture = not properties.isdisjoint(_PICTURE_PROPERTIES)
    content = "contenturl" in properties or (about_image and "url" in properties)
    for attribute in ("content", "href", "data", "src") if picture or content else ():
        if attribute == "src" and name in PICTURES:
            continue  # already found as an image
        value = attributes.get(attribute, "")
        if _looks_like_image(value, expected=name not in ("a", "area") and (picture or about_image)):
            yield Reference(value, "itemprop")


def of_lazy_attributes(name: str, attributes: Attributes, lazy: Collection[str]) -> Iterator[Reference]:
    """Yield images from attributes that only a script reads, if the value looks like an image URL, srcset or style.

    ``lazy`` are the names of lazy-loading attributes.
    """
    picture = name in PICTURES
    part = 0
    for attribute, value in attributes.items():
        if attribute in lazy:
            expected = picture or _PICTURE_NAME.search(attribute) is not None
        elif attribute.startswith("data-"):
            expected = False
        else:
            continue
        if ("." not in value and "/" not in value) or len(value) > _MAX_LAZY_VALUE:
            continue
        rank = 2 if _LARGER.search(attribute) else 1
        part += not picture  # attributes of an image are its candidates; those of another element are separate images
        for layer, candidate in _lazy_candidates(attribute, value):
            if _looks_like_image(candidate.url, expected=expected):
                own_part = part + layer * (len(attributes) + 1)
                yield Reference(candidate.url, attribute, candidate.width, candidate.density, rank, own_part)


#: Element → its rule. `of_lazy_attributes` is applied to every element as well.
SOURCES: Mapping[str, _Rule] = {
    "img": _of_img,
    "image": _of_img,
    "amp-img": _of_img,
    "amp-anim": _of_img,
    "source": _of_source,
    "input": _of_input,
    "video": _of_video,
    "amp-video": _of_video,
    "object": _of_object,
    "embed": _of_object,
    "meta": _of_meta,
    "link": _of_link,
    "a": _of_anchor,
    "area": _of_anchor,
}
#: The same for elements that have another meaning in an SVG drawing.
SVG_SOURCES: Mapping[str, _Rule] = {"image": _of_svg_image, "feimage": _of_svg_image, "use": _of_svg_image}


def words_of(attributes: Attributes, name: str) -> frozenset[str]:
    """Return an attribute as a set of lower-case words."""
    return frozenset(attributes[name].lower().split()) if name in attributes else frozenset()


def _is_about_file(url: str) -> bool:
    path = url.partition("#")[0].partition("?")[0]
    return _NAMESPACE.match(path, path.rfind("/") + 1) is not None


def _single(attributes: Attributes, name: str, source: str, part: int = 0) -> tuple[Reference, ...]:
    value = attributes.get(name, "")
    return (Reference(value, source, part=part),) if value and not value.isspace() else ()


def _candidates(attributes: Attributes, name: str, source: str, plain: str = "") -> Iterator[Reference]:
    """Yield the candidates of a srcset. With too many it is not a real one, and the ``plain`` attribute is used."""
    srcset = attributes.get(name)
    candidates = parse_srcset(srcset) if srcset else ()
    if len(candidates) == MAX_CANDIDATES and attributes.get(plain, "").strip():
        return
    for candidate in candidates:
        yield Reference(candidate.url, source, candidate.width, candidate.density)


def _lazy_candidates(attribute: str, value: str) -> Iterator[tuple[int, Candidate]]:
    """Yield the candidates of a lazy attribute: those of a srcset, the images of a style, or the value itself.

    Each comes with the number of its image, as a style may have several images in layers.
    """
    is_srcset = attribute.endswith("srcset") or _SRCSET.search(value) is not None
    if _STYLE.search(value):
        is_set = (is_srcset or attribute.endswith("-set")) and "image-set(" not in value
        style = f"image-set({value})" if is_set else value
        for image in declaration_images(f"background:{style}"):
            yield image.group, Candidate(image.url, density=image.density)
    elif is_srcset:
        yield from ((0, candidate) for candidate in parse_srcset(value))
    else:
        yield 0, Candidate(value)


def _looks_like_image(value: str, *, expected: bool) -> bool:
    """Return whether ``value`` names an image file, or any file if only an image is ``expected``."""
    value = value.strip()
    return _PICTURE_PATH.fullmatch(value) is not None or (expected and _ADDRESS.fullmatch(value) is not None)
