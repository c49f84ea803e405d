"""The name of a request, and the origin whose queue holds it. Pure functions."""

from functools import lru_cache

from crawler.model import Request
from crawler.urls import MAX_URL_LENGTH, is_spelled, origin

_SCHEMES = ("http://", "https://")


def name_of(request: Request) -> str:
    """Return the name of a request: its kind and URL."""
    return f"{request.kind} {request.url}"


def valid_origin(request: Request) -> str | None:
    """Return the origin (`origin_of`) of a request, or None if one of its URLs can't be fetched or stored.

    The wire protocol and the ledger accept no other requests.
    """
    if not _is_sound(request.url) or (request.target and not _is_sound(request.target)):
        return None
    try:
        if request.target and request.kind != "list":  # the next attempt starts with the URL, not the target
            _origin_of(request.url)
        return origin_of(request)
    except ValueError:
        return None


def origin_of(request: Request) -> str:
    """Return the name of the origin whose queue holds a request; empty for a list, which needs no server.

    Raises:
        ValueError: the request's URL is not an http(s) URL.
    """
    return "" if request.kind == "list" else _origin_of(request.location)


def _origin_of(url: str) -> str:
    end = url.find("/", 8)  # after the two slashes of the scheme, and at least one letter
    return _origin(url[:end] if end > 0 else url)


def _is_sound(url: str) -> bool:
    return 0 < len(url) <= MAX_URL_LENGTH and is_spelled(url)


@lru_cache(maxsize=32_768)  # a broad crawl cycles through its hosts, and parsing is slow
def _origin(beginning: str) -> str:
    name = origin(beginning)
    if not (name.startswith(_SCHEMES) and beginning.startswith(_SCHEMES)):  # a record must not have ``HTTP://``
        raise ValueError(f"not an http(s) URL: {beginning[:200]!r}")
    return name
