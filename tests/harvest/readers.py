"""`extract` by every parser there is: a page is the same page to all of them."""

from importlib.util import find_spec

from crawler.harvest.page import Page
from crawler.harvest.parse import Parser, extract

#: Those that are installed; the second is an extra.
PARSERS: list[Parser] = ["lxml", "lexbor"] if find_spec("selectolax") else ["lxml"]


def read(html: bytes | str, url: str = "http://a.example/", content_type: str | None = None) -> Page:
    """The page that ``html`` is, to whichever parser."""
    page, *others = (extract(html, url, content_type, parser=parser) for parser in PARSERS)
    assert all(other == page for other in others)
    return page
