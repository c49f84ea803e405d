"""What a request is known by, and the place in whose queue it stands; pure."""

from functools import lru_cache
from hashlib import blake2b

from crawler.model import Request
from crawler.urls import MAX_URL_LENGTH, is_spelled, origin


def name_of(request: Request) -> str:
    """What a request is known by."""
    return f"{request.kind} {request.url}"


def key_of(name: str, secret: bytes) -> int:
    """The 64-bit number under which a name is found; who does not know the secret can't aim at one.

    The secret goes before the name: as BLAKE2 can't be extended, that keys it as surely as its own way, and faster.
    """
    return int.from_bytes(blake2b(secret + name.encode(), digest_size=8).digest(), "big", signed=True)


def sound_place(request: Request) -> str | None:
    """The place (`place_of`) of a request whose URLs can be visited, and remembered: else None.

    The wire and this file take nothing else back.
    """
    if not 0 < len(request.url) <= MAX_URL_LENGTH or not is_spelled(request.url):
        return None
    try:
        return place_of(request)
    except ValueError:
        return None


def place_of(request: Request) -> str:
    """Name of the origin in whose queue a request stands; lists, which nobody is asked for, have none.

    Raises:
        ValueError: it is no http(s) URL.
    """
    if request.kind == "list":
        return ""
    url = request.location
    end = url.find("/", 8)  # past the two of the scheme, and one letter at least
    return _origin(url[:end] if end > 0 else url)


@lru_cache(maxsize=32_768)  # a wide crawl goes round its hosts, and parsing is dear
def _origin(beginning: str) -> str:
    name = origin(beginning)
    if not name.startswith(("http://", "https://")):
        raise ValueError(f"not an http(s) URL: {beginning[:200]!r}")
    return name
