"""`extract` by every parser there is: a page is the same page to all of them."""

from importlib.util import find_spec

from crawler.harvest.page import Page
from crawler.harvest.parse import extract

#: Whether the parser that is an extra is installed.
HAS_LEXBOR = find_spec("selectolax") is not None


def read(html: bytes | str, url: str = "http://a.example/", content_type: str | None = None) -> Page:
    """The page that ``html`` is, to whichever parser."""
    page = extract(html, url, content_type)
    if HAS_LEXBOR:
        assert extract(html, url, content_type, parser="lexbor") == page
    return page
