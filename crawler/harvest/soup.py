"""A page as a BeautifulSoup tree, for code that searches in it. The crawler itself builds no trees."""

from bs4 import BeautifulSoup

from crawler.harvest.charset import decode


def soup(html: bytes | str, content_type: str | None = None) -> BeautifulSoup:
    """Return the tree of a page, decoded as `extract` decodes it.

    Args:
        html: the body, as bytes or already decoded. Its size has no limit here.
        content_type: the HTTP header, for its charset.
    """
    return BeautifulSoup(decode(html, content_type)[0], "lxml")
