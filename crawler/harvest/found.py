"""An image as a walk over a page finds it, and where it stands, as plain data."""

from typing import NamedTuple

from crawler.harvest.sources import Reference
from crawler.model import ReferrerPolicy


class Place(NamedTuple):
    """What is around an element: its innermost picture, figure and item by number (0: none), and more."""

    picture: int = 0
    figure: int = 0
    item: int = 0
    #: Whether that item is an ImageObject.
    about_image: bool = False
    #: Span of the words of the link around it.
    link: int | None = None
    #: Whether it is within a drawing, and within a template, which a browser does not show by itself.
    drawn: bool = False
    inert: bool = False
    #: Whether it is within ``<noscript>``, which is text to a browser that runs scripts.
    spare: bool = False


class Found(NamedTuple):
    """An image's reference, and the words and numbers that stand around it."""

    reference: Reference
    group: int
    place: Place
    heading: int | None
    alt: str = ""
    title: str = ""
    caption: str = ""
    license: str = ""
    size: tuple[int | None, int | None] = (None, None)
    referrer_policy: ReferrerPolicy = ""
