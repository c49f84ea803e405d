from typing import Any

import pytest

from crawler.download.formats.base import ImageHeader
from crawler.download.image_filter import ImageFilter, as_header
from crawler.download.verify import inspect_image
from crawler.errors import RequestFailed
from tests.download.pictures import MAKERS


def reason_for(header: ImageHeader, **filters: Any) -> str:
    with pytest.raises(RequestFailed) as caught:
        ImageFilter(**{"max_pixels": 10**6, **filters}).check(header)
    return caught.value.reason


def passes(header: ImageHeader, **filters: Any) -> bool:
    return ImageFilter(**{"max_pixels": 10**6, **filters}).check(header)


WIDE = ImageHeader(format="jpeg", width=400, height=100)


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ({"types": frozenset({"png"})}, "filtered"),
        ({"min_size": 101}, "too-small"),
        ({"max_aspect": 3.9}, "filtered"),
        ({"animated": "only"}, "filtered"),
        ({"max_pixels": 39_999}, "pixels-limit"),
    ],
)
def test_a_filtered_picture_has_a_reason(filters: dict[str, Any], reason: str) -> None:
    assert reason_for(WIDE, **filters) == reason


@pytest.mark.parametrize(
    "filters", [{"types": frozenset({"jpg"})}, {"min_size": 100}, {"max_aspect": 4.0}, {"animated": "skip"}]
)
def test_a_wanted_picture_passes(filters: dict[str, Any]) -> None:
    assert passes(WIDE, **filters)


def test_a_tall_picture_has_the_length_of_a_wide_one() -> None:
    assert reason_for(ImageHeader(format="jpeg", width=100, height=400), max_aspect=3.9) == "filtered"


def test_an_unknown_property_gives_no_verdict_yet() -> None:
    assert not passes(ImageHeader(format="jpeg", animated=None), min_size=5)
    moving = ImageHeader(format="gif", width=9, height=9, animated=None)
    assert passes(moving)
    assert not passes(moving, animated="skip")


def test_the_type_alone_may_be_enough() -> None:
    assert reason_for(ImageHeader(format="tiff", animated=None), types=frozenset({"png"})) == "filtered"


def test_animations_are_excluded_or_are_all_that_passes() -> None:
    moving = ImageHeader(format="gif", width=9, height=9, animated=True)
    assert reason_for(moving, animated="skip") == "filtered"
    assert passes(moving, animated="only")


@pytest.mark.parametrize("name", ["gif-animated", "png-animated", "webp-animated", "avif-animated", "tiff-pages"])
def test_pages_are_not_an_animation(name: str) -> None:
    assert as_header(inspect_image(MAKERS[name]())).animated is (name != "tiff-pages")
