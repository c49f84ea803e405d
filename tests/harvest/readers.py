"""`extract` with every installed parser: all of them must give the same page."""

from importlib.util import find_spec

from crawler.harvest.html.extract import Parser, extract
from crawler.harvest.page import Page

#: The installed parsers; the second is an extra.
PARSERS: list[Parser] = ["lxml", "lexbor"] if find_spec("selectolax") else ["lxml"]


def read(html: bytes | str, url: str = "http://a.example/", content_type: str | None = None) -> Page:
    """Return the page of ``html``, after checking that all parsers agree."""
    page, *others = (extract(html, url, content_type, parser=parser) for parser in PARSERS)
    assert all(other == page for other in others)
    return page
